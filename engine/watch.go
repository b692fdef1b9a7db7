package engine

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

// Op is what happened to a key.
type Op uint8

// The operations.
const (
	// OpPut means that the key has the value of the Entry.
	OpPut Op = iota
	// OpDelete means that the key has no value any more: deleted, or ended by
	// its TTL. Entry has Key, and Revision when it is known.
	OpDelete
	// OpSynced means that everything there was at the beginning of the watch,
	// or after an interruption, has been reported. Entry is empty.
	OpSynced
)

// Update is one step of a watch.
type Update struct {
	Op Op
	Entry
}

// Timing of a watch.
const (
	watchHeartbeat = 5 * time.Second
	// eachHeartbeat is shorter: when the last keys disappear while Each runs,
	// only a heartbeat tells that there is no more to come.
	eachHeartbeat = 500 * time.Millisecond
	watchSilence  = 3 * watchHeartbeat
	watchRetry    = 20 * time.Millisecond
)

// Watch reports the values of the keys that match pattern (a subject pattern
// with * for one part and > for all that follow, such as "app.>"), then
// OpSynced, then every change, by calling fn, one call at a time. It returns
// nil when ctx ends, fn's error when fn fails, and NotFound when the bucket is
// gone.
//
// It goes on over interruptions of any length: then it reports what changed
// and what disappeared meanwhile, and OpSynced again. Of several changes of
// one key in quick succession or during an interruption only the last is sure
// to be reported. The revisions reported for one key only grow. It remembers
// the keys, not the values.
func (b *Bucket) Watch(ctx context.Context, pattern string, fn func(Update) error) error {
	return b.follow(ctx, watch{pattern: pattern, heartbeat: watchHeartbeat, fn: fn})
}

func (b *Bucket) follow(ctx context.Context, w watch) error {
	w.bucket, w.known = b, make(map[string]uint64)
	for ctx.Err() == nil {
		c, err := b.conn(ctx, w.pattern)
		if err == nil {
			err = c.Do(ctx, func(ctx context.Context) error { return w.session(ctx, c) })
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case w.failed != nil:
			return w.failed
		case err != nil && fault.CodeOf(err) != fault.Unavailable && fault.CodeOf(err) != fault.DeadlineExceeded:
			return fault.Wrap(err, fault.CodeOf(err), "watch bucket %q", b.name)
		}
		sleep(ctx, watchRetry)
	}
	return nil
}

// errEnough ends a watch that has seen what there is.
var errEnough = errors.New("enough")

// Each calls fn once for every key that matches pattern and has a value, in
// no particular order, until fn fails. It returns fn's error.
func (b *Bucket) Each(ctx context.Context, pattern string, fn func(Entry) error) error {
	return b.each(ctx, pattern, false, fn)
}

// EachKey is Each without the values: the entries have all but Value.
func (b *Bucket) EachKey(ctx context.Context, pattern string, fn func(Entry) error) error {
	return b.each(ctx, pattern, true, fn)
}

func (b *Bucket) each(ctx context.Context, pattern string, keysOnly bool, fn func(Entry) error) error {
	err := b.follow(ctx, watch{pattern: pattern, keysOnly: keysOnly, heartbeat: eachHeartbeat, fn: func(u Update) error {
		switch u.Op {
		case OpPut:
			return fn(u.Entry)
		case OpSynced:
			return errEnough
		}
		return nil
	}})
	if err == nil { // the watch ended with its context
		return ctx.Err()
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// watch is the state of one Watch over its sessions.
type watch struct {
	bucket    *Bucket
	pattern   string
	keysOnly  bool // without the values
	heartbeat time.Duration
	fn        func(Update) error
	failed    error             // fn's
	known     map[string]uint64 // reported keys that have a value, and their revisions
}

// errSilent ends a session whose server stopped its heartbeats.
var errSilent = errors.New("the server stopped sending heartbeats")

// session watches until the connection breaks, a message is lost or fn fails.
// It begins with the last value of every key: what was reported before is
// passed over.
func (w *watch) session(ctx context.Context, c *Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	nc := c.NATS()
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	consumer, err := c.js.CreatePushConsumer(ctx, w.bucket.stream, jetstream.ConsumerConfig{
		DeliverSubject: sub.Subject, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1, FilterSubject: w.bucket.prefix + w.pattern,
		IdleHeartbeat: w.heartbeat, FlowControl: true, MemoryStorage: true, Replicas: 1,
		InactiveThreshold: time.Minute, HeadersOnly: w.keysOnly,
	})
	if err != nil {
		return err
	}
	// The server would remove it in the end; a list a second would add up.
	defer func() {
		_ = nc.PublishRequest("$JS.API.CONSUMER.DELETE."+w.bucket.stream+"."+consumer.CachedInfo().Name, nc.NewInbox(), nil)
	}()
	s := pass{watch: w, seen: make(map[string]struct{})}
	if consumer.CachedInfo().NumPending == 0 {
		if err := s.done(); err != nil {
			return err
		}
	}
	watchdog := time.AfterFunc(watchSilence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			if errors.Is(context.Cause(ctx), errSilent) {
				return fault.Wrap(errSilent, fault.Unavailable, "the engine did not answer")
			}
			return err
		}
		watchdog.Reset(watchSilence)
		if err := s.take(nc, m); err != nil {
			return err
		}
	}
}

// pass is one session's progress.
type pass struct {
	*watch
	seen   map[string]struct{} // keys met before the session is synced; then nil
	expect uint64              // the consumer sequence of the last message
}

// take handles one message of the consumer.
func (s *pass) take(nc *nats.Conn, m *nats.Msg) error {
	if m.Header.Get("Status") != "" {
		return s.control(nc, m)
	}
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	if s.expect++; meta.Sequence.Consumer != s.expect {
		return errGap()
	}
	e := newEntry(s.bucket.keyOf(m.Subject),
		message{seq: meta.Sequence.Stream, data: m.Data, at: meta.Timestamp, header: m.Header})
	if err := s.report(e, isTombstone(m.Header)); err != nil {
		return err
	}
	if s.seen != nil && meta.NumPending == 0 {
		return s.done()
	}
	return nil
}

// control handles a message of the consumer that is not one of the stream:
// flow control wants an answer, and a heartbeat tells that the consumer has
// nothing to send and what it sent last.
func (s *pass) control(nc *nats.Conn, m *nats.Msg) error {
	if m.Reply != "" {
		return nc.Publish(m.Reply, nil)
	}
	if reply := m.Header.Get("Nats-Consumer-Stalled"); reply != "" { // an answer got lost
		return nc.Publish(reply, nil)
	}
	last := m.Header.Get("Nats-Last-Consumer")
	if last == "" {
		return nil
	}
	if last != strconv.FormatUint(s.expect, 10) {
		return errGap()
	}
	// What was pending at the beginning may have ended before it was sent.
	if s.seen != nil {
		return s.done()
	}
	return nil
}

func errGap() error { return fault.New(fault.Unavailable, "a message of the watch was lost") }

func (s *pass) report(e Entry, gone bool) error {
	before, had := s.known[e.Key]
	if s.seen != nil && !gone {
		s.seen[e.Key] = struct{}{}
	}
	switch {
	case e.Revision <= before:
		return nil
	case gone && !had:
		return nil
	case gone:
		delete(s.known, e.Key)
		return s.call(Update{Op: OpDelete, Entry: Entry{Key: e.Key, Revision: e.Revision, Created: e.Created}})
	}
	s.known[e.Key] = e.Revision
	return s.call(Update{Op: OpPut, Entry: e})
}

// done reports the keys that disappeared without a trace, and OpSynced.
func (s *pass) done() error {
	for key := range s.known {
		if _, there := s.seen[key]; there {
			continue
		}
		delete(s.known, key)
		if err := s.call(Update{Op: OpDelete, Entry: Entry{Key: key}}); err != nil {
			return err
		}
	}
	s.seen = nil
	return s.call(Update{Op: OpSynced})
}

func (s *pass) call(u Update) error {
	s.failed = s.fn(u)
	return s.failed
}
