package job

import (
	"context"
	"io"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Block is the first part of the type string of every component of this block.
const Block = "jobs"

// Driver is what a jobs store implements: small entries that are written with
// compare and swap, and watched. What a job means, when it is due and whose
// turn it is to trigger it is decided by Store for all drivers.
//
// A driver does I/O and names its errors with fault codes, nothing else.
// Methods are safe for concurrent use and return soon after ctx ends. What is
// acknowledged survives the process.
//
// Scopes and names are free-form: any non-empty text of valid UTF-8, of at
// most MaxName bytes. Values are bytes that the driver does not look at.
type Driver interface {
	// Get returns the entry at key as it was last written, or fault.NotFound.
	Get(ctx context.Context, key Key) (Entry, error)

	// Put stores value at key and returns its revision, which is larger than
	// every revision that the entry has had before. When expect does not hold
	// it stores nothing and fails with fault.Aborted and ReasonConflict.
	Put(ctx context.Context, key Key, value []byte, expect Expect) (revision uint64, err error)

	// Delete removes the entry at key. When expect does not hold it fails as
	// Put does; with Anything a missing entry is no error.
	Delete(ctx context.Context, key Key, expect Expect) error

	// Watch reports every entry of scope, then a change with OpSynced, then
	// each change of the scope in the order in which they were made, by
	// calling report, until ctx ends. Of several changes of one entry it may
	// leave out all but the last. After a moment in which changes may have
	// been missed it may report entries again, and reports what was deleted
	// meanwhile, before another OpSynced. The revisions reported for one entry
	// only grow. report is called by one goroutine at a time and not after
	// Watch has returned.
	//
	// Watch returns the cause when ctx ends, and another error, never nil,
	// when it cannot go on; it does not try again by itself.
	Watch(ctx context.Context, scope Scope, report func(Change)) error

	io.Closer
}

// MaxName is the longest name of an entry, in bytes.
const MaxName = 512

// Scope is a set of entries that are written and watched together.
type Scope struct {
	// Kind tells what the entries are for.
	Kind string
	// Namespace and AppID say whose they are.
	Namespace, AppID string
}

// Key names one entry.
type Key struct {
	Scope
	Name string
}

// Entry is what is stored at a key.
type Entry struct {
	Name     string
	Value    []byte
	Revision uint64
}

// Expect is what a write demands of the entry's present revision.
type Expect struct {
	set bool
	rev uint64
}

// Anything demands nothing. It is the zero Expect.
func Anything() Expect { return Expect{} }

// Absent demands that there is no entry.
func Absent() Expect { return Expect{set: true} }

// Revision demands that the entry has this revision.
func Revision(rev uint64) Expect { return Expect{set: true, rev: rev} }

// Holds reports whether the demand is met by an entry with revision rev; 0
// stands for none.
func (e Expect) Holds(rev uint64) bool { return !e.set || e.rev == rev }

// Value returns the revision that is demanded, 0 for none, and false when
// nothing is demanded.
func (e Expect) Value() (rev uint64, set bool) { return e.rev, e.set }

// Op is what happened to an entry.
type Op uint8

// The operations.
const (
	// OpPut means that the entry is as Change.Entry says.
	OpPut Op = iota
	// OpDelete means that the entry is gone. The Entry has its name only.
	OpDelete
	// OpSynced means that everything there was has been reported.
	OpSynced
)

// Change is one report of a Watch.
type Change struct {
	Op Op
	Entry
}

// ReasonConflict marks a write whose demand was not met.
const ReasonConflict fault.Reason = "job.conflict"

// ErrConflict returns the error with which Put and Delete report that their
// demand is not met.
func ErrConflict() error {
	return fault.New(fault.Aborted, "the entry was changed by another writer").WithReason(ReasonConflict)
}

// ErrNotFound returns the error with which Get reports that there is no entry.
func ErrNotFound() error { return fault.New(fault.NotFound, "there is no such entry") }

// Spec describes a driver of type "jobs.<name>" to the catalog.
func Spec[C any, D Driver](d component.Description, defaults C,
	open func(context.Context, C, component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, nil, nil, open)
}
