package http1

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// exchange is the server's side of one request. It belongs to its connection,
// which uses it for one request after the other.
type exchange struct {
	c     *conn
	req   proxy.Request
	body  body
	ctx   atomic.Pointer[exchangeContext]
	limit int64
	co    *coroutine.Coroutine // that handles the exchange; nil: the connection's goroutine does

	draining  bool // the body is skipped, until conn.headBy
	aborted   atomic.Bool
	endless   atomic.Bool // only the connection's end ends the response
	expecting atomic.Bool // the client waits for 100 before it sends the body
	tooLarge  bool        // the body was larger than limit
	panicked  bool

	// mu guards what follows, the sending side: the handler writes, the reader
	// of the body may send 100, and a timer flushes.
	mu         sync.Mutex
	w          writer
	responded  bool     // a final status was given
	ended      bool     // nothing more may be written
	kind       bodyKind // how the response's content is delimited
	closeAfter bool     // the connection ends with this exchange
	timing     bool     // the timer runs
	left       int64    // of a content with a length
	upgraded   *stream
	err        error       // what every further write returns
	timer      *time.Timer // flushes what was held back for long
}

var (
	_ proxy.Exchange = (*exchange)(nil)
	_ io.ReaderFrom  = (*exchange)(nil)
)

func (ex *exchange) init(c *conn) {
	ex.c = c
	ex.body.rd, ex.body.owner = &c.rd, c
	ex.w.init(&c.rd, orDefault(c.s.StallTimeout, DefaultStallTimeout))
}

// begin makes the exchange ready to take in a request.
func (ex *exchange) begin() {
	ex.limit, ex.draining, ex.tooLarge, ex.panicked = -1, false, false, false
	ex.expecting.Store(false)
	ex.endless.Store(false)
	ex.body.start(bodyNone, 0, -1)
	ex.mu.Lock()
	defer ex.mu.Unlock()
	ex.responded, ex.ended, ex.kind, ex.left, ex.closeAfter = false, false, bodyNone, 0, false
}

// open prepares the exchange for the handler, once the request is parsed.
func (ex *exchange) open(limit int64) {
	c, r := ex.c, &ex.req
	r.Scheme = "http"
	if c.tls != nil {
		r.Scheme = "https"
	}
	ex.limit = limit
	switch {
	case r.ContentLength == 0:
		r.Body = nil
		return
	case r.ContentLength > 0:
		ex.body.start(bodyLength, r.ContentLength, -1)
	default:
		ex.body.start(bodyChunked, 0, limit)
		r.Trailer = &ex.body.trailer
	}
	r.Body = &ex.body
	// Nobody waits for a 100 whose content has come already.
	ex.expecting.Store(c.head.expectContinue && !c.head.old && c.rd.buffered() == 0)
}

// listen lets the connection be watched for the end of the client, if there is
// no content to come first.
func (ex *exchange) listen() {
	if ex.req.Body == nil {
		ex.c.watch.bodyEnded()
	}
}

// setCoroutine says who handles the exchange, if it is a coroutine.
func (ex *exchange) setCoroutine(co *coroutine.Coroutine) {
	ex.co = co
	ex.mu.Lock()
	ex.w.co = co
	ex.mu.Unlock()
}

// release gives up what is not needed while no request is there.
func (ex *exchange) release() {
	fields := ex.req.Header
	clear(fields)
	if cap(fields) > 4*typicalFields {
		fields = nil
	}
	ex.req = proxy.Request{Header: fields[:0]}
	if cap(ex.body.trailer) > typicalFields {
		ex.body.trailer = nil
	}
	clear(ex.body.trailer)
	ex.mu.Lock()
	defer ex.mu.Unlock()
	ex.w.release()
}

// typicalFields is a number of fields that most heads stay below.
const typicalFields = 16

func (ex *exchange) Request() *proxy.Request { return &ex.req }

func (ex *exchange) Remote() netip.AddrPort {
	a, ok := ex.c.rd.conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (ex *exchange) TLS() *tls.ConnectionState { return ex.c.tls }

func (ex *exchange) Context() context.Context {
	if ctx := ex.ctx.Load(); ctx != nil {
		return ctx
	}
	ctx := &exchangeContext{watch: &ex.c.watch, ex: ex, co: ex.co}
	if !ex.ctx.CompareAndSwap(nil, ctx) {
		return ex.ctx.Load()
	}
	if ex.c.closed.Load() {
		ctx.end()
	}
	return ctx
}

func (ex *exchange) endContext() {
	if ctx := ex.ctx.Load(); ctx != nil {
		ctx.end()
	}
}

// expects reports whether the client still waits for 100.
func (ex *exchange) expects() bool { return ex.expecting.Load() }

// sendContinue tells the client to send the body, unless it has its response.
func (ex *exchange) sendContinue() error {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	if ex.responded || !ex.expecting.Swap(false) {
		return nil
	}
	ex.w.buffer("HTTP/1.1 100 Continue\r\n\r\n")
	return ex.flush()
}

func (ex *exchange) Upgrade(h proxy.Header) (io.ReadWriteCloser, error) {
	connect := ex.req.Method == "CONNECT"
	if ex.req.Upgrade == "" && !connect {
		return nil, fault.New(fault.FailedPrecondition, "the client did not ask for an upgrade")
	}
	// From here on, bytes belong to the stream.
	ex.c.watch.stop()
	ex.mu.Lock()
	defer ex.mu.Unlock()
	if ex.responded {
		return nil, errResponded
	}
	if connect {
		ex.w.buffer("HTTP/1.1 200 OK\r\n")
	} else {
		ex.w.buffer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ")
		ex.w.out = append(append(ex.w.out, ex.req.Upgrade...), crlf...)
		if key := ex.req.Header.Get("Sec-WebSocket-Key"); key != "" && !h.Has("Sec-WebSocket-Accept") {
			ex.w.buffer("Sec-WebSocket-Accept: " + webSocketAccept(key) + crlf)
		}
	}
	out, _, err := appendFields(ex.w.out, h)
	if err != nil {
		ex.w.out = ex.w.out[:0]
		return nil, err
	}
	ex.w.out = append(out, crlf...)
	ex.responded, ex.ended, ex.closeAfter = true, true, true
	if err := ex.flush(); err != nil {
		return nil, err
	}
	ex.c.readBy = time.Time{}
	_ = ex.c.rd.conn.SetDeadline(time.Time{})
	ex.upgraded = &stream{nc: ex.c.rd.conn, rd: &ex.c.rd}
	return ex.upgraded, nil
}

func (ex *exchange) Abort() {
	if !ex.aborted.Swap(true) {
		ex.endContext()
		ex.resetIfEndless()
		ex.c.rd.conn.Close()
	}
}

// resetIfEndless makes closing the connection a reset, if a proper end would
// look like the end of the response.
func (ex *exchange) resetIfEndless() {
	if tcp, ok := bareConn(ex.c.rd.conn).(*net.TCPConn); ok && ex.endless.Load() {
		_ = tcp.SetLinger(0)
	}
}

// close ends the exchange after the handler has returned and reports whether
// the connection can go on.
func (ex *exchange) close() bool {
	ex.endContext()
	ex.c.watch.stop()
	ex.ctx.Store(nil)
	if ex.aborted.Load() {
		return false
	}
	ex.mu.Lock()
	responded := ex.responded
	ex.mu.Unlock()
	if !responded {
		switch {
		case ex.tooLarge:
			ex.refuse(refuse(413, "the body is longer than %d bytes", ex.limit))
		default:
			ex.refuse(refuse(500, "internal error"))
		}
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	switch {
	case ex.upgraded != nil:
		return false
	case ex.panicked && responded, ex.kind == bodyLength && ex.left > 0 && !ex.ended:
		ex.flush()
		ex.resetIfEndless()
		return false
	case ex.kind == bodyChunked && !ex.ended:
		ex.w.buffer(lastChunk)
	}
	ex.ended = true
	return ex.flush() == nil
}
