package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// assigned takes in partitions of the group. The client library calls it.
func (c *consumer) assigned(_ context.Context, _ *kgo.Client, which map[string][]int32) {
	c.mu.Lock()
	for topic, partitions := range which {
		for _, n := range partitions {
			c.sched.assign(source{topic, n})
		}
	}
	c.mu.Unlock()
	if len(which) == 0 {
		c.establish() // the others have them all
	}
}

// establish tells, once, that the group has its place in the topics.
func (c *consumer) establish() {
	c.mu.Lock()
	first := !c.placed
	c.placed = true
	c.mu.Unlock()
	if first && c.established != nil {
		c.established()
	}
}

// begin decides where to begin with partitions. It makes a group that begins
// with the newest message begin at one place: without that it would pass over
// what is published before its first commit if it had to begin again. The
// client library calls it after assigned.
func (c *consumer) begin(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	if topics := uncommitted(offsets); len(topics) > 0 && !c.cfg.fromOldest() {
		ends, err := kadm.NewClient(c.client).ListEndOffsets(ctx, topics...)
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			return nil, err // the library joins the group again
		}
		c.beginAt(ends, offsets)
	}
	c.establish()
	return offsets, nil
}

// uncommitted returns the topics with partitions that the group has committed
// nothing of.
func uncommitted(offsets map[string]map[int32]kgo.Offset) []string {
	var topics []string
	for topic, partitions := range offsets {
		for _, at := range partitions {
			if at.EpochOffset().Offset < 0 {
				topics = append(topics, topic)
				break
			}
		}
	}
	return topics
}

// beginAt lets the partitions that nothing is committed of begin at their ends.
func (c *consumer) beginAt(ends kadm.ListedOffsets, offsets map[string]map[int32]kgo.Offset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, partitions := range offsets {
		for n, at := range partitions {
			end, ok := ends.Lookup(topic, n)
			p := c.sched.parts[source{topic, n}]
			if at.EpochOffset().Offset >= 0 || !ok || p == nil {
				continue
			}
			partitions[n] = kgo.NewOffset().At(end.Offset)
			p.window.begin(end.Offset)
			signal(c.dirty)
		}
	}
}

// revoked gives up partitions that go to others: it waits for the records of
// them that handlers have, and commits. The client library calls it, and stays
// in the group meanwhile.
func (c *consumer) revoked(_ context.Context, _ *kgo.Client, which map[string][]int32) {
	parts := c.release(which)
	ctx, cancel := context.WithTimeout(c.ctx, settleTime)
	defer cancel()
	c.committing.Lock()
	defer c.committing.Unlock()
	if !c.leaving { // which has committed, if there was a way to
		c.commitParts(ctx, parts)
	}
	c.remove(parts)
}

// lost gives up partitions that others may have already: nothing of them can
// be committed. It waits, too, so that this process does not work on a record
// twice at a time. The client library calls it.
func (c *consumer) lost(_ context.Context, _ *kgo.Client, which map[string][]int32) {
	parts := c.release(which)
	c.committing.Lock()
	defer c.committing.Unlock()
	c.remove(parts)
}

// release has no more records of partitions handled and waits for those that
// are.
func (c *consumer) release(which map[string][]int32) []*part {
	var parts []*part
	c.mu.Lock()
	for topic, partitions := range which {
		for _, n := range partitions {
			if p := c.sched.parts[source{topic, n}]; p != nil {
				c.sched.revoke(p)
				parts = append(parts, p)
			}
		}
	}
	signal(c.roomy)
	c.mu.Unlock()
	for _, p := range parts {
		<-p.drained
	}
	return parts
}

func (c *consumer) remove(parts []*part) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range parts {
		c.sched.remove(p)
		if p.paused {
			c.client.ResumeFetchPartitions(map[string][]int32{p.topic: {p.partition}})
		}
	}
}

// end lets no more handler begin.
func (c *consumer) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, p := range c.sched.parts {
		c.sched.revoke(p)
	}
}

// leave commits, leaves the group, if there is a way to, and ends the
// connections. No handler is at work.
func (c *consumer) leave() {
	ctx, cancel := context.WithTimeout(c.ctx, settleTime)
	defer cancel()
	c.commit(ctx)
	c.committing.Lock()
	c.leaving = true
	c.committing.Unlock()
	// Otherwise the brokers notice after the session timeout. The library ends
	// with the context neither its own part in this nor what it waits for while
	// it closes, which takes long in a dead network: that ends with its client.
	ctx, cancel = context.WithTimeout(c.ctx, leaveTime)
	defer cancel()
	defer context.AfterFunc(ctx, c.cut)()
	_ = c.client.LeaveGroupContext(ctx)
	c.client.CloseAllowingRebalance()
}

// keepCommitting commits, soon but not too often, until ctx ends.
func (c *consumer) keepCommitting(ctx context.Context) {
	for {
		select {
		case <-c.dirty:
		case <-ctx.Done():
			return
		}
		once, cancel := context.WithTimeout(ctx, settleTime)
		c.commit(once)
		cancel()
		select {
		case <-time.After(commitPause):
		case <-ctx.Done():
			return
		}
	}
}

// commit commits what is processed of all partitions.
func (c *consumer) commit(ctx context.Context) {
	c.committing.Lock()
	defer c.committing.Unlock()
	c.mu.Lock()
	parts := make([]*part, 0, len(c.sched.parts))
	for _, p := range c.sched.parts {
		parts = append(parts, p)
	}
	c.mu.Unlock()
	c.commitParts(ctx, parts)
}

// commitParts commits what is processed of some partitions. The caller holds
// c.committing: a partition that is given up must not be committed any more
// when somebody else has it.
func (c *consumer) commitParts(ctx context.Context, parts []*part) {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	c.mu.Lock()
	for _, p := range parts {
		if w := &p.window; w.position > w.committed {
			if offsets[p.topic] == nil {
				offsets[p.topic] = map[int32]kgo.EpochOffset{}
			}
			offsets[p.topic][p.partition] = kgo.EpochOffset{Epoch: w.epoch, Offset: w.position}
		}
	}
	c.mu.Unlock()
	if len(offsets) == 0 {
		return
	}
	var resp *kmsg.OffsetCommitResponse
	var err error
	c.client.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, r *kmsg.OffsetCommitResponse, e error) {
		resp, err = r, e
	})
	if err == nil {
		err = c.committed(parts, offsets, resp)
	}
	switch {
	case err == nil, ctx.Err() == context.Canceled:
	case errors.Is(err, kerr.RebalanceInProgress), errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.UnknownMemberID):
		// The partitions are being given up, or are others' already.
	default:
		c.log.WarnContext(ctx, "what was processed cannot be committed for now and may come again", "group", c.group, "error", err)
		signal(c.dirty)
	}
}

// committed notes what a commit has achieved and returns the first problem of
// a partition.
func (c *consumer) committed(parts []*part, offsets map[string]map[int32]kgo.EpochOffset, resp *kmsg.OffsetCommitResponse) error {
	var problem error
	done := map[source]bool{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			err := kerr.ErrorForCode(p.ErrorCode)
			if err != nil && problem == nil {
				problem = err
			}
			done[source{t.Topic, p.Partition}] = err == nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range parts {
		if at, ok := offsets[p.topic][p.partition]; ok && done[p.source] {
			p.window.committed = max(p.window.committed, at.Offset)
		}
	}
	return problem
}
