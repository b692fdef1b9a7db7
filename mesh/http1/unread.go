package http1

import (
	"errors"
	"net"
	"syscall"
	"time"
)

const (
	// readAtOnce is a size of requests that servers read with one system call.
	readAtOnce = 4 << 10
	// resetSoon is how soon a reset follows a request that came just as the
	// connection was closed.
	resetSoon = time.Second
)

// resetUnread reports whether err, with which the wait for a response has ended,
// tells that the server has closed the connection without having read the
// request: see Client.
func (c *clientConn) resetUnread(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) && c.sameHost && c.rd.sock != nil &&
		len(c.w.out) <= readAtOnce && time.Since(c.asked) < resetSoon
}

// isSameHost reports whether both ends of a connection are on this host.
func isSameHost(nc net.Conn) bool {
	switch remote := nc.RemoteAddr().(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		local, ok := nc.LocalAddr().(*net.TCPAddr)
		return ok && (remote.IP.IsLoopback() || remote.IP.Equal(local.IP))
	}
	return false
}
