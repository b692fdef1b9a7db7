package state

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Bulk calls on drivers that have none run so many single calls at a time.
const (
	defaultParallelism = 10
	maxParallelism     = 100
)

// maxBulk bounds how many items one request names: what each costs is more than
// its share of the request.
const maxBulk = 100_000

func (s *Store) checkBulk(n int) error {
	if n > maxBulk {
		return fault.New(fault.InvalidArgument, "state %q: %d items are too many for one request: it may have %d", s.name, n, maxBulk).
			WithReason(ReasonTooManyItems)
	}
	return nil
}

// BulkGetRequest asks for several items.
type BulkGetRequest struct {
	Keys []string
	// Parallelism is how many items are fetched at a time from a store that
	// cannot fetch many at once: 10 when not positive, at most 100.
	Parallelism int
	Consistency Consistency
	Metadata    map[string]string // as in GetRequest
}

// BulkItem is one answer of GetBulk.
type BulkItem struct {
	Key   string
	Item  Item
	Found bool
	Err   error // why this item could not be read
}

// GetBulk returns one answer per key, in the order of r.Keys. It fails as a
// whole only when nothing was tried: for a bad key, a policy that forbids the
// call, or a store that is not ready.
func (s *Store) GetBulk(ctx context.Context, r BulkGetRequest) ([]BulkItem, error) {
	if err := s.checkBulk(len(r.Keys)); err != nil {
		return nil, err
	}
	keys := make([]string, len(r.Keys))
	for i, k := range r.Keys {
		if err := s.checkKey(k); err != nil {
			return nil, err
		}
		keys[i] = s.prefix + k
	}
	opt := GetOptions{r.Consistency, r.Metadata}
	out := make([]BulkItem, len(keys))
	b := bulk{store: s, op: s.bulkGet, errs: make([]error, len(keys)), idempotent: true}
	err := b.run(ctx, func(ctx context.Context, d Driver, ring *keyring, todo []int) {
		take := func(i int, item Item, found bool, err error) {
			b.errs[i] = ring.result(keys[i], &item, found, err)
			out[i].Item, out[i].Found = item, found
		}
		if bg, ok := d.(BulkGetter); ok {
			for j, res := range bg.BulkGet(ctx, pick(keys, todo), opt) {
				take(todo[j], res.Item, res.Found, res.Err)
			}
			return
		}
		fanOut(todo, r.Parallelism, func(i int) {
			item, found, err := d.Get(ctx, keys[i], opt)
			take(i, item, found, err)
		})
	})
	if err != nil {
		return nil, s.explain(err, "get", "")
	}
	for i, k := range r.Keys {
		out[i].Key, out[i].Err = k, s.explain(b.errs[i], "get", k)
	}
	return out, nil
}

// Save stores items, not atomically; of items with the same key the last one
// stays. When some fail the error is a *BulkError beneath its text, and has
// the code and the reason of the first that failed.
func (s *Store) Save(ctx context.Context, items []SetRequest) error {
	if len(items) == 1 {
		_, err := s.Set(ctx, items[0])
		return err
	}
	if err := s.checkBulk(len(items)); err != nil {
		return err
	}
	b := bulk{store: s, op: s.bulkSet, errs: make([]error, len(items)), idempotent: true}
	puts := make([]PutOp, len(items))
	keys := make([]string, len(items))
	for i := range items {
		r := &items[i]
		if err := s.checkKey(r.Key); err != nil {
			return err
		}
		opt, err := s.putOptions(r)
		if err != nil {
			return err
		}
		puts[i], keys[i] = PutOp{s.prefix + r.Key, r.Value, opt}, r.Key
		b.bytes += len(r.Value)
		b.idempotent = b.idempotent && idempotent(opt)
	}
	err := b.run(ctx, func(ctx context.Context, d Driver, ring *keyring, todo []int) {
		if bp, ok := d.(BulkPutter); ok {
			sealed, err := ring.puts(pick(puts, todo))
			if err != nil {
				b.fail(todo, err)
				return
			}
			for j, res := range bp.BulkPut(ctx, sealed) {
				b.errs[todo[j]] = res.Err
			}
			return
		}
		fanOut(todo, parallelFor(keys), func(i int) {
			var put PutOp
			if put, b.errs[i] = ring.put(puts[i]); b.errs[i] == nil {
				_, b.errs[i] = d.Put(ctx, put.Key, put.Value, put.PutOptions)
			}
		})
	})
	if err != nil {
		return s.explain(err, "set", "")
	}
	return s.explainBulk(keys, b.errs, "saved")
}

// DeleteBulk removes items, not atomically. Its error is like that of Save.
func (s *Store) DeleteBulk(ctx context.Context, items []DeleteRequest) error {
	if len(items) == 1 {
		return s.Delete(ctx, items[0])
	}
	if err := s.checkBulk(len(items)); err != nil {
		return err
	}
	b := bulk{store: s, op: s.bulkDel, errs: make([]error, len(items)), idempotent: true}
	deletes := make([]DeleteOp, len(items))
	keys := make([]string, len(items))
	for i, r := range items {
		if err := s.checkKey(r.Key); err != nil {
			return err
		}
		deletes[i], keys[i] = DeleteOp{s.prefix + r.Key, DeleteOptions{r.ETag, r.Consistency, r.Metadata}}, r.Key
		b.idempotent = b.idempotent && r.ETag == ""
	}
	err := b.run(ctx, func(ctx context.Context, d Driver, _ *keyring, todo []int) {
		if bd, ok := d.(BulkDeleter); ok {
			for j, err := range bd.BulkDelete(ctx, pick(deletes, todo)) {
				b.errs[todo[j]] = err
			}
			return
		}
		fanOut(todo, parallelFor(keys), func(i int) {
			b.errs[i] = d.Delete(ctx, deletes[i].Key, deletes[i].DeleteOptions)
		})
	})
	if err != nil {
		return s.explain(err, "delete", "")
	}
	return s.explainBulk(keys, b.errs, "deleted")
}

// A bulk is a call about many items under way. A retry of it tries only what
// may still succeed.
type bulk struct {
	store      *Store
	op         *policy.Operation
	errs       []error // one per item, set by each attempt
	idempotent bool
	bytes      int
}

// run carries out attempt through the policies. It returns an error only when
// no attempt was made; what became of the items is in b.errs.
func (b *bulk) run(ctx context.Context, attempt func(ctx context.Context, d Driver, keys *keyring, todo []int)) error {
	if len(b.errs) == 0 {
		return nil
	}
	todo := make([]int, len(b.errs))
	for i := range todo {
		todo[i] = i
	}
	tried := false
	c := policy.Call{Bytes: b.bytes, Idempotent: b.idempotent}
	err := b.op.Run(ctx, &c, func(ctx context.Context) error {
		d, keys, err := b.store.driver(ctx)
		if err != nil {
			return err
		}
		tried = true
		attempt(ctx, d, keys, todo)
		todo, err = b.left(todo)
		return err
	})
	if tried {
		return nil
	}
	return err
}

// fail notes that an attempt failed for all its items.
func (b *bulk) fail(todo []int, err error) {
	for _, i := range todo {
		b.errs[i] = err
	}
}

// left returns which items of an attempt are worth another, and the error that
// the policies shall see: one that is worth it, if any.
func (b *bulk) left(todo []int) (again []int, first error) {
	for _, i := range todo {
		err := b.errs[i]
		if err == nil {
			continue
		}
		code := fault.CodeOf(err)
		if code.Retryable() || code == fault.DeadlineExceeded {
			if len(again) == 0 {
				first = err
			}
			again = append(again, i)
		} else if first == nil {
			first = err
		}
	}
	return again, first
}

// pick returns the elements of all at the given places.
func pick[T any](all []T, places []int) []T {
	if len(places) == len(all) {
		return all
	}
	out := make([]T, len(places))
	for j, i := range places {
		out[j] = all[i]
	}
	return out
}

// parallelFor returns how many writes to keys may be under way at a time: one,
// when a key comes twice, so that their order holds.
func parallelFor(keys []string) int {
	seen := make(map[string]struct{}, len(keys))
	for _, k := range keys {
		if _, dup := seen[k]; dup {
			return 1
		}
		seen[k] = struct{}{}
	}
	return defaultParallelism
}

// fanOut calls f for each place, up to parallel at a time, and returns when
// all calls have.
func fanOut(places []int, parallel int, f func(i int)) {
	if parallel <= 0 {
		parallel = defaultParallelism
	}
	parallel = min(parallel, maxParallelism, len(places))
	if parallel <= 1 {
		for _, i := range places {
			f(i)
		}
		return
	}
	next := make(chan int)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for _, i := range places {
		next <- i
	}
	close(next)
	wg.Wait()
}

// BulkError holds what failed of a bulk call.
type BulkError struct {
	Failed []KeyError // not empty, in the order of the request
	Of     int        // how many items the request had
}

// KeyError is the error of one item.
type KeyError struct {
	Key string // as the caller wrote it
	Err error
}

// Error returns the texts of all errors.
func (e *BulkError) Error() string {
	texts := make([]string, len(e.Failed))
	for i, f := range e.Failed {
		texts[i] = fmt.Sprintf("%q: %v", f.Key, f.Err)
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the errors of the items.
func (e *BulkError) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		errs[i] = f.Err
	}
	return errs
}

// maxNamed bounds how many failed keys an error text names.
const maxNamed = 10

// explainBulk returns one error for all of errs, or nil. The text ends with
// the key that failed first because fault.Message puts the message of that
// one after it.
func (s *Store) explainBulk(keys []string, errs []error, done string) error {
	e := &BulkError{Of: len(errs)}
	for i, err := range errs {
		if err != nil {
			e.Failed = append(e.Failed, KeyError{keys[i], err})
		}
	}
	if len(e.Failed) == 0 {
		return nil
	}
	var text strings.Builder
	fmt.Fprintf(&text, "state %q: %d of %d items were not %s: ", s.name, len(e.Failed), e.Of, done)
	for i, f := range e.Failed[1:] {
		if i == maxNamed {
			fmt.Fprintf(&text, "%d more; ", len(e.Failed)-1-i)
			break
		}
		fmt.Fprintf(&text, "%q: %s; ", f.Key, fault.Message(f.Err))
	}
	fmt.Fprintf(&text, "%q", e.Failed[0].Key)
	return fault.Wrap(e, fault.CodeOf(e.Failed[0].Err), "%s", text.String())
}
