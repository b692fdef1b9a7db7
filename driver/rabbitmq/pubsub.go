package rabbitmq

import (
	"context"
	"log/slog"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// PubSub is a pubsub.Driver, BulkPublisher, TTLer and Forgetter.
//
// Messages of a topic are delivered in the order they came, until one fails or
// several are processed at a time: no order by key is promised.
type PubSub struct {
	cfg       PubSubConfig
	log       *slog.Logger
	publisher *publisher
	// Consumers have a connection of their own: the server makes connections
	// wait that publish too much, and acknowledgements must not wait.
	consumers *link
	// keepFor is how long after its arrival a message that failed is processed
	// again here.
	keepFor time.Duration

	closing sync.Once
	closed  chan struct{}
	warn    sync.Once
}

// OpenPubSub connects to RabbitMQ.
func OpenPubSub(ctx context.Context, cfg PubSubConfig, env component.Env) (*PubSub, error) {
	t, err := cfg.target(env.AppID)
	if err != nil {
		return nil, err
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	p := &PubSub{cfg: cfg, log: env.Log, consumers: newLink(t), keepFor: keepFor, closed: make(chan struct{})}
	p.publisher = newPublisher(publisher{
		link: newLink(t), confirms: cfg.confirms(),
		declare: func(ch *amqp.Channel, m *parcel) error { return p.cfg.declareExchange(ch, m.exchange) },
	})
	if _, err := p.publisher.link.get(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// DiscardsExpired implements pubsub.TTLer.
func (p *PubSub) DiscardsExpired() bool { return true }

// Forgets implements pubsub.Forgetter: an exchange without queues keeps
// nothing.
func (p *PubSub) Forgets() bool { return true }

// Publish implements pubsub.Driver.
func (p *PubSub) Publish(ctx context.Context, m *pubsub.Message) error {
	out, err := p.cfg.parcel(m)
	if err != nil {
		return err
	}
	return p.explain(p.publisher.publish(ctx, &out))
}

// BulkPublish implements pubsub.BulkPublisher: it sends all messages before it
// waits for the first answer.
func (p *PubSub) BulkPublish(ctx context.Context, messages []*pubsub.Message) []error {
	errs := make([]error, len(messages))
	parcels, all := make([]parcel, len(messages)), make([]sent, len(messages))
	for i, m := range messages {
		if parcels[i], errs[i] = p.cfg.parcel(m); errs[i] == nil {
			all[i] = p.publisher.send(ctx, &parcels[i])
		}
	}
	for i := range messages {
		if errs[i] == nil {
			errs[i] = p.explain(p.publisher.await(ctx, all[i], &parcels[i]))
		}
	}
	return errs
}

// explain names an error of a driver that is closed.
func (p *PubSub) explain(err error) error {
	if err != nil && p.isClosed() {
		return errBrokerClosed()
	}
	return err
}

func errBrokerClosed() error { return fault.New(fault.Unavailable, "the broker is closed") }

func (p *PubSub) isClosed() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

// Close implements pubsub.Driver.
func (p *PubSub) Close() error {
	p.closing.Do(func() {
		close(p.closed)
		p.publisher.link.close()
		p.consumers.close()
	})
	return nil
}

// Subscribe implements pubsub.Driver.
func (p *PubSub) Subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	err := p.subscribe(ctx, s, handle)
	switch {
	case fault.Is(err, fault.InvalidArgument):
		return err
	case ctx.Err() != nil:
		return nil
	case p.isClosed():
		return errBrokerClosed()
	}
	return err
}

func (p *PubSub) subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	at, err := p.cfg.placeOf(s)
	if err != nil {
		return err
	}
	c := newConsumer(source{
		queue: at.queue, declare: func(ch *amqp.Channel) error { return p.cfg.declare(ch, &at) },
		decode:  func(d *amqp.Delivery) *pubsub.Delivery { return p.cfg.decode(s.Topic, d) },
		autoAck: p.cfg.AutoAck, ordered: at.ordered, keepFor: p.keepFor, closed: p.closed,
		rejects: func(err error) bool { return p.cfg.rejects() && isVerdict(err) },
	})
	c.handle, c.ctx = handle, context.WithoutCancel(ctx)
	c.limit, c.prefetch = p.cfg.limits(s.MaxInFlight)
	if err := c.begin(ctx, p.consumers); err != nil {
		return err
	}
	if p.cfg.DeletedWhenUnused {
		p.warn.Do(func() {
			p.log.WarnContext(ctx, "queues of this component are deleted with their last consumer, and with them what nobody has processed; "+
				"set deletedWhenUnused to false to keep them")
		})
	}
	if s.Established != nil {
		s.Established()
	}
	return c.run(ctx)
}
