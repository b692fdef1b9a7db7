//go:build !unix

package http1

import "net"

// peekConn cannot look into a connection on this platform: a connection that
// ended while it was idle is found out when it is used.
func peekConn(net.Conn) socketState { return socketQuiet }

// waiter waits until a connection is readable; on this platform it holds a
// buffer meanwhile.
type waiter struct{ rd *reader }

func (w *waiter) init(rd *reader) { w.rd = rd }

func (w *waiter) fill() error { return w.rd.fill(bufferSize) }

func (c *clientConn) initPeek() {}

func (c *clientConn) peek() socketState { return socketQuiet }
