// Package binding is the building block that connects an application with
// whatever has no building block of its own: output bindings act on something
// outside, input bindings bring events in.
//
// Dialects call Binding; drivers implement Output, Input or both.
package binding

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Reasons of the errors that Binding returns.
const (
	// ReasonNoOperation marks a request that names no operation.
	ReasonNoOperation fault.Reason = "binding.no_operation"
	// ReasonBadOperation marks an operation that the driver does not have.
	ReasonBadOperation fault.Reason = "binding.bad_operation"
	// ReasonNotOutput marks a binding that cannot be invoked.
	ReasonNotOutput fault.Reason = "binding.not_output"
	// ReasonNotInput marks a binding that brings no events.
	ReasonNotInput fault.Reason = "binding.not_input"
)

// Config holds the settings of a binding component that this block reads.
type Config struct {
	// Direction limits what the binding is used for: "input", "output" or
	// "input, output". Empty means all that the driver can do, and events
	// only if the application says that it takes them.
	Direction string `setting:"direction"`
	// Route is the path at which the application takes events; the
	// component's name when empty.
	Route string `setting:"route"`
}

// Validate reports a direction that is none.
func (c Config) Validate() error {
	for d := range c.directions() {
		if d != "input" && d != "output" {
			return component.Invalid("direction", `wants "input", "output" or "input, output", not %q`, c.Direction)
		}
	}
	return nil
}

func (c Config) directions() map[string]bool {
	if c.Direction == "" {
		return nil
	}
	out := map[string]bool{}
	for d := range strings.SplitSeq(c.Direction, ",") {
		out[strings.ToLower(strings.TrimSpace(d))] = true
	}
	return out
}

// Options configure a Binding.
type Options struct {
	// Chains gives the policies around the calls.
	Chains policy.Chains
	// Config is what the block reads from the component's settings.
	Config Config
	// Capabilities are those of the driver's component.Spec. They tell what
	// the binding can do before the driver is open.
	Capabilities []string
	// Grace is how long events under way may go on after Listen has been
	// told to stop; 5 s when zero.
	Grace time.Duration
	// Log takes what no caller is told, such as a broken connection to the
	// source of events. It should name the component. Nil discards.
	Log *slog.Logger
}

// Binding is a named binding component. It is safe for concurrent use.
type Binding struct {
	handle   *component.Handle[Driver]
	log      *slog.Logger
	route    string
	grace    time.Duration
	input    bool
	output   bool
	explicit bool
	invoke   *policy.Operation
	deliver  *policy.Operation
}

// New returns a Binding over the driver that h opens.
func New(h *component.Handle[Driver], o Options) *Binding {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Grace == 0 {
		o.Grace = 5 * time.Second
	}
	if o.Config.Route == "" {
		o.Config.Route = h.Name()
	}
	want := o.Config.directions()
	uses := func(capability, direction string) bool {
		return slices.Contains(o.Capabilities, capability) && (want == nil || want[direction])
	}
	outbound := o.Chains.Component(Block, h.Name(), false)
	inbound := o.Chains.Component(Block, h.Name(), true)
	return &Binding{
		handle: h, log: o.Log,
		route: o.Config.Route, grace: o.Grace,
		input: uses(CapabilityInput, "input"), output: uses(CapabilityOutput, "output"), explicit: want["input"],
		invoke:  outbound.Bind(policy.Op{Block: Block, Component: h.Name(), Name: "invoke"}),
		deliver: inbound.Bind(policy.Op{Block: Block, Component: h.Name(), Name: "deliver", Inbound: true}),
	}
}

// Name returns the component's name.
func (b *Binding) Name() string { return b.handle.Name() }

// Route returns the path at which the application takes events.
func (b *Binding) Route() string { return b.route }

// IsOutput reports whether the binding can be invoked.
func (b *Binding) IsOutput() bool { return b.output }

// IsInput reports whether the binding brings events.
func (b *Binding) IsInput() bool { return b.input }

// ListensAlways reports whether events are to be delivered without asking the
// application first if it takes them, because the component's direction says
// so.
func (b *Binding) ListensAlways() bool { return b.input && b.explicit }

// Operations names what Invoke can do. It waits for the driver to be open.
func (b *Binding) Operations(ctx context.Context) ([]string, error) {
	out, err := b.driver(ctx)
	if err != nil {
		return nil, err
	}
	return out.Operations(), nil
}

// Invoke carries out the operation. The Response may hold data and metadata
// even when the error is not nil.
func (b *Binding) Invoke(ctx context.Context, r Request) (Response, error) {
	if r.Operation == "" {
		return Response{}, fault.New(fault.InvalidArgument, "binding %q: the operation is missing", b.Name()).
			WithReason(ReasonNoOperation)
	}
	out, err := b.driver(ctx)
	if err != nil {
		return Response{}, err
	}
	r.Operation = strings.ToLower(r.Operation)
	if operations := out.Operations(); !slices.Contains(operations, r.Operation) {
		return Response{}, fault.New(fault.InvalidArgument, "binding %q does not support operation %q; it supports %s",
			b.Name(), r.Operation, strings.Join(operations, ", ")).WithReason(ReasonBadOperation)
	}
	call := policy.Call{Key: r.Operation, Bytes: len(r.Data)}
	if d, ok := out.(Repeatable); ok {
		call.Idempotent = d.Repeatable(r.Operation)
	}
	var resp Response
	err = b.invoke.Run(ctx, &call, func(ctx context.Context) (err error) {
		resp, err = out.Invoke(ctx, r)
		if err != nil {
			return fault.Wrap(err, fault.CodeOf(err), "%s on binding %q", r.Operation, b.Name())
		}
		return nil
	})
	return resp, err
}

func (b *Binding) driver(ctx context.Context) (Output, error) {
	notOutput := func() error {
		return fault.New(fault.Unimplemented, "binding %q (%s) is not an output binding", b.Name(), b.handle.Type()).
			WithReason(ReasonNotOutput)
	}
	if !b.output {
		return nil, notOutput()
	}
	d, err := b.handle.Get(ctx)
	if err != nil {
		return nil, err
	}
	out, ok := d.(Output)
	if !ok {
		return nil, notOutput()
	}
	return out, nil
}
