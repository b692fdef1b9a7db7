package lock

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
)

// Request asks for a lock.
type Request struct {
	Resource string
	Owner    string
	// TTL ends the lease unless it is renewed; it must be positive.
	TTL time.Duration
	// Wait is how long to wait for a lock that is held; 0 is not to wait.
	Wait time.Duration
}

// Timing of a wait. All pauses but the longest are jittered, so that sidecars
// that were told of the same release do not ask all at once.
const (
	// firstPause is between the first two attempts, unless the driver tells
	// when the lock is free. Each one after is twice as long.
	firstPause = 20 * time.Millisecond
	// longestPause is for drivers that do not tell.
	longestPause = time.Second
	// longestWatch is for drivers that do: it covers what they miss.
	longestWatch = 5 * time.Second
	// lastWord is how long an attempt may take after its caller has gone, so
	// that a lock it got can be given back.
	lastWord = time.Second
)

// Lock takes a lock as TryLock does, but waits up to r.Wait while it is held. It
// reports false when that time is over, and fails when ctx ends sooner.
//
// Those who wait for a lock in this process get it in the order in which they
// came, and only the first of them asks the store. Between processes there is no
// order. A release in this process is noticed at once; any other, and a lease
// that ends, as soon as the driver tells, or by asking at intervals. When the
// Store is replaced, they wait on in the line of the one in its place.
func (s *Store) Lock(ctx context.Context, r Request) (Lease, bool, error) {
	if err := s.checkRequest(r); err != nil {
		return Lease{}, false, err
	}
	if r.Wait == 0 {
		return s.try(ctx, r)
	}
	for end := time.Now().Add(r.Wait); ; r.Wait = time.Until(end) {
		lease, ok, err := s.wait(ctx, r)
		if ok || s.life.Err() == nil || ctx.Err() != nil || time.Now().After(end) {
			return lease, ok, err
		}
		if s.next == nil {
			return Lease{}, false, fault.New(fault.NotFound, "lock store %q was removed", s.Name()).WithReason(ReasonNoStore)
		}
		s = s.next
	}
}

// wait is Lock for as long as s is not replaced.
func (s *Store) wait(ctx context.Context, r Request) (Lease, bool, error) {
	patience, cancel := context.WithTimeout(ctx, r.Wait)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	place := s.waiting.join(r.Resource)
	defer s.waiting.leave(place)
	select {
	case <-place.turn:
	case <-patience.Done():
		return Lease{}, false, ended(ctx)
	}
	p := pauses{store: s, place: place, next: firstPause}
	for {
		lease, ok, err := s.tryToTheEnd(ctx, r)
		if ok || err != nil {
			return lease, ok, err
		}
		if p.pause(patience); patience.Err() != nil {
			return Lease{}, false, ended(ctx)
		}
	}
}

// Replace tells that next takes the place of s, or nothing if next is nil: those
// who wait for a lock wait on there, or are told that there is no store any
// more. Call it once.
func (s *Store) Replace(next *Store) {
	s.next = next
	s.end()
}

// ended returns why a wait is over: nil unless its caller ended it.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// tryToTheEnd is try, but when ctx ends meanwhile it still awaits the answer for
// a moment: a lock that is granted then would be held by nobody until its time is
// over, and so is given back.
func (s *Store) tryToTheEnd(ctx context.Context, r Request) (Lease, bool, error) {
	asking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastWord, cancel) })()
	lease, ok, err := s.try(asking, r)
	if ctx.Err() == nil {
		return lease, ok, err
	}
	if ok {
		returning, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
		defer cancel()
		_, _ = s.Unlock(returning, r.Resource, r.Owner) // if it fails, the lease ends by itself
	}
	return Lease{}, false, context.Cause(ctx)
}

// pauses are those between the attempts of one who waits and is the first in
// line.
type pauses struct {
	store *Store
	place *place
	next  time.Duration
}

// pause returns when it is worth asking again, or ctx ends. Being told again and
// again of a free lock that cannot be had, because others are as quick or the
// driver is wrong, makes it longer, as does a driver that does not tell.
func (p *pauses) pause(ctx context.Context) {
	begun := time.Now()
	releasedHere := p.watch(ctx)
	left := jitter(p.next) - time.Since(begun)
	if releasedHere || left <= 0 {
		p.next = firstPause
		return
	}
	p.next = min(2*p.next, longestPause)
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.place.released:
		p.next = firstPause
	case <-ctx.Done():
	}
}

// watch waits until the driver says that the lock is free, if it can, or this
// process has released it, and reports whether it was that.
func (p *pauses) watch(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, longestWatch)
	defer cancel()
	d, err := p.store.handle.Get(ctx)
	if err != nil {
		return false
	}
	w, ok := d.(Watcher)
	if !ok {
		return false
	}
	told := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		defer close(told)
		_ = w.AwaitFree(ctx, p.store.prefix+p.place.resource) // why it ended does not matter: Acquire will tell
	})
	defer watching.Wait()
	defer cancel()
	select {
	case <-told:
		return false
	case <-p.place.released:
		return true
	}
}

// jitter returns between half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2) }

// lines are those who wait in this process, in the order in which they came, for
// each lock. The zero value is ready for use.
type lines struct {
	mu   sync.Mutex
	lock map[string][]*place
}

// A place is one in a line.
type place struct {
	resource string
	turn     chan struct{} // closed once it is the first in line
	released chan struct{} // holds one token when the lock may have been released
}

func (l *lines) join(resource string) *place {
	p := &place{resource: resource, turn: make(chan struct{}), released: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lock == nil {
		l.lock = map[string][]*place{}
	}
	if len(l.lock[resource]) == 0 {
		close(p.turn)
	}
	l.lock[resource] = append(l.lock[resource], p)
	return p
}

func (l *lines) leave(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.lock[p.resource]
	for i, other := range line {
		if other != p {
			continue
		}
		line = slices.Delete(line, i, i+1)
		if i == 0 && len(line) > 0 {
			close(line[0].turn)
		}
		break
	}
	if len(line) == 0 {
		delete(l.lock, p.resource)
		return
	}
	l.lock[p.resource] = line
}

// wake tells the first in line that the lock may be free.
func (l *lines) wake(resource string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if line := l.lock[resource]; len(line) > 0 {
		line[0].release()
	}
}

func (p *place) release() {
	select {
	case p.released <- struct{}{}:
	default:
	}
}
