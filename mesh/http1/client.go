package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// The defaults of a Client.
const (
	DefaultMaxIdle       = 256
	DefaultClientIdle    = 50 * time.Second
	DefaultDialTimeout   = 5 * time.Second
	DefaultExpectTimeout = time.Second
)

// Client sends requests to one server and keeps connections to it. Its exported
// fields must not change once it is in use. It implements proxy.RoundTripper.
//
// The context of a round trip covers it until the response's Body is closed, or
// until an upgraded stream is returned. That a context has been canceled may be
// noticed up to 20 ms late.
//
// # Sending again
//
// A server may close a connection at the very moment it is used again. A
// connection that has ended is not used; when it ends under a request, the
// Client sends the request again by itself, on a new connection, if nothing of
// the response has come and
//   - nothing of the request can have reached the server's application (no byte
//     was written, or the server had closed the connection before it received
//     any, which TCP on Linux can tell),
//   - the server reset the connection without having read all of the request
//     (see below), or
//   - its method is idempotent (GET, HEAD, OPTIONS, TRACE, PUT, DELETE)
//
// and its content, if any, was so short that it was sent with the head. It never
// does so for a connection that was new.
//
// A server that closes a connection just as a request arrives does not know of
// the request, which lies in the kernel unread. The kernel then resets the
// connection, while one whose bytes were all read ends in good order, also when
// the server crashes. So a reset without a byte of a response tells that the
// request was not read, and a POST is sent again, too, under conditions that
// leave no other explanation but a server that resets connections on purpose:
// the server is on the same host, so that nothing in between can have reset it;
// the request has no more than 4 KiB, which servers read at once or not at all;
// and the reset came within a second.
//
// What remains: a POST or PATCH that meets such a moment fails with
// fault.Unavailable when it is larger, when its content was streamed, when the
// server is on another host or TLS is spoken. To make it rare, connections are
// not used that a server has closed, or will soon by its Keep-Alive field.
type Client struct {
	// Network is "tcp" (the default) or "unix"; Address is a host and port, or
	// the path of a socket; required.
	Network, Address string
	// Name is how errors call the server; the default is the Address.
	Name string
	// TLS, when not nil, makes the Client speak TLS. A ServerName that is
	// empty is taken from the Address.
	TLS *tls.Config
	// Dial, when not nil, opens connections instead of the network's dialer.
	// The Client adds TLS to what it returns.
	Dial func(ctx context.Context) (net.Conn, error)

	// MaxIdle bounds the connections that are kept without use, 0 stands for
	// the default, negative for none.
	MaxIdle int
	// IdleTimeout is how long a connection is kept without use. It should be
	// less than what the server allows. 0 stands for the default, here and
	// below; negative for no bound.
	IdleTimeout time.Duration
	// DialTimeout bounds connecting and the TLS handshake.
	DialTimeout time.Duration
	// StallTimeout is how long the server may take to accept, or within a
	// response to send, any more bytes. Upgraded streams have no such bound.
	StallTimeout time.Duration
	// ExpectTimeout is how long the content of a request with
	// "Expect: 100-continue" is kept back.
	ExpectTimeout time.Duration
	// MaxHead (in bytes) and MaxFields bound the head of a response.
	MaxHead, MaxFields int

	bufs buffers

	mu       sync.Mutex
	idle     []*clientConn // the one used last is the last
	attended []*clientConn // the same, of those that have attendants
	sweep    *time.Timer   // closes those that were idle for too long
	sweeping bool          // the timer runs
	closed   bool
}

var _ proxy.RoundTripper = (*Client)(nil)

// RoundTrip implements proxy.RoundTripper.
func (cl *Client) RoundTrip(ctx context.Context, r *proxy.Request, opts proxy.RoundTripOptions) (*proxy.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, proxy.MarkUnsent(cl.ctxError(err, "send a request to"))
	}
	if err := checkRequest(r); err != nil {
		return nil, proxy.MarkUnsent(err)
	}
	head, wsKey, err := appendRequestHead(cl.bufs.get()[:0], r)
	if err != nil {
		return nil, proxy.MarkUnsent(err)
	}
	c, err := cl.takeFor(ctx, r, len(head))
	if err != nil {
		cl.bufs.put(head)
		return nil, proxy.MarkUnsent(err)
	}
	c.begin(ctx, opts.HeadTimeout, head, wsKey)
	for {
		resp, err := c.roundTrip(r, opts)
		if err == nil {
			return resp, nil
		}
		next, err := cl.instead(ctx, c, r, err)
		c.release()
		if err != nil {
			return nil, err
		}
		c = next
	}
}

// takeFor is take for a caller that may be a coroutine, and a request whose head
// has a length.
func (cl *Client) takeFor(ctx context.Context, r *proxy.Request, head int) (*clientConn, error) {
	if co := coroutine.From(ctx); co.Attached() {
		if c := cl.takeAttended(r, head); c != nil {
			c.co, c.w.co = co, co
			return c, nil
		}
		co.Detach()
	}
	return cl.take(ctx)
}

// take returns a connection: the one that was used last, or a new one.
func (cl *Client) take(ctx context.Context) (*clientConn, error) {
	if c := cl.takeIdle(); c != nil {
		return c, nil
	}
	return cl.connect(ctx)
}

// instead returns a connection for sending a request again that has failed on c
// with cause, or the error for its caller.
func (cl *Client) instead(ctx context.Context, c *clientConn, r *proxy.Request, cause error) (next *clientConn, err error) {
	coroutine.Detach(ctx)
	switch {
	case c.stale:
		next, err = cl.take(ctx)
	case c.used && c.mayRepeat(r):
		next, err = cl.connect(ctx)
	default:
		return nil, cause
	}
	if err != nil {
		if !c.wrote && !c.consumed {
			err = proxy.MarkUnsent(err)
		}
		return nil, err
	}
	next.beginAgain(c)
	return next, nil
}

// CloseIdle closes the connections that are not in use.
func (cl *Client) CloseIdle() {
	cl.mu.Lock()
	idle := append(cl.idle, cl.attended...)
	cl.idle, cl.attended = nil, nil
	cl.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
}

// Close closes the connections that are not in use, and makes those in use
// close when they are no longer. The Client can still be used, without keeping
// connections.
func (cl *Client) Close() error {
	cl.mu.Lock()
	cl.closed = true
	if cl.sweep != nil {
		cl.sweep.Stop()
	}
	cl.mu.Unlock()
	cl.CloseIdle()
	return nil
}

func (cl *Client) name() string {
	if cl.Name != "" {
		return cl.Name
	}
	return cl.Address
}

// takeIdle returns the connection that was used last, or nil. It may have ended.
func (cl *Client) takeIdle() *clientConn { return cl.pop(&cl.idle) }

// pop takes the connection that was used last off a list; nil for none.
func (cl *Client) pop(list *[]*clientConn) *clientConn {
	for {
		cl.mu.Lock()
		n := len(*list) - 1
		if n < 0 {
			cl.mu.Unlock()
			return nil
		}
		c := (*list)[n]
		(*list)[n] = nil
		*list = (*list)[:n]
		cl.mu.Unlock()
		if !cl.expired(c, time.Now()) {
			return c
		}
		c.close()
	}
}

func (cl *Client) expired(c *clientConn, now time.Time) bool {
	d := orDefault(cl.IdleTimeout, DefaultClientIdle)
	if c.keepFor > 0 && (d < 0 || c.keepFor < d) {
		d = c.keepFor
	}
	return d >= 0 && now.Sub(c.idleSince) >= d
}

// putIdle keeps a connection for later requests.
func (cl *Client) putIdle(c *clientConn) {
	c.used, c.idleSince = true, time.Now()
	cl.mu.Lock()
	list := &cl.idle
	if c.attendant != nil {
		list = &cl.attended
	}
	full := cl.closed || len(*list) >= orDefault(cl.MaxIdle, DefaultMaxIdle)
	if !full {
		if c.attendant != nil {
			c.attendant.leave()
		}
		*list = append(*list, c)
		if !cl.sweeping {
			cl.sweepIn(orDefault(cl.IdleTimeout, DefaultClientIdle))
		}
	}
	cl.mu.Unlock()
	if full {
		c.close()
	}
}

// drop takes a connection with an attendant out of those that are idle, and
// reports false if it is not there.
func (cl *Client) drop(c *clientConn) bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	i := slices.Index(cl.attended, c)
	if i < 0 {
		return false
	}
	cl.attended = slices.Delete(cl.attended, i, i+1)
	return true
}

// sweepIn lets closeExpired be called after d, if there is a bound.
func (cl *Client) sweepIn(d time.Duration) {
	switch {
	case d < 0:
		return
	case cl.sweep == nil:
		cl.sweep = time.AfterFunc(d, cl.closeExpired)
	default:
		cl.sweep.Reset(d)
	}
	cl.sweeping = true
}

// closeExpired is called by the timer while connections are idle.
func (cl *Client) closeExpired() {
	now := time.Now()
	cl.mu.Lock()
	var expired []*clientConn
	oldest := now
	for _, list := range [...]*[]*clientConn{&cl.idle, &cl.attended} {
		n := 0
		for n < len(*list) && cl.expired((*list)[n], now) {
			n++
		}
		expired = append(expired, (*list)[:n]...)
		*list = slices.Delete(*list, 0, n)
		if len(*list) > 0 && (*list)[0].idleSince.Before(oldest) {
			oldest = (*list)[0].idleSince
		}
	}
	cl.sweeping = false
	if len(cl.idle)+len(cl.attended) > 0 && !cl.closed {
		cl.sweepIn(orDefault(cl.IdleTimeout, DefaultClientIdle) - now.Sub(oldest))
	}
	cl.mu.Unlock()
	for _, c := range expired {
		c.close()
	}
}

// connect opens a connection.
func (cl *Client) connect(ctx context.Context) (*clientConn, error) {
	dialCtx := ctx
	if d := orDefault(cl.DialTimeout, DefaultDialTimeout); d >= 0 {
		var cancel context.CancelFunc
		dialCtx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	nc, err := cl.dial(dialCtx)
	if err != nil {
		return nil, cl.dialError(ctx, err)
	}
	if cl.TLS != nil {
		if nc, err = cl.handshake(dialCtx, nc); err != nil {
			return nil, cl.dialError(ctx, err)
		}
	}
	return newClientConn(cl, nc), nil
}

func (cl *Client) dial(ctx context.Context) (net.Conn, error) {
	if cl.Dial != nil {
		return cl.Dial(ctx)
	}
	network := cl.Network
	if network == "" {
		network = "tcp"
	}
	return new(net.Dialer).DialContext(ctx, network, cl.Address)
}

func (cl *Client) handshake(ctx context.Context, nc net.Conn) (net.Conn, error) {
	config := cl.TLS
	if config.ServerName == "" && !config.InsecureSkipVerify {
		host, _, err := net.SplitHostPort(cl.Address)
		if err != nil {
			host = cl.Address
		}
		config = config.Clone()
		config.ServerName = host
	}
	t := tls.Client(nc, config)
	if err := t.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, err
	}
	return t, nil
}

// ctxError names the end of a context.
func (cl *Client) ctxError(err error, doing string) error {
	return fault.Wrap(err, fault.CodeOf(err), "%s %s", doing, cl.name())
}

// dialError says why there is no connection.
func (cl *Client) dialError(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return cl.ctxError(cause, "connect to")
	}
	return fault.Wrap(err, fault.Unavailable, "cannot connect to %s: %s", cl.name(), whyNot(err))
}

// whyNot says in a few words what ails a connection, for callers that may not
// see addresses and the like.
func whyNot(err error) string {
	var certificate *tls.CertificateVerificationError
	var op *net.OpError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection was refused"
	case errors.Is(err, syscall.ENOENT):
		return "there is no such socket"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the connection was reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "the host cannot be reached"
	case errors.As(err, &certificate):
		return "its certificate is not accepted"
	case errors.As(err, &op) && op.Op == "remote error": // a TLS alert
		return "it answered with a TLS alert: " + strings.TrimPrefix(op.Err.Error(), "tls: ")
	case errors.As(err, &record):
		return "it does not speak TLS"
	case errors.As(err, &dns):
		return "its name cannot be resolved"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "it took too long"
	}
	return "the connection failed"
}

// checkRequest reports what of r could be read differently than it is meant, so
// that no request can hide in another.
func checkRequest(r *proxy.Request) error {
	switch {
	case !isToken(r.Method):
		return fault.New(fault.InvalidArgument, "the method %s is not a token", quote(r.Method))
	case !isTarget(r.Target):
		return fault.New(fault.InvalidArgument, "the request target %s is not valid", quote(r.Target))
	case !isHost(r.Authority):
		return fault.New(fault.InvalidArgument, "the authority %s is not a host and port", quote(r.Authority))
	case !isFieldValue(r.Upgrade):
		return fault.New(fault.InvalidArgument, "the protocol %s is not valid", quote(r.Upgrade))
	case r.Body == nil && r.ContentLength > 0:
		return fault.New(fault.InvalidArgument, "a request with a length but without content")
	}
	return nil
}
