package statetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

func watches() []property {
	return []property{
		{"AWatchSaysWhenItStands", watchStands},
		{"AWatchReportsChanges", watchChanges},
		{"AWatchBeginsWithTheItemsThatThereAre", watchInitial},
		{"AWatchSeesItsPrefixOnly", watchPrefix},
		{"AWatchReportsTransactionsAndBulkWrites", watchTransactions},
		{"AWatchReportsTheEndOfALife", watchExpiry},
		{"AWatchReportsOddKeysAsTheyAre", watchOdd},
		{"AWatcherAgreesWithTheStore", watchAgrees},
		{"AWatchGoesOnAfterARevision", watchResumes},
		{"AMadeUpRevisionIsRefused", watchBadRevision},
		{"TheErrorOfAReportEndsAWatch", watchReportFails},
		{"AWatchEndsWithItsContext", watchCanceled},
		{"ASlowWatchDoesNotHoldUpWriters", watchSlow},
		{"CloseEndsAWatch", watchClosed},
	}
}

// A watching is a Watch in a goroutine of its own.
type watching struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan error
	events chan state.Change
	known  map[string]bool // keys that were waited for, whose changes may come twice
	work   sync.WaitGroup
}

func watcher(t *testing.T, d state.Driver) state.Watcher {
	t.Helper()
	w, ok := d.(state.Watcher)
	if !ok {
		t.Skip("the driver is not a state.Watcher")
	}
	// A driver whose server cannot tell of changes says so per call.
	enough := errors.New("enough")
	err := w.Watch(t.Context(), "probe", state.WatchOptions{}, func(state.Change) error { return enough })
	if fault.Is(err, fault.Unimplemented) {
		t.Skipf("this server cannot tell of changes: %v", err)
	}
	return w
}

// watch begins a watch and fails the test when it does not stand.
func watch(t *testing.T, d state.Driver, prefix string, opt state.WatchOptions) *watching {
	t.Helper()
	driver := watcher(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{t: t, cancel: cancel, done: make(chan error, 1), events: make(chan state.Change, 10_000), known: map[string]bool{}}
	w.work.Go(func() {
		w.done <- driver.Watch(ctx, prefix, opt, func(c state.Change) error {
			w.events <- c
			return nil
		})
	})
	t.Cleanup(func() {
		cancel()
		w.work.Wait()
	})
	return w
}

// next returns the next report.
func (w *watching) next() state.Change {
	w.t.Helper()
	select {
	case c := <-w.events:
		return c
	case err := <-w.done:
		w.t.Fatalf("the watch ended: %v", err)
	case <-time.After(hang):
		w.t.Fatal("no change was reported")
	}
	return state.Change{}
}

// until returns the next report of a key that is as wanted, passing over others
// of that key and of those before it, which may come twice, and fails on other
// keys.
func (w *watching) until(kind state.ChangeKind, key string) state.Change {
	w.t.Helper()
	w.known[key] = true
	for {
		c := w.next()
		switch {
		case c.Kind == state.Synced, c.Key != key && w.known[c.Key]:
		case c.Key != key:
			w.t.Fatalf("a change of %s is reported, want one of %s", brief(c.Key), brief(key))
		case c.Kind == kind:
			return c
		}
	}
}

// put expects the report of what was written.
func (w *watching) put(d state.Driver, key, value string) state.Change {
	w.t.Helper()
	for {
		c := w.until(state.ItemPut, key)
		if string(c.Item.Value) != value {
			continue // an older one, twice
		}
		if etag := etagOf(w.t, d, key); c.Item.ETag != etag {
			w.t.Errorf("%s is reported with the etag %q, and has %q", brief(key), c.Item.ETag, etag)
		}
		return c
	}
}

// synced expects that the watch stands.
func (w *watching) synced() state.Change {
	w.t.Helper()
	c := w.next()
	if c.Kind != state.Synced || c.Key != "" {
		w.t.Fatalf("the first report is %+v, want synced", c)
	}
	return c
}

func remove(t *testing.T, d state.Driver, key string) {
	t.Helper()
	if err := d.Delete(t.Context(), key, state.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func watchStands(t *testing.T, d state.Driver) {
	put(t, d, "there", "v", state.PutOptions{})
	w := watch(t, d, "", state.WatchOptions{})
	w.synced()
	put(t, d, "new", "v", state.PutOptions{})
	w.put(d, "new", "v")
}

func watchChanges(t *testing.T, d state.Driver) {
	w := watch(t, d, "k", state.WatchOptions{})
	w.synced()
	put(t, d, "k", "1", state.PutOptions{})
	w.put(d, "k", "1")
	put(t, d, "k", "2", state.PutOptions{TTL: time.Hour})
	if c := w.put(d, "k", "2"); !near(c.Item.Expires, time.Now().Add(time.Hour)) {
		t.Errorf("the item is reported to expire at %v, want in an hour", c.Item.Expires)
	}
	put(t, d, "k", "", state.PutOptions{})
	if c := w.put(d, "k", ""); !c.Item.Expires.IsZero() {
		t.Errorf("the item is reported to expire at %v, want never", c.Item.Expires)
	}
	remove(t, d, "k")
	w.until(state.ItemGone, "k")
	put(t, d, "k", "3", state.PutOptions{FirstWrite: true})
	w.put(d, "k", "3")
	if err := d.Delete(t.Context(), "k", state.DeleteOptions{ETag: etagOf(t, d, "k")}); err != nil {
		t.Fatal(err)
	}
	w.until(state.ItemGone, "k")
}

func watchInitial(t *testing.T, d state.Driver) {
	want := map[string]string{}
	for i := range 25 {
		key, value := fmt.Sprint("k", i), fmt.Sprint("v", i)
		put(t, d, key, value, state.PutOptions{})
		want[key] = value
	}
	put(t, d, "gone", "v", state.PutOptions{})
	remove(t, d, "gone")
	w := watch(t, d, "", state.WatchOptions{Initial: true})
	got := map[string]string{}
	for c := w.next(); c.Kind != state.Synced; c = w.next() {
		if c.Kind != state.ItemPut || c.Revision != "" || c.Item.ETag != etagOf(t, d, c.Key) {
			t.Errorf("an initial item is %+v", c)
		}
		got[c.Key] = string(c.Item.Value)
	}
	if !maps.Equal(got, want) {
		t.Errorf("the watch begins with %v, want %v", got, want)
	}
	remove(t, d, "k3")
	w.until(state.ItemGone, "k3")
}

func watchPrefix(t *testing.T, d state.Driver) {
	for _, prefix := range []string{"app||", "a*||", "a.||x"} {
		put(t, d, prefix+"there", "v", state.PutOptions{})
		w := watch(t, d, prefix, state.WatchOptions{Initial: true})
		w.put(d, prefix+"there", "v")
		w.synced()
		for _, k := range []string{"app||a", "app2||a", "ap", "APP||a", "a*||a", "aa||a", "a.||xa", "aX||xa", "||" + prefix, "x" + prefix} {
			put(t, d, k, "v", state.PutOptions{})
			remove(t, d, k)
		}
		put(t, d, prefix+"last", "v", state.PutOptions{})
		for c := w.next(); c.Key != prefix+"last"; c = w.next() {
			if c.Kind != state.Synced && c.Key != prefix+"a" {
				t.Errorf("a watch of %q reports %q", prefix, c.Key)
			}
		}
		w.cancel()
	}
}

func watchTransactions(t *testing.T, d state.Driver) {
	put(t, d, "gone", "v", state.PutOptions{})
	w := watch(t, d, "", state.WatchOptions{})
	w.synced()
	want := map[string]state.ChangeKind{}
	if tx, ok := d.(state.Transactor); ok {
		err := tx.Transact(t.Context(), []state.Op{
			{Key: "tx1", Value: []byte("v")}, {Key: "tx2"}, {Key: "gone", Delete: true},
		}, state.TransactOptions{})
		if err == nil {
			want["tx1"], want["tx2"], want["gone"] = state.ItemPut, state.ItemPut, state.ItemGone
		} else if !fault.Is(err, fault.Unimplemented) {
			t.Fatal(err)
		}
	}
	if bulk, ok := d.(state.BulkPutter); ok {
		for _, res := range bulk.BulkPut(t.Context(), []state.PutOp{{Key: "bulk1"}, {Key: "bulk2"}}) {
			if res.Err != nil {
				t.Fatal(res.Err)
			}
		}
		want["bulk1"], want["bulk2"] = state.ItemPut, state.ItemPut
	}
	put(t, d, "removed", "v", state.PutOptions{})
	if bulk, ok := d.(state.BulkDeleter); ok {
		if errs := bulk.BulkDelete(t.Context(), []state.DeleteOp{{Key: "removed"}, {Key: "none"}}); errors.Join(errs...) != nil {
			t.Fatal(errs)
		}
		want["removed"] = state.ItemGone
	}
	put(t, d, "last", "v", state.PutOptions{})
	got := map[string]state.ChangeKind{}
	for c := w.next(); c.Key != "last"; c = w.next() {
		got[c.Key] = c.Kind
	}
	for k, kind := range want {
		if got[k] != kind {
			t.Errorf("the last report of %q is of kind %d, want %d", k, got[k], kind)
		}
	}
}

func watchExpiry(t *testing.T, d state.Driver) {
	w := watch(t, d, "", state.WatchOptions{})
	w.synced()
	put(t, d, "k", "v", state.PutOptions{TTL: short})
	w.put(d, "k", "v")
	w.until(state.ItemGone, "k")
	wantMissing(t, d, "k")
}

func watchOdd(t *testing.T, d state.Driver) {
	w := watch(t, d, "", state.WatchOptions{})
	w.synced()
	for _, k := range oddKeys() {
		put(t, d, k, "v", state.PutOptions{})
		w.put(d, k, "v")
		remove(t, d, k)
		w.until(state.ItemGone, k)
	}
}

// watchAgrees has several writers change a few keys again and again, with a
// watch that begins in the middle. What it has seen at the end is what there is.
func watchAgrees(t *testing.T, d state.Driver) {
	keys := []string{"a", "b", "c", "d", "e"}
	var writers sync.WaitGroup
	half, watching := make(chan struct{}, 3), make(chan struct{})
	for n := range 3 {
		writers.Go(func() {
			for i := range 60 {
				if i == 20 {
					half <- struct{}{}
					<-watching
				}
				key := keys[(i*7+n*3)%len(keys)]
				var err error
				if (i+n)%4 == 0 {
					err = d.Delete(t.Context(), key, state.DeleteOptions{})
				} else {
					_, err = d.Put(t.Context(), key, fmt.Append(nil, n, " ", i), state.PutOptions{})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 3 {
		<-half
	}
	w := watch(t, d, "", state.WatchOptions{Initial: true})
	close(watching)
	writers.Wait()
	put(t, d, "last", "v", state.PutOptions{})
	seen := map[string]string{}
	for c := w.next(); c.Key != "last"; c = w.next() {
		switch c.Kind {
		case state.ItemPut:
			seen[c.Key] = string(c.Item.Value)
		case state.ItemGone:
			delete(seen, c.Key)
		}
	}
	for _, k := range keys {
		item, found, err := d.Get(t.Context(), k, strong())
		if err != nil {
			t.Fatal(err)
		}
		if value, known := seen[k]; known != found || value != string(item.Value) {
			t.Errorf("the watcher knows %q as %q (%v), and there is %q (%v)", k, value, known, item.Value, found)
		}
	}
}

// revised waits for a report with a revision; a store without history has none.
func (w *watching) revised(c state.Change) string {
	w.t.Helper()
	if c.Revision == "" {
		w.t.Skip("this store does not go on after an interruption")
	}
	if len(c.Revision) > 128 {
		w.t.Errorf("a revision has %d bytes, more than 128", len(c.Revision))
	}
	return c.Revision
}

func watchResumes(t *testing.T, d state.Driver) {
	put(t, d, "app||gone", "v", state.PutOptions{})
	put(t, d, "app||stays", "v", state.PutOptions{})
	w := watch(t, d, "app||", state.WatchOptions{})
	atStart := w.revised(w.synced())
	put(t, d, "app||seen", "1", state.PutOptions{})
	afterPut := w.revised(w.put(d, "app||seen", "1"))
	w.cancel()
	put(t, d, "app||missed", "1", state.PutOptions{})
	remove(t, d, "app||gone")
	put(t, d, "other||missed", "1", state.PutOptions{})
	for revision, want := range map[string][]string{
		atStart:  {"app||gone -", "app||missed 1", "app||seen 1"},
		afterPut: {"app||gone -", "app||missed 1"},
	} {
		w := watch(t, d, "app||", state.WatchOptions{After: revision})
		w.synced()
		put(t, d, "app||last", "v", state.PutOptions{})
		seen := map[string]string{}
		for c := w.next(); c.Key != "app||last"; c = w.next() {
			switch c.Kind {
			case state.ItemPut:
				seen[c.Key] = c.Key + " " + string(c.Item.Value)
			case state.ItemGone:
				seen[c.Key] = c.Key + " -"
			}
		}
		got := slices.Sorted(maps.Values(seen))
		if !slices.Equal(got, want) {
			t.Errorf("after %q come %q, want %q", revision, got, want)
		}
		w.cancel()
		remove(t, d, "app||last")
	}
}

func watchBadRevision(t *testing.T, d state.Driver) {
	w := watcher(t, d)
	for _, revision := range []string{"x", "-1", "99999999999999999999", "18446744073709551615", "1'", "\x00", "-", "1-1"} {
		err := w.Watch(t.Context(), "", state.WatchOptions{After: revision}, func(state.Change) error { return errors.New("began") })
		switch {
		case fault.Is(err, fault.InvalidArgument) && fault.ReasonOf(err) == state.ReasonRevisionInvalid:
		case fault.Is(err, fault.FailedPrecondition) && fault.ReasonOf(err) == state.ReasonRevisionGone:
		default:
			t.Errorf("a watch after %q: %v, want a refusal", revision, err)
		}
	}
}

func watchReportFails(t *testing.T, d state.Driver) {
	w := watcher(t, d)
	put(t, d, "k", "v", state.PutOptions{})
	for _, kind := range []state.ChangeKind{state.ItemPut, state.Synced} {
		want := errors.New("no more")
		calls := 0
		err := w.Watch(t.Context(), "", state.WatchOptions{Initial: true}, func(c state.Change) error {
			if calls++; c.Kind == kind {
				return want
			}
			return nil
		})
		if !errors.Is(err, want) {
			t.Errorf("Watch returned %v, want the error of the report", err)
		}
	}
}

func watchCanceled(t *testing.T, d state.Driver) {
	w := watch(t, d, "", state.WatchOptions{})
	w.synced()
	w.cancel()
	select {
	case err := <-w.done:
		if !fault.Is(err, fault.Canceled) {
			t.Errorf("Watch returned %v, want canceled", err)
		}
	case <-time.After(hang):
		t.Fatal("Watch did not return")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := watcher(t, d).Watch(ctx, "", state.WatchOptions{}, func(state.Change) error { return nil })
	if !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("Watch returned %v, want deadline_exceeded", err)
	}
}

// ended expects the watch to end, and returns its error.
func (w *watching) ended() error {
	w.t.Helper()
	for end := time.After(hang); ; {
		select {
		case <-w.events:
		case err := <-w.done:
			return err
		case <-end:
			w.t.Fatal("the watch does not end")
		}
	}
}

func watchClosed(t *testing.T, d state.Driver) {
	w := watch(t, d, "", state.WatchOptions{})
	w.synced()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.ended(); !fault.Is(err, fault.Unavailable) {
		t.Errorf("the watch ended with %v, want unavailable", err)
	}
}

func watchSlow(t *testing.T, d state.Driver) {
	w := watcher(t, d)
	standing, release := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var work sync.WaitGroup
	seen := make(chan string, 10_000)
	work.Go(func() {
		first := true
		err := w.Watch(ctx, "", state.WatchOptions{}, func(c state.Change) error {
			if first {
				first = false
				close(standing)
				<-release
			}
			if c.Kind == state.ItemPut {
				seen <- c.Key
			}
			return nil
		})
		if !fault.Is(err, fault.Canceled) {
			t.Errorf("Watch returned %v, want canceled", err)
		}
	})
	<-standing
	for i := range 300 {
		put(t, d, fmt.Sprint("k", i), "v", state.PutOptions{})
	}
	close(release)
	all := map[string]bool{}
	for len(all) < 300 {
		select {
		case k := <-seen:
			all[k] = true
		case <-time.After(hang):
			t.Fatalf("%d of 300 changes were reported", len(all))
		}
	}
	cancel()
	work.Wait()
}
