package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/internal/bell"
	"github.com/proa-io/proa/internal/sweep"
	"github.com/proa-io/proa/internal/textkey"
)

// LockConfig configures a lock store on PostgreSQL.
type LockConfig struct {
	Config
	// TableName is the table of the locks, which may have its schema before
	// it. It is created if it is not there.
	TableName string `setting:"tableName"`
}

func lockDefaults() LockConfig { return LockConfig{Config: defaults(), TableName: "proa_locks"} }

// Validate reports settings that can never work.
func (c LockConfig) Validate() error {
	if err := checkTable("tableName", c.TableName); err != nil {
		return err
	}
	return c.Config.Validate()
}

// LockStore is a lock.Driver, a lock.Renewer and a lock.Watcher on a table. Whether a lease has
// ended is judged by the clock of the database.
//
// A lock that is free keeps its row, and so its last token, for 30 days. Tokens
// begin with the time, so that those of a lock whose row is gone do not come
// back.
type LockStore struct {
	client  *client
	table   string
	sweeper *sweep.Sweeper
	freed   *bell.Bell
}

// freshToken is the smallest token that a lock may get now.
const freshToken = `(EXTRACT(epoch FROM clock_timestamp()) * 1000000)::bigint`

// OpenLock connects to PostgreSQL and prepares the table.
func OpenLock(ctx context.Context, cfg LockConfig, env component.Env) (*LockStore, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	l := &LockStore{client: c, table: cfg.TableName}
	if err := l.prepare(ctx); err != nil {
		c.close()
		return nil, err
	}
	l.sweeper = sweep.Start(ctx, time.Hour, env.Log, func(ctx context.Context) error {
		_, err := c.exec(ctx, `DELETE FROM `+l.table+` WHERE expires_at < clock_timestamp() - interval '30 days'`)
		return err
	})
	l.freed = bell.New(ctx, l.listen)
	return l, nil
}

func (l *LockStore) prepare(ctx context.Context) error {
	_, err := l.client.exec(ctx, `SELECT name, owner, token, expires_at FROM `+l.table+` LIMIT 0`)
	if !hasState(err, "42P01") {
		return err
	}
	return explainSchema((schema{}).apply(ctx, l.client, `CREATE TABLE IF NOT EXISTS `+l.table+` (
	name text NOT NULL PRIMARY KEY,
	owner text NOT NULL,
	token bigint NOT NULL,
	expires_at timestamp with time zone NOT NULL)`))
}

// Close implements io.Closer. It releases no locks.
func (l *LockStore) Close() error {
	l.freed.Close()
	l.sweeper.Stop()
	l.client.close()
	return nil
}

// Acquire implements lock.Driver.
func (l *LockStore) Acquire(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	text, err := keyText(name)
	if err != nil {
		return lock.Lease{}, err
	}
	lease, found, err := l.lease(ctx, ttl, `INSERT INTO `+l.table+` AS l (name, owner, token, expires_at)
VALUES ($1::text, $2::text, `+freshToken+`, clock_timestamp() + $3::bigint * interval '1 microsecond')
ON CONFLICT (name) DO UPDATE SET owner = EXCLUDED.owner, token = GREATEST(l.token + 1, `+freshToken+`),
	expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond'
WHERE l.expires_at <= clock_timestamp() RETURNING token`, text, textkey.Encode(owner))
	if err == nil && !found {
		err = lock.ErrHeld()
	}
	return lease, err
}

// Renew implements lock.Renewer.
func (l *LockStore) Renew(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	lease, found, err := l.lease(ctx, ttl, `UPDATE `+l.table+` SET expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond'
WHERE name = $1::text AND owner = $2::text AND expires_at > clock_timestamp() RETURNING token`, textkey.Encode(name), textkey.Encode(owner))
	if err == nil && !found {
		err = l.whyNot(ctx, name)
	}
	return lease, err
}

// lease runs a statement that returns the token of a lock that is now held.
func (l *LockStore) lease(ctx context.Context, ttl time.Duration, sql, name, owner string) (lease lock.Lease, found bool, err error) {
	began := time.Now()
	var token int64
	err = l.client.call(ctx, func(ctx context.Context) error {
		rows, err := l.client.pool.Query(ctx, sql, name, owner, ttl.Microseconds())
		if err != nil {
			return err
		}
		return forEach(rows, func(row pgx.CollectableRow) error {
			found = true
			return row.Scan(&token)
		})
	})
	if err != nil || !found {
		return lock.Lease{}, false, err
	}
	return lock.Lease{Token: uint64(token), Expires: began.Add(ttl)}, true, nil //nolint:gosec // never negative
}

// Release implements lock.Driver.
func (l *LockStore) Release(ctx context.Context, name, owner string) error {
	tag, err := l.client.exec(ctx, `WITH freed AS (UPDATE `+l.table+` SET expires_at = clock_timestamp()
	WHERE name = $1::text AND owner = $2::text AND expires_at > clock_timestamp() RETURNING tableoid, name)
SELECT pg_notify('`+changeChannel+`' || tableoid::text, CASE WHEN octet_length(name) > $3::int THEN '' ELSE name END) FROM freed`,
		textkey.Encode(name), textkey.Encode(owner), maxNotice)
	if err == nil && tag.RowsAffected() == 0 {
		return l.whyNot(ctx, name)
	}
	return err
}

// whyNot returns the error of an owner who does not hold a lock.
func (l *LockStore) whyNot(ctx context.Context, name string) error {
	held, err := l.client.first(ctx, `SELECT 1 FROM `+l.table+` WHERE name = $1::text AND expires_at > clock_timestamp()`,
		[]any{textkey.Encode(name)}, func(pgx.CollectableRow) error { return nil })
	switch {
	case err != nil:
		return err
	case held:
		return lock.ErrNotOwner()
	}
	return lock.ErrNotHeld()
}
