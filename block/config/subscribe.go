package config

import (
	"context"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Change is what became of one item.
type Change struct {
	Item
	// Deleted tells that the item is gone; Item is then zero.
	Deleted bool
}

// Update tells a subscriber what has changed.
type Update struct {
	// ID is the subscription's.
	ID string
	// Items are the changes, by key. Each change of an item is reported once
	// and in order; a subscriber that is slow by hundreds of changes gets the
	// latest of each key only.
	Items map[string]Change
}

// Handler takes an Update. It is called by one goroutine at a time.
type Handler func(ctx context.Context, u Update) error

// errUnsubscribed ends a subscription by Unsubscribe.
var errUnsubscribed = errors.New("unsubscribed")

// Subscribe tells deliver about each change after this moment of the items
// that q selects, until Unsubscribe is called with the id it returns, or Run
// ends. It returns when the watch stands, and fails when it cannot be set up.
// Later outages of the store are overcome in silence: afterwards deliver gets
// what has changed meanwhile.
//
// When deliver fails with a code that is worth a retry, the update is
// delivered again, or a newer one of the same key in its place; when it fails
// otherwise, the failure is logged and the update is dropped.
//
// Subscriptions work while Run runs: before, Subscribe waits for it.
func (s *Store) Subscribe(ctx context.Context, q Query, deliver Handler) (id string, err error) {
	sub, stop := s.newSubscription(q), make(chan struct{})
	sub.persistent = true
	outcome := make(chan error, 2) // nil when it stands; the error when it ends
	work := func(life context.Context) {
		life, cancel := context.WithCancelCause(life)
		defer cancel(nil)
		defer context.AfterFunc(ctx, func() { // only until it stands
			select {
			case <-stop:
			default:
				cancel(context.Cause(ctx))
			}
		})()
		outcome <- s.serve(life, cancel, sub, func(ctx context.Context, u Update) error {
			if u.Items == nil {
				close(stop)
				outcome <- nil
				return nil
			}
			return deliver(ctx, u)
		})
	}
	if err := s.begin(ctx, work); err != nil {
		return "", err
	}
	if err := <-outcome; err != nil {
		return "", err
	}
	return sub.id, nil
}

// begin lets Run carry work.
func (s *Store) begin(ctx context.Context, work func(context.Context)) error {
	for st := s.latest(); st != nil; st = st.latest() {
		select {
		case st.spawn <- work:
			return nil
		case <-st.replaced:
		case <-st.stopped:
			if st.latest() == st {
				return fault.New(fault.Unavailable, "configuration store %q is shutting down", s.Name())
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return s.removed()
}

// Stream does as Subscribe does, in the calling goroutine: it calls deliver
// first with the subscription's id and nil Items when the watch stands, then
// with each change, and returns nil when Unsubscribe is called, or the error
// of ctx, or that of deliver.
func (s *Store) Stream(ctx context.Context, q Query, deliver Handler) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	return s.serve(ctx, cancel, s.newSubscription(q), deliver)
}

// Unsubscribe ends the subscription with the given id, of either kind. It is
// NotFound when there is none.
func (s *Store) Unsubscribe(_ context.Context, id string) error {
	var cancel context.CancelCauseFunc
	_, _ = s.change(func(st *Store) error {
		cancel = st.subs[id].cancel
		delete(st.subs, id)
		return nil
	})
	if cancel == nil {
		return fault.New(fault.NotFound, "configuration store %q has no subscription %q", s.Name(), id).
			WithReason(ReasonNoSubscription)
	}
	cancel(errUnsubscribed)
	return nil
}

// EndSubscriptions ends those that Subscribe made before a moment, because who
// made them is gone and will not unsubscribe. It returns how many there were.
func (s *Store) EndSubscriptions(before time.Time) int {
	var ended []context.CancelCauseFunc
	_, _ = s.change(func(st *Store) error {
		for id, sub := range st.subs {
			if sub.persistent && sub.since.Before(before) {
				ended = append(ended, sub.cancel)
				delete(st.subs, id)
			}
		}
		return nil
	})
	for _, cancel := range ended {
		cancel(errUnsubscribed)
	}
	return len(ended)
}

// Run carries the subscriptions that Subscribe makes until ctx ends, waits for
// them and returns nil; when the store was replaced, also as soon as those that
// it carries have ended. It must be called once.
func (s *Store) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	defer close(s.stopped)
	for {
		select {
		case work := <-s.spawn:
			running.Go(func() { work(ctx) })
		case <-s.replaced:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// subscription is one watch and its subscriber.
type subscription struct {
	id         string
	query      Query
	persistent bool            // outlives a failure of its subscriber
	known      map[string]Item // what the subscriber knows or will soon; nil before the first report
	queue      queue
}

func (s *Store) newSubscription(q Query) *subscription {
	return &subscription{id: crand.Text(), query: q, queue: queue{wake: make(chan struct{}, 1)}}
}

// serve carries sub until ctx ends; cancel ends it.
func (s *Store) serve(ctx context.Context, cancel context.CancelCauseFunc, sub *subscription, deliver Handler) error {
	if err := s.register(sub, cancel); err != nil {
		return err
	}
	defer s.forget(sub.id)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel(nil)
	if err := s.establish(ctx, sub, &following); err != nil {
		return err
	}
	if err := deliver(ctx, Update{ID: sub.id}); err != nil {
		return err
	}
	return s.deliverAll(ctx, sub, deliver)
}

// maxSubscriptions bounds the subscriptions of one store, each of which costs
// the store a watch. An application that forgets to unsubscribe meets it.
const maxSubscriptions = 1000

func (s *Store) register(sub *subscription, cancel context.CancelCauseFunc) error {
	ok, err := s.change(func(st *Store) error {
		if len(st.subs) >= maxSubscriptions {
			return fault.New(fault.ResourceExhausted, "configuration store %q has %d subscriptions and takes no more: unsubscribe some",
				s.Name(), maxSubscriptions)
		}
		st.subs[sub.id] = subscriber{cancel: cancel, persistent: sub.persistent, since: time.Now()}
		return nil
	})
	if !ok {
		return s.removed()
	}
	return err
}

func (s *Store) forget(id string) {
	_, _ = s.change(func(st *Store) error {
		delete(st.subs, id)
		return nil
	})
}

// establishWithin bounds how long a subscriber whose context allows more waits
// for a store that is silent.
const establishWithin = 10 * time.Second

// establish starts to follow the store and returns when the first report is
// there. What it starts ends with ctx.
func (s *Store) establish(ctx context.Context, sub *subscription, following *sync.WaitGroup) error {
	call := policy.Call{Idempotent: true}
	return s.watch.Run(ctx, &call, func(attempt context.Context) error {
		attempt, cancel := context.WithTimeout(attempt, establishWithin)
		defer cancel()
		first, done := make(chan error, 1), make(chan struct{})
		follow, abandon := context.WithCancelCause(ctx)
		following.Go(func() {
			defer close(done)
			defer abandon(nil)
			s.follow(follow, sub, first)
		})
		select {
		case err := <-first:
			return err
		case <-attempt.Done():
			err := context.Cause(attempt)
			if fault.Is(err, fault.DeadlineExceeded) {
				err = fault.Wrap(err, fault.DeadlineExceeded, "configuration store %q did not answer", s.Name())
			}
			abandon(err)
			<-done // so that the next attempt has sub for itself
			return err
		}
	})
}

// How long to wait before a broken watch or a failed delivery is tried again.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = 15 * time.Second
)

// follow keeps sub up to date until ctx ends. It sends the outcome of the
// first attempt to first, and ends when that fails.
func (s *Store) follow(ctx context.Context, sub *subscription, first chan<- error) {
	delay, said := firstDelay, ""
	standing := false
	for {
		here, end := s.untilReplaced(ctx)
		err := s.watchOnce(here, sub, func() {
			if !standing {
				standing = true
				first <- nil
			}
			delay, said = firstDelay, ""
		})
		moved := context.Cause(here) == errReplaced && s.latest() != nil
		end()
		if moved {
			s = s.latest()
			continue
		}
		if !standing || ctx.Err() != nil {
			if !standing {
				first <- err
			}
			return
		}
		if text := err.Error(); text != said {
			s.log.WarnContext(ctx, "watch of the configuration store broke and will be resumed", "subscription", sub.id, "error", err)
			said = text
		}
		if !s.pause(ctx, delay) {
			return
		}
		delay = min(2*delay, lastDelay)
	}
}

// pause waits before a watch is resumed, or until s is replaced. It returns
// false when ctx has ended.
func (s *Store) pause(ctx context.Context, delay time.Duration) bool {
	here, end := s.untilReplaced(ctx)
	defer end()
	sleep(here, delay)
	return ctx.Err() == nil
}

func (s *Store) watchOnce(ctx context.Context, sub *subscription, reported func()) error {
	d, err := s.handle.Get(ctx)
	if err != nil {
		return err
	}
	err = d.Watch(ctx, sub.query, func(e Event) {
		for key, item := range e.Items {
			if !isText(key, item) {
				s.leaveOut(ctx, e.Items, key)
				e.Deleted = append(e.Deleted, key) // as for whoever reads it
			}
		}
		sub.apply(e)
		reported()
	})
	if err == nil {
		return fault.New(fault.Internal, "watch of configuration store %q ended without an error", s.Name())
	}
	return s.wrap(err, "watch")
}

// sleep waits for d, give or take a half, and reports whether ctx still lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d/2 + rand.N(d)) //nolint:gosec // jitter needs no secrecy
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// deliverAll hands the changes in sub's queue to deliver until ctx ends.
func (s *Store) deliverAll(ctx context.Context, sub *subscription, deliver Handler) error {
	delay := firstDelay
	for {
		changes, ok := sub.queue.next(ctx)
		if !ok {
			if err := context.Cause(ctx); err != errUnsubscribed {
				return err
			}
			return nil
		}
		call := policy.Call{Bytes: size(changes), Idempotent: true}
		if latest := s.latest(); latest != nil {
			s = latest // its policies count
		}
		err := s.deliver.Run(ctx, &call, func(ctx context.Context) error {
			return deliver(ctx, Update{ID: sub.id, Items: changes})
		})
		switch {
		case err == nil:
			delay = firstDelay
		case ctx.Err() != nil: // said by next
		case !sub.persistent:
			return err
		case worthRetry(err):
			sleep(ctx, delay)
			sub.queue.putBack(changes) // now, so that newer ones replace it
			delay = min(2*delay, lastDelay)
		default:
			s.log.WarnContext(ctx, "application refused a configuration update", "subscription", sub.id, "error", err)
		}
	}
}

func worthRetry(err error) bool {
	code := fault.CodeOf(err)
	return code.Retryable() || code == fault.DeadlineExceeded
}

func size(changes map[string]Change) int {
	n := 0
	for k, c := range changes {
		n += len(k) + len(c.Value)
	}
	return n
}
