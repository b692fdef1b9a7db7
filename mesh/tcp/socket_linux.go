package tcp

import (
	"net"

	"golang.org/x/sys/unix"
)

// counts tells that transferred works.
const counts = true

// info returns what the kernel knows of a connection; nil when it is closed.
func info(c *net.TCPConn) *unix.TCPInfo {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	var out *unix.TCPInfo
	if raw.Control(func(fd uintptr) { out, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }) != nil || err != nil {
		return nil
	}
	return out
}

// transferred returns how many bytes the peer has sent and taken.
func transferred(c *net.TCPConn) uint64 {
	i := info(c)
	if i == nil {
		return 0
	}
	return i.Bytes_received + i.Bytes_acked
}

// stateClosed is TCP_CLOSE of the kernel.
const stateClosed = 7

// gone reports whether a peer has reset a connection.
func gone(s Stream) bool {
	var c *net.TCPConn
	switch t := s.(type) {
	case *net.TCPConn:
		c = t
	case interface{ NetConn() net.Conn }:
		c, _ = t.NetConn().(*net.TCPConn)
	}
	if c == nil {
		return false
	}
	i := info(c)
	return i != nil && i.State == stateClosed
}
