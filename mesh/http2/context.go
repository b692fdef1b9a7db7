package http2

import (
	"context"
	"time"

	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// exchangeContext is what Exchange.Context returns. Most handlers only pass it
// on, so that what makes up a context that can be waited for is made when
// somebody wants to.
type exchangeContext struct {
	x *exchange

	// Guarded by the mutex of the connection.
	inner  context.Context //nolint:containedctx // what Done and the cause are of
	cancel context.CancelCauseFunc
}

// Context implements proxy.Exchange.
func (x *exchange) Context() context.Context { return &x.ctx }

// Deadline implements context.Context: there is none.
func (*exchangeContext) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// Done implements context.Context.
func (e *exchangeContext) Done() <-chan struct{} { return e.full().Done() }

// full returns the context that can be waited for.
func (e *exchangeContext) full() context.Context {
	x := e.x
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	if e.inner == nil {
		e.inner, e.cancel = context.WithCancelCause(context.Background())
		switch {
		case x.st == nil:
			e.cancel(errOver)
		case x.st.err != nil:
			e.cancel(x.st.err)
		}
	}
	return e.inner
}

// Err implements context.Context.
func (e *exchangeContext) Err() error {
	e.x.c.mu.Lock()
	defer e.x.c.mu.Unlock()
	if e.x.st == nil || e.x.st.err != nil {
		return context.Canceled
	}
	return nil
}

// Value implements context.Context.
func (e *exchangeContext) Value(key any) any {
	if coroutine.IsKey(key) {
		if co := e.x.co.Load(); co != nil {
			return co
		}
		return nil
	}
	e.x.c.mu.Lock()
	inner, gone := e.inner, e.x.st == nil
	over := gone || e.x.st.err != nil
	e.x.c.mu.Unlock()
	if key == proxy.ExchangeKey() && !gone {
		return e.x
	}
	if over {
		inner = e.full() // somebody may ask for the cause
	}
	if inner == nil {
		return nil
	}
	return inner.Value(key)
}
