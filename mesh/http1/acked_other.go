//go:build !linux

package http1

// nothingArrived cannot tell on this platform.
func (c *clientConn) nothingArrived(uint64) bool { return false }
