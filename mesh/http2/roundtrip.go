package http2

import (
	"bytes"
	"context"
	"io"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// attempts is how often a request is sent that certainly nobody has acted on.
const attempts = 3

// RoundTrip implements proxy.RoundTripper.
//
// The body of a request that is there already and short (less than 128 KiB, and
// either held in memory, or known by proxy.Lookahead or proxy.Completion to
// have arrived in full) is sent by the calling goroutine, together with the
// head. Any other is sent by a pooled goroutine, while the response may already
// arrive. No body is read before there is a connection.
//
// A request that the server has certainly not acted on, because of a GOAWAY, a
// REFUSED_STREAM or a connection that broke before anything was written, is
// sent again on another connection if nothing of its body was read, or if all
// of it was at once as above.
func (cl *Client) RoundTrip(ctx context.Context, r *proxy.Request, opts proxy.RoundTripOptions) (*proxy.Response, error) {
	cl.init()
	rt := roundTrip{cl: cl, r: r, opts: opts, co: coroutine.From(ctx)}
	defer rt.release()
	if err := rt.prepare(); err != nil {
		return nil, err
	}
	if rt.streams() {
		rt.co.Detach()
	}
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, proxy.MarkUnsent(fault.Wrap(context.Cause(ctx), fault.CodeOf(err), "send a request to %s", cl.name()))
		}
		c, err := cl.acquire(ctx, rt.co)
		if err != nil {
			return nil, rt.unsent(err)
		}
		if err := rt.readBody(); err != nil {
			c.putBack()
			return nil, err
		}
		res, unsent, err := rt.attempt(ctx, c)
		switch {
		case err == nil:
			return &res.Response, nil
		case !unsent || rt.bodyTouched:
			return nil, err
		case n == attempts || ctx.Err() != nil:
			return nil, rt.unsent(err)
		}
	}
}

// roundTrip is one call of RoundTrip.
type roundTrip struct {
	cl   *Client
	r    *proxy.Request
	opts proxy.RoundTripOptions
	co   *coroutine.Coroutine

	body        io.Reader // nil: none, or it is in first
	first       *slab     // a body that was read at once
	trailer     proxy.Header
	bodyTouched bool // something of body was read
}

func (rt *roundTrip) release() { rt.cl.mem.free(rt.first) }

// unsent marks err if the request can be sent again by the caller. A body in
// memory that was read at once is rewound, as if it had not been touched.
func (rt *roundTrip) unsent(err error) error {
	if rt.bodyTouched {
		return err
	}
	if rt.first != nil && rt.first.w > 0 {
		s, ok := rt.r.Body.(io.Seeker)
		if !ok {
			return err
		}
		if _, serr := s.Seek(-int64(rt.first.w), io.SeekCurrent); serr != nil {
			return err
		}
	}
	return proxy.MarkUnsent(err)
}

// prepare checks the head of the request and finds its body.
func (rt *roundTrip) prepare() error {
	r := rt.r
	switch {
	case !validToken(r.Method):
		return fault.New(fault.InvalidArgument, "the method %s is not a token", quoteName(r.Method))
	case r.Upgrade != "" && !validToken(r.Upgrade):
		return fault.New(fault.InvalidArgument, "the protocol to upgrade to, %s, is not a token", quoteName(r.Upgrade))
	case r.Method != "CONNECT" && !validTarget(r.Target, r.Method):
		return fault.New(fault.InvalidArgument, "the request target %s is neither a path nor *", quoteName(r.Target))
	case !validAuthority(r.Authority) || r.Authority == "" && (r.Method == "CONNECT" || r.Upgrade != ""):
		return fault.New(fault.InvalidArgument, "the authority %s is not a host and port", quoteName(r.Authority))
	case r.Scheme != "" && !validScheme(r.Scheme):
		return fault.New(fault.InvalidArgument, "the scheme %s is malformed", quoteName(r.Scheme))
	}
	_, none := r.Body.(proxy.NoBody)
	switch none = none || r.Body == nil || rt.streams(); {
	case none && r.ContentLength > 0:
		return fault.New(fault.InvalidArgument, "the request has a length of %d and no body", r.ContentLength)
	case none, r.ContentLength == 0 && r.Trailer == nil:
		return nil
	}
	rt.body = r.Body
	return nil
}

// readBody reads the body if it is there and short.
func (rt *roundTrip) readBody() error {
	if rt.body == nil || rt.first != nil {
		return nil
	}
	if n, all := available(rt.body, rt.r.ContentLength); all && n < mostFirst {
		return rt.readNow(n)
	}
	return nil
}

// mostFirst bounds a body that is sent with the head. It takes a message of 64
// KiB, whatever frames that.
const mostFirst = sendAhead

// streams reports whether the request is for a two-way stream, and so has no
// content.
func (rt *roundTrip) streams() bool { return rt.r.Method == "CONNECT" || rt.r.Upgrade != "" }

// available returns how much of a body can be read without waiting, and whether
// that is all of it.
func available(body io.Reader, length int64) (n int, all bool) {
	switch b := body.(type) {
	case *bytes.Reader:
		return b.Len(), true
	case *bytes.Buffer:
		return b.Len(), true
	case *strings.Reader:
		return b.Len(), true
	case proxy.Completion:
		all = b.Complete() // asked first: nothing comes after that
		n = b.Buffered()
		return n, all || length >= 0 && int64(n) >= length
	case proxy.Lookahead:
		n = b.Buffered()
		return n, length >= 0 && int64(n) >= length
	}
	return 0, false
}

// readNow reads a body of n bytes.
func (rt *roundTrip) readNow(n int) error {
	if b, ok := rt.body.(*bytes.Reader); ok && n > slabSizes[slab2K] {
		rt.first = borrow(b)
		return rt.readAll()
	}
	size := slab2K
	for slabSizes[size] <= n {
		size++
	}
	s := rt.cl.mem.slab(size)
	rt.first = s
	for {
		k, err := rt.body.Read(s.b[s.w:])
		s.w += k
		if err == io.EOF {
			break
		}
		if err == nil && s.w == len(s.b) {
			return nil // there is more than was said: the rest is streamed
		}
		if err != nil {
			return &proxy.BodyError{Err: err}
		}
	}
	return rt.readAll()
}

// readAll notes that all of the body is in first.
func (rt *roundTrip) readAll() error {
	s := rt.first
	if want := rt.r.ContentLength; want >= 0 && want != int64(s.w) {
		return &proxy.BodyError{Err: fault.New(fault.InvalidArgument, "the body has %d bytes; its length says %d", s.w, want)}
	}
	rt.body = nil
	if rt.r.Trailer != nil {
		rt.trailer = *rt.r.Trailer
	}
	return nil
}

// borrow returns what is left in b, which it consumes, as a slab that is not
// pooled: the memory stays that of b, and is not copied.
func borrow(b *bytes.Reader) *slab {
	var all borrowed
	_, _ = b.WriteTo(&all) // cannot fail
	return &slab{b: all, w: len(all), size: notPooled}
}

// borrowed remembers what is written to it.
type borrowed []byte

func (b *borrowed) Write(p []byte) (int, error) {
	*b = p
	return len(p), nil
}

// attempt sends the request on c, of which a slot was taken, and waits for the
// head of the response. unsent tells that the server has not acted on it.
func (rt *roundTrip) attempt(ctx context.Context, c *conn) (res *response, unsent bool, err error) {
	res, unsent, err = rt.open(ctx, c)
	if err != nil {
		return nil, unsent, err
	}
	var until time.Time
	if rt.opts.HeadTimeout > 0 {
		until = time.Now().Add(rt.opts.HeadTimeout)
	}
	return rt.awaitHead(res, until)
}

// lastStream is the highest number of a stream.
const lastStream = maxWindow

// putBack gives back a slot that was not used.
func (c *conn) putBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.role.freed(c, 1)
}

// open opens a stream and sends the head on it, and the body if it is there.
func (rt *roundTrip) open(ctx context.Context, c *conn) (res *response, unsent bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.makeRoom(rt.co, highWater)
	if err := c.checkFields(rt.r.Header); err != nil {
		c.role.freed(c, 1)
		return nil, false, err
	}
	if c.err != nil || c.drain != drainNot {
		// It was about to be dropped.
		c.slots.Add(1)
		return nil, true, c.goneFault()
	}
	if rt.r.Upgrade != "" && !c.peerConn {
		c.role.freed(c, 1)
		return nil, false, c.fault(fault.Unimplemented, nil, "the server does not take upgrades over HTTP/2 (RFC 8441)")
	}
	st := c.mem.stream()
	res = c.mem.response(ctx, rt.co)
	res.c, res.st = c, st
	st.c, st.id = c, c.nextID
	c.nextID += 2
	st.refs = 2 // the table and the response
	st.sendWin, st.recvWin, st.target = c.sendInit, c.recvInit, c.recvInit
	st.recvLeft, st.sendLeft = proxy.UnknownLength, proxy.UnknownLength
	st.client = clientSide{res: res, head: rt.r.Method == "HEAD", connect: rt.streams()}
	c.enroll(st)
	if c.nextID >= lastStream {
		c.finishDrain() // there are no more numbers for streams
	}
	st.co = rt.co
	rt.sendHead(c, st, res)
	c.flush(rt.co)
	return res, false, nil
}

// sendHead sends the head and what is there of the body, and has the rest sent.
// c.mu is held.
func (rt *roundTrip) sendHead(c *conn, st *stream, res *response) {
	whole := rt.body == nil && !st.client.connect
	none := whole && (rt.first == nil || rt.first.w == 0) && len(rt.trailer) == 0
	c.appendRequest(st, rt.r, none)
	switch {
	case none || st.client.connect:
	case whole && int64(rt.first.w) <= min(st.sendWin, c.sendWin) && len(c.turns.streams) == 0 && c.turns.taken == 0:
		var done <-chan struct{}
		if len(c.out) >= highWater { // otherwise it does not wait
			done = res.ctx.Done()
		}
		_, err := c.send(st, rt.first.b[:rt.first.w], done)
		if err == nil {
			err = c.appendTrailers(st, rt.trailer)
		}
		if err != nil {
			st.reset(codeCancel, res.ctxFault(err))
		}
	default:
		rt.bodyTouched = true
		c.detach(rt.co) // the body is read by another goroutine meanwhile
		res.up = newUpload(rt, st)
		c.workers.run(res.up)
	}
}

// goneFault says why a connection takes no more streams. c.mu is held.
func (c *conn) goneFault() error {
	if c.err != nil {
		return c.err
	}
	if c.goneAway != nil {
		return c.fault(fault.Unavailable, c.goneAway, "the server closes the connection")
	}
	return c.fault(fault.Unavailable, nil, "the connection is being closed")
}

// awaitHead waits for the final head of the response.
func (rt *roundTrip) awaitHead(res *response, until time.Time) (*response, bool, error) {
	c, st := res.c, res.st
	c.mu.Lock()
	for {
		if len(st.client.interims) > 0 {
			rt.interim(res, st)
			continue
		}
		if st.gotHead || st.err != nil {
			break
		}
		switch why := res.await(st, until); {
		case st.gotHead || st.err != nil:
		case why == waitDone:
			st.reset(codeCancel, res.ctxFault(errDone))
			c.flush(st.co)
		case why == waitExpired:
			st.reset(codeCancel, c.fault(fault.DeadlineExceeded, nil, "the response did not begin within %v", rt.opts.HeadTimeout))
			c.flush(st.co)
		}
	}
	if st.err == nil || st.gotHead {
		rt.present(res, st)
		c.mu.Unlock()
		return res, false, nil
	}
	err, unsent := res.inTime(st.err), st.client.unsent
	c.mu.Unlock()
	_ = (*responseBody)(res).Close()
	return nil, unsent, err
}

// interim passes on the interim responses. c.mu is held, but not meanwhile.
func (rt *roundTrip) interim(res *response, st *stream) {
	all := st.client.interims
	st.client.interims = nil
	if rt.opts.Interim == nil {
		return
	}
	res.c.mu.Unlock()
	for _, i := range all {
		rt.opts.Interim(i.status, i.header)
	}
	res.c.mu.Lock()
}
