package http1

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/sockio"
)

const (
	// drainLimit is how much of a body that the handler left unread is skipped
	// to keep the connection; drainTimeout how long that may take.
	drainLimit   = 256 << 10
	drainTimeout = 2 * time.Second
	// lingerTimeout is how long a connection that ends with bytes unread stays
	// half open, so that the last response is not lost to a reset.
	lingerTimeout = time.Second
)

// maxEmptyLines is how many empty lines may precede a request line.
const maxEmptyLines = 4

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// conn is one connection of a server. All but the fields of the watch, and the
// ones that say otherwise, belong to the goroutine of serve and whoever it
// calls.
type conn struct {
	s     *Server
	rd    reader
	ex    exchange
	head  requestHead
	watch watch
	// hosting is nil when no exchange is a coroutine.
	hosting *hosting
	tls     *tls.ConnectionState
	// readBy is the deadline for reads that is set; zero: none.
	readBy time.Time
	// headBy is when the head that is being read must be complete, or the body
	// that is being skipped; zero: it has not been waited for.
	headBy time.Time
	// given says that the connection belongs to somebody else now.
	given bool

	closed atomic.Bool

	mu    sync.Mutex
	idle  bool // waits for a request
	woken bool // Shutdown has interrupted the wait
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{s: s}
	c.rd = reader{conn: nc, sock: sockio.Of(nc), src: nc, pool: &s.bufs}
	if c.rd.sock != nil {
		c.rd.src = c.rd.sock
	}
	c.watch.c = c
	if s.Inline != nil {
		c.hosting = new(hosting)
	}
	c.ex.init(c)
	return c
}

// serve runs the connection until it ends.
func (c *conn) serve() {
	defer c.finish()
	if t, ok := c.rd.conn.(*tls.Conn); ok && !c.handshake(t) {
		return
	}
	empty := 0
	for first := true; ; first = false {
		c.headBy = time.Time{}
		c.ex.begin()
		c.head = requestHead{}
		if !c.awaitRequest(first) {
			return
		}
		if first && c.rd.window()[0] == preface[0] && c.handOver() {
			return
		}
		if empty < maxEmptyLines && c.skipEmptyLine() {
			empty++
			continue
		}
		empty = 0
		head, err := c.rd.head(c.maxHead(), c.beforeHead)
		if err != nil {
			c.refuseHead(err)
			return
		}
		if !c.exchange(head) {
			return
		}
	}
}

func (c *conn) maxHead() int { return orDefault(c.s.MaxHead, DefaultMaxHead) }

// finish releases what the connection holds. A hook of the server that panics
// ends its connection and nothing else.
func (c *conn) finish() {
	if p := recover(); p != nil {
		c.s.log().Error("a connection ended with a panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		c.given = false
	}
	c.rd.drop()
	c.ex.release()
	c.s.removeConn(c)
	if !c.given {
		c.rd.conn.Close()
	}
}

// abort ends the connection from outside.
func (c *conn) abort() {
	c.closed.Store(true)
	c.ex.endContext()
	c.rd.conn.Close()
}

func (c *conn) handshake(t *tls.Conn) bool {
	c.allowRead(orDefault(c.s.HeadTimeout, DefaultHeadTimeout))
	if err := t.Handshake(); err != nil {
		return false
	}
	state := t.ConnectionState()
	c.tls = &state
	return true
}

// awaitRequest waits for the first byte of a request.
func (c *conn) awaitRequest(first bool) bool {
	c.ex.release()
	if c.rd.buffered() > 0 {
		return true
	}
	if first {
		c.allowRead(orDefault(c.s.HeadTimeout, DefaultHeadTimeout))
	} else {
		c.allowRead(orDefault(c.s.IdleTimeout, DefaultIdleTimeout))
	}
	c.mu.Lock()
	c.idle = true
	c.mu.Unlock()
	var err error
	// A Shutdown that is not seen here will interrupt the wait.
	if c.s.closing.Load() {
		err = os.ErrDeadlineExceeded
	} else {
		err = c.rd.await()
	}
	c.mu.Lock()
	c.idle = false
	woken := c.woken
	c.woken = false
	c.mu.Unlock()
	if woken {
		c.forgetDeadline()
	}
	if err != nil && c.s.closing.Load() && peekConn(c.rd.conn) == sockio.Readable {
		// A request came just before the end: it is served, and told.
		c.allowRead(drainTimeout)
		err = c.rd.await()
	}
	return err == nil && c.rd.buffered() > 0
}

// wakeIdle makes a connection that waits for a request end.
func (c *conn) wakeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle {
		c.woken = true
		interrupt(c.rd.conn)
	}
	c.wakeHosted()
}

// allowRead lets reads wait for d from now, or up to an eighth less: a deadline
// that is set already is left alone when it will do.
func (c *conn) allowRead(d time.Duration) {
	if d < 0 {
		c.waitForever()
		return
	}
	now := time.Now()
	if left := c.readBy.Sub(now); left <= d && left >= d-d/8 {
		return
	}
	c.readBy = now.Add(d)
	_ = c.rd.conn.SetReadDeadline(c.readBy)
}

func (c *conn) waitForever() {
	if !c.readBy.IsZero() {
		c.readBy = time.Time{}
		_ = c.rd.conn.SetReadDeadline(c.readBy)
	}
}

// forgetDeadline lifts a deadline that somebody else has set.
func (c *conn) forgetDeadline() {
	c.readBy = time.Time{}
	_ = c.rd.conn.SetReadDeadline(c.readBy)
}

// beforeHead is called before more of a head is waited for, so not at all for
// one that came in one piece.
func (c *conn) beforeHead() error {
	d := orDefault(c.s.HeadTimeout, DefaultHeadTimeout)
	switch {
	case d < 0:
		c.waitForever()
	case c.headBy.IsZero():
		c.headBy = time.Now().Add(d)
		c.readBy = c.headBy
		return c.rd.conn.SetReadDeadline(c.readBy)
	}
	return nil
}

// skipEmptyLine skips a CRLF before a request line (RFC 9112, section 2.2).
func (c *conn) skipEmptyLine() bool {
	win := c.rd.window()
	if win[0] != '\r' {
		return false
	}
	if len(win) < 2 {
		if c.beforeHead() != nil || c.rd.fill(bufferSize) != nil {
			return false
		}
		win = c.rd.window()
	}
	if win[1] != '\n' {
		return false
	}
	c.rd.skip(2)
	return true
}

// readAhead reads from the connection for the watch. It reports whether the
// client has gone.
func (c *conn) readAhead() (gone bool) {
	err := c.rd.fill(bufferSize)
	return err != nil && err != errFull && !errors.Is(err, os.ErrDeadlineExceeded)
}

// handOver gives the connection away if it begins with the preface of HTTP/2.
func (c *conn) handOver() bool {
	for {
		win := c.rd.window()
		if n := min(len(win), len(preface)); string(win[:n]) != preface[:n] {
			return false
		}
		if len(win) >= len(preface) {
			break
		}
		if c.beforeHead() != nil || c.rd.fill(bufferSize) != nil {
			return false
		}
	}
	if c.s.HandOver == nil {
		return false
	}
	read := bytes.Clone(c.rd.window())
	c.rd.drop()
	c.forgetDeadline()
	c.given = true
	c.s.removeConn(c)
	c.s.HandOver(c.rd.conn, read)
	return true
}

// refuseHead answers a request whose head could not be read or parsed.
func (c *conn) refuseHead(err error) {
	var refused *headError
	switch {
	case errors.As(err, &refused):
	case err == errFull:
		refused = refuse(431, "the head of the request is longer than %d bytes", c.maxHead())
		if bytes.IndexByte(c.rd.window(), '\n') < 0 {
			refused = refuse(414, "the request target is longer than %d bytes", orDefault(c.s.MaxTarget, DefaultMaxTarget))
		}
	case isMalformed(err):
		refused = refuse(400, "%s", err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		refused = refuse(408, "the head of the request did not come within %s", orDefault(c.s.HeadTimeout, DefaultHeadTimeout))
	default:
		return // the client has gone
	}
	c.ex.refuse(refused)
	c.linger()
}

// isMalformed reports whether err says that a message breaks the rules.
func isMalformed(err error) bool {
	switch err.(type) {
	case malformed, *headError:
		return true
	}
	return false
}

// linger ends the sending side and skips what still comes, so that the client
// can read the response before it learns that the connection is gone.
func (c *conn) linger() {
	c.rd.drop()
	linger(c.rd.conn)
}

func linger(nc net.Conn) {
	if closeWrite(nc) != nil || nc.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{nc})
}

// exchange serves one request and reports whether the connection lives on.
func (c *conn) exchange(head string) bool {
	ex, r := &c.ex, &c.ex.req
	err := parseRequest(head, r, &c.head, orDefault(c.s.MaxTarget, DefaultMaxTarget), orDefault(c.s.MaxFields, DefaultMaxFields))
	if err != nil {
		c.refuseHead(err)
		return false
	}
	limit := int64(-1)
	if c.s.BodyLimit != nil {
		limit = c.s.BodyLimit(r)
	}
	if limit >= 0 && r.ContentLength > limit {
		c.refuseHead(refuse(413, "the body is longer than %d bytes", limit))
		return false
	}
	ex.open(limit)
	if c.hosted() {
		return c.host()
	}
	ex.listen()
	c.call()
	if !ex.close() {
		return false
	}
	return c.drain()
}

// call runs the handler.
func (c *conn) call() {
	defer func() {
		if p := recover(); p != nil {
			c.s.log().Error("a handler panicked", "panic", fmt.Sprint(p), "method", c.ex.req.Method,
				"target", c.ex.req.Target, "stack", string(debug.Stack()))
			c.ex.panicked = true
		}
	}()
	switch {
	case c.ex.req.Method != "CONNECT":
		c.s.Handler(&c.ex)
	case c.s.Connect != nil:
		c.s.Connect(&c.ex)
	default:
		c.ex.refuse(refuse(501, "CONNECT is not served here"))
	}
}

// drain skips what is left of the request's body, and reports whether the
// connection is fit for the next request.
func (c *conn) drain() bool {
	b := &c.ex.body
	if b.closed.Load() {
		c.forgetDeadline()
	}
	if !b.complete() && !c.skipBody() {
		c.linger()
		return false
	}
	if c.ex.closeAfter {
		if c.rd.buffered() > 0 || peekConn(c.rd.conn) == sockio.Readable {
			c.linger()
		}
		return false
	}
	// A client that was not told that the connection ends may have sent its next
	// request, even if the server is shutting down.
	return true
}

func (c *conn) skipBody() bool {
	b := &c.ex.body
	if b.err != nil || c.ex.expects() || c.ex.closeAfter || b.kind == bodyLength && b.left > drainLimit {
		return false
	}
	b.closed.Store(false)
	c.ex.draining, c.headBy = true, time.Now().Add(drainTimeout)
	buf := c.s.bufs.getCopy()
	defer c.s.bufs.putCopy(buf)
	for skipped := 0; skipped <= drainLimit; {
		n, err := b.Read(buf[:])
		skipped += n
		if err != nil {
			return err == io.EOF
		}
	}
	return false
}

// The connection is the owner of the request's body.
var _ bodyOwner = (*conn)(nil)

func (c *conn) beforeRead() error {
	if c.ex.draining {
		c.readBy = c.headBy
		return c.rd.conn.SetReadDeadline(c.readBy)
	}
	if c.ex.expects() {
		if err := c.ex.sendContinue(); err != nil {
			return err
		}
	}
	c.allowRead(orDefault(c.s.StallTimeout, DefaultStallTimeout))
	return nil
}

func (c *conn) beforeSplice() error { return c.beforeRead() }

func (c *conn) bodyError(err error) error {
	switch {
	case err == errBodyTooLarge:
		c.ex.tooLarge = true
		return fault.New(fault.ResourceExhausted, "the body of the request is longer than %d bytes", c.ex.limit)
	case isMalformed(err):
		return fault.New(fault.InvalidArgument, "the body of the request is malformed: %s", err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fault.Wrap(err, fault.DeadlineExceeded, "the client did not send the body of its request")
	}
	c.ex.endContext()
	return fault.Wrap(err, fault.Canceled, "the client went away within the body of its request")
}

func (c *conn) bodyEnded() { c.watch.bodyEnded() }
