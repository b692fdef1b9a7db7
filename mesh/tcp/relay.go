package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/proa-io/proa/fault"
)

// The defaults of a Relay.
const (
	DefaultMaxConns       = 10_000
	DefaultConnectTimeout = 10 * time.Second
)

// Observer is told of the connections of a Relay. It must not block, and is called
// from many goroutines.
type Observer interface {
	// Opened is called for every connection that is accepted.
	Opened()
	// Closed is called once for each of them, when it is over.
	Closed(Outcome)
}

// Relay passes on connections that it accepts to an upstream. Its exported fields
// must not change once Serve was called. Its methods are safe for concurrent use.
type Relay struct {
	// Dial connects to the upstream; required. What it returns is a *net.TCPConn
	// where possible, so that the kernel can move the bytes.
	Dial func(ctx context.Context) (Stream, error)
	// TLS, when not nil, makes Serve do a TLS handshake with clients, before the
	// upstream is connected to.
	TLS *tls.Config
	// MaxConns bounds the number of connections; one more is reset. 0 stands
	// for DefaultMaxConns; negative for no bound.
	MaxConns int
	// ConnectTimeout bounds a handshake with a client, and a Dial. 0 stands for
	// DefaultConnectTimeout; negative for no bound.
	ConnectTimeout time.Duration
	// Joiner says how long connections may last.
	Joiner Joiner
	// Observer is told of connections; nil for none.
	Observer Observer
	// Log is told, at level debug, of connections that failed, and of failures
	// to accept; nil for none.
	Log *slog.Logger

	once   sync.Once
	ctx    context.Context //nolint:containedctx // the life of the relay; ends its connections when it is closed
	cancel context.CancelCauseFunc

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	count     int
	closing   bool
	active    sync.WaitGroup // connections
}

func (r *Relay) init() {
	r.once.Do(func() {
		r.ctx, r.cancel = context.WithCancelCause(context.Background())
		r.listeners = map[net.Listener]struct{}{}
		if r.Log == nil {
			r.Log = slog.New(slog.DiscardHandler)
		}
	})
}

// errStopped says that the relay was stopped.
var errStopped = fault.New(fault.Unavailable, "the relay has been stopped")

// Serve accepts connections and passes them on until the listener fails or the
// relay is stopped. It closes ln. After Shutdown or Close it returns nil at once;
// those wait for the connections.
func (r *Relay) Serve(ln net.Listener) error {
	r.init()
	defer ln.Close()
	if !r.track(ln) {
		return nil
	}
	defer r.untrack(ln)
	var delay time.Duration
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
			r.accepted(c)
		case r.isClosing():
			return nil
		case !passing(err):
			return fault.Wrap(err, fault.Unavailable, "accept connections on %s", ln.Addr())
		default:
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			r.Log.Warn("cannot accept a connection", "address", ln.Addr().String(), "error", err, "retry_in", delay)
			time.Sleep(delay)
		}
	}
}

// passing reports whether accepting may work again soon.
func passing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// accepted has a connection served if there may be one more.
func (r *Relay) accepted(c net.Conn) {
	if r.Observer != nil {
		r.Observer.Opened()
	}
	client, ok := c.(Stream)
	if !ok {
		_ = c.Close()
		r.closed(c, Outcome{Failure: Broken, Err: fault.New(fault.Internal, "a %T cannot end one direction by itself", c)})
		return
	}
	if !r.enter() {
		reset(client)
		r.closed(c, Outcome{Failure: Limited, Err: fault.New(fault.ResourceExhausted, "there are as many connections as there may be")})
		return
	}
	go func() {
		defer r.active.Done()
		o := r.serve(client)
		r.leave()
		r.closed(c, o)
	}()
}

func (r *Relay) closed(c net.Conn, o Outcome) {
	if o.Err != nil {
		r.Log.Debug("a connection failed", "client", peer(c), "failure", o.Failure.String(), "error", o.Err)
	}
	if r.Observer != nil {
		r.Observer.Closed(o)
	}
}

func peer(c net.Conn) string {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port()).String()
	}
	return "local"
}

// serve passes one connection on.
func (r *Relay) serve(client Stream) Outcome {
	began := time.Now()
	fail := func(why Failure, err error) Outcome {
		reset(client)
		if r.ctx.Err() != nil {
			why = Stopped
		}
		return Outcome{Duration: time.Since(began), Failure: why, Err: err}
	}
	client, upstream, why, err := r.connect(client)
	if err != nil {
		return fail(why, err)
	}
	o := r.Joiner.Join(r.ctx, client, upstream)
	o.Duration = time.Since(began)
	return o
}

// connect makes the two ends of a connection.
func (r *Relay) connect(client Stream) (_, upstream Stream, why Failure, err error) {
	ctx, cancel := r.connecting()
	defer cancel()
	if c, ok := client.(net.Conn); ok && r.TLS != nil {
		secure := tls.Server(c, r.TLS)
		if err := secure.HandshakeContext(ctx); err != nil {
			return client, nil, Handshake, fault.Wrap(err, fault.Unavailable, "TLS handshake")
		}
		client = secure
	}
	if upstream, err = r.Dial(ctx); err != nil {
		return client, nil, NotConnected, err
	}
	return client, upstream, NoFailure, nil
}

func (r *Relay) connecting() (context.Context, context.CancelFunc) {
	switch d := r.ConnectTimeout; {
	case d < 0:
		return context.WithCancel(r.ctx)
	case d == 0:
		return context.WithTimeout(r.ctx, DefaultConnectTimeout)
	default:
		return context.WithTimeout(r.ctx, d)
	}
}

func (r *Relay) track(ln net.Listener) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return false
	}
	r.listeners[ln] = struct{}{}
	return true
}

func (r *Relay) untrack(ln net.Listener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.listeners, ln)
}

func (r *Relay) isClosing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closing
}

// enter counts a connection in, and among the active, if there may be one more.
func (r *Relay) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	most := r.MaxConns
	if most == 0 {
		most = DefaultMaxConns
	}
	if r.closing || most > 0 && r.count >= most {
		return false
	}
	r.count++
	r.active.Add(1)
	return true
}

func (r *Relay) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count--
}

// Conns returns how many connections there are.
func (r *Relay) Conns() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// stop closes the listeners.
func (r *Relay) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
	for ln := range r.listeners {
		_ = ln.Close()
	}
}

// Shutdown stops the relay in good order: it closes the listeners and waits until
// the connections have ended. If ctx ends before that, it does what Close does and
// returns an error.
func (r *Relay) Shutdown(ctx context.Context) error {
	r.init()
	r.stop()
	done := make(chan struct{})
	go func() {
		r.active.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	left := r.Conns()
	r.Close()
	<-done
	return fault.Wrap(context.Cause(ctx), fault.CodeOf(ctx.Err()), "stop the relay: %d connections had not ended", left)
}

// Close stops the relay at once: it closes the listeners, resets the connections,
// and waits until nothing is left of them.
func (r *Relay) Close() {
	r.init()
	r.stop()
	r.cancel(errStopped)
	r.active.Wait()
}

// Dialer returns a Dial that connects to a TCP address, and speaks TLS there if a
// configuration is given.
func Dialer(address string, tc *tls.Config) func(context.Context) (Stream, error) {
	var d net.Dialer
	return func(ctx context.Context) (Stream, error) {
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, fault.Wrap(err, fault.Unavailable, "connect to %s", address)
		}
		bare, ok := c.(*net.TCPConn)
		if !ok {
			_ = c.Close()
			return nil, fault.New(fault.Internal, "a connection to %s is a %T", address, c)
		}
		if tc == nil {
			return bare, nil
		}
		secure := tls.Client(bare, tc)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = bare.Close()
			return nil, fault.Wrap(err, fault.Unavailable, "TLS handshake with %s", address)
		}
		return secure, nil
	}
}
