package http2

import (
	"strconv"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// holdMost is how much content of a response is held back until it is flushed,
// in bytes. Head, content and trailers of a small response are put out in one
// go, so that no write of another stream's comes between them and the client is
// woken once.
const holdMost = 4 << 10

// heldResponse is what a handler has given and nobody has put out yet.
type heldResponse struct {
	head    bool // there is a head
	status  int
	header  proxy.Header
	length  int64
	content *slab // nil: none
}

// Respond implements proxy.Exchange. The head is held back.
func (x *exchange) Respond(status int, h proxy.Header, contentLength int64) error {
	if status < 200 || status > 999 {
		return fault.New(fault.InvalidArgument, "%d is no status of a final response", status)
	}
	st, err := x.lock()
	if err != nil {
		return err
	}
	defer x.unlock(st)
	s := &st.server
	if s.responded {
		return errAnswered
	}
	if err := x.c.checkFields(h); err != nil {
		return err
	}
	s.responded = true
	s.noContent = s.noContent || status == 204 || status == 304
	st.sendLeft = max(contentLength, proxy.UnknownLength)
	s.held.head, s.held.status, s.held.length = true, status, st.sendLeft
	s.held.header = append(s.held.header[:0], h...)
	return nil
}

// putOut puts out what is held back. end tells that nothing follows; then a
// head without content ends the stream. c.mu is held, but not while waiting.
func (st *stream) putOut(end bool) error {
	c, held := st.c, &st.server.held
	content := held.content
	held.content = nil
	defer c.mem.free(content)
	if held.head {
		held.head = false
		if err := c.appendHead(st, held.status, held.header, held.length, end && content == nil); err != nil {
			return err
		}
	}
	if content == nil {
		return nil
	}
	_, err := c.send(st, content.b[:content.w], nil)
	return err
}

// Write implements io.Writer. What is written goes out with the next Flush, at
// the end of the exchange, or when enough has gathered.
func (x *exchange) Write(p []byte) (int, error) {
	st, err := x.lock()
	if err != nil {
		return 0, err
	}
	defer x.unlock(st)
	s := &st.server
	switch {
	case !s.responded:
		return 0, fault.New(fault.FailedPrecondition, "content was written before the head of the response")
	case s.noContent:
		return len(p), nil
	case st.localEnd:
		return 0, errSendEnded
	case st.sendLeft >= 0 && int64(len(p)) > st.sendLeft:
		return 0, fault.New(fault.InvalidArgument, "%d bytes were written, %d more than the response's length says",
			len(p), int64(len(p))-st.sendLeft)
	}
	n, err := x.hold(st, p)
	if st.sendLeft >= 0 {
		st.sendLeft -= int64(n)
	}
	return n, err
}

// hold holds p back if it is short, or sends it with what was held before. c.mu
// is held, but not while waiting.
func (x *exchange) hold(st *stream, p []byte) (int, error) {
	held := &st.server.held
	before := 0
	if held.content != nil {
		before = held.content.w
	}
	if before+len(p) > holdMost {
		if err := st.putOut(false); err != nil {
			return 0, err
		}
		return x.c.send(st, p, nil)
	}
	if held.content == nil && len(p) > 0 {
		held.content = x.c.mem.slab(slab4K)
	}
	if len(p) > 0 {
		held.content.w += copy(held.content.b[before:], p)
	}
	return len(p), nil
}

// Flush implements proxy.Exchange. A head that says that it is all of a gRPC
// response goes out as such.
func (x *exchange) Flush() error {
	st, err := x.lock()
	if err != nil {
		return err
	}
	defer x.unlock(st)
	s := &st.server
	if err := st.putOut(s.noContent || s.held.head && s.held.header.Has("grpc-status")); err != nil {
		return err
	}
	x.c.flush(st.co)
	return st.err
}

// Trailer implements proxy.Exchange.
func (x *exchange) Trailer(h proxy.Header) error {
	st, err := x.lock()
	if err != nil {
		return err
	}
	defer x.unlock(st)
	s := &st.server
	switch {
	case !s.responded:
		return fault.New(fault.FailedPrecondition, "trailers were sent before the head of the response")
	case st.sendLeft > 0 && !s.noContent:
		return fault.New(fault.FailedPrecondition, "trailers were sent %d bytes before the end of the content", st.sendLeft)
	}
	if err := x.c.checkFields(h); err != nil {
		return err
	}
	if err := st.putOut(s.noContent || len(h) == 0); err != nil || st.localEnd {
		return err
	}
	return x.c.appendTrailers(st, h)
}

// complete ends the response in the way that the handler has left it. c.mu is
// held, but not while waiting.
func (st *stream) complete() {
	c, s := st.c, &st.server
	switch {
	case !s.responded:
		status := 500
		if s.tooLarge {
			status = 413
		}
		_ = c.appendHead(st, status, nil, 0, true)
	case st.sendLeft > 0 && !s.noContent && !st.localEnd:
		st.reset(codeInternal, st.resetFault(codeInternal, false,
			"the response is "+strconv.FormatInt(st.sendLeft, 10)+" bytes shorter than its length says"))
	default:
		if st.putOut(true) == nil {
			c.endLocal(st)
		}
	}
	if st.err == nil && !st.remoteEnd {
		// The rest of the request is not wanted (RFC 9113, section 8.1).
		st.reset(codeNo, errOver)
	}
}
