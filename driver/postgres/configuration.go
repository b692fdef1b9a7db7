package postgres

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// ConfigConfig configures a configuration store on PostgreSQL.
type ConfigConfig struct {
	Config
	// Table is the table of the items, with the columns key, value, version
	// (text) and metadata (json). It may have its schema before it. It is
	// created if it is not there.
	Table string `setting:"table,required"`
	// PollInterval is how often to look for changes that nobody may have told
	// of: when a subscription names a pgNotifyChannel, whose triggers are not
	// known, and when the user may not create triggers.
	PollInterval component.Duration `setting:"pollInterval"`
}

func configDefaults() ConfigConfig {
	return ConfigConfig{Config: defaults(), PollInterval: component.Duration(10 * time.Second)}
}

// Validate reports settings that can never work.
func (c ConfigConfig) Validate() error {
	if err := checkTable("table", c.Table); err != nil {
		return err
	}
	if c.PollInterval.Std() < 100*time.Millisecond {
		return component.Invalid("pollInterval", "must be 100ms at least")
	}
	return c.Config.Validate()
}

// ConfigStore is a config.Driver and a config.Writer on a table, the one that
// Dapr's component of the same name reads. Of several rows of one key the one
// with the highest number as its version counts.
//
// Changes are told by triggers of our own, unless a subscription names another
// channel in its metadata, as those of Dapr do: pgNotifyChannel.
type ConfigStore struct {
	client *client
	cfg    ConfigConfig
	log    *slog.Logger
	warn   sync.Once
}

// OpenConfig connects to PostgreSQL.
func OpenConfig(ctx context.Context, cfg ConfigConfig, env component.Env) (*ConfigStore, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	s := &ConfigStore{client: c, cfg: cfg, log: env.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.prepare(ctx); err != nil {
		c.close()
		return nil, err
	}
	return s, nil
}

func (s *ConfigStore) prepare(ctx context.Context) error {
	_, err := s.client.exec(ctx, `SELECT key, value, version, metadata FROM `+s.cfg.Table+` LIMIT 0`)
	if !hasState(err, "42P01") {
		return err
	}
	return explainSchema((schema{}).apply(ctx, s.client,
		`CREATE TABLE IF NOT EXISTS `+s.cfg.Table+` (key VARCHAR NOT NULL, value VARCHAR NOT NULL, version VARCHAR NOT NULL, metadata JSON)`))
}

// Close implements io.Closer.
func (s *ConfigStore) Close() error {
	s.client.close()
	return nil
}

// Get implements config.Driver.
func (s *ConfigStore) Get(ctx context.Context, q config.Query) (map[string]config.Item, error) {
	items, err := s.read(ctx, q.Keys)
	return items, err
}

// read returns the items at keys, or all without any.
func (s *ConfigStore) read(ctx context.Context, keys []string) (map[string]config.Item, error) {
	sql, args := `SELECT key, COALESCE(value::text, ''), COALESCE(version::text, ''), COALESCE(metadata::text, '') FROM `+s.cfg.Table, []any(nil)
	if len(keys) > 0 {
		// What is no text is in no table.
		sql, args = sql+` WHERE key = ANY($1::text[])`, []any{slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !isText(k) })}
	}
	items := map[string]config.Item{}
	err := s.client.each(ctx, sql, args, func(row pgx.CollectableRow) error {
		var key, metadata string
		var item config.Item
		if err := row.Scan(&key, &item.Value, &item.Version, &metadata); err != nil {
			return err
		}
		if old, dup := items[key]; dup && number(item.Version) <= number(old.Version) {
			return nil
		}
		item.Metadata = metadataOf(metadata)
		items[key] = item
		return nil
	})
	if err != nil {
		return nil, err
	}
	return items, nil
}

func isText(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// number returns a version as a number; -1 for one that is none.
func number(version string) int64 {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// metadataOf reads an object of JSON. What is no text in it stays JSON.
func metadataOf(text string) map[string]string {
	var raw map[string]json.RawMessage
	if text == "" || json.Unmarshal([]byte(text), &raw) != nil || len(raw) == 0 {
		return nil
	}
	out := make(map[string]string, len(raw))
	for k, v := range raw {
		var s string
		if json.Unmarshal(v, &s) != nil {
			s = string(v)
		}
		out[k] = s
	}
	return out
}

// Write implements config.Writer. Only one process at a time writes.
func (s *ConfigStore) Write(ctx context.Context, writes []config.Write) ([]string, error) {
	for _, w := range writes {
		if !isText(w.Key) || !isText(w.Value) {
			return nil, fault.New(fault.InvalidArgument, "keys and values of this store are UTF-8 without NUL")
		}
	}
	versions := make([]string, len(writes))
	err := s.client.call(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.client.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `LOCK TABLE `+s.cfg.Table+` IN SHARE ROW EXCLUSIVE MODE`); err != nil {
				return err
			}
			rows, err := s.rows(ctx, tx, writes)
			if err != nil {
				return err
			}
			b := &pgx.Batch{}
			for i, w := range writes {
				old, exists := rows[w.Key]
				if !w.Expect.Met(config.Item{Version: old.version}, exists) {
					return config.ErrConflict(w.Key)
				}
				versions[i] = s.queue(b, w, old, exists)
			}
			return tx.SendBatch(ctx, b).Close()
		})
	})
	if err != nil {
		return nil, err
	}
	return versions, nil
}

// versionRow is where the item of a key is in the table, and its version.
type versionRow struct{ place, version string }

// rows returns the rows that count, by key.
func (s *ConfigStore) rows(ctx context.Context, tx pgx.Tx, writes []config.Write) (map[string]versionRow, error) {
	keys := make([]string, len(writes))
	for i, w := range writes {
		keys[i] = w.Key
	}
	found, err := tx.Query(ctx, `SELECT key, ctid::text, COALESCE(version::text, '') FROM `+s.cfg.Table+` WHERE key = ANY($1::text[])`, keys)
	if err != nil {
		return nil, err
	}
	rows := map[string]versionRow{}
	err = forEach(found, func(row pgx.CollectableRow) error {
		var key string
		var r versionRow
		err := row.Scan(&key, &r.place, &r.version)
		if old, dup := rows[key]; !dup || number(r.version) > number(old.version) {
			rows[key] = r
		}
		return err
	})
	return rows, err
}

// queue adds the statements of a write, and returns the new version. That of a
// new item is a time, so that those of one deleted before do not come back.
func (s *ConfigStore) queue(b *pgx.Batch, w config.Write, old versionRow, exists bool) (version string) {
	if w.Delete {
		b.Queue(`DELETE FROM `+s.cfg.Table+` WHERE key = $1::text`, w.Key)
		return ""
	}
	next := time.Now().UnixMicro()
	if n := number(old.version); exists && n >= 0 {
		next = n + 1
	}
	version = strconv.FormatInt(next, 10)
	if exists {
		b.Queue(`DELETE FROM `+s.cfg.Table+` WHERE key = $1::text AND ctid <> $2::text::tid`, w.Key, old.place)
		b.Queue(`UPDATE `+s.cfg.Table+` SET value = $2::text, version = $3::text WHERE ctid = $1::text::tid`, old.place, w.Value, version)
	} else {
		b.Queue(`INSERT INTO `+s.cfg.Table+` (key, value, version) VALUES ($1::text, $2::text, $3::text)`, w.Key, w.Value, version)
	}
	return version
}

// metadataChannel is the metadata of a subscription that names the channel on
// which triggers of the user tell of changes.
const metadataChannel = "pgNotifyChannel"

// channelOf returns the channel that a query names, as it stands in a
// statement, or "".
func channelOf(q config.Query) (string, error) {
	for name, value := range q.Metadata {
		if !strings.EqualFold(name, metadataChannel) || value == "" {
			continue
		}
		// Written as it is, it means what it does to Dapr.
		if matches(identifier, value) {
			return value, nil
		}
		if !isText(value) {
			return "", fault.New(fault.InvalidArgument, "the metadata %s does not name a channel", metadataChannel)
		}
		return pgx.Identifier{value}.Sanitize(), nil
	}
	return "", nil
}

// Watch implements config.Driver.
func (s *ConfigStore) Watch(ctx context.Context, q config.Query, report func(config.Event)) error {
	channel, err := channelOf(q)
	if err != nil {
		return err
	}
	poll := channel != ""
	if channel == "" {
		switch err := s.client.ensureTriggers(ctx, s.cfg.Table); {
		case fault.Is(err, fault.PermissionDenied):
			poll = true
			s.warn.Do(func() {
				s.log.WarnContext(ctx, "the user may not create triggers: changes are looked for at intervals", "interval", s.cfg.PollInterval.Std())
			})
		case err != nil:
			return err
		}
	}
	conn, err := s.client.listen(ctx, s.cfg.Table, channel)
	if err != nil {
		return err
	}
	defer closeSoon(ctx, conn)
	w := &configWatch{store: s, query: q, report: report, ownTriggers: channel == "", wake: make(chan struct{}, 1), changed: map[string]struct{}{}}
	running, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel(nil)
	work.Go(func() { cancel(s.client.receive(running, conn, w.take)) })
	err = w.run(running, poll)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.client.classify(ctx, err)
}

// configWatch is one Watch under way.
type configWatch struct {
	store       *ConfigStore
	query       config.Query
	report      func(config.Event)
	ownTriggers bool
	known       map[string]config.Item // as reported

	wake    chan struct{} // holds a token when there is something in what follows
	mu      sync.Mutex
	changed map[string]struct{} // keys
	all     bool                // more has changed than can be said
}

// take notes what a notification says: a key, or the row in what the triggers
// send that Dapr's manual shows.
func (w *configWatch) take(payload string) error {
	key, ok := payload, payload != ""
	if !w.ownTriggers {
		var notice struct {
			Data struct {
				Key string `json:"key"`
			} `json:"data"`
		}
		ok = json.Unmarshal([]byte(payload), &notice) == nil && notice.Data.Key != ""
		key = notice.Data.Key
	}
	if ok && len(w.query.Keys) > 0 && !slices.Contains(w.query.Keys, key) {
		return nil
	}
	const bound = 10_000
	w.mu.Lock()
	defer w.mu.Unlock()
	if !ok || len(w.changed) == bound {
		w.all, w.changed = true, map[string]struct{}{}
	} else if !w.all {
		w.changed[key] = struct{}{}
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return nil
}

// noted returns what take has noted.
func (w *configWatch) noted() (keys []string, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys, all = slices.Sorted(maps.Keys(w.changed)), w.all
	w.changed, w.all = map[string]struct{}{}, false
	return keys, all
}

func (w *configWatch) run(ctx context.Context, poll bool) error {
	var tick <-chan time.Time
	if poll {
		ticker := time.NewTicker(w.store.cfg.PollInterval.Std())
		defer ticker.Stop()
		tick = ticker.C
	}
	err := w.readAll(ctx)
	for err == nil {
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-tick:
			err = w.readAll(ctx)
		case <-w.wake:
			if keys, all := w.noted(); all {
				err = w.readAll(ctx)
			} else if len(keys) > 0 {
				err = w.readSome(ctx, keys)
			}
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readAll reports everything there is, if it is not what was reported last.
func (w *configWatch) readAll(ctx context.Context) error {
	items, err := w.store.read(ctx, w.query.Keys)
	if err != nil {
		return err
	}
	if w.known == nil || !maps.EqualFunc(w.known, items, sameItem) {
		w.report(config.Event{Complete: true, Items: maps.Clone(items)})
	}
	w.known = items
	return nil
}

// readSome reports what has become of keys that have changed.
func (w *configWatch) readSome(ctx context.Context, keys []string) error {
	items, err := w.store.read(ctx, keys)
	if err != nil {
		return err
	}
	e := config.Event{Items: map[string]config.Item{}}
	for _, key := range keys {
		item, exists := items[key]
		old, had := w.known[key]
		switch {
		case exists && (!had || !sameItem(item, old)):
			e.Items[key], w.known[key] = item, item
		case !exists && had:
			e.Deleted = append(e.Deleted, key)
			delete(w.known, key)
		}
	}
	if len(e.Items) > 0 || len(e.Deleted) > 0 {
		w.report(e)
	}
	return nil
}

func sameItem(a, b config.Item) bool {
	return a.Value == b.Value && a.Version == b.Version && maps.Equal(a.Metadata, b.Metadata)
}
