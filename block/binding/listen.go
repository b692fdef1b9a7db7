package binding

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// App delivers events to the application.
type App interface {
	// OnBindingEvent hands e, which came from the named binding, to the
	// application at route, and returns its answer; nil when the answer asks
	// for nothing.
	OnBindingEvent(ctx context.Context, binding, route string, e Event) (*AppResponse, error)
}

// Outlet carries out what an application's answer to an event asks for.
type Outlet interface {
	// SaveState stores items in the named state store.
	SaveState(ctx context.Context, store string, items []StateItem) error
	// InvokeBinding carries out an operation of the named binding.
	InvokeBinding(ctx context.Context, name string, r Request) error
}

// How long to wait before a source of events that broke is tried again.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = 30 * time.Second
)

// Listen delivers the binding's events to app, and carries out through outlet
// what it answers, until ctx ends; then it lets the events under way finish,
// for the grace period at most, and returns nil. When the source breaks it is
// tried again with growing delays. It fails at once only when the binding is
// no input.
//
// An event is acknowledged when app has taken it and outlet has done all that
// the answer asks for.
func (b *Binding) Listen(ctx context.Context, app App, outlet Outlet) error {
	if !b.input {
		return b.notInput()
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(b.grace):
			cancel()
		case <-work.Done():
		}
	})()
	handle := func(_ context.Context, e Event) error { return b.handleEvent(work, app, outlet, e) }
	delay, said := firstDelay, ""
	for {
		began := time.Now()
		err := b.listenOnce(ctx, handle)
		if ctx.Err() != nil {
			return nil
		}
		if fault.ReasonOf(err) == ReasonNotInput {
			return err
		}
		if time.Since(began) > lastDelay {
			delay, said = firstDelay, ""
		}
		if text := err.Error(); text != said {
			b.log.WarnContext(ctx, "input binding broke and will be resumed", "error", err)
			said = text
		}
		select {
		case <-time.After(delay/2 + rand.N(delay)): //nolint:gosec // jitter needs no secrecy
		case <-ctx.Done():
			return nil
		}
		delay = min(2*delay, lastDelay)
	}
}

func (b *Binding) listenOnce(ctx context.Context, handle Handler) error {
	d, err := b.handle.Get(ctx)
	if err != nil {
		return err
	}
	in, ok := d.(Input)
	if !ok {
		return b.notInput()
	}
	if err := in.Listen(ctx, handle); err != nil {
		return err
	}
	return fault.New(fault.Internal, "input binding %q stopped without an error", b.Name())
}

func (b *Binding) notInput() error {
	return fault.New(fault.Unimplemented, "binding %q (%s) is not an input binding", b.Name(), b.handle.Type()).
		WithReason(ReasonNotInput)
}

func (b *Binding) handleEvent(ctx context.Context, app App, outlet Outlet, e Event) error {
	call := policy.Call{Key: b.route, Bytes: len(e.Data), Idempotent: true}
	var answer *AppResponse
	err := b.deliver.Run(ctx, &call, func(ctx context.Context) (err error) {
		answer, err = app.OnBindingEvent(ctx, b.Name(), b.route, e)
		return err
	})
	if err != nil || answer == nil {
		return err // for the driver; the policies have seen it
	}
	if err := answer.carryOut(ctx, outlet); err != nil {
		b.log.WarnContext(ctx, "what the application answered to an event could not be done", "error", err)
		return err
	}
	return nil
}
