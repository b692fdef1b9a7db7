package http1

import (
	"net"
	"time"

	"github.com/proa-io/proa/internal/sockio"
)

// bareConn returns the socket below a TLS connection, or c itself.
func bareConn(c net.Conn) net.Conn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return c
}

// peekConn reports what a read from the bare connection would find now. A
// connection that cannot be looked into is quiet.
func peekConn(c net.Conn) sockio.State {
	if sock := sockio.Of(c); sock != nil {
		return sock.Peek()
	}
	return sockio.Quiet
}

// connFailed reports whether c can be seen to have ended.
func connFailed(c net.Conn) bool { return peekConn(bareConn(c)) == sockio.Ended }

// interrupt makes a read of c that waits, and those that follow, time out.
func interrupt(c net.Conn) { _ = c.SetReadDeadline(time.Unix(1, 0)) }

// closeWrite ends the sending side of c, if c can do that.
func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}
