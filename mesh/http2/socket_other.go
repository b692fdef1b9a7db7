//go:build !unix

package http2

// socket waits for a socket to become readable without holding a buffer, where
// the system allows it.
type socket struct{}

func (*socket) init(*input) {}

func (*socket) able() bool { return false }

func (*socket) fill() error { return nil }
