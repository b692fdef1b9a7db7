package grpcapi

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/internal/leak"
)

func item(key, value string) *commonv1.StateItem {
	return &commonv1.StateItem{Key: key, Value: []byte(value)}
}

func TestItemsAreSavedReadAndDeleted(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	get := func(key string) *rtv1.GetStateResponse {
		t.Helper()
		return must[*rtv1.GetStateResponse](t)(c.GetState(ctx, &rtv1.GetStateRequest{StoreName: "statestore", Key: key}))
	}
	if out := get("none"); len(out.GetData()) != 0 || out.GetEtag() != "" {
		t.Errorf("what does not exist is %v", out)
	}
	short := item("short", "\x00\xff")
	short.Metadata = map[string]string{"ttlInSeconds": "100"}
	json := item("json", `{"a":1}`)
	json.Metadata = map[string]string{"contentType": "application/json"}
	must[*emptypb.Empty](t)(c.SaveState(ctx, &rtv1.SaveStateRequest{StoreName: "statestore", States: []*commonv1.StateItem{item("a", "1"), short, json}}))
	a := get("a")
	if string(a.GetData()) != "1" || a.GetEtag() == "" || len(a.GetMetadata()) != 0 {
		t.Errorf("a is %v", a)
	}
	if out := get("json"); string(out.GetData()) != `{"a":1}` {
		t.Errorf("json is %v", out)
	}
	out := get("short")
	expires, err := time.Parse(time.RFC3339, out.GetMetadata()["ttlExpireTime"])
	if err != nil || time.Until(expires) > 101*time.Second || string(out.GetData()) != "\x00\xff" {
		t.Errorf("short is %v", out)
	}

	stale := item("a", "2")
	stale.Etag = &commonv1.Etag{Value: "1"}
	_, err = c.SaveState(ctx, &rtv1.SaveStateRequest{StoreName: "statestore", States: []*commonv1.StateItem{stale}})
	want{codes.Aborted, "ERR_STATE_SAVE", "possible etag mismatch"}.check(t, err)
	_, err = c.DeleteState(ctx, &rtv1.DeleteStateRequest{StoreName: "statestore", Key: "a", Etag: &commonv1.Etag{Value: "1"}})
	want{codes.Aborted, "ERR_STATE_DELETE", "possible etag mismatch"}.check(t, err)
	first := item("a", "3")
	first.Options = &commonv1.StateOptions{Concurrency: commonv1.StateOptions_CONCURRENCY_FIRST_WRITE}
	_, err = c.SaveState(ctx, &rtv1.SaveStateRequest{StoreName: "statestore", States: []*commonv1.StateItem{first}})
	want{codes.Aborted, "ERR_STATE_SAVE", ""}.check(t, err)

	must[*emptypb.Empty](t)(c.DeleteState(ctx, &rtv1.DeleteStateRequest{StoreName: "statestore", Key: "a", Etag: &commonv1.Etag{Value: a.GetEtag()}}))
	must[*emptypb.Empty](t)(c.DeleteBulkState(ctx, &rtv1.DeleteBulkStateRequest{StoreName: "statestore", States: []*commonv1.StateItem{item("json", ""), item("none", "")}}))
	for _, key := range []string{"a", "json"} {
		if out := get(key); len(out.GetData()) != 0 {
			t.Errorf("%s is still %v", key, out)
		}
	}
}

func TestManyItemsAreReadAtOnce(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	must[*emptypb.Empty](t)(c.SaveState(ctx, &rtv1.SaveStateRequest{StoreName: "statestore", States: []*commonv1.StateItem{item("a", "1"), item("b", "2")}}))
	out := must[*rtv1.GetBulkStateResponse](t)(c.GetBulkState(ctx, &rtv1.GetBulkStateRequest{StoreName: "statestore", Keys: []string{"a", "none", "b"}, Parallelism: 2}))
	var got []string
	for _, i := range out.GetItems() {
		got = append(got, i.GetKey()+"="+string(i.GetData())+" "+strconv.FormatBool(i.GetEtag() != "")+i.GetError())
	}
	if text := strings.Join(got, ", "); text != "a=1 true, none= false, b=2 true" {
		t.Error(text)
	}
	out = must[*rtv1.GetBulkStateResponse](t)(c.GetBulkState(ctx, &rtv1.GetBulkStateRequest{StoreName: "statestore"}))
	if len(out.GetItems()) != 0 {
		t.Errorf("no keys gave %v", out)
	}
	out = must[*rtv1.GetBulkStateResponse](t)(c.GetBulkState(ctx, &rtv1.GetBulkStateRequest{StoreName: "away", Keys: []string{"a"}}))
	if e := out.GetItems()[0].GetError(); !strings.Contains(e, "connection refused") {
		t.Errorf("the error of an item is %q", e)
	}
}

func TestTransactionsAreCarriedOut(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	op := func(kind, key string) *rtv1.TransactionalStateOperation {
		return &rtv1.TransactionalStateOperation{OperationType: kind, Request: item(key, "v")}
	}
	run := func(store string, ops ...*rtv1.TransactionalStateOperation) error {
		_, err := c.ExecuteStateTransaction(ctx, &rtv1.ExecuteStateTransactionRequest{StoreName: store, Operations: ops})
		return err
	}
	if err := run("statestore", op("upsert", "a"), op("upsert", "b"), op("delete", "a")); err != nil {
		t.Fatal(err)
	}
	if err := run("statestore"); err != nil {
		t.Errorf("no operations: %v", err)
	}
	stale := op("upsert", "b")
	stale.Request.Etag = &commonv1.Etag{Value: "1"}
	for _, tc := range []struct {
		err  error
		want want
	}{
		{run("statestore", op("insert", "a")), want{codes.Unimplemented, "ERR_NOT_SUPPORTED_STATE_OPERATION", "operation type insert not supported"}},
		{run("plain", op("upsert", "a")), want{codes.Unimplemented, "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", "plain"}},
		{run("small", op("upsert", "a"), op("upsert", "b"), op("upsert", "c")), want{codes.InvalidArgument, "DAPR_STATE_TOO_MANY_TRANSACTIONS", "3 operations"}},
		{run("statestore", op("upsert", "c"), stale), want{codes.Internal, "ERR_STATE_TRANSACTION", "etag"}},
		{run("statestore", op("upsert", "a||b")), want{codes.InvalidArgument, "DAPR_STATE_ILLEGAL_KEY", "a||b"}},
	} {
		tc.want.check(t, tc.err)
	}
	if out := must[*rtv1.GetStateResponse](t)(c.GetState(ctx, &rtv1.GetStateRequest{StoreName: "statestore", Key: "c"})); len(out.GetData()) > 0 {
		t.Errorf("a part of a transaction that failed is there: %v", out)
	}
}

func TestValuesOfEveryKindComeBackFromAnEncryptedStore(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	values := []string{`{"a":1}`, "text", "", "\x00\xff", "[123 34]", "a||b", "12345678901234567890"}
	var keys []string
	var items []*commonv1.StateItem
	tx := &rtv1.ExecuteStateTransactionRequest{StoreName: "encrypted"}
	for i, v := range values {
		item := item("saved"+strconv.Itoa(i), v)
		items, keys = append(items, item), append(keys, item.GetKey())
		if i == 0 {
			item.Metadata = map[string]string{"contentType": "application/json"}
		}
		moved := &commonv1.StateItem{Key: "moved" + strconv.Itoa(i), Value: []byte(v), Metadata: item.GetMetadata()}
		tx.Operations = append(tx.Operations, &rtv1.TransactionalStateOperation{OperationType: "upsert", Request: moved})
		keys = append(keys, moved.GetKey())
	}
	must[*emptypb.Empty](t)(c.SaveState(ctx, &rtv1.SaveStateRequest{StoreName: "encrypted", States: items}))
	must[*emptypb.Empty](t)(c.ExecuteStateTransaction(ctx, tx))
	out := must[*rtv1.GetBulkStateResponse](t)(c.GetBulkState(ctx, &rtv1.GetBulkStateRequest{StoreName: "encrypted", Keys: keys}))
	for i, item := range out.GetItems() {
		one := must[*rtv1.GetStateResponse](t)(c.GetState(ctx, &rtv1.GetStateRequest{StoreName: "encrypted", Key: keys[i]}))
		stored := must[*rtv1.GetStateResponse](t)(c.GetState(ctx, &rtv1.GetStateRequest{StoreName: "statestore", Key: keys[i]}))
		if want := values[i/2]; string(item.GetData()) != want || string(one.GetData()) != want || item.GetError() != "" {
			t.Errorf("%s is %q and %q, want %q", item.GetKey(), item.GetData(), one.GetData(), want)
		}
		if !strings.HasSuffix(string(stored.GetData()), "||mysecret") {
			t.Errorf("%s is stored as %q", item.GetKey(), stored.GetData())
		}
	}
	must[*emptypb.Empty](t)(c.SaveState(ctx, &rtv1.SaveStateRequest{StoreName: "statestore", States: []*commonv1.StateItem{item("clear", "1")}}))
	_, err := c.GetState(ctx, &rtv1.GetStateRequest{StoreName: "encrypted", Key: "clear"})
	want{codes.Internal, "ERR_STATE_GET", "fail to get clear from state store encrypted: the value is not encrypted"}.check(t, err)
}

// Every method tells in the documented way of what every method can meet.
func TestEveryStateMethodTellsTheErrorsOfAll(t *testing.T) {
	leak.Check(t)
	c, none, ctx := connect(t, newWorld(t)), connect(t, &world{}), timeout(t)
	methods := map[string]func(c rtv1.DaprClient, store, key string) error{
		"GetState": func(c rtv1.DaprClient, store, key string) error {
			_, err := c.GetState(ctx, &rtv1.GetStateRequest{StoreName: store, Key: key})
			return err
		},
		"GetBulkState": func(c rtv1.DaprClient, store, key string) error {
			_, err := c.GetBulkState(ctx, &rtv1.GetBulkStateRequest{StoreName: store, Keys: []string{"fine", key}})
			return err
		},
		"SaveState": func(c rtv1.DaprClient, store, key string) error {
			_, err := c.SaveState(ctx, &rtv1.SaveStateRequest{StoreName: store, States: []*commonv1.StateItem{item("fine", ""), item(key, "")}})
			return err
		},
		"DeleteState": func(c rtv1.DaprClient, store, key string) error {
			_, err := c.DeleteState(ctx, &rtv1.DeleteStateRequest{StoreName: store, Key: key})
			return err
		},
		"DeleteBulkState": func(c rtv1.DaprClient, store, key string) error {
			_, err := c.DeleteBulkState(ctx, &rtv1.DeleteBulkStateRequest{StoreName: store, States: []*commonv1.StateItem{item("fine", ""), item(key, "")}})
			return err
		},
		"ExecuteStateTransaction": func(c rtv1.DaprClient, store, key string) error {
			_, err := c.ExecuteStateTransaction(ctx, &rtv1.ExecuteStateTransactionRequest{StoreName: store, Operations: []*rtv1.TransactionalStateOperation{
				{OperationType: "delete", Request: item("fine", "")}, {OperationType: "upsert", Request: item(key, "")}}})
			return err
		},
		"QueryStateAlpha1": func(c rtv1.DaprClient, store, _ string) error {
			_, err := c.QueryStateAlpha1(ctx, &rtv1.QueryStateRequest{StoreName: store, Query: "{}"})
			return err
		},
	}
	tags := map[string]string{
		"GetState": "ERR_STATE_GET", "SaveState": "ERR_STATE_SAVE", "DeleteState": "ERR_STATE_DELETE", "DeleteBulkState": "ERR_STATE_BULK_DELETE",
		"QueryStateAlpha1": "DAPR_STATE_QUERY_FAILED",
	}
	for name, call := range methods {
		t.Run(name, func(t *testing.T) {
			want{codes.FailedPrecondition, "DAPR_STATE_NOT_CONFIGURED", "state store statestore is not configured"}.check(t, call(none, "statestore", "k"))
			want{codes.InvalidArgument, "DAPR_STATE_NOT_FOUND", "state store nosuch is not found"}.check(t, call(c, "nosuch", "k"))
			if name != "QueryStateAlpha1" {
				want{codes.InvalidArgument, "DAPR_STATE_ILLEGAL_KEY", "input key/keyPrefix 'a||b' can't contain '||'"}.check(t, call(c, "statestore", "a||b"))
				want{codes.InvalidArgument, "", "key"}.check(t, call(c, "statestore", ""))
			}
			if tag := tags[name]; tag != "" {
				want{codes.Internal, tag, ""}.check(t, call(c, "wrong", "k"))
				want{codes.Unavailable, tag, "connection refused"}.check(t, call(c, "away", "k"))
				want{codes.ResourceExhausted, tag, "100 calls per second are the most allowed"}.check(t, call(c, "busy", "k"))
			}
		})
	}
	// A key that is wrong stops a request before anything is written.
	out := must[*rtv1.GetBulkStateResponse](t)(c.GetBulkState(ctx, &rtv1.GetBulkStateRequest{StoreName: "statestore", Keys: []string{"fine"}}))
	if len(out.GetItems()) != 1 || out.GetItems()[0].GetEtag() != "" {
		t.Errorf("%v", out)
	}
	many := make([]string, 100_001)
	for i := range many {
		many[i] = "k"
	}
	_, err := c.GetBulkState(ctx, &rtv1.GetBulkStateRequest{StoreName: "statestore", Keys: many})
	want{codes.InvalidArgument, "ERR_STATE_BULK_GET", "100001 items are too many for one request: it may have 100000"}.check(t, err)
	_, err = c.SaveState(ctx, &rtv1.SaveStateRequest{StoreName: "statestore", States: []*commonv1.StateItem{item("", "v")}})
	want{codes.InvalidArgument, "ERR_STATE_SAVE", "state key cannot be empty"}.check(t, err)
}

// What becomes of each item of a bulk delete can be told from its error.
func TestABulkDeleteTellsOfEachItemThatFailed(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	with := func(key, etag string) *commonv1.StateItem {
		return &commonv1.StateItem{Key: key, Etag: &commonv1.Etag{Value: etag}}
	}
	must[*emptypb.Empty](t)(c.SaveState(ctx, &rtv1.SaveStateRequest{StoreName: "statestore", States: []*commonv1.StateItem{
		item("gone", "1"), item("stays", "1"), item("right", "1")}}))
	right := must[*rtv1.GetStateResponse](t)(c.GetState(ctx, &rtv1.GetStateRequest{StoreName: "statestore", Key: "right"})).GetEtag()
	_, err := c.DeleteBulkState(ctx, &rtv1.DeleteBulkStateRequest{StoreName: "statestore", States: []*commonv1.StateItem{
		item("gone", ""), with("stays", "stale"), item("none", ""), with("missing", "any"), with("right", right)}})
	want{codes.Aborted, "ERR_STATE_BULK_DELETE", "failed deleting state in state store statestore: possible etag mismatch. error from state store: " +
		`state "statestore": 2 of 5 items were not deleted: `}.check(t, err)
	var bad *errdetails.BadRequest
	for _, d := range status.Convert(err).Details() {
		if b, ok := d.(*errdetails.BadRequest); ok {
			bad = b
		}
	}
	if v := bad.GetFieldViolations(); len(v) != 2 || v[0].GetField() != "stays" || v[1].GetField() != "missing" ||
		v[0].GetDescription() != "the item has changed: its etag is not the one given" {
		t.Errorf("the details are %v", bad)
	}
	for key, there := range map[string]bool{"gone": false, "stays": true, "right": false} {
		if out := must[*rtv1.GetStateResponse](t)(c.GetState(ctx, &rtv1.GetStateRequest{StoreName: "statestore", Key: key})); (out.GetEtag() != "") != there {
			t.Errorf("%s is there: %v", key, out)
		}
	}
	// Of very many only some are named: the details have to fit a header.
	var many []*commonv1.StateItem
	for i := range 5000 {
		many = append(many, with("none"+strconv.Itoa(i), "any"))
	}
	_, err = c.DeleteBulkState(ctx, &rtv1.DeleteBulkStateRequest{StoreName: "statestore", States: many})
	want{codes.Aborted, "ERR_STATE_BULK_DELETE", "5000 of 5000 items were not deleted"}.check(t, err)
	must[*emptypb.Empty](t)(c.DeleteBulkState(ctx, &rtv1.DeleteBulkStateRequest{StoreName: "statestore"}))
}

func TestItemsAreQueried(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	must[*emptypb.Empty](t)(c.SaveState(ctx, &rtv1.SaveStateRequest{StoreName: "statestore", States: []*commonv1.StateItem{
		item("a", `{"n":3}`), item("b", `{"n":1}`), item("c", `{"n":2}`), item("d", "\x00"),
	}}))
	query := func(text string) *rtv1.QueryStateResponse {
		t.Helper()
		return must[*rtv1.QueryStateResponse](t)(c.QueryStateAlpha1(ctx, &rtv1.QueryStateRequest{StoreName: "statestore", Query: text}))
	}
	out := query(`{"filter":{"GTE":{"n":1}},"sort":[{"key":"n"}],"page":{"limit":2}}`)
	if len(out.GetResults()) != 2 || out.GetToken() == "" {
		t.Fatalf("%v", out)
	}
	if r := out.GetResults()[0]; r.GetKey() != "b" || string(r.GetData()) != `{"n":1}` || r.GetEtag() == "" || r.GetError() != "" {
		t.Errorf("%v", r)
	}
	out = query(`{"filter":{"GTE":{"n":1}},"sort":[{"key":"n"}],"page":{"limit":2,"token":"` + out.GetToken() + `"}}`)
	if len(out.GetResults()) != 1 || out.GetResults()[0].GetKey() != "a" || out.GetToken() != "" {
		t.Errorf("%v", out)
	}
	if out = query(`{}`); len(out.GetResults()) != 4 || string(out.GetResults()[3].GetData()) != "\x00" {
		t.Errorf("%v", out)
	}
	if out = query(`{"filter":{"EQ":{"n":7}}}`); len(out.GetResults()) != 0 || out.GetToken() != "" {
		t.Errorf("%v", out)
	}
}

func TestStateErrorsAreThoseOfDapr(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	c, none, ctx := connect(t, w), connect(t, &world{}), timeout(t)
	get := func(c rtv1.DaprClient, store, key string) error {
		_, err := c.GetState(ctx, &rtv1.GetStateRequest{StoreName: store, Key: key})
		return err
	}
	save := func(store string, i *commonv1.StateItem) error {
		_, err := c.SaveState(ctx, &rtv1.SaveStateRequest{StoreName: store, States: []*commonv1.StateItem{i}})
		return err
	}
	query := func(store, text string) error {
		_, err := c.QueryStateAlpha1(ctx, &rtv1.QueryStateRequest{StoreName: store, Query: text})
		return err
	}
	strange := func(change func(*commonv1.StateItem)) *commonv1.StateItem {
		i := item("k", "{")
		change(i)
		return i
	}
	for _, tc := range []struct {
		name string
		err  error
		want want
	}{
		{"no store at all", get(none, "statestore", "k"), want{codes.FailedPrecondition, "DAPR_STATE_NOT_CONFIGURED", "state store statestore is not configured"}},
		{"another store", get(c, "statestor", "k"), want{codes.InvalidArgument, "DAPR_STATE_NOT_FOUND", `did you mean "statestore"?`}},
		{"an illegal key", get(c, "statestore", "a||b"), want{codes.InvalidArgument, "DAPR_STATE_ILLEGAL_KEY", "input key/keyPrefix 'a||b' can't contain '||'"}},
		{"no key", get(c, "statestore", ""), want{codes.InvalidArgument, "ERR_MALFORMED_REQUEST", ""}},
		{"a store that is away", get(c, "away", "k"), want{codes.Unavailable, "ERR_STATE_GET", "fail to get k from state store away"}},
		{"a store that is busy", get(c, "busy", "k"), want{codes.ResourceExhausted, "ERR_STATE_GET", ""}},
		{"a bug", get(c, "wrong", "k"), want{codes.Internal, "ERR_STATE_GET", ""}},
		{"a bug, saving", save("wrong", item("k", "v")), want{codes.Internal, "ERR_STATE_SAVE", "failed saving state in state store wrong"}},
		{"not JSON", save("statestore", strange(func(i *commonv1.StateItem) { i.Metadata = map[string]string{"contentType": "application/json"} })),
			want{codes.InvalidArgument, "ERR_MALFORMED_REQUEST", `the value of key "k" is not JSON`}},
		{"a strange concurrency", save("statestore", strange(func(i *commonv1.StateItem) { i.Options = &commonv1.StateOptions{Concurrency: 9} })),
			want{codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "concurrency 9"}},
		{"a strange consistency", save("statestore", strange(func(i *commonv1.StateItem) { i.Options = &commonv1.StateOptions{Consistency: 9} })),
			want{codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "consistency 9"}},
		{"a query of another store", query("statestor", "{}"), want{codes.InvalidArgument, "DAPR_STATE_NOT_FOUND", "state store statestor is not found"}},
		{"a query of a store that cannot", query("plain", "["), want{codes.Internal, "DAPR_STATE_QUERYING_NOT_SUPPORTED", "state store does not support querying"}},
		{"a query of an encrypted store", query("encrypted", "{}"), want{codes.Internal, "DAPR_STATE_QUERY_FAILED", "state store encrypted query failed: cannot query encrypted store"}},
		{"a bad query", query("statestore", "["), want{codes.InvalidArgument, "DAPR_STATE_QUERY_FAILED", "state store statestore query failed: "}},
		{"a query of a store that is away", query("away", "{}"), want{codes.Unavailable, "DAPR_STATE_QUERY_FAILED", "connection refused"}},
		{"a query that meets a bug", query("wrong", "{}"), want{codes.Internal, "DAPR_STATE_QUERY_FAILED", "state store wrong query failed"}},
		{"a strange TTL", save("statestore", strange(func(i *commonv1.StateItem) { i.Metadata = map[string]string{"ttlInSeconds": "soon"} })),
			want{codes.InvalidArgument, "ERR_STATE_SAVE", "soon"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.want.check(t, tc.err)
			if strings.Contains(tc.err.Error(), "hunter2") || strings.Contains(tc.err.Error(), "shop||") {
				t.Errorf("it tells too much: %v", tc.err)
			}
		})
	}
}
