package http1

import (
	"io"
	"net"
	"sync"

	"github.com/proa-io/proa/mesh/proxy"
)

// stream is the raw connection after an upgrade, preceded by what had been
// read of it.
type stream struct {
	nc net.Conn
	// onClose, when not nil, is called once, after the connection is closed.
	onClose func()
	once    sync.Once

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
	buf := make([]byte, bufferSize)
	for s.waiting() {
		n, err := s.Read(buf)
		if err != nil {
			return total, err
		}
		n, err = w.Write(buf[:n])
		if total += int64(n); err != nil {
			return total, err
		}
	}
	if to, ok := w.(*stream); ok {
		w = to.nc
	}
	n, err := io.Copy(w, s.nc)
	return total + n, err
}

func (s *stream) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rd.buffered() > 0
}

func (s *stream) CloseWrite() error { return closeWrite(s.nc) }

func (s *stream) Close() error {
	err := s.nc.Close()
	if s.onClose != nil {
		s.once.Do(s.onClose)
	}
	return err
}
