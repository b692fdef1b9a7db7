package jobtest

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/fault"
)

// watcher is a Watch under way and what it has reported.
type watcher struct {
	t    testing.TB
	stop func() error // ends it and returns its error

	mu      sync.Mutex
	values  map[string]string
	revs    map[string]uint64
	order   []string // of puts and deletions after the first sync
	syncs   int
	delay   time.Duration
	changed chan struct{}
}

func watch(t testing.TB, d job.Driver, s job.Scope) *watcher { return watchSlowly(t, d, s, 0) }

func watchSlowly(t testing.TB, d job.Driver, s job.Scope, delay time.Duration) *watcher {
	t.Helper()
	w := &watcher{t: t, values: map[string]string{}, revs: map[string]uint64{}, delay: delay, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	var err error
	var running sync.WaitGroup
	running.Go(func() { err = d.Watch(ctx, s, w.report) })
	w.stop = func() error {
		cancel()
		running.Wait()
		return err
	}
	t.Cleanup(func() { _ = w.stop() })
	return w
}

func (w *watcher) report(c job.Change) {
	time.Sleep(w.delay)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch c.Op {
	case job.OpSynced:
		w.syncs++
	case job.OpDelete:
		delete(w.values, c.Name)
		w.note("-" + c.Name)
	case job.OpPut:
		if c.Revision <= w.revs[c.Name] && w.syncs == 0 {
			w.t.Errorf("revision %d of %q is reported after %d", c.Revision, c.Name, w.revs[c.Name])
		}
		w.values[c.Name], w.revs[c.Name] = string(c.Value), c.Revision
		w.note(c.Name + "=" + string(c.Value))
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *watcher) note(what string) {
	if w.syncs > 0 {
		w.order = append(w.order, what)
	}
}

func (w *watcher) got() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.values)
}

func (w *watcher) synced() {
	w.t.Helper()
	w.until("it is synced", func() bool { return w.syncs > 0 })
}

func (w *watcher) wait(ok func(map[string]string) bool) {
	w.t.Helper()
	w.until("it reports what there is", func() bool { return ok(w.values) })
}

// until waits until ok, which is called with mu held.
func (w *watcher) until(what string, ok func() bool) {
	w.t.Helper()
	late := time.After(patience)
	for {
		w.mu.Lock()
		done, changed, got := ok(), w.changed, len(w.values)
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-late:
			w.t.Fatalf("the watch does not come so far that %s; it knows %d entries", what, got)
		}
	}
}

func watchBegins(t *testing.T, d job.Driver) {
	for i := range 20 {
		put(t, d, key(fmt.Sprint("k", i)), fmt.Sprint(i), job.Anything())
	}
	if err := d.Delete(t.Context(), key("k3"), job.Anything()); err != nil {
		t.Fatal(err)
	}
	w := watch(t, d, shop)
	w.synced()
	if got := w.got(); len(got) != 19 || got["k7"] != "7" {
		t.Errorf("when it was synced the watch had reported %v", got)
	}
}

func watchOfNothing(t *testing.T, d job.Driver) {
	w := watch(t, d, shop)
	w.synced()
	put(t, d, key("a"), "1", job.Anything())
	w.wait(func(got map[string]string) bool { return got["a"] == "1" })
}

func watchInOrder(t *testing.T, d job.Driver) {
	w := watch(t, d, shop)
	w.synced()
	var want []string
	for i := range 30 {
		name := fmt.Sprint("k", i)
		put(t, d, key(name), "1", job.Anything())
		want = append(want, name+"=1")
		if i%3 == 0 {
			w.wait(func(got map[string]string) bool { return got[name] == "1" }) // or the deletion alone may be told
			if err := d.Delete(t.Context(), key(name), job.Anything()); err != nil {
				t.Fatal(err)
			}
			want = append(want, "-"+name)
		}
	}
	w.until("all is reported", func() bool { return len(w.order) >= len(want) })
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, what := range want {
		if w.order[i] != what {
			t.Fatalf("report %d is %s, want %s; all: %v", i, w.order[i], what, w.order)
		}
	}
}

func watchIgnoresOthers(t *testing.T, d job.Driver) {
	w := watch(t, d, shop)
	w.synced()
	other := job.Scope{Kind: "job", Namespace: "default", AppID: "bar"}
	put(t, d, job.Key{Scope: other, Name: "x"}, "1", job.Anything())
	put(t, d, key("a"), "1", job.Anything())
	w.wait(func(got map[string]string) bool { return got["a"] == "1" })
	if got := w.got(); len(got) != 1 {
		t.Errorf("the watch reports %v", got)
	}
}

func noneLostAtBegin(t *testing.T, d job.Driver) {
	const writes = 100
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := range writes {
			put(t, d, key(fmt.Sprint("k", i)), "1", job.Anything())
		}
	})
	var watchers []*watcher
	for range 5 {
		watchers = append(watchers, watch(t, d, shop))
	}
	writing.Wait()
	for _, w := range watchers {
		w.wait(func(got map[string]string) bool { return len(got) == writes })
	}
}

func slowWatcher(t *testing.T, d job.Driver) {
	w := watchSlowly(t, d, shop, time.Millisecond)
	put(t, d, key("gone"), "1", job.Anything())
	for i := range 300 {
		put(t, d, key(fmt.Sprint("k", i%10)), fmt.Sprint(i), job.Anything())
	}
	if err := d.Delete(t.Context(), key("gone"), job.Anything()); err != nil {
		t.Fatal(err)
	}
	put(t, d, key("last"), "1", job.Anything())
	w.wait(func(got map[string]string) bool { return got["last"] == "1" && len(got) == 11 && got["k9"] == "299" })
}

func watchEnds(t *testing.T, d job.Driver) {
	w := watch(t, d, shop)
	w.synced()
	if err := w.stop(); fault.CodeOf(err) != fault.Canceled {
		t.Errorf("Watch returned %v, want canceled", err)
	}
	put(t, d, key("a"), "1", job.Anything())
	if got := w.got(); len(got) != 0 {
		t.Errorf("after its end the watch reports %v", got)
	}
}
