package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/mesh/proxy"
)

// FuzzRequest sends any request: it must be answered once, and well.
func FuzzRequest(f *testing.F) {
	for _, seed := range []struct{ method, target, header, body string }{
		{"GET", "/v1.0/state/statestore/k?metadata.a=b&consistency=strong", "", ""},
		{"POST", "/v1.0/state/statestore", "Content-Type: application/json", `[{"key":"k","value":{"a":[1,2.50,"x"]},"etag":"1","metadata":{"ttlInSeconds":60}}]`},
		{"POST", "/v1.0/state/statestore/transaction", "", `{"operations":[{"operation":"upsert","request":{"key":"k","value":1}}]}`},
		{"POST", "/v1.0/state/statestore/bulk", "", `{"keys":["a","b"],"parallelism":-1}`},
		{"DELETE", "/v1.0/state/statestore/a+b%2F", "If-Match: \"1\"", ""},
		{"POST", "/v1.0/publish/pubsub/t/u?metadata.rawPayload=true&metadata.cloudevent.id=x", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x"},
		{"POST", "/v1.0/publish/bulk/pubsub/t", "", `[{"entryId":"1","event":"a","contentType":"text/plain"}]`},
		{"POST", "/v1.0/bindings/echo", "baggage: a=b", `{"operation":"create","data":"x","metadata":{"to":"\r\n"}}`},
		{"GET", "/v1.0/secrets/vault/bulk", "dapr-api-token: x", ""},
		{"GET", "/v1.0/configuration/configstore?key=color&key=%00", "", ""},
		{"POST", "/v1.0-alpha1/lock/lockstore", "", `{"resourceId":"r","lockOwner":"o","expiryInSeconds":"1e1"}`},
		{"POST", "/v1.0/jobs/j%20", "", `{"schedule":"@every 1s","repeats":"2","data":{"@type":"x"},"overwrite":true,"failurePolicy":{"constant":{"interval":"1s"}}}`},
		{"GET", "/v1.0-alpha1/jobs/j", "", ""},
		{"GET", "/v1.0/invoke/http://x/method/../%2e%2e/a", "dapr-app-id: cart", ""},
		{"GET", "/x", "Authorization: Basic ZGFwci1hcHAtaWQ6Y2FydA==", ""},
		{"OPTIONS", "*", "Origin: null\nAccess-Control-Request-Method: GET", ""},
		{"PUT", "/v1.0/metadata/\xff", "", "\xff"},
		{"HEAD", "//v1.0/.//metadata/", "", ""},
	} {
		f.Add(seed.method, seed.target, seed.header, []byte(seed.body))
	}
	handlers := []proxy.Handler{
		New(Options{AppID: "shop", Blocks: newWorld(f), Invoker: echoInvoker{}, AllowedOrigins: "*", MaxBody: 1 << 16}).Handle,
		New(Options{Blocks: newWorld(f)}).HandlePublic,
	}
	f.Fuzz(func(t *testing.T, method, target, header string, body []byte) {
		for _, h := range handlers {
			ex := &fakeExchange{ctx: t.Context(), req: proxy.Request{Method: method, Target: target, ContentLength: int64(len(body))}}
			if len(body) > 0 {
				ex.req.Body = bytes.NewReader(body)
			}
			for line := range strings.SplitSeq(header, "\n") {
				name, value, _ := strings.Cut(line, ": ")
				ex.req.Header.Add(name, value)
			}
			h(ex)
			if problem := ex.check(); problem != "" {
				t.Errorf("%q %q: %s (%d %v %q)", method, target, problem, ex.status, ex.header, ex.body.Bytes())
			}
		}
	})
}

// check returns what is wrong with the answer, or "".
func (ex *fakeExchange) check() string {
	switch {
	case ex.problem != "":
		return ex.problem
	case ex.answered != 1:
		return fmt.Sprintf("answered %d times", ex.answered)
	case ex.status < 200 || ex.status > 599:
		return "no such status"
	case ex.req.Method != "HEAD" && ex.length != int64(ex.body.Len()):
		return fmt.Sprintf("announced %d bytes, sent %d", ex.length, ex.body.Len())
	case ex.req.Method == "HEAD" && ex.body.Len() > 0:
		return "HEAD was answered with content"
	case ex.status == 204 && ex.length != 0:
		return "204 with content"
	case ex.body.Len() > 0 && !ex.header.Has("content-type"):
		return "content without a type"
	case ex.status >= 400 && ex.header.Get("content-type") == jsonType && ex.body.Len() > 0 && !json.Valid(ex.body.Bytes()):
		return "an error that is not JSON"
	}
	return ""
}

// FuzzJSON compares the scanner with encoding/json: what one takes the other
// takes, and values come through unchanged.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`[{"key":"a","value":1}]`, `[{"key":"\u0061\n","value":{"a":[true,false,null,-1.5e+10,"x\\\""]}}]`, `null`, `[null]`, `[`, `[{}`, `[{"key":"a"},]`,
		`[{"key" "a"}]`, `[{"key":"a","value":01}]`, `[{"key":"a","value":-}]`, `[{"key":"a","value":"` + "\x01" + `"}]`, `[{"KEY":"a","Key":"b"}]`,
		`[{"key":"a","metadata":{"a":"b","n":null}}]`, `[{"key":"a","etag":"1","options":{"concurrency":"last-write"}}]`, strings.Repeat("[", 20000),
		`[{"key":"\ud800","value":"\ud83d\ude00"}]`, `[{"key":"a"}] x`, "\ufeff[]", `{"a":1}`, `"x"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := scanner{b: body}
		s.document()
		s.value()
		if err := s.end(); (err == nil) != (json.Valid(body) && isUTF8(body)) {
			t.Fatalf("valid: %v, scanner: %v", json.Valid(body), err)
		}
		items, err := parseItems(body, nil)
		if err != nil {
			if !strings.Contains(err.Error(), "line ") {
				t.Errorf("the error tells no place: %v", err)
			}
			return
		}
		var want []struct {
			Key   string
			Value json.RawMessage
		}
		if err := json.Unmarshal(body, &want); err != nil || len(want) != len(items) {
			t.Fatalf("%d items, encoding/json finds %d (%v)", len(items), len(want), err)
		}
		for i := range items {
			if want[i].Value == nil {
				want[i].Value = json.RawMessage(null)
			}
			if items[i].Key != want[i].Key || !bytes.Equal(items[i].Value, want[i].Value) {
				t.Errorf("item %d: %q %s, want %q %s", i, items[i].Key, items[i].Value, want[i].Key, want[i].Value)
			}
		}
	})
}

func isUTF8(b []byte) bool { return string(bytes.ToValidUTF8(b, nil)) == string(b) }

func FuzzTransaction(f *testing.F) {
	f.Add([]byte(`{"operations":[{"operation":"upsert","request":{"key":"k","value":1}},{"request":null,"operation":"delete"}],"metadata":{"a":1}}`))
	f.Add([]byte(`{"operations":[{"operation":"x"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseTransaction(body)
		if err == nil && !json.Valid(body) {
			t.Errorf("took what is not JSON: %+v", r)
		}
	})
}

// BenchmarkGetState measures the dialect, the state block and the driver in
// memory together, without a connection.
func BenchmarkGetState(b *testing.B) {
	w := newWorld(b)
	if _, err := w.states["plain"].Set(b.Context(), state.SetRequest{Key: "item", Value: make([]byte, 1024)}); err != nil {
		b.Fatal(err)
	}
	benchmark(b, w, "GET", "/v1.0/state/plain/item", nil, 200)
}

func BenchmarkSaveState(b *testing.B) {
	body := []byte(`[{"key":"item","value":"` + strings.Repeat("x", 1024) + `"}]`)
	benchmark(b, newWorld(b), "POST", "/v1.0/state/plain", body, 204)
}

func BenchmarkPublish(b *testing.B) {
	benchmark(b, newWorld(b), "POST", "/v1.0/publish/null/orders", []byte(`{"text":"`+strings.Repeat("x", 1024)+`"}`), 204)
}

// newRequest returns an exchange that can be used again by reset.
func newRequest(tb testing.TB, method, target string, body []byte) (ex *fakeExchange, reset func()) {
	ex = &fakeExchange{ctx: tb.Context()}
	reader := bytes.NewReader(body)
	header := proxy.Header{
		{Name: "User-Agent", Value: "bench"}, {Name: "Content-Type", Value: "application/json"}, {Name: "Accept", Value: "*/*"},
		{Name: "Accept-Encoding", Value: "gzip"},
	}
	return ex, func() {
		ex.answered, ex.status = 0, 0
		ex.body.Reset()
		reader.Reset(body)
		ex.req = proxy.Request{Method: method, Target: target, Header: header, ContentLength: int64(len(body))}
		if len(body) > 0 {
			ex.req.Body = reader
		}
	}
}

func benchmark(b *testing.B, w *world, method, target string, body []byte, status int) {
	w.addNullBroker()
	h := New(Options{AppID: "shop", Blocks: w, Observe: func(Call) {}}).Handle // as a process does, for metrics
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ex, reset := newRequest(b, method, target, body)
		for pb.Next() {
			reset()
			if h(ex); ex.status != status {
				b.Errorf("%d %s", ex.status, ex.body.Bytes())
				return
			}
		}
	})
}
