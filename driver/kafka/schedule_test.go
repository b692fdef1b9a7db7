package kafka

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// world is a scheduler and what a consumer would know of its records.
type world struct {
	t       *testing.T
	s       *scheduler
	byKey   bool
	chance  *rand.Rand
	offsets map[source]int64 // of the next records
	open    []*item          // with handlers
	waiting []*item
	done    map[source]map[int64]bool
	keys    map[source]map[int64]string
}

func newWorld(t *testing.T, byKey bool, batch int, seed uint64) *world {
	return &world{
		t: t, s: newScheduler(byKey, batch), byKey: byKey, chance: rand.New(rand.NewPCG(seed, 0)),
		offsets: map[source]int64{}, done: map[source]map[int64]bool{}, keys: map[source]map[int64]string{},
	}
}

func (w *world) assign(src source) {
	w.s.assign(src)
	w.done[src], w.keys[src] = map[int64]bool{}, map[int64]string{}
}

// arrive adds some records with a few keys, or none.
func (w *world) arrive(src source) {
	p := w.s.parts[src]
	for range w.chance.IntN(5) {
		w.offsets[src] += 1 + w.chance.Int64N(3) // there may be gaps
		r := &kgo.Record{Topic: src.topic, Partition: src.partition, Offset: w.offsets[src], Value: make([]byte, 10)}
		if n := w.chance.IntN(4); n > 0 {
			r.Key = fmt.Append(nil, "key ", n)
		}
		w.keys[src][r.Offset] = string(r.Key)
		w.s.add(p, r)
	}
}

// take gives a record to a handler and proves that it may be next.
func (w *world) take() {
	it := w.s.next()
	if it == nil {
		return
	}
	for offset, key := range w.keys[it.part.source] {
		inLine := !w.byKey && w.s.batch == 1 || w.byKey && it.record.Key != nil && key == string(it.record.Key)
		if inLine && offset < it.record.Offset && !w.done[it.part.source][offset] {
			w.t.Errorf("record %d is next while %d, which comes before it, is not processed", it.record.Offset, offset)
		}
	}
	w.open = append(w.open, it)
}

// finish ends a handler, with success or without.
func (w *world) finish(ok bool) {
	if len(w.open) == 0 {
		return
	}
	i := w.chance.IntN(len(w.open))
	it := w.open[i]
	w.open = slices.Delete(w.open, i, i+1)
	ours := w.s.landed(it)
	if ok {
		w.done[it.part.source][it.record.Offset] = true
		w.s.settle(it)
	} else if ours {
		w.s.postpone(it, time.NewTimer(time.Hour))
		w.waiting = append(w.waiting, it)
	}
	w.checkPosition(it.part)
}

// checkPosition proves that nothing would be committed that is not processed.
func (w *world) checkPosition(p *part) {
	for offset := range w.keys[p.source] {
		if offset < p.window.position && !w.done[p.source][offset] {
			w.t.Errorf("position %d is past %d, which is not processed", p.window.position, offset)
		}
	}
}

func (w *world) resume() {
	if len(w.waiting) > 0 {
		w.s.resume(w.waiting[0])
		w.waiting = w.waiting[1:]
	}
}

// check proves that the counts are those of the parts.
func (w *world) check() {
	held, stalled, bytes := 0, 0, 0
	for _, p := range w.s.parts {
		held, stalled, bytes = held+p.held, stalled+p.stalled, bytes+p.bytes
		if p.held < 0 || p.stalled < 0 || p.stalled > p.held || p.bytes < 10*p.held {
			w.t.Errorf("partition %v holds %d records of %d bytes, %d of them stalled", p.source, p.held, p.bytes, p.stalled)
		}
	}
	if held != w.s.held || stalled != w.s.stalled || bytes != w.s.bytes {
		w.t.Errorf("%d records, %d stalled, %d bytes; the parts have %d, %d and %d", w.s.held, w.s.stalled, w.s.bytes, held, stalled, bytes)
	}
}

func TestTheSchedulerKeepsOrdersAndCountsWhateverHappens(t *testing.T) {
	for _, mode := range []struct {
		byKey bool
		batch int
	}{{false, 1}, {false, 5}, {true, 1}} {
		for seed := range uint64(50) {
			w := newWorld(t, mode.byKey, mode.batch, seed)
			sources := []source{{"a", 0}, {"a", 1}, {"b", 0}}
			for _, src := range sources {
				w.assign(src)
			}
			for range 500 {
				src := sources[w.chance.IntN(len(sources))]
				switch w.chance.IntN(6) {
				case 0:
					w.arrive(src)
				case 1, 2:
					w.take()
				case 3, 4:
					w.finish(w.chance.IntN(4) > 0)
				case 5:
					w.resume()
				}
				w.check()
			}
			w.drain()
			for _, src := range sources {
				if p := w.s.parts[src]; w.offsets[src] > 0 && p.window.position != w.offsets[src]+1 || p.held != 0 {
					t.Fatalf("%v seed %d: at the end %v is at %d of %d and holds %d", mode, seed, src, p.window.position, w.offsets[src]+1, p.held)
				}
			}
			if t.Failed() {
				t.Fatalf("%v seed %d", mode, seed)
			}
		}
	}
}

// drain processes everything that is left.
func (w *world) drain() {
	for w.s.held > 0 {
		w.resume()
		w.take()
		w.finish(true)
	}
}

func TestARevokedPartitionIsDrainedAndForgotten(t *testing.T) {
	for seed := range uint64(50) {
		w := newWorld(t, seed%2 == 0, 1, seed)
		gone, kept := source{"a", 0}, source{"a", 1}
		w.assign(gone)
		w.assign(kept)
		for range 200 {
			w.arrive(gone)
			w.arrive(kept)
			w.take()
			w.take()
			w.finish(w.chance.IntN(3) > 0)
		}
		p := w.s.parts[gone]
		w.s.revoke(p)
		w.check()
		if p.held != 0 || len(p.waiting) != 0 || slices.ContainsFunc(w.s.ready, func(it *item) bool { return it.part == p }) {
			t.Fatalf("seed %d: a revoked partition still has records", seed)
		}
		flying := 0
		for _, it := range w.open {
			if it.part == p {
				flying++
			}
		}
		for len(w.open) > 0 {
			select {
			case <-p.drained:
				if flying > 0 {
					t.Fatalf("seed %d: drained with %d records flying", seed, flying)
				}
			default:
			}
			before := p.flying
			w.finish(true)
			flying -= before - p.flying
			w.check()
		}
		<-p.drained
		w.s.remove(p)
		w.waiting = slices.DeleteFunc(w.waiting, func(it *item) bool { return it.part == p })
		w.drain()
		w.check()
	}
}
