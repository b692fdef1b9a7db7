package http2

import (
	"context"
	"crypto/tls"
	"io"
	"net/netip"
	"strconv"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// exchange is the server's side of one stream as its handler sees it. It holds
// its stream only until the handler has returned, so that whoever uses it
// later gets an error and not the next request.
type exchange struct {
	c  *conn
	st *stream // nil once the handler has returned; c.mu guards it
}

var (
	_ proxy.Exchange  = (*exchange)(nil)
	_ proxy.Lookahead = (*requestBody)(nil)
	_ io.ReadCloser   = (*requestBody)(nil)
)

// do runs the handler, on a pooled goroutine.
func (x *exchange) do() {
	s := x.c.role.(*Server)
	defer x.c.handlers.Done()
	defer x.finish()
	defer x.recover()
	s.Handler(x)
}

// recover turns a panic of the handler into a reset of its stream.
func (x *exchange) recover() {
	v := recover()
	if v == nil {
		return
	}
	x.c.log.Error("handler panicked", "peer", x.c.peer, "panic", v, "stack", stack())
	x.Abort()
}

// Request implements proxy.Exchange.
func (x *exchange) Request() *proxy.Request {
	if st := x.st; st != nil {
		return &st.server.req
	}
	return &proxy.Request{}
}

// Remote implements proxy.Exchange.
func (x *exchange) Remote() netip.AddrPort { return remote(x.c.nc) }

// TLS implements proxy.Exchange.
func (x *exchange) TLS() *tls.ConnectionState { return x.c.tls }

// Context implements proxy.Exchange.
func (x *exchange) Context() context.Context {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	if x.st == nil {
		return endedContext()
	}
	s := &x.st.server
	if s.ctx == nil {
		s.ctx, s.cancel = context.WithCancelCause(context.Background())
		if x.st.err != nil {
			s.cancel(x.st.err)
		}
	}
	return s.ctx
}

func endedContext() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errOver)
	return ctx
}

// errOver says that an exchange is used after its handler has returned.
var errOver = fault.New(fault.FailedPrecondition, "the exchange is over: its handler has returned")

// lock locks the connection if the exchange can still be answered; otherwise it
// returns an error and leaves the connection unlocked. It takes a reference, so
// that the stream is not used again while the lock is released in between;
// unlock gives both back.
func (x *exchange) lock() (*stream, error) {
	x.c.mu.Lock()
	st := x.st
	if st == nil {
		x.c.mu.Unlock()
		return nil, errOver
	}
	if st.err != nil {
		err := st.err
		x.c.mu.Unlock()
		return nil, err
	}
	st.refs++
	return st, nil
}

func (x *exchange) unlock(st *stream) {
	st.unref()
	x.c.mu.Unlock()
}

// Interim implements proxy.Exchange.
func (x *exchange) Interim(status int, h proxy.Header) error {
	if status < 100 || status > 199 || status == 101 {
		return fault.New(fault.InvalidArgument, "%d is no status of an interim response", status)
	}
	st, err := x.lock()
	if err != nil {
		return err
	}
	defer x.unlock(st)
	if st.server.responded {
		return errAnswered
	}
	if err := x.c.checkFields(h); err != nil {
		return err
	}
	st.server.expect = st.server.expect && status != 100
	if err := x.c.appendHead(st, status, h, proxy.UnknownLength, false); err != nil {
		return err
	}
	x.c.flushLocked()
	return nil
}

// errAnswered says that a second head was to be sent.
var errAnswered = fault.New(fault.FailedPrecondition, "the response has been begun already")

// Respond implements proxy.Exchange.
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
	if contentLength == 0 || s.noContent {
		// What follows decides whether the head is all: the end, or trailers.
		s.holds, s.heldCode = true, status
		s.held = append(s.held[:0], h...)
		return nil
	}
	return x.c.appendHead(st, status, h, contentLength, false)
}

// release sends the head that Respond has held back. c.mu is held.
func (st *stream) release(end bool) error {
	s := &st.server
	if !s.holds {
		return nil
	}
	s.holds = false
	return st.c.appendHead(st, s.heldCode, s.held, st.sendLeft, end)
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
	case st.sendLeft >= 0 && int64(len(p)) > st.sendLeft:
		return 0, fault.New(fault.InvalidArgument, "%d bytes were written, %d more than the response's length says",
			len(p), int64(len(p))-st.sendLeft)
	}
	n, err := x.c.send(st, p, nil)
	if st.sendLeft >= 0 {
		st.sendLeft -= int64(n)
	}
	return n, err
}

// Flush implements proxy.Exchange. A head that says that it is all of a gRPC
// response goes out as such.
func (x *exchange) Flush() error {
	st, err := x.lock()
	if err != nil {
		return err
	}
	defer x.unlock(st)
	if s := &st.server; s.holds {
		end := s.noContent || s.held.Has("grpc-status")
		if err := st.release(end); err != nil {
			return err
		}
	}
	x.c.flushLocked()
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
	if err := st.release(s.noContent || len(h) == 0); err != nil || st.localEnd {
		return err
	}
	return x.c.appendTrailers(st, h)
}

// Abort implements proxy.Exchange: it resets the stream with INTERNAL_ERROR.
func (x *exchange) Abort() { x.Reset(codeInternal) }

// Reset is Abort with an error code for the client. See [Reset].
func (x *exchange) Reset(code Code) {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	st := x.st
	if st == nil {
		return
	}
	if st.err == nil {
		st.reset(code, st.resetFault(code, false, "the handler has aborted the exchange"))
		x.c.flushLocked()
	}
}

// Reset aborts an exchange of this package with an error code for the client;
// other exchanges it just aborts. A forwarder passes on the code of a
// [ResetError] with it.
func Reset(x proxy.Exchange, code Code) {
	if r, ok := x.(interface{ Reset(Code) }); ok {
		r.Reset(code)
		return
	}
	x.Abort()
}

// finish completes the response after the handler has returned, and lets go of
// the stream.
func (x *exchange) finish() {
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	st := x.st
	if st.err == nil {
		st.complete()
	}
	x.st = nil
	st.server.x = nil
	if st.server.cancel != nil {
		st.server.cancel(errOver)
	}
	st.dropContent()
	st.wakeReader()
	st.wakeWriter()
	c.running--
	st.unref()
	c.flushLocked()
	c.closeIfDrained()
}

// complete ends the response in the way that the handler has left it. c.mu is
// held.
func (st *stream) complete() {
	c, s := st.c, &st.server
	switch {
	case !s.responded:
		status := 500
		if s.tooLarge {
			status = 413
		}
		_ = c.appendHead(st, status, nil, 0, true)
	case s.holds:
		if st.release(true) != nil {
			st.reset(codeInternal, errOver)
		}
	case st.sendLeft > 0 && !s.noContent && !st.localEnd:
		st.reset(codeInternal, st.resetFault(codeInternal, false,
			"the response is "+strconv.FormatInt(st.sendLeft, 10)+" bytes shorter than its length says"))
	default:
		c.endLocal(st)
	}
	if st.err == nil && !st.remoteEnd {
		// The rest of the request is not wanted (RFC 9113, section 8.1).
		st.reset(codeNo, errOver)
	}
}
