package http1

import (
	"io"
	"strconv"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// flushDelay is the longest that written content is held back without Flush.
const flushDelay = 5 * time.Millisecond

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
		ex.endless.Store(true)
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
	switch {
	case !ex.responded:
	case ex.w.co.Attached():
		// The coroutine must not be held up by ex.mu while this one waits.
		if more := ex.wrote(ex.w.tryFlush()) == nil && len(ex.w.out) > 0; more {
			ex.flushLater()
		}
	default:
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
