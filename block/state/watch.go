package state

import (
	"context"
	"strings"
	"sync"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// maxWatches bounds the watches of one store that are under way, each of which
// may cost it a connection.
const maxWatches = 1000

// WatchRequest asks to be told of changes.
type WatchRequest struct {
	Prefix string // of the keys, as the caller wrote them; "" for all
	// Initial and After are as in WatchOptions.
	Initial bool
	After   string
}

// Watch reports the changes of the items of this application, as
// Watcher.Watch says, under the keys as the caller wrote them. It returns the
// error of ctx when that ends, that of report when that fails, and another one
// when the store cannot go on, or a value cannot be decrypted; then the caller
// may watch again.
//
// The policies are about its beginning only: once the first report has come
// there is no time limit.
func (s *Store) Watch(ctx context.Context, r WatchRequest, report func(Change) error) error {
	if err := s.admitWatch(&r); err != nil {
		return s.explain(err, "watch", "")
	}
	defer s.watches.Add(-1)
	w := &watching{store: s, request: r, report: report}
	defer w.join()
	c := policy.Call{Key: r.Prefix, Idempotent: true}
	err := s.watch.Run(ctx, &c, func(attempt context.Context) error { return w.begin(ctx, attempt) })
	if err == nil {
		err = <-w.done
	}
	if w.failed != nil {
		return w.failed
	}
	return s.explain(err, "watch", "")
}

// admitWatch checks a request and counts it in; who gets no error counts it out
// again.
func (s *Store) admitWatch(r *WatchRequest) error {
	switch {
	case strings.Contains(r.Prefix, separator):
		return fault.New(fault.InvalidArgument, "the prefix %q must not contain %q", r.Prefix, separator).WithReason(ReasonIllegalKey)
	case r.Initial && r.After != "":
		return fault.New(fault.InvalidArgument, "a watch begins with the present items, or after a revision, but not both").
			WithReason(ReasonRevisionInvalid)
	case len(r.After) > maxRevision:
		return ErrRevisionInvalid("it is too long")
	}
	if s.watches.Add(1) > maxWatches {
		s.watches.Add(-1)
		return fault.New(fault.ResourceExhausted, "there are %d watches of this store and it takes no more: end some", maxWatches)
	}
	return nil
}

// maxRevision bounds a revision, in bytes.
const maxRevision = 128

// watching is one Watch under way. Its driver's Watch runs in a goroutine of
// its own, because the policies wait for the first report only.
type watching struct {
	store   *Store
	request WatchRequest
	report  func(Change) error

	end    context.CancelFunc // of the driver's Watch; nil before
	done   chan error         // gets what it returned
	work   sync.WaitGroup
	failed error // of report; valid when done has answered
}

// begin starts to watch and returns when the first report has come, or with the
// error that kept it from coming.
func (w *watching) begin(ctx, attempt context.Context) error {
	d, keys, err := w.store.driver(attempt)
	if err != nil {
		return err
	}
	watcher, ok := d.(Watcher)
	if !ok {
		return fault.New(fault.Unimplemented, "this kind of store cannot tell of changes").WithReason(ReasonWatchNotSupported)
	}
	w.join() // an attempt before
	ctx, w.end = context.WithCancel(ctx)
	started := make(chan struct{})
	w.done = make(chan error, 1)
	opt := WatchOptions{Initial: w.request.Initial, After: w.request.After}
	w.work.Go(func() {
		first := true
		w.done <- watcher.Watch(ctx, w.store.prefix+w.request.Prefix, opt, func(c Change) error {
			if first {
				first = false
				close(started)
			}
			w.failed = w.pass(keys, c)
			return w.failed
		})
	})
	select {
	case <-started:
		return nil
	case err := <-w.done:
		select {
		case <-started: // and it has ended already
			w.done <- err
			return nil
		default:
			return err
		}
	case <-attempt.Done():
		w.end()
		<-w.done
		return context.Cause(attempt)
	}
}

// pass hands a change on if it is one of the caller's keys.
func (w *watching) pass(keys *keyring, c Change) error {
	if c.Kind == Synced {
		return w.report(c)
	}
	name, ok := strings.CutPrefix(c.Key, w.store.prefix)
	if !ok || name == "" || strings.Contains(name, separator) {
		return nil
	}
	if err := keys.result(c.Key, &c.Item, c.Kind == ItemPut, nil); err != nil {
		return w.store.explain(err, "watch", name)
	}
	c.Key = name
	return w.report(c)
}

// join ends what begin has started.
func (w *watching) join() {
	if w.end != nil {
		w.end()
		w.work.Wait()
	}
}
