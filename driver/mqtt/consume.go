package mqtt

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// consumer is one Subscribe under way. Everything but the handlers runs in one
// goroutine.
type consumer struct {
	session *session
	filter  filter
	leaves  bool // unsubscribes at the end
	handle  pubsub.Handler
	ctx     context.Context //nolint:containedctx // what handlers get: it lives as long as the call of Subscribe
	closed  <-chan struct{} // when the driver is
	limit   int             // of handlers

	// The lock of the session is for these.
	conn     *conn
	queue    []*job
	has      int // messages, be they queued, with handlers or waiting
	stopping bool

	arrived chan struct{} // there is something in the queue
	done    chan *job     // from handlers
	busy    int           // handlers at work
	waiting jobs          // that failed
	calls   sync.WaitGroup
}

// job is a message for a consumer.
type job struct {
	in     *inbound
	out    *pubsub.Delivery
	failed bool
	due    time.Time // when to process it again
}

// sweepEvery is how often to look for messages that nobody comes for.
const sweepEvery = 10 * time.Second

// loop hands messages over until ctx ends or the subscription breaks.
func (c *consumer) loop(ctx context.Context) error {
	timer, sweep := time.NewTimer(time.Hour), time.NewTicker(min(sweepEvery, c.session.p.orphanWait))
	defer timer.Stop()
	defer sweep.Stop()
	for {
		c.fill()
		var again <-chan time.Time
		if c.busy < c.limit && len(c.waiting) > 0 {
			timer.Reset(time.Until(c.waiting[0].due))
			again = timer.C
		}
		select {
		case <-c.arrived:
		case <-again:
			j := heap.Pop(&c.waiting).(*job) //nolint:forcetypeassert // there is nothing else in it
			next := *j.out                   // a handler may have kept the other one
			next.Attempt++
			j.out = &next
			c.dispatch(j)
		case j := <-c.done:
			c.busy--
			if j.failed {
				heap.Push(&c.waiting, j)
			}
		case <-sweep.C:
			c.session.sweep(ctx, c.conn)
		case <-c.conn.ended:
			return c.conn.broken()
		case <-c.closed:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// fill hands messages to handlers while there are some of both.
func (c *consumer) fill() {
	for c.busy < c.limit {
		j := c.session.take(c)
		if j == nil {
			return
		}
		c.dispatch(j)
	}
}

// dispatch hands a message to a handler.
func (c *consumer) dispatch(j *job) {
	c.busy++
	j.failed = false
	c.calls.Go(func() {
		if err := c.handle(c.ctx, j.out); err != nil {
			j.failed = true
			j.due = time.Now().Add(fault.RetryAfterOf(err))
		} else {
			c.session.settled(c, j)
		}
		c.done <- j // has room
	})
}

// finish waits for the handlers, and puts what is not processed back into the
// queue.
func (c *consumer) finish() {
	c.session.stop(c)
	for ; c.busy > 0; c.busy-- {
		if j := <-c.done; j.failed {
			c.waiting = append(c.waiting, j)
		}
	}
	c.calls.Wait()
	c.session.putBack(c, c.waiting)
}

// jobs is a heap of messages that wait, the one that is due first on top.
type jobs []*job

// Len implements heap.Interface, as do the other methods.
func (h jobs) Len() int           { return len(h) }
func (h jobs) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h jobs) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push adds a message at the end.
func (h *jobs) Push(x any) { *h = append(*h, x.(*job)) }

// Pop takes the last message off.
func (h *jobs) Pop() any {
	last := len(*h) - 1
	j := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return j
}
