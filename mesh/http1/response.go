package http1

import (
	"io"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// response is a response and its body. Unlike the connection it is made anew
// for each round trip, so that whoever holds on to one that is closed cannot
// reach into somebody else's.
type response struct {
	proxy.Response

	mu sync.Mutex // held while reading
	c  *clientConn

	closing sync.Mutex // guards closed
	closed  bool
}

var (
	_ io.WriterTo     = (*response)(nil)
	_ proxy.Lookahead = (*response)(nil)
)

// errResponseClosed is what Read returns after Close.
var errResponseClosed error = fault.New(fault.Canceled, "the response was closed")

func (r *response) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.c == nil {
		return 0, errResponseClosed
	}
	return r.c.body.Read(p)
}

func (r *response) WriteTo(w io.Writer) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.c == nil {
		return 0, errResponseClosed
	}
	return r.c.body.WriteTo(w)
}

func (r *response) Buffered() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.c == nil {
		return 0
	}
	return r.c.body.Buffered()
}

// Close gives the connection back when both messages are complete, and ends it
// otherwise.
func (r *response) Close() error {
	r.closing.Lock()
	defer r.closing.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	if !r.mu.TryLock() {
		// A Read waits: end it.
		r.c.body.closed.Store(true)
		r.c.close()
		r.mu.Lock()
	}
	defer r.mu.Unlock()
	c := r.c
	r.c = nil
	if c == nil {
		return nil
	}
	c.finish()
	return nil
}

// finish ends the round trip after its response is not wanted any more.
func (c *clientConn) finish() {
	whole := c.body.complete() || c.skipBuffered()
	if !whole || c.body.kind == bodyClose {
		c.close()
	}
	if c.sender != nil && c.sender.stop() != nil {
		whole = false
	}
	h := &c.head
	keep := whole && h.keepAlive() && c.body.kind != bodyClose && !(h.transferEncoding && h.contentLength >= 0)
	c.keepFor = time.Duration(h.keepFor) * time.Millisecond
	c.giveBack(keep)
}

// skipBuffered skips the rest of a short body that nobody has read, if it has
// arrived.
func (c *clientConn) skipBuffered() bool {
	b := &c.body
	if b.err != nil || b.kind == bodyLength && b.left > int64(c.rd.buffered()) || b.kind == bodyClose {
		return false
	}
	buf := c.cl.bufs.getCopy()
	defer c.cl.bufs.putCopy(buf)
	for b.err == nil && b.held() > 0 {
		if _, err := b.Read(buf[:]); err == io.EOF {
			return true
		}
	}
	return b.complete()
}
