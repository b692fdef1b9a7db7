package postgres

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/testserver"
)

var server = testserver.Share(func(tb testserver.TB) *testserver.PostgresServer {
	return testserver.Postgres(tb, testserver.PostgresOptions{Config: []string{"max_connections = 200"}})
})

func TestMain(m *testing.M) { testserver.Main(m, server) }

// counter numbers what tests create.
type counter struct{ atomic.Int64 }

func (c *counter) next(prefix string) string { return fmt.Sprint(prefix, c.Add(1)) }

func configOf(url string) Config {
	cfg := defaults()
	cfg.ConnectionString = component.NewSecret(url)
	return cfg
}

// english is a language where texts do not order by their bytes.
const english = "LOCALE_PROVIDER icu ICU_LOCALE 'en'"

// databases are those of all tests, each time anew.
var databases counter

// database creates an empty database and returns its URL.
func database(t testing.TB, options string) string {
	t.Helper()
	return server.Get(t).URL(databaseName(t, options))
}

// databaseName creates an empty database and returns its name.
func databaseName(t testing.TB, options string) string {
	t.Helper()
	admin, err := connect(t.Context(), configOf(server.Get(t).URL("postgres")))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.close()
	name := databases.next("db_")
	if _, err := admin.exec(t.Context(), `CREATE DATABASE `+name+` TEMPLATE template0 `+options); err != nil {
		t.Fatal(err)
	}
	return name
}

// store is what all kinds of store can do.
type store interface {
	state.Driver
	state.BulkGetter
	state.BulkPutter
	state.BulkDeleter
	state.Transactor
	state.Lister
}

// An opener opens one of the kinds of store on a server.
type opener func(ctx context.Context, url, table string) (store, error)

// orNil keeps a nil pointer from becoming a store.
func orNil[S store](s S, err error) (store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

var kinds = map[string]opener{
	"v1": func(ctx context.Context, url, table string) (store, error) {
		cfg := stateV1Defaults()
		cfg.Config, cfg.TableName, cfg.CleanupInterval = configOf(url), table, component.Duration(time.Second)
		return orNil(OpenStateV1(ctx, cfg, component.Env{}))
	},
	"v2": func(ctx context.Context, url, table string) (store, error) {
		cfg := stateV2Defaults()
		cfg.Config, cfg.TablePrefix, cfg.CleanupInterval = configOf(url), table, component.Duration(time.Second)
		return orNil(OpenStateV2(ctx, cfg, component.Env{}))
	},
	"cockroachdb": func(ctx context.Context, url, table string) (store, error) {
		cfg := stateV1Defaults()
		cfg.Config, cfg.TableName = configOf(url), table
		return orNil(OpenCockroachDB(ctx, cfg, component.Env{}))
	},
}

func TestState(t *testing.T) {
	t.Parallel()
	for name, open := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := english
			if name == "cockroachdb" {
				options = "" // which has no languages
			}
			url := database(t, options)
			var tables counter
			statetest.Run(t, func(t *testing.T) state.Driver {
				t.Parallel()
				s, err := open(t.Context(), url, tables.next("items_"))
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}

func TestStateOnABadNetwork(t *testing.T) {
	t.Parallel()
	srv := server.Get(t)
	var tables counter
	name := databaseName(t, "")
	statetest.RunBadNetwork(t, srv.Addr(), func(ctx context.Context, _ *testing.T, addr string) (state.Driver, error) {
		return kinds["v2"](ctx, srv.URLAt(addr, name), tables.next("bad_"))
	})
}
