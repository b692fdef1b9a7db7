package kafka

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Behaviour of consumers.
const (
	// commitPause is the least time between two commits, but for those that
	// must not wait.
	commitPause = 500 * time.Millisecond
	// settleTime bounds a commit, and leaveTime leaving the group.
	settleTime = 2 * time.Second
	leaveTime  = 5 * time.Second
	// fetchWait is how long a broker waits for consumerFetchMin.
	fetchWait = 500 * time.Millisecond
	// fetchBytes bounds an answer of a broker.
	fetchBytes = 32 << 20
	// maxAhead and maxAheadBytes bound how far records of a partition are
	// processed, or kept, behind one that is not processed yet.
	maxAhead      = 10_000
	maxAheadBytes = 32 << 20
	// maxBytes bounds the size of all records that a consumer has, but for
	// one answer of the brokers.
	maxBytes = 128 << 20
)

// consumption says what to consume, how and for whom.
type consumption struct {
	cfg    Config
	net    network
	env    component.Env
	log    *slog.Logger
	closed <-chan struct{} // closed with the driver

	group  string
	topics []string // what Kafka calls them
	limit  int      // handle calls at a time; 0 for the default
	batch  int      // records of a partition that go together, if more than 1
	handle func(ctx context.Context, r *kgo.Record, attempt int) error
	// established, when not nil, is called once, when the group has its place
	// in the topics.
	established func()
}

// consumer is one consume under way.
//
// One goroutine polls the client library for records and hands them to the
// scheduler; workers take them from there. A second one commits. The client
// library calls back, from its own, when partitions come and go; it does so
// only between polls.
type consumer struct {
	consumption
	client   *kgo.Client
	cut      context.CancelFunc // ends whatever the client waits for
	ctx      context.Context    //nolint:containedctx // what handlers get: it lives as long as the call of consume
	calls    sync.WaitGroup     // workers
	capacity int                // of records that are not stalled

	mu      sync.Mutex
	sched   *scheduler
	running int  // workers
	ended   bool // no more handler begins
	placed  bool // established was called
	roomy   chan struct{}
	dirty   chan struct{}

	committing sync.Mutex // held from the choice of what to commit until it is
	leaving    bool       // guarded by committing: nothing is committed any more
}

// consume receives records until ctx ends, or the driver is closed, and
// returns nil then, or until the subscription breaks, and returns why. When it
// returns no handle call is under way.
func consume(ctx context.Context, s consumption) error {
	if s.limit <= 0 {
		s.limit = s.cfg.Concurrency
	}
	c := &consumer{
		consumption: s, ctx: context.WithoutCancel(ctx), capacity: s.limit + s.cfg.ChannelBufferSize,
		sched: newScheduler(s.cfg.Ordering == orderByKey, s.batch),
		roomy: make(chan struct{}, 1), dirty: make(chan struct{}, 1),
	}
	options, err := c.options()
	if err != nil {
		return err
	}
	life, cut := context.WithCancel(c.ctx)
	defer cut()
	c.cut = cut
	if c.client, err = kgo.NewClient(append(options, kgo.WithContext(life))...); err != nil {
		return classify(ctx, err)
	}
	return c.run(ctx)
}

func (c *consumer) options() ([]kgo.Opt, error) {
	out, err := c.cfg.options(c.net, c.env)
	if err != nil {
		return nil, err
	}
	balancer, err := c.cfg.balancer()
	if err != nil {
		return nil, err
	}
	isolation := kgo.ReadUncommitted()
	if c.cfg.IsolationLevel == readCommitted {
		isolation = kgo.ReadCommitted()
	}
	start := kgo.NewOffset().AtEnd()
	if c.cfg.fromOldest() {
		start = kgo.NewOffset().AtStart()
	}
	return append(out,
		kgo.ConsumerGroup(c.group),
		kgo.ConsumeTopics(c.topics...),
		kgo.Balancers(balancer),
		kgo.SessionTimeout(c.cfg.SessionTimeout.Std()),
		kgo.HeartbeatInterval(c.cfg.HeartbeatInterval.Std()),
		kgo.ConsumeStartOffset(start),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), // what is gone is gone; nothing that is left is passed over
		kgo.FetchIsolationLevel(isolation),
		kgo.FetchMaxWait(fetchWait),
		kgo.FetchMinBytes(c.cfg.FetchMin),
		kgo.FetchMaxBytes(max(fetchBytes, int32(c.cfg.FetchDefault))), //nolint:gosec // Validate has seen to it
		kgo.FetchMaxPartitionBytes(int32(c.cfg.FetchDefault)),         //nolint:gosec // Validate has seen to it
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(c.assigned),
		kgo.OnPartitionsRevoked(c.revoked),
		kgo.OnPartitionsLost(c.lost),
		kgo.AdjustFetchOffsetsFn(c.begin),
	), nil
}

func (c *consumer) run(ctx context.Context) error {
	polling, stopPolling := context.WithCancel(c.ctx)
	committing, stopCommitting := context.WithCancel(c.ctx)
	defer stopCommitting()
	var helpers sync.WaitGroup
	helpers.Go(func() {
		defer stopPolling()
		select {
		case <-ctx.Done():
		case <-c.closed:
		case <-polling.Done():
		}
	})
	helpers.Go(func() { c.keepCommitting(committing) })
	err := c.poll(polling)
	stopPolling()
	c.end()
	c.calls.Wait()
	stopCommitting()
	helpers.Wait()
	c.leave()
	return err
}

// poll takes records from the client library until ctx ends.
func (c *consumer) poll(ctx context.Context) error {
	for {
		room := c.room(ctx)
		if room == 0 {
			return nil
		}
		fetches := c.client.PollRecords(ctx, room)
		c.take(fetches)
		c.client.AllowRebalance()
		if ctx.Err() != nil {
			return nil
		}
		for _, e := range fetches.Errors() {
			if err := c.problem(ctx, e); err != nil {
				return err
			}
		}
	}
}

// room waits until there is room for records and returns for how many; 0 when
// ctx ends.
func (c *consumer) room(ctx context.Context) int {
	for ctx.Err() == nil {
		c.mu.Lock()
		free := c.free()
		c.mu.Unlock()
		if free >= max(1, c.capacity/4) {
			return free
		}
		select {
		case <-c.roomy:
		case <-ctx.Done():
		}
	}
	return 0
}

// free returns for how many more records there is room. The caller holds c.mu.
func (c *consumer) free() int {
	if c.sched.bytes >= maxBytes {
		return 0
	}
	return c.capacity - (c.sched.held - c.sched.stalled)
}

// take hands records to the scheduler, and the first of them to workers.
func (c *consumer) take(fetches kgo.Fetches) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fetches.EachPartition(func(got kgo.FetchTopicPartition) {
		p := c.sched.parts[source{got.Topic, got.Partition}]
		if p == nil {
			return
		}
		for _, r := range got.Records {
			c.sched.add(p, r)
		}
		c.throttle(p)
	})
	c.hire(len(c.sched.ready))
}

// problem returns what ends the subscription, of what the client library
// reports in place of records.
func (c *consumer) problem(ctx context.Context, e kgo.FetchError) error {
	if loss, ok := errors.AsType[*kgo.ErrDataLoss](e.Err); ok {
		c.log.WarnContext(ctx, "the brokers have lost messages of a partition that were not processed yet",
			"topic", loss.Topic, "partition", loss.Partition, "processed_to", loss.ConsumedTo, "going_on_at", loss.ResetTo)
		return nil
	}
	if group, ok := errors.AsType[*kgo.ErrGroupSession](e.Err); ok {
		if kerr.IsRetriable(group.Err) || errors.Is(group.Err, kerr.UnknownMemberID) || errors.Is(group.Err, kerr.IllegalGeneration) {
			return nil // the library joins the group again
		}
	}
	return classify(ctx, e.Err)
}

// hire starts workers for up to n records. The caller holds c.mu.
func (c *consumer) hire(n int) {
	for range min(n, c.limit-c.running) {
		c.running++
		c.calls.Go(c.work)
	}
}

// work hands records to the handler until there are none.
func (c *consumer) work() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		it := c.sched.next()
		if it == nil {
			c.running--
			return
		}
		c.mu.Unlock()
		err := c.handle(c.ctx, it.record, it.attempt)
		c.mu.Lock()
		c.finish(it, err)
		c.hire(len(c.sched.ready) - 1) // this worker takes one
	}
}

// finish deals with a record that a handler is done with. The caller holds
// c.mu.
func (c *consumer) finish(it *item, err error) {
	ours := c.sched.landed(it)
	passOver := err != nil && !c.cfg.ConsumeRetryEnabled && !fault.Is(err, fault.Canceled)
	switch {
	case err == nil || passOver:
		if c.sched.settle(it) {
			signal(c.dirty)
		}
	case !ours || c.ended:
	default:
		wait := max(fault.RetryAfterOf(err), c.cfg.ConsumeRetryInterval.Std())
		c.sched.postpone(it, time.AfterFunc(wait, func() { c.again(it) }))
	}
	if ours {
		c.throttle(it.part)
	}
	if c.free() >= c.capacity/4 {
		signal(c.roomy)
	}
}

// again makes a record ready whose wait is over.
func (c *consumer) again(it *item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || !c.sched.resume(it) {
		return
	}
	c.throttle(it.part)
	c.hire(len(c.sched.ready))
}

// signal wakes the one that waits on a channel with room for one.
func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// throttle has nothing more of a partition fetched while most of what there is
// cannot go on. The caller holds c.mu, so that two calls do not overtake each
// other.
func (c *consumer) throttle(p *part) {
	full := len(p.window.entries) >= maxAhead ||
		p.one != nil && p.stalled > c.cfg.ChannelBufferSize ||
		p.stalled > 0 && p.bytes >= maxAheadBytes
	if full == p.paused || p.revoked {
		return
	}
	p.paused = full
	which := map[string][]int32{p.topic: {p.partition}}
	if full {
		c.client.PauseFetchPartitions(which)
	} else {
		c.client.ResumeFetchPartitions(which)
	}
}
