package rabbitmq

import (
	"container/heap"
	"context"
	"strconv"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// What becomes of messages that fail. The server cannot wait before it delivers
// one again, so the wait is here, and the message stays the consumer's. It is
// processed again here for a while, after which the server may give it to any
// member of the group.
const (
	// keepFor is how long after its arrival a message is processed again here.
	keepFor = time.Minute
	// longestWait bounds the wait before a message is processed again: the
	// server takes a consumer for dead that keeps one for half an hour.
	longestWait = 10 * time.Minute
	// maxWaiting is how many messages may wait before no more are taken.
	maxWaiting = 1000
)

// source is what a consumer takes messages from, and what it does with them.
type source struct {
	queue   string
	declare func(*amqp.Channel) error // makes the queue
	decode  func(*amqp.Delivery) *pubsub.Delivery
	// autoAck takes messages off the queue before they are processed.
	autoAck bool
	// rejects tells which errors let a message be rejected.
	rejects func(error) bool
	// ordered says that order matters more than that a message which failed
	// holds back none.
	ordered bool
	keepFor time.Duration   // see there
	closed  <-chan struct{} // when the driver is
}

// consumer is one subscription under way. Everything but the handlers and the
// pumps runs in one goroutine.
type consumer struct {
	source
	handle   pubsub.Handler
	ctx      context.Context //nolint:containedctx // what handlers get: it lives as long as the call of Subscribe
	limit    int             // of handlers
	prefetch int

	conn *connection
	ch   *amqp.Channel
	// The server counts the messages of each of its consumers. When too many
	// of one's wait after they failed, another one takes its place, to which
	// they do not count.
	tag     string // of the server's consumer
	tags    int    // how many there have been
	kept    int    // of its messages, how many wait
	waiting queue
	busy    int // handlers at work

	arrived  chan *message
	done     chan *message    // from handlers
	ended    chan *amqp.Error // the channel is closed
	canceled chan string      // by the server
	pumps    sync.WaitGroup
	calls    sync.WaitGroup
}

// message is one that the server has delivered.
type message struct {
	amqp.Delivery
	out    *pubsub.Delivery
	since  time.Time
	failed bool
	due    time.Time // when to process it again
}

func newConsumer(s source) *consumer { return &consumer{source: s, arrived: make(chan *message)} }

// begin declares the queue and consumes.
func (c *consumer) begin(ctx context.Context, l *link) error {
	var err error
	if c.conn, err = l.get(ctx); err != nil {
		return err
	}
	if c.ch, err = c.conn.channel(ctx); err != nil {
		return err
	}
	c.done = make(chan *message, c.limit)
	c.ended, c.canceled = c.ch.NotifyClose(make(chan *amqp.Error, 1)), c.ch.NotifyCancel(make(chan string, 8))
	err = c.conn.do(ctx, func() error {
		if err := c.declare(c.ch); err != nil {
			return err
		}
		if err := c.ch.Qos(c.prefetch, 0, false); err != nil {
			return err
		}
		return c.consume()
	})
	if err != nil {
		_ = c.conn.do(c.ctx, c.ch.Close) // it may be closed already
	}
	return err
}

// consume begins another consumer of the server's.
func (c *consumer) consume() error {
	c.tags++
	tag := "proa-" + strconv.Itoa(c.tags)
	deliveries, err := c.ch.Consume(c.queue, tag, false, false, false, false, nil)
	if err != nil {
		return err
	}
	c.tag, c.kept = tag, 0
	c.pumps.Go(func() {
		for d := range deliveries {
			c.arrived <- &message{Delivery: d, since: time.Now()}
		}
	})
	return nil
}

func (c *consumer) run(ctx context.Context) error {
	err := c.loop(ctx)
	c.finish()
	return err
}

// loop hands messages over until ctx ends or the subscription breaks.
func (c *consumer) loop(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		arrived, again := c.arrived, (<-chan time.Time)(nil)
		if c.busy == c.limit {
			arrived = nil
		} else if len(c.waiting) > 0 {
			timer.Reset(time.Until(c.waiting[0].due))
			again = timer.C
		}
		select {
		case m := <-arrived:
			m.out = c.decode(&m.Delivery)
			c.dispatch(m)
		case <-again:
			c.again()
		case m := <-c.done:
			c.busy--
			c.keep(m)
		case why := <-c.ended:
			return broken(ctx, why)
		case tag := <-c.canceled:
			if tag == c.tag {
				return fault.New(fault.Unavailable, "queue %q is gone", c.queue)
			}
		case <-c.closed:
			return nil
		case <-ctx.Done():
			return nil
		}
		if err := c.makeRoom(ctx); err != nil {
			return err
		}
	}
}

// broken returns what a channel was closed for.
func broken(ctx context.Context, why *amqp.Error) error {
	if why == nil {
		return fault.New(fault.Unavailable, "the connection to rabbitmq broke")
	}
	return classify(ctx, why)
}

// dispatch hands a message to a handler.
func (c *consumer) dispatch(m *message) {
	c.busy++
	m.failed = false
	c.calls.Go(func() {
		if c.autoAck {
			_ = m.Ack(false)
		}
		c.settle(m, c.handle(c.ctx, m.out))
		c.done <- m // has room
	})
}

// settle acknowledges a message, rejects it, or has it processed again. If the
// connection is gone it is delivered again.
func (c *consumer) settle(m *message, err error) {
	switch {
	case c.autoAck:
	case err == nil:
		_ = m.Ack(false)
	case c.rejects(err):
		_ = m.Nack(false, false)
	default:
		m.failed = true
		m.due = time.Now().Add(min(fault.RetryAfterOf(err), longestWait))
	}
}

// isVerdict reports whether an error is about the message: the application has
// not processed it, or it is no envelope. Others are about the moment.
func isVerdict(err error) bool {
	return fault.ReasonOf(err) == pubsub.ReasonNotProcessed || fault.CodeOf(err) == fault.InvalidArgument
}

// keep has a message wait that failed.
func (c *consumer) keep(m *message) {
	if !m.failed {
		return
	}
	heap.Push(&c.waiting, m)
	if m.ConsumerTag == c.tag {
		c.kept++
	}
}

// again has the message processed that has waited longest, here or by whom the
// server gives it to.
func (c *consumer) again() {
	m := heap.Pop(&c.waiting).(*message) //nolint:forcetypeassert // there is nothing else in it
	if m.ConsumerTag == c.tag {
		c.kept--
	}
	if time.Since(m.since) > c.keepFor {
		_ = m.Nack(false, true)
		return
	}
	next := *m.out // a handler may have kept the other one
	next.Attempt++
	m.out = &next
	c.dispatch(m)
}

// makeRoom lets the server deliver more messages when those that wait take up
// too much of what it may. It does not where that would break an order that
// the subscription wants kept.
func (c *consumer) makeRoom(ctx context.Context) error {
	if c.kept < max(1, c.prefetch/2) || len(c.waiting) >= maxWaiting || c.ordered {
		return nil
	}
	old := c.tag
	return c.conn.do(ctx, func() error {
		if err := c.consume(); err != nil { // before the other ends, for queues that go with their last consumer
			return err
		}
		return c.ch.Cancel(old, false)
	})
}

// finish takes no more messages, gives back what no handler has and waits for
// the handlers.
func (c *consumer) finish() {
	ctx, cancel := context.WithTimeout(c.ctx, farewell)
	defer cancel()
	_ = c.conn.do(ctx, func() error { return c.ch.Cancel(c.tag, false) })
	drained := make(chan struct{})
	go func() {
		c.pumps.Wait()
		close(drained)
	}()
	for open := true; open; {
		select {
		case m := <-c.arrived:
			_ = m.Nack(false, true)
		case <-drained:
			open = false
		}
	}
	for _, m := range c.waiting {
		_ = m.Nack(false, true)
	}
	for ; c.busy > 0; c.busy-- {
		if m := <-c.done; m.failed {
			_ = m.Nack(false, true)
		}
	}
	c.calls.Wait()
	// The server has taken note of everything once it has closed the channel.
	ctx, cancel = context.WithTimeout(c.ctx, farewell)
	defer cancel()
	_ = c.conn.do(ctx, c.ch.Close)
}

// queue is a heap of messages that wait, the one that is due first on top.
type queue []*message

// Len implements heap.Interface, as do the other methods.
func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push adds a message at the end.
func (q *queue) Push(x any) { *q = append(*q, x.(*message)) }

// Pop takes the last message off.
func (q *queue) Pop() any {
	last := len(*q) - 1
	m := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return m
}
