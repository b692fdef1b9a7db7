// Package wire has clients and applications that cost as little as they can, so
// that what stands between them is what is measured: HTTP/1.1, HTTP/2 with gRPC
// framing, and RESP, written on sockets by hand. They understand what a
// well-behaved peer sends them and nothing else; whatever they do not
// understand is an error, never a wrong figure.
package wire

import (
	"net"
	"time"
)

// Timeout bounds how long a call may outlast the run it belongs to.
const Timeout = 30 * time.Second

// readSize is the size of the buffers that connections are read with.
const readSize = 64 << 10

// dial connects to a TCP address.
func dial(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, Timeout) }

// serve accepts connections until the listener is closed and serves each in a
// goroutine that ends with the connection.
func serve(l net.Listener, handle func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			handle(conn)
		}()
	}
}
