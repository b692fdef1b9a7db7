package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// browseWait bounds the wait for brokers to hand over what they say they have.
const browseWait = 15 * time.Second

// maxMoved bounds how many messages of a partition Remove writes anew.
const maxMoved = 10_000

// spot is where a message is in the order of a topic with several partitions:
// by time, and in a partition by offset. A message whose time is before that of
// one ahead of it in its partition counts as of that one's time, so that the two
// orders agree.
type spot struct {
	millis    int64
	partition int32
	offset    int64
}

func (s spot) compare(o spot) int {
	return cmp.Or(cmp.Compare(s.millis, o.millis), cmp.Compare(s.partition, o.partition), cmp.Compare(s.offset, o.offset))
}

// id names the message there in pages and for Remove.
func (s spot) id() string { return fmt.Sprintf("%d-%d-%d", s.partition, s.offset, s.millis) }

// parseSpot reads an id. It is false for what is none.
func parseSpot(id string) (s spot, ok bool) {
	_, err := fmt.Sscanf(id, "%d-%d-%d", &s.partition, &s.offset, &s.millis)
	return s, err == nil && s.partition >= 0 && s.offset >= 0 && s.id() == id
}

// stretch is a part of a partition that is to be read.
type stretch struct {
	from, to int64 // offsets; to is not part of it
	millis   int64 // the time of what is ahead of it, as far as it matters
	limit    int   // records at most; 0 for all
}

// Browse implements pubsub.Browser. The ids are those of Delivery.ID with the
// time behind.
func (p *PubSub) Browse(ctx context.Context, topic, after string, limit int) ([]*pubsub.Delivery, error) {
	var last spot
	if after != "" {
		var ok bool
		if last, ok = parseSpot(after); !ok {
			return nil, fault.New(fault.InvalidArgument, "%q is no id of a message", after)
		}
	}
	name, parts, err := p.extent(ctx, topic)
	if err != nil || len(parts) == 0 {
		return nil, err
	}
	if after != "" {
		if err := p.skip(ctx, name, parts, last); err != nil {
			return nil, err
		}
	}
	for n, s := range parts {
		s.limit = limit
		parts[n] = s
	}
	found, err := p.read(ctx, name, parts, func(s spot) bool { return after == "" || s.compare(last) > 0 })
	if err != nil {
		return nil, err
	}
	out := make([]*pubsub.Delivery, min(limit, len(found)))
	for i := range out {
		out[i] = p.delivery(topic, found[i].record, 0)
		out[i].ID = found[i].spot.id()
	}
	return out, nil
}

// extent returns what Kafka calls a topic and the extent of its partitions. A
// topic that there is not has none; it is not created.
func (p *PubSub) extent(ctx context.Context, topic string) (string, map[int32]stretch, error) {
	if p.isClosed() {
		return "", nil, errClosed()
	}
	admin := kadm.NewClient(p.out.client)
	name := nameOf(topic)
	if at, ok := p.out.topics.known.Load(topic); ok {
		name = at.(*place).name
	}
	starts, err := admin.ListStartOffsets(ctx, name)
	if err == nil {
		err = starts.Error()
	}
	var ends kadm.ListedOffsets
	if err == nil {
		list := admin.ListEndOffsets
		if p.cfg.IsolationLevel == readCommitted {
			list = admin.ListCommittedOffsets
		}
		if ends, err = list(ctx, name); err == nil {
			err = ends.Error()
		}
	}
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.InvalidTopicException):
		return name, nil, nil
	case err != nil:
		return name, nil, classify(ctx, err)
	}
	parts := map[int32]stretch{}
	ends.Each(func(e kadm.ListedOffset) {
		if s, ok := starts.Lookup(name, e.Partition); ok && s.Offset < e.Offset {
			parts[e.Partition] = stretch{from: s.Offset, to: e.Offset}
		}
	})
	return name, parts, nil
}

// skip leaves out what comes before a spot for certain: in its own partition
// what is ahead of it, and in the others what is older.
func (p *PubSub) skip(ctx context.Context, name string, parts map[int32]stretch, last spot) error {
	since, err := kadm.NewClient(p.out.client).ListOffsetsAfterMilli(ctx, last.millis, name)
	if err == nil {
		err = since.Error()
	}
	if err != nil {
		return classify(ctx, err)
	}
	for n, s := range parts {
		if n == last.partition {
			s.from, s.millis = max(s.from, last.offset+1), last.millis
		} else if at, ok := since.Lookup(name, n); ok && at.Offset >= 0 {
			s.from = max(s.from, at.Offset)
		}
		if s.from < s.to {
			parts[n] = s
		} else {
			delete(parts, n)
		}
	}
	return nil
}

// found is a record and where it is.
type found struct {
	spot   spot
	record *kgo.Record
}

// read returns the records of some stretches that are wanted, in the order of
// the topic.
func (p *PubSub) read(ctx context.Context, name string, parts map[int32]stretch, wanted func(spot) bool) ([]found, error) {
	if len(parts) == 0 {
		return nil, nil
	}
	client, err := p.reader(ctx, name, parts)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, browseWait)
	defer cancel()
	var out []found
	counts := map[int32]int{}
	for left := len(parts); left > 0; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return nil, classify(ctx, err)
		}
		for _, e := range fetches.Errors() {
			return nil, classify(ctx, e.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			s, open := parts[r.Partition]
			if !open || s.from >= s.to {
				return // read to the end
			}
			s.millis = max(s.millis, r.Timestamp.UnixMilli())
			at := spot{s.millis, r.Partition, r.Offset}
			if !r.Attrs.IsControl() && r.Offset < s.to && wanted(at) {
				out = append(out, found{at, r})
				counts[r.Partition]++
			}
			s.from = r.Offset + 1
			if s.limit > 0 && counts[r.Partition] == s.limit {
				s.from = s.to
			}
			if s.from >= s.to {
				left--
			}
			parts[r.Partition] = s
		})
	}
	slices.SortFunc(out, func(a, b found) int { return a.spot.compare(b.spot) })
	return out, nil
}

// reader returns a client that reads stretches as somebody who is no consumer.
func (p *PubSub) reader(ctx context.Context, name string, parts map[int32]stretch) (*kgo.Client, error) {
	options, err := p.cfg.options(p.net, p.env)
	if err != nil {
		return nil, err
	}
	isolation := kgo.ReadUncommitted()
	if p.cfg.IsolationLevel == readCommitted {
		isolation = kgo.ReadCommitted()
	}
	from := map[int32]kgo.Offset{}
	for n, s := range parts {
		from[n] = kgo.NewOffset().At(s.from)
	}
	client, err := kgo.NewClient(append(options,
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: from}),
		kgo.FetchIsolationLevel(isolation),
		kgo.FetchMaxPartitionBytes(int32(p.cfg.FetchDefault)), //nolint:gosec // Validate has seen to it
		kgo.FetchMaxWait(fetchWait),
		kgo.KeepControlRecords(), // the end of a partition may be one
	)...)
	if err != nil {
		return nil, classify(ctx, err)
	}
	return client, nil
}

// Remove implements pubsub.Browser. Kafka takes records off the beginning of a
// partition only: what is ahead of a message that is removed and stays is
// written anew, at the end, so that it comes once more to groups that have had
// it, and with another id. When the brokers fail in between, it is there twice.
func (p *PubSub) Remove(ctx context.Context, topic string, ids []string) error {
	gone := map[int32]map[int64]bool{}
	for _, id := range ids {
		if s, ok := parseSpot(id); ok {
			if gone[s.partition] == nil {
				gone[s.partition] = map[int64]bool{}
			}
			gone[s.partition][s.offset] = true
		}
	}
	name, parts, err := p.extent(ctx, topic)
	if err != nil {
		return err
	}
	cut, moved := kadm.Offsets{}, map[int32]stretch{}
	for n, s := range parts {
		end, count := s.from, int64(0)
		for offset := range gone[n] {
			if s.from <= offset && offset < s.to {
				end, count = max(end, offset+1), count+1
			}
		}
		if count == 0 {
			continue
		}
		cut.AddOffset(name, n, end, -1)
		if staying := end - s.from - count; staying > maxMoved {
			return fault.New(fault.FailedPrecondition,
				"kafka removes messages only from the beginning of a partition, and %d others are ahead in partition %d; remove those first", staying, n)
		} else if staying > 0 {
			moved[n] = stretch{from: s.from, to: end}
		}
	}
	if len(cut) == 0 {
		return nil
	}
	if err := p.move(ctx, name, moved, gone); err != nil {
		return err
	}
	done, err := kadm.NewClient(p.out.client).DeleteRecords(ctx, cut)
	if err == nil {
		err = done.Error()
	}
	return classify(ctx, err)
}

// move writes anew, to the same partitions, the records of stretches that are
// not to go.
func (p *PubSub) move(ctx context.Context, name string, parts map[int32]stretch, gone map[int32]map[int64]bool) error {
	staying, err := p.read(ctx, name, parts, func(s spot) bool { return !gone[s.partition][s.offset] })
	if err != nil {
		return err
	}
	answers := make(chan answer, len(staying))
	for i, f := range staying {
		r := f.record
		p.out.begin(ctx, &kgo.Record{Topic: name, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}, i, answers)
	}
	for range staying {
		select {
		case a := <-answers:
			if err == nil {
				err = a.err
			}
		case <-ctx.Done():
			return classify(ctx, ctx.Err())
		}
	}
	return classify(ctx, err)
}
