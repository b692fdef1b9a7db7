package proa

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/state"
)

// filled returns an API whose store has five items, as its neighbour has, which
// is on the same driver.
func filled(t *testing.T) (addr string, w *world) {
	w = newWorld(t)
	for i := range 5 {
		set(t, w, "store", fmt.Sprint("item/", i), fmt.Sprint("v", i))
		set(t, w, "neighbour", fmt.Sprint("item/", i), "not yours")
	}
	return serve(t, New(Options{Blocks: w})), w
}

func set(t *testing.T, w *world, store, key, value string) (etag string) {
	t.Helper()
	etag, err := w.states[store].Set(t.Context(), state.SetRequest{Key: key, Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	return etag
}

func TestListPagesOverGRPC(t *testing.T) {
	addr, _ := filled(t)
	client := proav1.NewStateClient(dial(t, addr))
	var keys []string
	in := &proav1.StateListRequest{StoreName: "store", Prefix: "item/", PageSize: 2}
	for range 3 {
		page, err := client.List(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.GetEntries() {
			if !proto.Equal(e, &proav1.StateEntry{Key: e.GetKey()}) {
				t.Errorf("an entry without values is %v", e)
			}
			keys = append(keys, e.GetKey())
		}
		in.PageToken = page.GetNextPageToken()
	}
	if want := []string{"item/0", "item/1", "item/2", "item/3", "item/4"}; !slices.Equal(keys, want) || in.GetPageToken() != "" {
		t.Errorf("keys %q, token %q", keys, in.GetPageToken())
	}
}

func TestListWithValuesOverHTTP(t *testing.T) {
	addr, w := filled(t)
	_, err := w.states["store"].Set(t.Context(), state.SetRequest{Key: "ttl", Value: []byte("v"), Metadata: map[string]string{"ttlInSeconds": "3600"}})
	if err != nil {
		t.Fatal(err)
	}
	var page struct {
		Entries []struct {
			Key, ETag  string
			Value      []byte
			ExpireTime time.Time
		}
		NextPageToken string
	}
	code, header, body := post(t, "http://"+addr+"/proa.v1.State/List", `{"storeName":"store","values":true,"prefix":"t"}`)
	if err := json.Unmarshal([]byte(body), &page); err != nil || code != 200 || header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s", code, body)
	}
	if len(page.Entries) != 1 || page.NextPageToken != "" {
		t.Fatalf("%s", body)
	}
	if e := page.Entries[0]; e.Key != "ttl" || string(e.Value) != "v" || e.ETag == "" || time.Until(e.ExpireTime) > time.Hour || time.Until(e.ExpireTime) < 50*time.Minute {
		t.Errorf("%s", body)
	}
}

func TestAWatchOverGRPC(t *testing.T) {
	addr, w := filled(t)
	ctx, cancel := context.WithCancel(t.Context())
	client := proav1.NewStateClient(dial(t, addr))
	stream, err := client.Watch(ctx, &proav1.StateWatchRequest{StoreName: "store", Prefix: "item/", Initial: true})
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	next := func(s interface {
		Recv() (*proav1.StateWatchResponse, error)
	}) *proav1.StateWatchResponse {
		t.Helper()
		out, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for out := next(stream); out.GetSynced() == nil; out = next(stream) {
		seen = append(seen, out.GetPut().GetKey()+"="+string(out.GetPut().GetValue()))
	}
	slices.Sort(seen)
	if want := "item/0=v0 item/1=v1 item/2=v2 item/3=v3 item/4=v4"; strings.Join(seen, " ") != want {
		t.Errorf("the watch begins with %q", seen)
	}
	set(t, w, "neighbour", "item/x", "not yours")
	etag := set(t, w, "store", "item/x", "yours")
	out := next(stream)
	if e := out.GetPut(); e.GetKey() != "item/x" || string(e.GetValue()) != "yours" || e.GetEtag() != etag || out.GetRevision() == "" {
		t.Errorf("the change is %v", out)
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("the end: %v", err)
	}
	if err := w.states["store"].Delete(t.Context(), state.DeleteRequest{Key: "item/x"}); err != nil {
		t.Fatal(err)
	}
	stream, err = client.Watch(t.Context(), &proav1.StateWatchRequest{StoreName: "store", AfterRevision: out.GetRevision()})
	if err != nil {
		t.Fatal(err)
	}
	if out := next(stream); out.GetSynced() == nil {
		t.Errorf("a resumed watch begins with %v", out)
	}
	if out := next(stream); out.GetDeletion().GetKey() != "item/x" {
		t.Errorf("a resumed watch goes on with %v", out)
	}
}

func TestAWatchOverHTTP(t *testing.T) {
	addr, w := filled(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	res := open(t, ctx, "http://"+addr+"/proa.v1.State/Watch", `{"storeName":"store"}`)
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%d %s", res.StatusCode, res.Header)
	}
	stream := lines{t, bufio.NewReader(res.Body)}
	if line := stream.next(); !strings.HasPrefix(line, `{"synced":{},"revision":"`) {
		t.Errorf("the first line is %s", line)
	}
	etag := set(t, w, "store", "k", "v")
	if line, want := stream.next(), `{"put":{"key":"k","value":"dg==","etag":"`+etag+`"},"revision":"`; !strings.HasPrefix(line, want) {
		t.Errorf("a change is %s", line)
	}
	if err := w.states["store"].Delete(t.Context(), state.DeleteRequest{Key: "k"}); err != nil {
		t.Fatal(err)
	}
	if line := stream.next(); !strings.HasPrefix(line, `{"deletion":{"key":"k"},"revision":"`) {
		t.Errorf("a deletion is %s", line)
	}
}

func TestATransactionWithConditions(t *testing.T) {
	addr, w := filled(t)
	client := proav1.NewStateClient(dial(t, addr))
	etag := set(t, w, "store", "config", "1")
	upsert := func(key, value string) *proav1.StateOperation {
		return &proav1.StateOperation{Operation: &proav1.StateOperation_Upsert{Upsert: &commonv1.StateItem{Key: key, Value: []byte(value)}}}
	}
	hasETag := func(etag string) *proav1.StateOperation {
		return &proav1.StateOperation{Operation: &proav1.StateOperation_Check{Check: &proav1.StateCheck{
			Key: "config", Condition: &proav1.StateCheck_Etag{Etag: etag}}}}
	}
	_, err := client.Transact(t.Context(), &proav1.StateTransactRequest{StoreName: "store", Operations: []*proav1.StateOperation{
		upsert("a", "1"), hasETag(etag),
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Transact(t.Context(), &proav1.StateTransactRequest{StoreName: "store", Operations: []*proav1.StateOperation{
		upsert("a", "2"), hasETag("stale"),
	}})
	st := status.Convert(err)
	if st.Code() != codes.Aborted || st.Message() != `state "store": transaction "config": the item is not the one whose etag the transaction demands` {
		t.Errorf("%v", err)
	}
	if len(st.Details()) != 1 {
		t.Fatalf("details %v", st.Details())
	}
	want := &errdetails.ErrorInfo{Domain: "proa.dev", Reason: "state.condition_failed", Metadata: map[string]string{"operation": "1"}}
	if !proto.Equal(st.Details()[0].(*errdetails.ErrorInfo), want) {
		t.Errorf("details %v, want %v", st.Details()[0], want)
	}
	if item, _, err := w.states["store"].Get(t.Context(), state.GetRequest{Key: "a"}); err != nil || string(item.Value) != "1" {
		t.Errorf("a is %s, %v", item.Value, err)
	}
}

func TestTransactionsAndTheirErrorsOverHTTP(t *testing.T) {
	addr, _ := filled(t)
	for _, tc := range []struct {
		operations string
		status     int
		want       string
	}{
		{`{"upsert":{"key":"a","value":"MQ=="}},{"check":{"key":"none","exists":false}}`, 200, `{}`},
		{`{"delete":{"key":"a"}},{"check":{"key":"a","exists":true}}`, 200, `{}`},
		{``, 200, `{}`},
		{`{"upsert":{"key":"a"}},{"check":{"key":"a","exists":true}}`, 409,
			`{"code":"aborted","message":"state \"store\": transaction \"a\": there is no item, and the transaction demands one",` +
				`"reason":"state.condition_failed","metadata":{"operation":"1"}}`},
		{`{"upsert":{"key":"item/0","etag":{"value":"x"}}}`, 409,
			`{"code":"aborted","message":"state \"store\": transaction \"item/0\": the item has changed: its etag is not the one given",` +
				`"reason":"state.etag_mismatch","metadata":{"operation":"0"}}`},
		{`{"upsert":{"key":"item/0","options":{"concurrency":"CONCURRENCY_FIRST_WRITE"}}}`, 409, `"reason":"state.etag_mismatch"`},
		{`{"check":{"key":"a","exists":true}}`, 400, `"reason":"state.bad_operation"`},
		{`{}`, 400, `{"code":"invalid_argument","message":"operation 0: wants an upsert, a delete or a check","reason":"state.bad_operation","metadata":{"operation":"0"}}`},
		{`{"upsert":{"key":"a"}},{"check":{"key":"a"}}`, 400, `operation 1: a check wants a condition: exists or etag`},
		{`{"upsert":{"key":"a||b"}}`, 400, `"reason":"state.illegal_key"`},
		{`{"upsert":{"key":"a","options":{"consistency":9}}}`, 400, `operation 0: there is no consistency 9`},
		{`{"upsert":{"key":"a","options":{"concurrency":9}}}`, 400, `operation 0: there is no concurrency 9`},
	} {
		code, _, body := post(t, "http://"+addr+"/proa.v1.State/Transact", `{"storeName":"store","operations":[`+tc.operations+`]}`)
		if code != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s\nanswers %d %s\nwant    %d %s", tc.operations, code, body, tc.status, tc.want)
		}
	}
}

func TestStoresThatCannotSaySo(t *testing.T) {
	addr, _ := filled(t)
	for _, tc := range []struct{ method, body, want string }{
		{"List", ``, `state \"plain\": list: this kind of store cannot list its keys","reason":"state.list_not_supported"}`},
		{"Watch", ``, `state \"plain\": watch: this kind of store cannot tell of changes","reason":"state.watch_not_supported"}`},
		{"Transact", `,"operations":[{"upsert":{"key":"a"}}]`,
			`state \"plain\": transaction: this kind of store has no transactions","reason":"state.transactions_not_supported"}`},
	} {
		code, _, body := post(t, "http://"+addr+"/proa.v1.State/"+tc.method, `{"storeName":"plain"`+tc.body+`}`)
		if want := `{"code":"unimplemented","message":"` + tc.want; code != 501 || body != want {
			t.Errorf("%s: %d %s, want %s", tc.method, code, body, want)
		}
	}
	client := proav1.NewStateClient(dial(t, addr))
	_, err := client.List(t.Context(), &proav1.StateListRequest{StoreName: "plain"})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("List: %v", err)
	}
	for _, body := range []string{`"pageToken":"!"`, `"pageSize":-1`} {
		if code, _, text := post(t, "http://"+addr+"/proa.v1.State/List", `{"storeName":"store",`+body+`}`); code != 400 || !strings.Contains(text, `"reason":"state.bad_page"`) {
			t.Errorf("%s: %d %s", body, code, text)
		}
	}
}
