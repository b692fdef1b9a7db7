package appchannel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
)

// exchange is one HTTP request to the application and its answer. Exchanges
// are used again, with all that they hold.
type exchange struct {
	app  *httpApp
	call policy.Call
	do   func(context.Context) error // e.roundTrip

	request proxy.Request
	header  proxy.Header // the request's
	content bytes.Reader // the request's

	status     int
	answer     bytes.Buffer // as much of it as may be
	cut        bool         // the answer is longer
	retryAfter time.Duration
}

// exchangePool keeps exchanges.
type exchangePool struct{ pool sync.Pool }

// keepAnswer is how large the buffer of an exchange may be that is kept.
const keepAnswer = 64 << 10

// begin returns an exchange for a request. Its header has what every request
// has; the caller adds to it.
func (a *httpApp) begin(method, route string) *exchange {
	e, ok := a.exchanges.pool.Get().(*exchange)
	if !ok {
		e = &exchange{app: a}
		e.do = e.roundTrip
	}
	e.request = proxy.Request{Method: method, Scheme: a.link.scheme, Authority: a.link.authority, Target: targetOf(route)}
	e.header = e.header[:0]
	if a.link.token != "" {
		e.header = append(e.header, proxy.Field{Name: dapr.TokenHeader, Value: a.link.token})
	}
	return e
}

// setContent makes content the request's. It must not change until end.
func (e *exchange) setContent(content []byte, contentType string) {
	e.content.Reset(content)
	e.request.Body, e.request.ContentLength = &e.content, int64(len(content))
	e.header = append(e.header, proxy.Field{Name: fieldContentType, Value: contentType})
	e.call.Bytes = len(content)
}

// end gives the exchange back. Nothing it holds may be used after that.
func (e *exchange) end() {
	if e.answer.Cap() > keepAnswer {
		e.answer = bytes.Buffer{}
	}
	clear(e.header) // so that nothing of the message is kept
	e.content.Reset(nil)
	e.request, e.call = proxy.Request{}, policy.Call{}
	e.app.exchanges.pool.Put(e)
}

// deliver sends the request once the limit allows it, and reads the answer.
func (e *exchange) deliver(ctx context.Context) error {
	e.call.Key = e.request.Target
	return e.app.link.limited(ctx, &e.call, e.do)
}

// roundTrip sends the request and reads the answer. Any status is an answer,
// not an error.
func (e *exchange) roundTrip(ctx context.Context) error {
	e.request.Header = e.header
	resp, err := e.app.link.send(ctx, &e.request, proxy.RoundTripOptions{})
	if err != nil {
		return e.failed(err, "%s %s of the application")
	}
	defer resp.Body.Close()
	e.status, e.retryAfter, e.cut = resp.Status, 0, false
	if after := resp.Header.Get("retry-after"); after != "" {
		e.retryAfter = parseRetryAfter(after)
	}
	if err := e.read(resp.Body); err != nil {
		return e.failed(err, "read the answer to %s %s of the application")
	}
	return nil
}

// read fills answer.
func (e *exchange) read(body io.Reader) error {
	e.answer.Reset()
	most := e.app.opt.MaxAnswer
	for {
		e.answer.Grow(bytes.MinRead)
		free := e.answer.AvailableBuffer()
		n, err := body.Read(free[:min(cap(free), most-e.answer.Len()+1)])
		e.answer.Write(free[:n])
		switch {
		case e.answer.Len() > most:
			e.cut = true
			return nil
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (e *exchange) failed(err error, doing string) error {
	code := fault.CodeOf(err)
	if code == fault.Unknown {
		code = fault.Unavailable // the connection broke
	}
	return fault.Wrap(err, code, doing, e.request.Method, e.request.Target)
}

// ok reports whether the answer means success.
func (e *exchange) ok() bool { return e.status >= 200 && e.status <= 299 }

// refused returns the error that the answer stands for.
func (e *exchange) refused() error {
	return httpError(e.request.Method, e.request.Target, e.status, e.answer.Bytes(), e.retryAfter)
}
