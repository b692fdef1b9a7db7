package redis

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// PubSubConfig configures a message broker on Redis streams. It wants Redis
// 6.2 or newer.
//
// A topic is the stream of that name; a message is an entry with the fields
// data and, if there is any, metadata (a JSON object), as Dapr's component of
// the same name writes and reads them. Streams grow until maxLenApprox or
// streamTTL bounds them.
type PubSubConfig struct {
	Config
	// ProcessingTimeout is how long a consumer may be silent before its
	// messages are delivered to another. 0 turns redelivery off: a message
	// that fails, or whose consumer dies, never comes again.
	ProcessingTimeout component.Millis `setting:"processingTimeout"`
	// RedeliverInterval is how often to look for messages of dead consumers.
	// 0 turns redelivery off.
	RedeliverInterval component.Millis `setting:"redeliverInterval"`
	// AckOnError acknowledges a message also when it could not be processed,
	// so that only the policies deliver it again.
	AckOnError bool `setting:"ackOnError"`
	// QueueDepth bounds how many messages are fetched at a time. No more are
	// fetched than can be processed at once.
	QueueDepth int `setting:"queueDepth"`
	// Concurrency is how many messages of a subscription are processed at a
	// time.
	Concurrency int `setting:"concurrency"`
	// MaxLenApprox bounds the length of streams: when one is longer its
	// oldest entries go, processed or not. 0 for no bound.
	MaxLenApprox int64 `setting:"maxLenApprox"`
	// StreamTTL bounds the age of entries: older ones go, processed or not,
	// when the next one is published. 0 for no bound.
	StreamTTL component.Duration `setting:"streamTTL"`
}

func pubSubDefaults() PubSubConfig {
	return PubSubConfig{
		Config:            defaults(),
		ProcessingTimeout: component.Millis(15 * time.Second),
		RedeliverInterval: component.Millis(15 * time.Second),
		QueueDepth:        100,
		Concurrency:       10,
	}
}

// Validate reports settings that can never work.
func (c PubSubConfig) Validate() error {
	switch {
	case c.ProcessingTimeout < 0 || c.ProcessingTimeout > 0 && c.ProcessingTimeout.Std() < 10*time.Millisecond:
		return component.Invalid("processingTimeout", "wants 10ms at least, or 0 for no redelivery")
	case c.RedeliverInterval < 0 || c.RedeliverInterval > 0 && c.RedeliverInterval.Std() < 10*time.Millisecond:
		return component.Invalid("redeliverInterval", "wants 10ms at least, or 0 for no redelivery")
	case c.QueueDepth <= 0:
		return component.Invalid("queueDepth", "must be positive, not %d", c.QueueDepth)
	case c.Concurrency <= 0:
		return component.Invalid("concurrency", "must be positive, not %d", c.Concurrency)
	case c.MaxLenApprox < 0:
		return component.Invalid("maxLenApprox", "must not be negative")
	case c.StreamTTL < 0:
		return component.Invalid("streamTTL", "must not be negative")
	case c.MaxLenApprox > 0 && c.StreamTTL > 0:
		return component.Invalid("streamTTL", "and maxLenApprox exclude each other: Redis trims a stream by one of them")
	}
	return c.Config.Validate()
}

// redelivers reports whether messages come again.
func (c PubSubConfig) redelivers() bool { return c.ProcessingTimeout > 0 && c.RedeliverInterval > 0 }

// PubSub is a pubsub.Driver and a pubsub.BulkPublisher.
type PubSub struct {
	cfg    PubSubConfig
	client *client
	log    *slog.Logger

	closing sync.Once
	closed  chan struct{}
}

// OpenPubSub connects to Redis.
func OpenPubSub(ctx context.Context, cfg PubSubConfig, env component.Env) (*PubSub, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	return &PubSub{cfg: cfg, client: c, log: env.Log, closed: make(chan struct{})}, nil
}

// The fields of a stream entry.
const (
	fieldData     = "data"
	fieldMetadata = "metadata"
)

// Publish implements pubsub.Driver.
func (p *PubSub) Publish(ctx context.Context, m *pubsub.Message) error {
	cmd, err := p.add(m)
	if err != nil {
		return err
	}
	res, err := p.client.do(ctx, cmd)
	if err != nil {
		return p.explain(err)
	}
	return classify(ctx, res.Error())
}

// add builds the command that publishes m.
func (p *PubSub) add(m *pubsub.Message) (rueidis.Completed, error) {
	cmd := p.client.build().Arbitrary("XADD").Keys(m.Topic)
	switch {
	case p.cfg.StreamTTL > 0:
		oldest := time.Now().Add(-p.cfg.StreamTTL.Std()).UnixMilli()
		cmd = cmd.Args("MINID", "~", strconv.FormatInt(oldest, 10))
	case p.cfg.MaxLenApprox > 0:
		cmd = cmd.Args("MAXLEN", "~", strconv.FormatInt(p.cfg.MaxLenApprox, 10))
	}
	cmd = cmd.Args("*", fieldData, rueidis.BinaryString(m.Data))
	if m.Metadata != nil {
		text, err := json.Marshal(m.Metadata)
		if err != nil {
			return rueidis.Completed{}, fault.Wrap(err, fault.Internal, "encode metadata")
		}
		cmd = cmd.Args(fieldMetadata, rueidis.BinaryString(text))
	}
	return cmd.Build(), nil
}

// bulkSize is how many messages are sent together.
const bulkSize = 200

// BulkPublish implements pubsub.BulkPublisher.
func (p *PubSub) BulkPublish(ctx context.Context, messages []*pubsub.Message) []error {
	errs := make([]error, len(messages))
	for start := 0; start < len(messages); start += bulkSize {
		end := min(start+bulkSize, len(messages))
		p.publishTogether(ctx, messages[start:end], errs[start:end])
	}
	return errs
}

func (p *PubSub) publishTogether(ctx context.Context, messages []*pubsub.Message, errs []error) {
	var cmds []rueidis.Completed
	var at []int
	for i, m := range messages {
		cmd, err := p.add(m)
		if errs[i] = err; err == nil {
			cmds, at = append(cmds, cmd), append(at, i)
		}
	}
	if len(cmds) == 0 {
		return
	}
	results, err := p.client.doMulti(ctx, cmds...)
	for j, i := range at {
		if err != nil {
			errs[i] = p.explain(err)
			continue
		}
		errs[i] = classify(ctx, results[j].Error())
	}
}

// explain names an error of a driver that is closed.
func (p *PubSub) explain(err error) error {
	if p.isClosed() {
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
		p.client.close()
	})
	return nil
}

// message turns a stream entry into a delivery.
func (p *PubSub) message(topic, id string, fields map[string]string, attempt int) *pubsub.Delivery {
	d := &pubsub.Delivery{ID: id, Attempt: attempt, Published: publishedAt(id)}
	d.Topic, d.Data = topic, []byte(fields[fieldData])
	if text, ok := fields[fieldMetadata]; ok {
		if err := json.Unmarshal([]byte(text), &d.Metadata); err != nil {
			p.log.Warn("the metadata of a message is not a JSON object of strings and is left out", "topic", topic, "message_id", id)
			d.Metadata = nil
		}
	}
	return d
}

// publishedAt returns the time in the id of an entry, "1526919030474-55", that
// Redis has chosen.
func publishedAt(id string) time.Time {
	for i := range len(id) {
		if id[i] == '-' {
			if ms, err := strconv.ParseInt(id[:i], 10, 64); err == nil {
				return time.UnixMilli(ms)
			}
		}
	}
	return time.Time{}
}
