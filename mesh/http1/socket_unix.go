//go:build unix

package http1

import (
	"io"
	"net"
	"os"
	"syscall"
)

// peekConn reports what a read from the bare connection would find now: bytes,
// nothing yet, or the end. It does not wait and consumes nothing.
func peekConn(nc net.Conn) socketState {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return socketQuiet
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return socketEnded
	}
	return peekRaw(raw)
}

func peekRaw(raw syscall.RawConn) socketState {
	state := socketEnded
	// Control, unlike Read, works whatever the deadline of the connection is.
	err := raw.Control(func(fd uintptr) { state = peekFD(int(fd)) })
	if err != nil {
		return socketEnded
	}
	return state
}

// initPeek prepares peek.
func (c *clientConn) initPeek() {
	if bare := bareConn(c.nc); isSocket(bare) {
		if raw, err := bare.(syscall.Conn).SyscallConn(); err == nil {
			c.raw = raw
			c.look = func(fd uintptr) { c.state = peekFD(int(fd)) }
		}
	}
}

// peek is peekConn for an idle connection.
func (c *clientConn) peek() socketState {
	if c.raw == nil {
		return socketQuiet
	}
	if c.raw.Control(c.look) != nil {
		return socketEnded
	}
	return c.state
}

func peekFD(fd int) socketState {
	var one [1]byte
	for {
		n, _, err := syscall.Recvfrom(fd, one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return socketQuiet
		case err != nil || n == 0:
			return socketEnded
		default:
			return socketReadable
		}
	}
}

// waiter waits until a connection is readable without holding a buffer.
type waiter struct {
	rd  *reader
	raw syscall.RawConn // nil: the connection is no bare socket
	try func(fd uintptr) bool
	err error
}

func (w *waiter) init(rd *reader) {
	w.rd = rd
	if !isSocket(rd.conn) {
		return
	}
	if raw, err := rd.conn.(syscall.Conn).SyscallConn(); err == nil {
		w.raw, w.try = raw, w.readable
	}
}

// fill waits for bytes and reads them into a buffer that it takes only then.
// The reader must be empty.
func (w *waiter) fill() error {
	if w.raw == nil {
		return w.rd.fill(bufferSize)
	}
	w.rd.release()
	w.err = nil
	if err := w.raw.Read(w.try); err != nil {
		return err
	}
	return w.err
}

// readable is called when the socket may be readable, and tries to read.
func (w *waiter) readable(fd uintptr) bool {
	buf := w.rd.pool.get()
	n, err := syscall.Read(int(fd), buf)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), buf)
	}
	if n > 0 {
		w.rd.buf, w.rd.r, w.rd.w = buf, 0, n
		return true
	}
	w.rd.pool.put(buf)
	switch {
	case err == syscall.EAGAIN:
		return false
	case err != nil:
		w.err = os.NewSyscallError("read", err)
	default:
		w.err = io.EOF
	}
	return true
}
