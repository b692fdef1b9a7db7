package policy

import (
	"context"
	"sync"
	"time"
)

// deadline is context.WithDeadline without a timer until somebody waits for
// Done: most calls are over long before, and what they cross looks at Deadline
// and Err only.
type deadline struct {
	context.Context //nolint:containedctx // the parent, as in package context

	at time.Time

	mu     sync.Mutex
	inner  context.Context //nolint:containedctx // once somebody waits
	cancel context.CancelFunc
	ended  bool
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
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.cancel = context.WithDeadline(c.Context, c.at)
		if c.ended {
			c.cancel()
		}
	}
	return c.inner.Done()
}

// Err implements context.Context.
func (c *deadline) Err() error {
	c.mu.Lock()
	inner, ended := c.inner, c.ended
	c.mu.Unlock()
	switch {
	case inner != nil:
		return inner.Err()
	case c.Context.Err() != nil:
		return c.Context.Err()
	case !time.Now().Before(c.at):
		return context.DeadlineExceeded
	case ended:
		return context.Canceled
	}
	return nil
}

// Value implements context.Context.
func (c *deadline) Value(key any) any {
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return c.Context.Value(key)
}

// end cancels the context.
func (c *deadline) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}
