package kafka

import (
	"context"
	"errors"
	"hash/fnv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Bounds of what is on its way to Kafka.
const (
	// maxBuffered bounds the messages that wait for brokers to take them.
	maxBuffered = 10_000
	// maxBufferedBytes bounds their size, but for one message.
	maxBufferedBytes = 256 << 20
	// deliveryTries is how often the client library tries to hand a message
	// over before the publish fails.
	deliveryTries = 10
	// deliveryTime is after how long it gives up trying.
	deliveryTime = 30 * time.Second
)

// producer publishes. It is safe for concurrent use.
type producer struct {
	client *kgo.Client
	topics topics
}

// newProducer returns a producer when a broker has answered.
func newProducer(ctx context.Context, cfg Config, net network, env component.Env) (*producer, error) {
	options, err := cfg.options(net, env)
	if err != nil {
		return nil, err
	}
	codec, err := cfg.codec()
	if err != nil {
		return nil, err
	}
	//nolint:gosec // Validate has seen to it
	p := &producer{topics: topics{partitions: cfg.NumPartitions, replicas: int16(cfg.ReplicationFactor), patience: net.creation}}
	most := int32(cfg.MaxMessageBytes) //nolint:gosec // Validate has seen to it
	p.client, err = connect(ctx, append(options,
		kgo.RecordPartitioner(partitioner{net.firstPartition}),
		kgo.ProducerLinger(0), // what waits while a request is under way goes together
		kgo.ProducerBatchMaxBytesFn(func(name string) int32 { return p.topics.limitOf(name, most) }),
		kgo.ProducerBatchCompression(codec),
		kgo.MaxBufferedRecords(maxBuffered),
		kgo.MaxBufferedBytes(maxBufferedBytes),
		kgo.ProduceRequestTimeout(net.replicas),
		kgo.RecordRetries(deliveryTries),
		kgo.RecordDeliveryTimeout(deliveryTime),
		// A publish whose fate is not known fails and may be tried again: at
		// least once is the promise, not exactly once.
		kgo.AllowIdempotentProduceCancellation(),
	))
	if err != nil {
		return nil, err
	}
	p.topics.client = p.client
	return p, nil
}

// close ends the connections and every publish on them.
func (p *producer) close() { p.client.Close() }

// A builder makes the record that goes to the topic of that name.
type builder func(name string) (*kgo.Record, error)

// publish hands over a record and returns it as it is stored, or why it is
// not.
func (p *producer) publish(ctx context.Context, topic string, build builder) (*kgo.Record, error) {
	for tries := 0; ; tries++ {
		r, at, err := p.prepare(ctx, topic, build)
		if err != nil {
			return nil, err
		}
		answers := make(chan answer, 1)
		p.begin(ctx, r, 0, answers)
		select {
		case a := <-answers:
			err = a.err
		case <-ctx.Done():
			return nil, classify(ctx, ctx.Err())
		}
		if isGone(err) && tries == 0 {
			p.forget(topic, at)
			continue
		}
		return r, classify(ctx, err)
	}
}

// prepare makes a record, and sees to it that its topic is there.
func (p *producer) prepare(ctx context.Context, topic string, build builder) (*kgo.Record, *place, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	for tries := 0; ; tries++ {
		at, err := p.topics.find(ctx, topic)
		if err != nil {
			return nil, nil, err
		}
		r, err := build(at.name)
		if err != nil {
			return nil, nil, err
		}
		if r.Partition < at.partitions {
			return r, at, nil
		}
		if tries > 0 {
			return nil, nil, fault.New(fault.InvalidArgument, "metadata %s is %d and the topic has %d partitions, which count from 0",
				metaPartitionNumber, r.Partition, at.partitions)
		}
		p.topics.forget(topic, at) // it may have got more
	}
}

// answer is what became of a record that was begun with the number i.
type answer struct {
	i   int
	err error
}

// begin hands a record to the client library, which sends to answers what
// becomes of it. The record does not end with ctx: the library would give up
// others of the same batch along with it.
func (p *producer) begin(ctx context.Context, r *kgo.Record, i int, answers chan<- answer) {
	p.client.TryProduce(context.WithoutCancel(ctx), r, func(_ *kgo.Record, err error) { answers <- answer{i, err} })
}

// outgoing is one of several records to publish.
type outgoing struct {
	topic string
	build builder
}

// publishAll hands over records and returns what became of each. Those of one
// partition keep their order.
func (p *producer) publishAll(ctx context.Context, records []outgoing) []error {
	errs := make([]error, len(records))
	answers := make(chan answer, len(records))
	open := map[int]*place{}
	for i, o := range records {
		r, at, err := p.prepare(ctx, o.topic, o.build)
		if errs[i] = err; err == nil {
			open[i] = at
			p.begin(ctx, r, i, answers)
		}
	}
	for len(open) > 0 {
		select {
		case a := <-answers:
			if errs[a.i] = classify(ctx, a.err); isGone(a.err) {
				p.forget(records[a.i].topic, open[a.i])
			}
			delete(open, a.i)
		case <-ctx.Done():
			for i := range open {
				errs[i] = classify(ctx, ctx.Err())
			}
			return errs
		}
	}
	return errs
}

// isGone reports whether a topic was deleted after it was found.
func isGone(err error) bool {
	return errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID)
}

// forget lets go of what is known of a topic that has gone. The client library
// would go on with the old one, though there were a new one of the same name.
func (p *producer) forget(topic string, at *place) {
	if p.topics.forget(topic, at) {
		p.client.PurgeTopicsFromProducing(at.name)
	}
}

// partitioner chooses the partitions of records: the one that the record names,
// else the one that its key hashes to, as with Dapr, so that a topic may be
// published to by both; else one after the other.
type partitioner struct {
	first func() int // where to begin with a topic
}

// ForTopic implements kgo.Partitioner.
func (p partitioner) ForTopic(string) kgo.TopicPartitioner {
	return &topicPartitioner{
		hash: kgo.SaramaCompatHasher(func(key []byte) uint32 {
			h := fnv.New32a()
			_, _ = h.Write(key) // never fails
			return h.Sum32()
		}),
		next: p.first(),
	}
}

// topicPartitioner is a partitioner of one topic. The client library calls it
// one at a time.
type topicPartitioner struct {
	hash kgo.PartitionerHasher
	next int
}

// RequiresConsistency implements kgo.TopicPartitioner: a record that must go
// to one partition waits for it when it has no leader.
func (*topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return r.Partition != anyPartition || r.Key != nil
}

// Partition implements kgo.TopicPartitioner.
func (p *topicPartitioner) Partition(r *kgo.Record, n int) int {
	switch {
	case r.Partition != anyPartition:
		return int(r.Partition)
	case r.Key != nil:
		return p.hash(r.Key, n)
	}
	p.next++
	return (p.next - 1) % n
}
