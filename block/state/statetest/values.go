package statetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

func values() []property {
	return []property{
		{"AMissingKeyIsNotFound", missingKey},
		{"PutThenGetReturnsTheValue", putThenGet},
		{"AnEmptyValueIsNotMissing", emptyValue},
		{"ALaterPutReplacesTheValue", replaces},
		{"DeleteRemovesTheItem", deletes},
		{"DeletingAMissingKeySucceeds", deleteMissing},
		{"KeysOfAnyBytesAreKeptApart", weirdKeys},
		{"AValueOfAMebibyteIsKept", bigValue},
		{"ManyItemsAreKept", manyItems},
		{"ValuesAreTheStoresOwn", noAliasing},
		{"EventualReadsSettle", eventualReads},
	}
}

func missingKey(t *testing.T, d state.Driver) {
	wantMissing(t, d, "nobody wrote this")
}

func putThenGet(t *testing.T, d state.Driver) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, v := range []string{
		"hello", `{"a":[1,2,"3"]}`, `"a JSON string"`, "123", "true", "null", " ", "\n", "\r\n", "END\r\n", "\x00", "\xff\xfe",
		"grüße 日本 🛶", strings.Repeat("x", 10_000), string(all), string(bytes.Repeat(all, 100)),
	} {
		put(t, d, "k", v, state.PutOptions{})
		wantValue(t, d, "k", v)
	}
}

func emptyValue(t *testing.T, d state.Driver) {
	put(t, d, "empty", "", state.PutOptions{})
	wantValue(t, d, "empty", "")
	if _, err := d.Put(t.Context(), "nil", nil, state.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	wantValue(t, d, "nil", "")
}

func replaces(t *testing.T, d state.Driver) {
	put(t, d, "k", "a long first value", state.PutOptions{})
	put(t, d, "k", "short", state.PutOptions{})
	wantValue(t, d, "k", "short")
}

func deletes(t *testing.T, d state.Driver) {
	put(t, d, "k", "v", state.PutOptions{})
	put(t, d, "other", "w", state.PutOptions{})
	if err := d.Delete(t.Context(), "k", state.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, d, "k")
	wantValue(t, d, "other", "w")
	put(t, d, "k", "again", state.PutOptions{})
	wantValue(t, d, "k", "again")
}

func deleteMissing(t *testing.T, d state.Driver) {
	for range 2 {
		if err := d.Delete(t.Context(), "nobody wrote this", state.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// oddKeys are keys that one store or another has trouble with.
func oddKeys() []string {
	keys := []string{
		"k", "K", " ", "  ", "a b", " a", "a ", "a||b", "app||k", "app||k||l", ".", "..", "a.b", "a..b", ".a", "a.", "*", "a*", "a.*", ">", "a.>",
		"a/b", "/", "a//b", "a\\b", "a:b", "a{b}c", "{x}", "{}", "a\nb", "a\r\nb", "\n", "\t", "a\x00b", "\x00", "\x7f", "\xff", "a\xffb", "\xc3\x28",
		"grüße", "日本", "🛶", "%", "%20", "a+b", "a=b", "=", "-", "_", "$", "$KV", "~", "?", "a?b", "[a]", "^", "'", `"`, ";", "ttl", "data", "version",
		"0", "-1", "end", "quit\r\n", "a,b", "é", "e\u0301",
	}
	for _, n := range []int{180, 187, 188, 200, 249, 250, 251, 300, 1000} {
		keys = append(keys, strings.Repeat("a", n), strings.Repeat("b", n-1)+" ", "c"+strings.Repeat("ü", n/2))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func weirdKeys(t *testing.T, d state.Driver) {
	keys := oddKeys()
	for i, k := range keys {
		put(t, d, k, fmt.Sprint(i), state.PutOptions{})
	}
	for i, k := range keys {
		wantValue(t, d, k, fmt.Sprint(i))
	}
	for i, k := range keys {
		put(t, d, k, fmt.Sprint("again ", i), state.PutOptions{ETag: etagOf(t, d, k)})
	}
	for i, k := range keys {
		wantValue(t, d, k, fmt.Sprint("again ", i))
		if err := d.Delete(t.Context(), k, state.DeleteOptions{}); err != nil {
			t.Fatalf("Delete(%s): %v", brief(k), err)
		}
		wantMissing(t, d, k)
	}
}

// A Limited driver's store takes no values of a mebibyte.
type Limited interface {
	// MaxValue returns how large values may be, in bytes.
	MaxValue() int
}

// bigValue leaves two KiB of the mebibyte to what stores add to a value: their
// own limits often count key and headers.
func bigValue(t *testing.T, d state.Driver) {
	v := make([]byte, 1<<20-2<<10)
	if l, ok := d.(Limited); ok {
		v = v[:min(len(v), l.MaxValue())]
	}
	for i := range v {
		v[i] = byte(i * 7 >> 3)
	}
	put(t, d, "big", string(v), state.PutOptions{})
	wantValue(t, d, "big", string(v))
	put(t, d, "big", "small", state.PutOptions{ETag: etagOf(t, d, "big")})
	wantValue(t, d, "big", "small")
}

func manyItems(t *testing.T, d state.Driver) {
	const n, workers = 2000, 8
	each := func(f func(key, value string) error) {
		t.Helper()
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := w; i < n; i += workers {
					if err := f(fmt.Sprintf("app||item-%d", i), fmt.Sprintf("value %d", i)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	each(func(k, v string) error {
		_, err := d.Put(t.Context(), k, []byte(v), state.PutOptions{})
		return err
	})
	each(func(k, v string) error {
		item, found, err := d.Get(t.Context(), k, state.GetOptions{Consistency: state.Strong})
		if err == nil && (!found || string(item.Value) != v) {
			return fmt.Errorf("Get(%q) = %q, found %v", k, item.Value, found)
		}
		return err
	})
}

func noAliasing(t *testing.T, d state.Driver) {
	v := []byte("as it was")
	if _, err := d.Put(t.Context(), "k", v, state.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	copy(v, "changed!!")
	wantValue(t, d, "k", "as it was")
	first := get(t, d, "k").Value
	put(t, d, "k", "new value", state.PutOptions{})
	wantValue(t, d, "k", "new value")
	if string(first) != "as it was" {
		t.Errorf("a value read before became %q", first)
	}
}

func eventualReads(t *testing.T, d state.Driver) {
	put(t, d, "k", "v", state.PutOptions{Consistency: state.Eventual})
	eventually(t, "an eventual read", 10*time.Second, func() bool {
		item, found, err := d.Get(t.Context(), "k", state.GetOptions{Consistency: state.Eventual})
		if err != nil {
			t.Fatal(err)
		}
		return found && string(item.Value) == "v"
	})
	put(t, d, "k", "w", state.PutOptions{Consistency: state.Strong})
	wantValue(t, d, "k", "w")
}

func lives() []property {
	return []property{
		{"ACanceledContextEndsEveryCall", canceledCalls},
		{"APastDeadlineEndsEveryCall", lateCalls},
		{"ErrorsDoNotShowKeysOrValues", discreetErrors},
		{"ConcurrentUseIsSafe", concurrentUse},
		{"AfterCloseEveryCallIsUnavailable", closedCalls},
	}
}

func canceledCalls(t *testing.T, d state.Driver) {
	for _, c := range calls(d) {
		if err := c.do(canceled(t), d); !fault.Is(err, fault.Canceled) {
			t.Errorf("%s with a canceled context: %v, want canceled", c.name, err)
		}
	}
	wantMissing(t, d, "k")
}

func lateCalls(t *testing.T, d state.Driver) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, c := range calls(d) {
		if err := c.do(ctx, d); !fault.Is(err, fault.DeadlineExceeded) {
			t.Errorf("%s with a past deadline: %v, want deadline_exceeded", c.name, err)
		}
	}
	wantMissing(t, d, "k")
}

func discreetErrors(t *testing.T, d state.Driver) {
	const key, value = "app||confidential-key", "confidential-value"
	put(t, d, key, value, state.PutOptions{})
	var errs []error
	for _, etag := range []string{"123456789", "not an etag"} {
		_, err := d.Put(t.Context(), key, []byte(value), state.PutOptions{ETag: etag})
		errs = append(errs, err, d.Delete(t.Context(), key, state.DeleteOptions{ETag: etag}))
		if tx, ok := d.(state.Transactor); ok {
			errs = append(errs, tx.Transact(t.Context(), []state.Op{{Key: key, PutOptions: state.PutOptions{ETag: etag}}}, state.TransactOptions{}))
		}
	}
	for _, err := range errs {
		if err == nil {
			t.Error("a write with a wrong etag succeeded")
		} else if strings.Contains(err.Error(), "confidential") {
			t.Errorf("the error %q shows a key or a value", err)
		}
	}
}

func concurrentUse(t *testing.T, d state.Driver) {
	all := able(t, d)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 30 {
				for _, c := range all {
					err := c.do(t.Context(), d)
					if err != nil && !fault.Is(err, fault.Aborted) {
						t.Errorf("%s: %v", c.name, err)
						return
					}
				}
				own := fmt.Sprintf("own-%d", w)
				want := fmt.Sprint(i)
				if _, err := d.Put(t.Context(), own, []byte(want), state.PutOptions{}); err != nil {
					t.Error(err)
					return
				}
				item, found, err := d.Get(t.Context(), own, state.GetOptions{Consistency: state.Strong})
				if err != nil || !found || string(item.Value) != want {
					t.Errorf("Get of a key of one's own = %q, %v, %v; want %q", item.Value, found, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func closedCalls(t *testing.T, d state.Driver) {
	put(t, d, "k", "v", state.PutOptions{})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range calls(d) {
		if err := c.do(t.Context(), d); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s after Close: %v, want unavailable", c.name, err)
		}
	}
}
