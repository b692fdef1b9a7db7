package redis

import (
	"container/heap"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// Bounds of what a consumer does on its own.
const (
	// longestRead bounds how long a read waits for messages.
	longestRead = 2 * time.Second
	// settleTime bounds an acknowledgement.
	settleTime = 5 * time.Second
	// claimSize bounds how many messages are claimed at a time.
	claimSize = 100
)

// consumer is one Subscribe under way.
//
// It reads on a connection of its own, because a read blocks the connection
// until a message comes. It fetches only what can be handled at once, so every
// message it has is with a handler, and while handlers are at work it tells
// Redis now and then that it is alive. All consumers of a group have the
// group's name, as with Dapr: whose message it is does not matter, only how
// long ago it was last touched.
type consumer struct {
	p      *PubSub
	link   *link
	topic  string
	group  string
	handle pubsub.Handler

	limit int
	slots chan struct{} // one taken for each handler at work
	calls sync.WaitGroup

	unblock func()        // ends a read that waits
	looped  chan struct{} // closed when no more messages are taken

	mu      sync.Mutex
	out     map[string]struct{} // messages with handlers
	due     dueTimes            // of messages that were given back
	reading time.Time           // until when the present read may wait
}

// Subscribe implements pubsub.Driver.
func (p *PubSub) Subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	if p.isClosed() {
		return errBrokerClosed()
	}
	limit := s.MaxInFlight
	if limit <= 0 {
		limit = p.cfg.Concurrency
	}
	l, err := newLink(ctx, p.cfg.Config)
	if err != nil {
		return p.ended(ctx, classify(ctx, err))
	}
	c := &consumer{
		p: p, link: l, topic: s.Topic, group: s.Group, handle: handle, limit: limit,
		slots: make(chan struct{}, limit), out: map[string]struct{}{}, looped: make(chan struct{}),
	}
	return p.ended(ctx, c.run(ctx))
}

// ended returns what Subscribe returns when it ends with err.
func (p *PubSub) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return p.explain(err)
}

func (c *consumer) run(ctx context.Context) error {
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer stop()
	defer c.link.close()
	// Handlers settle their messages while the helpers still keep the others
	// alive.
	defer c.calls.Wait()
	defer close(c.looped)
	if err := c.createGroup(reading); err != nil {
		return err
	}
	c.unblock = c.unblocker(reading)
	helpers.Go(func() { c.interrupt(ctx, stop) })
	if c.p.cfg.redelivers() {
		helpers.Go(func() { c.keepAlive(reading) })
	}
	return c.loop(ctx, reading)
}

// interrupt ends the reads when ctx ends or the driver is closed.
func (c *consumer) interrupt(ctx context.Context, stop context.CancelFunc) {
	select {
	case <-c.looped:
		return
	case <-c.p.closed:
		stop()
		return
	case <-ctx.Done():
	}
	const again = 50 * time.Millisecond // a read may have begun just now
	for {
		c.unblock()
		select {
		case <-c.looped:
			return
		case <-c.p.closed:
			stop()
			return
		case <-time.After(again):
		}
	}
}

// loop reads and claims messages until ctx ends.
func (c *consumer) loop(ctx, reading context.Context) error {
	var nextLook time.Time // for messages of dead consumers
	if c.p.cfg.redelivers() {
		nextLook = time.Now()
	}
	for lost := 0; ; {
		free := c.acquire(ctx)
		if ctx.Err() != nil || c.p.isClosed() {
			c.release(free)
			return nil
		}
		var got []*pubsub.Delivery
		var err error
		look := c.nextDue(nextLook)
		if !look.IsZero() && !time.Now().Before(look) {
			var all bool
			if got, all, err = c.claim(reading, free); all {
				nextLook = time.Now().Add(c.p.cfg.RedeliverInterval.Std())
			}
		} else {
			got, err = c.read(reading, free, look)
		}
		c.release(free - len(got))
		c.dispatch(ctx, got)
		switch {
		case isGroupLost(err) && lost < 3:
			// Somebody has deleted the stream or the group.
			lost++
			if err := c.createGroup(reading); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			lost = 0
		}
	}
}

// acquire waits until a handler can begin and takes all free slots there are,
// up to the queue's depth. It returns 0 when ctx ends or the driver is closed.
func (c *consumer) acquire(ctx context.Context) (n int) {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return 0
	case <-c.p.closed:
		return 0
	}
	for n = 1; n < c.p.cfg.QueueDepth; n++ {
		select {
		case c.slots <- struct{}{}:
		default:
			return n
		}
	}
	return n
}

func (c *consumer) release(n int) {
	for range n {
		<-c.slots
	}
}

// read takes up to n new messages. It returns no later than look, when that is
// set.
func (c *consumer) read(ctx context.Context, n int, look time.Time) ([]*pubsub.Delivery, error) {
	until := time.Now().Add(min(longestRead, c.p.cfg.ReadTimeout.Std()/2))
	c.mu.Lock()
	if !look.IsZero() && look.Before(until) {
		until = look
	}
	c.reading = until
	c.mu.Unlock()
	cmd := c.link.redis.B().Arbitrary("XREADGROUP", "GROUP", c.group, c.group, "COUNT", strconv.Itoa(n),
		"BLOCK", strconv.FormatInt(max(1, time.Until(until).Milliseconds()), 10), "STREAMS").Keys(c.topic).Args(">").Build()
	streams, err := c.link.redis.Do(ctx, cmd).AsXRead()
	if err != nil {
		if rueidis.IsRedisNil(err) {
			return nil, nil
		}
		return nil, replyError(ctx, err)
	}
	entries := streams[c.topic]
	out := make([]*pubsub.Delivery, len(entries))
	for i, e := range entries {
		out[i] = c.p.message(c.topic, e.ID, e.FieldValues, 1)
	}
	return out, nil
}

// replyError classifies an error and keeps its kind recognisable for
// isGroupLost.
func replyError(ctx context.Context, err error) error {
	if isGroupLost(err) {
		return fault.Wrap(err, fault.Unavailable, "the stream or its consumer group is gone")
	}
	return classify(ctx, err)
}

// isGroupLost reports whether an error reply says that the stream, or the
// group, is not there.
func isGroupLost(err error) bool {
	re, ok := errors.AsType[*rueidis.RedisError](err)
	return ok && (strings.HasPrefix(re.Error(), "NOGROUP") || strings.HasPrefix(re.Error(), "UNBLOCKED"))
}

func (c *consumer) createGroup(ctx context.Context) error {
	cmd := c.link.redis.B().Arbitrary("XGROUP", "CREATE").Keys(c.topic).Args(c.group, "0", "MKSTREAM").Build()
	err := c.link.redis.Do(ctx, cmd).Error()
	if re, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(re.Error(), "BUSYGROUP") {
		return nil
	}
	return classify(ctx, err)
}

// unblocker returns a function that ends a read that waits, so that ending a
// subscription need not wait for it. It does its best.
func (c *consumer) unblocker(ctx context.Context) func() {
	if c.link.detached {
		return func() {} // we cannot know which connection it is
	}
	id, err := c.link.redis.Do(ctx, c.link.redis.B().ClientId().Build()).AsInt64()
	if err != nil {
		return func() {}
	}
	return func() {
		_, _ = c.p.client.do(ctx, c.p.client.build().ClientUnblock().ClientId(id).Build())
	}
}

// dispatch hands messages to handlers, a slot for each being taken. When ctx
// has ended it gives them back.
func (c *consumer) dispatch(ctx context.Context, messages []*pubsub.Delivery) {
	if ctx.Err() != nil && c.p.cfg.redelivers() {
		for _, d := range messages {
			c.settle(ctx, d.ID, ctx.Err())
			c.release(1)
		}
		return
	}
	for _, d := range messages {
		c.mu.Lock()
		c.out[d.ID] = struct{}{}
		c.mu.Unlock()
		c.calls.Go(func() {
			defer c.release(1)
			err := c.handle(context.WithoutCancel(ctx), d)
			c.mu.Lock()
			delete(c.out, d.ID)
			c.mu.Unlock()
			c.settle(ctx, d.ID, err)
		})
	}
}

// settle acknowledges a message or gives it back.
func (c *consumer) settle(ctx context.Context, id string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	if err == nil || c.p.cfg.AckOnError && !fault.Is(err, fault.Canceled) {
		c.acknowledge(ctx, id)
		return
	}
	if !c.p.cfg.redelivers() {
		return
	}
	timeout := c.p.cfg.ProcessingTimeout.Std()
	wait := min(fault.RetryAfterOf(err), timeout)
	c.touch(ctx, []string{id}, timeout-wait)
	const slack = 2 * time.Millisecond // Redis counts whole milliseconds
	c.expect(time.Now().Add(wait + slack))
}

func (c *consumer) acknowledge(ctx context.Context, ids ...string) {
	cmd := c.p.client.build().Xack().Key(c.topic).Group(c.group).Id(ids...).Build()
	res, err := c.p.client.do(ctx, cmd)
	if err == nil {
		err = classify(ctx, res.Error())
	}
	if err != nil {
		c.p.log.WarnContext(ctx, "acknowledgement is lost: the message will come again", "topic", c.topic, "message_id", ids[0], "error", err)
	}
}

// touch sets how long ago messages were last touched. A message is delivered
// again once that is longer than the processing timeout.
func (c *consumer) touch(ctx context.Context, ids []string, ago time.Duration) {
	cmd := c.p.client.build().Xclaim().Key(c.topic).Group(c.group).Consumer(c.group).MinIdleTime("0").Id(ids...).
		Idle(ago.Milliseconds()).Justid().Build()
	// When it fails the messages come again at another time; nothing is lost.
	_, _ = c.p.client.do(ctx, cmd)
}

// keepAlive tells Redis that the messages with handlers are being worked on.
func (c *consumer) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(c.p.cfg.ProcessingTimeout.Std() / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.mu.Lock()
		ids := slices.Collect(maps.Keys(c.out))
		c.mu.Unlock()
		if len(ids) > 0 {
			c.touch(ctx, ids, 0)
		}
	}
}

// expect notes that a message will be due at that time.
func (c *consumer) expect(due time.Time) {
	c.mu.Lock()
	heap.Push(&c.due, due)
	late := due.Before(c.reading)
	c.mu.Unlock()
	if late {
		c.unblock()
	}
}

// nextDue returns when to look for messages to deliver again; zero for never.
// look is when to look for those of dead consumers.
func (c *consumer) nextDue(look time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.due) > 0 && c.due[0].Before(look) {
		return c.due[0]
	}
	return look
}

// claim takes up to n messages that nobody has touched for the processing
// timeout. all tells that these are all.
func (c *consumer) claim(ctx context.Context, n int) (got []*pubsub.Delivery, all bool, err error) {
	began := time.Now()
	attempts, err := c.pending(ctx, min(n, claimSize))
	if err != nil {
		return nil, false, err
	}
	if len(attempts) > 0 {
		if got, err = c.take(ctx, attempts); err != nil {
			return nil, false, err
		}
	}
	if len(attempts) == min(n, claimSize) {
		return got, false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.due) > 0 && !c.due[0].After(began) {
		heap.Pop(&c.due)
	}
	return got, true, nil
}

// take claims messages, unless somebody else has meanwhile. attempts has how
// often each was delivered so far.
func (c *consumer) take(ctx context.Context, attempts map[string]int) ([]*pubsub.Delivery, error) {
	ids := slices.Sorted(maps.Keys(attempts))
	timeout := strconv.FormatInt(c.p.cfg.ProcessingTimeout.Std().Milliseconds(), 10)
	cmd := c.link.redis.B().Xclaim().Key(c.topic).Group(c.group).Consumer(c.group).MinIdleTime(timeout).Id(ids...).Build()
	entries, err := c.link.redis.Do(ctx, cmd).ToArray()
	if err != nil {
		return nil, replyError(ctx, err)
	}
	var got []*pubsub.Delivery
	for i := range entries {
		e, err := entries[i].AsXRangeEntry()
		if err != nil || e.FieldValues == nil {
			continue // before Redis 7: no longer in the stream
		}
		got = append(got, c.p.message(c.topic, e.ID, e.FieldValues, attempts[e.ID]+1))
		delete(attempts, e.ID)
	}
	for id := range attempts {
		c.forget(ctx, id)
	}
	return got, nil
}

// forget removes a message from the group if it is no longer in the stream.
// Redis does that by itself from version 7 on.
func (c *consumer) forget(ctx context.Context, id string) {
	there, err := c.link.redis.Do(ctx, c.link.redis.B().Xrange().Key(c.topic).Start(id).End(id).Build()).AsXRange()
	if err == nil && len(there) == 0 {
		c.acknowledge(ctx, id)
	}
}

// pending returns up to n messages that nobody has touched for the processing
// timeout, and how often each was delivered so far.
func (c *consumer) pending(ctx context.Context, n int) (map[string]int, error) {
	cmd := c.link.redis.B().Xpending().Key(c.topic).Group(c.group).Idle(c.p.cfg.ProcessingTimeout.Std().Milliseconds()).
		Start("-").End("+").Count(int64(n)).Build()
	rows, err := c.link.redis.Do(ctx, cmd).ToArray()
	if err != nil {
		if rueidis.IsRedisNil(err) {
			return nil, nil
		}
		return nil, replyError(ctx, err)
	}
	out := make(map[string]int, len(rows))
	for _, row := range rows {
		cols, err := row.ToArray() // id, consumer, idle, deliveries
		if err != nil || len(cols) < 4 {
			return nil, fault.New(fault.Internal, "redis answered XPENDING in an unknown form")
		}
		id, _ := cols[0].ToString()
		count, _ := cols[3].AsInt64()
		out[id] = int(count)
	}
	return out, nil
}

// dueTimes is a heap of times, the earliest first.
type dueTimes []time.Time

// Len implements heap.Interface, as do the other methods.
func (h dueTimes) Len() int           { return len(h) }
func (h dueTimes) Less(i, j int) bool { return h[i].Before(h[j]) }
func (h dueTimes) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push adds a time at the end.
func (h *dueTimes) Push(x any) { *h = append(*h, x.(time.Time)) }

// Pop takes the last time off.
func (h *dueTimes) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	*h = (*h)[:last]
	return t
}
