package memory

import "container/heap"

// expiryHeap orders entries by when they expire, the next one first. An entry
// knows its place, so that one that is overwritten can be taken out.
type expiryHeap []*entry

func (h *expiryHeap) add(e *entry) { heap.Push(h, e) }

func (h *expiryHeap) remove(e *entry) {
	if e.place >= 0 {
		heap.Remove(h, e.place)
	}
}

// Len implements heap.Interface, as do the other methods.
func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }
func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push adds an *entry at the end.
func (h *expiryHeap) Push(x any) {
	e := x.(*entry)
	e.place = len(*h)
	*h = append(*h, e)
}

// Pop takes the last entry off.
func (h *expiryHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.place = -1
	return e
}
