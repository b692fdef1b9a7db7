// Package policy is the chain that every call crosses on its way from a
// dialect through a block to a driver, and from a driver back to the
// application. A policy sees what is being called and how it ended, never the
// payload, so that one policy serves every building block.
//
// A block binds each of its operations once, when it is built; a policy does
// at that time all the work that does not depend on the single call, such as
// looking up its counters. What is left per call is a few function calls.
package policy

import (
	"context"
	"slices"
	"time"

	"github.com/proa-io/proa/telemetry"
)

// Op names one operation of one component or target. It is the same for all
// calls that cross one bound chain.
type Op struct {
	Block     string // "state", "pubsub", "invoke"
	Component string // the component's name, or the target application's id
	Name      string // "get", "publish", "deliver"
	Inbound   bool   // true for calls from the infrastructure to the application
}

// Call is one call of an Op. The block fills it in; policies may read all of
// it and write Attempt and Again only.
type Call struct {
	Op Op
	// Caller identifies who calls; empty for the local application.
	Caller string
	// Key is what the call is about (state key, topic, method); empty if
	// there is no such thing.
	Key string
	// Bytes is the size of the payload, or 0 when it is not known.
	Bytes int
	// Idempotent tells that repeating the call does no harm, so that it may
	// be retried when it is not known whether it was carried out.
	Idempotent bool
	// Deadline is when the caller gives up; zero when that is not known. Beside
	// it the deadline of the context counts.
	Deadline time.Time
	// Attempt counts from 1.
	Attempt int
	// Committed is set by the innermost function once the call can no longer
	// be repeated, for instance because a part of the answer has been sent.
	Committed bool
	// Unsent is set by the innermost function when the attempt that failed
	// did nothing at all, so that it may be repeated whatever it was.
	Unsent bool
	// Again is set by a retry policy that may repeat the call; nil when there
	// is none.
	Again *Again
	// Outcome is set by the innermost function to tell apart calls that end
	// without an error, for metrics.
	Outcome Outcome
	// Tally is set by the innermost function of a call that has parts, for
	// metrics.
	Tally *Tally

	do func(context.Context) error
}

// Again tells the innermost function of a call what a retry policy wants of it.
type Again struct {
	// Whatever is true when the call is repeated although it may have been
	// carried out, so that what another attempt needs is worth keeping.
	Whatever bool
	// HTTP and GRPC, unless nil, report whether an answer with that status is
	// one to repeat the call for.
	HTTP, GRPC func(status int) bool
}

// Outcome tells apart calls that ended without an error.
type Outcome = telemetry.CallOutcome

// The outcomes.
const (
	Done     = telemetry.Done
	Rejected = telemetry.Rejected // an event that the application wants dropped
	Unwanted = telemetry.Unwanted // an event that the application has no handler for
)

// Tally says what became of the parts of a call that has several.
type Tally = telemetry.CallTally

// Handler carries out a call.
type Handler func(ctx context.Context, c *Call) error

// A Policy wraps a Handler for one operation. It is called when the operation
// is bound, not per call.
type Policy func(op Op, next Handler) Handler

// Chain is an ordered list of policies; the first is outermost.
type Chain []Policy

// Bind composes the chain for one operation.
func (c Chain) Bind(op Op) *Operation {
	h := Handler(func(ctx context.Context, call *Call) error { return call.do(ctx) })
	for _, p := range slices.Backward(c) {
		h = p(op, h)
	}
	return &Operation{op: op, handler: h}
}

// Operation is an Op bound to its chain. It is safe for concurrent use.
type Operation struct {
	op      Op
	handler Handler
}

// Op returns what the operation is called.
func (o *Operation) Op() Op { return o.op }

// Run carries out do through the chain. It fills in c.Op and sets c.Attempt
// to 1. do may be called more than once, one call after the other, and never
// after Run has returned.
func (o *Operation) Run(ctx context.Context, c *Call, do func(context.Context) error) error {
	c.Op, c.Attempt, c.do = o.op, 1, do
	return o.handler(ctx, c)
}

// Do carries out fn through the chain of o and returns its result. The result
// is the zero value when the error is not nil.
func Do[T any](ctx context.Context, o *Operation, c Call, fn func(context.Context) (T, error)) (T, error) {
	var out T
	err := o.Run(ctx, &c, func(ctx context.Context) (err error) {
		out, err = fn(ctx)
		return err
	})
	if err != nil {
		var zero T
		return zero, err
	}
	return out, nil
}

// Chains gives blocks the chain for each component or target. The composition
// root builds it from the Resiliency resources.
type Chains interface {
	// Component returns the chain around calls to the named component.
	// inbound selects the chain around deliveries from it to the
	// application.
	Component(block, name string, inbound bool) Chain
	// App returns the chain around invocations of the named application or
	// HTTP endpoint.
	App(id string) Chain
}

// None is a Chains without any policy, for tests.
type None struct{}

// Component returns an empty chain.
func (None) Component(string, string, bool) Chain { return nil }

// App returns an empty chain.
func (None) App(string) Chain { return nil }
