package kafka

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/proa-io/proa/fault"
)

// topics finds out what Kafka calls a topic, and sees to it that it is there.
// It is safe for concurrent use.
type topics struct {
	client     *kgo.Client
	partitions int32 // of topics that we create; 0 to let brokers create them
	replicas   int16
	patience   time.Duration // see creationTime

	known  sync.Map // of *place by topic
	limits sync.Map // of int32, the bytes of a batch, by what Kafka calls the topic
}

// place is a topic that is there.
type place struct {
	name       string // what Kafka calls it
	partitions int32
}

// Bounds of the names of topics that Kafka can have.
const maxName = 249

// creationTime is how long brokers may take to create a topic before they are
// taken not to create topics at all.
const creationTime = 10 * time.Second

// find returns the place of a topic. It creates the topic, or lets the brokers
// do so, when it is not there.
func (t *topics) find(ctx context.Context, topic string) (*place, error) {
	if at, ok := t.known.Load(topic); ok {
		return at.(*place), nil
	}
	name := nameOf(topic)
	at, err := t.await(ctx, name)
	if errors.Is(err, kerr.InvalidTopicException) && name == topic {
		// Brokers refuse a name that differs from another topic's only in that
		// a dot is an underscore: then it goes by a name that none can have.
		at, err = t.await(ctx, derivedName(topic))
	}
	if err != nil {
		return nil, classify(ctx, err)
	}
	t.limit(ctx, at.name)
	t.known.Store(topic, at)
	return at, nil
}

// limit finds out how large the batches of a topic may be, so that those of
// small messages do not get too large. Where brokers do not tell, what
// maxMessageBytes says must do.
func (t *topics) limit(ctx context.Context, name string) {
	const setting = "max.message.bytes"
	configs, err := kadm.NewClient(t.client).DescribeTopicConfigs(ctx, name)
	if err != nil {
		return
	}
	for _, r := range configs {
		for _, c := range r.Configs {
			if c.Key != setting || r.Err != nil {
				continue
			}
			if n, err := strconv.ParseInt(c.MaybeValue(), 10, 32); err == nil && n > 0 {
				t.limits.Store(name, int32(n))
			}
		}
	}
}

// limitOf returns the bytes of a batch of a topic, most at most.
func (t *topics) limitOf(name string, most int32) int32 {
	if n, ok := t.limits.Load(name); ok {
		return max(minMessage, min(n.(int32), most))
	}
	return most
}

// forget makes the next find ask again. It reports false when somebody else has
// done so.
func (t *topics) forget(topic string, at *place) bool { return t.known.CompareAndDelete(topic, at) }

// await returns when the topic is there, every partition with a leader.
func (t *topics) await(ctx context.Context, name string) (*place, error) {
	const firstPause, lastPause = 10 * time.Millisecond, 500 * time.Millisecond
	var begun time.Time
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		partitions, err := t.look(ctx, name)
		switch {
		case err == nil && (begun.IsZero() || time.Since(begun) > t.patience || t.served(ctx, name)):
			return &place{name, partitions}, nil
		case err == nil: // very soon
		case !isBeingCreated(err):
			return nil, err
		case begun.IsZero():
			begun = time.Now()
			if err := t.create(ctx, name); err != nil {
				return nil, err
			}
		case t.partitions == 0 && time.Since(begun) > t.patience:
			return nil, fault.Wrap(err, fault.Unavailable,
				"kafka has no topic %q and its brokers do not create it: create it, or set numPartitions", name)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func isBeingCreated(err error) bool {
	return errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.LeaderNotAvailable)
}

// look returns how many partitions a topic has. Brokers that are set up to
// create topics begin to do so.
func (t *topics) look(ctx context.Context, name string) (int32, error) {
	req := kmsg.NewPtrMetadataRequest()
	one := kmsg.NewMetadataRequestTopic()
	one.Topic = &name
	req.Topics = append(req.Topics, one)
	req.AllowAutoTopicCreation = t.partitions == 0
	resp, err := req.RequestWith(ctx, t.client)
	if err != nil {
		return 0, err
	}
	if len(resp.Topics) != 1 {
		return 0, fault.New(fault.Internal, "kafka answered with %d topics to a question about one", len(resp.Topics))
	}
	found := resp.Topics[0]
	if err := kerr.ErrorForCode(found.ErrorCode); err != nil {
		return 0, err
	}
	for _, p := range found.Partitions {
		if p.Leader < 0 {
			return 0, kerr.LeaderNotAvailable
		}
	}
	if len(found.Partitions) == 0 {
		return 0, kerr.LeaderNotAvailable
	}
	return int32(len(found.Partitions)), nil //nolint:gosec // the protocol counts in int32
}

// served reports whether the partitions of a new topic are served already: a
// broker is said to lead them a little earlier, and clients that find out the
// hard way wait longer than is needed.
func (t *topics) served(ctx context.Context, name string) bool {
	ends, err := kadm.NewClient(t.client).ListEndOffsets(ctx, name)
	return err != nil || ends.Error() == nil
}

// create creates a topic if that is for us to do. If it is for the brokers,
// which do not tell why they do not, it finds out whether they could.
func (t *topics) create(ctx context.Context, name string) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	one := kmsg.NewCreateTopicsRequestTopic()
	one.Topic, one.NumPartitions, one.ReplicationFactor = name, -1, -1
	if t.partitions > 0 {
		one.NumPartitions = t.partitions
	}
	if t.replicas > 0 {
		one.ReplicationFactor = t.replicas
	}
	req.Topics = append(req.Topics, one)
	req.ValidateOnly = t.partitions == 0
	resp, err := req.RequestWith(ctx, t.client)
	if err != nil {
		return err
	}
	for _, answer := range resp.Topics {
		err := kerr.ErrorForCode(answer.ErrorCode)
		switch {
		case err == nil, errors.Is(err, kerr.TopicAlreadyExists):
		case req.ValidateOnly && !errors.Is(err, kerr.InvalidTopicException):
			// The brokers may create topics for clients that may not.
		default:
			return err
		}
	}
	return nil
}

// nameOf returns what Kafka calls a topic: the same, if it can have a topic of
// that name.
func nameOf(topic string) string {
	if isName(topic) {
		return topic
	}
	return derivedName(topic)
}

// isName reports whether Kafka can have a topic of that name.
func isName(topic string) bool {
	if topic == "" || topic == "." || topic == ".." || len(topic) > maxName {
		return false
	}
	return strings.IndexFunc(topic, func(r rune) bool { return !isNameRune(r) }) < 0
}

func isNameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-'
}

// derivedName returns the name of a topic that Kafka cannot have as it is
// called: what is left of it, to be read by people, and a digest, which tells
// it from others.
func derivedName(topic string) string {
	const most = 100
	plain := strings.Map(func(r rune) rune {
		if isNameRune(r) && r != '.' && r != '_' {
			return r
		}
		return '-'
	}, topic)
	plain = plain[:min(len(plain), most)]
	digest := sha256.Sum256([]byte(topic))
	return "proa-" + plain + "-" + strings.ToLower(base32.StdEncoding.EncodeToString(digest[:20]))
}
