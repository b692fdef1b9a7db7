package engine

import (
	"context"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/proa-io/proa/fault"
)

// MaxCommit is the most writes that one Commit takes, the servers' default.
const MaxCommit = 1000

// Write is one of the writes of a Commit.
type Write struct {
	Key    string
	Value  []byte
	Delete bool // remove Key; Value, TTL and Header do not count
	PutOptions
}

// Commit makes all writes or none and returns their revisions. When a write's
// Expect is not met it fails with Aborted and ReasonConflict. A key may be
// written once only. The bucket must be Atomic.
//
// A commit of several writes to a bucket with one replica is slow, hundreds a
// second: the server makes a temporary store for each.
func (b *Bucket) Commit(ctx context.Context, writes []Write) ([]uint64, error) {
	msgs, err := b.commitMessages(writes)
	if err != nil || len(msgs) == 0 {
		return nil, err
	}
	if len(msgs) == 1 {
		rev, err := b.write(ctx, writes[0].Key, msgs[0], writes[0].Expect)
		return []uint64{rev}, err
	}
	// One bucket's commits go over one connection: they are not faster over
	// several.
	c, err := b.conn(ctx, b.name)
	if err != nil {
		return nil, err
	}
	ack, err := c.PublishAtomic(ctx, msgs)
	if fault.ReasonOf(err) == ReasonConflict {
		if retry, err := b.overTombstones(ctx, c, writes, msgs); err != nil {
			return nil, err
		} else if retry {
			ack, err = c.PublishAtomic(ctx, msgs)
			return revisions(ack, len(msgs)), err
		}
	}
	return revisions(ack, len(msgs)), err
}

func (b *Bucket) commitMessages(writes []Write) ([]*nats.Msg, error) {
	if len(writes) > MaxCommit {
		return nil, invalid("a commit takes at most %d writes, not %d", MaxCommit, len(writes))
	}
	seen := make(map[string]struct{}, len(writes))
	msgs := make([]*nats.Msg, 0, len(writes))
	for _, w := range writes {
		if _, twice := seen[w.Key]; twice {
			return nil, invalid("a commit writes a key twice")
		}
		seen[w.Key] = struct{}{}
		make := func() (*nats.Msg, error) { return b.putMessage(w.Key, w.Value, w.PutOptions) }
		if w.Delete {
			make = func() (*nats.Msg, error) { return b.deleteMessage(w.Key) }
		}
		msg, err := make()
		if err != nil {
			return nil, err
		}
		if w.Expect.set {
			setHeader(msg, jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(w.Expect.rev, 10))
		}
		msgs = append(msgs, msg)
	}
	return msgs, nil
}

// overTombstones lets the writes that demand an absent key follow the
// tombstones of deleted keys. It reports whether there are any.
func (b *Bucket) overTombstones(ctx context.Context, c *Conn, writes []Write, msgs []*nats.Msg) (bool, error) {
	found := false
	for i, w := range writes {
		if w.Expect != Absent() {
			continue
		}
		last, err := b.lastStrong(ctx, c, w.Key)
		if err != nil {
			return false, err
		}
		if last.seq != 0 && isTombstone(last.header) {
			found = true
			setHeader(msgs[i], jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last.seq, 10))
		}
	}
	return found, nil
}

// revisions are those of the n messages of one batch: they are stored side by
// side, and ack has the last.
func revisions(ack *jetstream.PubAck, n int) []uint64 {
	if ack == nil {
		return nil
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = ack.Sequence - uint64(n-1-i)
	}
	return out
}

// PublishAtomic stores all messages in the stream that has their subjects, or
// none. The stream must have AllowAtomicPublish. It adds headers to msgs.
func (c *Conn) PublishAtomic(ctx context.Context, msgs []*nats.Msg) (*jetstream.PubAck, error) {
	if len(msgs) == 0 || len(msgs) > MaxCommit {
		return nil, invalid("an atomic publish takes 1 to %d messages, not %d", MaxCommit, len(msgs))
	}
	if err := c.engine.Require(ctx, AtomicBatch); err != nil {
		return nil, err
	}
	for _, m := range msgs {
		if err := checkSubject(m.Subject); err != nil {
			return nil, err
		}
	}
	var ack *jetstream.PubAck
	err := c.Do(ctx, func(ctx context.Context) (err error) {
		ack, err = c.sendBatch(ctx, msgs)
		return err
	})
	return ack, err
}

// sendBatch sends the messages under one new batch id. The server answers the
// last, which commits.
func (c *Conn) sendBatch(ctx context.Context, msgs []*nats.Msg) (*jetstream.PubAck, error) {
	id, last := nuid.Next(), len(msgs)-1
	for i, m := range msgs {
		setHeader(m, "Nats-Batch-Id", id)
		setHeader(m, "Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i == last {
			setHeader(m, "Nats-Batch-Commit", "1")
			return c.js.PublishMsg(ctx, m)
		}
		if err := c.NATS().PublishMsg(m); err != nil {
			return nil, err
		}
	}
	return nil, nats.ErrInvalidMsg
}
