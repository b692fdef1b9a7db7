package pluggable

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	componentsv1 "github.com/proa-io/proa/api/gen/dapr/proto/components/v1"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/textkey"
)

// parallelism is how many single calls are under way at once in place of a bulk
// call that the component does not have, or has refused.
const parallelism = 10

// one by one says that a bulk call is to be made up of single ones: the
// component has no such call, or has said only that something was wrong with
// it, not with which of the items.
func oneByOne(err error) bool {
	return !errors.Is(err, context.Canceled) && !unreachable(status.Code(err)) && !fault.Is(err, fault.Unavailable)
}

// BulkGet implements state.BulkGetter.
func (s *store) BulkGet(ctx context.Context, keys []string, opt state.GetOptions) []state.GetResult {
	out := make([]state.GetResult, len(keys))
	if len(keys) == 0 {
		return out
	}
	fail := func(err error) []state.GetResult {
		for i := range out {
			out[i] = state.GetResult{Err: err}
		}
		return out
	}
	if err := texts(opt.Metadata); err != nil {
		return fail(err)
	}
	r := &componentsv1.BulkGetRequest{Options: &componentsv1.BulkGetRequestOptions{Parallelism: parallelism}}
	for _, k := range keys {
		r.Items = append(r.Items, getRequest(k, opt))
	}
	answer, err := s.client.BulkGet(ctx, r)
	if err != nil && (ctx.Err() != nil || !oneByOne(err)) {
		return fail(s.classify(ctx, err))
	}
	if err != nil {
		s.each(len(keys), func(i int) {
			item, found, err := s.Get(ctx, keys[i], opt)
			out[i] = state.GetResult{Item: item, Found: found, Err: err}
		})
		return out
	}
	return resultsOf(keys, answer, out)
}

// resultsOf puts the answers, which come in any order, to the keys.
func resultsOf(keys []string, answer *componentsv1.BulkGetResponse, out []state.GetResult) []state.GetResult {
	byKey := make(map[string]*componentsv1.BulkStateItem, len(answer.GetItems()))
	for _, item := range answer.GetItems() {
		byKey[item.GetKey()] = item
	}
	for i, k := range keys {
		item := byKey[textkey.Encode(k)]
		if text := item.GetError(); text != "" {
			out[i].Err = fault.Wrap(errors.New(text), fault.Internal, "the component could not read the item")
			continue
		}
		out[i].Item, out[i].Found = itemOf(item.GetData(), item.GetEtag(), item.GetMetadata())
	}
	return out
}

// BulkPut implements state.BulkPutter. A bulk call has one outcome for all of
// its items, so those with a condition are written one by one.
func (s *store) BulkPut(ctx context.Context, puts []state.PutOp) []state.PutResult {
	out := make([]state.PutResult, len(puts))
	if len(puts) == 0 {
		return out
	}
	seen := make(map[string]bool, len(puts))
	plain := true
	r := &componentsv1.BulkSetRequest{Options: &componentsv1.BulkSetRequestOptions{Parallelism: parallelism}}
	for i := range puts {
		p := &puts[i]
		plain = plain && p.ETag == "" && !p.FirstWrite && !seen[p.Key] && texts(p.Metadata) == nil
		seen[p.Key] = true
		r.Items = append(r.Items, setRequest(p.Key, p.Value, p.PutOptions))
	}
	if plain {
		_, err := s.client.BulkSet(ctx, r)
		if err == nil {
			return out
		}
		if ctx.Err() != nil || !oneByOne(err) {
			for i := range out {
				out[i].Err = s.classify(ctx, err)
			}
			return out
		}
	}
	put := func(i int) { out[i].ETag, out[i].Err = s.Put(ctx, puts[i].Key, puts[i].Value, puts[i].PutOptions) }
	if len(seen) == len(puts) {
		s.each(len(puts), put)
		return out
	}
	for i := range puts { // in order, for the sake of keys that are there twice
		put(i)
	}
	return out
}

// BulkDelete implements state.BulkDeleter, as BulkPut does state.BulkPutter. A
// component that says that it removed fewer items than it was asked for is asked
// again one by one.
func (s *store) BulkDelete(ctx context.Context, deletes []state.DeleteOp) []error {
	out := make([]error, len(deletes))
	if len(deletes) == 0 {
		return out
	}
	plain := true
	r := &componentsv1.BulkDeleteRequest{Options: &componentsv1.BulkDeleteRequestOptions{Parallelism: parallelism}}
	for i := range deletes {
		d := &deletes[i]
		plain = plain && d.ETag == "" && texts(d.Metadata) == nil
		r.Items = append(r.Items, deleteRequest(d.Key, d.DeleteOptions))
	}
	if plain {
		_, err := s.client.BulkDelete(ctx, r)
		if err == nil {
			return out
		}
		if ctx.Err() != nil || !oneByOne(err) {
			for i := range out {
				out[i] = s.classify(ctx, err)
			}
			return out
		}
	}
	s.each(len(deletes), func(i int) { out[i] = s.Delete(ctx, deletes[i].Key, deletes[i].DeleteOptions) })
	return out
}

// each calls f with 0 to n-1, some at a time, and returns when all calls have.
func (s *store) each(n int, f func(int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(n, parallelism) {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// transactions is the state.Transactor of a store.
type transactions struct {
	s      *store
	client componentsv1.TransactionalStateStoreClient
}

// MaxTransaction implements state.Transactor.
func (t transactions) MaxTransaction() int { return t.s.max }

// Transact implements state.Transactor. The protocol has no checks, and does not
// say which operation has failed: that is known only when one alone has a
// condition.
func (t transactions) Transact(ctx context.Context, ops []state.Op, opt state.TransactOptions) error {
	if err := t.s.ready(ctx); err != nil || len(ops) == 0 {
		return err
	}
	if err := texts(opt.Metadata); err != nil {
		return err
	}
	r := &componentsv1.TransactionalStateRequest{Metadata: opt.Metadata}
	conditional, suspect := 0, 0
	for i := range ops {
		o := &ops[i]
		if o.Check != state.NoCheck {
			return fault.New(fault.Unimplemented, "pluggable components have no transactions with checks of what they do not write")
		}
		if err := checkPut(o.PutOptions); err != nil {
			return &state.OpError{Index: i, Err: err}
		}
		if o.ETag != "" || o.FirstWrite {
			conditional, suspect = conditional+1, i
		}
		r.Operations = append(r.Operations, operation(o))
	}
	_, err := t.client.Transact(ctx, r)
	err = t.s.explain(ctx, err)
	if reason := fault.ReasonOf; err != nil && conditional == 1 &&
		(reason(err) == state.ReasonETagMismatch || reason(err) == state.ReasonETagInvalid) {
		return &state.OpError{Index: suspect, Err: err}
	}
	return err
}

func operation(o *state.Op) *componentsv1.TransactionalStateOperation {
	if o.Delete {
		return &componentsv1.TransactionalStateOperation{Request: &componentsv1.TransactionalStateOperation_Delete{
			Delete: deleteRequest(o.Key, state.DeleteOptions{ETag: o.ETag, Consistency: o.Consistency, Metadata: o.Metadata}),
		}}
	}
	return &componentsv1.TransactionalStateOperation{Request: &componentsv1.TransactionalStateOperation_Set{
		Set: setRequest(o.Key, o.Value, o.PutOptions),
	}}
}

// lacks reports whether an error says that a component has no such call.
func lacks(err error) bool { return status.Code(err) == codes.Unimplemented }
