package nats

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// place is where the messages of a topic are.
type place struct {
	stream  string
	subject string
	// own tells that the stream is the topic's alone and that the driver has
	// made it.
	own bool
}

// maxToken bounds the length of an encoded name. Streams and consumers are
// folders on the server's disk.
const maxToken = 128

// encodeToken writes a name of any kind as one token of a subject, which is
// also a name that streams and consumers can have. Letters, digits, - and _
// stand for themselves, and all else is =XX, the byte in hexadecimal. A name
// that is too long, or that differs from another only in the case of its
// letters, which some file systems do not tell apart, ends in = and a hash.
func encodeToken(name string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	upper := name == ""
	for i := range len(name) {
		switch c := name[i]; {
		case 'A' <= c && c <= 'Z':
			upper = true
			b.WriteByte(c)
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			b.WriteByte('=')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	token := b.String()
	if !upper && len(token) <= maxToken {
		return token
	}
	sum := sha256.Sum256([]byte(name))
	return token[:min(len(token), maxToken)] + "=" + hex.EncodeToString(sum[:8])
}

// placeOf returns where the messages of a topic are. It makes the stream when
// there is none.
func (p *PubSub) placeOf(ctx context.Context, topic string) (*place, error) {
	if known, ok := p.topics.Load(topic); ok {
		return known.(*place), nil
	}
	at, err := p.find(ctx, topic, p.makeStream)
	if err != nil {
		return nil, err
	}
	p.topics.Store(topic, at)
	return at, nil
}

// find returns the place of a topic in a stream of somebody else's, or else what
// own returns.
func (p *PubSub) find(ctx context.Context, topic string, own func(context.Context, string) (*place, error)) (*place, error) {
	if p.cfg.StreamName != "" {
		return &place{stream: p.cfg.StreamName, subject: topic}, nil
	}
	if p.cfg.URL != "" && (isSubject(topic) || isPattern(topic)) {
		name, err := p.streamWith(ctx, topic)
		switch {
		case err == nil:
			return &place{stream: name, subject: topic}, nil
		case !fault.Is(err, fault.NotFound):
			return nil, err
		}
	}
	return own(ctx, topic)
}

// isSubject reports whether a topic can be a subject to publish to.
func isSubject(topic string) bool {
	return !strings.ContainsAny(topic, "*>") && !strings.ContainsFunc(topic, func(r rune) bool { return r <= ' ' || r == 0x7f }) &&
		!strings.HasPrefix(topic, ".") && !strings.HasSuffix(topic, ".") && !strings.Contains(topic, "..") && !strings.HasPrefix(topic, "$")
}

// isPattern reports whether a topic stands for several subjects: some of its
// tokens, not the first, are wildcards.
func isPattern(topic string) bool {
	tokens := strings.Split(topic, ".")
	wild := false
	for i, t := range tokens {
		if i > 0 && (t == "*" || t == ">" && i == len(tokens)-1) {
			wild, tokens[i] = true, "x"
		}
	}
	return wild && isSubject(strings.Join(tokens, "."))
}

// streamWith returns the name of the stream that has a subject, or NotFound.
func (p *PubSub) streamWith(ctx context.Context, subject string) (string, error) {
	var name string
	err := p.do(ctx, subject, func(ctx context.Context, js jetstream.JetStream) (err error) {
		name, err = js.StreamNameBySubject(ctx, subject)
		return err
	})
	return name, err
}

// do calls fn with JetStream on the connection for key.
func (p *PubSub) do(ctx context.Context, key string, fn func(context.Context, jetstream.JetStream) error) error {
	c, err := p.engine.ConnFor(ctx, key)
	if err != nil {
		return err
	}
	js, err := p.jetstream(c)
	if err != nil {
		return err
	}
	return c.Do(ctx, func(ctx context.Context) error { return fn(ctx, js) })
}

// ownPlace returns where a topic is that has a stream of its own.
func (p *PubSub) ownPlace(topic string) *place {
	namespace := p.namespace
	if namespace == "" {
		namespace = "default"
	}
	ns, token := encodeToken(namespace), encodeToken(topic)
	return &place{stream: "proa_pubsub_" + ns + "_" + token, subject: "proa.pubsub." + ns + "." + token, own: true}
}

func (p *PubSub) makeStream(ctx context.Context, topic string) (*place, error) {
	at := p.ownPlace(topic)
	cfg := jetstream.StreamConfig{
		Name: at.stream, Description: "topic " + topic, Subjects: []string{at.subject},
		Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxAge: p.cfg.MaxAge.Std(), MaxMsgs: unlimited(p.cfg.MaxMessages), MaxBytes: unlimited(int64(p.cfg.MaxBytes)),
		Replicas: p.cfg.Replicas,
	}
	if p.cfg.MemoryStorage {
		cfg.Storage = jetstream.MemoryStorage
	}
	err := p.stagger(ctx, at.stream, func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.Stream(ctx, at.stream)
		return err
	})
	if err != nil {
		return nil, err
	}
	// Such servers also refuse a stream that somebody else is making at the
	// same time, because of its own subjects.
	const tries, pause = 5, 20 * time.Millisecond
	for n := 1; ; n++ {
		err := p.ensureStream(ctx, cfg)
		if n == tries || !fault.Is(err, fault.AlreadyExists) {
			return at, err
		}
		select {
		case <-ctx.Done():
			return at, err
		case <-time.After(time.Duration(n) * pause):
		}
	}
}

// staggering is over how long the clients of old servers spread what they make.
const staggering = 250 * time.Millisecond

// stagger waits for a random time before something is made that is not there
// yet, on servers of version 2.9: when two clients make the same stream or
// consumer at the very same time, these may leave one behind that swallows
// requests.
func (p *PubSub) stagger(ctx context.Context, key string, look func(context.Context, jetstream.JetStream) error) error {
	if p.engine.Supports(engine.MultipleFilters) {
		return nil
	}
	if err := p.do(ctx, key, look); !fault.Is(err, fault.NotFound) {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(rand.N(staggering)): //nolint:gosec // chance needs no secrecy here
		return nil
	}
}

func (p *PubSub) ensureStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	if p.cfg.Domain == "" && p.cfg.APIPrefix == "" {
		_, err := p.engine.Stream(ctx, cfg)
		return err
	}
	return p.do(ctx, cfg.Name, func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.Stream(ctx, cfg.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			_, err = js.CreateStream(ctx, cfg)
		}
		return err
	})
}

// unlimited turns 0 for no bound into what JetStream takes for it.
func unlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// durable returns the name of the consumer for a group.
func (p *PubSub) durable(group string, at *place) string {
	switch {
	case p.cfg.DurableName != "":
		return p.cfg.DurableName
	case p.cfg.QueueGroupName != "":
		group = p.cfg.QueueGroupName
	}
	if at.own {
		return encodeToken(group)
	}
	// The stream has other subjects too: one consumer for each.
	return encodeToken(group) + "=" + encodeToken(at.subject)
}

// makeConsumer makes the durable consumer of a group, unless there is one, and
// returns its name and how long it lets consumers be silent.
func (p *PubSub) makeConsumer(ctx context.Context, group string, at *place) (string, error) {
	policy, _ := deliverPolicy(p.cfg.DeliverPolicy)
	cfg := jetstream.ConsumerConfig{
		Durable: p.durable(group, at), Description: "group " + group,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: p.cfg.AckWait.Std(), BackOff: p.cfg.BackOff,
		MaxDeliver: int(unlimited(int64(p.cfg.MaxDeliver))), MaxAckPending: int(unlimited(int64(p.cfg.MaxAckPending))),
		DeliverPolicy: policy, MemoryStorage: p.cfg.MemoryStorage,
	}
	switch policy {
	case jetstream.DeliverByStartSequencePolicy:
		cfg.OptStartSeq = p.cfg.StartSequence
	case jetstream.DeliverByStartTimePolicy:
		cfg.OptStartTime = new(time.Unix(p.cfg.StartTime, 0))
	}
	if !at.own {
		cfg.FilterSubject = at.subject
	}
	err := p.stagger(ctx, at.stream, func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.Consumer(ctx, at.stream, cfg.Durable)
		if errors.Is(err, jetstream.ErrNotPullConsumer) {
			return nil // ensureConsumer says so
		}
		return err
	})
	if err == nil {
		err = p.do(ctx, at.stream, func(ctx context.Context, js jetstream.JetStream) error {
			return ensureConsumer(ctx, js, at.stream, cfg)
		})
	}
	if fault.Is(err, fault.NotFound) { // the stream has gone since it was found
		err = fault.Wrap(err, fault.Unavailable, "the stream is gone")
	}
	return cfg.Durable, err
}

// ensureConsumer makes a consumer, or changes the one there is as far as the
// server allows it for one that is in use.
func ensureConsumer(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig) error {
	there, err := js.Consumer(ctx, stream, cfg.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		_, err = js.CreateConsumer(ctx, stream, cfg)
		return err
	}
	if errors.Is(err, jetstream.ErrNotPullConsumer) {
		return fault.New(fault.FailedPrecondition, "the durable consumer %q of stream %q is a push consumer of another program; give another durableName",
			cfg.Durable, stream)
	}
	if err != nil {
		return err
	}
	has := there.CachedInfo().Config
	want := has
	want.AckWait, want.BackOff, want.MaxDeliver, want.MaxAckPending = cfg.AckWait, cfg.BackOff, cfg.MaxDeliver, cfg.MaxAckPending
	if sameWaits(has, want) {
		return nil
	}
	_, err = js.UpdateConsumer(ctx, stream, want)
	return err
}

// sameWaits compares what ensureConsumer may change. With BackOff the server
// sets AckWait to its first wait.
func sameWaits(a, b jetstream.ConsumerConfig) bool {
	if len(a.BackOff) != len(b.BackOff) || a.MaxDeliver != b.MaxDeliver || a.MaxAckPending != b.MaxAckPending {
		return false
	}
	for i := range a.BackOff {
		if a.BackOff[i] != b.BackOff[i] {
			return false
		}
	}
	return len(a.BackOff) > 0 || a.AckWait == b.AckWait
}

// noStream reports whether an error says that no stream has the subject.
func noStream(err error) bool {
	return errors.Is(err, jetstream.ErrNoStreamResponse)
}
