package state

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
)

// Driver is what a key/value store implements; everything else is optional
// (see [Transactor], [BulkGetter], [BulkPutter], [BulkDeleter], [Lister],
// [Querier], [Watcher]).
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
	// blame; for a condition that does not hold that has Op.Lost. Conditions
	// on a key that another operation of the same transaction writes hold
	// against what was there before the transaction. A transaction with a
	// check has at least one operation that writes; a driver whose protocol has
	// no checks refuses it with Unimplemented.
	Transact(ctx context.Context, ops []Op, opt TransactOptions) error
	// MaxTransaction returns how many operations a transaction may have,
	// checks included; 0 for any number.
	MaxTransaction() int
}

// TransactOptions qualify a transaction as a whole.
type TransactOptions struct {
	Metadata map[string]string // as in GetOptions
}

// Op is one operation of a transaction: a write, a removal or a check.
type Op struct {
	Key string
	// Check, when not NoCheck, makes the operation write nothing and demand
	// that its condition holds at the moment the others take effect. Of the
	// other fields only ETag means something then, and only for CheckETag.
	// A check changes neither the etag nor the expiry of the item.
	Check Check
	// Delete removes the item, subject to ETag; Value and the other options
	// mean nothing then.
	Delete bool
	Value  []byte
	PutOptions
}

// Check is a condition on an item that is not written. An expired item counts
// as absent.
type Check uint8

// The conditions.
const (
	NoCheck     Check = iota // the operation writes
	CheckExists              // there is an item, whatever its etag
	CheckAbsent              // there is no item
	CheckETag                // there is an item and its etag is Op.ETag, which is not empty
)

// Lost returns the error of an operation whose condition does not hold, for
// drivers to put into an OpError.
func (o *Op) Lost() error {
	switch {
	case o.Check == CheckExists:
		return conditionFailed("there is no item, and the transaction demands one")
	case o.Check == CheckAbsent:
		return conditionFailed("there is an item, and the transaction demands that there is none")
	case o.Check == CheckETag:
		return conditionFailed("the item is not the one whose etag the transaction demands")
	case o.ETag == "":
		return ErrExists()
	}
	return ErrETagMismatch()
}

func conditionFailed(text string) error {
	return fault.New(fault.Aborted, "%s", text).WithReason(ReasonConditionFailed)
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
	// after, in byte order: fewer only when there are no more. Expired items
	// are left out. limit is positive; after may be any text.
	List(ctx context.Context, prefix, after string, limit int) (keys []string, err error)
}

// Querier is implemented by drivers whose store can select items by what is in
// their values. [Query] says what each part of a query means.
type Querier interface {
	// Query returns one page of the items that scope holds and q selects, in
	// the order that q asks for. Expired items are left out. q and what it
	// points to must not be changed. A query of a kind that the store cannot
	// answer at all (several sort keys, an order of strings) is
	// InvalidArgument and says so; a server that lacks what queries need is
	// Unimplemented with ReasonQueryNotAvailable.
	Query(ctx context.Context, scope Scope, q *Query, opt QueryOptions) (QueryPage, error)
}

// Scope says which keys a query may see: those of one application. Nothing
// else may have an influence on the answer: not on its items, their number,
// nor on the token.
type Scope struct {
	// Prefix is what the keys start with; may be empty.
	Prefix string
	// Without, when not empty, is what the keys do not contain after Prefix.
	Without string
}

// Holds reports whether key is one that the scope lets see, for drivers whose
// store cannot tell.
func (s Scope) Holds(key string) bool {
	rest, ok := strings.CutPrefix(key, s.Prefix)
	return ok && (s.Without == "" || !strings.Contains(rest, s.Without))
}

// QueryOptions qualify a query as a whole.
type QueryOptions struct {
	Metadata map[string]string // as in GetOptions
}

// QueryPage is one page of the answer to a query.
type QueryPage struct {
	// Items has at most Query.Limit items.
	Items []QueryItem
	// Token is what Query.Token must be for the next page; "" when this is the
	// last one. As long as nothing changes, the pages hold each item once.
	// When items come, go or change their place between two pages, others may
	// be missed or returned twice: a store may just count.
	Token string
	// Metadata is what else the store has to say; often nil.
	Metadata map[string]string
}

// QueryItem is one item of a page, as Get would return it.
type QueryItem struct {
	Key string
	Item
}

// Watcher is implemented by drivers whose store can tell of changes.
type Watcher interface {
	// Watch calls report for each change of the items whose keys start with
	// prefix, whoever makes it. It returns the error of ctx when that ends,
	// that of report when that fails, and another one, never nil, when it
	// cannot go on: Unavailable when the connection is lost and after Close,
	// ErrRevisionGone when it cannot know all changes any more. It does not try
	// again by itself.
	//
	// report is called by one goroutine at a time, may take its time, and is
	// not called after Watch has returned. What a slow one costs is bounded.
	//
	// The changes of one key come in the order in which they were made. Of
	// several in quick succession only the last is sure to come, and the value
	// may be newer than the change; never does an older state of a key come
	// after a newer. The end of an item by its TTL comes as ItemGone once the
	// store removes it, which may be later than it counts as gone. An
	// ItemGone of a key that was never reported may come; so may a change that
	// was reported before.
	//
	// A call of kind Synced comes first of all, when opt.Initial is not set:
	// it says that every change that is made from now on (or, with opt.After,
	// after that revision) will be reported. With opt.Initial every item there
	// is comes first, as an ItemPut each, and Synced after the last of them.
	// Further ones may come at any time.
	Watch(ctx context.Context, prefix string, opt WatchOptions, report func(Change) error) error
}

// WatchOptions say where a watch begins. At most one of them is set.
type WatchOptions struct {
	// Initial reports the items that there are before it reports changes.
	Initial bool
	// After is a Change.Revision of an earlier watch, possibly of another
	// process: the watch goes on after it, as if it had not been interrupted.
	// When the store has forgotten some of the changes since, that is
	// ErrRevisionGone; when it cannot have handed out such a revision, which
	// is always so for a driver that sets none, ErrRevisionInvalid.
	After string
}

// Change is one report of a Watch.
type Change struct {
	Kind ChangeKind
	// Key is the key of the item; empty for Synced.
	Key string
	// Item is the new item; of ItemPut only.
	Item Item
	// Revision names this moment, for WatchOptions.After: all that was
	// reported up to and including this call is before it. It is opaque, at
	// most 128 bytes long, and empty when the store cannot go on from here; it
	// always is during the initial items.
	Revision string
}

// ChangeKind says what a Change is.
type ChangeKind uint8

// The kinds of changes.
const (
	ItemPut  ChangeKind = iota // the item was written, or is there in the beginning
	ItemGone                   // the item was deleted, or its life is over
	Synced                     // nothing has changed; all there was to report has been
)

// ErrRevisionGone returns the error of a watch that cannot know all changes any
// more: those since its beginning, or those that came while its report took
// too long.
func ErrRevisionGone() error {
	return fault.New(fault.FailedPrecondition, "some changes since then are not known any more: watch anew, from the present items").
		WithReason(ReasonRevisionGone)
}

// ErrRevisionInvalid returns the error of a revision that the driver can never
// have handed out; why says so in words ("revisions are whole numbers").
func ErrRevisionInvalid(why string) error {
	return fault.New(fault.InvalidArgument, "the revision is not one of this store: %s", why).WithReason(ReasonRevisionInvalid)
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
