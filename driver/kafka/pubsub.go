package kafka

import (
	"context"
	"log/slog"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
)

// PubSubConfig configures a message broker on Kafka.
//
// A topic is the Kafka topic of that name. One that Kafka cannot have as it is
// called goes by a name that begins with "proa-". The key of a message is its
// partitionKey; metadata are its headers. Subscribers find the key, and where
// and when the message was stored, in the metadata __key, __topic,
// __partition, __offset and __timestamp (milliseconds since 1970). A publish
// with the metadata partitionNumber goes to that partition.
//
// What a subscription has processed is committed without gaps: after a crash,
// or when its partitions go to another consumer, no message is passed over,
// and those not committed yet come again.
type PubSubConfig struct {
	Config
}

func pubSubDefaults() PubSubConfig { return PubSubConfig{Config: defaults()} }

// PubSub is a pubsub.Driver, a pubsub.BulkPublisher, a pubsub.KeyOrderer, a
// pubsub.Forgetter and a pubsub.Browser.
type PubSub struct {
	cfg    Config
	net    network
	env    component.Env
	log    *slog.Logger
	format format
	out    *producer

	closing sync.Once
	closed  chan struct{}
}

// OpenPubSub connects to Kafka.
func OpenPubSub(ctx context.Context, cfg PubSubConfig, env component.Env) (*PubSub, error) {
	return openPubSub(ctx, cfg.Config, usualNetwork(), env)
}

func openPubSub(ctx context.Context, cfg Config, net network, env component.Env) (*PubSub, error) {
	f, err := cfg.format()
	if err != nil {
		return nil, err
	}
	out, err := newProducer(ctx, cfg, net, env)
	if err != nil {
		return nil, err
	}
	p := &PubSub{cfg: cfg, net: net, env: env, log: logger(env), format: f, out: out, closed: make(chan struct{})}
	if cfg.Version != "" {
		p.log.DebugContext(ctx, "the setting version is not needed: the client asks the brokers", "version", cfg.Version)
	}
	return p, nil
}

func (c Config) format() (format, error) {
	excluded, err := c.excluded()
	return format{excluded: excluded, escape: c.EscapeHeaders}, err
}

// Publish implements pubsub.Driver.
func (p *PubSub) Publish(ctx context.Context, m *pubsub.Message) error {
	if p.isClosed() {
		return errClosed()
	}
	_, err := p.out.publish(ctx, m.Topic, p.builder(m))
	return err
}

func (p *PubSub) builder(m *pubsub.Message) builder {
	return func(name string) (*kgo.Record, error) { return p.format.record(name, m) }
}

// bulkSize is how many messages are handed over together.
const bulkSize = 1000

// BulkPublish implements pubsub.BulkPublisher.
func (p *PubSub) BulkPublish(ctx context.Context, messages []*pubsub.Message) []error {
	errs := make([]error, 0, len(messages))
	for start := 0; start < len(messages); start += bulkSize {
		some := messages[start:min(start+bulkSize, len(messages))]
		records := make([]outgoing, len(some))
		for i, m := range some {
			records[i] = outgoing{m.Topic, p.builder(m)}
		}
		if p.isClosed() {
			for range some {
				errs = append(errs, errClosed())
			}
			continue
		}
		errs = append(errs, p.out.publishAll(ctx, records)...)
	}
	return errs
}

// OrdersByKey implements pubsub.KeyOrderer: messages with the same key are in
// the same partition, and in either ordering wait for each other there.
func (p *PubSub) OrdersByKey() bool { return p.cfg.ConsumeRetryEnabled }

// Forgets implements pubsub.Forgetter: a new group that begins with the newest
// message does not get what is there already.
func (p *PubSub) Forgets() bool { return !p.cfg.fromOldest() }

// Subscribe implements pubsub.Driver.
func (p *PubSub) Subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	err := p.subscribe(ctx, s, handle)
	switch {
	case ctx.Err() != nil:
		return nil
	case p.isClosed():
		return errClosed()
	}
	return err
}

func (p *PubSub) subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	if p.isClosed() || ctx.Err() != nil {
		return nil
	}
	for name, value := range s.Metadata {
		if strings.EqualFold(name, metaSchemaType) {
			if err := checkSchema(value); err != nil {
				return err
			}
		}
	}
	at, err := p.out.topics.find(ctx, s.Topic)
	if err != nil {
		return err
	}
	group := p.cfg.ConsumerGroup
	if group == "" {
		group = s.Group
	}
	err = consume(ctx, consumption{
		cfg: p.cfg, net: p.net, env: p.env, log: p.log, closed: p.closed,
		group: group, topics: []string{at.name}, limit: s.MaxInFlight, batch: s.Batch, established: s.Established,
		handle: func(ctx context.Context, r *kgo.Record, attempt int) error {
			return handle(ctx, p.delivery(s.Topic, r, attempt))
		},
	})
	if err != nil {
		p.out.topics.forget(s.Topic, at) // it may have gone
	}
	return err
}

// delivery turns a record into what handlers get.
func (p *PubSub) delivery(topic string, r *kgo.Record, attempt int) *pubsub.Delivery {
	d := &pubsub.Delivery{ID: recordID(r), Attempt: attempt, Published: r.Timestamp}
	d.Topic, d.Data, d.Key = topic, data(r), string(r.Key)
	d.Metadata = p.format.metadata(r)
	return d
}

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
		p.out.close()
	})
	return nil
}
