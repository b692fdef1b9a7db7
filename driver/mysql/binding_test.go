package mysql

import (
	"strings"
	"testing"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

func openBinding(t testing.TB, dsn string) *Binding {
	t.Helper()
	cfg := bindingDefaults()
	cfg.URL = component.NewSecret(dsn)
	b, err := OpenBinding(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func invoke(t testing.TB, b *Binding, operation, sql, params string) (binding.Response, error) {
	t.Helper()
	return b.Invoke(t.Context(), binding.Request{Operation: operation, Metadata: map[string]string{"sql": sql, "params": params}})
}

func TestBinding(t *testing.T) {
	t.Parallel()
	srv := server.Get(t)
	request := binding.Request{Operation: "query", Metadata: map[string]string{"sql": "SELECT 1"}}
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return openBinding(t, srv.DSN("")) },
		Request: request,
	})
	t.Run("OnABadNetwork", func(t *testing.T) {
		t.Parallel()
		bindingtest.RunNetwork(t, bindingtest.Network{
			Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
				proxy := faultnet.New(t, srv.Addr())
				return openBinding(t, srv.DSNAt(proxy.Addr(), "")), proxy
			},
			Request: request,
		})
	})
}

func TestStatementsAreCarriedOut(t *testing.T) {
	t.Parallel()
	schema := schemas.next("bound")
	raw(t, schema)
	b := openBinding(t, server.Get(t).DSN(schema))
	for _, tc := range []struct{ operation, sql, params, data, affected string }{
		{"exec", "CREATE TABLE foo (id bigint unsigned, v varchar(20), f double, d decimal(40,2), at datetime(3), ok boolean, b blob, l longtext, e enum('x','y')) CHARACTER SET utf8mb4", "", "", "0"},
		{"exec", "INSERT INTO foo (id, v, f, d, at, ok, b, l, e) VALUES (?, ?, ?, 12345678901234567890.50, '2026-01-02 03:04:05.678', true, x'00ff', 'long', 'y')",
			`[7, "it's ⛵", 1.5]`, "", "1"},
		{"exec", "INSERT INTO foo (id, v) VALUES (?, ?)", `[8, null]`, "", "1"},
		{"exec", "INSERT INTO foo (id, v, ok) VALUES (18446744073709551615, '', ?)", `[false]`, "", "1"},
		{"query", "SELECT * FROM foo WHERE id = 7", "",
			`[{"at":"2026-01-02T03:04:05.678Z","b":"AP8=","d":"12345678901234567890.50","e":"y","f":1.5,"id":7,"l":"long","ok":1,"v":"it's ⛵"}]`, ""},
		{"query", "SELECT * FROM foo WHERE id = ?", "[7]",
			`[{"at":"2026-01-02T03:04:05.678Z","b":"AP8=","d":"12345678901234567890.50","e":"y","f":1.5,"id":7,"l":"long","ok":1,"v":"it's ⛵"}]`, ""},
		{"query", "SELECT id, v, ok FROM foo WHERE id > ? ORDER BY id", "[7]", `[{"id":8},{"id":18446744073709551615,"ok":0,"v":""}]`, ""},
		{"query", "SELECT id FROM foo WHERE v = ?", `["nobody"]`, `[]`, ""},
		{"exec", "DELETE FROM foo WHERE id = ?", `[7]`, "", "1"},
	} {
		r, err := invoke(t, b, tc.operation, tc.sql, tc.params)
		if err != nil || string(r.Data) != tc.data || r.Metadata["rows-affected"] != tc.affected || r.Metadata["sql"] != tc.sql ||
			r.Metadata["operation"] != tc.operation || r.Metadata["duration"] == "" {
			t.Errorf("%s: %s, %v, %v; want %s and %s rows", tc.sql, r.Data, r.Metadata, err, tc.data, tc.affected)
		}
	}
}

func TestStatementsThatCannotBeCarriedOut(t *testing.T) {
	t.Parallel()
	schema := schemas.next("unbound")
	raw(t, schema)
	b := openBinding(t, server.Get(t).DSN(schema))
	for _, tc := range []struct{ operation, sql, params, want string }{
		{"query", "", "", "sql"},
		{"query", "SELECT ?", "no JSON", "params"},
		{"query", "SELECT ?", `["a"] x`, "params"},
		{"query", "SELECT ?", `{"a":1}`, "params"},
		{"query", "SELECT ?", `[[1]]`, "params"},
		{"query", "SELEKT", "", "error in your SQL syntax"},
		{"exec", "INSERT INTO nowhere VALUES (1)", "", "doesn't exist"},
		{"list", "SELECT 1", "", "exec, query and close"},
	} {
		_, err := invoke(t, b, tc.operation, tc.sql, tc.params)
		if !fault.Is(err, fault.InvalidArgument) || !strings.Contains(fault.Message(err), tc.want) {
			t.Errorf("%s %s: %v, want invalid_argument and %q", tc.sql, tc.params, err, tc.want)
		}
	}
	for range 2 {
		if _, err := invoke(t, b, "close", "", ""); err != nil {
			t.Error(err)
		}
	}
	if _, err := invoke(t, b, "query", "SELECT 1", ""); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after close: %v", err)
	}
}

func TestSettingsOfABindingThatCanNeverWork(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		settings component.Settings
		want     string
	}{
		{component.Settings{}, `"url": is required`},
		{component.Settings{{Name: "url", Value: "mysql://root:hunter2@localhost/x"}}, "is not of the form"},
		{component.Settings{{Name: "url", Value: "root:hunter2@tcp(h)/?tls=custom"}}, "pemPath"},
		{component.Settings{{Name: "url", Value: "root:hunter2@tcp(h)/"}, {Name: "pemPath", Value: "/no/such/file"}}, "no such file"},
		{component.Settings{{Name: "url", Value: "root:hunter2@tcp(h)/"}, {Name: "maxOpenConns", Value: "-1"}}, `"maxOpenConns": must not be negative`},
		{component.Settings{{Name: "url", Value: "root:hunter2@tcp(h)/"}, {Name: "connMaxLifetime", Value: "-1s"}}, `"connMaxLifetime": must not be negative`},
	} {
		cfg := bindingDefaults()
		err := tc.settings.Decode(&cfg)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: %v, want %q and no password", tc.settings, err, tc.want)
		}
	}
}
