package http2

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/internal/sockio"
)

// slabSizes are the sizes of pooled buffers.
var slabSizes = [...]int{2 << 10, 4 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10}

const (
	slab2K = iota
	slab4K
	slab16K
	slab32K
	slab64K
	slab128K
	slab256K
	notPooled = -1
)

// memory is what the connections of one server or client share and use again.
type memory struct {
	slabs   [len(slabSizes)]sync.Pool
	streams sync.Pool
	blocks  sync.Pool
	// Of those, some are not given back.
	exchanges, responses sync.Pool
	timers               sync.Pool
	clock                clock
	writes               sockio.Writes
	lent                 *atomic.Int64 // nil but in tests: how many slabs, streams and blocks are in use
}

// count notes that something was lent, or given back.
func (m *memory) count(n int64) {
	if m.lent != nil {
		m.lent.Add(n)
	}
}

func (m *memory) timer(d time.Duration) *time.Timer {
	if t, ok := m.timers.Get().(*time.Timer); ok {
		t.Reset(d)
		return t
	}
	return time.NewTimer(d)
}

func (m *memory) freeTimer(t *time.Timer) {
	t.Stop()
	m.timers.Put(t)
}

// A slab is a pooled buffer. In a stream's receive buffer it is a link of a
// chain with the unread content b[r:w].
type slab struct {
	b    []byte
	size int // index of slabSizes
	r, w int
	next *slab
}

func (m *memory) slab(size int) *slab {
	m.count(1)
	if s, ok := m.slabs[size].Get().(*slab); ok {
		return s
	}
	return &slab{b: make([]byte, slabSizes[size]), size: size}
}

// room returns an empty slice with room for n bytes, in a slab if there are any
// as large.
func (m *memory) room(n int) ([]byte, *slab) {
	for size, most := range slabSizes {
		if n <= most {
			s := m.slab(size)
			return s.b[:0], s
		}
	}
	return make([]byte, 0, n), nil
}

func (m *memory) free(s *slab) {
	if s == nil || s.size == notPooled {
		return
	}
	m.count(-1)
	s.r, s.w, s.next = 0, 0, nil
	m.slabs[s.size].Put(s)
}

// content is unread content of a stream in the order it came.
type content struct {
	head, tail *slab
	n          int
}

// add appends a copy of p.
func (q *content) add(m *memory, p []byte) {
	q.n += len(p)
	for len(p) > 0 {
		t := q.tail
		if t == nil || t.w == len(t.b) {
			size := slab16K
			if t == nil && len(p) <= slabSizes[slab2K] {
				size = slab2K
			}
			t = m.slab(size)
			if q.tail == nil {
				q.head = t
			} else {
				q.tail.next = t
			}
			q.tail = t
		}
		k := copy(t.b[t.w:], p)
		t.w += k
		p = p[k:]
	}
}

// take moves content to p.
func (q *content) take(m *memory, p []byte) (n int) {
	for n < len(p) && q.head != nil {
		h := q.head
		k := copy(p[n:], h.b[h.r:h.w])
		h.r += k
		n += k
		if h.r == h.w {
			q.head = h.next
			if q.head == nil {
				q.tail = nil
			}
			m.free(h)
		}
	}
	q.n -= n
	return n
}

// drop discards all content.
func (q *content) drop(m *memory) {
	for q.head != nil {
		next := q.head.next
		m.free(q.head)
		q.head = next
	}
	q.tail, q.n = nil, 0
}
