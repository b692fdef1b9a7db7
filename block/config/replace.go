package config

import (
	"context"
	"errors"
	"maps"

	"github.com/proa-io/proa/fault"
)

// errReplaced ends the watch of a store that has been replaced.
var errReplaced = errors.New("the store was replaced")

// Replace tells that next takes the place of s, or nothing if next is nil.
// Every subscription goes on there with the id that it has: it gets what is
// different from what it knows. With nothing in their place, subscriptions end
// with NotFound. Call it once.
func (s *Store) Replace(next *Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	subs := s.subs
	s.next, s.subs = next, nil
	close(s.replaced)
	if next == nil {
		for _, sub := range subs {
			sub.cancel(s.removed())
		}
		return
	}
	next.mu.Lock()
	defer next.mu.Unlock()
	maps.Copy(next.subs, subs)
}

func (s *Store) removed() error {
	return fault.New(fault.NotFound, "configuration store %q was removed", s.Name()).WithReason(ReasonNoStore)
}

// latest returns the Store in place of s, or s itself; nil when it was removed.
func (s *Store) latest() *Store {
	for s != nil {
		select {
		case <-s.replaced:
			s = s.next
		default:
			return s
		}
	}
	return nil
}

// change calls f with the subscriptions of the Store in place of s. It reports
// false when that was removed.
func (s *Store) change(f func(st *Store) error) (ok bool, err error) {
	for st := s.latest(); st != nil; st = st.latest() {
		st.mu.Lock()
		if st.subs == nil { // replaced just now
			st.mu.Unlock()
			continue
		}
		err := f(st)
		st.mu.Unlock()
		return true, err
	}
	return false, nil
}

// untilReplaced returns a context that ends with ctx, and with errReplaced when
// s is replaced. The returned function ends it too.
func (s *Store) untilReplaced(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-s.replaced:
			cancel(errReplaced)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}
