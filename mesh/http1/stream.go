package http1

import (
	"bytes"
	"io"
	"net"
	"sync"

	"github.com/proa-io/proa/mesh/proxy"
)

// stream is the raw connection after an upgrade, preceded by what had been
// read of it.
type stream struct {
	nc net.Conn

	mu sync.Mutex // guards rd
	rd *reader
}

var _ proxy.Stream = (*stream)(nil)

func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	if n := s.rd.buffered(); n > 0 {
		defer s.mu.Unlock()
		n = copy(p, s.rd.window())
		s.rd.skip(n)
		return n, nil
	}
	s.rd.release()
	s.mu.Unlock()
	return s.nc.Read(p)
}

func (s *stream) Write(p []byte) (int, error) { return s.nc.Write(p) }

// WriteTo copies the stream to w until it ends. Between two streams of this
// package the kernel can move the bytes.
func (s *stream) WriteTo(w io.Writer) (int64, error) {
	var total int64
	if ahead := s.takeAhead(); len(ahead) > 0 {
		n, err := w.Write(ahead)
		if total = int64(n); err != nil {
			return total, err
		}
	}
	if to, ok := w.(*stream); ok {
		w = to.nc
	}
	n, err := io.Copy(w, s.nc)
	return total + n, err
}

// takeAhead returns what was read ahead, and gives the buffer up.
func (s *stream) takeAhead() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	ahead := bytes.Clone(s.rd.window())
	s.rd.drop()
	return ahead
}

// Bare gives away the socket of the stream, and what has been read of it already;
// nil when it is not a bare one. The stream itself can only be closed after that.
func (s *stream) Bare() (c *net.TCPConn, ahead []byte) {
	c, ok := s.nc.(*net.TCPConn)
	if !ok {
		return nil, nil
	}
	return c, s.takeAhead()
}

func (s *stream) CloseWrite() error { return closeWrite(s.nc) }

func (s *stream) Close() error { return s.nc.Close() }
