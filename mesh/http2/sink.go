package http2

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// sink writes to the network. Only who has set flushing uses it.
type sink struct {
	nc   net.Conn
	raw  syscall.RawConn // of the socket; nil: a write may wait in every case
	pack *packer         // between TLS and the socket; nil: there is no TLS, or none that we have made

	attempt func(fd uintptr) bool
	p       []byte
	n       int
	errno   syscall.Errno
}

func (s *sink) init(nc net.Conn, mem *memory) {
	s.nc = nc
	bare := nc
	if tc, ok := nc.(*tls.Conn); ok {
		if pack, ok := tc.NetConn().(*packer); ok && isSocket(pack.Conn) {
			s.pack = pack
			bare = pack.Conn
			pack.begin(mem)
		}
	}
	if !isSocket(bare) {
		return
	}
	if raw, err := bare.(syscall.Conn).SyscallConn(); err == nil {
		s.raw, s.attempt = raw, s.writeFD
	}
}

func isSocket(nc net.Conn) bool {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// write writes p. If wait is false it only writes what the network takes at
// once, and tells with more that there is more to write, be it of p or of what
// was written before.
func (s *sink) write(p []byte, wait bool) (n int, more bool, err error) {
	if s.pack == nil {
		n, err = s.writeSocket(s.nc, p, wait)
		return n, n < len(p), err
	}
	if len(p) > 0 {
		if n, err = s.nc.Write(p); err != nil {
			return n, false, err
		}
	}
	held := s.pack.waiting()
	k, err := s.writeSocket(s.pack.Conn, held, wait)
	return n, s.pack.written(k), err
}

// finish writes what TLS has said last.
func (s *sink) finish() error {
	_, _, err := s.write(nil, true)
	return err
}

// writeSocket writes p to the bare connection.
func (s *sink) writeSocket(nc net.Conn, p []byte, wait bool) (int, error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case wait:
		return nc.Write(p)
	case s.raw == nil:
		return 0, nil
	}
	s.p, s.n, s.errno = p, 0, 0
	err := s.raw.Write(s.attempt)
	s.p = nil
	if err == nil && s.errno != 0 {
		err = os.NewSyscallError("write", s.errno)
	}
	return s.n, err
}

// writeFD writes what the socket takes at once.
func (s *sink) writeFD(fd uintptr) bool {
	n, err := syscall.Write(int(fd), s.p)
	for err == syscall.EINTR {
		n, err = syscall.Write(int(fd), s.p)
	}
	switch {
	case n > 0:
		s.n = n
	case err == syscall.EAGAIN:
	case err != nil:
		s.errno, _ = err.(syscall.Errno)
	}
	return true
}

// UnderTLS returns nc for a TLS connection to be made on it that a Server or
// Client is given later. The TLS records of one flush are one write then, which
// need not wait. read is what was read from nc before.
func UnderTLS(nc net.Conn, read []byte) net.Conn { return &packer{Conn: nc, seed: read} }

// packer stands between TLS and the socket. It gathers the records of one
// flush, so that they are one write, which need not wait.
type packer struct {
	net.Conn
	seed []byte  // was read from Conn before
	mem  *memory // nil: what is written goes out at once

	mu   sync.Mutex
	slab *slab
	held []byte // in the memory of slab, if that was enough
	sent int    // of held
}

// begin ends the time of the handshake, in which nothing is held back.
func (k *packer) begin(mem *memory) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mem = mem
}

// Read implements net.Conn.
func (k *packer) Read(p []byte) (int, error) {
	if len(k.seed) > 0 {
		n := copy(p, k.seed)
		k.seed = k.seed[n:]
		return n, nil
	}
	return k.Conn.Read(p)
}

// Write implements net.Conn.
func (k *packer) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mem == nil {
		return k.Conn.Write(p)
	}
	if k.slab == nil {
		k.slab = k.mem.slab(sizeFor(len(p)))
		k.held = k.slab.b[:0]
	}
	k.held = append(k.held, p...)
	return len(p), nil
}

// sizeFor returns the size of slab for n bytes and some more.
func sizeFor(n int) int {
	for size, most := range slabSizes {
		if n <= most {
			return size
		}
	}
	return len(slabSizes) - 1
}

// waiting returns what has to be written.
func (k *packer) waiting() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held[k.sent:]
}

// written notes that n bytes of it were written, and reports whether there are
// more.
func (k *packer) written(n int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sent += n
	if k.sent < len(k.held) {
		return true
	}
	k.mem.free(k.slab)
	k.slab, k.held, k.sent = nil, nil, 0
	return false
}

// Close implements net.Conn. TLS says farewell right before it, which is put out
// if the socket takes it at once.
func (k *packer) Close() error {
	k.mu.Lock()
	if rest := k.held[k.sent:]; len(rest) > 0 {
		_ = k.Conn.SetWriteDeadline(time.Now().Add(farewell))
		_, _ = k.Conn.Write(rest) // the peer learns of the end in any case
		k.sent = len(k.held)
	}
	k.mu.Unlock()
	return k.Conn.Close()
}

// release gives back the memory. Nobody writes any more.
func (k *packer) release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.slab != nil {
		k.mem.free(k.slab)
	}
	k.mem, k.slab, k.held, k.sent = nil, nil, nil, 0
}

// farewell bounds the time for the last record of a connection.
const farewell = time.Millisecond

// CloseWrite ends our side of the connection.
func (k *packer) CloseWrite() error {
	if c, ok := k.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return io.ErrClosedPipe
}
