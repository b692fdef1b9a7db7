package nats

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// PubSubConfig configures a message broker on the engine, or on a NATS server.
//
// Each topic has a stream of its own, made when it is first used, and each
// consumer group a durable pull consumer on it. A stream costs the server some
// 0.2 MB of memory. It keeps messages, processed or not, until maxAge,
// maxMessages or maxBytes is reached; then the oldest go.
//
// On a server that the component names, a stream that somebody else has made
// for the topic as a subject is used as it is, and so is the one that
// streamName names. There a subscription may be to several subjects by
// wildcards, "orders.*" or "orders.>".
type PubSubConfig struct {
	Server
	// Name is what the server shows the connection as; the id of the
	// application when empty.
	Name string `setting:"name"`

	// MaxAge is how long messages are kept.
	MaxAge component.Duration `setting:"maxAge"`
	// MaxMessages bounds how many messages of a topic are kept.
	MaxMessages int64 `setting:"maxMessages"`
	// MaxBytes bounds how many bytes of a topic are kept; 0 for no bound. The
	// server sets so much of its storage aside for every topic.
	MaxBytes component.Size `setting:"maxBytes"`
	// MemoryStorage keeps messages in the memory of the server only.
	MemoryStorage bool `setting:"memoryStorage"`

	// StreamName names a stream that others look after. Topics are then
	// subjects of that stream.
	StreamName string `setting:"streamName"`
	// DurableName names the durable consumer; by default it has the name of
	// the consumer group. Give it only where there is one topic.
	DurableName string `setting:"durableName"`
	// QueueGroupName is another name for the consumer group.
	QueueGroupName string `setting:"queueGroupName"`
	// Domain is the JetStream domain of the stream, across leaf nodes.
	Domain string `setting:"domain"`
	// APIPrefix is the prefix of the JetStream API in another account.
	APIPrefix string `setting:"apiPrefix"`

	// DeliverPolicy says what a new group begins with: "all" messages that
	// there are, the "last", only "new" ones, those from a "sequence"
	// (startSequence) or from a "time" (startTime) on.
	DeliverPolicy string `setting:"deliverPolicy"`
	// StartSequence is where deliverPolicy "sequence" begins.
	StartSequence uint64 `setting:"startSequence"`
	// StartTime is where deliverPolicy "time" begins, in seconds since 1970.
	StartTime int64 `setting:"startTime"`

	// AckWait is how long a consumer may be silent before its messages are
	// delivered to another. While the application is at work on a message the
	// server hears of it every third of that time, so it bounds how long the
	// messages of a sidecar that was killed are away, not how long the
	// application may take.
	AckWait component.Duration `setting:"ackWait"`
	// MaxDeliver bounds how often the server delivers a message; 0 for no
	// bound. A message that reaches it is not delivered any more and not
	// dead-lettered.
	MaxDeliver int `setting:"maxDeliver"`
	// BackOff replaces ackWait by one wait for each delivery: "1s, 5s, 30s".
	BackOff durations `setting:"backOff"`
	// MaxAckPending bounds how many messages of a group may be unacknowledged;
	// 0 for no bound but the concurrency of its consumers.
	MaxAckPending int `setting:"maxAckPending"`
	// Concurrency is how many messages of a subscription are processed at a
	// time: a number, "single" for 1 or "parallel" for 100.
	Concurrency concurrency `setting:"concurrency"`

	IgnoredPubSub
}

// IgnoredPubSub are settings accepted for compatibility.
type IgnoredPubSub struct {
	// FlowControl has no effect because consumers ask for what they can take.
	FlowControl string `setting:"flowControl"`
	// RateLimit is refused unless it is 0, as consumers ask for what they can
	// take; concurrency bounds them.
	RateLimit string `setting:"rateLimit"`
	// Heartbeat has no effect because the driver chooses it.
	Heartbeat string `setting:"heartbeat"`
	// AckPolicy has no effect because every message is acknowledged by itself.
	AckPolicy string `setting:"ackPolicy"`
}

// durations is a list of durations, separated by commas.
type durations []time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *durations) UnmarshalText(text []byte) error {
	*d = nil
	for part := range strings.SplitSeq(strings.Trim(string(text), "[] "), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		var one component.Duration
		if err := one.UnmarshalText([]byte(part)); err != nil || one <= 0 {
			return fmt.Errorf(`wants durations such as "1s, 5s, 30s"`)
		}
		*d = append(*d, one.Std())
	}
	return nil
}

// concurrency is how many messages are processed at a time.
type concurrency int

const parallel concurrency = 100

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *concurrency) UnmarshalText(text []byte) error {
	switch word := strings.ToLower(strings.TrimSpace(string(text))); word {
	case "", "parallel":
		*c = parallel
	case "single":
		*c = 1
	default:
		n, err := strconv.Atoi(word)
		if err != nil || n <= 0 {
			return fmt.Errorf(`wants "single", "parallel" or a positive number`)
		}
		*c = concurrency(n)
	}
	return nil
}

func pubSubDefaults() PubSubConfig {
	return PubSubConfig{
		MaxAge: component.Duration(7 * 24 * time.Hour), MaxMessages: 1_000_000,
		DeliverPolicy: "all", AckWait: component.Duration(5 * time.Second), Concurrency: parallel,
	}
}

// jetStreamDefaults are those of a component that Dapr's is to be read as.
func jetStreamDefaults() PubSubConfig {
	c := pubSubDefaults()
	c.Concurrency = 1
	return c
}

// Validate reports settings that can never work.
func (c PubSubConfig) Validate() error {
	switch {
	case c.RateLimit != "" && c.RateLimit != "0":
		return component.Invalid("rateLimit", "is not supported: consumers ask for what they can take; bound their concurrency instead")
	case c.MaxAge < 0 || c.MaxAge > 0 && c.MaxAge.Std() < 100*time.Millisecond:
		return component.Invalid("maxAge", "wants 100ms at least, or 0 for no bound")
	case c.MaxMessages < 0:
		return component.Invalid("maxMessages", "must not be negative")
	case c.AckWait.Std() < 100*time.Millisecond:
		return component.Invalid("ackWait", "wants 100ms at least")
	case c.MaxDeliver < 0 && c.MaxDeliver != -1:
		return component.Invalid("maxDeliver", "must not be negative")
	case len(c.BackOff) > 0 && c.MaxDeliver > 0 && c.MaxDeliver <= len(c.BackOff):
		return component.Invalid("backOff", "has %d waits, which wants a maxDeliver greater than that", len(c.BackOff))
	case c.MaxAckPending < -1:
		return component.Invalid("maxAckPending", "must not be negative")
	case c.Domain != "" && c.APIPrefix != "":
		return component.Invalid("domain", "and apiPrefix exclude each other")
	case c.DeliverPolicy == "sequence" && c.StartSequence == 0:
		return component.Invalid("startSequence", "is required with deliverPolicy sequence")
	case c.DeliverPolicy == "time" && c.StartTime <= 0:
		return component.Invalid("startTime", "is required with deliverPolicy time")
	}
	if _, ok := deliverPolicy(c.DeliverPolicy); !ok {
		return component.Invalid("deliverPolicy", "wants all, last, new, sequence or time")
	}
	for _, name := range []struct{ setting, value string }{{"streamName", c.StreamName}, {"durableName", c.DurableName}} {
		if strings.ContainsAny(name.value, " .*>/\\\t\r\n") {
			return component.Invalid(name.setting, "must not have blanks, dots, slashes, * or > in it")
		}
	}
	return c.Server.Validate()
}

func deliverPolicy(name string) (jetstream.DeliverPolicy, bool) {
	switch strings.ToLower(name) {
	case "", "all":
		return jetstream.DeliverAllPolicy, true
	case "last":
		return jetstream.DeliverLastPolicy, true
	case "new":
		return jetstream.DeliverNewPolicy, true
	case "sequence":
		return jetstream.DeliverByStartSequencePolicy, true
	case "time":
		return jetstream.DeliverByStartTimePolicy, true
	}
	return 0, false
}

// PubSub is a pubsub.Driver and a pubsub.BulkPublisher. It does not promise the
// order of messages with the same key, because several consumers of a group,
// or several messages at a time, may overtake each other; with a concurrency
// of 1 and one consumer messages come in order until one fails.
type PubSub struct {
	connection
	cfg       PubSubConfig
	namespace string
	log       *slog.Logger

	closing sync.Once
	closed  chan struct{}

	topics sync.Map // of *place by topic

	mu      sync.Mutex
	foreign map[*engine.Conn]jetstream.JetStream // with domain or prefix
}

// Forgets implements pubsub.Forgetter: a group that begins with new messages, or
// with the last one, does not get what is there already.
func (p *PubSub) Forgets() bool {
	policy, _ := deliverPolicy(p.cfg.DeliverPolicy)
	return policy == jetstream.DeliverNewPolicy || policy == jetstream.DeliverLastPolicy
}

// OpenPubSub uses shared unless cfg names a server.
func OpenPubSub(ctx context.Context, shared *engine.Engine, cfg PubSubConfig, env component.Env) (*PubSub, error) {
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	as := env
	if cfg.Name != "" {
		as.AppID = cfg.Name
	}
	c, err := cfg.connect(ctx, shared, as)
	if err != nil {
		return nil, err
	}
	return &PubSub{
		connection: c, cfg: cfg, namespace: env.Namespace, log: env.Log, closed: make(chan struct{}),
		foreign: map[*engine.Conn]jetstream.JetStream{},
	}, nil
}

// jetstream returns the JetStream handle for c.
func (p *PubSub) jetstream(c *engine.Conn) (jetstream.JetStream, error) {
	if p.cfg.Domain == "" && p.cfg.APIPrefix == "" {
		return c.JetStream(), nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if js := p.foreign[c]; js != nil {
		return js, nil
	}
	js, err := p.newJetStream(c)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "the domain or API prefix cannot be used")
	}
	p.foreign[c] = js
	return js, nil
}

func (p *PubSub) newJetStream(c *engine.Conn) (jetstream.JetStream, error) {
	if p.cfg.Domain != "" {
		return jetstream.NewWithDomain(c.NATS(), p.cfg.Domain)
	}
	return jetstream.NewWithAPIPrefix(c.NATS(), p.cfg.APIPrefix)
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

// Close implements pubsub.Driver. An engine that is shared stays open.
func (p *PubSub) Close() error {
	p.closing.Do(func() {
		close(p.closed)
		p.stop()
	})
	return nil
}
