package postgres

import (
	"context"
	"net"
	"sync"
	"time"
)

// sockets are the connections to the server that are open, so that they can be
// cut: the client library waits long for an orderly end.
type sockets struct {
	dialer net.Dialer

	mu   sync.Mutex
	open map[*socket]struct{}
	cut  bool
}

// keepAlive finds out that a server is gone that never said so.
const keepAlive = 30 * time.Second

func newSockets() *sockets {
	return &sockets{open: map[*socket]struct{}{}, dialer: net.Dialer{KeepAlive: keepAlive}}
}

// dial is a pgconn.DialFunc.
func (s *sockets) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := s.dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	k := &socket{Conn: conn, all: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	s.open[k] = struct{}{}
	return k, nil
}

// end closes all connections, those that are still to come too.
func (s *sockets) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = true
	for k := range s.open {
		_ = k.Conn.Close()
	}
}

// socket is one connection.
type socket struct {
	net.Conn
	all *sockets
}

// Close implements net.Conn.
func (k *socket) Close() error {
	k.all.mu.Lock()
	delete(k.all.open, k)
	k.all.mu.Unlock()
	return k.Conn.Close()
}
