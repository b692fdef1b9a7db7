// Package middlewaretest has an exchange for tests of middleware.
package middlewaretest

import (
	"context"
	"crypto/tls"
	"io"
	"net/netip"
	"testing"

	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// Exchange is a proxy.Exchange in memory, which keeps the answer.
type Exchange struct {
	Req        proxy.Request
	Ctx        context.Context //nolint:containedctx // a proxy.Exchange has the context of its request
	RemoteAddr netip.AddrPort

	Status  int // of the answer; 0 for none
	Header  proxy.Header
	Content []byte
	Trailed proxy.Header
	Aborted bool
	Passed  bool // whether it came out of the middleware
}

// New returns an exchange for a request without content. fields are names and
// values in turn.
func New(t testing.TB, method, target string, fields ...string) *Exchange {
	x := &Exchange{Req: proxy.Request{Method: method, Target: target}, Ctx: t.Context()}
	for i := 0; i+1 < len(fields); i += 2 {
		x.Req.Header.Add(fields[i], fields[i+1])
	}
	return x
}

// Through takes the exchange through a middleware. What comes out is answered
// with 200.
func (x *Exchange) Through(d middleware.Driver) *Exchange {
	d.Handle(x, func(ex proxy.Exchange) {
		x.Passed = true
		_ = ex.Respond(200, nil, 0)
	})
	return x
}

// Request implements proxy.Exchange, as do the following.
func (x *Exchange) Request() *proxy.Request { return &x.Req }

// Context returns the context of the test.
func (x *Exchange) Context() context.Context { return x.Ctx }

// Interim does nothing.
func (x *Exchange) Interim(int, proxy.Header) error { return nil }

// Respond keeps the head of the answer.
func (x *Exchange) Respond(status int, h proxy.Header, _ int64) error {
	if x.Status != 0 {
		return fault.New(fault.Internal, "the request was answered already")
	}
	x.Status, x.Header = status, append(proxy.Header(nil), h...)
	return nil
}

// Write keeps content of the answer.
func (x *Exchange) Write(b []byte) (int, error) {
	x.Content = append(x.Content, b...)
	return len(b), nil
}

// Flush does nothing.
func (x *Exchange) Flush() error { return nil }

// Trailer keeps the trailer fields.
func (x *Exchange) Trailer(h proxy.Header) error {
	x.Trailed = append(x.Trailed, h...)
	return nil
}

// Upgrade fails.
func (x *Exchange) Upgrade(proxy.Header) (io.ReadWriteCloser, error) {
	return nil, fault.New(fault.Unimplemented, "this exchange cannot be upgraded")
}

// Remote returns RemoteAddr.
func (x *Exchange) Remote() netip.AddrPort { return x.RemoteAddr }

// TLS returns nil.
func (x *Exchange) TLS() *tls.ConnectionState { return nil }

// Abort notes that it was called.
func (x *Exchange) Abort() { x.Aborted = true }
