package policy

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/internal/coroutine"
)

// deadline is context.WithDeadline without a timer until somebody waits for
// Done: most calls are over long before, and what they cross looks at Deadline
// and Err only.
type deadline struct {
	context.Context //nolint:containedctx // the parent, as in package context

	at time.Time

	used  *sync.Pool // where it is put when nobody uses it any more
	ended atomic.Bool
	inner atomic.Pointer[waited] // nil until somebody waits
	mu    sync.Mutex             // whoever makes inner
}

// waited is a context that can be waited for.
type waited struct {
	context.Context //nolint:containedctx // that of the call, with a timer
	cancel          context.CancelFunc
}

// withTimeout is context.WithTimeout. The caller must call end when the call is
// over. The pool is of those that were used before.
func withTimeout(parent context.Context, d time.Duration, used *sync.Pool) *deadline {
	co := coroutine.From(parent)
	c, _ := used.Get().(*deadline)
	if c == nil {
		c = &deadline{used: used}
	}
	c.Context, c.at = parent, time.Now().Add(d)
	c.ended.Store(false)
	co.Used(c)
	if by, ok := parent.Deadline(); ok && by.Before(c.at) {
		c.at = by
	}
	return c
}

// Reuse implements coroutine.Reusable. Who waits for a context may keep it.
func (c *deadline) Reuse() {
	if c.inner.Load() == nil {
		c.used.Put(c)
	}
}

// Deadline implements context.Context.
func (c *deadline) Deadline() (time.Time, bool) { return c.at, true }

// Done implements context.Context.
func (c *deadline) Done() <-chan struct{} {
	if w := c.inner.Load(); w != nil {
		return w.Done()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.inner.Load()
	if w == nil {
		w = &waited{}
		w.Context, w.cancel = context.WithDeadline(c.Context, c.at)
		c.inner.Store(w)
		if c.ended.Load() {
			w.cancel()
		}
	}
	return w.Done()
}

// Err implements context.Context.
func (c *deadline) Err() error {
	if w := c.inner.Load(); w != nil {
		return w.Err()
	}
	ended := c.ended.Load()
	if err := c.Context.Err(); err != nil {
		return err
	}
	switch {
	case time.Until(c.at) <= 0:
		return context.DeadlineExceeded
	case ended:
		return context.Canceled
	}
	return nil
}

// Value implements context.Context.
func (c *deadline) Value(key any) any {
	if w := c.inner.Load(); w != nil {
		return w.Value(key)
	}
	return c.Context.Value(key)
}

// end cancels the context.
func (c *deadline) end() {
	c.ended.Store(true)
	if w := c.inner.Load(); w != nil {
		w.cancel()
	}
}
