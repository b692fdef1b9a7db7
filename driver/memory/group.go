package memory

import (
	"container/heap"
	"time"
)

// group is the consumers that share the messages of a topic. The mutex of
// PubSub guards it.
type group struct {
	topic   *topic
	members int
	// wake holds a token when there may be a message for a member. Whoever
	// takes the token takes a message and, when there are more, puts a token
	// back.
	wake chan struct{}

	next  uint64              // the number of the first message not looked at
	open  map[uint64]struct{} // messages looked at and not acknowledged
	again redeliveries        // given back, waiting until they are due
	ready []*delivery         // held back by their key before, free now
	busy  map[string][]*delivery
	// busy has an entry for every key with a message out or waiting in again;
	// its list holds the later messages with the key.
}

// delivery is a message on its way to a group.
type delivery struct {
	*message
	attempt int
	due     time.Time
}

func newGroup(t *topic) *group {
	return &group{
		topic: t, wake: make(chan struct{}, 1), next: t.first,
		open: map[uint64]struct{}{}, busy: map[string][]*delivery{},
	}
}

func (g *group) signal() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// take returns the next message, or nil and how long to wait for one that is
// to be delivered again; 0 when there is none.
func (g *group) take(now time.Time) (*delivery, time.Duration) {
	d := g.pick(now)
	if d == nil {
		if len(g.again) == 0 {
			return nil, 0
		}
		return nil, max(1, g.again[0].due.Sub(now))
	}
	d.attempt++
	if len(g.again) > 0 || len(g.ready) > 0 || g.next < g.topic.end() {
		g.signal()
	}
	return d, 0
}

func (g *group) pick(now time.Time) *delivery {
	if len(g.again) > 0 && !g.again[0].due.After(now) {
		return heap.Pop(&g.again).(*delivery)
	}
	if len(g.ready) > 0 {
		d := g.ready[0]
		g.ready[0] = nil
		g.ready = g.ready[1:]
		return d
	}
	g.next = max(g.next, g.topic.first)
	for g.next < g.topic.end() {
		d := &delivery{message: g.topic.log[g.next-g.topic.first]}
		g.next++
		if d.removed {
			continue
		}
		g.open[d.number] = struct{}{}
		if d.Key == "" {
			return d
		}
		held, busy := g.busy[d.Key]
		if !busy {
			g.busy[d.Key] = nil
			return d
		}
		g.busy[d.Key] = append(held, d)
	}
	return nil
}

// acknowledge ends a message and frees the next one with its key.
func (g *group) acknowledge(d *delivery) {
	delete(g.open, d.number)
	if d.Key == "" {
		return
	}
	held := g.busy[d.Key]
	if len(held) == 0 {
		delete(g.busy, d.Key)
		return
	}
	g.ready = append(g.ready, held[0])
	g.busy[d.Key] = held[1:]
}

// giveBack queues a message for another delivery.
func (g *group) giveBack(d *delivery, due time.Time) {
	d.due = due
	heap.Push(&g.again, d)
}

// redeliveries orders messages by when they are due, and by their number.
type redeliveries []*delivery

// Len implements heap.Interface, as do the other methods.
func (h redeliveries) Len() int { return len(h) }
func (h redeliveries) Less(i, j int) bool {
	if h[i].due.Equal(h[j].due) {
		return h[i].number < h[j].number
	}
	return h[i].due.Before(h[j].due)
}
func (h redeliveries) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push adds a *delivery at the end.
func (h *redeliveries) Push(x any) { *h = append(*h, x.(*delivery)) }

// Pop takes the last delivery off.
func (h *redeliveries) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return d
}
