package http1

import (
	"context"
	"io"
	"os"
	"sync"
	"time"

	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/internal/sockio"
	"github.com/proa-io/proa/mesh/proxy"
)

// attendant is the goroutine that waits for the network on behalf of the
// coroutines which use a client's connection, one after the other: it goes on
// with the one that is at it when something has come. While nobody is, it sees at
// once when the server closes the connection. Once a connection has an attendant
// it has it for good.
type attendant struct {
	c     *clientConn
	sock  *sockio.Socket
	batch coroutine.Batch // of the attendant alone

	mu      sync.Mutex
	taken   bool                 // somebody is at the connection
	parked  *coroutine.Coroutine // waits for something to come
	waiting chan struct{}        // the same for who has a goroutine of its own; nil: nobody
	ready   bool                 // something has come that nobody waited for
	ended   bool                 // the connection is of no use any more
}

// attend gives the connection, which is a bare socket, an attendant.
func (c *clientConn) attend() {
	c.attendant = &attendant{c: c, sock: c.rd.sock}
	c.rd.src, c.rd.attended = (*attendedReader)(c), true
	_ = c.nc.SetReadDeadline(time.Time{})
	c.readBy = time.Time{}
	go c.attendant.run()
}

// run lasts as long as the connection.
func (a *attendant) run() {
	_ = a.sock.Watch(a.look) // why it ended shows when it is used
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.c.cl.drop(a.c)
	_ = a.c.nc.Close()
	a.notify()
	a.batch.Flush()
}

// look is called when something may have come, and reports whether to wait for
// more. It does not look into a connection that somebody uses: what there is to
// find, such as that it was reset, can be found but once.
func (a *attendant) look() bool {
	if !a.notify() && !a.ownNews() {
		return false
	}
	a.batch.Flush()
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.ended
}

// notify tells who waits, if somebody does. It reports whether somebody is at
// the connection at all.
func (a *attendant) notify() bool {
	a.mu.Lock()
	co, waiting, taken := a.parked, a.waiting, a.taken
	a.parked, a.waiting = nil, nil
	a.ready = taken && co == nil && waiting == nil
	a.mu.Unlock()
	switch {
	case co != nil:
		a.batch.Resume(co)
	case waiting != nil:
		close(waiting)
	}
	return taken
}

// ownNews looks into a connection that nobody uses. It reports false if it has
// ended, or brought what nobody has asked for.
func (a *attendant) ownNews() bool {
	if a.sock.Peek() == sockio.Quiet {
		return true
	}
	if a.c.cl.drop(a.c) {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ready = true // somebody has taken it just now, and finds out
	return true
}

// take lets somebody use the connection, unless it has ended.
func (a *attendant) take() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taken, a.ready = true, false
	return !a.ended
}

// leave ends a use of the connection.
func (a *attendant) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taken, a.ready = false, false
}

// close ends the connection. The attendant, which may be who calls, closes the
// socket, since that has to wait until nobody waits for it.
func (a *attendant) close() {
	a.mu.Lock()
	ended := a.ended
	a.ended = true
	a.mu.Unlock()
	if !ended {
		interrupt(a.c.nc)
	}
}

// await waits until there may be something to read, by the time if it is not
// zero.
func (a *attendant) await(ctx context.Context, co *coroutine.Coroutine, by time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a.mu.Lock()
	if a.ready || a.ended {
		a.ready = false
		a.mu.Unlock()
		return nil
	}
	if co.Attached() {
		a.parked = co
		a.mu.Unlock()
		suspend(co, by)
	} else {
		waiting := make(chan struct{})
		a.waiting = waiting
		a.mu.Unlock()
		waitFor(ctx, waiting, by)
	}
	a.mu.Lock()
	a.parked, a.waiting = nil, nil
	a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !by.IsZero() && !time.Now().Before(by) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// suspend suspends co until somebody goes on with it, or it is time.
func suspend(co *coroutine.Coroutine, by time.Time) {
	if by.IsZero() {
		co.Suspend()
		return
	}
	t := time.AfterFunc(time.Until(by), co.Wake)
	co.Suspend()
	t.Stop()
}

// waitFor waits until the channel is closed, ctx has ended, or it is time.
func waitFor(ctx context.Context, c <-chan struct{}, by time.Time) {
	var late <-chan time.Time
	if !by.IsZero() {
		t := time.NewTimer(time.Until(by))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-c:
	case <-ctx.Done():
	case <-late:
	}
}

// attendedReader reads from a connection that has an attendant.
type attendedReader clientConn

// Read implements io.Reader.
func (r *attendedReader) Read(p []byte) (int, error) {
	c := (*clientConn)(r)
	for {
		// Right after a request there is nothing: that need not be tried.
		if c.asking {
			c.asking = false
		} else if n, err := c.rd.sock.TryRead(p); n > 0 || err != nil {
			return n, err
		} else if c.attendant.isEnded() {
			return 0, io.EOF
		}
		if err := c.attendant.await(c.ctx, c.co, c.hardBy); err != nil {
			return 0, err
		}
	}
}

func (a *attendant) isEnded() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ended
}

// takeAttended returns an idle connection for a coroutine that must not wait; nil
// if there is none, or the request, whose head has a length, cannot be sent
// without waiting.
func (cl *Client) takeAttended(r *proxy.Request, head int) *clientConn {
	if r.Upgrade != "" || r.Method == "CONNECT" || r.Body != nil && r.ContentLength != 0 && !arrived(r, head) {
		return nil
	}
	for {
		c := cl.pop(&cl.attended)
		if c == nil {
			if c = cl.takeIdle(); c == nil {
				return nil
			}
			if c.rd.sock == nil {
				cl.putIdle(c)
				return nil
			}
			c.attend()
		}
		if c.attendant.take() {
			return c
		}
	}
}
