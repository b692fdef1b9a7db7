package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/internal/sockio"
	"github.com/proa-io/proa/mesh/proxy"
)

// maxInterim bounds the interim responses before one final response.
const maxInterim = 1000

// clientConn is a connection to a server, used by one round trip at a time, in
// the goroutine of its caller. Only the content of a request that cannot be sent
// with its head is sent by a goroutine of its own, the sender.
type clientConn struct {
	cl   *Client
	nc   net.Conn
	bare *sockio.Socket // the socket at the bottom, for looking into it; nil: none

	rd     reader
	w      writer // of the caller until there is a sender, then of the sender
	body   body
	header proxy.Header
	head   responseHead

	attendant *attendant // nil: who uses the connection waits for it

	sameHost  bool // the server is on this host
	used      bool // there was a round trip before
	idleSince time.Time
	keepFor   time.Duration // how long it may be idle, as the server says; 0: it did not
	asked     time.Time     // when the request was about to be written
	readErr   error         // of a read before, that the next one returns
	readBy    time.Time     // the deadline for reads that is set; zero: none

	// For the round trip under way.
	co       *coroutine.Coroutine // who uses a connection with an attendant, if it is one
	asking   bool                 // a request was written, and nothing was read yet
	ctx      context.Context      //nolint:containedctx // of the round trip that the connection is at
	cancel   func()               // onCancel
	stopCtx  func() bool          // nil: ctx is not watched yet
	canceled atomic.Bool
	hardBy   time.Time // when reading must end; zero: never
	headBy   time.Time // when the head must be there; zero: any time
	headTime time.Duration
	wsKey    bool   // Sec-WebSocket-Key is ours
	answered bool   // something of the response has come
	wrote    bool   // something of the request may have been sent
	consumed bool   // something of the request's content may have been read
	inline   bool   // the request is in the buffer as a whole
	lost     bool   // the connection ended before it answered
	stale    bool   // it had ended before anything was asked
	unread   bool   // the server closed it without having read the request
	before   uint64 // bytes that were sent on the connection before
	sender   *sender
}

var _ bodyOwner = (*clientConn)(nil)

func newClientConn(cl *Client, nc net.Conn) *clientConn {
	c := &clientConn{cl: cl, nc: nc}
	c.rd = reader{conn: nc, sock: sockio.Of(nc), src: (*patientReader)(c), pool: &cl.bufs}
	if c.bare = c.rd.sock; c.bare == nil {
		c.bare = sockio.Of(bareConn(nc))
	}
	c.w.init(&c.rd, orDefault(cl.StallTimeout, DefaultStallTimeout))
	c.body.rd, c.body.owner, c.body.lenient = &c.rd, c, true
	c.cancel = c.onCancel
	c.sameHost = isSameHost(nc)
	return c
}

// begin prepares the connection for a round trip of a request whose head is in
// out.
func (c *clientConn) begin(ctx context.Context, headTimeout time.Duration, out []byte, wsKey bool) {
	c.ctx, c.stopCtx = ctx, nil
	c.canceled.Store(false)
	c.headTime, c.headBy = headTimeout, time.Time{}
	if headTimeout > 0 {
		c.headBy = time.Now().Add(headTimeout)
	}
	c.w.out, c.wsKey, c.before = out, wsKey, c.w.total
	c.answered, c.wrote, c.consumed, c.inline = false, false, false, false
	c.lost, c.stale, c.unread, c.readErr = false, false, false, nil
	c.header = c.header[:0]
	c.head = responseHead{}
}

// beginAgain is begin for the request that was tried on another connection.
func (c *clientConn) beginAgain(from *clientConn) {
	c.begin(from.ctx, from.headTime, from.w.out, from.wsKey)
	c.inline, c.consumed, c.headBy = from.inline, from.consumed, from.headBy
	from.w.out = nil
}

// roundTrip sends r and reads the head of the response. After an error the
// connection is closed, and must be released.
func (c *clientConn) roundTrip(r *proxy.Request, opts proxy.RoundTripOptions) (*proxy.Response, error) {
	err := c.send(r)
	if err == nil || c.wrote {
		// A server may answer before it has read the request, and close.
		var resp *proxy.Response
		if resp, err = c.receive(r, opts, err); err == nil {
			return resp, nil
		}
	}
	return nil, c.abandon(err)
}

// send sends the request: at once when all of it is there and short, otherwise
// with the help of a sender.
func (c *clientConn) send(r *proxy.Request) error {
	if r.Body != nil && r.ContentLength != 0 && !c.inline {
		if !arrived(r, len(c.w.out)) {
			if c.ended() {
				return sockio.ErrStale
			}
			c.wrote, c.consumed = true, true
			c.startSender(r)
			return nil
		}
		c.consumed = true
		if err := c.appendBody(r); err != nil {
			return err
		}
	}
	return c.write()
}

// write sends the request that is in the buffer as a whole, and leaves it there
// so that it can be sent again.
func (c *clientConn) write() error {
	c.inline = true
	if c.rd.sock != nil && c.attendant == nil {
		return c.ask()
	}
	if c.ended() {
		return sockio.ErrStale
	}
	c.asked = time.Now()
	n, err := c.w.write(c.w.out)
	c.wrote, c.asking = n > 0, true
	return err
}

// close ends the connection.
func (c *clientConn) close() {
	if c.attendant != nil {
		c.attendant.close()
		return
	}
	_ = c.nc.Close()
}

// ended reports whether the connection has ended, or bytes have come, since it
// was used last: either makes it useless.
func (c *clientConn) ended() bool {
	return c.used && c.bare != nil && c.bare.Peek() != sockio.Quiet
}

// ask is write for a bare socket. It waits for the first bytes of the response,
// too.
func (c *clientConn) ask() error {
	c.allowRead(c.headBy)
	wrote, n, err := c.rd.sock.Ask(c.w.out, &c.rd, !c.used)
	if wrote == 0 && errors.Is(err, os.ErrDeadlineExceeded) && c.goOn() {
		// The short wait was over before it was begun.
		wrote, n, err = c.rd.sock.Ask(c.w.out, &c.rd, !c.used)
	}
	c.w.total += uint64(wrote)
	c.wrote = wrote > 0
	c.rd.w = n
	switch {
	case wrote < len(c.w.out) && err == nil:
		_, err = c.w.write(c.w.out[wrote:])
		c.wrote = true
		return err
	case wrote < len(c.w.out):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded) && c.goOn():
		return nil
	}
	c.readErr = err
	return nil
}

// arrived reports whether the content can be read without waiting, and fits into a
// buffer, with the head before it that has a length.
func arrived(r *proxy.Request, head int) bool {
	if r.ContentLength < 0 || r.ContentLength > int64(wholeSize-head) || r.Header.Has("Expect") {
		return false
	}
	switch b := r.Body.(type) {
	case proxy.Lookahead:
		return int64(b.Buffered()) >= r.ContentLength
	case interface{ Len() int }:
		return int64(b.Len()) >= r.ContentLength
	}
	return false
}

// appendBody reads the content into the buffer, behind the head.
func (c *clientConn) appendBody(r *proxy.Request) error {
	start := len(c.w.out)
	end := start + int(r.ContentLength)
	c.w.out = c.w.rd.pool.grow(c.w.out, end)[:end]
	if _, err := io.ReadFull(r.Body, c.w.out[start:]); err != nil {
		return &proxy.BodyError{Err: err}
	}
	return nil
}

// receive reads heads until the final one. unsent is what went wrong in sending.
func (c *clientConn) receive(r *proxy.Request, opts proxy.RoundTripOptions, unsent error) (*proxy.Response, error) {
	for range maxInterim {
		if err := c.readHead(); err != nil {
			if unsent != nil && !isMalformed(err) {
				err = unsent
			}
			return nil, err
		}
		switch status := c.head.status; {
		case status == 101:
			return c.upgraded(r)
		case status == 100:
			if c.sender != nil {
				c.sender.proceed(true)
			}
		case status < 200:
			if opts.Interim != nil {
				opts.Interim(status, c.header)
			}
		default:
			return c.response(r)
		}
	}
	return nil, malformed("too many interim responses")
}

// readHead reads and parses one head.
func (c *clientConn) readHead() error {
	head, err := c.rd.head(orDefault(c.cl.MaxHead, DefaultMaxHead), c.beforeHead)
	if err != nil {
		return err
	}
	c.answered = true
	c.head = responseHead{}
	c.header = c.header[:0]
	return parseResponse(head, &c.header, &c.head, orDefault(c.cl.MaxFields, DefaultMaxFields))
}

// response makes the response, once its head is there.
func (c *clientConn) response(r *proxy.Request) (*proxy.Response, error) {
	if c.sender != nil {
		c.sender.proceed(false)
	}
	h := &c.head
	resp := &response{c: c}
	resp.Status, resp.Header, resp.Body = h.status, c.header, resp
	switch {
	case r.Method == "CONNECT" && h.status < 300:
		return c.tunnel(resp)
	case h.transferEncoding && !h.chunked:
		return nil, malformed("a Transfer-Encoding other than chunked")
	case r.Method == "HEAD", h.status == 204, h.status == 304:
		resp.ContentLength = h.contentLength
		if h.status == 204 {
			resp.ContentLength = 0
		}
		c.body.start(bodyNone, 0, -1)
	case h.chunked:
		resp.ContentLength = proxy.UnknownLength
		resp.Response.Trailer = &c.body.trailer
		c.body.start(bodyChunked, 0, -1)
	case h.contentLength >= 0:
		resp.ContentLength = h.contentLength
		c.body.start(bodyLength, h.contentLength, -1)
	default:
		resp.ContentLength = proxy.UnknownLength
		c.body.start(bodyClose, 0, -1)
	}
	c.headBy = time.Time{}
	if c.sender == nil {
		c.w.out = c.w.out[:0]
	}
	return &resp.Response, nil
}

// upgraded makes the response to an upgrade.
func (c *clientConn) upgraded(r *proxy.Request) (*proxy.Response, error) {
	if r.Upgrade == "" || !strings.EqualFold(c.head.upgrade, r.Upgrade) {
		return nil, malformed("an upgrade that was not asked for")
	}
	resp := &response{c: c}
	resp.Status, resp.Header, resp.Body = 101, c.header, resp
	if c.wsKey {
		resp.Header.Del("Sec-WebSocket-Accept")
	}
	return c.tunnel(resp)
}

// tunnel turns the connection into a stream, which has it for itself.
func (c *clientConn) tunnel(resp *response) (*proxy.Response, error) {
	if !c.endCtx() || c.sender != nil {
		return nil, malformed("an upgrade within a request")
	}
	_ = c.nc.SetDeadline(time.Time{})
	c.w.release()
	resp.c = nil
	resp.Body = proxy.NoBody{}
	resp.Upgraded = &stream{nc: c.nc, rd: &c.rd}
	c.rd.src = c.nc
	return &resp.Response, nil
}

// mayRepeat reports whether the request that failed can be sent again by the
// client itself.
func (c *clientConn) mayRepeat(r *proxy.Request) bool {
	return c.lost && c.inline && (!c.wrote || c.unread || isIdempotent(r.Method))
}

func isIdempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// abandon closes the connection after err and names the error for the caller.
func (c *clientConn) abandon(err error) error {
	if err == sockio.ErrStale {
		c.stale = true
		c.close()
		return err
	}
	c.answered = c.answered || c.rd.buffered() > 0
	if c.inline && !c.answered {
		if err == io.EOF && c.nothingArrived(c.before) {
			c.wrote = false
		}
		c.unread = c.resetUnread(err)
	}
	c.close()
	if c.sender != nil {
		// Whatever the other error is, it follows from this one.
		c.sender.stop()
		if c.senderFailed() {
			err = c.sender.err
		}
	}
	c.endCtx()
	c.lost = !c.answered && c.ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) && !isMalformed(err)
	named := c.nameError(err)
	if !c.wrote && !c.consumed {
		named = proxy.MarkUnsent(named)
	}
	return named
}

// giveBack ends a round trip whose messages are complete. If whole is true and
// the server does not mind, the connection is kept.
func (c *clientConn) giveBack(whole bool) {
	keep := c.endCtx() && whole && c.rd.buffered() == 0
	c.release()
	if keep {
		c.cl.putIdle(c)
	} else {
		c.close()
	}
}

// release gives up what is not needed while there is no round trip.
func (c *clientConn) release() {
	c.rd.release()
	c.w.release()
	clear(c.header)
	clear(c.body.trailer)
	if cap(c.header) > 4*typicalFields {
		c.header = nil
	}
	if cap(c.body.trailer) > typicalFields {
		c.body.trailer = nil
	}
	c.head = responseHead{}
	c.ctx, c.stopCtx, c.sender, c.co, c.w.co = nil, nil, nil, nil, nil
}
