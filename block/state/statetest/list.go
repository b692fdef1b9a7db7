package statetest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/proa-io/proa/block/state"
)

func lists() []property {
	return []property{
		{"ListReturnsKeysInOrder", listOrder},
		{"ListKnowsPrefixes", listPrefix},
		{"ListPagesVisitEveryKeyOnce", listPages},
		{"AListMayBeginAfterAnyText", listAfter},
		{"ListShowsOddKeysAsTheyAre", listOdd},
		{"ListLeavesOutWhatWasDeleted", listDeleted},
	}
}

func lister(t *testing.T, d state.Driver) state.Lister {
	t.Helper()
	l, ok := d.(state.Lister)
	if !ok {
		t.Skip("the driver is not a state.Lister")
	}
	return l
}

func wantKeys(t *testing.T, l state.Lister, prefix, after string, limit int, want ...string) {
	t.Helper()
	got, err := l.List(t.Context(), prefix, after, limit)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("List(%q, %q, %d) = %q, %v; want %q", prefix, after, limit, got, err, want)
	}
}

func listOrder(t *testing.T, d state.Driver) {
	l := lister(t, d)
	wantKeys(t, l, "", "", 10)
	for _, k := range []string{"b", "a", "c", "a||x", "B", "aa"} {
		put(t, d, k, "v", state.PutOptions{})
	}
	wantKeys(t, l, "", "", 10, "B", "a", "aa", "a||x", "b", "c")
	wantKeys(t, l, "", "", 2, "B", "a")
	wantKeys(t, l, "", "a", 2, "aa", "a||x")
	wantKeys(t, l, "", "between", 10, "c")
	wantKeys(t, l, "", "c", 10)
}

func listPrefix(t *testing.T, d state.Driver) {
	l := lister(t, d)
	for _, k := range []string{"app||a", "app||b", "app2||a", "ap", "a*p||x", "a.p||x"} {
		put(t, d, k, "v", state.PutOptions{})
	}
	wantKeys(t, l, "app||", "", 10, "app||a", "app||b")
	wantKeys(t, l, "app||", "app||a", 10, "app||b")
	wantKeys(t, l, "app", "", 10, "app2||a", "app||a", "app||b")
	wantKeys(t, l, "a*", "", 10, "a*p||x")
	wantKeys(t, l, "a.", "", 10, "a.p||x")
	wantKeys(t, l, "app||a", "", 10, "app||a")
	wantKeys(t, l, "nobody", "", 10)
}

func listPages(t *testing.T, d state.Driver) {
	l := lister(t, d)
	var want []string
	for i := range 257 {
		key := fmt.Sprintf("item %03d", i)
		put(t, d, key, "v", state.PutOptions{})
		want = append(want, key)
	}
	var got []string
	for after := ""; len(got) <= len(want); after = got[len(got)-1] {
		page, err := l.List(t.Context(), "item ", after, 50)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		if len(page) < 50 && len(got) < len(want) {
			t.Errorf("a page has %d keys, and there are more", len(page))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages hold %d keys %q, want %d", len(got), got, len(want))
	}
}

func listAfter(t *testing.T, d state.Driver) {
	l := lister(t, d)
	put(t, d, "app||k", "v", state.PutOptions{})
	for after, there := range map[string]bool{
		"app||\x00": true, "app||": true, "\x00": true, "app||\xff": false, "\xff": false, "app||\xc3\x28": false, "app||\U0010FFFF": false, "aaa": true, "z": false,
	} {
		keys, err := l.List(t.Context(), "app||", after, 10)
		if err != nil || (len(keys) == 1) != there {
			t.Errorf("after %q: %q, %v", after, keys, err)
		}
	}
}

func listOdd(t *testing.T, d state.Driver) {
	l := lister(t, d)
	want := oddKeys()
	for _, k := range want {
		put(t, d, k, "v", state.PutOptions{})
	}
	got, err := l.List(t.Context(), "", "", 1000)
	if err != nil || len(got) != len(want) {
		t.Fatalf("List returns %d keys, error %v; want %d", len(got), err, len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("key %d is %s, want %s", i, brief(got[i]), brief(want[i]))
		}
	}
}

func listDeleted(t *testing.T, d state.Driver) {
	l := lister(t, d)
	put(t, d, "a", "v", state.PutOptions{})
	put(t, d, "b", "v", state.PutOptions{})
	if err := d.Delete(t.Context(), "a", state.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, l, "", "", 10, "b")
}
