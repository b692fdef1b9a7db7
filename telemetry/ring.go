package telemetry

import "sync/atomic"

// ring is a queue of a fixed size that many put into and one takes out of. Who
// puts never waits: when it is full the record is refused. Each slot counts how
// often it was used, which tells whose turn it is (after Vyukov's bounded
// queue).
type ring struct {
	slots []slot
	_     [64]byte // keeps what many write out of the cache line of what they read
	tail  atomic.Uint64
	_     [64]byte
	head  uint64 // of who takes out
}

type slot struct {
	turn atomic.Uint64
	record
}

func newRing(size int) *ring {
	r := &ring{slots: make([]slot, size)}
	for i := range r.slots {
		r.slots[i].turn.Store(uint64(i)) //nolint:gosec // an index
	}
	return r
}

// put reports whether there was room.
func (r *ring) put(a *Access) bool {
	for {
		at := r.tail.Load()
		s := &r.slots[at%uint64(len(r.slots))]
		switch turn := s.turn.Load(); {
		case turn == at:
			if r.tail.CompareAndSwap(at, at+1) {
				s.put(a)
				s.turn.Store(at + 1)
				return true
			}
		case turn < at:
			return false // it has not been taken out since
		}
	}
}

// take calls use with the oldest record, if there is one that is complete.
func (r *ring) take(use func(*record)) bool {
	s := &r.slots[r.head%uint64(len(r.slots))]
	if s.turn.Load() != r.head+1 {
		return false
	}
	use(&s.record)
	s.turn.Store(r.head + uint64(len(r.slots)))
	r.head++
	return true
}

// queue is a ring and the waking of who takes out. The ring is made when it is
// needed for the first time.
type queue struct {
	ring *ring       // nil before on was ever set
	on   atomic.Bool // records are put in
	idle atomic.Bool // who takes out waits for wake
	wake chan struct{}
}

func newQueue() queue { return queue{wake: make(chan struct{}, 1)} }

// enable has records put in, or not any more. It must not be called by several
// goroutines at a time.
func (q *queue) enable(on bool) {
	if on && q.ring == nil {
		q.ring = newRing(ringSize)
	}
	q.on.Store(on)
}

// add reports whether there was room. It is for a queue that is on.
func (q *queue) add(a *Access) bool {
	if !q.ring.put(a) {
		return false
	}
	if q.idle.Load() && q.idle.CompareAndSwap(true, false) {
		q.wake <- struct{}{} // has room: whoever sets idle has taken what was in it
	}
	return true
}

// rest returns when drain has left nothing, so that whoever puts a record in next
// sends to wake. drain reports whether there was anything.
func (q *queue) rest(drain func() bool) {
	for {
		drain()
		q.idle.Store(true)
		if !drain() || !q.idle.CompareAndSwap(true, false) {
			return
		}
	}
}
