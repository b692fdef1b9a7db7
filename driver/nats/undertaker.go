package nats

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/engine"
)

// endHeader holds when an item's life ends, in milliseconds since 1970, where
// the server does not keep a TTL.
const endHeader = "Proa-Expires"

// endOf returns when an item goes away; zero for never.
func endOf(e engine.Entry) time.Time {
	if !e.Expires.IsZero() || len(e.Header) == 0 {
		return e.Expires
	}
	ms, err := strconv.ParseInt(e.Header.Get(endHeader), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// over reports whether an item has ended that the server has not removed.
func over(e engine.Entry) bool {
	if len(e.Header) == 0 || e.Header.Get(endHeader) == "" {
		return false
	}
	return !time.Now().Before(endOf(e))
}

// An undertaker removes from a bucket what the server keeps for ever: the marks
// that deletions leave, and items that are over.
type undertaker struct {
	bucket *engine.Bucket
	conn   *engine.Conn
	stream jetstream.Stream
	due    atomic.Bool // an item with an end was written since the last round
	end    context.CancelFunc
	work   sync.WaitGroup
}

// rounds is how often items that are over are looked for. Each round reads the
// keys of all items.
const rounds = 5 * time.Minute

func newUndertaker(ctx context.Context, e *engine.Engine, b *engine.Bucket) (*undertaker, error) {
	c, err := e.ConnFor(ctx, b.Name())
	if err != nil {
		return nil, err
	}
	u := &undertaker{bucket: b, conn: c}
	err = c.Do(ctx, func(ctx context.Context) (err error) {
		u.stream, err = c.JetStream().Stream(ctx, "KV_"+b.Name())
		return err
	})
	if err != nil {
		return nil, err
	}
	u.due.Store(true) // an earlier process may have left some
	var life context.Context
	life, u.end = context.WithCancel(context.WithoutCancel(ctx))
	u.work.Go(func() { u.run(life) })
	return u, nil
}

// expect tells that an item with an end is being written.
func (u *undertaker) expect() { u.due.Store(true) }

func (u *undertaker) stop() {
	u.end()
	u.work.Wait()
}

func (u *undertaker) run(ctx context.Context) {
	tick := time.NewTicker(rounds)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			u.round(ctx)
		}
	}
}

// round removes all items that are over. What it cannot remove is left for the
// next one.
func (u *undertaker) round(ctx context.Context) {
	if !u.due.Swap(false) {
		return
	}
	more := false
	err := u.bucket.EachKey(ctx, ">", func(e engine.Entry) error {
		switch {
		case endOf(e).IsZero():
			return nil
		case over(e):
			return u.purge(ctx, e.Key, e.Revision)
		}
		more = true
		return nil
	})
	if more || err != nil {
		u.due.Store(true)
	}
}

// purge removes what the bucket holds at a written key, up to a revision; all
// of it for 0.
func (u *undertaker) purge(ctx context.Context, written string, upTo uint64) error {
	opts := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject("$KV." + u.bucket.Name() + "." + written)}
	if upTo > 0 {
		opts = append(opts, jetstream.WithPurgeSequence(upTo+1))
	}
	return u.conn.Do(ctx, func(ctx context.Context) error { return u.stream.Purge(ctx, opts...) })
}

// remove deletes the item at a written key if revision is its, which only a
// mark can do, and then the mark. That it stays when the second step fails does
// no harm: it is small, and goes with the next deletion.
func (u *undertaker) remove(ctx context.Context, written string, revision uint64) error {
	mark := nats.NewMsg("$KV." + u.bucket.Name() + "." + written)
	mark.Header.Set("KV-Operation", "DEL")
	mark.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(revision, 10))
	ack, err := u.conn.Publish(ctx, mark)
	if err != nil {
		return err
	}
	_ = u.purge(ctx, written, ack.Sequence)
	return nil
}
