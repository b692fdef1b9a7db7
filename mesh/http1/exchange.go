package http1

import (
	"context"
	"crypto/tls"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// flushDelay is the longest that written content is held back without Flush.
const flushDelay = 5 * time.Millisecond

// exchange is the server's side of one request. It belongs to its connection,
// which uses it for one request after the other.
type exchange struct {
	c       *conn
	req     proxy.Request
	body    body
	ctx     atomic.Pointer[exchangeContext]
	limit   int64
	drainBy time.Time // when skipping the body must end; zero: not skipping

	aborted   atomic.Bool
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
	left       int64    // of a content with a length
	closeAfter bool     // the connection ends with this exchange
	upgraded   *stream
	err        error       // what every further write returns
	timer      *time.Timer // flushes what was held back for long
	timing     bool        // the timer runs
}

var (
	_ proxy.Exchange = (*exchange)(nil)
	_ io.ReaderFrom  = (*exchange)(nil)
)

func (ex *exchange) init(c *conn) {
	ex.c = c
	ex.body.rd, ex.body.owner = &c.rd, c
	ex.w.init(c.nc, &c.s.bufs, orDefault(c.s.StallTimeout, DefaultStallTimeout))
}

// begin makes the exchange ready to take in a request.
func (ex *exchange) begin() {
	ex.limit, ex.drainBy, ex.tooLarge, ex.panicked = -1, time.Time{}, false, false
	ex.expecting.Store(false)
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
		c.watch.bodyEnded()
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

func (ex *exchange) Remote() netip.AddrPort { return ex.c.remote }

func (ex *exchange) TLS() *tls.ConnectionState { return ex.c.tls }

func (ex *exchange) Context() context.Context {
	if ctx := ex.ctx.Load(); ctx != nil {
		return ctx
	}
	ctx := &exchangeContext{watch: &ex.c.watch}
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

func (ex *exchange) Interim(status int, h proxy.Header) error {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	switch {
	case ex.responded:
		return errResponded
	case status < 100 || status > 199 || status == 101:
		return fault.New(fault.Internal, "%d is not an interim status", status)
	case ex.c.head.old:
		return nil // HTTP/1.0 has none
	case status == 100:
		ex.expecting.Store(false)
	}
	start := len(ex.w.out)
	ex.w.buffer("")
	ex.w.out = appendStatusLine(ex.w.out, status)
	out, _, err := appendFields(ex.w.out, h)
	if err != nil {
		ex.w.out = ex.w.out[:start]
		return err
	}
	ex.w.out = append(out, crlf...)
	return ex.flush()
}

var (
	errResponded error = fault.New(fault.Internal, "the response was begun already")
	errNoHead    error = fault.New(fault.Internal, "there is no response to write to: call Respond first")
	errEnded     error = fault.New(fault.Internal, "the response has ended")
	errTooLong   error = fault.New(fault.Internal, "the response is longer than its Content-Length")
	errNoContent error = fault.New(fault.Internal, "a response with this status has no content")
)

func (ex *exchange) Respond(status int, h proxy.Header, contentLength int64) error {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	switch {
	case ex.err != nil:
		return ex.err
	case ex.responded:
		return errResponded
	case status < 200 || status > 999:
		return fault.New(fault.Internal, "%d is not a final status", status)
	}
	if err := ex.writeHead(status, h, contentLength); err != nil {
		return err
	}
	if ex.ended {
		return ex.flush()
	}
	return nil
}

// writeHead puts the head of the response into the buffer.
func (ex *exchange) writeHead(status int, h proxy.Header, contentLength int64) error {
	start := len(ex.w.out)
	ex.w.buffer("")
	ex.w.out = appendStatusLine(ex.w.out, status)
	out, dated, err := appendFields(ex.w.out, h)
	if err != nil {
		ex.w.out = ex.w.out[:start]
		return err
	}
	if !dated {
		out = append(out, ex.c.s.dateField()...)
	}
	ex.responded = true
	ex.frame(status, contentLength)
	switch {
	case status == 204 || status == 304 && contentLength == 0:
	case contentLength >= 0:
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, contentLength, 10)
		out = append(out, crlf...)
	case ex.kind == bodyChunked:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	switch {
	case ex.closeAfter:
		out = append(out, "Connection: close\r\n"...)
	case ex.c.head.old:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	ex.w.out = append(out, crlf...)
	return nil
}

// frame decides how the content is delimited and whether the connection ends
// with this exchange.
func (ex *exchange) frame(status int, contentLength int64) {
	old := ex.c.head.old
	switch {
	case status == 204 || status == 304 || ex.req.Method == "HEAD":
		ex.kind, ex.ended = bodyNone, true
	case contentLength >= 0:
		ex.kind, ex.left = bodyLength, contentLength
		ex.ended = contentLength == 0
	case old:
		ex.kind, ex.closeAfter = bodyClose, true
	default:
		ex.kind = bodyChunked
	}
	if !ex.c.head.keepAlive() || ex.c.s.closing.Load() || ex.expects() ||
		ex.req.ContentLength > drainLimit && !ex.body.done.Load() {
		ex.closeAfter = true
	}
}

// mayWrite reports why n bytes of content cannot be written, if so.
func (ex *exchange) mayWrite(n int) error {
	switch {
	case ex.err != nil:
		return ex.err
	case !ex.responded:
		return errNoHead
	case ex.kind == bodyNone && n > 0:
		return errNoContent
	case ex.kind == bodyLength && int64(n) > ex.left:
		return errTooLong
	case ex.ended && n > 0:
		return errEnded
	}
	return nil
}

// Write implements proxy.Exchange. What it holds back is sent when the buffer
// is full, with the last byte of a known length, at Flush, when the handler
// returns, or after flushDelay.
func (ex *exchange) Write(p []byte) (int, error) {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	if ex.responded && ex.req.Method == "HEAD" {
		return len(p), ex.err
	}
	if err := ex.mayWrite(len(p)); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	var err error
	switch ex.kind {
	case bodyChunked:
		err = ex.w.chunk(p)
	case bodyLength:
		ex.left -= int64(len(p))
		if err = ex.w.send(p, ""); err == nil && ex.left == 0 {
			ex.ended = true
			err = ex.w.flush()
		}
	default:
		err = ex.w.send(p, "")
	}
	if ex.wrote(err) != nil {
		return 0, ex.err
	}
	if len(ex.w.out) > 0 && !ex.timing {
		ex.flushLater()
	}
	return len(p), nil
}

// flush writes what is in the buffer.
func (ex *exchange) flush() error {
	if ex.err != nil {
		return ex.err
	}
	return ex.wrote(ex.w.flush())
}

// wrote notes the outcome of a write to the connection.
func (ex *exchange) wrote(err error) error {
	if err != nil && ex.err == nil {
		ex.err = fault.Wrap(err, fault.Canceled, "the client went away")
		ex.endContext()
	}
	return ex.err
}

// flushLater makes sure that what is in the buffer is sent soon.
func (ex *exchange) flushLater() {
	ex.timing = true
	if ex.timer == nil {
		ex.timer = time.AfterFunc(flushDelay, ex.flushLate)
	} else {
		ex.timer.Reset(flushDelay)
	}
}

// flushLate is called by the timer.
func (ex *exchange) flushLate() {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	ex.timing = false
	if ex.responded {
		_ = ex.flush()
	}
}

func (ex *exchange) Flush() error {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	return ex.flush()
}

// ReadFrom writes what r holds. From a socket to a socket, content with a known
// length takes the way through the kernel.
func (ex *exchange) ReadFrom(r io.Reader) (int64, error) {
	if from, ok := r.(*io.LimitedReader); ok {
		if n, done, err := ex.splice(from); done {
			return n, err
		}
	}
	buf := ex.c.s.bufs.getCopy()
	defer ex.c.s.bufs.putCopy(buf)
	return io.CopyBuffer(struct{ io.Writer }{ex}, struct{ io.Reader }{r}, buf[:])
}

// splice lets the kernel move the bytes, if it can.
func (ex *exchange) splice(from *io.LimitedReader) (n int64, done bool, err error) {
	if !ex.w.canSplice(from) {
		return 0, false, nil
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	if ex.kind != bodyLength || ex.ended || from.N > ex.left {
		return 0, false, nil
	}
	if ex.err != nil {
		return 0, true, ex.err
	}
	n, err = ex.w.splice(from)
	if ex.left -= n; ex.left == 0 {
		ex.ended = true
	}
	return n, true, ex.wrote(err)
}

func (ex *exchange) Trailer(h proxy.Header) error {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	if err := ex.mayWrite(0); err != nil {
		return err
	}
	if ex.kind == bodyChunked && !ex.ended {
		out, err := appendTrailer(ex.w.out, h)
		if err != nil {
			return err
		}
		ex.w.out, ex.ended = out, true
	}
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
	_ = ex.c.nc.SetDeadline(time.Time{})
	ex.upgraded = &stream{nc: ex.c.nc, rd: &ex.c.rd}
	return ex.upgraded, nil
}

func (ex *exchange) Abort() {
	if !ex.aborted.Swap(true) {
		ex.endContext()
		ex.c.nc.Close()
	}
}

// refuse answers with an error in plain text.
func (ex *exchange) refuse(e *headError) {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	text := e.reason + "\n"
	h := proxy.Header{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}}
	if ex.responded || ex.err != nil {
		return
	}
	ex.closeAfter = true
	if ex.writeHead(e.status, h, int64(len(text))) != nil {
		return
	}
	if ex.kind == bodyLength {
		ex.w.buffer(text)
	}
	ex.ended = true
	_ = ex.flush()
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
		return false
	case ex.kind == bodyChunked && !ex.ended:
		ex.w.buffer(lastChunk)
	}
	ex.ended = true
	return ex.flush() == nil
}
