package http1

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// The defaults of a Server's and a Client's bounds.
const (
	DefaultMaxHead      = 64 << 10
	DefaultMaxTarget    = 16 << 10
	DefaultMaxFields    = 200
	DefaultMaxConns     = 16_000
	DefaultHeadTimeout  = 10 * time.Second
	DefaultIdleTimeout  = 2 * time.Minute
	DefaultStallTimeout = 5 * time.Minute
)

// Server serves HTTP/1.1 on the connections of its listeners. Its exported
// fields must not change once Serve was called. Its methods are safe for
// concurrent use.
type Server struct {
	// Handler answers the requests; required.
	Handler proxy.Handler
	// Inline, when not nil, reports whether the Handler may run as a coroutine of
	// the goroutines that read: the connection's, and those of the clients that it
	// waits for, which spares the waking of another one. Such a Handler must wait for
	// nothing but the responses of Clients of this package or mesh/http2 and what
	// this package makes it wait for, and start no goroutine that uses the context
	// of the exchange, or call coroutine.Detach with that before. Requests whose
	// content has not arrived yet are not asked for.
	Inline func(r *proxy.Request) bool
	// Connect answers CONNECT requests, by Upgrade or with an error; nil
	// answers them with 501.
	Connect proxy.Handler
	// HandOver, when not nil, is given each connection that begins with the
	// preface of HTTP/2 (RFC 9113, section 3.3), with the bytes that were read
	// of it, preface included. It owns the connection from then on; it may
	// return at once, or when the connection has ended.
	HandOver func(nc net.Conn, read []byte)
	// BodyLimit, when not nil, returns how many bytes of content a request may
	// have, or a negative number for no limit. A longer one is answered with
	// 413, or fails in reading with fault.ResourceExhausted where its length
	// was not announced.
	BodyLimit func(r *proxy.Request) int64

	// MaxHead, MaxTarget (in bytes) and MaxFields bound the head of a request;
	// 0 stands for the default. A head beyond them is answered with 431 or 414.
	MaxHead, MaxTarget, MaxFields int
	// MaxConns bounds the number of connections; one more is answered with 503
	// and closed. 0 stands for the default; negative for no bound.
	MaxConns int

	// HeadTimeout is how long a client may take for the head of a request, and
	// for the TLS handshake. Later it is answered with 408. 0 stands for the
	// default, here and below; negative for no bound.
	HeadTimeout time.Duration
	// IdleTimeout is how long a connection is kept without a request. It may
	// be up to an eighth shorter at times.
	IdleTimeout time.Duration
	// StallTimeout is how long a client may take to send or to accept any more
	// bytes within a request or response. Upgraded streams have no such bound.
	StallTimeout time.Duration

	// Log is told of panics of handlers and of failures to accept; nil for
	// none.
	Log *slog.Logger

	bufs    buffers
	inline  coroutine.Pool
	date    atomic.Pointer[dateLine]
	closing atomic.Bool

	rejecting atomic.Int32

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	drained   chan struct{} // closed when closing and without connections
}

// Serve accepts connections and serves them, until Shutdown or Close is called
// or accepting fails for good, which winds the server down as Shutdown does. It
// returns when all of its connections have ended, with nil after Shutdown or
// Close. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	var conns sync.WaitGroup
	defer s.restCoroutines()
	defer conns.Wait()
	defer ln.Close()
	if !s.addListener(ln) {
		return nil
	}
	defer s.removeListener(ln)
	var delay time.Duration
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
		case s.closing.Load():
			return nil
		case !isTemporary(err):
			s.windDown()
			return fault.Wrap(err, fault.Unavailable, "accept connections on %s", ln.Addr())
		default:
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log().Warn("cannot accept a connection", "address", ln.Addr().String(), "error", err, "retry_in", delay)
			time.Sleep(delay)
			continue
		}
		c := newConn(s, nc)
		switch s.addConn(c) {
		case admitted:
			conns.Go(c.serve)
		case tooMany:
			if s.rejecting.Add(1) <= maxRejecting {
				conns.Go(func() { s.reject(nc) })
				continue
			}
			s.rejecting.Add(-1)
			nc.Close()
		case shutDown:
			nc.Close()
		}
	}
}

// restCoroutines lets go of the coroutines once nothing is served any more.
func (s *Server) restCoroutines() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() && len(s.conns) == 0 {
		s.inline.Close()
	}
}

// isTemporary reports whether accepting may work again later: when descriptors
// or memory have run out, or when the connection was gone before it came up.
func isTemporary(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && (errno.Temporary() || errno == syscall.ECONNABORTED ||
		errno == syscall.ENOBUFS || errno == syscall.ENOMEM)
}

// maxRejecting bounds how many clients are told at a time that there are too
// many; more are just closed.
const maxRejecting = 64

// reject tells a client that there are too many connections.
func (s *Server) reject(nc net.Conn) {
	defer s.rejecting.Add(-1)
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(lingerTimeout))
	_, err := io.WriteString(nc, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"+
		"Retry-After: 1\r\nContent-Type: text/plain\r\nContent-Length: 21\r\n\r\ntoo many connections\n")
	if err == nil {
		linger(nc)
	}
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

func (s *Server) addListener(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	if s.listeners == nil {
		s.listeners = make(map[net.Listener]struct{})
	}
	s.listeners[ln] = struct{}{}
	return true
}

func (s *Server) removeListener(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, ln)
}

type admission uint8

const (
	admitted admission = iota
	tooMany
	shutDown
)

func (s *Server) addConn(c *conn) admission {
	limit := orDefault(s.MaxConns, DefaultMaxConns)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing.Load():
		return shutDown
	case limit > 0 && len(s.conns) >= limit:
		return tooMany
	case s.conns == nil:
		s.conns = make(map[*conn]struct{})
	}
	s.conns[c] = struct{}{}
	return admitted
}

func (s *Server) removeConn(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.drained != nil && len(s.conns) == 0 {
		close(s.drained)
		s.drained = nil
	}
}

// stopAccepting closes the listeners and returns a channel that is closed when
// the last connection has ended, and the connections.
func (s *Server) stopAccepting() (drained <-chan struct{}, conns []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing.Store(true)
	for ln := range s.listeners {
		ln.Close()
	}
	if s.drained == nil {
		s.drained = make(chan struct{})
	}
	drained = s.drained
	if len(s.conns) == 0 {
		close(s.drained)
		s.drained = nil
	}
	for c := range s.conns {
		conns = append(conns, c)
	}
	return drained, conns
}

// windDown stops accepting, ends the connections that wait for a request and
// lets the others end after the exchange that is under way.
func (s *Server) windDown() (drained <-chan struct{}) {
	drained, conns := s.stopAccepting()
	for _, c := range conns {
		c.wakeIdle()
	}
	return drained
}

// Shutdown stops accepting, closes the connections that wait for a request,
// lets the exchanges under way end (telling their clients that the connection
// closes) and waits for them until ctx ends, when it returns
// fault.DeadlineExceeded or fault.Canceled: Close ends what is left. It does
// not wait for connections that were handed over.
func (s *Server) Shutdown(ctx context.Context) error {
	drained := s.windDown()
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		left := len(s.conns)
		s.mu.Unlock()
		return fault.Wrap(ctx.Err(), fault.CodeOf(ctx.Err()), "shut down with %d connections in use", left)
	}
}

// Close stops accepting, ends the contexts of all exchanges and closes all
// connections. It does not wait for handlers; Serve does.
func (s *Server) Close() error {
	_, conns := s.stopAccepting()
	for _, c := range conns {
		c.abort()
	}
	return nil
}

// dateLine is the Date field of responses within one second.
type dateLine struct {
	second int64
	line   string
}

// dateField returns the Date field of now as a line.
func (s *Server) dateField() string {
	now := time.Now()
	if d := s.date.Load(); d != nil && d.second == now.Unix() {
		return d.line
	}
	d := &dateLine{now.Unix(), now.UTC().Format("Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n")}
	s.date.Store(d)
	return d.line
}

func orDefault[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}
