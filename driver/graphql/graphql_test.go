package graphql

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

// echo answers with what it was asked.
func echo(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Query     string
		Variables map[string]any
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		http.Error(w, fmt.Sprint(r.Method, r.Header, err), http.StatusTeapot)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{
		"query": in.Query, "variables": in.Variables, "a": r.Header.Get("X-A"), "b": r.Header.Get("X-B"), "n": json.Number("9007199254740993"),
	}})
}

func endpoint(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// open opens a binding as its settings say; they come in pairs.
func open(t testing.TB, settings ...string) *Binding {
	t.Helper()
	cfg := Config{}
	if err := pairs(settings...).Decode(&cfg); err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func pairs(text ...string) (out component.Settings) {
	for i := 0; i < len(text); i += 2 {
		out = append(out, component.Setting{Name: text[i], Value: text[i+1]})
	}
	return out
}

func invoke(t testing.TB, b *Binding, operation string, metadata ...string) (binding.Response, error) {
	t.Helper()
	r := binding.Request{Operation: operation, Metadata: map[string]string{}}
	for _, s := range pairs(metadata...) {
		r.Metadata[s.Name] = s.Value
	}
	return b.Invoke(t.Context(), r)
}

func TestBinding(t *testing.T) {
	t.Parallel()
	address := endpoint(t, echo)
	request := binding.Request{Operation: "query", Metadata: map[string]string{"query": "{ a }"}}
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return open(t, "endpoint", address) },
		Request: request,
	})
	t.Run("OnABadNetwork", func(t *testing.T) {
		t.Parallel()
		bindingtest.RunNetwork(t, bindingtest.Network{
			Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
				proxy := faultnet.New(t, strings.TrimPrefix(address, "http://"))
				return open(t, "endpoint", "http://"+proxy.Addr()), proxy
			},
			Request: request,
		})
	})
}

func TestStatementsAreCarriedOut(t *testing.T) {
	t.Parallel()
	b := open(t, "endpoint", endpoint(t, echo), "header:X-A", "of the settings", "header:X-B", "of the settings")
	for _, statement := range []string{"query Users($id: ID!) { user(id: $id) { name } }", " {a}", "# why\n\tquery{a}", "mutation { add }"} {
		operation := "query"
		if strings.HasPrefix(statement, "m") {
			operation = "mutation"
		}
		r, err := invoke(t, b, operation, operation, statement, "variable:id", "it's 7", "header:X-B", "of the request", "other", "x")
		if err != nil {
			t.Errorf("%q: %v", statement, err)
			continue
		}
		var got map[string]any
		if err := json.Unmarshal(r.Data, &got); err != nil {
			t.Fatal(err)
		}
		delete(got, "n")
		want := map[string]any{"query": statement, "variables": map[string]any{"id": "it's 7"}, "a": "of the settings", "b": "of the request"}
		if !reflect.DeepEqual(got, want) || !strings.Contains(string(r.Data), "9007199254740993") {
			t.Errorf("%q: %s, want %v", statement, r.Data, want)
		}
		if r.Metadata["operation"] != operation || r.Metadata["start-time"] == "" || r.Metadata["end-time"] == "" || r.Metadata["duration"] == "" {
			t.Errorf("%q: metadata %v", statement, r.Metadata)
		}
	}
}

func TestRequestsThatCannotBeCarriedOut(t *testing.T) {
	t.Parallel()
	b := open(t, "endpoint", endpoint(t, echo))
	for _, tc := range []struct {
		operation string
		metadata  []string
		want      string
	}{
		{"query", nil, `"query" is missing`},
		{"query", []string{"mutation", "mutation {a}"}, `"query" is missing`},
		{"query", []string{"query", "# nothing"}, `"query" is missing`},
		{"query", []string{"query", "mutation {a}"}, "is no query"},
		{"query", []string{"query", "querying {a}"}, "is no query"},
		{"query", []string{"query", "(a)"}, "is no query"},
		{"mutation", []string{"mutation", "{a}"}, "is no mutation"},
		{"query", []string{"query", "{a}", "header:a b", "x"}, `"header:a b" is no valid HTTP header`},
		{"query", []string{"query", "{a}", "header:a", "x\ny"}, `"header:a" is no valid HTTP header`},
		{"subscription", []string{"subscription", "subscription {a}"}, "query and mutation"},
	} {
		if _, err := invoke(t, b, tc.operation, tc.metadata...); !fault.Is(err, fault.InvalidArgument) || !strings.Contains(fault.Message(err), tc.want) {
			t.Errorf("%s %v: %v, want %q", tc.operation, tc.metadata, err, tc.want)
		}
	}
}

func TestAnswersAreNamed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status int
		body   string
		want   fault.Code
		text   string
		data   string
	}{
		{200, `{"data":{"a":1},"errors":[{"message":"b is down"},{"message":"c too"}]}`, fault.FailedPrecondition, "b is down (and 1 errors more)", `{"a":1}`},
		{200, `{"errors":[{"message":"no","extensions":{"code":"FORBIDDEN"}}]}`, fault.PermissionDenied, "answers: no", ""},
		{400, `{"errors":[{"message":"line 1: syntax"}]}`, fault.InvalidArgument, "line 1: syntax", ""},
		{500, `{"errors":[{"message":"sign in","extensions":{"code":"UNAUTHENTICATED"}}]}`, fault.Unauthenticated, "sign in", ""},
		{200, `<html>`, fault.Internal, "no response of GraphQL", ""},
		{200, `{}`, fault.Internal, "no response of GraphQL", ""},
		{404, `<html>`, fault.FailedPrecondition, "404 Not Found", ""},
		{401, ``, fault.Unauthenticated, "401", ""},
		{503, `{"message":"later"}`, fault.Unavailable, "503", ""},
	} {
		b := open(t, "endpoint", endpoint(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tc.status)
			_, _ = w.Write([]byte(tc.body))
		})+"/secret-path")
		r, err := invoke(t, b, "query", "query", "{a}")
		if !fault.Is(err, tc.want) || !strings.Contains(fault.Message(err), tc.text) || string(r.Data) != tc.data {
			t.Errorf("%d %s: %q, %v; want %v and %q", tc.status, tc.body, r.Data, err, tc.want, tc.text)
		}
	}
	_, err := invoke(t, open(t, "endpoint", "http://127.0.0.1:1/?key=hunter2"), "query", "query", "{a}")
	if !fault.Is(err, fault.Unavailable) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestSettingsThatCanNeverWork(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		settings []string
		want     string
	}{
		{nil, `"endpoint": is required`},
		{[]string{"endpoint", "api.example"}, `"endpoint": wants a URL`},
		{[]string{"endpoint", "ftp://api.example"}, `"endpoint": wants a URL`},
		{[]string{"endpoint", "http://x", "header:a b", "hunter2"}, `"header:a b": is no valid HTTP header`},
		{[]string{"endpoint", "http://x", "header:A", "hunter2\n"}, `"header:A": is no valid HTTP header`},
		{[]string{"endpoint", "http://x", "headers", "hunter2"}, `"headers": there is no such setting`},
	} {
		cfg := Config{}
		if err := pairs(tc.settings...).Decode(&cfg); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: %v, want %q", tc.settings, err, tc.want)
		}
	}
}
