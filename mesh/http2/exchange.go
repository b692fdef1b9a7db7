package http2

import (
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
	"sync/atomic"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// exchange is the server's side of one stream as its handler sees it. It holds
// its stream only until the handler has returned, so that whoever uses it
// later gets an error and not the next request.
type exchange struct {
	c       *conn
	st      *stream // nil once the handler has returned; c.mu guards it
	co      atomic.Pointer[coroutine.Coroutine]
	ctx     exchangeContext
	awaited bool // somebody has waited for the end of its context, and may have kept it
	inline  bool // its request is complete, so that it may be handled by who reads
}

var (
	_ proxy.Exchange   = (*exchange)(nil)
	_ proxy.Aborter    = (*exchange)(nil)
	_ proxy.Completion = (*requestBody)(nil)
	_ io.ReadCloser    = (*requestBody)(nil)
)

// Do implements coroutine.Task: it runs the handler on the goroutine that reads
// from the connection.
func (x *exchange) Do(co *coroutine.Coroutine) {
	x.c.mu.Lock()
	x.st.co = co
	x.c.mu.Unlock()
	x.co.Store(co)
	x.do()
	co.Used(x)
}

// Reuse implements coroutine.Reusable: the handler has ended without having had a
// goroutine of its own.
func (x *exchange) Reuse() {
	if !x.awaited {
		x.c.mem.exchanges.Put(x)
	}
}

// exchange returns one for a stream.
func (m *memory) exchange(c *conn, st *stream) *exchange {
	x, ok := m.exchanges.Get().(*exchange)
	if !ok {
		x = &exchange{}
		x.ctx.x = x
	}
	x.c, x.st, x.inline = c, st, false
	x.ctx.inner, x.ctx.cancel = nil, nil
	return x
}

// do runs the handler, on a pooled goroutine or a coroutine.
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
	x.c.log.Error("handler panicked", "peer", x.c.peer(), "panic", v, "stack", stack())
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
	x.c.flush(st.co)
	return nil
}

// errAnswered says that a second head was to be sent.
var errAnswered = fault.New(fault.FailedPrecondition, "the response has been begun already")

// Abort implements proxy.Exchange: it resets the stream with INTERNAL_ERROR.
func (x *exchange) Abort() { x.AbortWith(nil) }

// AbortWith implements proxy.Aborter: if the cause is that another peer has
// reset a stream, its error code is passed on.
func (x *exchange) AbortWith(cause error) {
	code := codeInternal
	if r, ok := errors.AsType[*ResetError](cause); ok && r.ByPeer && r.Code != codeNo {
		code = r.Code
	}
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	if st := x.st; st != nil && st.err == nil {
		st.reset(code, st.resetFault(code, false, "the handler has aborted the exchange"))
		x.c.kick()
	}
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
	x.co.Store(nil)
	x.awaited = x.ctx.inner != nil
	st.server.x = nil
	if x.ctx.cancel != nil {
		x.ctx.cancel(errOver)
	}
	st.dropContent()
	st.wakeReader()
	st.wakeWriter()
	c.running--
	co := st.co
	st.unref()
	c.flush(co)
	c.closeIfDrained()
}
