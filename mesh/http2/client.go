package http2

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
)

// Client sends requests to one upstream over HTTP/2. It connects when there is
// something to send, shares connections among requests, and replaces those that
// end. It is a proxy.RoundTripper. Its fields must not be changed once it is in
// use; its methods are safe for concurrent use.
type Client struct {
	// Addr is the address to connect to: host and port, or "unix:" and a path.
	// It is not used when Dial is set, but for errors.
	Addr string
	// Dial, when not nil, makes a connection. If it returns a *tls.Conn, the
	// client completes its handshake if need be; ALPN must select "h2".
	Dial func(ctx context.Context) (net.Conn, error)
	// TLS, when not nil, makes the client do a TLS handshake on what Dial, or
	// its own dialing, returns, if that is not TLS.
	TLS *tls.Config
	// Config bounds what a connection may cost.
	Config Config
	// Retire, when not nil, says of a TLS connection when it is to end in good
	// order, however busy it is: streams that are open then go on, new ones go to
	// another connection. The zero time is never.
	Retire func(*tls.ConnectionState) time.Time
	// Log tells of connections that ended because of what the peer did; nil
	// for nothing.
	Log *slog.Logger
	// MinConns is how many connections requests are spread over as soon as
	// there is more than one at a time. One connection is read by one
	// goroutine, so several can use more processors. Default 1.
	MinConns int
	// MaxConns is how many connections there may be at a time. A further one
	// is made when all have as many streams as the server allows. Default 16.
	MaxConns int
	// DialTimeout bounds the time until a connection stands, TLS included.
	// Config.HandshakeTimeout bounds the time until the server's SETTINGS have
	// come after that. Default 5 s.
	DialTimeout time.Duration

	once        sync.Once
	minConns    int
	maxConns    int
	dialTimeout time.Duration
	cfg         Config
	log         *slog.Logger
	tls         *tls.Config
	mem         memory
	workers     workers
	ctx         context.Context //nolint:containedctx // the life of the client; dials belong to no single call
	cancel      context.CancelCauseFunc

	conns   atomic.Pointer[[]*conn] // those that take new streams; mu guards changes
	waiting atomic.Int64            // len(waiters)

	// mu may be locked while the mutex of a connection is held, not the
	// other way round.
	mu      sync.Mutex
	all     map[*conn]struct{}
	dialing int
	last    error // why the last connection that ended did
	waiters []*waiter
	closing bool
	active  sync.WaitGroup // connections and dials
}

// waiter is a round trip that waits for a connection with a free stream.
type waiter struct {
	look chan error // nil: look again
}

func (cl *Client) init() {
	cl.once.Do(func() {
		cl.cfg = cl.Config.withDefaults()
		cl.log = cl.Log
		if cl.log == nil {
			cl.log = slog.New(slog.DiscardHandler)
		}
		cl.minConns, cl.maxConns, cl.dialTimeout = cl.MinConns, cl.MaxConns, cl.DialTimeout
		number(&cl.minConns, 1, 1<<10)
		number(&cl.maxConns, 16, 1<<10)
		cl.maxConns = max(cl.minConns, cl.maxConns)
		duration(&cl.dialTimeout, 5*time.Second)
		if cl.TLS != nil {
			cl.tls = cl.TLS.Clone()
			cl.tls.DynamicRecordSizingDisabled = true // records of a flush go out together
			cl.tls.NextProtos = []string{wire.NextProtoTLS}
			if host, _, err := net.SplitHostPort(cl.Addr); err == nil && cl.tls.ServerName == "" {
				cl.tls.ServerName = host
			}
		}
		cl.ctx, cl.cancel = context.WithCancelCause(context.Background())
		cl.all = map[*conn]struct{}{}
		cl.conns.Store(&[]*conn{})
	})
}

// name is what the client connects to, for errors.
func (cl *Client) name() string {
	if cl.Addr == "" {
		return "the upstream"
	}
	return cl.Addr
}

// errClosed says that the client was closed.
var errClosed = fault.New(fault.Unavailable, "the HTTP/2 client has been closed")

// acquire returns a connection on which a stream may be opened: a slot is taken
// of it. It waits while there is none.
func (cl *Client) acquire(ctx context.Context, co *coroutine.Coroutine) (*conn, error) {
	for futile := 0; ; {
		if c := cl.pick(); c != nil {
			return c, nil
		}
		if len(*cl.conns.Load()) == 0 {
			if futile++; futile > maxFutile {
				return nil, fault.Wrap(cl.lastEnd(), fault.Unavailable, "connections to %s end as soon as they are made", cl.name())
			}
		}
		co.Detach()
		w, err := cl.enqueue()
		if w == nil {
			if err != nil {
				return nil, err
			}
			continue
		}
		select {
		case err := <-w.look:
			if err != nil {
				return nil, err
			}
		case <-ctx.Done():
			cl.dequeue(w)
			return nil, fault.Wrap(context.Cause(ctx), fault.CodeOf(ctx.Err()), "wait for a connection to %s", cl.name())
		}
	}
}

// maxFutile is how often acquire connects without getting a stream.
const maxFutile = 4

// pick takes a slot of the connection that has most of them.
func (cl *Client) pick() *conn {
	conns := *cl.conns.Load()
	if len(conns) < cl.minConns && len(conns) > 0 {
		cl.spread(conns)
	}
	for {
		var best *conn
		var most int64
		for _, c := range conns {
			if n := c.slots.Load(); n > most {
				best, most = c, n
			}
		}
		if best == nil {
			return nil
		}
		if best.slots.Add(-1) >= 0 {
			return best
		}
		best.slots.Add(1)
	}
}

// spread makes another connection, up to MinConns, if those there are are in
// use.
func (cl *Client) spread(conns []*conn) {
	for _, c := range conns {
		if !c.inUse() {
			return
		}
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.dialing == 0 && len(*cl.conns.Load()) < cl.minConns && !cl.closing {
		cl.startDial()
	}
}

func (c *conn) inUse() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams) > 0
}

// enqueue begins to wait for a connection. It returns nothing if one has become
// free in the meantime.
func (cl *Client) enqueue() (*waiter, error) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.closing {
		return nil, errClosed
	}
	w := &waiter{look: make(chan error, 1)}
	cl.waiters = append(cl.waiters, w)
	// From here on, whoever frees a slot sees that somebody waits.
	cl.waiting.Add(1)
	if conns := *cl.conns.Load(); slices.ContainsFunc(conns, func(c *conn) bool { return c.slots.Load() > 0 }) {
		cl.waiters = cl.waiters[:len(cl.waiters)-1]
		cl.waiting.Add(-1)
		return nil, nil
	}
	if cl.dialing == 0 && len(*cl.conns.Load()) < cl.maxConns {
		cl.startDial()
	}
	return w, nil
}

func (cl *Client) dequeue(w *waiter) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if i := slices.Index(cl.waiters, w); i >= 0 {
		cl.waiters = slices.Delete(cl.waiters, i, i+1)
		cl.waiting.Add(-1)
		return
	}
	// It was told to look, and somebody else must do so now.
	cl.wakeLocked(1)
}

// wakeLocked lets up to n of those who wait look again. cl.mu is held.
func (cl *Client) wakeLocked(n int64) {
	n = min(n, int64(len(cl.waiters)))
	for _, w := range cl.waiters[:n] {
		w.look <- nil
	}
	cl.waiters = slices.Delete(cl.waiters, 0, int(n))
	cl.waiting.Add(-n)
}

// dialed takes in the end of a dial.
func (cl *Client) dialed(c *conn, err error) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.dialing--
	if err != nil {
		// Those who wait for a slot on the connections there are go on waiting.
		if len(*cl.conns.Load()) == 0 {
			for _, w := range cl.waiters {
				w.look <- err
			}
			cl.waiting.Add(int64(-len(cl.waiters)))
			cl.waiters = nil
		}
		return
	}
	conns := append(slices.Clone(*cl.conns.Load()), c)
	cl.conns.Store(&conns)
	cl.wakeLocked(c.slots.Load())
	if len(cl.waiters) > 0 && len(conns) < cl.maxConns && !cl.closing {
		cl.startDial()
	}
}

// lastEnd returns why the last connection that ended did.
func (cl *Client) lastEnd() error {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.last
}

// drop takes a connection out of those that take new streams. c.mu is held.
func (cl *Client) drop(c *conn) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.last = c.goneFault()
	conns := *cl.conns.Load()
	if i := slices.Index(conns, c); i >= 0 {
		rest := slices.Delete(slices.Clone(conns), i, i+1)
		cl.conns.Store(&rest)
		// Those who wait may have to connect anew.
		cl.wakeLocked(int64(len(cl.waiters)))
	}
}

// wake lets n of those who wait look again.
func (cl *Client) wake(n int64) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.wakeLocked(n)
}

// Shutdown closes the client in good order: requests that are under way may
// finish, new ones fail. If ctx ends before they have finished, it does what
// Close does and returns an error.
func (cl *Client) Shutdown(ctx context.Context) error {
	cl.init()
	for _, c := range cl.stop() {
		c.startDrain()
	}
	done := make(chan struct{})
	go func() {
		cl.active.Wait()
		close(done)
	}()
	select {
	case <-done:
		cl.Close()
		return nil
	case <-ctx.Done():
	}
	cl.Close()
	<-done
	return fault.Wrap(context.Cause(ctx), fault.CodeOf(ctx.Err()), "close the HTTP/2 client of %s: requests had not finished", cl.name())
}

// Close closes the client and its connections at once; requests that are under
// way fail.
func (cl *Client) Close() {
	cl.init()
	all := cl.stop()
	cl.cancel(errClosed)
	for _, c := range all {
		c.abort(errClosed)
	}
	cl.active.Wait()
	cl.workers.close()
}

// stop refuses new requests and returns the connections there are.
func (cl *Client) stop() []*conn {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.closing = true
	for _, w := range cl.waiters {
		w.look <- errClosed
	}
	cl.waiting.Add(int64(-len(cl.waiters)))
	cl.waiters = nil
	var all []*conn
	for c := range cl.all {
		all = append(all, c)
	}
	return all
}
