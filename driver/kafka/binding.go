package kafka

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// BindingConfig configures a binding to Kafka.
//
// The operation create publishes the data to publishTopic, with the metadata as
// headers; partitionKey and partitionNumber say where to. Its response has the
// metadata __topic, __partition and __offset. Events are the messages of
// topics; their metadata are the headers, and __key, __topic, __partition,
// __offset and __timestamp as with pub/sub. An event that the application does
// not take comes again, and holds back those behind it as ordering says.
type BindingConfig struct {
	Config
	// Topics are those that bring events, separated by commas.
	Topics []string `setting:"topics"`
	// PublishTopic is where the operation create publishes.
	PublishTopic string `setting:"publishTopic"`
	// ConsumerID is the consumer group when consumerGroup is not set; the id
	// of the application when empty.
	ConsumerID string `setting:"consumerID"`
}

func bindingDefaults() BindingConfig { return BindingConfig{Config: defaults()} }

// Validate reports settings that can never work.
func (c BindingConfig) Validate() error {
	if len(c.Topics) == 0 && c.PublishTopic == "" {
		return component.Invalid("topics", "or publishTopic is required: what to listen to, or where to publish")
	}
	return c.Config.Validate()
}

// group returns the consumer group.
func (c BindingConfig) group(appID string) string {
	for _, name := range []string{c.ConsumerGroup, c.ConsumerID, appID} {
		if name != "" {
			return name
		}
	}
	return "proa"
}

// opCreate is the operation of the binding.
const opCreate = "create"

// Binding is a binding.Output and a binding.Input.
type Binding struct {
	cfg    BindingConfig
	net    network
	env    component.Env
	log    *slog.Logger
	format format
	out    *producer

	closing sync.Once
	closed  chan struct{}
}

// OpenBinding connects to Kafka.
func OpenBinding(ctx context.Context, cfg BindingConfig, env component.Env) (*Binding, error) {
	return openBinding(ctx, cfg, usualNetwork(), env)
}

func openBinding(ctx context.Context, cfg BindingConfig, net network, env component.Env) (*Binding, error) {
	f, err := cfg.format()
	if err != nil {
		return nil, err
	}
	out, err := newProducer(ctx, cfg.Config, net, env)
	if err != nil {
		return nil, err
	}
	return &Binding{cfg: cfg, net: net, env: env, log: logger(env), format: f, out: out, closed: make(chan struct{})}, nil
}

// Operations implements binding.Output.
func (b *Binding) Operations() []string { return []string{opCreate} }

// Invoke implements binding.Output.
func (b *Binding) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	switch {
	case r.Operation != opCreate:
		return binding.Response{}, fault.New(fault.InvalidArgument, "there is no operation %q; there is %s", r.Operation, opCreate)
	case b.cfg.PublishTopic == "":
		return binding.Response{}, fault.New(fault.FailedPrecondition, "the binding has no publishTopic to publish to")
	case b.isClosed():
		return binding.Response{}, errClosed()
	}
	m := &pubsub.Message{Data: r.Data, Metadata: r.Metadata, Key: keyOf(r.Metadata)}
	stored, err := b.out.publish(ctx, b.cfg.PublishTopic, func(name string) (*kgo.Record, error) { return b.format.record(name, m) })
	if err != nil {
		return binding.Response{}, err
	}
	return binding.Response{Metadata: map[string]string{
		metaTopic: stored.Topic, metaPartition: strconv.Itoa(int(stored.Partition)), metaOffset: strconv.FormatInt(stored.Offset, 10),
	}}, nil
}

// keyOf returns the key that metadata ask for.
func keyOf(metadata map[string]string) string {
	for _, want := range [...]string{"partitionKey", metaKey} {
		for name, value := range metadata {
			if value != "" && strings.EqualFold(name, want) {
				return value
			}
		}
	}
	return ""
}

// Listen implements binding.Input.
func (b *Binding) Listen(ctx context.Context, handle binding.Handler) error {
	err := b.listen(ctx, handle)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case b.isClosed():
		return errClosed()
	}
	return err
}

func (b *Binding) listen(ctx context.Context, handle binding.Handler) error {
	if b.isClosed() || ctx.Err() != nil {
		return nil
	}
	if len(b.cfg.Topics) == 0 {
		b.log.WarnContext(ctx, "the binding has no topics to listen to; set topics, or direction to output")
		select {
		case <-ctx.Done():
		case <-b.closed:
		}
		return nil
	}
	names := make([]string, len(b.cfg.Topics))
	places := make([]*place, len(b.cfg.Topics))
	for i, topic := range b.cfg.Topics {
		at, err := b.out.topics.find(ctx, topic)
		if err != nil {
			return err
		}
		names[i], places[i] = at.name, at
	}
	err := consume(ctx, consumption{
		cfg: b.cfg.Config, net: b.net, env: b.env, log: b.log, closed: b.closed,
		group: b.cfg.group(b.env.AppID), topics: names,
		handle: func(ctx context.Context, r *kgo.Record, _ int) error {
			return handle(ctx, binding.Event{Data: data(r), Metadata: b.format.metadata(r)})
		},
	})
	if err != nil {
		for i, topic := range b.cfg.Topics {
			b.out.topics.forget(topic, places[i]) // it may have gone
		}
	}
	return err
}

func (b *Binding) isClosed() bool {
	select {
	case <-b.closed:
		return true
	default:
		return false
	}
}

// Close implements binding.Driver.
func (b *Binding) Close() error {
	b.closing.Do(func() {
		close(b.closed)
		b.out.close()
	})
	return nil
}
