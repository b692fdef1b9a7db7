package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dapr/go-sdk/client"
)

const stateStore = "statestore"

func (a *app) checkState() {
	save := func(ctx context.Context, t *t, key, value string) {
		t.ok(a.client.SaveState(ctx, stateStore, key, []byte(value), nil))
	}
	get := func(ctx context.Context, t *t, key string) *client.StateItem {
		item, err := a.client.GetState(ctx, stateStore, key, nil)
		t.ok(err)
		return item
	}
	value := func(ctx context.Context, t *t, key string) string { return string(get(ctx, t, key).Value) }
	firstWrite := client.WithConcurrency(client.StateConcurrencyFirstWrite)

	a.check("state: bytes come back as they were", func(ctx context.Context, t *t) {
		for name, want := range map[string][]byte{
			"text": []byte("naïve — 漢字 🛶"), "json": []byte(`{"a":[1,2.50,null]}`), "binary": {0, 1, 0xff, 0xfe, '\n', 0},
			"large": bytes.Repeat([]byte("xyz\x00"), 3<<18),
		} {
			t.ok(a.client.SaveState(ctx, stateStore, "value-"+name, want, nil))
			if got := get(ctx, t, "value-"+name).Value; !bytes.Equal(got, want) {
				t.fail("%s: got %d bytes %.40q, want %d bytes %.40q", name, len(got), got, len(want), want)
			}
		}
	})
	a.check("state: a key that does not exist is empty", func(ctx context.Context, t *t) {
		item := get(ctx, t, "no-such-key")
		t.equal(len(item.Value), 0, "length")
		t.equal(item.Etag, "", "etag")
	})
	a.check("state: keys may hold what stores treat apart", func(ctx context.Context, t *t) {
		for _, key := range []string{"a b", "a/b", "a+b", "a.b", "a*b", "a>b", "a:b", "ä", "50%", "a|b"} {
			save(ctx, t, key, "value of "+key)
			t.equal(value(ctx, t, key), "value of "+key, key)
			t.ok(a.client.DeleteState(ctx, stateStore, key, nil))
			t.equal(value(ctx, t, key), "", key+", deleted")
		}
	})
	a.check("state: keys with || are refused", func(ctx context.Context, t *t) {
		t.refused(a.client.SaveState(ctx, stateStore, "a||b", []byte("x"), nil), "code = InvalidArgument", "||")
	})
	a.check("state: many are saved, got and deleted at once", func(ctx context.Context, t *t) {
		t.ok(a.client.SaveBulkState(ctx, stateStore,
			&client.SetStateItem{Key: "bulk-1", Value: []byte("one")}, &client.SetStateItem{Key: "bulk-2", Value: []byte("two")}))
		keys := []string{"bulk-1", "bulk-2", "bulk-3"}
		bulk := func() (values []string) {
			items, err := a.client.GetBulkState(ctx, stateStore, keys, nil, 10)
			t.ok(err)
			for _, i := range items {
				if i.Error != "" || (i.Etag == "") != (len(i.Value) == 0) {
					t.fail("%+v: want no error, and an etag exactly when there is a value", i)
				}
				values = append(values, i.Key+"="+string(i.Value))
			}
			slices.Sort(values)
			return values
		}
		t.equal(bulk(), []string{"bulk-1=one", "bulk-2=two", "bulk-3="}, "saved")
		t.ok(a.client.DeleteBulkState(ctx, stateStore, keys, nil))
		t.equal(bulk(), []string{"bulk-1=", "bulk-2=", "bulk-3="}, "deleted")
	})
	a.check("state: of many deletes those with an old etag fail, and the others happen", func(ctx context.Context, t *t) {
		save(ctx, t, "del-1", "one")
		save(ctx, t, "del-2", "old")
		old := &client.ETag{Value: get(ctx, t, "del-2").Etag}
		save(ctx, t, "del-2", "two")
		t.refused(a.client.DeleteBulkStateItems(ctx, stateStore, []*client.DeleteStateItem{{Key: "del-1"}, {Key: "del-2", Etag: old}}),
			"code = Aborted", "del-2")
		t.equal([]string{value(ctx, t, "del-1"), value(ctx, t, "del-2")}, []string{"", "two"}, "values")
	})
	a.check("state: a query filters, sorts and pages", func(ctx context.Context, t *t) {
		for i, v := range []string{`{"q":"A","n":2}`, `{"q":"A","n":3}`, `{"q":"B","n":4}`, `{"q":"A","n":1}`} {
			t.ok(a.client.SaveState(ctx, stateStore, fmt.Sprint("query-", i), []byte(v), map[string]string{"contentType": "application/json"}))
		}
		query := `{"filter":{"AND":[{"EQ":{"q":"A"}},{"GTE":{"n":1}}]},"sort":[{"key":"n","order":"DESC"}],"page":{"limit":2,"token":"%s"}}`
		page, err := a.client.QueryStateAlpha1(ctx, stateStore, fmt.Sprintf(query, ""), nil)
		t.ok(err)
		next, err := a.client.QueryStateAlpha1(ctx, stateStore, fmt.Sprintf(query, page.Token), nil)
		t.ok(err)
		var got []string
		for _, r := range append(page.Results, next.Results...) {
			got = append(got, r.Key+" "+string(r.Value))
			t.equal(r.Etag, get(ctx, t, r.Key).Etag, "etag of "+r.Key)
		}
		t.equal(got, []string{`query-1 {"q":"A","n":3}`, `query-0 {"q":"A","n":2}`, `query-3 {"q":"A","n":1}`}, "results")
		t.equal(next.Token, "", "the last token")
	})
	a.check("state: an encrypted store keeps values of every kind, in transactions too", func(ctx context.Context, t *t) {
		const store = "encrypted"
		values := []string{`{"a":[1,2.5,null]}`, "漢字", "\x00\xff"}
		var operations []*client.StateOperation
		for i, v := range values {
			t.ok(a.client.SaveState(ctx, store, fmt.Sprint("saved-", i), []byte(v), nil))
			operations = append(operations, &client.StateOperation{
				Type: client.StateOperationTypeUpsert, Item: &client.SetStateItem{Key: fmt.Sprint("tx-", i), Value: []byte(v)},
			})
		}
		t.ok(a.client.ExecuteStateTransaction(ctx, store, nil, operations))
		for i, v := range values {
			for _, how := range []string{"saved-", "tx-"} {
				item, err := a.client.GetStateWithConsistency(ctx, store, fmt.Sprint(how, i), nil, client.StateConsistencyStrong)
				t.ok(err)
				t.equal(string(item.Value), v, fmt.Sprint(how, i))
			}
		}
	})
	a.check("state: every save changes the etag", func(ctx context.Context, t *t) {
		save(ctx, t, "etag", "same")
		first := get(ctx, t, "etag").Etag
		save(ctx, t, "etag", "same")
		second := get(ctx, t, "etag").Etag
		t.equal(first != "" && second != "" && first != second, true, fmt.Sprintf("etags %q and %q differ", first, second))
	})
	a.check("state: a save with an old etag is aborted and changes nothing", func(ctx context.Context, t *t) {
		save(ctx, t, "race", "one")
		old := get(ctx, t, "race").Etag
		t.ok(a.client.SaveStateWithETag(ctx, stateStore, "race", []byte("two"), old, nil, firstWrite))
		t.refused(a.client.SaveStateWithETag(ctx, stateStore, "race", []byte("three"), old, nil, firstWrite), "code = Aborted")
		t.equal(value(ctx, t, "race"), "two", "value")
	})
	a.check("state: the first write without an etag wins", func(ctx context.Context, t *t) {
		t.ok(a.client.SaveState(ctx, stateStore, "first", []byte("one"), nil, firstWrite))
		t.equal(value(ctx, t, "first"), "one", "value")
	})
	a.check("state: a delete with an old etag is aborted, with the present one it deletes", func(ctx context.Context, t *t) {
		save(ctx, t, "gone", "one")
		old := &client.ETag{Value: get(ctx, t, "gone").Etag}
		save(ctx, t, "gone", "two")
		options := &client.StateOptions{Concurrency: client.StateConcurrencyFirstWrite, Consistency: client.StateConsistencyStrong}
		t.refused(a.client.DeleteStateWithETag(ctx, stateStore, "gone", old, nil, options), "code = Aborted")
		t.equal(value(ctx, t, "gone"), "two", "value")
		present := &client.ETag{Value: get(ctx, t, "gone").Etag}
		t.ok(a.client.DeleteStateWithETag(ctx, stateStore, "gone", present, nil, options))
		t.equal(value(ctx, t, "gone"), "", "value")
	})
	a.check("state: a transaction makes all its changes", func(ctx context.Context, t *t) {
		save(ctx, t, "tx-old", "old")
		t.ok(a.client.ExecuteStateTransaction(ctx, stateStore, nil, []*client.StateOperation{
			{Type: client.StateOperationTypeUpsert, Item: &client.SetStateItem{Key: "tx-new", Value: []byte{0, 0xff}}},
			{Type: client.StateOperationTypeDelete, Item: &client.SetStateItem{Key: "tx-old"}},
		}))
		t.equal([]string{value(ctx, t, "tx-new"), value(ctx, t, "tx-old")}, []string{"\x00\xff", ""}, "values")
	})
	a.check("state: a transaction with an old etag changes nothing", func(ctx context.Context, t *t) {
		save(ctx, t, "tx-race", "one")
		old := &client.ETag{Value: get(ctx, t, "tx-race").Etag}
		save(ctx, t, "tx-race", "two")
		t.refused(a.client.ExecuteStateTransaction(ctx, stateStore, nil, []*client.StateOperation{
			{Type: client.StateOperationTypeUpsert, Item: &client.SetStateItem{Key: "tx-other", Value: []byte("other")}},
			{Type: client.StateOperationTypeUpsert, Item: &client.SetStateItem{Key: "tx-race", Value: []byte("three"), Etag: old,
				Options: &client.StateOptions{Concurrency: client.StateConcurrencyFirstWrite}}},
		}))
		t.equal([]string{value(ctx, t, "tx-race"), value(ctx, t, "tx-other")}, []string{"two", ""}, "values")
	})
	a.check("state: a value with a time to live says when it ends, and ends", func(ctx context.Context, t *t) {
		began := time.Now()
		t.ok(a.client.SaveState(ctx, stateStore, "short", []byte("lived"), map[string]string{"ttlInSeconds": "2"}))
		item := get(ctx, t, "short")
		t.equal(string(item.Value), "lived", "value")
		end, err := time.Parse(time.RFC3339, item.Metadata["ttlExpireTime"])
		t.ok(err)
		if left := end.Sub(began); left <= 0 || left > 10*time.Second {
			t.fail("ttlExpireTime %v is %v from the save", end, left)
		}
		t.eventually(ctx, "", "value after its time", func() any { return value(ctx, t, "short") })
	})
	a.check("state: a store that does not exist is named in the error", func(ctx context.Context, t *t) {
		_, err := a.client.GetState(ctx, "nostore", "key", nil)
		t.refused(err, "code = InvalidArgument", "state store nostore is not found")
	})
}
