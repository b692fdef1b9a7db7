package http1

import (
	"golang.org/x/sys/unix"
)

// nothingArrived reports whether the server's side of a connection that has
// ended in good order has received no more than the given number of bytes. The
// segment that ends a connection acknowledges what had arrived before it; what
// came later was answered with a reset and reached nobody.
func (c *clientConn) nothingArrived(before uint64) bool {
	if c.rd.sock == nil {
		return false
	}
	nothing := false
	_ = c.rd.sock.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		// The count includes one for the segment that opened the connection. It
		// is 0 where the kernel does not count.
		nothing = err == nil && info.Bytes_acked > 0 && info.Bytes_acked-1 <= before
	})
	return nothing
}
