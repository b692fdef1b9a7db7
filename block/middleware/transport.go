package middleware

import (
	"context"
	"crypto/tls"
	"io"
	"net/netip"
	"sync"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// Transport takes requests through a pipeline before Next sends them: that of
// the application. It is safe for concurrent use.
type Transport struct {
	next    proxy.RoundTripper
	handler proxy.Handler
	relay   proxy.Relayer
}

// NewTransport returns next itself when there is nothing in the pipeline.
func NewTransport(p Pipeline, next proxy.RoundTripper) proxy.RoundTripper {
	if len(p.Names) == 0 {
		return next
	}
	t := &Transport{next: next}
	t.handler = p.Wrap(t.send)
	return t
}

// send is the end of the pipeline.
func (t *Transport) send(ex proxy.Exchange) {
	o := proxy.RoundTripOptions{Interim: func(status int, h proxy.Header) { _ = ex.Interim(status, h) }}
	resp, err := t.next.RoundTrip(ex.Context(), ex.Request(), o)
	if err != nil {
		proxy.Abort(ex, err)
		return
	}
	_, _ = t.relay.Relay(ex, resp) // it aborts ex when it fails, which says why
}

// RoundTrip implements proxy.RoundTripper.
func (t *Transport) RoundTrip(ctx context.Context, r *proxy.Request, o proxy.RoundTripOptions) (*proxy.Response, error) {
	ctx, cancel := context.WithCancel(ctx)
	out := *r
	out.Header = append(proxy.Header(nil), r.Header...) // a middleware may change it, and a retry wants it as it was
	x := &outgoing{ctx: ctx, cancel: cancel, request: &out, interim: o.Interim, head: make(chan *proxy.Response, 1), done: make(chan struct{})}
	x.body.Reader, x.write = io.Pipe()
	x.body.x = x
	go func() {
		defer close(x.done)
		t.handler(x)
		x.end()
	}()
	select {
	case resp := <-x.head:
		return resp, nil
	case <-x.done:
	case <-ctx.Done():
		// The handler sees it too, and ends.
		<-x.done
	}
	select {
	case resp := <-x.head: // it was quick
		return resp, nil
	default:
	}
	defer cancel()
	if err := x.failure(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, fault.New(fault.Internal, "a middleware has not answered the request, nor passed it on")
}

// outgoing is the server's side of a request on its way to the application:
// what answers it makes the response that RoundTrip returns.
type outgoing struct {
	ctx     context.Context //nolint:containedctx // a proxy.Exchange has the context of its request
	cancel  context.CancelFunc
	request *proxy.Request
	interim func(int, proxy.Header)
	head    chan *proxy.Response // holds the response until it is taken
	done    chan struct{}        // closed when the handler has returned
	write   *io.PipeWriter
	body    outgoingBody
	trailer proxy.Header // valid once write is closed

	mu     sync.Mutex
	begun  bool
	failed error
}

// outgoingBody is the content of the response.
type outgoingBody struct {
	Reader *io.PipeReader
	x      *outgoing
}

func (b *outgoingBody) Read(p []byte) (int, error) { return b.Reader.Read(p) }

// Close gives the exchange up and waits until the handler has returned.
func (b *outgoingBody) Close() error {
	b.x.cancel()
	_ = b.Reader.CloseWithError(fault.New(fault.Canceled, "the answer is not wanted any more"))
	<-b.x.done
	return nil
}

func (x *outgoing) Request() *proxy.Request      { return x.request }
func (x *outgoing) Context() context.Context     { return x.ctx }
func (x *outgoing) Flush() error                 { return nil }
func (x *outgoing) Remote() netip.AddrPort       { return netip.AddrPort{} }
func (x *outgoing) TLS() *tls.ConnectionState    { return nil }
func (x *outgoing) Write(b []byte) (int, error)  { return x.write.Write(b) }
func (x *outgoing) Trailer(h proxy.Header) error { x.trailer = append(x.trailer, h...); return nil }

func (x *outgoing) Interim(status int, h proxy.Header) error {
	if x.interim != nil {
		x.interim(status, h)
	}
	return nil
}

func (x *outgoing) Respond(status int, h proxy.Header, length int64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.begun {
		return fault.New(fault.Internal, "the request was answered already")
	}
	x.begun = true
	x.head <- &proxy.Response{
		Status: status, Header: append(proxy.Header(nil), h...), ContentLength: length, Body: &x.body, Trailer: &x.trailer,
	}
	return nil
}

// Upgrade gives each side one end of a pair of pipes.
func (x *outgoing) Upgrade(h proxy.Header) (io.ReadWriteCloser, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.begun {
		return nil, fault.New(fault.Internal, "the request was answered already")
	}
	x.begun = true
	fromServer, toClient := io.Pipe()
	fromClient, toServer := io.Pipe()
	x.head <- &proxy.Response{
		Status: 101, Header: append(proxy.Header(nil), h...), Body: proxy.NoBody{},
		Upgraded: &duplex{read: fromServer, write: toServer, closed: func() { x.cancel(); <-x.done }},
	}
	return &duplex{read: fromClient, write: toClient}, nil
}

func (x *outgoing) Abort() { x.AbortWith(fault.New(fault.Unavailable, "the exchange was aborted")) }

// AbortWith implements proxy.Aborter.
func (x *outgoing) AbortWith(cause error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failed == nil {
		x.failed = cause
	}
	_ = x.write.CloseWithError(x.failed)
}

// end ends the content after the handler has returned.
func (x *outgoing) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	_ = x.write.CloseWithError(x.failed) // io.EOF for nil
}

func (x *outgoing) failure() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failed
}

// duplex is one end of an upgraded connection. It is a proxy.Stream.
type duplex struct {
	read   *io.PipeReader
	write  *io.PipeWriter
	closed func() // may be nil
	once   sync.Once
}

func (d *duplex) Read(b []byte) (int, error)  { return d.read.Read(b) }
func (d *duplex) Write(b []byte) (int, error) { return d.write.Write(b) }
func (d *duplex) CloseWrite() error           { return d.write.Close() }

func (d *duplex) Close() error {
	d.once.Do(func() {
		_ = d.write.Close()
		_ = d.read.Close()
		if d.closed != nil {
			d.closed()
		}
	})
	return nil
}
