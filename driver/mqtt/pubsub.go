package mqtt

import (
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// PubSubConfig configures a message broker that speaks MQTT 3.1.1.
//
// Topics of subscriptions may have the wildcards + and #, and may begin with
// $share/group/, which brokers take for a group whose members share the
// messages. Without that every client gets every message.
//
// What is published before a client has subscribed for the first time is lost
// to it. Afterwards the broker keeps messages of QoS 1 and 2 for it while it is
// away, unless cleanSession is true. MQTT has no place for metadata, and no
// way to give a message back: one that fails is processed again by the same
// client, while others go on, until it succeeds. Messages of a topic come in
// the order they were published as long as none fails and concurrencyMode is
// single.
type PubSubConfig struct {
	Server
	// ConsumerID is the client id of subscriptions; the id of the application
	// when empty. A broker hangs up on a client when another one of the same id
	// comes: where an application has several instances each needs an id of its
	// own, such as "{uuid}", and topics that begin with $share/group/ if the
	// instances are to share the messages.
	ConsumerID string `setting:"consumerID"`
	// ProducerID is the client id that messages are published by. By default
	// it is one that nobody else has.
	ProducerID string `setting:"producerID"`
	// QoS is the quality of service of messages and subscriptions: 0 for
	// messages that may be lost, 1 for messages that are delivered once at
	// least, 2 for once if the connection lasts. The metadata of a message may
	// say otherwise.
	QoS int `setting:"qos"`
	// Retain has the broker keep the last message of each topic for those who
	// subscribe later. The metadata of a message may say otherwise.
	Retain bool `setting:"retain"`
	// CleanSession has the broker forget the client, and what it has not
	// processed, when it is gone.
	CleanSession bool `setting:"cleanSession"`
	// Concurrency is "parallel" to process up to 100 messages of a
	// subscription at a time, or "single" for one after the other. Brokers send
	// no more when too many are not acknowledged: 20 with Mosquitto, unless it
	// is told otherwise. Those that failed and wait for their next try count.
	Concurrency string `setting:"concurrencyMode"`
	// BackOff has no effect because messages are tried again until they are
	// processed, later and later.
	BackOff string `setting:"backOffMaxRetries"`
}

// Values of concurrencyMode, and how many messages are processed at a time.
const (
	concurrencySingle   = "single"
	concurrencyParallel = "parallel"
	parallelLimit       = 100
)

func pubSubDefaults() PubSubConfig {
	return PubSubConfig{QoS: 1, Concurrency: concurrencyParallel}
}

// Validate reports settings that can never work.
func (c PubSubConfig) Validate() error {
	switch {
	case c.QoS < 0 || c.QoS > 2:
		return component.Invalid("qos", "wants 0, 1 or 2, not %d", c.QoS)
	case c.ProducerID != "" && c.ProducerID == c.ConsumerID:
		return component.Invalid("producerID", "must differ from the consumerID: a broker lets only one of them be connected")
	case !strings.EqualFold(c.Concurrency, concurrencySingle) && !strings.EqualFold(c.Concurrency, concurrencyParallel):
		return component.Invalid("concurrencyMode", "wants %q or %q", concurrencyParallel, concurrencySingle)
	}
	_, err := c.target()
	return err
}

// limit returns how many messages a subscription processes at a time.
func (c PubSubConfig) limit(asked int) int {
	switch {
	case asked > 0:
		return asked
	case strings.EqualFold(c.Concurrency, concurrencySingle):
		return 1
	}
	return parallelLimit
}

// PubSub is a pubsub.Driver and a pubsub.Forgetter.
type PubSub struct {
	cfg      PubSubConfig
	target   target
	log      *slog.Logger
	producer *link
	// orphanWait is how long messages wait for who may come for them.
	orphanWait time.Duration

	mu       sync.Mutex
	sessions map[string]*session // by group

	closing sync.Once
	closed  chan struct{}
}

// OpenPubSub connects to the broker.
func OpenPubSub(ctx context.Context, cfg PubSubConfig, env component.Env) (*PubSub, error) {
	t, err := cfg.target()
	if err != nil {
		return nil, err
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	p := &PubSub{cfg: cfg, target: t, log: env.Log, orphanWait: orphanWait, sessions: map[string]*session{}, closed: make(chan struct{})}
	p.producer = newLink(t, hello{clientID: cmp.Or(cfg.ProducerID, uniqueID(cmp.Or(cfg.ConsumerID, env.AppID), "producer")), cleanSession: true})
	if _, err := p.producer.get(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// uniqueID returns a client id that nobody else has.
func uniqueID(owner, role string) string {
	return cmp.Or(owner, "proa") + "-" + role + "-" + strings.ToLower(rand.Text()[:8])
}

// Forgets implements pubsub.Forgetter.
func (p *PubSub) Forgets() bool { return true }

// The metadata of a message, or of a subscription, that this driver reads.
const (
	metaRetain             = "retain"
	metaQoS                = "qos"
	metaUnsubscribeOnClose = "unsubscribeOnClose"
)

// Publish implements pubsub.Driver.
func (p *PubSub) Publish(ctx context.Context, m *pubsub.Message) error {
	out, err := encode(m.Topic, m.Data, m.Metadata, packets.FixedHeader{Qos: byte(p.cfg.QoS), Retain: p.cfg.Retain}) //nolint:gosec // Validate bounds it
	if err != nil {
		return err
	}
	c, err := p.producer.get(ctx)
	if err == nil {
		err = c.publish(ctx, out)
	}
	return p.explain(err)
}

// encode returns a packet that publishes a message, with what the metadata says
// in place of the defaults.
func encode(topic string, data []byte, metadata map[string]string, defaults packets.FixedHeader) (*packets.PublishPacket, error) {
	out := &packets.PublishPacket{FixedHeader: defaults, TopicName: topic, Payload: data}
	out.MessageType = packets.Publish
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	if most := maxLength - len(topic) - 4; len(data) > most {
		return nil, fault.New(fault.InvalidArgument, "the message has %d bytes; MQTT takes %d at most", len(data), most)
	}
	if text := lookup(metadata, metaRetain); text != "" {
		retain, err := strconv.ParseBool(text)
		if err != nil {
			return nil, invalid(metaRetain, "wants true or false", text)
		}
		out.Retain = retain
	}
	if text := lookup(metadata, metaQoS); text != "" {
		qos, err := strconv.ParseUint(text, 10, 8)
		if err != nil || qos > 2 {
			return nil, invalid(metaQoS, "wants 0, 1 or 2", text)
		}
		out.Qos = byte(qos)
	}
	return out, nil
}

// invalid is an error about the metadata of a subscription or a message.
func invalid(name, wants, text string) error {
	return fault.New(fault.InvalidArgument, "metadata %s %s, not %q", name, wants, text)
}

// lookup finds a metadata entry without regard to the case of its name.
func lookup(metadata map[string]string, name string) string {
	if v, ok := metadata[name]; ok {
		return v
	}
	for k, v := range metadata {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
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
		p.producer.close()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, s := range p.sessions {
			s.link.close()
		}
	})
	return nil
}

// session returns the session of a group.
func (p *PubSub) session(group string) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sessions[group]
	if s == nil {
		s = newSession(p, group)
		p.sessions[group] = s
	}
	return s
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
	f, err := parseFilter(s.Topic)
	if err != nil {
		return err
	}
	if !presentable(s.Group) {
		return fault.New(fault.InvalidArgument, "the consumerID %q is no client id of MQTT", s.Group)
	}
	leaves := p.cfg.CleanSession
	if text := lookup(s.Metadata, metaUnsubscribeOnClose); text != "" && !leaves {
		if leaves, err = strconv.ParseBool(text); err != nil {
			return invalid(metaUnsubscribeOnClose, "wants true or false", text)
		}
	}
	if p.isClosed() {
		return errBrokerClosed()
	}
	limit := p.cfg.limit(s.MaxInFlight)
	c := &consumer{
		filter: f, leaves: leaves, handle: handle, ctx: context.WithoutCancel(ctx), closed: p.closed,
		limit: limit, arrived: make(chan struct{}, 1), done: make(chan *job, limit),
	}
	at := p.session(s.Group)
	if err := at.join(ctx, c); err != nil {
		return err
	}
	if s.Established != nil {
		s.Established()
	}
	err = c.loop(ctx)
	c.finish()
	at.leave(c)
	return err
}
