package http2

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// Server serves HTTP/2 connections. Its fields must not be changed once it is
// in use; its methods are safe for concurrent use.
type Server struct {
	// Handler answers the requests.
	Handler proxy.Handler
	// Inline, when not nil, reports whether the Handler may answer the request
	// on the goroutine that reads from the connection, which spares the waking
	// of another one. Such a Handler must wait for nothing but the responses of
	// a Client of this package and what this package makes it wait for, or call
	// coroutine.Detach with the context of the exchange before. Requests whose
	// content has not arrived yet are not asked for.
	Inline func(*proxy.Request) bool
	// Config bounds what a connection may cost.
	Config Config
	// TLS, when not nil, makes Serve and ServeConn do a TLS handshake on
	// connections that are not TLS yet. ALPN must select "h2".
	TLS *tls.Config
	// Retire is as Client.Retire.
	Retire func(*tls.ConnectionState) time.Time
	// Log tells of panics of the handler, and of connections that ended
	// because of what the peer did; nil for nothing.
	Log *slog.Logger
	// MaxConns is how many connections Serve lets in at a time; more wait.
	// Default 16,000.
	MaxConns int

	once     sync.Once
	maxConns int
	cfg      Config
	log      *slog.Logger
	tls      *tls.Config
	mem      memory
	workers  workers
	inline   coroutine.Pool
	now      atomic.Pointer[dateLine]
	ctx      context.Context //nolint:containedctx // the life of the server; ends handshakes when it is closed
	cancel   context.CancelCauseFunc

	mu        sync.Mutex
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	accepted  int        // connections of Serve
	free      *sync.Cond // accepted has fallen, or stopping has changed
	stopping  bool
	stopped   bool
	active    sync.WaitGroup // calls of ServeConn
}

func (s *Server) init() {
	s.once.Do(func() {
		s.cfg = s.Config.withDefaults()
		s.log = s.Log
		if s.log == nil {
			s.log = slog.New(slog.DiscardHandler)
		}
		s.maxConns = s.MaxConns
		number(&s.maxConns, 16_000, maxWindow)
		if s.TLS != nil {
			s.tls = s.TLS.Clone()
			s.tls.DynamicRecordSizingDisabled = true // records of a flush go out together
			if !slices.Contains(s.tls.NextProtos, wire.NextProtoTLS) {
				s.tls.NextProtos = append(s.tls.NextProtos, wire.NextProtoTLS)
			}
		}
		s.ctx, s.cancel = context.WithCancelCause(context.Background())
		s.conns = map[*conn]struct{}{}
		s.listeners = map[net.Listener]struct{}{}
		s.free = sync.NewCond(&s.mu)
	})
}

// errStopped says that the server was stopped.
var errStopped = fault.New(fault.Unavailable, "the HTTP/2 server has been stopped")

// Serve accepts connections and serves them, until the listener fails or the
// server is stopped. It closes l. After Shutdown or Close it returns nil at
// once; those wait for the connections.
func (s *Server) Serve(l net.Listener) error {
	s.init()
	defer l.Close()
	if !s.track(l) {
		return nil
	}
	defer s.untrack(l)
	for s.enterAccepted() {
		nc, err := l.Accept()
		if err != nil {
			s.leaveAccepted()
			if s.isStopping() {
				return nil
			}
			if passing(err) {
				time.Sleep(acceptPause)
				continue
			}
			return fault.Wrap(err, fault.Unavailable, "accept HTTP/2 connections on %s", l.Addr())
		}
		go func() {
			defer s.leaveAccepted()
			if err := s.serve(nc, nil); err != nil {
				s.log.Debug("connection ended", "error", err)
			}
		}()
	}
	return nil
}

// acceptPause is how long Serve rests when a connection could not be accepted.
const acceptPause = 50 * time.Millisecond

// passing reports whether accepting may work again soon: the process is out of
// file descriptors or memory, or a client was gone before it was let in.
func passing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (s *Server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) untrack(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// enterAccepted waits until one more connection may be accepted, and counts it
// in, unless the server is being stopped.
func (s *Server) enterAccepted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.accepted >= s.maxConns && !s.stopping {
		s.free.Wait()
	}
	if s.stopping {
		return false
	}
	s.accepted++
	s.active.Add(1)
	return true
}

func (s *Server) leaveAccepted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted--
	s.free.Signal()
	s.active.Done()
}

// enter counts in a call of serve, unless the server is being stopped.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.active.Add(1)
	return true
}

// ServeConn serves one connection and closes it. seed is what the caller has
// read from it already, such as the preface or the beginning of a TLS
// handshake, if it had to find out which protocol the client speaks. ServeConn returns when the connection has ended
// and its handlers have returned: nil when the connection ended in good order,
// otherwise why it ended.
func (s *Server) ServeConn(nc net.Conn, seed []byte) error {
	s.init()
	if !s.enter() {
		_ = nc.Close()
		return errStopped
	}
	defer s.active.Done()
	return s.serve(nc, seed)
}

func (s *Server) serve(nc net.Conn, seed []byte) error {
	nc, seed, state, err := s.handshake(nc, seed)
	if err != nil {
		_ = nc.Close()
		return fault.Wrap(err, fault.Unavailable, "%s: TLS handshake", peerName(nc, false))
	}
	c := newConn(nc, connOptions{
		cfg: &s.cfg, role: s, log: s.log, mem: &s.mem, workers: &s.workers, seed: seed, tls: state,
		retire: s.Retire,
	})
	c.begin()
	if !s.add(c) {
		c.abort(errStopped)
	}
	if weak := weakTLS(state); weak != "" {
		c.endWith(&connError{codeSecurity, weak})
	}
	err = c.run()
	c.handlers.Wait()
	s.remove(c)
	return err
}

// handshake makes a TLS connection of nc if the server does TLS. It returns what
// is left of seed for HTTP/2.
func (s *Server) handshake(nc net.Conn, seed []byte) (net.Conn, []byte, *tls.ConnectionState, error) {
	tc, ok := nc.(*tls.Conn)
	if !ok {
		if s.tls == nil {
			return nc, seed, nil, nil
		}
		tc = tls.Server(&packer{Conn: nc, seed: seed}, s.tls)
		seed = nil
	}
	state, err := tlsHandshake(s.ctx, tc, s.cfg.HandshakeTimeout)
	return tc, seed, state, err
}

func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	if s.stopping && !s.stopped {
		c.startDrain()
	}
	return !s.stopped
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// stop refuses new connections and returns those there are.
func (s *Server) stop(now bool) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	s.stopped = s.stopped || now
	for l := range s.listeners {
		_ = l.Close()
	}
	s.free.Broadcast()
	var all []*conn
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}

// Shutdown stops the server in good order: it closes the listeners, tells the
// clients with GOAWAY to open no more streams, and waits until the handlers
// have finished and the connections are closed. If ctx ends before that, it
// does what Close does and returns an error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.init()
	for _, c := range s.stop(false) {
		c.startDrain()
	}
	done := make(chan struct{})
	go func() {
		s.active.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.workers.close()
		s.inline.Close()
		return nil
	case <-ctx.Done():
	}
	left := len(s.stop(true))
	s.Close()
	<-done
	return fault.Wrap(context.Cause(ctx), fault.CodeOf(ctx.Err()), "stop the HTTP/2 server: %d connections had not finished", left)
}

// Close stops the server at once: it closes the listeners and the connections,
// ends the contexts of the exchanges, and waits for the handlers to return.
func (s *Server) Close() {
	s.init()
	s.cancel(errStopped)
	for _, c := range s.stop(true) {
		c.abort(errStopped)
	}
	s.active.Wait()
	s.workers.close()
	s.inline.Close()
}

// freed implements role.
func (s *Server) freed(*conn, int64) {}

// settled implements role.
func (s *Server) settled(*conn) {}

// goAway implements role: a client that goes away may still use its streams.
func (s *Server) goAway(*conn) {}

// dateLine is the value of a date field and the second it is of.
type dateLine struct {
	second int64
	text   string
}

// date implements role. It formats the date once per second.
func (s *Server) date() string {
	now := time.Now()
	if d := s.now.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &dateLine{now.Unix(), now.UTC().Format(http.TimeFormat)}
	s.now.Store(d)
	return d.text
}

func stack() string { return string(debug.Stack()) }

// remote returns the address of the peer, if it has one.
func remote(nc net.Conn) netip.AddrPort {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		p := a.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}
