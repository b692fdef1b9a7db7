package mysql

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/jsoncolumn"
	"github.com/proa-io/proa/internal/sweep"
)

// StateConfig configures a state store on MySQL or MariaDB.
type StateConfig struct {
	PEM
	// ConnectionString names the server, and no database:
	// "user:password@tcp(localhost:3306)/?tls=custom". The parameters after
	// the ? are those of github.com/go-sql-driver/mysql.
	ConnectionString component.Secret `setting:"connectionString,required"`
	// SchemaName is the database. It is created if it is not there.
	SchemaName string `setting:"schemaName"`
	// TableName is the table of the items. It is created if it is not there.
	// In one that Dapr has created, keys have at most 255 characters, and one
	// that the table's collation takes for another's is refused, until
	// somebody changes the type of its column id to varbinary(2048).
	TableName string `setting:"tableName"`
	// MetadataTableName is the table that says when expired items were
	// removed.
	MetadataTableName string `setting:"metadataTableName"`
	// TimeoutInSeconds bounds each call of the database.
	TimeoutInSeconds component.Duration `setting:"timeoutInSeconds,timeout"`
	// CleanupInterval is how often expired items are removed, by one of the
	// processes that share the table; 0 or less for never. They count as gone
	// either way.
	CleanupInterval component.Duration `setting:"cleanupInterval,cleanupIntervalInSeconds"`
}

func stateDefaults() StateConfig {
	return StateConfig{
		SchemaName: "dapr_state_store", TableName: "state", MetadataTableName: "dapr_metadata",
		TimeoutInSeconds: component.Duration(20 * time.Second), CleanupInterval: component.Duration(time.Hour),
	}
}

// Validate reports settings that can never work.
func (c StateConfig) Validate() error {
	for setting, name := range map[string]string{"schemaName": c.SchemaName, "tableName": c.TableName, "metadataTableName": c.MetadataTableName} {
		if err := checkName(setting, name); err != nil {
			return err
		}
	}
	if c.TimeoutInSeconds.Std() < time.Second {
		return component.Invalid("timeoutInSeconds", "must be 1 at least")
	}
	if !c.ConnectionString.IsSet() {
		return component.Invalid("connectionString", `is required: "user:password@tcp(host:3306)/"`)
	}
	cfg, err := c.parse("connectionString", c.ConnectionString.Reveal())
	if err == nil && cfg.DBName != "" {
		return component.Invalid("connectionString", "must not name a database after the slash: schemaName does")
	}
	return err
}

// State is a state.Driver on a table of MySQL or MariaDB.
//
// All reads see every acknowledged write. Whether something has expired is
// judged by the clock of the database, which cannot count beyond the beginning
// of 2038.
type State struct {
	cfg     StateConfig
	db      *sql.DB
	keys    keyColumn
	exact   bool // JSON is kept beside its column too: see exactText
	table   string
	sweeper *sweep.Sweeper
	closed  atomic.Bool
}

// maxConns bounds the connections: a server has few of them.
const maxConns = 16

// OpenState connects to the server and prepares the tables.
func OpenState(ctx context.Context, cfg StateConfig, env component.Env) (*State, error) {
	s := &State{cfg: cfg, table: "`" + cfg.TableName + "`"}
	limited, cancel := context.WithTimeout(ctx, cfg.TimeoutInSeconds.Std())
	defer cancel()
	if err := s.open(limited); err != nil {
		return nil, classify(ctx, err)
	}
	if err := s.prepare(limited); err != nil {
		_ = s.db.Close()
		return nil, classify(ctx, err)
	}
	s.sweeper = sweep.Start(ctx, cfg.CleanupInterval.Std(), env.Log, s.removeExpired)
	return s, nil
}

// open connects to the schema, and creates it when it is not there.
func (s *State) open(ctx context.Context) error {
	cfg, err := s.cfg.parse("connectionString", s.cfg.ConnectionString.Reveal())
	if err != nil {
		return err
	}
	cfg.DBName = s.cfg.SchemaName
	// One trip per statement; rows count when they change.
	cfg.InterpolateParams, cfg.ClientFoundRows, cfg.MultiStatements = true, false, false
	// Connections are also made without a call that waits for them.
	if cfg.ReadTimeout == 0 {
		cfg.ReadTimeout = s.cfg.TimeoutInSeconds.Std()
	}
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = s.cfg.TimeoutInSeconds.Std()
	}
	s.db, err = connect(ctx, cfg)
	if hasNumber(err, errUnknownDatabase) {
		if err := s.createSchema(ctx, cfg.Clone()); err != nil {
			return err
		}
		s.db, err = connect(ctx, cfg)
	}
	if err != nil {
		return err
	}
	s.db.SetMaxOpenConns(maxConns)
	s.db.SetMaxIdleConns(maxConns)
	s.db.SetConnMaxIdleTime(time.Minute) // before the server ends it
	return nil
}

func (s *State) createSchema(ctx context.Context, cfg *mysql.Config) error {
	cfg.DBName = ""
	db, err := connect(ctx, cfg)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS `"+s.cfg.SchemaName+"`")
	return errors.Join(err, db.Close())
}

// exactText is a column that we add where a column of JSON would not give back
// the same bytes: in MySQL, not in MariaDB. Dapr does not know it; so it counts
// only as long as it means what the value does.
const exactText = "proa_text"

// prepare creates the tables, and learns what those are like that are there.
func (s *State) prepare(ctx context.Context) error {
	var version string
	if err := s.db.QueryRowContext(ctx, "SELECT VERSION()").Scan(&version); err != nil {
		return err
	}
	s.exact = !strings.Contains(strings.ToLower(version), "mariadb")
	for _, stmt := range []string{
		"CREATE TABLE IF NOT EXISTS " + s.table + ` (
	id VARBINARY(2048) NOT NULL PRIMARY KEY,
	value JSON NOT NULL,
	isbinary BOOLEAN NOT NULL,
	insertDate TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
	updateDate TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
	eTag VARCHAR(36) NOT NULL,
	expiredate TIMESTAMP(3) NULL,
	INDEX expiredate_idx(expiredate))`,
		"CREATE TABLE IF NOT EXISTS `" + s.cfg.MetadataTableName + "` (id VARCHAR(255) NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
	} {
		if _, err := s.db.ExecContext(ctx, stmt); err != nil {
			return err
		}
	}
	return s.adapt(ctx)
}

// adapt adds the columns that a table lacks and learns of what type its keys
// are.
func (s *State) adapt(ctx context.Context) error {
	types := map[string]string{}
	rows, err := s.db.QueryContext(ctx, `SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = ? AND table_name = ?`,
		s.cfg.SchemaName, s.cfg.TableName)
	if err != nil {
		return err
	}
	err = forEach(rows, func(rows *sql.Rows) error {
		var name, typ string
		err := rows.Scan(&name, &typ)
		types[strings.ToLower(name)] = strings.ToLower(typ)
		return err
	})
	if err != nil {
		return err
	}
	s.keys = keyColumn{characters: !strings.Contains(types["id"], "binary")}
	add := map[string]string{}
	if types["expiredate"] == "" { // as versions of Dapr before 1.11 left it
		add["expiredate"] = "ADD COLUMN expiredate TIMESTAMP NULL, ADD INDEX expiredate_idx(expiredate)"
	}
	if s.exact && types[exactText] == "" {
		add[exactText] = "ADD COLUMN " + exactText + " LONGTEXT NULL"
	}
	for _, change := range add {
		const duplicateColumn = 1060 // somebody else has been faster
		if _, err := s.db.ExecContext(ctx, "ALTER TABLE "+s.table+" "+change); err != nil && !hasNumber(err, duplicateColumn) {
			return err
		}
	}
	return nil
}

// attempts is how often something is carried out that the server has undone to
// resolve a deadlock. It is not known to anybody but the server who stands in
// whose way.
const attempts = 10

// call runs f within the timeout, again when the server has chosen it to end a
// deadlock, and names its error. f carries out one transaction.
func (s *State) call(ctx context.Context, f func(context.Context) error) error {
	return s.once(ctx, func(limited context.Context) error {
		err := f(limited)
		for n := 1; n < attempts && hasNumber(err, errDeadlock, errChanged) && limited.Err() == nil; n++ {
			err = f(limited)
		}
		return err
	})
}

// once runs f within the timeout and names its error.
func (s *State) once(ctx context.Context, f func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, s.cfg.TimeoutInSeconds.Std())
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
	return s.call(ctx, func(ctx context.Context) error {
		const margin = 100 * time.Millisecond
		res, err := s.db.ExecContext(ctx, "INSERT INTO `"+s.cfg.MetadataTableName+"` (id, value) VALUES (?, CURRENT_TIMESTAMP) "+
			"ON DUPLICATE KEY UPDATE value = IF(CURRENT_TIMESTAMP > value + INTERVAL ? MICROSECOND, CURRENT_TIMESTAMP, value)",
			sweep.Row(s.cfg.TableName, stateDefaults().TableName), (s.cfg.CleanupInterval.Std() - margin).Microseconds())
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		for {
			res, err := s.db.ExecContext(ctx, "DELETE FROM "+s.table+" WHERE expiredate <= NOW(3) LIMIT 1000")
			if err != nil {
				return err
			}
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
	return s.db.Close()
}

// live is the condition that an item has not expired.
const live = "(expiredate IS NULL OR expiredate > NOW(3))"

// row is what columns selects.
type row struct {
	value   []byte
	base64  bool
	etag    string
	expires sql.NullFloat64 // seconds since 1970
	exact   []byte
}

func (s *State) columns() string {
	exact := "NULL"
	if s.exact {
		exact = exactText
	}
	return "value, isbinary, eTag, UNIX_TIMESTAMP(expiredate), " + exact
}

func (r *row) targets() []any { return []any{&r.value, &r.base64, &r.etag, &r.expires, &r.exact} }

// item returns the row as an item. Errors do not show the value.
func (r *row) item() (state.Item, error) {
	item := state.Item{Value: r.value, ETag: r.etag}
	if r.expires.Valid {
		item.Expires = time.UnixMilli(int64(r.expires.Float64 * 1000))
	}
	switch {
	case r.base64:
		value, err := jsoncolumn.Unquote(r.value)
		if err != nil {
			return state.Item{}, fault.Wrap(err, fault.FailedPrecondition, "the database holds a binary value that is not in base64")
		}
		item.Value = value
	case r.exact != nil && jsoncolumn.Same(r.exact, r.value):
		item.Value = r.exact
	}
	if item.Value == nil {
		item.Value = []byte{}
	}
	return item, nil
}

// Get implements state.Driver.
func (s *State) Get(ctx context.Context, key string, _ state.GetOptions) (item state.Item, found bool, err error) {
	var r row
	err = s.call(ctx, func(ctx context.Context) error {
		where, args := s.keys.is(key)
		return s.db.QueryRowContext(ctx, "SELECT "+s.columns()+" FROM "+s.table+" WHERE "+where+" AND "+live, args...).Scan(r.targets()...)
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
	const some = 1000
	out := make([]state.GetResult, 0, len(keys))
	for part := range slices.Chunk(keys, some) {
		found := map[string]state.GetResult{}
		in, args := s.keys.in(part)
		err := s.each(ctx, "SELECT id, "+s.columns()+" FROM "+s.table+" WHERE "+in+" AND "+live, args, func(rows *sql.Rows) error {
			var id string
			var r row
			if err := rows.Scan(append([]any{&id}, r.targets()...)...); err != nil {
				return err
			}
			item, err := r.item()
			found[id] = state.GetResult{Item: item, Found: err == nil, Err: err}
			return nil
		})
		for _, key := range part {
			if err != nil {
				out = append(out, state.GetResult{Err: err})
			} else {
				out = append(out, found[s.keys.asText(key)])
			}
		}
	}
	return out
}

// execer is a pool or a transaction.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// each reads rows.
func (s *State) each(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) error {
	return s.once(ctx, func(ctx context.Context) error {
		rows, err := s.db.QueryContext(ctx, query, args...)
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

// values returns what is to be stored at a key, and its new etag.
func (s *State) values(key string, value []byte, ttl time.Duration) (args []any, etag string, err error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, "", fault.Wrap(err, fault.Internal, "there is no randomness for an etag")
	}
	stored, err := s.keys.stored(key)
	if err != nil {
		return nil, "", err
	}
	if ttl > 0 && time.Now().Add(ttl).Unix() >= lastSecond {
		return nil, "", fault.New(fault.InvalidArgument, "the database cannot count as far as this item is to live: until 2038")
	}
	text, binary := string(value), false
	if !jsoncolumn.Fits(value) {
		text, binary = string(jsoncolumn.Quote(value)), true
	}
	var seconds, exact any
	if ttl > 0 {
		seconds = int64(ttl / time.Second)
	}
	if !binary {
		exact = text
	}
	args = []any{stored, text, binary, id.String(), seconds}
	if s.exact {
		args = append(args, exact)
	}
	return args, id.String(), nil
}

// lastSecond is a little before the end of the type TIMESTAMP.
const lastSecond = 1<<31 - 1000

// A row of the statement that writes items, and what it sets when the key is
// there; the expiry comes last, for others look at the old one.
func (s *State) insert() (names, placeholders string, set []string) {
	names, placeholders = "id, value, isbinary, eTag, expiredate", "(?, ?, ?, ?, NOW(3) + INTERVAL ? SECOND"
	set = []string{"value", "isbinary", "eTag"}
	if s.exact {
		names, placeholders = names+", "+exactText, placeholders+", ?"
		set = append(set, exactText)
	}
	return names, placeholders + ")", append(set, "expiredate")
}

// upsert returns the statement that writes n items whatever there is, or, with
// onlyIf, if that holds for what is there.
func (s *State) upsert(n int, onlyIf string) string {
	names, placeholders, set := s.insert()
	var b strings.Builder
	b.WriteString("INSERT INTO " + s.table + " (" + names + ") VALUES " + placeholders + strings.Repeat(", "+placeholders, n-1) + " ON DUPLICATE KEY UPDATE ")
	for i, name := range set {
		if i > 0 {
			b.WriteString(", ")
		}
		if onlyIf == "" {
			b.WriteString(name + " = VALUES(" + name + ")")
		} else {
			b.WriteString(name + " = IF(" + onlyIf + ", VALUES(" + name + "), " + name + ")")
		}
	}
	return b.String()
}

// put writes one item and returns its etag.
func (s *State) put(ctx context.Context, e execer, p *state.PutOp) (string, error) {
	args, etag, err := s.values(p.Key, p.Value, p.TTL)
	if err != nil {
		return "", err
	}
	switch {
	case p.ETag != "":
		return etag, s.update(ctx, e, p, args)
	case p.FirstWrite:
		n, err := affected(e.ExecContext(ctx, s.upsert(1, s.keys.same("expiredate <= NOW(3)")), args...))
		if err == nil && n == 0 {
			err = state.ErrExists()
		}
		return etag, err
	}
	n, err := affected(e.ExecContext(ctx, s.upsert(1, s.keys.same("")), args...))
	if err == nil && n == 0 {
		err = errCollides()
	}
	return etag, err
}

func errCollides() error {
	return fault.New(fault.FailedPrecondition,
		"the collation of the table takes this key for that of another item: change the type of its column id to varbinary(2048)")
}

// update writes an item if it has an etag.
func (s *State) update(ctx context.Context, e execer, p *state.PutOp, args []any) error {
	_, _, set := s.insert()
	var parts []string
	for _, name := range set {
		value := "?"
		if name == "expiredate" {
			value = "NOW(3) + INTERVAL ? SECOND"
		}
		parts = append(parts, name+" = "+value)
	}
	values := args[1:]
	if s.exact { // where the expiry comes last
		values = []any{args[1], args[2], args[3], args[5], args[4]}
	}
	where, key := s.keys.is(p.Key)
	all := append(append(slices.Clone(values), key...), p.ETag)
	n, err := affected(e.ExecContext(ctx, "UPDATE "+s.table+" SET "+strings.Join(parts, ", ")+" WHERE "+where+" AND eTag = ? AND "+live, all...))
	if err == nil && n == 0 {
		err = state.ErrETagMismatch()
	}
	return err
}

func affected(res sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// remove removes one item.
func (s *State) remove(ctx context.Context, e execer, key, etag string) error {
	where, args := s.keys.is(key)
	if etag == "" {
		_, err := e.ExecContext(ctx, "DELETE FROM "+s.table+" WHERE "+where, args...)
		return err
	}
	n, err := affected(e.ExecContext(ctx, "DELETE FROM "+s.table+" WHERE "+where+" AND eTag = ? AND "+live, append(args, etag)...))
	if err == nil && n == 0 {
		err = state.ErrETagMismatch()
	}
	return err
}

// Put implements state.Driver.
func (s *State) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (etag string, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		etag, err = s.put(ctx, s.db, &state.PutOp{Key: key, Value: value, PutOptions: opt})
		return err
	})
	if err != nil {
		return "", err
	}
	return etag, nil
}

// Delete implements state.Driver.
func (s *State) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	return s.call(ctx, func(ctx context.Context) error { return s.remove(ctx, s.db, key, opt.ETag) })
}

// List implements state.Lister.
func (s *State) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	return s.keys.list(ctx, s, prefix, after, limit)
}
