package statetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

func bulks() []property {
	return []property{
		{"BulkGetAnswersInTheOrderAsked", bulkGet},
		{"BulkGetOfOddKeysAndValues", bulkGetOdd},
		{"BulkGetOfManyKeys", bulkGetMany},
		{"BulkPutReportsEachItem", bulkPut},
		{"BulkPutKeepsTheOrderOfOneKey", bulkPutOrder},
		{"BulkPutOfManyItems", bulkPutMany},
		{"BulkPutHonoursTTLs", bulkPutTTL},
		{"BulkDeleteReportsEachItem", bulkDelete},
		{"BulkCallsOnNothingDoNothing", bulkNothing},
		{"ACanceledBulkCallReportsItForEachItem", bulkCanceled},
	}
}

func bulkGetter(t *testing.T, d state.Driver) state.BulkGetter {
	t.Helper()
	b, ok := d.(state.BulkGetter)
	if !ok {
		t.Skip("the driver is not a state.BulkGetter")
	}
	return b
}

func bulkPutter(t *testing.T, d state.Driver) state.BulkPutter {
	t.Helper()
	b, ok := d.(state.BulkPutter)
	if !ok {
		t.Skip("the driver is not a state.BulkPutter")
	}
	return b
}

func bulkDeleter(t *testing.T, d state.Driver) state.BulkDeleter {
	t.Helper()
	b, ok := d.(state.BulkDeleter)
	if !ok {
		t.Skip("the driver is not a state.BulkDeleter")
	}
	return b
}

func strong() state.GetOptions { return state.GetOptions{Consistency: state.Strong} }

func bulkGet(t *testing.T, d state.Driver) {
	b := bulkGetter(t, d)
	put(t, d, "a", "1", state.PutOptions{})
	put(t, d, "b", "", state.PutOptions{})
	keys := []string{"missing", "b", "a", "missing", "a"}
	got := b.BulkGet(t.Context(), keys, strong())
	if len(got) != len(keys) {
		t.Fatalf("%d results for %d keys", len(got), len(keys))
	}
	for i, want := range []*string{nil, new(""), new("1"), nil, new("1")} {
		r := got[i]
		if r.Err != nil || r.Found != (want != nil) {
			t.Errorf("result %d for %q = %+v", i, keys[i], r)
			continue
		}
		if want != nil && (string(r.Item.Value) != *want || r.Item.ETag != etagOf(t, d, keys[i])) {
			t.Errorf("result %d for %q = %q, etag %q", i, keys[i], r.Item.Value, r.Item.ETag)
		}
	}
}

func bulkGetOdd(t *testing.T, d state.Driver) {
	b := bulkGetter(t, d)
	keys := oddKeys()
	for _, k := range keys {
		put(t, d, k, "\r\nEND\r\n\x00"+k, state.PutOptions{})
	}
	for i, r := range b.BulkGet(t.Context(), keys, strong()) {
		if r.Err != nil || !r.Found || string(r.Item.Value) != "\r\nEND\r\n\x00"+keys[i] {
			t.Errorf("result for %s = %s, found %v, error %v", brief(keys[i]), brief(string(r.Item.Value)), r.Found, r.Err)
		}
	}
}

func bulkGetMany(t *testing.T, d state.Driver) {
	b := bulkGetter(t, d)
	for i := 0; i < 3000; i += 3 {
		put(t, d, fmt.Sprint("item ", i), fmt.Sprint(i), state.PutOptions{})
	}
	keys := make([]string, 3000)
	for i := range keys {
		keys[i] = fmt.Sprint("item ", i)
	}
	for i, r := range b.BulkGet(t.Context(), keys, strong()) {
		if r.Err != nil || r.Found != (i%3 == 0) || r.Found && string(r.Item.Value) != fmt.Sprint(i) {
			t.Fatalf("result for %q = %q, found %v, error %v", keys[i], r.Item.Value, r.Found, r.Err)
		}
	}
}

func bulkPut(t *testing.T, d state.Driver) {
	b := bulkPutter(t, d)
	put(t, d, "old", "1", state.PutOptions{})
	stale := etagOf(t, d, "old")
	put(t, d, "old", "2", state.PutOptions{})
	put(t, d, "match", "1", state.PutOptions{})
	got := b.BulkPut(t.Context(), []state.PutOp{
		{Key: "a", Value: []byte("1")},
		{Key: "old", Value: []byte("3"), PutOptions: state.PutOptions{ETag: stale}},
		{Key: "match", Value: []byte("2"), PutOptions: state.PutOptions{ETag: etagOf(t, d, "match")}},
		{Key: "old", Value: []byte("3"), PutOptions: state.PutOptions{FirstWrite: true}},
		{Key: "bad", Value: []byte("3"), PutOptions: state.PutOptions{ETag: "not an etag"}},
		{Key: "b"},
	})
	if len(got) != 6 {
		t.Fatalf("%d results for 6 items", len(got))
	}
	for _, i := range []int{0, 2, 5} {
		if got[i].Err != nil {
			t.Errorf("item %d: %v", i, got[i].Err)
		}
	}
	wantMismatch(t, got[1].Err)
	wantMismatch(t, got[3].Err)
	wantRefused(t, got[4].Err)
	wantValue(t, d, "a", "1")
	wantValue(t, d, "b", "")
	wantValue(t, d, "old", "2")
	wantValue(t, d, "match", "2")
	wantMissing(t, d, "bad")
	if etag := got[0].ETag; etag != "" && etag != etagOf(t, d, "a") {
		t.Errorf("BulkPut returned etag %q, Get %q", etag, etagOf(t, d, "a"))
	}
}

func bulkPutOrder(t *testing.T, d state.Driver) {
	b := bulkPutter(t, d)
	var puts []state.PutOp
	for i := range 100 {
		puts = append(puts, state.PutOp{Key: fmt.Sprint("k", i%3), Value: fmt.Append(nil, i)})
	}
	for range 5 {
		for i, r := range b.BulkPut(t.Context(), puts) {
			if r.Err != nil {
				t.Fatalf("item %d: %v", i, r.Err)
			}
		}
		wantValue(t, d, "k0", "99")
		wantValue(t, d, "k1", "97")
		wantValue(t, d, "k2", "98")
	}
}

func bulkPutMany(t *testing.T, d state.Driver) {
	b := bulkPutter(t, d)
	var puts []state.PutOp
	for i := range 3000 {
		puts = append(puts, state.PutOp{Key: fmt.Sprint("item ", i), Value: fmt.Append(nil, i)})
	}
	for i, r := range b.BulkPut(t.Context(), puts) {
		if r.Err != nil {
			t.Fatalf("item %d: %v", i, r.Err)
		}
	}
	for i := 0; i < 3000; i += 97 {
		wantValue(t, d, fmt.Sprint("item ", i), fmt.Sprint(i))
	}
}

func bulkPutTTL(t *testing.T, d state.Driver) {
	b := bulkPutter(t, d)
	b.BulkPut(t.Context(), []state.PutOp{{Key: "a", PutOptions: state.PutOptions{TTL: time.Hour}}, {Key: "b"}})
	if at := get(t, d, "a").Expires; !near(at, time.Now().Add(time.Hour)) {
		t.Errorf("a expires at %v, want in an hour", at)
	}
	if at := get(t, d, "b").Expires; !at.IsZero() {
		t.Errorf("b expires at %v, want never", at)
	}
}

func bulkDelete(t *testing.T, d state.Driver) {
	b := bulkDeleter(t, d)
	for _, k := range []string{"a", "match", "stale", "stays"} {
		put(t, d, k, "1", state.PutOptions{})
	}
	old := etagOf(t, d, "stale")
	put(t, d, "stale", "2", state.PutOptions{})
	got := b.BulkDelete(t.Context(), []state.DeleteOp{
		{Key: "a"},
		{Key: "missing"},
		{Key: "stale", DeleteOptions: state.DeleteOptions{ETag: old}},
		{Key: "match", DeleteOptions: state.DeleteOptions{ETag: etagOf(t, d, "match")}},
		{Key: "stays", DeleteOptions: state.DeleteOptions{ETag: "not an etag"}},
	})
	if len(got) != 5 {
		t.Fatalf("%d results for 5 items", len(got))
	}
	for _, i := range []int{0, 1, 3} {
		if got[i] != nil {
			t.Errorf("item %d: %v", i, got[i])
		}
	}
	wantMismatch(t, got[2])
	wantRefused(t, got[4])
	wantMissing(t, d, "a")
	wantMissing(t, d, "match")
	wantValue(t, d, "stale", "2")
	wantValue(t, d, "stays", "1")
}

func bulkNothing(t *testing.T, d state.Driver) {
	if b, ok := d.(state.BulkGetter); ok && len(b.BulkGet(t.Context(), nil, strong())) != 0 {
		t.Error("BulkGet of nothing has results")
	}
	if b, ok := d.(state.BulkPutter); ok && len(b.BulkPut(t.Context(), nil)) != 0 {
		t.Error("BulkPut of nothing has results")
	}
	if b, ok := d.(state.BulkDeleter); ok && len(b.BulkDelete(t.Context(), nil)) != 0 {
		t.Error("BulkDelete of nothing has results")
	}
}

func bulkCanceled(t *testing.T, d state.Driver) {
	var errs []error
	if b, ok := d.(state.BulkGetter); ok {
		for _, r := range b.BulkGet(canceled(t), []string{"a", "b"}, strong()) {
			errs = append(errs, r.Err)
		}
	}
	if b, ok := d.(state.BulkPutter); ok {
		for _, r := range b.BulkPut(canceled(t), []state.PutOp{{Key: "a"}, {Key: "b"}}) {
			errs = append(errs, r.Err)
		}
	}
	if b, ok := d.(state.BulkDeleter); ok {
		errs = slices.Concat(errs, b.BulkDelete(canceled(t), []state.DeleteOp{{Key: "a"}, {Key: "b"}}))
	}
	for i, err := range errs {
		if !fault.Is(err, fault.Canceled) {
			t.Errorf("result %d: %v, want canceled", i, err)
		}
	}
	wantMissing(t, d, "a")
}
