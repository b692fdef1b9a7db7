package postgres

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/config/configtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

func openConfig(t testing.TB, url, table string) *ConfigStore {
	t.Helper()
	cfg := configDefaults()
	cfg.Config, cfg.Table, cfg.PollInterval = configOf(url), table, component.Duration(100*time.Millisecond)
	s, err := OpenConfig(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConfig(t *testing.T) {
	t.Parallel()
	url := database(t, english)
	var tables counter
	configtest.Run(t, func(t testing.TB) configtest.Store { return openConfig(t, url, tables.next("items_")) })
}

func TestConfigOnABadNetwork(t *testing.T) {
	t.Parallel()
	srv := server.Get(t)
	var tables counter
	name := databaseName(t, "")
	configtest.RunNetwork(t, func(t testing.TB) (configtest.Store, configtest.Store, *faultnet.Proxy) {
		proxy := faultnet.New(t, srv.Addr())
		table := tables.next("config_bad_")
		direct := openConfig(t, srv.URL(name), table)
		return openConfig(t, srv.URLAt(proxy.Addr(), name), table), direct, proxy
	})
}

// daprConfiguration is what Dapr's manual has users create.
const daprConfiguration = `CREATE TABLE configtable (KEY VARCHAR NOT NULL, VALUE VARCHAR NOT NULL, VERSION VARCHAR NOT NULL, METADATA JSON);
CREATE OR REPLACE FUNCTION notify_event() RETURNS TRIGGER AS $$
DECLARE
	data json;
	notification json;
BEGIN
	IF (TG_OP = 'DELETE') THEN data = row_to_json(OLD); ELSE data = row_to_json(NEW); END IF;
	notification = json_build_object('table', TG_TABLE_NAME, 'action', TG_OP, 'data', data);
	PERFORM pg_notify('config', notification::text);
	RETURN NULL;
END; $$ LANGUAGE plpgsql;
CREATE TRIGGER config AFTER INSERT OR UPDATE OR DELETE ON configtable FOR EACH ROW EXECUTE PROCEDURE notify_event();
INSERT INTO configtable VALUES ('one', 'old', '1', NULL), ('one', 'new', '10', '{"a":"b","n":1}'), ('one', 'odd', 'v99', NULL), ('two', '2', '', '{}')`

func TestATableAsDaprsManualHasIt(t *testing.T) {
	t.Parallel()
	url := database(t, english)
	db := adminOf(t, url)
	db.run(t, daprConfiguration)
	s := openConfig(t, url, "configtable")
	got, err := s.Get(t.Context(), config.Query{Metadata: map[string]string{"pgNotifyChannel": "config"}})
	if one := got["one"]; err != nil || len(got) != 2 || one.Value != "new" || one.Version != "10" || one.Metadata["a"] != "b" || one.Metadata["n"] != "1" {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if v, err := configtest.Set(t.Context(), s, "one", "newer"); err != nil || v != "11" {
		t.Errorf("the version after 10 is %q, %v", v, err)
	}
	if got := db.text(t, `SELECT count(*) || max(version) || max(metadata::text) FROM configtable WHERE key = 'one'`); got != `111{"a":"b","n":1}` {
		t.Errorf("in the table: %s", got)
	}
	for _, channel := range []string{"config", "CONFIG", "another one; --"} {
		ctx, cancel := context.WithCancel(t.Context())
		events := make(chan config.Event, 100)
		done := make(chan error, 1)
		go func() {
			done <- s.Watch(ctx, config.Query{Metadata: map[string]string{"pgnotifychannel": channel}}, func(e config.Event) { events <- e })
		}()
		<-events
		// The first two are told, the last is found all the same.
		db.run(t, `UPDATE configtable SET value = 'now' WHERE key = 'two'`)
		for e := range events {
			if e.Items["two"].Value == "now" {
				break
			}
		}
		cancel()
		<-done
		db.run(t, `UPDATE configtable SET value = 'then' WHERE key = 'two'`)
	}
}

func TestWatchOfATableThatMayNotBeChanged(t *testing.T) {
	t.Parallel()
	srv := testserver.Postgres(t, testserver.PostgresOptions{})
	url := srv.URL("postgres")
	owner := openConfig(t, url, "items")
	adminOf(t, url).run(t, `CREATE USER reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader`)
	reader := openConfig(t, strings.Replace(url, "postgres@", "reader@", 1), "items")
	ctx, cancel := context.WithCancel(t.Context())
	events, done := make(chan config.Event, 100), make(chan error, 1)
	go func() { done <- reader.Watch(ctx, config.Query{}, func(e config.Event) { events <- e }) }()
	<-events
	if _, err := configtest.Set(t.Context(), owner, "a", "1"); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.Items["a"].Value != "1" {
		t.Errorf("the change is reported as %+v", e)
	}
	cancel()
	<-done
	if _, err := configtest.Set(t.Context(), reader, "a", "2"); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("Write by one who may not: %v", err)
	}
	cfg := configDefaults()
	cfg.Config, cfg.Table = configOf(strings.Replace(url, "postgres@", "reader@", 1)), "elsewhere"
	if _, err := OpenConfig(t.Context(), cfg, component.Env{}); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("opening a table that is not there: %v", err)
	}
}

func TestAllIsReadAgainWhenATableIsEmptied(t *testing.T) {
	t.Parallel()
	url := database(t, "")
	db, s := adminOf(t, url), openConfig(t, url, "items")
	long := strings.Repeat("k", 9000)
	if _, err := s.Write(t.Context(), []config.Write{{Key: "a", Value: "1"}, {Key: long, Value: "1"}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, done := make(chan config.Event, 100), make(chan error, 1)
	go func() { done <- s.Watch(ctx, config.Query{}, func(e config.Event) { events <- e }) }()
	<-events
	if _, err := configtest.Set(t.Context(), s, long, "2"); err != nil { // longer than a notification
		t.Fatal(err)
	}
	if e := <-events; e.Items[long].Value != "2" {
		t.Errorf("a key that is longer than a notification is reported as %d items", len(e.Items))
	}
	db.run(t, `TRUNCATE items`)
	if e := <-events; !e.Complete || len(e.Items) != 0 {
		t.Errorf("the loss of all is reported as %+v", e)
	}
	_ = s.Close()
	if err := <-done; !fault.Is(err, fault.Unavailable) {
		t.Errorf("Watch after Close: %v", err)
	}
}
