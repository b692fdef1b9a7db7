package http2

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"time"

	"github.com/proa-io/proa/internal/sockio"
)

// sink writes to the network. Only who has set flushing uses it.
type sink struct {
	nc   net.Conn
	mem  *memory
	sock *sockio.Socket // nil: a write may wait in every case
	pack *packer        // between TLS and the socket; nil: there is no TLS, or none that we have made
}

func (s *sink) init(nc net.Conn, mem *memory) {
	s.nc, s.mem = nc, mem
	if tc, ok := nc.(*tls.Conn); ok {
		if pack, ok := tc.NetConn().(*packer); ok && pack.sock != nil {
			s.pack, s.sock = pack, pack.sock
			pack.begin(mem)
		}
		return
	}
	s.sock = sockio.Of(nc)
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
		s.pack.expect(len(p))
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

// writeSocket writes p to the bare connection: what that takes at once without
// a word to the scheduler, and the rest, if it may wait, as ever.
func (s *sink) writeSocket(nc net.Conn, p []byte, wait bool) (n int, err error) {
	if s.sock != nil && len(p) > 0 {
		n, err = s.sock.TryWrite(&s.mem.writes, p)
	}
	if err != nil || !wait || n == len(p) {
		return n, err
	}
	k, err := nc.Write(p[n:])
	return n + k, err
}

// UnderTLS returns nc for a TLS connection to be made on it that a Server or
// Client is given later. The TLS records of one flush are one write then, which
// need not wait. read is what was read from nc before.
func UnderTLS(nc net.Conn, read []byte) net.Conn {
	return &packer{Conn: nc, sock: sockio.Of(nc), seed: read}
}

// packer stands between TLS and the socket. It gathers the records of one
// flush, so that they are one write, which need not wait.
type packer struct {
	net.Conn
	sock *sockio.Socket // that Conn is; nil: none
	seed []byte         // was read from Conn before
	mem  *memory        // nil: what is written goes out at once

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
	if k.sock != nil {
		return k.sock.Read(p)
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
	k.held = append(k.held, p...)
	return len(p), nil
}

const (
	// recordSize is how much one record holds, and recordOverhead what it adds
	// to that, with some room (RFC 8446, section 5).
	recordSize     = 16 << 10
	recordOverhead = 64
)

// expect makes room for the records of n bytes.
func (k *packer) expect(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n += recordOverhead * (n/recordSize + 1); cap(k.held)-len(k.held) >= n {
		return
	}
	old, oldSlab := k.held[k.sent:], k.slab
	k.held, k.slab = k.mem.room(len(old) + n)
	k.held, k.sent = append(k.held, old...), 0
	k.mem.free(oldSlab)
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
