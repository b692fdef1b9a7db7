package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/textkey"
)

// freeRecheck is how often somebody who waits looks at a lock, in case its
// release is not told: a proxy between may not pass on notifications.
const freeRecheck = 2 * time.Second

// AwaitFree implements lock.Watcher. All who wait share one connection.
func (l *LockStore) AwaitFree(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	key := textkey.Encode(name)
	w, err := l.freed.Join(ctx, key)
	if err != nil {
		return err
	}
	defer w.Leave()
	for {
		left, held, err := l.left(ctx, key)
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
func (l *LockStore) left(ctx context.Context, key string) (left time.Duration, held bool, err error) {
	held, err = l.client.first(ctx, `SELECT (EXTRACT(epoch FROM expires_at - clock_timestamp()) * 1000000)::bigint
FROM `+l.table+` WHERE name = $1::text AND expires_at > clock_timestamp()`, []any{key}, func(row pgx.CollectableRow) error {
		var micros int64
		err := row.Scan(&micros)
		left = max(0, time.Duration(micros)*time.Microsecond) + time.Millisecond
		return err
	})
	return left, held, err
}

// listen is the bell.Listen of locks.
func (l *LockStore) listen(ctx context.Context, ready func(), rang func(string)) error {
	conn, err := l.client.listen(ctx, l.table, "")
	if err != nil {
		return err
	}
	defer closeSoon(ctx, conn)
	ready()
	return l.client.receive(ctx, conn, func(name string) error {
		rang(name)
		return nil
	})
}
