// Package pubsub is the publish/subscribe building block.
//
// Dialects call [Broker] to publish and give it an [App] to deliver to;
// brokers of all kinds are behind [Driver]. What every message needs, whatever
// the protocol it came in by and whatever the broker it goes through, is here,
// once: the CloudEvents envelope, topic scopes, expiry, routing rules, retries,
// back-off, dead letters, batches and streams.
package pubsub

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Reasons of the errors of this block. A broker that is not open yet is
// Unavailable with component.ReasonNotReady. The first three are for dialects,
// which look components up.
const (
	// ReasonNotConfigured: there is no pub/sub component at all.
	ReasonNotConfigured fault.Reason = "pubsub.not_configured"
	// ReasonNotFound: there is no pub/sub component of that name.
	ReasonNotFound fault.Reason = "pubsub.not_found"
	// ReasonNameEmpty: a request that names no component.
	ReasonNameEmpty fault.Reason = "pubsub.name_empty"
	// ReasonTopicEmpty: a request that names no topic.
	ReasonTopicEmpty fault.Reason = "pubsub.topic_empty"
	// ReasonTopicInvalid: a topic that no broker can have.
	ReasonTopicInvalid fault.Reason = "pubsub.topic_invalid"
	// ReasonForbidden: the scopes do not let the application use the topic.
	ReasonForbidden fault.Reason = "pubsub.forbidden"
	// ReasonMetadata: a metadata entry with a value of the wrong form.
	ReasonMetadata fault.Reason = "pubsub.metadata"
	// ReasonEnvelope: a payload that says it is a CloudEvent and is not.
	ReasonEnvelope fault.Reason = "pubsub.envelope"
	// ReasonMarshalEvents: a bulk request whose entries cannot be told apart.
	ReasonMarshalEvents fault.Reason = "pubsub.marshal_events"
	// ReasonPublish: the broker did not take the message.
	ReasonPublish fault.Reason = "pubsub.publish"
	// ReasonSubscription: a subscription that can never work as it is written.
	ReasonSubscription fault.Reason = "pubsub.subscription"
	// ReasonNotProcessed: the application did not process the event. The
	// inbound policies see it.
	ReasonNotProcessed fault.Reason = "pubsub.not_processed"
	// ReasonNoHandler: the application has nobody to process the event; an App
	// says so.
	ReasonNoHandler fault.Reason = "pubsub.no_handler"
)

// Options say for whom a Broker works and how.
type Options struct {
	// AppID identifies the application: the source of its events, its default
	// consumer group and who the scopes are about.
	AppID string
	// Config is what the block reads from the component's settings.
	Config Config
	// Chains gives the policies around publishes and deliveries.
	Chains policy.Chains
	// Scheduler keeps messages that are not to be delivered yet; nil refuses
	// them.
	Scheduler Scheduler
	// Grace is how long deliveries under way may take to end once a
	// subscription ends; 5 s when zero.
	Grace time.Duration
	// Log receives what happens to deliveries and names the component already;
	// nil discards.
	Log *slog.Logger
}

// Broker is a pub/sub component as dialects see it. It is safe for concurrent
// use.
//
// Every error it returns is classified and names the component.
type Broker struct {
	name   string
	handle *component.Handle[Driver]
	opts   Options
	log    *slog.Logger
	group  string

	publishing, subscribing permissions

	publish, bulkPublish *policy.Operation
	browse               *policy.Operation
	deliver, deliverBulk *policy.Operation

	publishes sync.Pool // of *publishCall

	succession *succession
}

// New returns a Broker on the driver that h opens.
func New(h *component.Handle[Driver], o Options) *Broker {
	if o.Chains == nil {
		o.Chains = policy.None{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Grace == 0 {
		o.Grace = 5 * time.Second
	}
	group := o.Config.ConsumerID
	if group == "" {
		group = o.AppID
	}
	if group == "" {
		group = "proa"
	}
	out, in := o.Chains.Component(Block, h.Name(), false), o.Chains.Component(Block, h.Name(), true)
	op := func(name string, inbound bool) policy.Op {
		return policy.Op{Block: Block, Component: h.Name(), Name: name, Inbound: inbound}
	}
	return &Broker{
		name: h.Name(), handle: h, opts: o, log: o.Log, group: group,
		publishing:  permissionsFor(o.AppID, o.Config.PublishingScopes, o.Config),
		subscribing: permissionsFor(o.AppID, o.Config.SubscriptionScopes, o.Config),
		publish:     out.Bind(op("publish", false)),
		bulkPublish: out.Bind(op("bulk_publish", false)),
		browse:      out.Bind(op("browse", false)),
		deliver:     in.Bind(op("deliver", true)),
		deliverBulk: in.Bind(op("bulk_deliver", true)),
		succession:  newSuccession(),
	}
}

// Name returns the name of the component.
func (b *Broker) Name() string { return b.name }

// PublishRequest publishes one message.
type PublishRequest struct {
	Topic string
	Data  []byte
	// ContentType describes Data; "text/plain" when empty. With
	// ContentTypeCloudEvents Data is an envelope already.
	ContentType string
	// Metadata goes to the driver and to subscribers as it is. The block reads
	// from it rawPayload, ttlInSeconds, cloudevent.<attribute>, the key of the
	// message (partitionKey or orderingKey), and when to deliver it (deliverAt,
	// or delayInSeconds with the alias deliverAfter; see Scheduler). It is not
	// changed, and must not change after the call. May be nil.
	Metadata map[string]string
	// Key is the key of the message when Metadata has none.
	Key string
	// TraceParent and TraceState are the W3C trace context of the publish.
	TraceParent, TraceState string
}

// MayPublish says why the application may not publish to a topic; nil when it
// may.
func (b *Broker) MayPublish(topic string) error {
	return b.checkTopic(topic, &b.publishing, "publish to")
}

// Publish wraps r.Data in an envelope, unless rawPayload forbids it, and
// returns once the broker answers for it or, when the metadata ask for it to be
// delivered later, the scheduler does. The broker does not keep r.Data.
func (b *Broker) Publish(ctx context.Context, r *PublishRequest) error {
	_, err := b.PublishLater(ctx, r, time.Time{})
	return err
}

// PublishLater is Publish for a message that is delivered at the given time at
// the earliest, if that is not zero. It returns an id by which the scheduler
// knows the message, or "" when it was published at once.
func (b *Broker) PublishLater(ctx context.Context, r *PublishRequest, at time.Time) (id string, err error) {
	if err := b.checkTopic(r.Topic, &b.publishing, "publish to"); err != nil {
		return "", err
	}
	m, due, err := b.message(ctx, r, at)
	switch {
	case err != nil:
	case due.IsZero():
		err = b.publishMessage(ctx, m)
	default:
		id, err = b.keep(ctx, m, due)
	}
	return id, b.explain(err, "publish to", r.Topic)
}

// publishCall is a Publish under way: one value instead of a closure per layer.
// It is used again: nobody has it once Run has returned.
type publishCall struct {
	policy.Call
	run     func(context.Context) error // do
	broker  *Broker
	message *Message
}

func (c *publishCall) do(ctx context.Context) error {
	d, err := c.broker.handle.Get(ctx)
	if err != nil {
		return err
	}
	return d.Publish(ctx, c.message)
}

// publishMessage is Publish from the policies on.
func (b *Broker) publishMessage(ctx context.Context, m *Message) error {
	c, ok := b.publishes.Get().(*publishCall)
	if !ok {
		c = &publishCall{broker: b}
		c.run = c.do
	}
	c.message = m
	// At least once is the promise, so a message whose fate is not known may
	// be published again.
	c.Key, c.Bytes, c.Idempotent = m.Topic, len(m.Data), true
	err := b.publish.Run(ctx, &c.Call, c.run)
	*c = publishCall{broker: b, run: c.run}
	b.publishes.Put(c)
	if err != nil && fault.ReasonOf(err) == "" {
		return fault.Wrap(err, fault.CodeOf(err), "").WithReason(ReasonPublish)
	}
	return err
}

// message turns a request into what the driver gets, and says when it is to be
// delivered; zero for now.
func (b *Broker) message(ctx context.Context, r *PublishRequest, at time.Time) (*Message, time.Time, error) {
	o, err := readOptions(r.Metadata)
	if err != nil {
		return nil, at, err
	}
	now := time.Now()
	due, err := o.due(now, at)
	if err != nil {
		return nil, at, err
	}
	m := &Message{Topic: r.Topic, Key: cmp.Or(o.key, r.Key), TTL: o.ttl, Metadata: r.Metadata}
	if !due.IsZero() {
		m.Metadata = withoutDelay(r.Metadata)
	}
	if o.raw {
		m.Data, m.ContentType = bytes.Clone(r.Data), r.ContentType
		m.Metadata = withTrace(m.Metadata, r.TraceParent, r.TraceState)
		return m, due, nil
	}
	v := envelope{
		appID: b.opts.AppID, component: b.name, topic: r.Topic, now: now, due: due,
		traceParent: r.TraceParent, traceState: r.TraceState,
	}
	if o.ttl > 0 {
		d, err := b.handle.Get(ctx)
		if err != nil {
			return nil, due, err
		}
		v.expires = !discardsExpired(d)
	}
	m.ContentType = ContentTypeCloudEvents
	if isType(r.ContentType, ContentTypeCloudEvents) {
		m.Data, err = v.passThrough(r.Data, &o)
		return m, due, err
	}
	m.Data = v.wrap(r.Data, r.ContentType, &o)
	return m, due, nil
}

// withTrace adds the trace that a message without an envelope was published in to
// its metadata, where it travels as the broker can.
func withTrace(metadata map[string]string, parent, state string) map[string]string {
	if parent == "" || metadata[attrTraceParent] != "" {
		return metadata
	}
	out := make(map[string]string, len(metadata)+2)
	maps.Copy(out, metadata)
	out[attrTraceParent] = parent
	if state != "" {
		out[attrTraceState] = state
	}
	return out
}

func discardsExpired(d Driver) bool {
	t, ok := d.(TTLer)
	return ok && t.DiscardsExpired()
}

// checkTopic refuses a topic that there cannot be or that the application may
// not use.
func (b *Broker) checkTopic(topic string, p *permissions, doing string) error {
	if problem, reason := topicProblem(topic); problem != "" {
		return fault.New(fault.InvalidArgument, "pubsub %q: %s", b.name, problem).WithReason(reason)
	}
	if !p.permit(topic) {
		return fault.New(fault.PermissionDenied, "pubsub %q: application %q is not allowed to %s topic %q", b.name, b.opts.AppID, doing, topic).
			WithReason(ReasonForbidden)
	}
	return nil
}

// explain adds to an error which component and topic it is about. It returns
// nil for nil.
func (b *Broker) explain(err error, doing, topic string) error {
	if err == nil {
		return nil
	}
	about := fmt.Sprintf("pubsub %q: %s topic %q", b.name, doing, topic)
	return fault.Wrap(err, fault.CodeOf(err), "%s", about)
}
