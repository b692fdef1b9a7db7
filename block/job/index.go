package job

import (
	"container/heap"
	"encoding/binary"
	"hash/fnv"
	"time"
)

// entry is what a Run remembers of one job: not the job itself, which it reads
// when it is due.
type entry struct {
	name  string
	rev   uint64
	at    time.Time     // when there is something to do, by the clock on the wall
	every time.Duration // the distance of its triggers, if that is fixed
	claim string        // the session whose turn it is

	wake  time.Time // when to look at it; at, or later
	place int       // in the heap; -1 when it is not there
	busy  bool      // this Run is at it
	gone  bool      // this Run has removed it; the watch will say so
	watch int       // which watch has reported it last
}

// queue is a heap of entries by when to look at them.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].wake.Before(q[j].wake) }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.place = len(*q)
	*q = append(*q, e)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q, e.place = (*q)[:last], -1
	return e
}

// set looks at e at the time wake, whether it is in the queue or not.
func (q *queue) set(e *entry, wake time.Time) {
	e.wake = wake
	if e.place >= 0 {
		heap.Fix(q, e.place)
		return
	}
	heap.Push(q, e)
}

func (q *queue) remove(e *entry) {
	if e.place >= 0 {
		heap.Remove(q, e.place)
	}
}

// rank says how many of the peers are to trigger the job rather than the
// session called own. All replicas that know of the same sessions come to the
// same order, another one for each trigger: so they share the work and do not
// race for it.
func (e *entry) rank(own string, peers map[string]peer) int {
	if len(peers) == 0 {
		return 0
	}
	mine, before := e.weight(own), 0
	for id, p := range peers {
		if w := e.weight(id); time.Since(p.seen) < lease && (w < mine || w == mine && id < own) {
			before++
		}
	}
	return before
}

func (e *entry) weight(session string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(session))
	_, _ = h.Write([]byte(e.name))
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(e.at.UnixNano()))) //nolint:gosec // any bits will do
	// The sum of texts that end alike is much alike: spread it.
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
