package http1

import (
	"io"
	"net"
	"time"

	"github.com/proa-io/proa/internal/coroutine"
)

// writer is the sending side of a connection. What is in out has not been
// written yet. It holds no buffer while it is released.
type writer struct {
	rd    *reader              // the other side, which knows the connection
	stall time.Duration        // bounds each write; negative: no bound
	co    *coroutine.Coroutine // who writes, if it is one
	out   []byte

	total uint64    // bytes written to the connection
	by    time.Time // the deadline for writes that is set
}

func (w *writer) init(rd *reader, stall time.Duration) { w.rd, w.stall = rd, stall }

// buffer appends to the buffer, which it takes if there is none.
func (w *writer) buffer(s string) {
	if w.out == nil {
		w.out = w.rd.pool.get()[:0]
	}
	w.out = append(w.out, s...)
}

// release gives the buffer back with whatever is in it.
func (w *writer) release() {
	if w.out != nil {
		w.rd.pool.put(w.out)
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
	if w.rd.sock == nil {
		return w.sendRecords(p, end)
	}
	lineEnd := endOfHead[:len(end)]
	n, err := w.rd.sock.TryWrite(&w.rd.pool.writes, w.out, p, lineEnd)
	w.total += uint64(n)
	for _, part := range [...][]byte{w.out, p, lineEnd} {
		done := min(n, len(part))
		n -= done
		if err == nil && done < len(part) {
			err = w.wait(part[done:])
		}
	}
	w.out = w.out[:0]
	return err
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

// tryFlush writes as much of what is in the buffer as the socket takes at once.
func (w *writer) tryFlush() error {
	n, err := w.rd.sock.TryWrite(&w.rd.pool.writes, w.out)
	w.total += uint64(n)
	w.out = w.out[:copy(w.out, w.out[n:])]
	return err
}

// write writes p: at once if the socket takes it, which needs no deadline.
func (w *writer) write(p []byte) (n int, err error) {
	if w.rd.sock != nil {
		n, err = w.rd.sock.TryWrite(&w.rd.pool.writes, p)
		w.total += uint64(n)
	}
	if err == nil && n < len(p) {
		before := w.total
		err = w.wait(p[n:])
		n += int(w.total - before)
	}
	return n, err
}

// wait writes p, and waits until all of it is taken.
func (w *writer) wait(p []byte) error {
	w.co.Detach()
	w.allow()
	n, err := w.rd.conn.Write(p)
	w.total += uint64(n)
	return err
}

// allow lets a write wait for the stall time, or up to an eighth less.
func (w *writer) allow() {
	if w.stall < 0 {
		return
	}
	now := time.Now()
	if w.by.Sub(now) < w.stall-w.stall/8 {
		w.by = now.Add(w.stall)
		_ = w.rd.conn.SetWriteDeadline(w.by)
	}
}

// canSplice reports whether the kernel can move bytes from r to the connection.
func (w *writer) canSplice(r *io.LimitedReader) bool {
	source, ok := r.R.(net.Conn)
	if !ok || !isSocket(source) {
		return false
	}
	_, ok = w.rd.conn.(*net.TCPConn)
	return ok
}

// splice lets the kernel move bytes from r, after what is in the buffer.
func (w *writer) splice(r *io.LimitedReader) (int64, error) {
	if err := w.flush(); err != nil {
		return 0, err
	}
	w.allow()
	n, err := w.rd.conn.(*net.TCPConn).ReadFrom(r)
	w.total += uint64(n)
	return n, err
}
