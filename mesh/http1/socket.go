package http1

import (
	"net"
	"time"
)

// socketState is what a look into a connection found.
type socketState uint8

const (
	socketQuiet    socketState = iota // open, nothing to read
	socketReadable                    // bytes to read
	socketEnded                       // closed by the peer, or broken
)

// bareConn returns the socket below a TLS connection, or c itself.
func bareConn(c net.Conn) net.Conn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return c
}

// connFailed reports whether c can be seen to have ended.
func connFailed(c net.Conn) bool { return peekConn(bareConn(c)) == socketEnded }

// interrupt makes a read of c that waits, and those that follow, time out.
func interrupt(c net.Conn) { _ = c.SetReadDeadline(time.Unix(1, 0)) }

// closeWrite ends the sending side of c, if c can do that.
func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}
