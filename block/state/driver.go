package state

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/proa-io/proa/fault"
)

// Driver is what a key/value store implements; everything else is optional
// (see [Transactor], [BulkGetter], [BulkPutter], [BulkDeleter], [Lister]).
//
// A driver does I/O and names its errors with fault codes. It does not retry,
// set timeouts of its own, log calls, measure, prefix keys or encrypt: [Store]
// does that for all drivers. Methods are safe for concurrent use and return
// soon after ctx ends, with the code Canceled or DeadlineExceeded. After Close
// they fail with Unavailable.
//
// A key is any non-empty string, with any bytes in it; a value is any bytes,
// and an empty value is not the same as none. Error texts must not quote keys
// or values: the caller never wrote the prefix that is in the key, and Store
// adds the key that the caller did write.
type Driver interface {
	// Get returns the item at key. found is false, and err nil, when there is
	// none or it has expired. The caller may keep Item.Value but not change it;
	// neither does the driver.
	Get(ctx context.Context, key string, opt GetOptions) (item Item, found bool, err error)

	// Put stores value at key and returns the etag of what it stored, or ""
	// when the store does not tell and only a Get would. An opt.ETag that is
	// not that of the item, or for which there is no item, is ErrETagMismatch;
	// so is opt.FirstWrite without an etag when there is an item. The driver
	// does not keep or change value after it returns.
	Put(ctx context.Context, key string, value []byte, opt PutOptions) (etag string, err error)

	// Delete removes the item at key. Without opt.ETag it succeeds when there
	// is none; with one, anything but that very item is ErrETagMismatch.
	Delete(ctx context.Context, key string, opt DeleteOptions) error

	// Close releases what the driver holds. Calls that are under way may fail
	// with Unavailable.
	io.Closer
}

// Item is a stored value.
type Item struct {
	Value []byte
	// ETag names this version of the item; it changes with every write. It
	// is opaque, and empty when the store keeps none for this item.
	ETag string
	// Expires is when the item goes away by itself; zero for never.
	Expires time.Time
}

// Consistency says how fresh a read, or how widely acknowledged a write, must
// be. A driver whose store knows only one kind ignores it.
type Consistency uint8

// The consistencies a caller may ask for.
const (
	DefaultConsistency Consistency = iota // what the driver does best
	Eventual                              // any replica's answer will do
	Strong                                // a read sees every acknowledged write
)

// GetOptions qualify a read.
type GetOptions struct {
	Consistency Consistency
	// Metadata is what the caller sent along, for settings that only this
	// kind of store knows. It must not be changed. May be nil.
	Metadata map[string]string
}

// PutOptions are the conditions and properties of a write.
type PutOptions struct {
	// ETag, when not empty, lets the write succeed only if it is the present
	// item's.
	ETag string
	// FirstWrite asks for first-write-wins: without an ETag the write succeeds
	// only if there is no item.
	FirstWrite bool
	// TTL is how long the item lives from now on, in whole seconds; 0 for ever,
	// even if what it overwrites had a TTL.
	TTL         time.Duration
	Consistency Consistency
	Metadata    map[string]string // as in GetOptions
}

// DeleteOptions are the conditions of a removal.
type DeleteOptions struct {
	// ETag, when not empty, lets the removal succeed only if it is the present
	// item's.
	ETag        string
	Consistency Consistency
	Metadata    map[string]string // as in GetOptions
}

// BulkGetter is implemented by drivers that read many keys cheaper than one
// by one.
type BulkGetter interface {
	// BulkGet returns one result per key, in the order of keys.
	BulkGet(ctx context.Context, keys []string, opt GetOptions) []GetResult
}

// GetResult is the outcome of one read of many.
type GetResult struct {
	Item  Item
	Found bool
	Err   error
}

// BulkPutter is implemented by drivers that write many keys cheaper than one
// by one.
type BulkPutter interface {
	// BulkPut carries out each write as Put would, not atomically, writes to
	// the same key in the order given, and returns one result per write.
	BulkPut(ctx context.Context, puts []PutOp) []PutResult
}

// PutOp is one write of many.
type PutOp struct {
	Key   string
	Value []byte
	PutOptions
}

// PutResult is the outcome of one write of many.
type PutResult struct {
	ETag string
	Err  error
}

// BulkDeleter is implemented by drivers that remove many keys cheaper than
// one by one.
type BulkDeleter interface {
	// BulkDelete carries out each removal as Delete would, not atomically,
	// and returns one error per removal, nil where it succeeded.
	BulkDelete(ctx context.Context, deletes []DeleteOp) []error
}

// DeleteOp is one removal of many.
type DeleteOp struct {
	Key string
	DeleteOptions
}

// Transactor is implemented by drivers that can write several keys atomically.
type Transactor interface {
	// Transact carries out all operations or none, in the order given. It
	// fails as Put and Delete do, with an *OpError when one operation is to
	// blame. Conditions on a key that an earlier operation of the same
	// transaction wrote hold against what was there before the transaction.
	Transact(ctx context.Context, ops []Op, opt TransactOptions) error
	// MaxTransaction returns how many operations a transaction may have; 0
	// for any number.
	MaxTransaction() int
}

// TransactOptions qualify a transaction as a whole.
type TransactOptions struct {
	Metadata map[string]string // as in GetOptions
}

// Op is one operation of a transaction.
type Op struct {
	Key string
	// Delete removes the item, subject to ETag; Value and the other options
	// mean nothing then.
	Delete bool
	Value  []byte
	PutOptions
}

// OpError tells which operation of a transaction failed and why.
type OpError struct {
	Index int // in the list of operations
	Err   error
}

// Error returns the text of Err with the number of the operation.
func (e *OpError) Error() string { return fmt.Sprintf("operation %d: %v", e.Index+1, e.Err) }

// Unwrap returns Err.
func (e *OpError) Unwrap() error { return e.Err }

// Lister is implemented by drivers that can enumerate keys.
type Lister interface {
	// List returns up to limit keys that start with prefix and sort after
	// after, in byte order. Expired items are left out. limit is positive.
	List(ctx context.Context, prefix, after string, limit int) (keys []string, err error)
}

// ErrETagMismatch returns the error of a write that lost: the item is not the
// one that its etag, or first-write, stands for.
func ErrETagMismatch() error {
	return fault.New(fault.Aborted, "the item has changed: its etag is not the one given").WithReason(ReasonETagMismatch)
}

// ErrExists returns the error of a first write that came second.
func ErrExists() error {
	return fault.New(fault.Aborted, "the item exists already and a first write was asked for without its etag").
		WithReason(ReasonETagMismatch)
}

// ErrETagInvalid returns the error of an etag that the driver can never have
// handed out; want says what its etags look like ("a whole number").
func ErrETagInvalid(want string) error {
	return fault.New(fault.InvalidArgument, "the etag is not one of this store: want %s", want).WithReason(ReasonETagInvalid)
}

// ErrClosed returns the error of a call to a driver that has been closed.
func ErrClosed() error { return fault.New(fault.Unavailable, "the store is closed") }
