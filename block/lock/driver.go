package lock

import (
	"context"
	"io"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Block is the first part of the type string of every component of this block.
const Block = "lock"

// Driver is what a lock store implements.
//
// A driver does I/O and names its errors with fault codes, nothing else; Store
// adds key prefixes and policies for all drivers. Methods are safe for
// concurrent use and return soon after ctx ends.
type Driver interface {
	// Acquire takes the named lock for owner until it is released or ttl has
	// passed. When somebody holds it, be it owner itself, Acquire fails at
	// once with fault.Aborted and ReasonHeld.
	Acquire(ctx context.Context, name, owner string, ttl time.Duration) (Lease, error)

	// Release gives the lock back. It is fault.NotFound when nobody holds
	// it, and fault.PermissionDenied when another owner does.
	Release(ctx context.Context, name, owner string) error

	io.Closer
}

// Renewer is implemented by drivers that can extend a lock that is held.
type Renewer interface {
	// Renew lets the lock that owner holds expire ttl from now. It fails as
	// Release does when owner does not hold it. The Lease has the Token that
	// Acquire gave.
	Renew(ctx context.Context, name, owner string, ttl time.Duration) (Lease, error)
}

// Watcher is implemented by drivers that can tell when a lock may be had. Those
// who wait for a lock of another driver ask for it at intervals.
type Watcher interface {
	// AwaitFree returns nil when nobody holds the named lock, at once if that
	// is so already: never later than soon after it was released or its lease
	// has ended. It may also return nil sooner, for whoever waits asks with
	// Acquire and waits on. When ctx ends it returns the cause of that; any
	// other error says that the store cannot tell at present.
	AwaitFree(ctx context.Context, name string) error
}

// Lease is a lock that is held.
type Lease struct {
	// Token is the fencing token, never 0: each Acquire of a lock gives a
	// larger one than any before, also after the store has been restarted if
	// it is durable. A resource that refuses tokens smaller than the largest
	// it has seen is safe from an owner that does not know that its lease is
	// over.
	Token uint64
	// Expires is when the lease ends unless it is renewed, by the clock of
	// this process, measured from before the call. The holder may rely on
	// the lock until then, not longer.
	Expires time.Time
}

// ReasonHeld marks an Acquire that failed because the lock is held.
const ReasonHeld fault.Reason = "lock.held"

// ErrHeld returns the error with which Acquire reports a lock that is held.
func ErrHeld() error {
	return fault.New(fault.Aborted, "the lock is held").WithReason(ReasonHeld)
}

// ErrNotHeld returns the error with which Release and Renew report a lock that
// nobody holds.
func ErrNotHeld() error { return fault.New(fault.NotFound, "nobody holds the lock") }

// ErrNotOwner returns the error with which Release and Renew report a lock
// that somebody else holds.
func ErrNotOwner() error { return fault.New(fault.PermissionDenied, "another owner holds the lock") }

// Spec describes a driver of type "lock.<name>" to the catalog.
func Spec[C any, D Driver](d component.Description, defaults C,
	open func(context.Context, C, component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, Config{}, []component.Capability{
		component.Can[Renewer]("RENEW"),
		component.Can[Watcher]("AWAIT"),
	}, open)
}
