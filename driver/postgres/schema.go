package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/proa-io/proa/fault"
)

// schema is what a format needs in the database, and where Dapr keeps account
// of what it has done about that already: a level per key of a table.
type schema struct {
	// account is the table, and key the key in it; no key for none.
	account, key string
	// steps lead from one level to the next. Each may be made again; others may
	// have gone further.
	steps []string
	// extras are statements of our own, carried out when probe fails because
	// of a column or a table that is missing.
	extras []string
	probe  string
}

// schemaV1 has what Dapr's component does about its tables in version 1, and a
// column of our own.
func schemaV1(table, account string) schema {
	return schema{
		account: account, key: "migrations",
		steps: []string{
			`CREATE TABLE IF NOT EXISTS ` + table + ` (
	key text COLLATE "C" NOT NULL PRIMARY KEY,
	value jsonb NOT NULL,
	isbinary boolean NOT NULL,
	insertdate timestamp with time zone NOT NULL DEFAULT now(),
	updatedate timestamp with time zone NULL)`,
			`ALTER TABLE ` + table + ` ADD COLUMN IF NOT EXISTS expiredate timestamp with time zone`,
		},
		extras: []string{`ALTER TABLE ` + table + ` ADD COLUMN IF NOT EXISTS ` + exactText + ` text`},
		probe:  `SELECT ` + exactText + ` FROM ` + table + ` LIMIT 0`,
	}
}

// schemaV2 has what Dapr's component does about its table in version 2.
func schemaV2(table, account, prefix string) schema {
	return schema{
		account: account, key: "migrations-state-v2-" + prefix,
		steps: []string{
			`CREATE TABLE IF NOT EXISTS ` + table + ` (
	key text COLLATE "C" NOT NULL PRIMARY KEY,
	value bytea NOT NULL,
	etag uuid NOT NULL DEFAULT gen_random_uuid(),
	created_at timestamp with time zone NOT NULL DEFAULT now(),
	updated_at timestamp with time zone,
	expires_at timestamp with time zone);
CREATE INDEX IF NOT EXISTS ` + indexName(table, "expires_at") + ` ON ` + table + ` (expires_at)`,
		},
		probe: `SELECT key FROM ` + table + ` LIMIT 0`,
	}
}

// schemaCockroach has what Dapr's component does, which keeps no account there.
func schemaCockroach(table, account string) schema {
	return schema{
		account: account,
		extras: []string{
			`CREATE TABLE IF NOT EXISTS ` + table + ` (
	key text NOT NULL PRIMARY KEY,
	value jsonb NOT NULL,
	isbinary boolean NOT NULL,
	etag INT,
	insertdate TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
	updatedate TIMESTAMP WITH TIME ZONE NULL,
	expiredate TIMESTAMP WITH TIME ZONE NULL)`,
			`ALTER TABLE ` + table + ` ADD COLUMN IF NOT EXISTS expiredate TIMESTAMP WITH TIME ZONE NULL`,
			`ALTER TABLE ` + table + ` ADD COLUMN IF NOT EXISTS ` + exactText + ` text`,
			`CREATE INDEX IF NOT EXISTS ` + indexName(table, "expiredate") + ` ON ` + table + ` (expiredate)`,
			`CREATE TABLE IF NOT EXISTS ` + account + ` (key text NOT NULL PRIMARY KEY, value text NOT NULL)`,
		},
		probe: `SELECT expiredate, ` + exactText + `, (SELECT value FROM ` + account + ` LIMIT 1) FROM ` + table + ` LIMIT 0`,
	}
}

// indexName returns what to call an index on a column of a table: what the
// database itself would.
func indexName(table, column string) string {
	table = table[strings.LastIndexByte(table, '.')+1:]
	if quoted, ok := strings.CutSuffix(table, `"`); ok {
		return quoted + "_" + column + `_idx"`
	}
	return table + "_" + column + "_idx"
}

// ensure brings the schema about. A database that has it already is only read,
// so a user without the right to change it will do then.
func (s schema) ensure(ctx context.Context, c *client) error {
	level, err := s.level(ctx, c)
	if err != nil && !missing(err) {
		return err
	}
	if err != nil || level < len(s.steps) {
		if err := s.climb(ctx, c, level); err != nil {
			return explainSchema(err)
		}
	}
	if _, err := c.exec(ctx, s.probe); err == nil || !missing(err) {
		return err
	}
	// The account is of another table: that of version 1 is one for all.
	if err := s.climb(ctx, c, 0); err != nil {
		return explainSchema(err)
	}
	for _, sql := range s.extras {
		if err := s.apply(ctx, c, sql); err != nil {
			return explainSchema(err)
		}
	}
	_, err = c.exec(ctx, s.probe)
	return err
}

func missing(err error) bool { return hasState(err, "42P01", "42703") }

func explainSchema(err error) error {
	if fault.Is(err, fault.PermissionDenied) {
		return fault.Wrap(err, fault.PermissionDenied,
			"the tables are not there as they must be, and the user may not create or change them: let a user open the component once that may")
	}
	return err
}

// level returns how many steps have been made.
func (s schema) level(ctx context.Context, c *client) (n int, err error) {
	if s.key == "" {
		return len(s.steps), nil
	}
	var text string
	found, err := c.first(ctx, `SELECT value FROM `+s.account+` WHERE key = $1::text`, []any{s.key}, func(row pgx.CollectableRow) error {
		return row.Scan(&text)
	})
	if err != nil || !found {
		return 0, err
	}
	if n, err = strconv.Atoi(text); err != nil || n < 0 {
		return 0, fault.New(fault.FailedPrecondition, "the table %s holds a level of %q that is no number", s.account, s.key)
	}
	return n, nil
}

// climb makes the steps that are missing, from the given level on. Others that
// want to, Dapr among them, wait meanwhile: they all lock the same row. The
// connection that does is one of its own, so that a pool of one is enough, and
// so that the lock ends with it.
func (s schema) climb(ctx context.Context, c *client, from int) error {
	if s.key == "" {
		return nil
	}
	if err := s.apply(ctx, c, `CREATE TABLE IF NOT EXISTS `+s.account+` (key text NOT NULL PRIMARY KEY, value text NOT NULL)`); err != nil {
		return err
	}
	if _, err := c.exec(ctx, `INSERT INTO `+s.account+` (key, value) VALUES ('lock', 'lock') ON CONFLICT (key) DO NOTHING`); err != nil {
		return err
	}
	return c.call(ctx, func(ctx context.Context) error {
		conn, err := pgx.ConnectConfig(ctx, c.pool.Config().ConnConfig)
		if err != nil {
			return err
		}
		defer closeSoon(ctx, conn)
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT value FROM `+s.account+` WHERE key = 'lock' FOR UPDATE`); err != nil {
			return err
		}
		for _, step := range s.steps[min(from, len(s.steps)):] {
			if err := s.apply(ctx, c, step); err != nil {
				return err
			}
		}
		_, err = c.exec(ctx, `INSERT INTO `+s.account+` AS m (key, value) VALUES ($1::text, $2::text)
ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value WHERE m.value::int < EXCLUDED.value::int`, s.key, fmt.Sprint(len(s.steps)))
		return err
	})
}

// apply carries out a statement that others may be carrying out too: what fails
// because both wanted to create the same is tried again.
func (s schema) apply(ctx context.Context, c *client, sql string) error {
	const attempts = 5
	for attempt := 1; ; attempt++ {
		// Several statements in one text go only by the simple protocol.
		_, err := c.exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		if err == nil || attempt == attempts || !hasState(err, "23505", "42710", "42P07", "42701", "40001", "XX000") {
			return err
		}
	}
}
