package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/leak"
)

func configOf(text string) StateConfig {
	cfg := stateDefaults()
	cfg.ConnectionString = component.NewSecret(text)
	return cfg
}

func open(t testing.TB, cfg StateConfig) *State {
	t.Helper()
	s, err := OpenState(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func file(t testing.TB) string { return filepath.Join(t.TempDir(), "data base.db") }

func TestState(t *testing.T) {
	for name, text := range map[string]func(t *testing.T) (string, bool){
		"file":   func(t *testing.T) (string, bool) { return file(t), false },
		"memory": func(*testing.T) (string, bool) { return ":memory:", false },
		"uri": func(t *testing.T) (string, bool) {
			return "file:" + filepath.Join(t.TempDir(), "x.db") + "?_pragma=synchronous(OFF)", true
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "memory" {
				fastloop.Skip(t, "writes to the disk for seconds")
			}
			t.Parallel()
			statetest.Run(t, func(t *testing.T) state.Driver {
				t.Parallel()
				text, noWAL := text(t)
				cfg := configOf(text)
				cfg.DisableWAL, cfg.CleanupInterval = noWAL, component.Duration(time.Second)
				s, err := OpenState(t.Context(), cfg, component.Env{})
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}

// raw opens the database as another program would.
func raw(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func run(t testing.TB, db *sql.DB, stmts ...string) {
	t.Helper()
	for _, stmt := range stmts {
		if _, err := db.ExecContext(t.Context(), stmt); err != nil {
			t.Fatalf("%s: %v", stmt, err)
		}
	}
}

func text(t testing.TB, db *sql.DB, query string) (out string) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query).Scan(&out); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return out
}

func put(t testing.TB, s *State, key, value string, opt state.PutOptions) string {
	t.Helper()
	etag, err := s.Put(t.Context(), key, []byte(value), opt)
	if err != nil {
		t.Fatal(err)
	}
	return etag
}

func wantValue(t testing.TB, s *State, key, want string) state.Item {
	t.Helper()
	item, found, err := s.Get(t.Context(), key, state.GetOptions{})
	if err != nil || !found || string(item.Value) != want {
		t.Errorf("Get(%q) = %q, %v, %v; want %q", key, item.Value, found, err, want)
	}
	return item
}

func TestADatabaseOfDaprIsTakenOver(t *testing.T) {
	path := file(t)
	db := raw(t, path)
	run(t, db, `CREATE TABLE metadata (key text NOT NULL PRIMARY KEY, value text NOT NULL)`, `INSERT INTO metadata VALUES ('migrations', '1')`,
		`CREATE TABLE state (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, is_binary BOOLEAN NOT NULL, etag TEXT NOT NULL,
			expiration_time TIMESTAMP DEFAULT NULL, update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)`,
		`INSERT INTO state (key, value, is_binary, etag) VALUES ('app||json', '{"a":1}', 0, 'e1'), ('app||bytes', 'AP8=', 1, 'e2')`,
		`INSERT INTO state (key, value, is_binary, etag, expiration_time) VALUES ('app||gone', '1', 0, 'e3', DATETIME(CURRENT_TIMESTAMP, '-1 seconds')),
			('app||stays', '1', 0, 'e4', DATETIME(CURRENT_TIMESTAMP, '+100 seconds'))`)
	s := open(t, configOf(path))
	if item := wantValue(t, s, "app||json", `{"a":1}`); item.ETag != "e1" {
		t.Errorf("the etag is %q", item.ETag)
	}
	wantValue(t, s, "app||bytes", "\x00\xff")
	if item := wantValue(t, s, "app||stays", "1"); time.Until(item.Expires) < 90*time.Second || time.Until(item.Expires) > 101*time.Second {
		t.Errorf("the item expires at %v", item.Expires)
	}
	if _, found, err := s.Get(t.Context(), "app||gone", state.GetOptions{}); found || err != nil {
		t.Errorf("an expired item: found %v, %v", found, err)
	}
	put(t, s, "app||gone", "2", state.PutOptions{FirstWrite: true})
	put(t, s, "app||json", `{"b": 2}`, state.PutOptions{ETag: "e1", TTL: time.Minute})
	put(t, s, "app||bytes", "\x01", state.PutOptions{})
	for query, want := range map[string]string{
		`SELECT value || is_binary FROM state WHERE key = 'app||json' AND expiration_time > DATETIME(CURRENT_TIMESTAMP, '+50 seconds')`: `{"b": 2}0`,
		`SELECT value || is_binary FROM state WHERE key = 'app||bytes' AND expiration_time IS NULL`:                                     `AQ==1`,
		`SELECT length(etag) FROM state WHERE key = 'app||bytes'`:                                                                       `36`,
		`SELECT value FROM metadata WHERE key = 'migrations'`:                                                                           `1`,
	} {
		if got := text(t, db, query); got != want {
			t.Errorf("%s\nis %s, want %s", query, got, want)
		}
	}
}

func TestItemsOutliveTheComponent(t *testing.T) {
	for _, disableWAL := range []bool{false, true} {
		cfg := configOf(file(t))
		cfg.DisableWAL = disableWAL
		s := open(t, cfg)
		put(t, s, "k", "v", state.PutOptions{})
		if got, want := text(t, raw(t, cfg.ConnectionString.Reveal()), `PRAGMA journal_mode`), map[bool]string{true: "delete", false: "wal"}[disableWAL]; got != want {
			t.Errorf("the journal is %q, want %q", got, want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wantValue(t, open(t, cfg), "k", "v")
	}
}

func TestTwoComponentsInMemoryDoNotMeet(t *testing.T) {
	a, b := open(t, configOf(":memory:")), open(t, configOf(":memory:"))
	put(t, a, "k", "v", state.PutOptions{})
	if _, found, err := b.Get(t.Context(), "k", state.GetOptions{}); found || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
}

func TestExpiredItemsAreRemovedOncePerInterval(t *testing.T) {
	path := file(t)
	s := open(t, configOf(path))
	for i := range 2500 {
		s.BulkPut(t.Context(), []state.PutOp{{Key: fmt.Sprint("k", i), PutOptions: state.PutOptions{TTL: time.Hour}}})
	}
	put(t, s, "stays", "v", state.PutOptions{TTL: time.Hour})
	db := raw(t, path)
	run(t, db, `UPDATE state SET expiration_time = DATETIME(CURRENT_TIMESTAMP, '-1 seconds') WHERE key LIKE 'k%'`,
		`INSERT INTO metadata VALUES ('last-cleanup', CURRENT_TIMESTAMP)`)
	cfg := configOf(path)
	cfg.CleanupInterval = component.Duration(time.Hour)
	if err := open(t, cfg).Close(); err != nil { // somebody has just done it
		t.Fatal(err)
	}
	if got := text(t, db, `SELECT count(*) FROM state`); got != "2501" {
		t.Errorf("%s rows are left, want 2501", got)
	}
	run(t, db, `UPDATE metadata SET value = DATETIME(CURRENT_TIMESTAMP, '-2 hours') WHERE key = 'last-cleanup'`)
	open(t, cfg)
	for end := time.Now().Add(20 * time.Second); text(t, db, `SELECT count(*) FROM state`) != "1"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what has expired is not removed")
		}
	}
}

func TestSettingsSayWhatIsWrongWithThem(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"connectionString", "data.db", ""},
		{"url", "file:data.db?cache=shared&_pragma=synchronous(NORMAL)", ""},
		{"connectionString", "", "connectionString"},
		{"connectionString", "?mode=rw", "wants the path of a file"},
		{"connectionString", "x?a=%zz", "parameters"},
		{"connectionString", "x?_pragma=Busy_timeout(5)", "busyTimeout"},
		{"connectionString", "x?_pragma=journal_mode(OFF)", "disableWAL"},
		{"connectionString", "file:x?mode=ro", "cannot be written to"},
		{"connectionString", "file:x?immutable=1", "cannot be written to"},
		{"timeout", "100ms", "must be 1s at least"},
		{"timeoutInSeconds", "20", ""},
		{"busyTimeout", "2s", ""},
		{"cleanupIntervalInSeconds", "60", ""},
		{"tableName", "a b", "tableName"},
		{"metadataTableName", `a"`, "metadataTableName"},
	} {
		settings := component.Settings{{Name: tc.name, Value: tc.value}}
		if tc.name != "connectionString" && tc.name != "url" {
			settings = append(settings, component.Setting{Name: "connectionString", Value: "data.db"})
		}
		cfg := stateDefaults()
		if err := settings.Decode(&cfg); tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s %q: %v, want %q", tc.name, tc.value, err, tc.want)
		}
	}
}

func TestFilesThatCannotBeUsed(t *testing.T) {
	garbage := file(t)
	if err := os.WriteFile(garbage, []byte(strings.Repeat("this is no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fault.Code{
		garbage: fault.FailedPrecondition,
		filepath.Join(t.TempDir(), "nowhere", "x.db"): fault.FailedPrecondition,
		t.TempDir(): fault.FailedPrecondition,
	} {
		_, err := OpenState(t.Context(), configOf(path), component.Env{})
		if !fault.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

func TestAWriteWaitsForOtherProcessesAndThenSaysSo(t *testing.T) {
	path := file(t)
	cfg := configOf(path)
	cfg.BusyTimeout = component.Duration(50 * time.Millisecond)
	s := open(t, cfg)
	put(t, s, "k", "v", state.PutOptions{})
	conn, err := raw(t, path).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), `BEGIN IMMEDIATE`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "k", nil, state.PutOptions{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Put: %v", err)
	}
	wantValue(t, s, "k", "v")
	if _, err := conn.ExecContext(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "w", state.PutOptions{})
}

func TestAWatchSeesWhatOtherProcessesWrite(t *testing.T) {
	path := file(t)
	db, s := raw(t, path), open(t, configOf(path))
	put(t, s, "app||old", "v", state.PutOptions{})
	var seen []string
	enough := errors.New("enough")
	revision := ""
	err := s.Watch(t.Context(), "app||", state.WatchOptions{}, func(c state.Change) error {
		if c.Kind == state.Synced {
			revision = c.Revision
			run(t, db, `INSERT OR REPLACE INTO state (key, value, is_binary, etag) VALUES ('app||old', '1', 0, 'e'), ('other||x', '1', 0, 'e')`,
				`UPDATE state SET key = 'app||new' WHERE key = 'other||x'`, `DELETE FROM state WHERE key = 'app||old'`,
				`INSERT INTO state (key, value, is_binary, etag) VALUES ('app||end', '1', 0, 'e')`)
			return nil
		}
		seen = append(seen, fmt.Sprint(c.Key, c.Kind))
		if c.Key == "app||end" {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || strings.Join(seen, " ") != "app||new0 app||old1 app||end0" {
		t.Errorf("the watch saw %q, %v", seen, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Another process goes on from there, as long as the history reaches.
	again := open(t, configOf(path))
	after := func() (n int, err error) {
		err = again.Watch(t.Context(), "app||", state.WatchOptions{After: revision}, func(c state.Change) error {
			n++
			if c.Key == "app||end" {
				return enough
			}
			return nil
		})
		return n, err
	}
	if n, err := after(); n != 4 || !errors.Is(err, enough) {
		t.Errorf("%d reports, %v", n, err)
	}
	run(t, db, `UPDATE state_proa_changes SET seq = seq + 100000`, `UPDATE sqlite_sequence SET seq = seq + 100000`)
	put(t, again, "app||more", "v", state.PutOptions{})
	if _, err := after(); fault.ReasonOf(err) != state.ReasonRevisionGone {
		t.Errorf("after a revision that is forgotten: %v", err)
	}
	if got := text(t, db, `SELECT count(*) <= 7 FROM state_proa_changes`); got != "1" {
		t.Errorf("the history is not cut")
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	leak.Check(t)
	cfg := configOf(file(t))
	cfg.CleanupInterval = component.Duration(time.Hour)
	s, err := OpenState(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "v", state.PutOptions{})
	done := make(chan error, 1)
	standing := make(chan struct{})
	go func() {
		done <- s.Watch(context.WithoutCancel(t.Context()), "", state.WatchOptions{}, func(state.Change) error {
			close(standing)
			return nil
		})
	}()
	<-standing
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !fault.Is(err, fault.Unavailable) {
		t.Errorf("Watch: %v", err)
	}
}
