package wasm

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"github.com/tetratelabs/wazero/api"

	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// The features that a guest may ask for.
const (
	bufferRequest = 1 << iota
	bufferResponse
	trailers
	allFeatures = bufferRequest | bufferResponse | trailers
)

type exchangeKey struct{}

// exchange is what a guest sees of one request and its answer. It is the
// proxy.Exchange that the request goes on with: with bufferResponse the answer
// is kept back until the guest has seen it.
type exchange struct {
	proxy.Exchange
	m        *Middleware
	watch    *watch
	features uint32
	passed   bool // the request has gone on

	request struct {
		read     io.Reader // what the guest reads from; nil before it does
		whole    []byte    // the content, if it is buffered
		buffered bool
		written  *bytes.Buffer // by the guest; nil for nothing
	}
	answer struct {
		status  int   // 0 for none
		length  int64 // as it was announced
		header  proxy.Header
		trailer proxy.Header
		content bytes.Buffer
		read    io.Reader     // what the guest reads from; nil before it does
		written *bytes.Buffer // by the guest; nil for nothing
		sent    bool          // on its way to the client, or given up
		failed  error         // why there is none
	}
}

var _ proxy.Aborter = (*exchange)(nil)

// Handle implements middleware.Driver.
func (m *Middleware) Handle(ex proxy.Exchange, next proxy.Handler) {
	x := &exchange{Exchange: ex, m: m, features: m.features.Load()}
	result, err := m.call(ex.Context(), x, func(g *guest) api.Function { return g.request })
	if err != nil {
		x.refuse(err)
		return
	}
	if uint32(result)&1 == 0 { //nolint:gosec // the lower half says whether the request goes on
		x.send()
		return
	}
	x.goOn()
	next(x)
	failed := uint64(0)
	if x.answer.failed != nil {
		failed = 1
	}
	x.answer.read = nil
	_, err = m.call(ex.Context(), x, func(g *guest) api.Function { return g.response }, result>>32, failed)
	switch {
	case x.answer.sent && err != nil:
		m.log.Warn("a guest failed after the answer", "error", err)
	case x.answer.sent: // nothing is kept back
	case err != nil:
		x.refuse(err)
	case x.answer.failed != nil && x.answer.written == nil:
		proxy.Abort(ex, x.answer.failed)
	case x.answer.status != 0:
		x.send()
	}
}

// refuse answers a request whose guest has failed.
func (x *exchange) refuse(err error) {
	if x.Exchange.Context().Err() != nil {
		x.Abort()
		return
	}
	x.m.log.Error("a guest failed", "error", err)
	x.answer.sent = true
	middleware.Refuse(x.Exchange, http.StatusInternalServerError, "ERR_MIDDLEWARE", "the WebAssembly middleware failed: "+message(err))
}

// message returns what the client may know of a failure.
func message(err error) string {
	switch {
	case err == errTooLong: //nolint:errorlint // as it was given
		return err.Error()
	case fault.CodeOf(err) == fault.Internal || fault.CodeOf(err) == fault.Unknown:
		return "its guest was ended"
	}
	return fault.Message(err)
}

// goOn makes the request what the guest wants it to be.
func (x *exchange) goOn() {
	x.passed = true
	x.answer.status, x.answer.written = 0, nil // those of an answer of its own, which it has not given
	r := x.Request()
	switch {
	case x.request.written != nil:
		r.Body, r.ContentLength, r.Trailer = bytes.NewReader(x.request.written.Bytes()), int64(x.request.written.Len()), nil
	case x.request.buffered:
		r.Body, r.ContentLength = bytes.NewReader(x.request.whole), int64(len(x.request.whole))
		x.request.read = bytes.NewReader(x.request.whole) // from the beginning, when it sees the answer
	case x.request.read != nil: // some of it is gone
		r.ContentLength = proxy.UnknownLength
	}
}

// send answers with what the guest has made of the answer.
func (x *exchange) send() {
	x.answer.sent = true
	if x.answer.status == 0 {
		x.answer.status = http.StatusOK
	}
	content := x.answer.content.Bytes()
	if x.answer.written != nil {
		content = x.answer.written.Bytes()
	}
	length := int64(len(content))
	bodiless := x.Request().Method == http.MethodHead || x.answer.status == http.StatusNotModified
	if bodiless && x.answer.written == nil && x.passed {
		length = x.answer.length
	}
	if len(x.answer.trailer) > 0 {
		length = proxy.UnknownLength
	}
	if x.Exchange.Respond(x.answer.status, x.answer.header, length) != nil {
		return // the client has gone
	}
	if !bodiless {
		_, _ = x.Exchange.Write(content) // as above
	}
	if len(x.answer.trailer) > 0 {
		_ = x.Exchange.Trailer(x.answer.trailer) // as above
	}
}

// keeps reports whether the answer is kept back.
func (x *exchange) keeps() bool { return x.features&bufferResponse != 0 }

// Respond implements proxy.Exchange. Fields that the guest has set stay, where
// the answer does not have them itself.
func (x *exchange) Respond(status int, h proxy.Header, length int64) error {
	all := append(proxy.Header(nil), h...)
	for _, f := range x.answer.header {
		if !h.Has(f.Name) {
			all = append(all, f)
		}
	}
	if !x.keeps() {
		x.answer.sent, x.answer.status = true, status
		return x.Exchange.Respond(status, all, length)
	}
	x.answer.status, x.answer.header, x.answer.length = status, all, length
	return nil
}

// Write implements proxy.Exchange.
func (x *exchange) Write(b []byte) (int, error) {
	if !x.keeps() {
		return x.Exchange.Write(b)
	}
	if int64(x.answer.content.Len()+len(b)) > int64(x.m.cfg.MaxBody) {
		x.answer.failed = fault.New(fault.ResourceExhausted, "the answer is larger than a guest may have it buffered (maxBodySize)")
		return 0, x.answer.failed
	}
	return x.answer.content.Write(b)
}

// Flush implements proxy.Exchange.
func (x *exchange) Flush() error {
	if !x.keeps() {
		return x.Exchange.Flush()
	}
	return nil
}

// Trailer implements proxy.Exchange.
func (x *exchange) Trailer(h proxy.Header) error {
	if !x.keeps() {
		return x.Exchange.Trailer(h)
	}
	x.answer.trailer = append(x.answer.trailer, h...)
	return nil
}

// Upgrade implements proxy.Exchange. What comes after it is none of the guest's
// business.
func (x *exchange) Upgrade(h proxy.Header) (io.ReadWriteCloser, error) {
	x.answer.sent = true
	return x.Exchange.Upgrade(h)
}

// Abort implements proxy.Exchange.
func (x *exchange) Abort() { x.AbortWith(fault.New(fault.Unavailable, "the exchange was aborted")) }

// AbortWith implements proxy.Aborter.
func (x *exchange) AbortWith(cause error) {
	if x.passed && x.keeps() && !x.answer.sent {
		x.answer.failed = cause
		return
	}
	x.answer.sent = true
	proxy.Abort(x.Exchange, cause)
}

// requestContent returns where the guest reads the content of the request from.
func (x *exchange) requestContent(ctx context.Context) io.Reader {
	if x.request.read != nil {
		return x.request.read
	}
	body := x.Request().Body
	if body == nil {
		body = proxy.NoBody{}
	}
	x.request.read = patient{ctx, body, x.watch}
	if x.features&bufferRequest != 0 {
		whole, err := io.ReadAll(io.LimitReader(x.request.read, int64(x.m.cfg.MaxBody)+1))
		if err != nil {
			panic(fault.Wrap(err, fault.CodeOf(err), "read the content of the request"))
		}
		if int64(len(whole)) > int64(x.m.cfg.MaxBody) {
			panic(fault.New(fault.ResourceExhausted, "the content of the request is larger than a guest may have it buffered (maxBodySize)"))
		}
		x.request.whole, x.request.buffered = whole, true
		x.request.read = bytes.NewReader(whole)
	}
	return x.request.read
}

// patient reads what a client sends, for which the guest is not to blame when it
// takes long.
type patient struct {
	ctx   context.Context //nolint:containedctx // it lives as long as one call of a guest
	body  io.Reader
	watch *watch
}

// Read implements io.Reader.
func (p patient) Read(b []byte) (int, error) {
	p.watch.pause()
	defer p.watch.resume()
	if c, ok := p.body.(io.Closer); ok {
		defer context.AfterFunc(p.ctx, func() { _ = c.Close() })()
	}
	return p.body.Read(b)
}
