// Package sockio reads and writes sockets with as few system calls, and as
// little of the scheduler, as can be.
//
// The net package announces every system call to the scheduler, which is right
// for calls that may block: while one lasts, others get the processor. Sockets
// do not block; they say that there is nothing yet. Told of none of that, the
// scheduler of a busy proxy does not wake threads to stand in for those that are
// in the kernel for ten microseconds, which otherwise takes a fifth of its time.
// So on Linux these calls are made without an announcement, and the runtime's
// poller is used for waiting, as ever.
package sockio

import "errors"

// Buffer lends the memory that a read needs once there is something to read, so
// that whoever waits holds none.
type Buffer interface {
	// Take returns where to read to. It is empty when there is to be no reading,
	// only a look, which only Fill can do; Drop is not called for that.
	Take() []byte
	// Drop takes back what Take returned last: nothing was read to it.
	Drop()
}

// ErrStale is what Ask returns for a connection that had ended, or on which
// bytes had come, before anything was asked. Nothing was written then.
var ErrStale = errors.New("the connection ended, or bytes came, while nothing was asked for")

// State is what a look into a connection found.
type State uint8

// The states of a connection.
const (
	Quiet    State = iota // open, nothing to read
	Readable              // bytes to read
	Ended                 // closed by the peer, or broken
)
