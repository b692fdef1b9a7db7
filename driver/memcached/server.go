package memcached

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// maxOpen bounds the connections to one server. Calls beyond it wait.
const maxOpen = 256

// bufferBytes is the size of each of a connection's two buffers.
const bufferBytes = 16 << 10

// A server is one memcached and the connections to it. A connection serves one
// call at a time.
type server struct {
	network, addr string
	timeout       time.Duration
	maxIdle       int
	places        chan struct{} // one element per connection in use

	mu     sync.Mutex
	closed bool
	idle   []*conn // the last one was used last
	all    map[*conn]struct{}
}

type conn struct {
	net.Conn
	r *bufio.Reader
	w *bufio.Writer
}

func newServer(host string, cfg StateConfig) *server {
	network, addr := address(host)
	return &server{
		network: network, addr: addr, timeout: cfg.Timeout.Std(), maxIdle: cfg.MaxIdleConnections,
		places: make(chan struct{}, maxOpen), all: map[*conn]struct{}{},
	}
}

// do runs talk on a connection. talk's error, if it is not classified, tells
// that the connection is of no more use. It is not called for a context that
// has ended.
func (s *server) do(ctx context.Context, talk func(*conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		select {
		case s.places <- struct{}{}:
			defer func() { <-s.places }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c, err := s.take(ctx)
	if err != nil {
		return s.classify(ctx, err)
	}
	limit := time.Now().Add(s.timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(limit) {
		limit = d
	}
	_ = c.SetDeadline(limit) // fails only with a closed connection, as does what follows
	watch := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err = talk(c)
	untouched := watch()
	switch {
	case err == nil && untouched:
		s.give(c)
		return nil
	case err == nil || ctx.Err() != nil:
		s.discard(c, false)
	default:
		s.discard(c, true)
	}
	return s.classify(ctx, err)
}

// take returns an idle connection or a new one.
func (s *server) take(ctx context.Context) (*conn, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, state.ErrClosed()
	}
	if n := len(s.idle); n > 0 {
		c := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return c, nil
	}
	s.mu.Unlock()
	dialer := net.Dialer{Timeout: s.timeout}
	nc, err := dialer.DialContext(ctx, s.network, s.addr)
	if err != nil {
		return nil, err
	}
	c := &conn{nc, bufio.NewReaderSize(nc, bufferBytes), bufio.NewWriterSize(nc, bufferBytes)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = nc.Close()
		return nil, state.ErrClosed()
	}
	s.all[c] = struct{}{}
	return c, nil
}

// give takes back a connection that is all right.
func (s *server) give(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.idle) >= s.maxIdle || c.r.Buffered() > 0 {
		s.drop(c)
		return
	}
	s.idle = append(s.idle, c)
}

// discard takes back a connection that nobody may use any more. When it was
// broken the idle ones probably are too, because the server is gone or the
// network: they go with it, so that one fault costs one call.
func (s *server) discard(c *conn, broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(c)
	if broken {
		for _, other := range s.idle {
			s.drop(other)
		}
		s.idle = nil
	}
}

// drop closes a connection. s.mu is held.
func (s *server) drop(c *conn) {
	delete(s.all, c)
	_ = c.Close()
}

// close ends all connections, and with them the calls on them.
func (s *server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.all {
		s.drop(c)
	}
	s.idle = nil
}

// classify names what went wrong on a connection. It returns nil for nil.
func (s *server) classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, named := errors.AsType[*fault.Error](err); named {
		return err
	}
	switch ctx.Err() {
	case context.Canceled:
		return context.Canceled
	case context.DeadlineExceeded:
		return fault.Wrap(err, fault.DeadlineExceeded, "memcached did not answer in time")
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return state.ErrClosed()
	case errors.Is(err, errProtocol):
		return fault.Wrap(err, fault.Internal, "memcached is not understood")
	case timedOut(err):
		// The deadline may be the context's, which is about to end.
		if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
			return fault.Wrap(err, fault.DeadlineExceeded, "memcached did not answer in time")
		}
		return fault.Wrap(err, fault.Unavailable, "memcached did not answer within %v", s.timeout)
	}
	return fault.Wrap(err, fault.Unavailable, "memcached cannot be reached")
}

func timedOut(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// check asks whether the server speaks the meta protocol.
func (s *server) check(ctx context.Context) error {
	return s.do(ctx, func(c *conn) error {
		if _, err := c.w.WriteString("mn\r\n"); err != nil {
			return err
		}
		if err := c.w.Flush(); err != nil {
			return err
		}
		r, err := readReply(c.r)
		switch {
		case r.err != nil:
			return r.err
		case err == nil && r.status != statusNoop:
			return errProtocol
		}
		return err
	})
}
