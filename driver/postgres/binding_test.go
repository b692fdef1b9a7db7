package postgres

import (
	"strings"
	"testing"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

func openBinding(t testing.TB, url string) *Binding {
	t.Helper()
	b, err := OpenBinding(t.Context(), configOf(url), component.Env{})
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
	url := server.Get(t).URL("postgres")
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return openBinding(t, url) },
		Request: binding.Request{Operation: "query", Metadata: map[string]string{"sql": "SELECT 1"}},
	})
}

func TestStatementsAreCarriedOut(t *testing.T) {
	t.Parallel()
	b := openBinding(t, database(t, ""))
	for _, tc := range []struct{ operation, sql, params, data, affected string }{
		{"exec", "CREATE TABLE foo (id bigint, v text, f float8, at timestamptz, ok boolean)", "", "", "0"},
		{"exec", "INSERT INTO foo (id, v, f, at, ok) VALUES ($1, $2, $3, '2026-01-02T03:04:05Z', true), (9007199254740993, NULL, 1, NULL, false)",
			`[7, "it's", 1.5]`, "", "2"},
		{"query", "SELECT id, v, f, ok FROM foo ORDER BY id", "", `[[7,"it's",1.5,true],[9007199254740993,null,1,false]]`, ""},
		{"query", "SELECT id FROM foo WHERE v = $1", `["nobody"]`, `[]`, ""},
		{"exec", "DELETE FROM foo WHERE id = $1", `[7]`, "", "1"},
	} {
		r, err := invoke(t, b, tc.operation, tc.sql, tc.params)
		if err != nil || string(r.Data) != tc.data || r.Metadata["rows-affected"] != tc.affected || r.Metadata["sql"] != tc.sql || r.Metadata["duration"] == "" {
			t.Errorf("%s: %s, %v, %v; want %s and %s rows", tc.sql, r.Data, r.Metadata, err, tc.data, tc.affected)
		}
	}
}

func TestStatementsThatCannotBeCarriedOut(t *testing.T) {
	t.Parallel()
	b := openBinding(t, database(t, ""))
	for _, tc := range []struct{ operation, sql, params, want string }{
		{"query", "", "", "sql"},
		{"query", "SELECT $1::text", "no JSON", "params"},
		{"query", "SELECT $1::text", `["a"] x`, "params"},
		{"query", "SELECT $1::text", `{"a":1}`, "params"},
		{"query", "SELEKT", "", "syntax error"},
		{"exec", "INSERT INTO nowhere VALUES (1)", "", `relation "nowhere" does not exist`},
	} {
		_, err := invoke(t, b, tc.operation, tc.sql, tc.params)
		if !fault.Is(err, fault.InvalidArgument) || !strings.Contains(fault.Message(err), tc.want) {
			t.Errorf("%s %s: %v, want invalid_argument and %q", tc.sql, tc.params, err, tc.want)
		}
	}
	if _, err := invoke(t, b, "close", "", ""); err != nil {
		t.Error(err)
	}
	if _, err := invoke(t, b, "query", "SELECT 1", ""); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after close: %v", err)
	}
}
