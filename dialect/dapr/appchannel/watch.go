package appchannel

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"
)

// How often it is tried whether the application listens.
const (
	firstTry = 10 * time.Millisecond
	lastTry  = 500 * time.Millisecond
	// tryTimeout bounds one attempt to connect.
	tryTimeout = 2 * time.Second
)

// AwaitApp waits until the application's port accepts a connection, or ctx
// ends; then it returns the cause. It logs that it waits, once.
func (c *Channel) AwaitApp(ctx context.Context) error {
	for delay, said := firstTry, false; ; delay = min(2*delay, lastTry) {
		err := c.try(ctx)
		if err == nil {
			if said {
				c.opt.Log.InfoContext(ctx, "the application listens", "address", c.opt.Address)
			}
			c.noteListeners()
			return nil
		}
		if !said && ctx.Err() == nil {
			said = true
			c.opt.Log.InfoContext(ctx, "waiting for the application to listen", "address", c.opt.Address)
		}
		if !sleep(ctx, delay) {
			return context.Cause(ctx)
		}
	}
}

// try connects to the application and hangs up.
func (c *Channel) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	conn, err := c.opt.Dial(ctx)
	if err != nil {
		return err
	}
	_ = conn.Close() // nothing was sent
	return nil
}

// noteListeners keeps who listens, now that the application is up.
func (c *Channel) noteListeners() {
	var found []uint64
	if c.findListeners != nil {
		found, _ = c.findListeners() // none if it cannot be known
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners = found
}

// How often Watch looks.
const (
	lookEvery    = 500 * time.Millisecond // at the list of sockets
	connectEvery = 2 * time.Second        // by connecting
	// connectTLSEvery is for applications that speak TLS: many log each
	// connection that ends before the handshake.
	connectTLSEvery = time.Minute
)

// Watch calls gone when the application stops listening, and back when it
// listens again, until ctx ends; then it returns nil. Call AwaitApp before: it
// begins with what that found, so that no restart since then is missed. gone
// and back take turns, and nothing is watched while they run.
//
// Where the application listens on a loopback address of this network
// namespace and the system tells who listens (Linux), Watch looks at the list
// of sockets twice a second. It does not touch the application, and does not
// miss a restart however quick it is, since the new process listens on a new
// socket. Elsewhere it connects and hangs up at once, every two seconds, or
// every minute when the application speaks TLS, and whenever a callback found
// nobody there; a restart between two looks goes unnoticed.
//
// It never keeps a connection open that carries no request: an application
// that serves one connection at a time could serve nobody else.
func (c *Channel) Watch(ctx context.Context, gone, back func()) error {
	for {
		if !c.awaitEnd(ctx) {
			return nil
		}
		c.opt.Log.InfoContext(ctx, "the application is gone", "address", c.opt.Address)
		gone()
		if c.AwaitApp(ctx) != nil {
			return nil
		}
		back()
	}
}

// awaitEnd waits until the application that was last seen is gone. It reports
// false when ctx ends before.
func (c *Channel) awaitEnd(ctx context.Context) bool {
	c.mu.Lock()
	known := c.listeners
	c.mu.Unlock()
	every := lookEvery
	if len(known) == 0 {
		every = connectEvery
		if c.link.scheme == "https" {
			every = connectTLSEvery
		}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		trouble := false
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		case <-c.link.trouble:
			trouble = true
		}
		over := false
		if len(known) > 0 {
			known, over = c.replaced(known)
		}
		if !over && (trouble || len(known) == 0) {
			over = c.refuses(ctx)
		}
		if over {
			return ctx.Err() == nil
		}
		if trouble && !sleep(ctx, lastTry) { // not as often as calls fail
			return false
		}
	}
}

// replaced reports whether none of the sockets that were known listens any
// more, and returns those that do.
func (c *Channel) replaced(known []uint64) (now []uint64, over bool) {
	now, err := c.findListeners()
	if err != nil {
		return known, false
	}
	return now, !slices.ContainsFunc(now, func(inode uint64) bool { return slices.Contains(known, inode) })
}

// refuses reports whether nobody listens: the connection is refused, or fails
// otherwise several times in a row.
func (c *Channel) refuses(ctx context.Context) bool {
	const tries = 3
	for range tries {
		err := c.try(ctx)
		switch {
		case err == nil, ctx.Err() != nil:
			return false
		case errors.Is(err, syscall.ECONNREFUSED):
			return true
		}
		if !sleep(ctx, lastTry) {
			return false
		}
	}
	return true
}
