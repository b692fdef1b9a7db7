package http1

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/internal/sockio"
)

// hosting is what a connection keeps of an exchange whose handler is a coroutine.
// The goroutine of the connection runs the handler until it waits, and then
// waits for the client itself: for its next request, or for its end. Who has
// news for the handler goes on with it, and sends the response. So nobody has to
// be woken for a response but by the network.
type hosting struct {
	batch coroutine.Batch // of the connection's goroutine

	mu       sync.Mutex
	co       *coroutine.Coroutine // the handler; nil while there is none
	over     bool                 // the exchange has ended
	overAt   time.Time            // when it did
	last     bool                 // there is to be no other exchange
	alive    bool                 // nothing has failed
	watching bool                 // the connection's goroutine waits for the client
	kicked   bool                 // its wait was interrupted
	waiting  chan struct{}        // it waits for the exchange to end; nil: it does not
}

// hosted reports whether the exchange that is about to begin runs as a
// coroutine: if the server says so, and nothing of the request is to be waited
// for.
func (c *conn) hosted() bool {
	r := &c.ex.req
	return c.hosting != nil && c.rd.sock != nil && r.Upgrade == "" && r.Method != "CONNECT" &&
		r.ContentLength >= 0 && int64(c.rd.buffered()) >= r.ContentLength && c.s.Inline(r)
}

// host runs the exchange, and goes on to wait for the next request. It reports
// whether the connection lives on.
func (c *conn) host() bool {
	h := c.hosting
	h.mu.Lock()
	h.over, h.last, h.alive = false, false, false
	h.mu.Unlock()
	// Of a client that has sent its next request already nothing is to be awaited.
	watch := int64(c.rd.buffered()) == c.ex.req.ContentLength
	h.batch.Start(&c.s.inline, (*hostedCall)(c))
	h.batch.Flush()
	c.allowRead(orDefault(c.s.IdleTimeout, DefaultIdleTimeout))
	for watch && h.watch(c) {
		watch = c.watchClient()
	}
	h.await(time.Time{})
	return h.alive && c.drain()
}

// hostedCall is the exchange of a connection as a coroutine.
type hostedCall conn

// Do implements coroutine.Task.
func (t *hostedCall) Do(co *coroutine.Coroutine) {
	c := (*conn)(t)
	h := c.hosting
	h.mu.Lock()
	h.co = co
	h.mu.Unlock()
	c.ex.setCoroutine(co)
	c.call()
	alive := c.ex.close()
	c.ex.setCoroutine(nil)
	if alive {
		c.ex.release()
		c.rd.release()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.co, h.over, h.overAt, h.alive = nil, true, time.Now(), alive
	h.last = !alive || c.ex.closeAfter
	if h.last || c.s.closing.Load() {
		h.kick(c)
	}
	if h.waiting != nil {
		close(h.waiting)
		h.waiting = nil
	}
	// From here on the connection may be at its next exchange.
}

// watch notes that the connection's goroutine is about to wait for the client,
// and reports whether it may: Shutdown, or the end of the exchange, will end the
// wait if it is not seen here.
func (h *hosting) watch(c *conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watching = !h.over || !h.last && !c.s.closing.Load()
	return h.watching
}

// kick interrupts the wait for the client. h.mu is held.
func (h *hosting) kick(c *conn) {
	if h.watching {
		h.kicked = true
		interrupt(c.rd.conn)
	}
}

// watched notes that the wait is over.
func (h *hosting) watched() (over, kicked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	over, kicked = h.over, h.kicked
	h.watching, h.kicked = false, false
	return over, kicked
}

// await waits until the exchange has ended, or it is time.
func (h *hosting) await(by time.Time) {
	h.mu.Lock()
	if h.over {
		h.mu.Unlock()
		return
	}
	waiting := make(chan struct{})
	h.waiting = waiting
	h.mu.Unlock()
	waitFor(context.Background(), waiting, by)
}

// watchClient waits until the client sends something or has gone, of which it
// tells the handler. It reports whether there is anything more to wait for.
func (c *conn) watchClient() (more bool) {
	h := c.hosting
	n, err := c.rd.sock.Fill((*hostedBuffer)(c))
	over, kicked := h.watched()
	switch {
	case kicked:
		c.forgetDeadline()
		return true
	case n > 0: // of the next request
		c.rd.w = n
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.hostedLater(over)
	case err != nil && over:
		h.alive = false
	case err != nil:
		c.clientGone(err)
	}
	return false
}

// hostedLater is called when the deadline of the wait for the client has passed.
// Whatever it was for, it says nothing as long as the exchange goes on, and a
// connection is idle only from the end of that on.
func (c *conn) hostedLater(over bool) (more bool) {
	h := c.hosting
	idle := orDefault(c.s.IdleTimeout, DefaultIdleTimeout)
	c.forgetDeadline()
	switch {
	case !over || idle < 0:
		c.allowRead(idle)
	case time.Since(h.overAt) < idle-idle/8:
		c.readBy = h.overAt.Add(idle)
		_ = c.rd.conn.SetReadDeadline(c.readBy)
	default:
		h.alive = false
		return false
	}
	return true
}

// clientGone ends the exchange. A client that has ended only its own side, for it
// has nothing more to ask, may get its response if that is there soon.
func (c *conn) clientGone(err error) {
	h := c.hosting
	if err == io.EOF {
		h.await(time.Now().Add(watchDelay))
	}
	h.mu.Lock()
	co := h.co
	h.mu.Unlock()
	if co != nil {
		c.ex.endContext()
		co.Wake()
	}
}

// hostedBuffer is the buffer of a connection while it watches the client: what
// comes before the exchange has ended is not read, since the buffer may be in use
// until then.
type hostedBuffer conn

var _ sockio.Buffer = (*hostedBuffer)(nil)

// Take implements sockio.Buffer.
func (b *hostedBuffer) Take() []byte {
	b.hosting.mu.Lock()
	over := b.hosting.over
	b.hosting.mu.Unlock()
	if !over || b.rd.buffered() > 0 {
		return nil
	}
	return b.rd.Take()
}

// Drop implements sockio.Buffer.
func (b *hostedBuffer) Drop() {
	b.hosting.mu.Lock()
	defer b.hosting.mu.Unlock()
	if b.hosting.over {
		b.rd.Drop()
	}
}

// wakeHosted makes a connection that waits for a request, after one that was a
// coroutine, end.
func (c *conn) wakeHosted() {
	if c.hosting == nil {
		return
	}
	c.hosting.mu.Lock()
	defer c.hosting.mu.Unlock()
	if c.hosting.over {
		c.hosting.kick(c)
	}
}
