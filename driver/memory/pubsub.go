package memory

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// PubSubConfig configures an in-memory message broker.
type PubSubConfig struct {
	// MaxMessages bounds how many messages a topic keeps. The oldest goes to
	// make room once every group that is subscribed at that time has processed
	// it; until then a publish fails with resource_exhausted.
	MaxMessages int `setting:"maxMessages"`
	// MaxBytes bounds the data of all topics together, in the same way.
	MaxBytes component.Size `setting:"maxBytes"`
	// Concurrency is how many messages of a subscription are processed at a
	// time.
	Concurrency int `setting:"concurrency"`
}

// Validate reports settings that can never work.
func (c PubSubConfig) Validate() error {
	switch {
	case c.MaxMessages <= 0:
		return component.Invalid("maxMessages", "must be positive, not %d", c.MaxMessages)
	case c.MaxBytes <= 0:
		return component.Invalid("maxBytes", "must be positive, not %d", c.MaxBytes)
	case c.Concurrency <= 0:
		return component.Invalid("concurrency", "must be positive, not %d", c.Concurrency)
	}
	return nil
}

// PubSub is an in-memory pubsub.Driver. It keeps the order of messages with
// the same key.
type PubSub struct {
	cfg    PubSubConfig
	closed chan struct{}

	mu     sync.Mutex // guards the fields below and all topics and groups
	topics map[string]*topic
	bytes  int64
}

// OpenPubSub returns a broker without messages.
func OpenPubSub(_ context.Context, cfg PubSubConfig, _ component.Env) (*PubSub, error) {
	return &PubSub{cfg: cfg, closed: make(chan struct{}), topics: map[string]*topic{}}, nil
}

// topic keeps the messages of a topic, in the order they were published.
type topic struct {
	first  uint64 // the number of log[0]
	log    []*message
	groups map[string]*group
}

// message is a message that is kept.
type message struct {
	*pubsub.Message
	number    uint64 // within the topic, from 1
	published time.Time
	removed   bool // it is kept only for its number
}

func (m *message) size() int64 {
	n := len(m.Data) + len(m.Key) + len(m.ContentType)
	for k, v := range m.Metadata {
		n += len(k) + len(v)
	}
	return int64(n)
}

// Publish implements pubsub.Driver.
func (p *PubSub) Publish(ctx context.Context, m *pubsub.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed() {
		return errClosed()
	}
	t := p.topic(m.Topic)
	kept := &message{Message: m, number: t.end(), published: time.Now()}
	if err := p.makeRoom(t, kept.size()); err != nil {
		return err
	}
	t.log = append(t.log, kept)
	p.bytes += kept.size()
	for _, g := range t.groups {
		g.signal()
	}
	return nil
}

// makeRoom discards old messages until one of the given size fits.
func (p *PubSub) makeRoom(t *topic, size int64) error {
	for len(t.log) >= p.cfg.MaxMessages || p.bytes+size > int64(p.cfg.MaxBytes) {
		from := t
		if len(t.log) < p.cfg.MaxMessages {
			from = p.disposable()
		}
		if from == nil || !from.disposable() {
			return fault.New(fault.ResourceExhausted, "the topic is full: it has %d messages, the broker %d bytes, "+
				"and subscribers have yet to process the oldest", len(t.log), p.bytes)
		}
		if !from.log[0].removed {
			p.bytes -= from.log[0].size()
		}
		from.log[0] = nil
		from.log = from.log[1:]
		from.first++
	}
	return nil
}

// disposable returns a topic whose oldest message may go, or nil.
func (p *PubSub) disposable() *topic {
	var oldest *topic
	for _, t := range p.topics {
		if t.disposable() && (oldest == nil || t.log[0].published.Before(oldest.log[0].published)) {
			oldest = t
		}
	}
	return oldest
}

// disposable reports whether there is an oldest message that no group with
// members has yet to process.
func (t *topic) disposable() bool {
	if len(t.log) == 0 {
		return false
	}
	for _, g := range t.groups {
		if _, open := g.open[t.first]; g.members > 0 && (open || t.first >= g.next) {
			return false
		}
	}
	return true
}

func (p *PubSub) topic(name string) *topic {
	t := p.topics[name]
	if t == nil {
		t = &topic{first: 1, groups: map[string]*group{}}
		p.topics[name] = t
	}
	return t
}

// end returns the number of the next message.
func (t *topic) end() uint64 { return t.first + uint64(len(t.log)) }

// Subscribe implements pubsub.Driver.
func (p *PubSub) Subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	g, err := p.join(s)
	if err != nil {
		return err
	}
	defer p.leave(g)
	var calls sync.WaitGroup
	defer calls.Wait()
	limit := s.MaxInFlight
	if limit <= 0 {
		limit = p.cfg.Concurrency
	}
	free := make(chan struct{}, limit)
	for {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return nil
		case <-p.closed:
			return errClosed()
		}
		d, err := p.await(ctx, g)
		if d == nil {
			return err
		}
		calls.Go(func() {
			defer func() { <-free }()
			err := handle(context.WithoutCancel(ctx), d.delivery(s.Topic))
			p.settle(g, d, err)
		})
	}
}

// join adds a member to a group.
func (p *PubSub) join(s pubsub.Subscription) (*group, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed() {
		return nil, errClosed()
	}
	t := p.topic(s.Topic)
	g := t.groups[s.Group]
	if g == nil {
		g = newGroup(t)
		t.groups[s.Group] = g
	}
	g.members++
	return g, nil
}

func (p *PubSub) leave(g *group) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g.members--
	g.signal() // in case the signal this member took was for another
}

// await returns the next message for a member of g; nil when ctx ends or the
// broker is closed.
func (p *PubSub) await(ctx context.Context, g *group) (*delivery, error) {
	for {
		p.mu.Lock()
		d, wait := g.take(time.Now())
		p.mu.Unlock()
		if d != nil {
			return d, nil
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-g.wake:
		case <-due:
		case <-ctx.Done():
			return nil, nil
		case <-p.closed:
			return nil, errClosed()
		}
	}
}

func (p *PubSub) settle(g *group, d *delivery, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		g.acknowledge(d)
	} else {
		g.giveBack(d, time.Now().Add(fault.RetryAfterOf(err)))
	}
	g.signal()
}

// delivery turns d into what handlers get.
func (d *delivery) delivery(topic string) *pubsub.Delivery {
	out := &pubsub.Delivery{
		Message: *d.message.Message, ID: strconv.FormatUint(d.number, 10), Attempt: d.attempt, Published: d.published,
	}
	out.Topic = topic
	return out
}

// OrdersByKey implements pubsub.KeyOrderer.
func (p *PubSub) OrdersByKey() bool { return true }

// Close implements pubsub.Driver.
func (p *PubSub) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.isClosed() {
		close(p.closed)
	}
	return nil
}

func (p *PubSub) isClosed() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

func errClosed() error { return fault.New(fault.Unavailable, "the in-memory broker is closed") }
