package sqlite

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/internal/sqlstate"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/sweep"
	"github.com/proa-io/proa/internal/textkey"
)

// StateConfig configures a state store in a SQLite database.
type StateConfig struct {
	Config
	// TableName is the table of the items. It is created if it is not there.
	TableName string `setting:"tableName"`
	// MetadataTableName is the table that says how far the tables have been
	// prepared, and when expired items were removed.
	MetadataTableName string `setting:"metadataTableName"`
	// CleanupInterval is how often expired items are removed, by one of the
	// processes that share the table; 0 or less for never. They count as gone
	// either way.
	CleanupInterval component.Duration `setting:"cleanupInterval,cleanupIntervalInSeconds"`
}

func stateDefaults() StateConfig {
	return StateConfig{Config: defaults(), TableName: "state", MetadataTableName: "metadata"}
}

// Validate reports settings that can never work.
func (c StateConfig) Validate() error {
	if err := checkTable("tableName", c.TableName); err != nil {
		return err
	}
	if err := checkTable("metadataTableName", c.MetadataTableName); err != nil {
		return err
	}
	return c.Config.Validate()
}

// State is a state.Driver in a SQLite database.
//
// All writes of this process go over one connection, one after the other;
// those of several processes wait for each other. Reads of a file are
// concurrent, and see every acknowledged write.
type State struct {
	cfg     StateConfig
	table   string // quoted
	log     string // the table of changes, quoted
	write   *sql.DB
	read    *sql.DB // the same as write for a database in memory
	sweeper *sweep.Sweeper
	closed  atomic.Bool
	news    news
	logging atomic.Bool // the table of changes is known to be there
}

// OpenState opens the database and prepares the tables.
func OpenState(ctx context.Context, cfg StateConfig, env component.Env) (*State, error) {
	src, err := cfg.source()
	if err != nil {
		return nil, err
	}
	s := &State{cfg: cfg, table: quoted(cfg.TableName), log: quoted(cfg.TableName + "_proa_changes")}
	if s.write, err = sql.Open("sqlite", src.name); err != nil {
		return nil, classify(ctx, err)
	}
	s.write.SetMaxOpenConns(1)
	s.write.SetMaxIdleConns(1) // what is in memory goes with the connection
	s.read = s.write
	if !src.memory {
		if s.read, err = sql.Open("sqlite", src.name); err != nil {
			return nil, classify(ctx, errors.Join(err, s.write.Close()))
		}
		s.read.SetMaxOpenConns(max(4, runtime.GOMAXPROCS(0)))
		s.read.SetMaxIdleConns(max(4, runtime.GOMAXPROCS(0)))
	}
	if err := s.call(ctx, s.prepare); err != nil {
		_ = s.closeAll()
		return nil, err
	}
	s.sweeper = sweep.Start(ctx, cfg.CleanupInterval.Std(), env.Log, s.removeExpired)
	return s, nil
}

// prepare creates what is missing. Dapr's component keeps account of what it
// has done, and so do we.
func (s *State) prepare(ctx context.Context) error {
	account := quoted(s.cfg.MetadataTableName)
	return s.transaction(ctx, func(tx *sql.Tx) error {
		for _, stmt := range []string{
			`CREATE TABLE IF NOT EXISTS ` + account + ` (key text NOT NULL PRIMARY KEY, value text NOT NULL)`,
			`CREATE TABLE IF NOT EXISTS ` + s.table + ` (
	key TEXT NOT NULL PRIMARY KEY,
	value TEXT NOT NULL,
	is_binary BOOLEAN NOT NULL,
	etag TEXT NOT NULL,
	expiration_time TIMESTAMP DEFAULT NULL,
	update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)`,
			`INSERT INTO ` + account + ` (key, value) VALUES ('migrations', '1') ON CONFLICT (key) DO NOTHING`,
		} {
			if _, err := tx.ExecContext(ctx, stmt); err != nil {
				return err
			}
		}
		return nil
	})
}

// transaction carries out f, all or nothing, while nobody else writes.
func (s *State) transaction(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// call runs f within the timeout and names its error.
func (s *State) call(ctx context.Context, f func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, s.cfg.Timeout.Std())
	defer cancel()
	err := f(limited)
	if err != nil && s.closed.Load() {
		return state.ErrClosed()
	}
	return classify(ctx, err)
}

// removeExpired removes expired items, unless another process did within the
// interval.
func (s *State) removeExpired(ctx context.Context) error {
	now := time.Now()
	return s.call(ctx, func(ctx context.Context) error {
		due := now.Add(100*time.Millisecond - s.cfg.CleanupInterval.Std())
		res, err := s.write.ExecContext(ctx, `INSERT INTO `+quoted(s.cfg.MetadataTableName)+` AS m (key, value) VALUES (?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE m.value < ?`, sweep.Row(s.cfg.TableName, stateDefaults().TableName), timeText(now), timeText(due))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		for {
			res, err := s.write.ExecContext(ctx, `DELETE FROM `+s.table+` WHERE key IN (SELECT key FROM `+s.table+` WHERE expiration_time <= ? LIMIT 1000)`, timeText(now))
			if err != nil {
				return err
			}
			s.news.announce()
			if n, err := res.RowsAffected(); err != nil || n < 1000 {
				return err
			}
		}
	})
}

// Close ends the removal of expired items and the connections.
func (s *State) Close() error {
	s.sweeper.Stop()
	s.closed.Store(true)
	err := s.closeAll()
	s.news.announce()
	return err
}

func (s *State) closeAll() error {
	err := s.write.Close()
	if s.read != s.write {
		err = errors.Join(s.read.Close(), err)
	}
	return err
}

// timeFormat is how SQLite writes times, to the millisecond; Dapr's component
// writes whole seconds, which order the same.
const timeFormat = "2006-01-02 15:04:05.000"

func timeText(t time.Time) string { return t.UTC().Format(timeFormat) }

func now() string { return timeText(time.Now()) }

// live is the condition that an item has not expired; its argument is now.
const live = `(expiration_time IS NULL OR expiration_time > ?)`

// columns are what row reads. The expiry is cast so that the client library
// does not try to understand it.
const columns = `value, is_binary, etag, CAST(expiration_time AS TEXT)`

type row struct {
	value   []byte
	base64  bool
	etag    string
	expires sql.NullString
}

func (r *row) targets() []any { return []any{&r.value, &r.base64, &r.etag, &r.expires} }

// item returns the row as an item. Errors do not show the value.
func (r *row) item() (state.Item, error) {
	item := state.Item{Value: r.value, ETag: r.etag}
	if r.base64 {
		value, err := base64.StdEncoding.AppendDecode(nil, r.value)
		if err != nil {
			return state.Item{}, fault.Wrap(err, fault.FailedPrecondition, "the database holds a binary value that is not in base64")
		}
		item.Value = value
	}
	if item.Value == nil {
		item.Value = []byte{}
	}
	if r.expires.Valid {
		var err error
		if item.Expires, err = time.Parse("2006-01-02 15:04:05.999999999", r.expires.String); err != nil {
			return state.Item{}, fault.Wrap(err, fault.FailedPrecondition, "the database holds an expiry that is no time")
		}
	}
	return item, nil
}

// Get implements state.Driver.
func (s *State) Get(ctx context.Context, key string, _ state.GetOptions) (item state.Item, found bool, err error) {
	var r row
	err = s.call(ctx, func(ctx context.Context) error {
		return s.read.QueryRowContext(ctx, `SELECT `+columns+` FROM `+s.table+` WHERE key = ? AND `+live, key, now()).Scan(r.targets()...)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return state.Item{}, false, nil
	}
	if err == nil {
		item, err = r.item()
	}
	return item, err == nil, err
}

// BulkGet implements state.BulkGetter.
func (s *State) BulkGet(ctx context.Context, keys []string, _ state.GetOptions) []state.GetResult {
	const some = 500
	out := make([]state.GetResult, 0, len(keys))
	for part := range slices.Chunk(keys, some) {
		found := map[string]state.GetResult{}
		err := s.getSome(ctx, part, found)
		for _, key := range part {
			if err != nil {
				out = append(out, state.GetResult{Err: err})
			} else {
				out = append(out, found[key])
			}
		}
	}
	return out
}

func (s *State) getSome(ctx context.Context, keys []string, found map[string]state.GetResult) error {
	args := make([]any, 0, len(keys)+1)
	for _, k := range keys {
		args = append(args, k)
	}
	query := `SELECT key, ` + columns + ` FROM ` + s.table + ` WHERE key IN (?` + strings.Repeat(", ?", len(keys)-1) + `) AND ` + live
	return s.each(ctx, query, append(args, now()), func(rows *sql.Rows) error {
		var key string
		var r row
		if err := rows.Scan(append([]any{&key}, r.targets()...)...); err != nil {
			return err
		}
		item, err := r.item()
		found[key] = state.GetResult{Item: item, Found: err == nil, Err: err}
		return nil
	})
}

// each reads rows.
func (s *State) each(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) error {
	return s.call(ctx, func(ctx context.Context) error {
		rows, err := s.read.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		return forEach(rows, scan)
	})
}

// forEach calls scan with each of rows, and closes them.
func forEach(rows *sql.Rows, scan func(*sql.Rows) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// execer is a connection or a transaction.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// put writes one item and returns its etag.
func (s *State) put(ctx context.Context, e execer, p *state.PutOp) (string, error) {
	at := time.Now()
	value, binary, expires := string(p.Value), false, sql.NullString{}
	if !utf8.Valid(p.Value) || !json.Valid(p.Value) {
		value, binary = base64.StdEncoding.EncodeToString(p.Value), true
	}
	if p.TTL > 0 {
		expires = sql.NullString{String: timeText(at.Add(p.TTL)), Valid: true}
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return "", err
	}
	etag := id.String()
	args := []any{value, binary, etag, timeText(at), expires, p.Key}
	stmt, lost := `INSERT INTO `+s.table+` AS t (value, is_binary, etag, update_time, expiration_time, key) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, is_binary = excluded.is_binary, etag = excluded.etag,
	update_time = excluded.update_time, expiration_time = excluded.expiration_time`, state.ErrETagMismatch
	switch {
	case p.ETag != "":
		stmt = `UPDATE ` + s.table + ` SET value = ?, is_binary = ?, etag = ?, update_time = ?, expiration_time = ? WHERE key = ? AND etag = ? AND ` + live
		args = append(args, p.ETag, timeText(at))
	case p.FirstWrite:
		stmt, lost = stmt+` WHERE t.expiration_time <= ?`, state.ErrExists
		args = append(args, timeText(at))
	}
	return etag, affect(ctx, e, lost, stmt, args...)
}

// affect carries out a statement that must change something.
func affect(ctx context.Context, e execer, lost func() error, stmt string, args ...any) error {
	res, err := e.ExecContext(ctx, stmt, args...)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 || lost == nil {
		return err
	}
	return lost()
}

// remove removes one item.
func (s *State) remove(ctx context.Context, e execer, key, etag string) error {
	if etag == "" {
		return affect(ctx, e, nil, `DELETE FROM `+s.table+` WHERE key = ?`, key)
	}
	return affect(ctx, e, state.ErrETagMismatch, `DELETE FROM `+s.table+` WHERE key = ? AND etag = ? AND `+live, key, etag, now())
}

// Put implements state.Driver.
func (s *State) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (etag string, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		etag, err = s.put(ctx, s.write, &state.PutOp{Key: key, Value: value, PutOptions: opt})
		return err
	})
	if err != nil {
		return "", err
	}
	s.news.announce()
	return etag, nil
}

// Delete implements state.Driver.
func (s *State) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	err := s.call(ctx, func(ctx context.Context) error { return s.remove(ctx, s.write, key, opt.ETag) })
	s.news.announce()
	return err
}

// batch is how many writes are carried out together: a commit costs as much as
// many writes, and others wait for its end.
const batch = 200

// BulkPut implements state.BulkPutter.
func (s *State) BulkPut(ctx context.Context, puts []state.PutOp) []state.PutResult {
	out := make([]state.PutResult, len(puts))
	s.bulk(ctx, len(puts), func(ctx context.Context, tx *sql.Tx, i int) (err error) {
		out[i].ETag, err = s.put(ctx, tx, &puts[i])
		return err
	}, func(i int, err error) {
		if out[i].Err = err; err != nil {
			out[i].ETag = ""
		}
	})
	return out
}

// BulkDelete implements state.BulkDeleter.
func (s *State) BulkDelete(ctx context.Context, deletes []state.DeleteOp) []error {
	out := make([]error, len(deletes))
	s.bulk(ctx, len(deletes), func(ctx context.Context, tx *sql.Tx, i int) error {
		return s.remove(ctx, tx, deletes[i].Key, deletes[i].ETag)
	}, func(i int, err error) { out[i] = err })
	return out
}

// bulk carries out n writes, some at a time, and reports what became of each. A
// write that is refused does not affect the others.
func (s *State) bulk(ctx context.Context, n int, do func(ctx context.Context, tx *sql.Tx, i int) error, report func(i int, err error)) {
	for first := 0; first < n; first += batch {
		last := min(first+batch, n)
		errs := make([]error, last-first)
		err := s.call(ctx, func(ctx context.Context) error {
			return s.transaction(ctx, func(tx *sql.Tx) error {
				for i := first; i < last; i++ {
					err := do(ctx, tx, i)
					if _, refused := errors.AsType[*fault.Error](err); err != nil && !refused {
						return err
					}
					errs[i-first] = err
				}
				return nil
			})
		})
		for i := range errs {
			if err != nil {
				errs[i] = err
			}
			report(first+i, errs[i])
		}
	}
	s.news.announce()
}

// MaxTransaction implements state.Transactor: there is no limit.
func (s *State) MaxTransaction() int { return 0 }

// same is how keys and etags are in the database: as they are.
func same(text string) (string, error) { return text, nil }

// Transact implements state.Transactor. Nobody else writes meanwhile.
func (s *State) Transact(ctx context.Context, ops []state.Op, _ state.TransactOptions) error {
	if len(ops) == 0 {
		return ctx.Err()
	}
	p, err := sqlstate.NewPlan(ops, same, same)
	if err != nil {
		return err
	}
	err = s.call(ctx, func(ctx context.Context) error {
		return s.transaction(ctx, func(tx *sql.Tx) error {
			if p.Conditional {
				etags, err := s.etags(ctx, tx, p.Keys)
				if err != nil {
					return err
				}
				if _, err := p.Check(etags); err != nil {
					return err
				}
			}
			for _, i := range p.Writes {
				op := &ops[i]
				if op.Delete {
					err = s.remove(ctx, tx, op.Key, "")
				} else {
					_, err = s.put(ctx, tx, &state.PutOp{Key: op.Key, Value: op.Value, PutOptions: state.PutOptions{TTL: op.TTL}})
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	s.news.announce()
	return err
}

// etags returns the etags of the items there are at keys.
func (s *State) etags(ctx context.Context, tx *sql.Tx, keys []string) (map[string]string, error) {
	const some = 500
	etags := make(map[string]string, len(keys))
	for part := range slices.Chunk(keys, some) {
		args := make([]any, 0, len(part)+1)
		for _, k := range part {
			args = append(args, k)
		}
		rows, err := tx.QueryContext(ctx, `SELECT key, etag FROM `+s.table+` WHERE key IN (?`+strings.Repeat(", ?", len(part)-1)+`) AND `+live, append(args, now())...)
		if err != nil {
			return nil, err
		}
		err = forEach(rows, func(rows *sql.Rows) error {
			var key, etag string
			err := rows.Scan(&key, &etag)
			etags[key] = etag
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return etags, nil
}

// List implements state.Lister.
func (s *State) List(ctx context.Context, prefix, after string, limit int) (keys []string, err error) {
	where, args := `key >= ? AND key > ? AND `+live, []any{prefix, after, now()}
	if end, bounded := textkey.Successor(prefix); bounded {
		where, args = where+` AND key < ?`, append(args, end)
	}
	err = s.each(ctx, `SELECT key FROM `+s.table+` WHERE `+where+` ORDER BY key LIMIT ?`, append(args, limit), func(rows *sql.Rows) error {
		var key string
		err := rows.Scan(&key)
		keys = append(keys, key)
		return err
	})
	return keys, err
}
