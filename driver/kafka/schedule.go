package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// source is one partition of a topic.
type source struct {
	topic     string
	partition int32
}

// item is a record that a consumer has.
type item struct {
	record  *kgo.Record
	part    *part
	lane    *lane // nil for a record that waits for no other
	turn    int   // its place in the window of part
	attempt int
	timer   *time.Timer // to the next attempt; nil unless it waits for that
}

func (it *item) bytes() int { return len(it.record.Value) + len(it.record.Key) }

// lane is a line of records that wait for each other. Some at its head, one
// unless they go in batches, are open: with handlers, or on the way there, or
// waiting for another attempt. The rest is queued until these are settled; a
// batch takes in more until the first of it is done with, well or not.
type lane struct {
	key     string
	queue   []*item
	open    int
	waiting int  // of the open ones, those that wait for another attempt
	closed  bool // the batch that is open takes in no more
}

// stalled returns how many records of the lane cannot go on at present.
func (l *lane) stalled() int {
	if l.open > 0 && l.waiting == l.open {
		return l.open + len(l.queue)
	}
	return 0
}

// part is what a consumer has of a partition.
type part struct {
	source
	one     *lane            // of all records, unless keys have lanes of their own
	byKey   map[string]*lane // those with records in them
	window  window
	held    int // records not settled
	stalled int // of these, those that cannot go on
	flying  int // of these, those with handlers
	bytes   int // of those held
	waiting map[*item]struct{}
	revoked bool
	drained chan struct{} // closed when the partition is revoked and nothing of it is flying
	paused  bool          // nothing more is fetched for the time being
}

// scheduler decides which records are next. It does no I/O and is not safe for
// concurrent use.
type scheduler struct {
	byKey bool // records wait only for those with the same key
	batch int  // how many records of a lane are open at a time

	parts         map[source]*part
	ready         []*item // open, and not with handlers yet
	held, stalled int     // over all parts
	bytes         int     // likewise
}

func newScheduler(byKey bool, batch int) *scheduler {
	return &scheduler{byKey: byKey, batch: max(1, batch), parts: map[source]*part{}}
}

// assign begins a partition of which nothing is known.
func (s *scheduler) assign(src source) *part {
	p := &part{source: src, waiting: map[*item]struct{}{}, window: newWindow(), drained: make(chan struct{})}
	if s.byKey {
		p.byKey = map[string]*lane{}
	} else {
		p.one = &lane{}
	}
	s.parts[src] = p
	return p
}

// add takes in a record of a partition.
func (s *scheduler) add(p *part, r *kgo.Record) {
	if p.revoked {
		return
	}
	it := &item{record: r, part: p, lane: p.one, turn: p.window.add(r.Offset, r.LeaderEpoch)}
	s.hold(p, 1, it.bytes())
	if s.byKey {
		if r.Key == nil {
			s.ready = append(s.ready, it)
			return
		}
		it.lane = p.byKey[string(r.Key)]
		if it.lane == nil {
			it.lane = &lane{key: string(r.Key)}
			p.byKey[it.lane.key] = it.lane
		}
	}
	s.change(it, func() {
		it.lane.queue = append(it.lane.queue, it)
		s.advance(p, it.lane)
	})
}

// change does something to the lane of it, and keeps count of what is stalled.
func (s *scheduler) change(it *item, do func()) {
	before := it.lane.stalled()
	do()
	s.stall(it.part, it.lane.stalled()-before)
}

func (s *scheduler) hold(p *part, n, bytes int) {
	p.held += n
	p.bytes += bytes
	s.held += n
	s.bytes += bytes
}

func (s *scheduler) stall(p *part, n int) {
	p.stalled += n
	s.stalled += n
}

// advance opens the next records of a lane, if it is time.
func (s *scheduler) advance(p *part, l *lane) {
	if l.open == 0 {
		l.closed = false
	}
	n := min(s.batch-l.open, len(l.queue))
	if l.closed {
		n = 0
	}
	if l.open == 0 && n == 0 && p.byKey != nil {
		delete(p.byKey, l.key)
	}
	s.ready = append(s.ready, l.queue[:n]...)
	clear(l.queue[:n])
	l.queue = l.queue[n:]
	l.open += n
}

// next returns the next record for a handler; nil for none.
func (s *scheduler) next() *item {
	if len(s.ready) == 0 {
		return nil
	}
	it := s.ready[0]
	s.ready[0] = nil
	s.ready = s.ready[1:]
	it.part.flying++
	it.attempt++
	return it
}

// landed notes that a handler is done with a record. It reports false when the
// record is not ours any more.
func (s *scheduler) landed(it *item) bool {
	p := it.part
	p.flying--
	if !p.revoked {
		return true
	}
	if p.flying == 0 {
		close(p.drained)
	}
	return false
}

// settle ends with a record that is processed. It reports whether there is
// more to commit now.
func (s *scheduler) settle(it *item) bool {
	p := it.part
	moved := p.window.done(it.turn)
	if p.revoked {
		return moved
	}
	s.hold(p, -1, -it.bytes())
	if it.lane != nil {
		s.change(it, func() {
			it.lane.open--
			it.lane.closed = true
			s.advance(p, it.lane)
		})
	}
	return moved
}

// postpone keeps a record for another attempt.
func (s *scheduler) postpone(it *item, timer *time.Timer) {
	it.timer = timer
	it.part.waiting[it] = struct{}{}
	if it.lane == nil {
		s.stall(it.part, 1)
		return
	}
	s.change(it, func() { it.lane.waiting++; it.lane.closed = true })
}

// resume makes a record ready that waited. It reports false when it does not
// wait any more, because its partition was revoked.
func (s *scheduler) resume(it *item) bool {
	p := it.part
	if _, ok := p.waiting[it]; !ok {
		return false
	}
	delete(p.waiting, it)
	it.timer = nil
	if it.lane == nil {
		s.stall(p, -1)
	} else {
		s.change(it, func() { it.lane.waiting-- })
	}
	s.ready = append(s.ready, it)
	return true
}

// revoke gives up a partition: everything but what is flying. It stays among
// the parts until it is removed.
func (s *scheduler) revoke(p *part) {
	if p.revoked {
		return
	}
	p.revoked = true
	for it := range p.waiting {
		it.timer.Stop()
	}
	clear(p.waiting)
	kept := s.ready[:0]
	for _, it := range s.ready {
		if it.part != p {
			kept = append(kept, it)
		}
	}
	clear(s.ready[len(kept):])
	s.ready = kept
	s.hold(p, -p.held, -p.bytes)
	s.stall(p, -p.stalled)
	p.one, p.byKey = nil, nil
	if p.flying == 0 {
		close(p.drained)
	}
}

// remove forgets a partition that is revoked and drained.
func (s *scheduler) remove(p *part) {
	if s.parts[p.source] == p {
		delete(s.parts, p.source)
	}
}

// window keeps which records of a partition are processed, from the first one
// that is not: what is before that may be committed.
type window struct {
	entries   []entry
	first     int   // the turn of the first entry
	position  int64 // to commit; -1 when there is nothing
	epoch     int32
	committed int64
}

type entry struct {
	offset int64
	epoch  int32
	done   bool
}

func newWindow() window { return window{position: -1, committed: -1, epoch: -1} }

// begin notes that the first record will be at offset or behind it.
func (w *window) begin(offset int64) { w.position = offset }

// add takes in the next record and returns its turn.
func (w *window) add(offset int64, epoch int32) int {
	w.entries = append(w.entries, entry{offset: offset, epoch: epoch})
	return w.first + len(w.entries) - 1
}

// done notes that a record is processed and reports whether there is more to
// commit.
func (w *window) done(turn int) bool {
	w.entries[turn-w.first].done = true
	moved := false
	for len(w.entries) > 0 && w.entries[0].done {
		w.position, w.epoch = w.entries[0].offset+1, w.entries[0].epoch
		w.entries = w.entries[1:]
		w.first++
		moved = true
	}
	return moved
}
