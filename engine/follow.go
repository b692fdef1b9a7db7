package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

// A Point is a moment in the life of a bucket, at which a Follow can go on. It
// is opaque to others, and has a text form that lasts.
type Point struct {
	seq     uint64    // of the last message before it
	at      time.Time // when there was none behind that, by the server's clock
	created int64     // when the bucket was made, by the server's clock, in nanoseconds
}

// String returns the text form, of at most 64 bytes.
func (p Point) String() string {
	return fmt.Sprintf("%d.%d.%d", p.seq, p.at.UnixMilli(), p.created)
}

// ParsePoint reads the text form.
func ParsePoint(text string) (Point, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return Point{}, invalid("a point of a bucket has three numbers")
	}
	seq, err := strconv.ParseUint(parts[0], 10, 63)
	if err != nil {
		return Point{}, invalid("a point of a bucket has three numbers")
	}
	var numbers [2]int64
	for i, part := range parts[1:] {
		if numbers[i], err = strconv.ParseInt(part, 10, 64); err != nil {
			return Point{}, invalid("a point of a bucket has three numbers")
		}
	}
	return Point{seq, time.UnixMilli(numbers[0]), numbers[1]}, nil
}

// FollowOptions say what a Follow reports.
type FollowOptions struct {
	// Pattern is a subject pattern for keys, as in Watch.
	Pattern string
	// Initial reports the values that there are first; OpSynced comes after
	// them. Without it OpSynced comes first of all.
	Initial bool
	// After, if set, goes on after a point of an earlier Follow with the same
	// pattern. Not to be had together with Initial.
	After *Point
}

// How a Follow keeps its points fresh. A point is good for as long as the bucket
// remembers what was deleted since; this much less, so that the rest of it is
// not gone before it is read.
const (
	pointMargin  = 10 * time.Second
	pointRefresh = 20 * time.Second
)

// Follow reports changes by calling fn, one call at a time, each with the point
// after it; the point is the zero Point before the first OpSynced. Unlike Watch
// it remembers nothing and ends with the connection: then it fails with
// Unavailable, and another Follow goes on after the last point. When the bucket
// does not remember all that was deleted since, or was made anew, that fails
// with FailedPrecondition and ReasonForgotten.
//
// It returns the error of ctx when that ends, and fn's when fn fails. Of several
// changes of one key in quick succession only the last is sure to be reported.
// OpSynced comes again now and then, with a fresh point, when nothing happens.
// The end of a value by its TTL is reported if the bucket has KeyTTL.
func (b *Bucket) Follow(ctx context.Context, o FollowOptions, fn func(Update, Point) error) error {
	c, err := b.conn(ctx, o.Pattern)
	if err != nil {
		return err
	}
	var f *follower
	err = c.Do(ctx, func(inner context.Context) error {
		f = &follower{bucket: b, options: o, fn: fn}
		err := f.run(inner, c)
		if f.standing {
			f.ended = err
			return nil // it must not be done again
		}
		return err
	})
	switch {
	case f != nil && f.failed != nil:
		return f.failed
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		err = c.classify(f.ended)
	}
	if code := fault.CodeOf(err); code == fault.Canceled || code == fault.DeadlineExceeded { // not ctx's
		return fault.Wrap(err, fault.Unavailable, "the connection to the engine is lost")
	}
	return err
}

// follower is one Follow under way.
type follower struct {
	bucket  *Bucket
	options FollowOptions
	fn      func(Update, Point) error
	failed  error // fn's
	ended   error // what ended it once it stood

	standing bool
	synced   bool
	origin   Point         // when it began
	ahead    time.Duration // of the server's clock
	point    Point         // after what was reported last
}

func (f *follower) run(ctx context.Context, c *Conn) error {
	s, err := c.js.Stream(ctx, f.bucket.stream)
	if err != nil {
		return err
	}
	info := s.CachedInfo()
	now := info.TimeStamp
	if now.IsZero() {
		now = time.Now()
	}
	f.ahead = time.Until(now)
	f.origin = Point{info.State.LastSeq, now, info.Created.UnixNano()}
	f.point = f.origin
	feed := feed{bucket: f.bucket, heartbeat: watchHeartbeat, receiver: f}
	feed.config.FilterSubject = f.bucket.prefix + f.options.Pattern
	switch after := f.options.After; {
	case f.options.Initial:
		feed.config.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
	case after != nil:
		if !f.remembers(after, now) {
			return fault.New(fault.FailedPrecondition, "the engine does not remember all that was deleted since").WithReason(ReasonForgotten)
		}
		f.point = *after
		fallthrough
	default:
		feed.config.DeliverPolicy, feed.config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, f.point.seq+1
	}
	return feed.run(ctx, c)
}

// remembers reports whether the bucket still knows all that happened after p.
func (f *follower) remembers(p *Point, now time.Time) bool {
	switch {
	case p.created != f.origin.created, p.seq > f.origin.seq:
		return false
	case p.seq == f.origin.seq || !f.bucket.keyTTL:
		return true
	}
	return now.Sub(p.at) < tombstoneTTL-pointMargin
}

// begun implements receiver.
func (f *follower) begun(pending uint64) error {
	f.standing = true
	if f.options.Initial && pending > 0 {
		return nil
	}
	return f.sync()
}

// sync reports that what there was to report has been.
func (f *follower) sync() error {
	f.synced = true
	return f.call(Update{Op: OpSynced}, f.point)
}

// message implements receiver.
func (f *follower) message(e Entry, gone bool, pending uint64) error {
	if e.Revision > f.point.seq {
		f.point.seq, f.point.at = e.Revision, e.Created
	}
	u, p := Update{Op: OpPut, Entry: e}, f.point
	if !f.synced {
		p = Point{}
	}
	if gone {
		u = Update{Op: OpDelete, Entry: Entry{Key: e.Key, Revision: e.Revision, Created: e.Created, Header: e.Header}}
	}
	// What was deleted before the beginning is just not there.
	if old := gone && !f.synced && e.Revision <= f.origin.seq; !old {
		if err := f.call(u, p); err != nil {
			return err
		}
	}
	if !f.synced && pending == 0 {
		return f.sync()
	}
	return nil
}

// idle implements receiver. What was pending at the beginning may have ended
// before it was sent.
func (f *follower) idle() error {
	if !f.synced {
		return f.sync()
	}
	if now := time.Now().Add(f.ahead - watchHeartbeat); now.Sub(f.point.at) > pointRefresh {
		f.point.at = now
		return f.sync()
	}
	return nil
}

func (f *follower) call(u Update, p Point) error {
	f.failed = f.fn(u, p)
	return f.failed
}
