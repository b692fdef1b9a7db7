package telemetry

import (
	"hash/maphash"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
)

// table finds values by key. Reading takes no lock and writes to no memory that
// others read, so it costs the same however many ask at once; adding takes a
// lock and is for keys that are few and stay. The zero value is of no use; see
// newTable.
type table[K comparable, V any] struct {
	seed  maphash.Seed
	slots []atomic.Pointer[link[K, V]] // their number is a power of two

	mu   sync.Mutex // held by who adds or removes
	most int
	n    atomic.Int64
}

// link is one key of a slot. It never changes once it is in one.
type link[K comparable, V any] struct {
	key   K
	value V
	next  *link[K, V]
}

// newTable returns a table that holds so many keys at the most.
func newTable[K comparable, V any](most int) *table[K, V] {
	slots := 8
	for slots < most/4 && slots < 512 {
		slots *= 2
	}
	return &table[K, V]{seed: maphash.MakeSeed(), slots: make([]atomic.Pointer[link[K, V]], slots), most: most}
}

func (t *table[K, V]) slot(k K) *atomic.Pointer[link[K, V]] {
	return &t.slots[maphash.Comparable(t.seed, k)&uint64(len(t.slots)-1)]
}

// get returns the value of a key, or the zero value.
func (t *table[K, V]) get(k K) (v V) {
	for l := t.slot(k).Load(); l != nil; l = l.next {
		if l.key == k {
			return l.value
		}
	}
	return v
}

// full reports whether no key can be added. It stays so unless one is removed.
func (t *table[K, V]) full() bool { return int(t.n.Load()) >= t.most }

// add adds a key, unless it is there or there is no room. It returns the value
// that the key has then, or the zero value.
func (t *table[K, V]) add(k K, v V) V {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot := t.slot(k)
	for l := slot.Load(); l != nil; l = l.next {
		if l.key == k {
			return l.value
		}
	}
	if t.full() {
		var none V
		return none
	}
	slot.Store(&link[K, V]{k, v, slot.Load()})
	t.n.Add(1)
	return v
}

// remove removes the keys whose values are not wanted any more.
func (t *table[K, V]) remove(unwanted func(V) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.slots {
		var kept *link[K, V]
		for l := t.slots[i].Load(); l != nil; l = l.next {
			if unwanted(l.value) {
				t.n.Add(-1)
				continue
			}
			kept = &link[K, V]{l.key, l.value, kept}
		}
		t.slots[i].Store(kept)
	}
}

// all returns the keys and values that are there, in no order.
func (t *table[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for i := range t.slots {
			for l := t.slots[i].Load(); l != nil; l = l.next {
				if !yield(l.key, l.value) {
					return
				}
			}
		}
	}
}

// keyed finds series by a text that callers choose and a small number. What it
// has no room for is looked up in the vector each time.
type keyed struct{ *table[string, *few] }

// maxKeyed is how many texts a keyed holds.
const maxKeyed = 2 * MaxLabelValues

func newKeyed() keyed { return keyed{newTable[string, *few](maxKeyed)} }

// of returns the series of a text; nil when there is no room for it.
func (t keyed) of(text string) *few {
	if f := t.get(text); f != nil || t.full() || len(text) > maxLabelBytes {
		return f
	}
	return t.add(strings.Clone(text), &few{}) // what a caller sent must not be kept alive
}

// maxFew is how many numbers a few holds.
const maxFew = 32

// few finds series by a small number, such as a status: it is for what has one
// or two of them nearly always. The zero value is empty. It is safe for
// concurrent use.
type few struct{ list atomic.Pointer[[]numbered] }

type numbered struct {
	n      int
	series *series
}

// get returns the series of a number; nil for none. A nil few has none.
func (f *few) get(n int) *series {
	if f == nil {
		return nil
	}
	list := f.list.Load()
	if list == nil {
		return nil
	}
	for i := range *list {
		if e := &(*list)[i]; e.n == n {
			return e.series
		}
	}
	return nil
}

// add adds a number, if there is room. A nil few has none.
func (f *few) add(n int, s *series) {
	for f != nil {
		old := f.list.Load()
		var list []numbered
		if old != nil {
			list = *old
		}
		if len(list) >= maxFew || f.get(n) != nil {
			return
		}
		list = append(list[:len(list):len(list)], numbered{n, s})
		if f.list.CompareAndSwap(old, &list) {
			return
		}
	}
}
