package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/internal/testserver"
)

var server = testserver.Share(func(tb testserver.TB) *testserver.MariaDBServer {
	return testserver.MariaDB(tb, testserver.MariaDBOptions{Args: []string{"--max-connections=500"}})
})

func TestMain(m *testing.M) { testserver.Main(m, server) }

type counter struct{ atomic.Int64 }

func (c *counter) next(prefix string) string { return fmt.Sprint(prefix, c.Add(1)) }

func configOf(dsn, schema string) StateConfig {
	cfg := stateDefaults()
	cfg.ConnectionString, cfg.SchemaName = component.NewSecret(dsn), schema
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

// asInMySQL makes a store behave as on a server that changes JSON.
func asInMySQL(t testing.TB, s *State) *State {
	t.Helper()
	s.exact = true
	if err := s.adapt(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// schemas are those of all tests, each time anew.
var schemas counter

func TestState(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(testing.TB, *State) *State{
		"mariadb":  func(_ testing.TB, s *State) *State { return s },
		"as mysql": asInMySQL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var tables counter
			cfg := configOf(server.Get(t).DSN(""), schemas.next("suite_"+strings.ReplaceAll(name, " ", "_")))
			statetest.Run(t, func(t *testing.T) state.Driver {
				t.Parallel()
				cfg := cfg
				cfg.TableName = tables.next("items")
				s, err := OpenState(t.Context(), cfg, component.Env{})
				if err != nil {
					t.Fatal(err)
				}
				return change(t, s)
			})
		})
	}
}

func TestStateOnABadNetwork(t *testing.T) {
	t.Parallel()
	srv := server.Get(t)
	var tables counter
	schema := schemas.next("bad_network")
	statetest.RunBadNetwork(t, srv.Addr(), func(ctx context.Context, _ *testing.T, addr string) (state.Driver, error) {
		cfg := configOf(srv.DSNAt(addr, ""), schema)
		cfg.TableName = tables.next("items")
		s, err := OpenState(ctx, cfg, component.Env{})
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}

// raw connects as another program would.
func raw(t testing.TB, schema string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", server.Get(t).DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1)
	run(t, db, "CREATE DATABASE IF NOT EXISTS "+schema, "USE "+schema)
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

// daprTable is what Dapr's component creates.
const daprTable = `CREATE TABLE state (
	id VARCHAR(255) NOT NULL PRIMARY KEY, value JSON NOT NULL, isbinary BOOLEAN NOT NULL,
	insertDate TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, updateDate TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
	eTag VARCHAR(36) NOT NULL, expiredate TIMESTAMP NULL, INDEX expiredate_idx(expiredate)) DEFAULT CHARSET `

func TestATableOfDaprIsTakenOver(t *testing.T) {
	t.Parallel()
	for _, charset := range []string{"utf8mb4", "latin1"} {
		t.Run(charset, func(t *testing.T) {
			t.Parallel()
			schema := schemas.next("dapr_" + charset + "_")
			db := raw(t, schema)
			run(t, db, daprTable+charset, `CREATE TABLE dapr_metadata (id VARCHAR(255) NOT NULL PRIMARY KEY, value TEXT NOT NULL)`,
				`INSERT INTO state (id, value, isbinary, eTag) VALUES ('app||json', '{"b": 1, "a":2}', 0, 'e1'), ('app||bytes', '"AP8="', 1, 'e2')`,
				`INSERT INTO state (id, value, isbinary, eTag, expiredate) VALUES ('app||gone', '1', 0, 'e3', CURRENT_TIMESTAMP - INTERVAL 1 SECOND),
					('app||stays', '1', 0, 'e4', CURRENT_TIMESTAMP + INTERVAL 100 SECOND)`)
			s := open(t, configOf(server.Get(t).DSN(""), schema))
			if item := wantValue(t, s, "app||json", `{"b": 1, "a":2}`); item.ETag != "e1" {
				t.Errorf("the etag is %q", item.ETag)
			}
			wantValue(t, s, "app||bytes", "\x00\xff")
			if item := wantValue(t, s, "app||stays", "1"); time.Until(item.Expires) < 90*time.Second || time.Until(item.Expires) > 102*time.Second {
				t.Errorf("the item expires at %v", item.Expires)
			}
			if _, found, err := s.Get(t.Context(), "app||gone", state.GetOptions{}); found || err != nil {
				t.Errorf("an expired item: found %v, %v", found, err)
			}
			put(t, s, "app||gone", "2", state.PutOptions{FirstWrite: true})
			put(t, s, "app||json", `{"c":3}`, state.PutOptions{ETag: "e1", TTL: time.Minute})
			put(t, s, "app||bytes", "\x01", state.PutOptions{})
			put(t, s, "app||\xff\x00", "odd", state.PutOptions{})
			wantValue(t, s, "app||\xff\x00", "odd")
			err := s.Transact(t.Context(), []state.Op{
				{Key: "app||new", Check: state.CheckAbsent}, {Key: "app||json", Check: state.CheckExists}, {Key: "app||tx", Value: []byte("1")}, {Key: "app||stays", Delete: true},
			}, state.TransactOptions{})
			if err != nil {
				t.Error(err)
			}
			keys, err := s.List(t.Context(), "app||", "", 10)
			if want := []string{"app||bytes", "app||gone", "app||json", "app||tx", "app||\xff\x00"}; err != nil || fmt.Sprintf("%q", keys) != fmt.Sprintf("%q", want) {
				t.Errorf("List = %q, %v; want %q", keys, err, want)
			}
			for query, want := range map[string]string{
				`SELECT CONCAT(value, isbinary) FROM state WHERE id = 'app||json' AND expiredate > CURRENT_TIMESTAMP + INTERVAL 50 SECOND`: `{"c":3}0`,
				`SELECT CONCAT(value, isbinary, LENGTH(eTag)) FROM state WHERE id = 'app||bytes' AND expiredate IS NULL`:                   `"AQ=="136`,
			} {
				if got := text(t, db, query); got != want {
					t.Errorf("%s\nis %s, want %s", query, got, want)
				}
			}
			if _, err := s.Put(t.Context(), strings.Repeat("k", 256), nil, state.PutOptions{}); !fault.Is(err, fault.InvalidArgument) {
				t.Errorf("a key that is too long: %v", err)
			}
		})
	}
}

// A language may take one key for another: then nobody's item is touched.
func TestKeysThatATableTakesForEachOther(t *testing.T) {
	t.Parallel()
	schema := schemas.next("alike")
	db := raw(t, schema)
	run(t, db, daprTable+"utf8mb4 COLLATE utf8mb4_unicode_ci")
	s := open(t, configOf(server.Get(t).DSN(""), schema))
	put(t, s, "k", "mine", state.PutOptions{})
	for _, other := range []string{"K", "k ", "ḱ"} {
		if _, found, err := s.Get(t.Context(), other, state.GetOptions{}); found || err != nil {
			t.Errorf("Get(%q): found %v, %v", other, found, err)
		}
		if _, err := s.Put(t.Context(), other, []byte("theirs"), state.PutOptions{}); !fault.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), "varbinary") {
			t.Errorf("Put(%q): %v", other, err)
		}
		if r := s.BulkPut(t.Context(), []state.PutOp{{Key: other}})[0]; !fault.Is(r.Err, fault.FailedPrecondition) {
			t.Errorf("BulkPut(%q): %v", other, r.Err)
		}
		if err := s.Transact(t.Context(), []state.Op{{Key: other}}, state.TransactOptions{}); !fault.Is(err, fault.FailedPrecondition) {
			t.Errorf("Transact(%q): %v", other, err)
		}
		if err := s.Delete(t.Context(), other, state.DeleteOptions{}); err != nil {
			t.Errorf("Delete(%q): %v", other, err)
		}
	}
	wantValue(t, s, "k", "mine")
	run(t, db, "ALTER TABLE state MODIFY id VARBINARY(2048) NOT NULL")
	again := open(t, configOf(server.Get(t).DSN(""), schema))
	put(t, again, "K", "theirs", state.PutOptions{})
	wantValue(t, again, "k", "mine")
	wantValue(t, again, "K", "theirs")
}

func TestWhatDaprOverwritesIsNotReadFromOurColumn(t *testing.T) {
	t.Parallel()
	schema := schemas.next("foreign_write")
	db := raw(t, schema)
	s := asInMySQL(t, open(t, configOf(server.Get(t).DSN(""), schema)))
	put(t, s, "k", `{"b" : 1,"a":2}`, state.PutOptions{})
	run(t, db, `UPDATE state SET value = '{"a": 2, "b": 1}' WHERE id = 'k'`) // as the server would write it
	wantValue(t, s, "k", `{"b" : 1,"a":2}`)
	run(t, db, `UPDATE state SET value = '{"b": 3}' WHERE id = 'k'`)
	wantValue(t, s, "k", `{"b": 3}`)
	run(t, db, `UPDATE state SET value = '"AP8="', isbinary = 1 WHERE id = 'k'`)
	wantValue(t, s, "k", "\x00\xff")
}

func TestExpiredItemsAreRemovedOncePerInterval(t *testing.T) {
	t.Parallel()
	schema := schemas.next("cleanup")
	db := raw(t, schema)
	cfg := configOf(server.Get(t).DSN(""), schema)
	cfg.CleanupInterval = 0
	s := open(t, cfg)
	var puts []state.PutOp
	for i := range 2500 {
		puts = append(puts, state.PutOp{Key: fmt.Sprint("k", i), PutOptions: state.PutOptions{TTL: time.Hour}})
	}
	for _, r := range s.BulkPut(t.Context(), puts) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	put(t, s, "stays", "v", state.PutOptions{TTL: time.Hour})
	run(t, db, `UPDATE state SET expiredate = CURRENT_TIMESTAMP - INTERVAL 1 SECOND WHERE id LIKE 'k%'`,
		`INSERT INTO dapr_metadata VALUES ('last-cleanup', CURRENT_TIMESTAMP)`)
	cfg.CleanupInterval = component.Duration(time.Hour)
	if err := open(t, cfg).Close(); err != nil { // somebody has just done it
		t.Fatal(err)
	}
	if got := text(t, db, `SELECT count(*) FROM state`); got != "2501" {
		t.Errorf("%s rows are left, want 2501", got)
	}
	run(t, db, `UPDATE dapr_metadata SET value = CURRENT_TIMESTAMP - INTERVAL 2 HOUR`)
	open(t, cfg)
	for end := time.Now().Add(20 * time.Second); text(t, db, `SELECT count(*) FROM state`) != "1"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what has expired is not removed")
		}
	}
}

func TestLivesThatTheDatabaseCannotCountAreRefused(t *testing.T) {
	t.Parallel()
	s := open(t, configOf(server.Get(t).DSN(""), schemas.next("long_lives")))
	if _, err := s.Put(t.Context(), "k", nil, state.PutOptions{TTL: 50 * 365 * 24 * time.Hour}); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("Put: %v", err)
	}
}

func TestManyOpenAtOnce(t *testing.T) {
	t.Parallel()
	errs, cfg := make(chan error), configOf(server.Get(t).DSN(""), schemas.next("at_once"))
	for range 10 {
		go func() {
			s, err := OpenState(t.Context(), cfg, component.Env{})
			if err == nil {
				_, err = s.Put(t.Context(), "k", nil, state.PutOptions{})
				_ = s.Close()
			}
			errs <- err
		}()
	}
	for range 10 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestCredentialsAndRightsAreChecked(t *testing.T) {
	t.Parallel()
	srv := server.Get(t)
	schema, limited := schemas.next("rights"), schemas.next("limited")
	db := raw(t, schema)
	run(t, db, `CREATE USER '`+limited+`'@'%' IDENTIFIED BY 'pw'`, `GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON `+schema+`.* TO '`+limited+`'@'%'`)
	dsn := func(user, password string) string {
		return strings.Replace(srv.DSN(""), srv.User()+":"+srv.Password(), user+":"+password, 1)
	}
	for _, tc := range []struct {
		user, password, schema string
		want                   fault.Code
	}{
		{srv.User(), "wrong-secret", schema, fault.Unauthenticated},
		{limited, "pw", "another", fault.PermissionDenied},
	} {
		_, err := OpenState(t.Context(), configOf(dsn(tc.user, tc.password), tc.schema), component.Env{})
		if !fault.Is(err, tc.want) || strings.Contains(err.Error(), "wrong-secret") {
			t.Errorf("%s: %v, want %v", tc.user, err, tc.want)
		}
	}
	put(t, open(t, configOf(dsn(limited, "pw"), schema)), "k", "v", state.PutOptions{})
}

func TestSettingsSayWhatIsWrongWithThem(t *testing.T) {
	const good = "me:open-sesame@tcp(localhost:3306)/"
	for _, tc := range []struct{ name, value, want string }{
		{"connectionString", good, ""},
		{"connectionString", good + "?allowNativePasswords=true&tls=skip-verify", ""},
		{"connectionString", "me:open-sesame@nowhere", "connectionString"},
		{"connectionString", good + "things", "schemaName"},
		{"connectionString", good + "?tls=custom", "pemPath"},
		{"connectionString", "", "connectionString"},
		{"pemPath", "/nowhere.pem", "cannot be read"},
		{"pemContents", "no certificate", "no certificate in PEM"},
		{"schemaName", "a-b", "schemaName"},
		{"tableName", "a b", "tableName"},
		{"metadataTableName", "", "metadataTableName"},
		{"timeoutInSeconds", "0", "timeoutInSeconds"},
		{"timeoutInSeconds", "30", ""},
		{"cleanupInterval", "20m", ""},
	} {
		settings := component.Settings{{Name: tc.name, Value: tc.value}}
		if tc.name != "connectionString" {
			settings = append(settings, component.Setting{Name: "connectionString", Value: good})
		}
		cfg := stateDefaults()
		err := settings.Decode(&cfg)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s %q: %v, want %q", tc.name, tc.value, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "open-sesame") {
			t.Errorf("%s: the error %q shows a password", tc.name, err)
		}
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	dsn := server.Get(t).DSN("")
	leak.Check(t)
	s, err := OpenState(t.Context(), configOf(dsn, schemas.next("leaks")), component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "v", state.PutOptions{})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestAStoreSurvivesTheDeathOfItsServer(t *testing.T) {
	t.Parallel()
	srv := testserver.MariaDB(t, testserver.MariaDBOptions{})
	s := open(t, configOf(srv.DSN(""), "survivor"))
	put(t, s, "k", "v", state.PutOptions{})
	srv.Kill()
	if _, err := s.Put(t.Context(), "k", nil, state.PutOptions{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Put without a server: %v", err)
	}
	srv.Restart()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := s.Put(t.Context(), "after", nil, state.PutOptions{})
		if err == nil {
			break
		}
		if !fault.Is(err, fault.Unavailable) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	wantValue(t, s, "k", "v")
}
