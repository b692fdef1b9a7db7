package pluggable

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	componentsv1 "github.com/proa-io/proa/api/gen/dapr/proto/components/v1"
	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

func bindingSpec(p place) component.Spec {
	s := component.NewSpec(binding.Block, describe(p, "Acts on something outside, or brings events from there,"), Config{}, binding.Config{}, nil,
		func(ctx context.Context, cfg Config, env component.Env) (binding.Driver, error) {
			return openBinding(ctx, linkAt(p, env), cfg)
		})
	// Which of the two it is turns out when it is open.
	s.Capabilities = []string{binding.CapabilityInput, binding.CapabilityOutput}
	return s
}

// The three things a process may be.
type (
	output struct {
		*link
		client     componentsv1.OutputBindingClient
		operations []string // as of the first connection
	}
	input struct {
		*link
		parallel int
	}
	duplex struct {
		*output
		in *input
	}
)

// maxParallel is how many events of an input binding are handled at a time. A
// component that wants an order waits for the answer to an event before it sends
// the next one.
const maxParallel = 100

func openBinding(ctx context.Context, l *link, cfg Config) (binding.Driver, error) {
	out := &output{link: l, client: componentsv1.NewOutputBindingClient(l)}
	in := &input{l, maxParallel}
	var services []string
	l.setup = func(ctx context.Context, cc grpc.ClientConnInterface) error {
		now, err := serves(ctx, cc, binding.Block, serviceInput, serviceOutput)
		if err != nil {
			return err
		}
		if services == nil {
			services = now
		}
		if slices.Contains(services, serviceInput) {
			r := &componentsv1.InputBindingInitRequest{Metadata: properties(cfg)}
			if _, err := componentsv1.NewInputBindingClient(cc).Init(ctx, r); err != nil {
				return initError(err)
			}
		}
		if slices.Contains(services, serviceOutput) {
			return out.setup(ctx, cc, cfg)
		}
		return nil
	}
	l.ping = componentsv1.InputBinding_Ping_FullMethodName
	if _, err := l.session(ctx); err != nil {
		_ = l.Close()
		return nil, err
	}
	switch {
	case !slices.Contains(services, serviceInput):
		return out, nil
	case !slices.Contains(services, serviceOutput):
		return in, nil
	}
	return duplex{out, in}, nil
}

func (o *output) setup(ctx context.Context, cc grpc.ClientConnInterface, cfg Config) error {
	client := componentsv1.NewOutputBindingClient(cc)
	if _, err := client.Init(ctx, &componentsv1.OutputBindingInitRequest{Metadata: properties(cfg)}); err != nil {
		return initError(err)
	}
	if o.operations != nil {
		return nil
	}
	list, err := client.ListOperations(ctx, &componentsv1.ListOperationsRequest{})
	if err != nil {
		return err
	}
	o.operations = []string{}
	for _, name := range namesIn(list.GetOperations()) {
		if name = strings.ToLower(name); name != "" && !slices.Contains(o.operations, name) {
			o.operations = append(o.operations, name)
		}
	}
	return nil
}

// Capabilities implements component.Capable.
func (o *output) Capabilities() []string { return []string{binding.CapabilityOutput} }

// Capabilities implements component.Capable.
func (i *input) Capabilities() []string { return []string{binding.CapabilityInput} }

// Capabilities implements component.Capable.
func (d duplex) Capabilities() []string {
	return []string{binding.CapabilityInput, binding.CapabilityOutput}
}

// Listen implements binding.Input.
func (d duplex) Listen(ctx context.Context, handle binding.Handler) error {
	return d.in.Listen(ctx, handle)
}

// Operations implements binding.Output.
func (o *output) Operations() []string { return slices.Clone(o.operations) }

// Invoke implements binding.Output.
func (o *output) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if !slices.Contains(o.operations, r.Operation) {
		return binding.Response{}, fault.New(fault.InvalidArgument, "the component has no operation %q; it has %s",
			r.Operation, cmpList(o.operations, "none"))
	}
	if err := texts(r.Metadata); err != nil {
		return binding.Response{}, err
	}
	answer, err := o.client.Invoke(ctx, &componentsv1.InvokeRequest{Data: r.Data, Metadata: r.Metadata, Operation: r.Operation})
	if err != nil {
		return binding.Response{}, o.quote(ctx, err)
	}
	return binding.Response{Data: answer.GetData(), Metadata: answer.GetMetadata()}, nil
}

// Listen implements binding.Input.
func (i *input) Listen(ctx context.Context, handle binding.Handler) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	on, err := i.session(ctx)
	if err != nil {
		return err
	}
	client := componentsv1.NewInputBindingClient(on.conn)
	p := pull[componentsv1.ReadRequest, componentsv1.ReadResponse]{
		link: i.link, on: on, atOnce: i.parallel,
		open: func(ctx context.Context) (grpc.BidiStreamingClient[componentsv1.ReadRequest, componentsv1.ReadResponse], error) {
			return client.Read(ctx)
		},
		handle: func(ctx context.Context, m *componentsv1.ReadResponse) (*componentsv1.ReadRequest, time.Duration) {
			answer := &componentsv1.ReadRequest{MessageId: m.GetMessageId()}
			err := handle(ctx, binding.Event{Data: m.GetData(), Metadata: m.GetMetadata()})
			if err != nil {
				answer.ResponseError = &componentsv1.AckResponseError{Message: strings.ToValidUTF8(fault.Message(err), "?")}
			}
			return answer, 0
		},
	}
	if err := p.run(ctx); err != nil {
		return err
	}
	return context.Cause(ctx)
}
