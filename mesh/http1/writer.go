package http1

import (
	"io"
	"net"
	"time"
)

// writer is the sending side of a connection. What is in out has not been
// written yet. It holds no buffer while it is released.
type writer struct {
	nc    net.Conn
	pool  *buffers
	stall time.Duration // bounds each write; negative: no bound
	out   []byte

	total   uint64    // bytes written to the connection
	by      time.Time // the deadline for writes that is set
	vec     net.Buffers
	parts   [3][]byte
	lineEnd [2]byte
}

func (w *writer) init(nc net.Conn, pool *buffers, stall time.Duration) {
	w.nc, w.pool, w.stall = nc, pool, stall
	copy(w.lineEnd[:], crlf)
}

// buffer appends to the buffer, which it takes if there is none.
func (w *writer) buffer(s string) {
	if w.out == nil {
		w.out = w.pool.get()[:0]
	}
	w.out = append(w.out, s...)
}

// release gives the buffer back with whatever is in it.
func (w *writer) release() {
	if w.out != nil {
		w.pool.put(w.out)
		w.out = nil
	}
}

// chunk sends p as a chunk.
func (w *writer) chunk(p []byte) error {
	w.buffer("")
	w.out = appendChunkSize(w.out, len(p))
	return w.send(p, crlf)
}

// send puts p and end, "" or CRLF, into the buffer if they fit, or writes them
// with what is in it.
func (w *writer) send(p []byte, end string) error {
	if w.out == nil {
		w.buffer("")
	}
	if len(w.out)+len(p)+len(end)+chunkOverhead <= bufferSize {
		w.out = append(append(w.out, p...), end...)
		return nil
	}
	if isSocket(w.nc) {
		w.parts[0], w.parts[1], w.parts[2] = w.out, p, w.lineEnd[:len(end)]
		w.vec = w.parts[:]
		w.allow()
		n, err := w.vec.WriteTo(w.nc)
		w.total += uint64(n)
		w.parts = [3][]byte{}
		w.out = w.out[:0]
		return err
	}
	return w.sendRecords(p, end)
}

// sendRecords is send over TLS, where every write is a record of its own: the
// first is filled up.
func (w *writer) sendRecords(p []byte, end string) error {
	for len(p) > 0 {
		n := min(len(p), max(0, bufferSize-len(w.out)))
		w.out = append(w.out, p[:n]...)
		if p = p[n:]; len(p) == 0 {
			break
		}
		if err := w.flush(); err != nil {
			return err
		}
		if len(p) >= bufferSize {
			if _, err := w.write(p); err != nil {
				return err
			}
			p = nil
		}
	}
	w.out = append(w.out, end...)
	return nil
}

// flush writes what is in the buffer.
func (w *writer) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.write(w.out)
	w.out = w.out[:0]
	return err
}

func (w *writer) write(p []byte) (int, error) {
	w.allow()
	n, err := w.nc.Write(p)
	w.total += uint64(n)
	return n, err
}

// allow lets a write wait for the stall time, or up to an eighth less.
func (w *writer) allow() {
	if w.stall < 0 {
		return
	}
	now := time.Now()
	if w.by.Sub(now) < w.stall-w.stall/8 {
		w.by = now.Add(w.stall)
		_ = w.nc.SetWriteDeadline(w.by)
	}
}

// canSplice reports whether the kernel can move bytes from r to the connection.
func (w *writer) canSplice(r *io.LimitedReader) bool {
	source, ok := r.R.(net.Conn)
	if !ok || !isSocket(source) {
		return false
	}
	_, ok = w.nc.(*net.TCPConn)
	return ok
}

// splice lets the kernel move bytes from r, after what is in the buffer.
func (w *writer) splice(r *io.LimitedReader) (int64, error) {
	if err := w.flush(); err != nil {
		return 0, err
	}
	w.allow()
	n, err := w.nc.(*net.TCPConn).ReadFrom(r)
	w.total += uint64(n)
	return n, err
}
