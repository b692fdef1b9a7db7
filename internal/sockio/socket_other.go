//go:build !unix

package sockio

import (
	"errors"
	"net"
)

// Socket is not there on this platform.
type Socket struct{}

// Writes is not needed.
type Writes struct{}

// Of returns nil.
func Of(net.Conn) *Socket { return nil }

// Read fails.
func (*Socket) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Fill fails.
func (*Socket) Fill(Buffer) (int, error) { return 0, errors.ErrUnsupported }

// Ask fails.
func (*Socket) Ask([]byte, Buffer, bool) (wrote, n int, err error) {
	return 0, 0, errors.ErrUnsupported
}

// TryRead fails.
func (*Socket) TryRead([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Watch fails.
func (*Socket) Watch(func() bool) error { return errors.ErrUnsupported }

// TryWrite fails.
func (*Socket) TryWrite(*Writes, ...[]byte) (int, error) { return 0, errors.ErrUnsupported }

// Peek cannot look.
func (*Socket) Peek() State { return Quiet }

// Waiting cannot tell.
func (*Socket) Waiting() int { return 0 }

// Control fails.
func (*Socket) Control(func(fd uintptr)) error { return errors.ErrUnsupported }
