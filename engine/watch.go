package engine

import (
	"context"
	"errors"
	"time"

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

// session watches until the connection breaks, a message is lost or fn fails.
// It begins with the last value of every key: what was reported before is
// passed over.
func (w *watch) session(ctx context.Context, c *Conn) error {
	f := feed{bucket: w.bucket, heartbeat: w.heartbeat, receiver: &pass{watch: w, seen: make(map[string]struct{})}}
	f.config = jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubject: w.bucket.prefix + w.pattern, HeadersOnly: w.keysOnly,
	}
	return f.run(ctx, c)
}

// pass is one session's progress.
type pass struct {
	*watch
	seen map[string]struct{} // keys met before the session is synced; then nil
}

// begun implements receiver.
func (s *pass) begun(pending uint64) error {
	if pending == 0 {
		return s.done()
	}
	return nil
}

// message implements receiver.
func (s *pass) message(e Entry, gone bool, pending uint64) error {
	if err := s.report(e, gone); err != nil {
		return err
	}
	if s.seen != nil && pending == 0 {
		return s.done()
	}
	return nil
}

// idle implements receiver: what was pending at the beginning may have ended
// before it was sent.
func (s *pass) idle() error {
	if s.seen != nil {
		return s.done()
	}
	return nil
}

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
