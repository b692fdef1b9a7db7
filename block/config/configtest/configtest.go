// Package configtest is the contract of config.Driver as tests.
package configtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/fault"
)

// Store is a driver that can be written to, so that there is something to
// read.
type Store interface {
	config.Driver
	config.Writer
}

// Open returns a driver on a store without items. Use t.Cleanup for what must
// be undone.
type Open func(t testing.TB) Store

// Set changes one item, whatever there is.
func Set(ctx context.Context, w config.Writer, key, value string) (version string, err error) {
	versions, err := w.Write(ctx, []config.Write{{Key: key, Value: value}})
	if err != nil {
		return "", err
	}
	if len(versions) != 1 {
		return "", fmt.Errorf("one item was set, and these are its versions: %q", versions)
	}
	return versions[0], nil
}

// Delete removes one item, whatever there is.
func Delete(ctx context.Context, w config.Writer, key string) error {
	_, err := w.Write(ctx, []config.Write{{Key: key, Delete: true}})
	return err
}

// Run proves that a driver keeps the contract.
func Run(t *testing.T, open Open) {
	for _, p := range []struct {
		name string
		test func(*testing.T, Store)
	}{
		{"GetReturnsWhatWasSet", getReturnsWhatWasSet},
		{"MissingKeysAreLeftOut", missingKeys},
		{"NoKeysMeansAll", noKeysMeansAll},
		{"EveryChangeHasANewVersion", newVersions},
		{"DeletedItemsAreGone", deleted},
		{"DeletingWhatIsNotThereSucceeds", deleteMissing},
		{"VersionsDoNotComeBackAfterADeletion", noOldVersions},
		{"ExpectedVersionIsCompared", comparesVersion},
		{"ExpectedAbsenceIsCompared", comparesAbsence},
		{"VersionOfAnotherStoreIsAConflict", comparesOddVersion},
		{"OneWinnerUnderContention", oneWinner},
		{"SeveralItemsAreWrittenAsOne", writesSeveral},
		{"WatchersSeeAllOfSeveralWrites", watchSeveral},
		{"AnyKeyAndValueWillDo", oddItems},
		{"UnknownMetadataIsIgnored", unknownMetadata},
		{"WhatIsReturnedBelongsToTheCaller", returnedIsACopy},
		{"WatchBeginsWithWhatThereIs", watchBegins},
		{"WatchOfNothingBeginsEmpty", watchBeginsEmpty},
		{"WatchReportsChangesInOrder", watchReportsInOrder},
		{"WatchReportsNewKeysAndDeletions", watchNewAndDeleted},
		{"WatchOfKeysIgnoresOthers", watchIgnoresOthers},
		{"WatchersAreIndependent", watchersAreIndependent},
		{"NoChangeIsLostWhileAWatchBegins", noneLostAtBegin},
		{"SlowWatcherEndsUpRight", slowWatcher},
		{"WatchEndsWithItsContext", watchEnds},
		{"CanceledContextReturnsCanceled", canceled},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.test(t, open(t))
		})
	}
}

func getReturnsWhatWasSet(t *testing.T, s Store) {
	v1 := set(t, s, "a", "1")
	v2 := set(t, s, "b", "2")
	got := get(t, s, "a", "b")
	if got["a"].Value != "1" || got["a"].Version != v1 || got["b"].Value != "2" || got["b"].Version != v2 {
		t.Fatalf("Get = %v, want a=1 at %q and b=2 at %q", got, v1, v2)
	}
	set(t, s, "a", "3")
	if got := get(t, s, "a"); len(got) != 1 || got["a"].Value != "3" {
		t.Fatalf("Get = %v, want a=3", got)
	}
}

func missingKeys(t *testing.T, s Store) {
	if got := get(t, s, "a"); len(got) != 0 {
		t.Fatalf("Get from an empty store = %v", got)
	}
	set(t, s, "a", "1")
	if got := get(t, s, "a", "b", "A"); len(got) != 1 {
		t.Fatalf("Get = %v, want a only", got)
	}
}

func noKeysMeansAll(t *testing.T, s Store) {
	if got := get(t, s); len(got) != 0 {
		t.Fatalf("Get from an empty store = %v", got)
	}
	want := map[string]string{}
	for i := range 50 {
		k := fmt.Sprint("key", i)
		want[k] = fmt.Sprint(i)
		set(t, s, k, want[k])
	}
	wantItems(t, get(t, s), want)
}

func newVersions(t *testing.T, s Store) {
	seen := map[string]bool{}
	for _, value := range []string{"1", "2", "2", "1"} {
		v := set(t, s, "a", value)
		if v == "" || seen[v] {
			t.Fatalf("version %q after %v", v, seen)
		}
		seen[v] = true
		if got := get(t, s, "a")["a"]; got.Version != v || got.Value != value {
			t.Fatalf("Get = %v, want %q at version %q", got, value, v)
		}
	}
}

func deleted(t *testing.T, s Store) {
	set(t, s, "a", "1")
	set(t, s, "b", "2")
	del(t, s, "a")
	wantItems(t, get(t, s, "a", "b"), map[string]string{"b": "2"})
	wantItems(t, get(t, s), map[string]string{"b": "2"})
	set(t, s, "a", "3")
	wantItems(t, get(t, s), map[string]string{"a": "3", "b": "2"})
}

func deleteMissing(t *testing.T, s Store) {
	del(t, s, "a")
	set(t, s, "a", "1")
	del(t, s, "a")
	del(t, s, "a")
}

func oddItems(t *testing.T, s Store) {
	want := map[string]string{
		"empty":          "",
		"app||key":       "value||with||bars",
		"bars||":         "||",
		"dots.and.more.": "a.b", ".": "dot", "*": "star", ">": "more", "$KV": "dollar", "{a}b}": "brace",
		"with space": "  spaces  ", "/path/to": "/x", "grüße": "世界 🔑",
		"json": `{"a": [1, 2]}`, "lines": "one\ntwo\r\n", "number": "1", "percent%s": "%d",
		strings.Repeat("k", 200): strings.Repeat("v", 10_000),
	}
	for k, v := range want {
		set(t, s, k, v)
	}
	wantItems(t, get(t, s), want)
	wantItems(t, get(t, s, slices.Collect(maps.Keys(want))...), want)
	w := watch(t, s)
	w.wait("the items there are", want)
	w.stop()
	for k := range want {
		one := watch(t, s, k)
		one.wait("the one item", map[string]string{k: want[k]})
		one.stop()
		del(t, s, k)
	}
	wantItems(t, get(t, s), nil)
}

func unknownMetadata(t *testing.T, s Store) {
	set(t, s, "a", "1")
	q := config.Query{Keys: []string{"a"}, Metadata: map[string]string{"no_such_hint": "1"}}
	got, err := s.Get(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	wantItems(t, got, map[string]string{"a": "1"})
}

// returnedIsACopy changes what it gets, which must harm nobody. The race
// detector sees maps that two watchers share.
func returnedIsACopy(t *testing.T, s Store) {
	set(t, s, "a", "1")
	spoil := func(items map[string]config.Item) {
		for k := range items {
			items[k] = config.Item{Value: "spoilt"}
		}
		items["added"] = config.Item{}
	}
	spoil(get(t, s))
	spoil(get(t, s, "a"))
	wantItems(t, get(t, s), map[string]string{"a": "1"})
	first, second := watch(t, s), watch(t, s)
	first.spoilBy(spoil)
	second.spoilBy(spoil)
	for i := range 10 {
		value := fmt.Sprint(i)
		set(t, s, "a", value)
		first.wait("the change", map[string]string{"a": value})
		second.wait("the change", map[string]string{"a": value})
	}
	wantItems(t, get(t, s), map[string]string{"a": "9"})
}

func watchBegins(t *testing.T, s Store) {
	set(t, s, "a", "1")
	set(t, s, "b", "2")
	w := watch(t, s)
	w.wait("what there is", map[string]string{"a": "1", "b": "2"})
	if first := w.events()[0]; !first.Complete || len(first.Items) != 2 || len(first.Deleted) != 0 {
		t.Errorf("the first report is %+v, want a complete one of two items", first)
	}
	if got, want := w.events()[0].Items["a"].Version, get(t, s, "a")["a"].Version; got != want {
		t.Errorf("the report has version %q, Get has %q", got, want)
	}
}

func watchBeginsEmpty(t *testing.T, s Store) {
	for _, keys := range [][]string{nil, {"a"}, {"a", "b"}} {
		w := watch(t, s, keys...)
		w.await("the first report", func(all []config.Event) bool { return len(all) > 0 })
		if first := w.events()[0]; !first.Complete || len(first.Items) != 0 {
			t.Errorf("the first report is %+v, want a complete one without items", first)
		}
		w.stop()
	}
}

func watchReportsInOrder(t *testing.T, s Store) {
	set(t, s, "a", "0")
	w := watch(t, s)
	w.wait("what there is", map[string]string{"a": "0"})
	for i := 1; i <= 20; i++ {
		version := set(t, s, "a", strconv.Itoa(i))
		w.wait("the change", map[string]string{"a": strconv.Itoa(i)})
		if got := w.items()["a"].Version; got != version {
			t.Fatalf("the report has version %q, Set returned %q", got, version)
		}
	}
	// Written without waiting: some may be passed over, none may come late.
	for i := 21; i <= 200; i++ {
		set(t, s, "a", strconv.Itoa(i))
	}
	w.wait("the last change", map[string]string{"a": "200"})
	last := -1
	for _, e := range w.events() {
		if item, ok := e.Items["a"]; ok {
			n, err := strconv.Atoi(item.Value)
			if err != nil || n < last {
				t.Fatalf("report of %q after %d", item.Value, last)
			}
			last = n
		}
	}
}

func watchNewAndDeleted(t *testing.T, s Store) {
	for _, keys := range [][]string{nil, {"a", "b"}} {
		set(t, s, "a", "1")
		w := watch(t, s, keys...)
		w.wait("what there is", map[string]string{"a": "1"})
		set(t, s, "b", "2")
		w.wait("the new key", map[string]string{"a": "1", "b": "2"})
		del(t, s, "a")
		w.wait("the deletion", map[string]string{"b": "2"})
		set(t, s, "a", "3")
		w.wait("the key that is back", map[string]string{"a": "3", "b": "2"})
		del(t, s, "a")
		del(t, s, "b")
		w.wait("both deletions", nil)
		w.stop()
	}
}

func watchIgnoresOthers(t *testing.T, s Store) {
	w := watch(t, s, "a", "b")
	w.wait("nothing", nil)
	for _, k := range []string{"c", "ab", "a.b", "A"} {
		set(t, s, k, "x")
	}
	set(t, s, "b", "1")
	w.wait("the item watched", map[string]string{"b": "1"})
	for _, e := range w.events() {
		for k := range e.Items {
			if k != "a" && k != "b" {
				t.Errorf("report of %q, which is not watched", k)
			}
		}
	}
}

func watchersAreIndependent(t *testing.T, s Store) {
	all, one, other := watch(t, s), watch(t, s, "a"), watch(t, s, "a")
	for _, w := range []*watching{all, one, other} {
		w.wait("nothing", nil)
	}
	set(t, s, "a", "1")
	for _, w := range []*watching{all, one, other} {
		w.wait("the change", map[string]string{"a": "1"})
	}
	other.stop()
	set(t, s, "a", "2")
	all.wait("the change", map[string]string{"a": "2"})
	one.wait("the change", map[string]string{"a": "2"})
}

// noneLostAtBegin starts watches while somebody writes.
func noneLostAtBegin(t *testing.T, s Store) {
	var writing sync.WaitGroup
	defer writing.Wait()
	quit := make(chan struct{})
	defer close(quit)
	writing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			default:
			}
			if _, err := Set(context.WithoutCancel(t.Context()), s, fmt.Sprint("busy", i%10), fmt.Sprint(i)); err != nil {
				t.Errorf("Set: %v", err)
				return
			}
		}
	})
	for i := range 20 {
		key := fmt.Sprint("key", i)
		w := watch(t, s, key)
		set(t, s, key, "1")
		w.wait("the write that came as the watch began", map[string]string{key: "1"})
		w.stop()
	}
}

func slowWatcher(t *testing.T, s Store) {
	w := watch(t, s)
	w.wait("nothing", nil)
	w.hold()
	want := map[string]string{}
	for i := range 3000 {
		k := fmt.Sprint("k", i%30)
		want[k] = fmt.Sprint(i)
		set(t, s, k, want[k])
	}
	del(t, s, "k0")
	delete(want, "k0")
	w.release()
	w.wait("what the writes left", want)
}

func watchEnds(t *testing.T, s Store) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan error, 1)
	first := make(chan struct{})
	var once sync.Once
	go func() {
		result <- s.Watch(ctx, config.Query{}, func(config.Event) { once.Do(func() { close(first) }) })
	}()
	<-first
	cancel(why)
	select {
	case err := <-result:
		if !errors.Is(err, why) && !errors.Is(err, context.Canceled) {
			t.Errorf("Watch returned %v, want the cause of the end of its context", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Watch has not returned 10 s after the end of its context")
	}
}

func canceled(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Get(ctx, config.Query{})
	wantCode(t, "Get of all", err, fault.Canceled)
	_, err = s.Get(ctx, config.Query{Keys: []string{"a"}})
	wantCode(t, "Get", err, fault.Canceled)
	_, err = Set(ctx, s, "a", "1")
	wantCode(t, "Write", err, fault.Canceled)
	wantCode(t, "Write that deletes", Delete(ctx, s, "a"), fault.Canceled)
	wantCode(t, "Watch", s.Watch(ctx, config.Query{}, func(config.Event) {}), fault.Canceled)
}

func set(t *testing.T, s Store, key, value string) string {
	t.Helper()
	v, err := Set(t.Context(), s, key, value)
	if err != nil {
		t.Fatalf("Set(%q): %v", key, err)
	}
	return v
}

func del(t *testing.T, s Store, key string) {
	t.Helper()
	if err := Delete(t.Context(), s, key); err != nil {
		t.Fatalf("Delete(%q): %v", key, err)
	}
}

func get(t *testing.T, s Store, keys ...string) map[string]config.Item {
	t.Helper()
	items, err := s.Get(t.Context(), config.Query{Keys: keys})
	if err != nil {
		t.Fatalf("Get(%q): %v", keys, err)
	}
	return items
}

func values(items map[string]config.Item) map[string]string {
	out := map[string]string{}
	for k, item := range items {
		out[k] = item.Value
	}
	return out
}

func wantItems(t *testing.T, got map[string]config.Item, want map[string]string) {
	t.Helper()
	if v := values(got); !maps.Equal(v, want) {
		t.Fatalf("items %q, want %q", v, want)
	}
}

func wantCode(t *testing.T, what string, err error, want fault.Code) {
	t.Helper()
	if !fault.Is(err, want) {
		t.Fatalf("%s: error %v, want %v", what, err, want)
	}
}
