package redis

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/fault"
)

// freeRecheck is how often somebody who waits looks at a lock for whose release
// nobody would tell: Dapr's does not, and a user may lack the right to.
const freeRecheck = time.Second

// freeChannel is where releases of the locks of a database are told; the message
// is the name of the lock.
func freeChannel(db int) string { return "proa||free||" + strconv.Itoa(db) }

// AwaitFree implements lock.Watcher. All who wait share one connection.
func (l *Lock) AwaitFree(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	w, err := l.freed.Join(ctx, name)
	if err != nil {
		return err
	}
	defer w.Leave()
	for {
		left, held, err := l.left(ctx, name)
		if err != nil || !held {
			return err
		}
		timer := time.NewTimer(min(left, freeRecheck))
		select {
		case <-timer.C:
			continue
		case <-w.Rung():
		case <-w.Lost():
			err = fault.Wrap(w.Err(), fault.Unavailable, "the connection that tells of locks is lost")
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		timer.Stop()
		return err
	}
}

// left returns how long a lock is held unless it is released or renewed.
func (l *Lock) left(ctx context.Context, name string) (left time.Duration, held bool, err error) {
	res, err := l.client.do(ctx, l.client.build().Pttl().Key(name).Build())
	if err != nil {
		return 0, false, err
	}
	millis, err := res.AsInt64()
	switch {
	case err != nil:
		return 0, false, classify(ctx, err)
	case millis == -2: // no such key
		return 0, false, nil
	case millis < 0: // it has no end
		return freeRecheck, true, nil
	}
	return time.Duration(millis+1) * time.Millisecond, true, nil
}

// listen is the bell.Listen of locks.
func (l *Lock) listen(ctx context.Context, ready func(), rang func(string)) error {
	own, err := newLink(ctx, l.cfg)
	if err != nil {
		return classify(ctx, err)
	}
	defer own.close()
	ctx = rueidis.WithOnSubscriptionHook(ctx, func(rueidis.PubSubSubscription) { ready() })
	subscribe := own.redis.B().Subscribe().Channel(freeChannel(l.cfg.DB)).Build()
	return classify(ctx, own.redis.Receive(ctx, subscribe, func(m rueidis.PubSubMessage) { rang(m.Message) }))
}
