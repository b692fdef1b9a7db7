//go:build unix

package http2

import (
	"io"
	"net"
	"os"
	"syscall"
)

// socket waits for a socket to become readable without holding a buffer.
type socket struct {
	in  *input
	raw syscall.RawConn // nil: the connection is not a bare socket
	try func(fd uintptr) bool
	err error
}

func (s *socket) init(in *input) {
	switch nc := in.nc.(type) {
	case *net.TCPConn:
		s.raw, _ = nc.SyscallConn()
	case *net.UnixConn:
		s.raw, _ = nc.SyscallConn()
	}
	s.in, s.try = in, s.readable
}

// able reports whether the connection is one that fill can wait for.
func (s *socket) able() bool { return s.raw != nil }

// fill waits for bytes and reads them into a buffer that it takes only then.
// The input must be empty.
func (s *socket) fill() error {
	s.in.release()
	s.err = nil
	if err := s.raw.Read(s.try); err != nil {
		return err
	}
	return s.err
}

// readable is called when the socket may be readable, and tries to read.
func (s *socket) readable(fd uintptr) bool {
	in := s.in
	in.take(in.step)
	n, err := syscall.Read(int(fd), in.buf)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), in.buf)
	}
	switch {
	case n > 0:
		in.w = n
		return true
	case err == syscall.EAGAIN:
		in.release()
		return false
	case err != nil:
		s.err = os.NewSyscallError("read", err)
	default:
		s.err = io.EOF
	}
	return true
}
