package memory

import (
	"container/heap"
	"context"
	"strconv"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// Browse implements pubsub.Browser.
func (p *PubSub) Browse(ctx context.Context, topic, after string, limit int) ([]*pubsub.Delivery, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	from, err := numberAfter(after)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed() {
		return nil, errClosed()
	}
	t := p.topics[topic]
	if t == nil {
		return nil, nil
	}
	var out []*pubsub.Delivery
	for n := max(from, t.first); n < t.end() && len(out) < limit; n++ {
		if m := t.log[n-t.first]; !m.removed {
			out = append(out, (&delivery{message: m}).delivery(topic))
		}
	}
	return out, nil
}

// numberAfter returns the number that comes after an id; 1 for "".
func numberAfter(id string) (uint64, error) {
	if id == "" {
		return 1, nil
	}
	n, err := strconv.ParseUint(id, 10, 63)
	if err != nil {
		return 0, fault.New(fault.InvalidArgument, "messages of this broker have whole numbers as their ids, not %q", id)
	}
	return n + 1, nil
}

// Remove implements pubsub.Browser.
func (p *PubSub) Remove(ctx context.Context, topic string, ids []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed() {
		return errClosed()
	}
	t := p.topics[topic]
	if t == nil {
		return nil
	}
	for _, id := range ids {
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil || n < t.first || n >= t.end() || t.log[n-t.first].removed {
			continue
		}
		m := t.log[n-t.first]
		p.bytes -= m.size()
		m.removed = true
		for _, g := range t.groups {
			g.forget(m)
		}
	}
	return nil
}

// forget takes a removed message out of what waits to be delivered. One that is
// out stays out.
func (g *group) forget(m *message) {
	for i, d := range g.again {
		if d.message == m {
			heap.Remove(&g.again, i)
			g.acknowledge(d)
			return
		}
	}
	for i, d := range g.ready {
		if d.message == m {
			g.ready = append(g.ready[:i:i], g.ready[i+1:]...)
			g.acknowledge(d)
			return
		}
	}
	held := g.busy[m.Key]
	for i, d := range held {
		if d.message == m {
			g.busy[m.Key] = append(held[:i:i], held[i+1:]...)
			delete(g.open, m.number)
			return
		}
	}
}
