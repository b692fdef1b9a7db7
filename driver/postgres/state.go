package postgres

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/sweep"
	"github.com/proa-io/proa/internal/textkey"
)

// StateConfig has what is common to all state stores of this package.
type StateConfig struct {
	Config
	// MetadataTableName is the table that says how far the tables have been
	// prepared, and when expired items were removed.
	MetadataTableName string `setting:"metadataTableName"`
	// CleanupInterval is how often expired items are removed, by one of the
	// processes that share the table; 0 or less for never. They count as gone
	// either way.
	CleanupInterval component.Duration `setting:"cleanupInterval,cleanupIntervalInSeconds"`
}

// StateV1Config configures a state store in the format of version 1.
type StateV1Config struct {
	StateConfig
	// TableName is the table of the items, which may have its schema before
	// it: "public.state". It is created if it is not there. To list the keys of
	// one that Dapr has created reads all of it, until there is an index on
	// (key COLLATE "C").
	TableName string `setting:"tableName"`
}

// StateV2Config configures a state store in the format of version 2.
type StateV2Config struct {
	StateConfig
	// TablePrefix is what comes before "state" in the name of the table of the
	// items, which is created if it is not there. It may begin with a schema:
	// "public.my_". To list the keys of a table that Dapr has created reads all
	// of it, until there is an index on (key COLLATE "C").
	TablePrefix string `setting:"tablePrefix"`
}

func stateDefaults() StateConfig {
	return StateConfig{Config: defaults(), MetadataTableName: "dapr_metadata", CleanupInterval: component.Duration(time.Hour)}
}

func stateV1Defaults() StateV1Config {
	return StateV1Config{StateConfig: stateDefaults(), TableName: "state"}
}

func stateV2Defaults() StateV2Config { return StateV2Config{StateConfig: stateDefaults()} }

// Validate reports settings that can never work.
func (c StateV1Config) Validate() error {
	if err := checkTable("tableName", c.TableName); err != nil {
		return err
	}
	return c.StateConfig.Validate()
}

func (c StateV2Config) table() string { return c.TablePrefix + "state" }

// Validate reports settings that can never work.
func (c StateV2Config) Validate() error {
	if err := checkTable("tablePrefix", c.table()); err != nil {
		return err
	}
	return c.StateConfig.Validate()
}

// Validate reports settings that can never work.
func (c StateConfig) Validate() error {
	if err := checkTable("metadataTableName", c.MetadataTableName); err != nil {
		return err
	}
	return c.Config.Validate()
}

// Table is a state.Driver on a table.
//
// Keys are in a column of text: one that is no text is written in hexadecimal.
// All reads see every acknowledged write. Whether something has expired is
// judged by the clock of the database.
type Table struct {
	client  *client
	format  format
	sweeper *sweep.Sweeper
}

// State is a Table that also answers queries and tells of changes. For either,
// it adds functions and triggers to the schema of the table when first asked.
type State struct {
	*Table
	helpers helpers
}

// OpenStateV1 connects to PostgreSQL and prepares the tables of version 1.
func OpenStateV1(ctx context.Context, cfg StateV1Config, env component.Env) (*State, error) {
	return withHelpers(openTable(ctx, cfg.StateConfig, formatV1(cfg.TableName), schemaV1(cfg.TableName, cfg.MetadataTableName), cleanupRow(cfg), env))
}

func cleanupRow(cfg StateV1Config) string {
	return sweep.Row(cfg.TableName, stateV1Defaults().TableName)
}

// OpenStateV2 connects to PostgreSQL and prepares the tables of version 2.
func OpenStateV2(ctx context.Context, cfg StateV2Config, env component.Env) (*State, error) {
	return withHelpers(openV2(ctx, cfg, env))
}

func openV2(ctx context.Context, cfg StateV2Config, env component.Env) (*Table, error) {
	return openTable(ctx, cfg.StateConfig, formatV2(cfg.table()), schemaV2(cfg.table(), cfg.MetadataTableName, cfg.TablePrefix),
		"last-cleanup-state-v2-"+cfg.TablePrefix, env)
}

// OpenCockroachDB connects to CockroachDB and prepares the tables.
func OpenCockroachDB(ctx context.Context, cfg StateV1Config, env component.Env) (*Table, error) {
	return openTable(ctx, cfg.StateConfig, formatCockroach(cfg.TableName), schemaCockroach(cfg.TableName, cfg.MetadataTableName), cleanupRow(cfg), env)
}

// OpenYugabyteDB connects to YugabyteDB and prepares the tables.
func OpenYugabyteDB(ctx context.Context, cfg StateV2Config, env component.Env) (*Table, error) {
	return openV2(ctx, cfg, env)
}

func withHelpers(t *Table, err error) (*State, error) {
	if err != nil {
		return nil, err
	}
	return &State{Table: t}, nil
}

func openTable(ctx context.Context, cfg StateConfig, f format, tables schema, cleanup string, env component.Env) (*Table, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	if err := tables.ensure(ctx, c); err != nil {
		c.close()
		return nil, err
	}
	s := &Table{client: c, format: f}
	s.sweeper = sweep.Start(ctx, cfg.CleanupInterval.Std(), env.Log, func(ctx context.Context) error {
		return s.removeExpired(ctx, cfg.MetadataTableName, cleanup, cfg.CleanupInterval.Std())
	})
	return s, nil
}

// removeExpired removes expired items, unless another process did within the
// interval, as the row of account says.
func (s *Table) removeExpired(ctx context.Context, account, key string, interval time.Duration) error {
	const margin = 100 * time.Millisecond
	tag, err := s.client.exec(ctx, `INSERT INTO `+account+` AS m (key, value) VALUES ($1::text, now()::text)
ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value
WHERE EXTRACT(epoch FROM now() - m.value::timestamp with time zone) > $2::float8`, key, (interval - margin).Seconds())
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	// A few at a time, so that nobody waits long for their locks.
	const some = 1000
	remove := `DELETE FROM ` + s.format.table + ` WHERE key = ANY(ARRAY(SELECT key FROM ` + s.format.table + ` WHERE ` + s.format.expires +
		` < now() LIMIT 1000)) AND ` + s.format.expires + ` < now()`
	for {
		tag, err := s.client.exec(ctx, remove)
		if err != nil || tag.RowsAffected() < some {
			return err
		}
	}
}

// Close ends the removal of expired items and the connections.
func (s *Table) Close() error {
	s.sweeper.Stop()
	s.client.close()
	return nil
}

// row is what format.item reads.
type row struct {
	value   []byte
	base64  bool
	etag    pgtype.Text
	expires pgtype.Timestamptz
}

func (r *row) targets() []any { return []any{&r.value, &r.base64, &r.etag, &r.expires} }

// item returns the row as an item. The error does not show the value.
func (r *row) item() (state.Item, error) {
	item := state.Item{Value: r.value, ETag: r.etag.String, Expires: r.expires.Time}
	if r.base64 {
		value, err := base64.StdEncoding.AppendDecode(nil, r.value)
		if err != nil {
			return state.Item{}, fault.Wrap(err, fault.FailedPrecondition, "the database holds a binary value that is not in base64")
		}
		item.Value = value
	}
	item.Value = nonNil(item.Value)
	return item, nil
}

// Get implements state.Driver.
func (s *Table) Get(ctx context.Context, key string, _ state.GetOptions) (item state.Item, found bool, err error) {
	f := &s.format
	var r row
	found, err = s.client.first(ctx, `SELECT `+f.item+` FROM `+f.table+` WHERE key = $1::text AND `+f.live, []any{textkey.Encode(key)},
		func(cr pgx.CollectableRow) error { return cr.Scan(r.targets()...) })
	if err != nil || !found {
		return state.Item{}, false, err
	}
	item, err = r.item()
	return item, err == nil, err
}

// BulkGet implements state.BulkGetter.
func (s *Table) BulkGet(ctx context.Context, keys []string, _ state.GetOptions) []state.GetResult {
	const some = 1000
	out := make([]state.GetResult, 0, len(keys))
	for part := range slices.Chunk(keys, some) {
		out = append(out, s.getSome(ctx, part)...)
	}
	return out
}

func (s *Table) getSome(ctx context.Context, keys []string) []state.GetResult {
	f := &s.format
	texts := make([]string, len(keys))
	for i, k := range keys {
		texts[i] = textkey.Encode(k)
	}
	found := make(map[string]state.GetResult, len(keys))
	err := s.client.each(ctx, `SELECT key, `+f.item+` FROM `+f.table+` WHERE key = ANY($1::text[]) AND `+f.live, []any{texts},
		func(cr pgx.CollectableRow) error {
			var key string
			var r row
			if err := cr.Scan(append([]any{&key}, r.targets()...)...); err != nil {
				return err
			}
			item, err := r.item()
			found[key] = state.GetResult{Item: item, Found: err == nil, Err: err}
			return nil
		})
	out := make([]state.GetResult, len(keys))
	for i := range keys {
		if out[i] = found[texts[i]]; err != nil {
			out[i] = state.GetResult{Err: err}
		}
	}
	return out
}

// maxKey is how long a key may be, as text: about what fits into an index.
const maxKey = 2500

// write is a statement that writes or removes one item.
type write struct {
	key  string // as text
	sql  string
	args []any
	// returns tells that the statement returns the new etag; otherwise it
	// counts the rows.
	returns bool
	// lost is the error when there is no such row or count.
	lost func() error
}

func (s *Table) putOf(p *state.PutOp) (w write, err error) {
	f := &s.format
	w = write{sql: f.put, returns: true, args: f.args(textkey.Encode(p.Key), p.Value, p.TTL), lost: state.ErrETagMismatch}
	switch {
	case p.ETag != "":
		etag, err := f.checkETag(p.ETag)
		if err != nil {
			return w, err
		}
		w.sql, w.args = f.update, append(w.args, etag)
	case p.FirstWrite:
		w.sql, w.lost = f.create, state.ErrExists
	}
	w.key, err = keyText(p.Key)
	return w, err
}

func (s *Table) deleteOf(key, etag string) (w write, err error) {
	f := &s.format
	w = write{sql: `DELETE FROM ` + f.table + ` WHERE key = $1::text`, args: []any{textkey.Encode(key)}}
	if etag != "" {
		want, err := f.checkETag(etag)
		if err != nil {
			return w, err
		}
		w.sql, w.args = w.sql+` AND `+f.etag+` = $2::text AND `+f.live, append(w.args, want)
		w.lost = state.ErrETagMismatch
	}
	w.key, err = keyText(key)
	return w, err
}

// keyText returns a key as text, if it can be written.
func keyText(key string) (string, error) {
	text := textkey.Encode(key)
	if len(text) > maxKey {
		return "", fault.New(fault.InvalidArgument, "the key is too long: a database's index holds %d bytes of it", maxKey)
	}
	return text, nil
}

// outcome reads what a write answered.
func (w *write) outcome(rows pgx.Rows) (etag string, err error) {
	n := 0
	err = forEach(rows, func(cr pgx.CollectableRow) error {
		n++
		return cr.Scan(&etag)
	})
	if !w.returns {
		n = int(rows.CommandTag().RowsAffected())
	}
	if err == nil && n == 0 && w.lost != nil {
		err = w.lost()
	}
	return etag, err
}

func (s *Table) do(ctx context.Context, w write) (etag string, err error) {
	err = s.client.call(ctx, func(ctx context.Context) error {
		rows, err := s.client.pool.Query(ctx, w.sql, w.args...)
		if err != nil {
			return err
		}
		etag, err = w.outcome(rows)
		return err
	})
	return etag, err
}

// Put implements state.Driver.
func (s *Table) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (string, error) {
	w, err := s.putOf(&state.PutOp{Key: key, Value: value, PutOptions: opt})
	if err != nil {
		return "", err
	}
	return s.do(ctx, w)
}

// Delete implements state.Driver.
func (s *Table) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	w, err := s.deleteOf(key, opt.ETag)
	if err != nil {
		return err
	}
	_, err = s.do(ctx, w)
	return err
}

// BulkPut implements state.BulkPutter.
func (s *Table) BulkPut(ctx context.Context, puts []state.PutOp) []state.PutResult {
	out := make([]state.PutResult, len(puts))
	s.bulk(ctx, len(puts), func(i int) (write, error) { return s.putOf(&puts[i]) }, func(i int, etag string, err error) {
		out[i] = state.PutResult{ETag: etag, Err: err}
	})
	return out
}

// BulkDelete implements state.BulkDeleter.
func (s *Table) BulkDelete(ctx context.Context, deletes []state.DeleteOp) []error {
	out := make([]error, len(deletes))
	s.bulk(ctx, len(deletes), func(i int) (write, error) { return s.deleteOf(deletes[i].Key, deletes[i].ETag) }, func(i int, _ string, err error) {
		out[i] = err
	})
	return out
}

// batch is how many writes go to the server together: enough to pay for the
// trip, and few enough that nobody waits long for their locks.
const batch = 200

// bulk carries out n writes and reports what became of each.
func (s *Table) bulk(ctx context.Context, n int, make func(i int) (write, error), report func(i int, etag string, err error)) {
	var writes []write
	var places []int
	for i := range n {
		w, err := make(i)
		if err != nil {
			report(i, "", err)
			continue
		}
		writes, places = append(writes, w), append(places, i)
	}
	// Everybody takes locks in the same order, lest two wait for each other.
	order := sortedOrder(writes)
	for part := range slices.Chunk(order, batch) {
		s.bulkPart(ctx, writes, part, func(j int, etag string, err error) { report(places[j], etag, err) })
	}
}

// sortedOrder returns the places of writes in the order of their keys; those
// of one key stay in their order.
func sortedOrder(writes []write) []int {
	order := make([]int, len(writes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(writes[a].key, writes[b].key) })
	return order
}

// bulkPart sends the writes at the given places as one transaction. When that
// fails for what is in one of them, all are carried out one by one.
func (s *Table) bulkPart(ctx context.Context, writes []write, places []int, report func(i int, etag string, err error)) {
	etags, errs, err := s.send(ctx, writes, places)
	alone := err != nil && !fault.CodeOf(err).Retryable() && ctx.Err() == nil && len(places) > 1
	for j, i := range places {
		switch {
		case alone:
			etag, err := s.do(ctx, writes[i])
			report(i, etag, err)
		case err != nil:
			report(i, "", err)
		default:
			report(i, etags[j], errs[j])
		}
	}
}

// send carries out the writes at the given places as one transaction. It
// returns what became of each, or the error for which none was carried out.
func (s *Table) send(ctx context.Context, writes []write, places []int) (etags []string, errs []error, err error) {
	etags, errs = make([]string, len(places)), make([]error, len(places))
	err = s.client.call(ctx, func(ctx context.Context) error {
		b := &pgx.Batch{}
		for _, i := range places {
			b.Queue(writes[i].sql, writes[i].args...)
		}
		return readBatch(s.client.pool.SendBatch(ctx, b), len(places), func(j int, rows pgx.Rows) error {
			etags[j], errs[j] = writes[places[j]].outcome(rows)
			if rows.Err() != nil {
				return rows.Err()
			}
			return nil
		})
	})
	return etags, errs, err
}

// readBatch calls read with the rows of each of n statements.
func readBatch(results pgx.BatchResults, n int, read func(i int, rows pgx.Rows) error) error {
	for i := range n {
		rows, err := results.Query()
		if err == nil {
			err = read(i, rows)
		}
		if err != nil {
			_ = results.Close()
			return err
		}
	}
	return results.Close()
}

// List implements state.Lister.
func (s *Table) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	plain, marked := textkey.Ranges(prefix, after)
	keys, err := s.keys(ctx, plain, true, limit)
	if err != nil {
		return nil, err
	}
	more, err := s.keys(ctx, marked, false, limit)
	if err != nil {
		return nil, err
	}
	if len(more) > 0 {
		keys = append(keys, more...)
		slices.Sort(keys)
	}
	return keys[:min(limit, len(keys))], nil
}

// keys returns the first keys of a range; those that are not text are left out
// of one of plain keys.
func (s *Table) keys(ctx context.Context, r textkey.Range, plain bool, limit int) (keys []string, err error) {
	if r.Empty {
		return nil, ctx.Err()
	}
	f := &s.format
	key := "key" + f.bytewise
	sql := `SELECT key FROM ` + f.table + ` WHERE ` + f.live + ` AND ` + key + ` >= $1::text`
	args := []any{r.First, limit}
	if r.End != "" {
		sql, args = sql+` AND `+key+` < $3::text`, append(args, r.End)
	}
	if plain {
		m := textkey.Marked()
		sql += ` AND NOT (` + key + ` >= '` + m.First + `' AND ` + key + ` < '` + m.End + `')`
	}
	err = s.client.each(ctx, sql+` ORDER BY `+key+` LIMIT $2::bigint`, args, func(cr pgx.CollectableRow) error {
		var text string
		if err := cr.Scan(&text); err != nil {
			return err
		}
		if key, err := textkey.Decode(text); err == nil { // others may write what we do not
			keys = append(keys, key)
		}
		return nil
	})
	return keys, err
}
