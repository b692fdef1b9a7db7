package engine

import (
	"context"
	"math"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/proa-io/proa/fault"
)

// MaxCommit is the most writes that one Commit takes, the servers' default.
const MaxCommit = 1000

// Write is one of the writes of a Commit, or a check that comes with them.
type Write struct {
	Key    string
	Value  []byte
	Delete bool // remove Key; Value and TTL do not count, Header is the mark's
	// Check writes nothing: it only demands Expect of Key. A commit has at
	// least one Write that is no check.
	Check bool
	PutOptions
}

// Commit makes all writes or none and returns their revisions, 0 for a check.
// When an Expect is not met it fails with Aborted and ReasonConflict. A key may
// be written or checked once only. The bucket must be Atomic, unless there is
// one write only.
//
// A commit of several writes to a bucket with one replica is slow, hundreds a
// second: the server makes a temporary store for each.
func (b *Bucket) Commit(ctx context.Context, writes []Write) ([]uint64, error) {
	if err := checkCommit(writes); err != nil || len(writes) == 0 {
		return nil, err
	}
	if len(writes) == 1 {
		msg, err := b.commitMessage(&writes[0])
		if err != nil {
			return nil, err
		}
		rev, err := b.write(ctx, writes[0].Key, msg, writes[0].Expect)
		return []uint64{rev}, err
	}
	// One bucket's commits go over one connection: they are not faster over
	// several.
	c, err := b.conn(ctx, b.name)
	if err != nil {
		return nil, err
	}
	demands, err := b.demands(ctx, c, writes, false)
	if err != nil {
		return nil, err
	}
	for range commitTries {
		var last uint64
		if last, err = b.tryCommit(ctx, c, writes, demands); err == nil {
			return revisions(writes, last), nil
		}
		if fault.ReasonOf(err) != ReasonConflict {
			return nil, err
		}
		again, readErr := b.demands(ctx, c, writes, true)
		if readErr != nil {
			return nil, readErr
		}
		if slices.Equal(again, demands) {
			break // it is not for a key that was written meanwhile
		}
		demands = again
	}
	return nil, err
}

// commitTries bounds how often a commit is tried whose checks hold, but whose
// keys are written by others all the time.
const commitTries = 10

func checkCommit(writes []Write) error {
	if len(writes) > MaxCommit {
		return invalid("a commit takes at most %d writes, not %d", MaxCommit, len(writes))
	}
	seen := make(map[string]struct{}, len(writes))
	checks := 0
	for _, w := range writes {
		if _, twice := seen[w.Key]; twice {
			return invalid("a commit writes a key twice")
		}
		seen[w.Key] = struct{}{}
		if w.Check {
			checks++
		}
	}
	if checks > 0 && checks == len(writes) {
		return invalid("a commit writes at least one key")
	}
	return nil
}

func (b *Bucket) commitMessage(w *Write) (*nats.Msg, error) {
	if w.Delete {
		return b.deleteMessage(w.Key, w.Header)
	}
	return b.putMessage(w.Key, w.Value, w.PutOptions)
}

// nothing is the demand of a write that demands nothing.
const nothing = math.MaxUint64

// demands returns the last revision that each write demands of its key. What a
// deleted key leaves counts as a revision, so a key that must be absent may
// have one; without read it is taken to have none, which mostly is so. It fails
// with ReasonConflict when what it reads cannot meet an Expect.
func (b *Bucket) demands(ctx context.Context, c *Conn, writes []Write, read bool) ([]uint64, error) {
	out := make([]uint64, len(writes))
	for i, w := range writes {
		switch {
		case !w.Expect.set:
			out[i] = nothing
			continue
		case !w.Expect.present && (w.Expect.rev != 0 || !read):
			out[i] = w.Expect.rev
			continue
		}
		last, err := b.lastStrong(ctx, c, w.Key)
		if err != nil {
			return nil, err
		}
		if there := last.seq != 0 && !isTombstone(last.header); there != w.Expect.present {
			return nil, conflict()
		}
		out[i] = last.seq
	}
	return out, nil
}

func conflict() error {
	return fault.New(fault.Aborted, "the key has changed").WithReason(ReasonConflict)
}

// The headers of a message that is stored only if the last message on a subject
// has a given sequence; the second one names the subject when it is not the
// message's own.
const (
	expectHeader        = jetstream.ExpectedLastSubjSeqHeader
	expectSubjectHeader = "Nats-Expected-Last-Subject-Sequence-Subject"
)

// tryCommit sends the writes, each of which can carry one demand, on its own
// key or for a check; checks beyond that come in messages of their own, which
// leave a tombstone of a key that nobody uses. It returns the revision of the
// last write.
func (b *Bucket) tryCommit(ctx context.Context, c *Conn, writes []Write, demands []uint64) (uint64, error) {
	var msgs []*nats.Msg
	var free []*nats.Msg // without a demand
	for i := range writes {
		if writes[i].Check {
			continue
		}
		msg, err := b.commitMessage(&writes[i])
		if err != nil {
			return 0, err
		}
		msgs = append(msgs, msg)
		if demands[i] == nothing {
			free = append(free, msg)
		} else {
			setHeader(msg, expectHeader, strconv.FormatUint(demands[i], 10))
		}
	}
	stored := len(msgs)
	for i, w := range writes {
		if !w.Check || demands[i] == nothing {
			continue
		}
		if err := b.checkKey(w.Key); err != nil {
			return 0, err
		}
		if len(free) == 0 {
			msg, err := b.deleteMessage(checkPrefix+strconv.Itoa(len(msgs)-stored), nil)
			if err != nil {
				return 0, err
			}
			msgs, free = append(msgs, msg), []*nats.Msg{msg}
		}
		setHeader(free[0], expectHeader, strconv.FormatUint(demands[i], 10))
		setHeader(free[0], expectSubjectHeader, b.prefix+w.Key)
		free = free[1:]
	}
	ack, err := c.PublishAtomic(ctx, msgs)
	if err != nil {
		return 0, err
	}
	return ack.Sequence - uint64(len(msgs)-stored), nil
}

// checkPrefix begins the keys of messages that only carry a check.
const checkPrefix = "=check."

// revisions are those of the writes of one commit: they are stored side by
// side, the last one as last.
func revisions(writes []Write, last uint64) []uint64 {
	out := make([]uint64, len(writes))
	for i, w := range slices.Backward(writes) {
		if !w.Check {
			out[i] = last
			last--
		}
	}
	return out
}

// writePresent makes a write that demands a value, of whatever revision.
func (b *Bucket) writePresent(ctx context.Context, key string, msg *nats.Msg) (uint64, error) {
	c, err := b.conn(ctx, key)
	if err != nil {
		return 0, err
	}
	var ack *jetstream.PubAck
	for range commitTries {
		last, err := b.lastStrong(ctx, c, key)
		if err != nil {
			return 0, err
		}
		if last.seq == 0 || isTombstone(last.header) {
			return 0, conflict()
		}
		setHeader(msg, expectHeader, strconv.FormatUint(last.seq, 10))
		if ack, err = c.Publish(ctx, msg); err == nil {
			return ack.Sequence, nil
		}
		if fault.ReasonOf(err) != ReasonConflict {
			return 0, err
		}
	}
	return 0, conflict()
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
