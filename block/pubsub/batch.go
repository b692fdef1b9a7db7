package pubsub

import (
	"context"
	"slices"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// batcher gathers the events of a subscription and delivers them in bulk, one
// batch at a time.
type batcher struct {
	sub   *subscription
	items chan batchItem
}

// batchItem is an event that waits for its batch.
type batchItem struct {
	event *Event
	route string
	done  chan<- outcome
	// entryID is what the entry is called in the present attempt.
	entryID string
}

func newBatcher(s *subscription) *batcher {
	return &batcher{sub: s, items: make(chan batchItem)}
}

// deliver adds an event to the batch and returns what became of it.
func (b *batcher) deliver(ctx context.Context, it batchItem) outcome {
	done := make(chan outcome, 1)
	it.done = done
	select {
	case b.items <- it:
		return <-done
	case <-ctx.Done():
		return outcome{err: errInterrupted()}
	}
}

// close ends run. No deliver may be under way or follow.
func (b *batcher) close() { close(b.items) }

// run fills and delivers batches until close.
func (b *batcher) run() {
	for {
		batch, open := b.fill()
		for len(batch) > 0 {
			var same, rest []batchItem
			for _, it := range batch {
				if it.route == batch[0].route {
					same = append(same, it)
				} else {
					rest = append(rest, it)
				}
			}
			b.send(same)
			batch = rest
		}
		if !open {
			return
		}
	}
}

// fill waits for an event, and then for more until the batch is full, has
// waited long enough or the subscription ends. It reports false after close.
func (b *batcher) fill() (batch []batchItem, open bool) {
	first, open := <-b.items
	if !open {
		return nil, false
	}
	batch = append(batch, first)
	timer := time.NewTimer(b.sub.spec.Bulk.MaxAwait)
	defer timer.Stop()
	for len(batch) < b.sub.spec.Bulk.MaxMessages {
		select {
		case it, open := <-b.items:
			if !open {
				return batch, false
			}
			batch = append(batch, it)
		case <-timer.C:
			return batch, true
		case <-b.sub.drained:
			return batch, true
		}
	}
	return batch, true
}

// bulkDelivery is the delivery of one batch under way. A retry of it carries
// only what the application has not settled.
type bulkDelivery struct {
	policy.Call
	sub   *subscription
	f     *flight
	route string
	items []batchItem
	out   []outcome
	left  []int // which items are not settled
	tally policy.Tally
}

// send delivers events of one route through the inbound policies.
func (b *batcher) send(items []batchItem) {
	s := b.sub
	ctx, f := s.begin()
	defer s.end(f)
	c := &bulkDelivery{sub: s, f: f, route: items[0].route, items: items, out: make([]outcome, len(items))}
	c.Key, c.Idempotent = s.spec.Topic, true
	now := time.Now()
	for i, it := range items {
		c.out[i].first = now
		c.Bytes += len(it.event.JSON)
		c.left = append(c.left, i)
	}
	c.tally.Failed, c.Tally = len(items), &c.tally
	err := interrupted(ctx, s.broker.deliverBulk.Run(ctx, &c.Call, c.do))
	for _, i := range c.left {
		c.out[i].err = err
	}
	for i, it := range items {
		it.done <- c.out[i]
	}
}

func (c *bulkDelivery) do(ctx context.Context) error {
	if !c.sub.enter(c.f) {
		return errInterrupted()
	}
	statuses, err := c.sub.app.DeliverBulk(ctx, c.route, c.event())
	again := c.sub.leave(c.f)
	defer c.count()
	for _, i := range c.left {
		c.out[i].calls++
	}
	if err == nil {
		c.record(statuses)
	}
	if err != nil && fault.ReasonOf(err) == ReasonNoHandler {
		for _, i := range c.left {
			c.out[i].status, c.out[i].cause = Drop, err
		}
		c.left = nil
		return nil
	}
	switch {
	case err == nil && len(c.left) == 0:
		return nil
	case err != nil && fault.CodeOf(err) == fault.Canceled, !again:
		return errInterrupted()
	}
	return notProcessed(err)
}

// count brings the tally up to date.
func (c *bulkDelivery) count() {
	c.tally = policy.Tally{Failed: len(c.left)}
	for i := range c.out {
		switch {
		case slices.Contains(c.left, i):
		case c.out[i].status == Drop:
			c.tally.Rejected++
		default:
			c.tally.Done++
		}
	}
}

func (c *bulkDelivery) event() *BulkEvent {
	b := &BulkEvent{ID: newUUID(), Component: c.sub.broker.name, Topic: c.sub.spec.Topic, Entries: make([]BulkEntry, len(c.left))}
	for j, i := range c.left {
		e := c.items[i].event
		b.Entries[j] = BulkEntry{EntryID: newUUID(), Event: e, ContentType: e.entryType()}
		c.items[i].entryID = b.Entries[j].EntryID
	}
	return b
}

// record takes over the statuses of the entries that are settled.
func (c *bulkDelivery) record(statuses []EntryStatus) {
	byID := make(map[string]Status, len(statuses))
	for _, st := range statuses {
		byID[st.EntryID] = st.Status
	}
	left := c.left[:0]
	for _, i := range c.left {
		status, ok := byID[c.items[i].entryID]
		if !ok || status == Retry {
			left = append(left, i)
			continue
		}
		c.out[i].status = status
	}
	c.left = left
}
