// Package state is the key/value building block.
//
// Dialects call [Store]; stores of all kinds are behind [Driver]. What every
// state call needs, whatever the protocol it came in by and whatever the store
// it goes to, is in Store, once: key prefixes, time to live, the policies,
// fan-out of bulk calls, and the text of errors.
package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Reasons of the errors that Store returns. A store that is not open yet is
// Unavailable with component.ReasonNotReady.
const (
	// ReasonUndecipherable: none of the encryption keys decrypts a value.
	ReasonUndecipherable fault.Reason = "state.undecipherable"
	// ReasonQueryEncrypted: the values of the store are encrypted, so that
	// nobody can look into them.
	ReasonQueryEncrypted fault.Reason = "state.query_encrypted"
	// ReasonEmptyKey: a request without a key.
	ReasonEmptyKey fault.Reason = "state.empty_key"
	// ReasonIllegalKey: a key with "||" in it, which separates prefix and key
	// in the store.
	ReasonIllegalKey fault.Reason = "state.illegal_key"
	// ReasonETagMismatch: the item has changed, or a first write came second.
	ReasonETagMismatch fault.Reason = "state.etag_mismatch"
	// ReasonETagInvalid: an etag that this store cannot have handed out.
	ReasonETagInvalid fault.Reason = "state.etag_invalid"
	// ReasonBadTTL: ttlInSeconds is not a number of seconds.
	ReasonBadTTL fault.Reason = "state.bad_ttl"
	// ReasonBadOption: a concurrency or consistency that there is not.
	ReasonBadOption fault.Reason = "state.bad_option"
	// ReasonTransactionsNotSupported: the driver has no transactions.
	ReasonTransactionsNotSupported fault.Reason = "state.transactions_not_supported"
	// ReasonTooManyOperations: more operations than the store's transactions
	// can have.
	ReasonTooManyOperations fault.Reason = "state.too_many_operations"
	// ReasonTooManyItems: more items than one request may have.
	ReasonTooManyItems fault.Reason = "state.too_many_items"
	// ReasonBadOperation: a transaction operation of a kind that there is not.
	ReasonBadOperation fault.Reason = "state.bad_operation"
	// ReasonConditionFailed: a check of a transaction does not hold.
	ReasonConditionFailed fault.Reason = "state.condition_failed"
	// ReasonBadPage: a page of a negative size, or a token that no page had.
	ReasonBadPage fault.Reason = "state.bad_page"
	// ReasonListNotSupported: the driver cannot enumerate keys.
	ReasonListNotSupported fault.Reason = "state.list_not_supported"
	// ReasonQueryNotSupported: the driver cannot query.
	ReasonQueryNotSupported fault.Reason = "state.query_not_supported"
	// ReasonQueryNotAvailable: the driver can, and its server lacks what
	// queries need, or the component does not say what that is.
	ReasonQueryNotAvailable fault.Reason = "state.query_not_available"
	// ReasonBadQuery: a query that is malformed, or that this store cannot
	// answer.
	ReasonBadQuery fault.Reason = "state.bad_query"
	// ReasonWatchNotSupported: the driver, or its server, cannot tell of
	// changes.
	ReasonWatchNotSupported fault.Reason = "state.watch_not_supported"
	// ReasonRevisionGone: a watch cannot know all changes any more.
	ReasonRevisionGone fault.Reason = "state.revision_gone"
	// ReasonRevisionInvalid: a revision that this store cannot have handed
	// out.
	ReasonRevisionInvalid fault.Reason = "state.revision_invalid"
)

// Store is a state component as dialects see it. It is safe for concurrent
// use.
//
// Every error it returns is classified, names the store and the key as the
// caller wrote it, and never shows the prefixed key.
type Store struct {
	name   string
	handle *component.Handle[Driver]
	prefix string
	ttl    time.Duration // of items that do not say

	get, set, del, list, query, watch, transact *policy.Operation
	bulkGet, bulkSet, bulkDel                   *policy.Operation

	gets, sets sync.Pool // of *getCall and *setCall

	watches atomic.Int64 // under way

	outbox     Outbox // nil when transactions publish nothing
	outboxRows *Rows
}

// Options say for whom a Store works and how.
type Options struct {
	// AppID and Namespace identify the application, for key prefixes.
	AppID, Namespace string
	Config           Config
	// Chains gives the policies around every call.
	Chains policy.Chains
	// Outbox, when not nil, returns what makes transactions publish. It is
	// called once, with where the outbox keeps its rows.
	Outbox func(*Rows) Outbox
}

// New returns a Store on the driver that h opens.
func New(h *component.Handle[Driver], o Options) *Store {
	chain := o.Chains.Component(Block, h.Name(), false)
	bind := func(op string) *policy.Operation {
		return chain.Bind(policy.Op{Block: Block, Component: h.Name(), Name: op})
	}
	s := &Store{
		name: h.Name(), handle: h,
		prefix:   keyPrefix(o.Config.KeyPrefix, h.Name(), o.AppID, o.Namespace),
		ttl:      seconds(o.Config.TTLInSeconds),
		get:      bind("get"),
		set:      bind("set"),
		del:      bind("delete"),
		list:     bind("list"),
		query:    bind("query"),
		watch:    bind("watch"),
		transact: bind("transact"),
		bulkGet:  bind("bulk_get"),
		bulkSet:  bind("bulk_set"),
		bulkDel:  bind("bulk_delete"),
	}
	if o.Outbox != nil {
		s.outboxRows = s.rows(outboxPart, o.Namespace, o.AppID)
		s.outbox = o.Outbox(s.outboxRows)
	}
	return s
}

// Name returns the name of the component.
func (s *Store) Name() string { return s.name }

// GetRequest asks for one item.
type GetRequest struct {
	Key         string
	Consistency Consistency
	// Metadata goes to the driver as it is. It is not changed. May be nil.
	Metadata map[string]string
}

// Get returns the item at r.Key. found is false, and err nil, when there is
// none. The caller may keep Item.Value but not change it.
func (s *Store) Get(ctx context.Context, r GetRequest) (item Item, found bool, err error) {
	if err := s.checkKey(r.Key); err != nil {
		return Item{}, false, err
	}
	c, ok := s.gets.Get().(*getCall)
	if !ok {
		c = &getCall{store: s}
		c.run = c.do
	}
	c.key, c.opt = s.prefix+r.Key, GetOptions{r.Consistency, r.Metadata}
	c.Key, c.Idempotent = r.Key, true
	err = s.get.Run(ctx, &c.Call, c.run)
	item, found = c.item, c.found
	*c = getCall{store: s, run: c.run}
	s.gets.Put(c)
	if err != nil {
		return Item{}, false, s.explain(err, "get", r.Key)
	}
	return item, found, nil
}

// A getCall is a Get under way. It is one value, where a closure per layer
// would be several, and is used again, because reads are the hottest path there
// is. Nobody has it once Run has returned.
type getCall struct {
	policy.Call
	run   func(context.Context) error // do
	store *Store
	key   string
	opt   GetOptions
	item  Item
	found bool
}

func (c *getCall) do(ctx context.Context) error {
	d, keys, err := c.store.driver(ctx)
	if err != nil {
		return err
	}
	c.item, c.found, err = d.Get(ctx, c.key, c.opt)
	return keys.result(c.key, &c.item, c.found, err)
}

// driver returns the driver, and what encrypts its values; nil for nothing.
func (s *Store) driver(ctx context.Context) (Driver, *keyring, error) {
	d, err := s.handle.Get(ctx)
	if e, ok := d.(*encryptedDriver); ok {
		return e.Driver, e.keys, err
	}
	return d, nil, err
}

// SetRequest writes one item.
type SetRequest struct {
	Key   string
	Value []byte
	// ETag, when not empty, lets the write succeed only if it is the present
	// item's, whatever Concurrency says.
	ETag        string
	Concurrency Concurrency
	Consistency Consistency
	// Metadata goes to the driver as it is, but for ttlInSeconds, which Store
	// reads. It is not changed. May be nil.
	Metadata map[string]string
}

func (s *Store) putOptions(r *SetRequest) (PutOptions, error) {
	ttl, err := s.ttlOf(r.Metadata)
	if err != nil {
		return PutOptions{}, s.explain(err, "set", r.Key)
	}
	return PutOptions{
		ETag: r.ETag, FirstWrite: r.Concurrency == FirstWrite,
		TTL: ttl, Consistency: r.Consistency, Metadata: r.Metadata,
	}, nil
}

// Set stores one item and returns its etag, or "" when the store does not
// tell.
func (s *Store) Set(ctx context.Context, r SetRequest) (etag string, err error) {
	if err := s.checkKey(r.Key); err != nil {
		return "", err
	}
	opt, err := s.putOptions(&r)
	if err != nil {
		return "", err
	}
	c, ok := s.sets.Get().(*setCall)
	if !ok {
		c = &setCall{store: s}
		c.run = c.do
	}
	c.put = PutOp{Key: s.prefix + r.Key, Value: r.Value, PutOptions: opt}
	c.Key, c.Bytes, c.Idempotent = r.Key, len(r.Value), idempotent(opt)
	err = s.set.Run(ctx, &c.Call, c.run)
	etag = c.etag
	*c = setCall{store: s, run: c.run}
	s.sets.Put(c)
	if err != nil {
		return "", s.explain(err, "set", r.Key)
	}
	return etag, nil
}

// idempotent reports whether a write may be repeated when it is not known
// whether it was carried out: not if the first try changes what the second
// one's condition sees.
func idempotent(o PutOptions) bool { return o.ETag == "" && !o.FirstWrite }

// A setCall is a Set under way, like a getCall.
type setCall struct {
	policy.Call
	run   func(context.Context) error // do
	store *Store
	put   PutOp
	etag  string
}

func (c *setCall) do(ctx context.Context) error {
	d, keys, err := c.store.driver(ctx)
	if err != nil {
		return err
	}
	put, err := keys.put(c.put)
	if err != nil {
		return err
	}
	c.etag, err = d.Put(ctx, put.Key, put.Value, put.PutOptions)
	return err
}

// DeleteRequest removes one item.
type DeleteRequest struct {
	Key string
	// ETag, when not empty, lets the removal succeed only if it is the present
	// item's. Without it, removing what does not exist succeeds.
	ETag        string
	Consistency Consistency
	Metadata    map[string]string // as in GetRequest
}

// Delete removes one item.
func (s *Store) Delete(ctx context.Context, r DeleteRequest) error {
	if err := s.checkKey(r.Key); err != nil {
		return err
	}
	key, opt := s.prefix+r.Key, DeleteOptions{r.ETag, r.Consistency, r.Metadata}
	c := policy.Call{Key: r.Key, Idempotent: r.ETag == ""}
	err := s.del.Run(ctx, &c, func(ctx context.Context) error {
		d, _, err := s.driver(ctx)
		if err != nil {
			return err
		}
		return d.Delete(ctx, key, opt)
	})
	return s.explain(err, "delete", r.Key)
}

// explain adds to an error which store and key it is about. It returns nil for
// nil.
func (s *Store) explain(err error, op, key string) error {
	if err == nil {
		return nil
	}
	about := fmt.Sprintf("state %q: %s", s.name, op)
	if key != "" {
		about = fmt.Sprintf("%s %q", about, key)
	}
	if _, classified := errors.AsType[*fault.Error](err); !classified {
		about += ": " + fault.Message(err)
	}
	return fault.Wrap(err, fault.CodeOf(err), "%s", about)
}
