package mqtt

import (
	"context"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// BindingConfig configures a binding to a topic of a broker that speaks MQTT
// 3.1.1.
type BindingConfig struct {
	Server
	// Topic is where messages go that name no other, and where events come
	// from: then it may have the wildcards + and #, or begin with
	// $share/group/.
	Topic string `setting:"topic,required"`
	// ConsumerID makes the client id: consumerID-consumer for events. A broker
	// hangs up on a client when another one of the same id comes: where an
	// application has several instances each needs an id of its own, such as
	// "{uuid}".
	ConsumerID string `setting:"consumerID,required"`
	// Retain has the broker keep the last message of each topic for those who
	// subscribe later. The metadata of a message may say otherwise.
	Retain bool `setting:"retain"`
	// CleanSession has the broker forget the client, and the events it has not
	// processed, when it is gone.
	CleanSession bool `setting:"cleanSession"`
	// BackOff has no effect because events are tried again until they are
	// processed, later and later.
	BackOff string `setting:"backOffMaxRetries"`
	// QoS has no effect: the quality of service is 1, unless the metadata of a
	// message says otherwise.
	QoS string `setting:"qos"`
}

// Validate reports settings that can never work.
func (c BindingConfig) Validate() error {
	if _, err := parseFilter(c.Topic); err != nil {
		return component.Invalid("topic", "%s", fault.Message(err))
	}
	if !presentable(c.ConsumerID) {
		return component.Invalid("consumerID", "is no client id of MQTT")
	}
	return c.pubSub().Validate()
}

// pubSub returns the broker that the binding stands on.
func (c BindingConfig) pubSub() PubSubConfig {
	p := pubSubDefaults()
	p.Server, p.ConsumerID, p.Retain, p.CleanSession = c.Server, c.ConsumerID, c.Retain, c.CleanSession
	return p
}

// Binding is a binding.Output and a binding.Input.
type Binding struct {
	cfg    BindingConfig
	broker *PubSub
}

// OpenBinding connects to the broker.
func OpenBinding(ctx context.Context, cfg BindingConfig, env component.Env) (*Binding, error) {
	p, err := OpenPubSub(ctx, cfg.pubSub(), env)
	if err != nil {
		return nil, err
	}
	return &Binding{cfg, p}, nil
}

// Close implements io.Closer.
func (b *Binding) Close() error { return b.broker.Close() }

// opCreate publishes a message.
const opCreate = "create"

// metaTopic names the topic of a message, or of an event.
const metaTopic = "topic"

// Operations implements binding.Output.
func (b *Binding) Operations() []string { return []string{opCreate} }

// Invoke implements binding.Output.
func (b *Binding) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if r.Operation != opCreate {
		return binding.Response{}, fault.New(fault.InvalidArgument, "there is no operation %q; there is %s", r.Operation, opCreate)
	}
	topic := lookup(r.Metadata, metaTopic)
	if topic == "" {
		topic = b.cfg.Topic
	}
	return binding.Response{}, b.broker.Publish(ctx, &pubsub.Message{Topic: topic, Data: r.Data, Metadata: r.Metadata})
}

// Back-off between deliveries of an event that fails.
const (
	firstRedelivery = 500 * time.Millisecond
	lastRedelivery  = 30 * time.Second
)

// Listen implements binding.Input. Events come in the order of their topic; one
// that fails is delivered again later, while others go on.
func (b *Binding) Listen(ctx context.Context, handle binding.Handler) error {
	s := pubsub.Subscription{Topic: b.cfg.Topic, Group: b.cfg.ConsumerID + "-consumer", MaxInFlight: 1}
	err := b.broker.Subscribe(ctx, s, func(ctx context.Context, d *pubsub.Delivery) error {
		err := handle(ctx, binding.Event{Data: d.Data, Metadata: map[string]string{metaTopic: d.Topic}})
		if err == nil {
			return nil
		}
		wait := min(firstRedelivery<<min(d.Attempt-1, 10), lastRedelivery)
		return fault.Wrap(err, fault.Unavailable, "the event").WithRetryAfter(max(wait, fault.RetryAfterOf(err)))
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
