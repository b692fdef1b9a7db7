package http2

import (
	"container/heap"
	"sync"
	"time"
)

// clock calls the ticks of all connections of a server or client with a single
// timer: thousands of idle connections need neither a timer nor, when those
// fire, a goroutine each.
//
// Its mutex may be locked while that of a connection is held, not the other way
// round.
type clock struct {
	mu    sync.Mutex
	begun time.Time
	timer *time.Timer
	next  time.Duration // when timer fires, since begun; 0: it does not
	queue clockQueue
}

// set makes the clock tick for c in d from now on.
func (k *clock) set(c *conn, d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.timer == nil {
		k.begun = time.Now()
		k.timer = time.AfterFunc(d, k.fire)
	}
	c.due = time.Since(k.begun) + d
	if c.place > 0 {
		heap.Fix(&k.queue, c.place-1)
	} else {
		heap.Push(&k.queue, c)
	}
	k.arm()
}

// remove makes the clock forget c. A tick that is under way is not waited for.
func (k *clock) remove(c *conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.place > 0 {
		heap.Remove(&k.queue, c.place-1)
	}
	if len(k.queue) == 0 && k.next != 0 {
		k.timer.Stop()
		k.next = 0
	}
}

// arm sets the timer to when the first connection is due. k.mu is held.
func (k *clock) arm() {
	if len(k.queue) == 0 || k.next != 0 && k.next <= k.queue[0].due {
		return
	}
	k.next = k.queue[0].due
	k.timer.Reset(k.next - time.Since(k.begun))
}

// fire ticks for all that are due.
func (k *clock) fire() {
	for _, c := range k.takeDue() {
		c.tick()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next = 0
	k.arm()
}

func (k *clock) takeDue() (due []*conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Since(k.begun)
	for len(k.queue) > 0 && k.queue[0].due <= now {
		due = append(due, heap.Pop(&k.queue).(*conn))
	}
	return due
}

// clockQueue is a heap of connections by when they are due.
type clockQueue []*conn

func (q clockQueue) Len() int           { return len(q) }
func (q clockQueue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q clockQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i+1, j+1
}

// Push implements heap.Interface.
func (q *clockQueue) Push(x any) {
	c := x.(*conn)
	*q = append(*q, c)
	c.place = len(*q)
}

// Pop implements heap.Interface.
func (q *clockQueue) Pop() any {
	n := len(*q) - 1
	c := (*q)[n]
	(*q)[n] = nil
	*q = (*q)[:n]
	c.place = 0
	return c
}
