package policy

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// deadline is context.WithDeadline without a timer until somebody waits for
// Done: most calls are over long before, and what they cross looks at Deadline
// and Err only.
type deadline struct {
	context.Context //nolint:containedctx // the parent, as in package context

	at time.Time

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
// over.
func withTimeout(parent context.Context, d time.Duration) *deadline {
	c := &deadline{Context: parent, at: time.Now().Add(d)}
	if by, ok := parent.Deadline(); ok && by.Before(c.at) {
		c.at = by
	}
	return c
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
