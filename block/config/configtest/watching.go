package configtest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/config"
)

// watching is a Watch that runs beside the test, and what it has reported.
type watching struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{}
	gate   sync.Mutex // held to make the watcher slow

	mu      sync.Mutex
	spoil   func(map[string]config.Item) // done to the items of each report
	all     []config.Event
	now     map[string]config.Item // what the reports add up to
	changed chan struct{}          // closed and replaced at each report
	err     error                  // of a Watch that ended by itself
}

func watch(t *testing.T, s config.Driver, keys ...string) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{t: t, cancel: cancel, done: make(chan struct{}), changed: make(chan struct{})}
	go func() {
		defer close(w.done)
		err := s.Watch(ctx, config.Query{Keys: keys}, w.report)
		w.mu.Lock()
		defer w.mu.Unlock()
		if ctx.Err() == nil {
			w.err = err
			w.announce()
		}
	}()
	t.Cleanup(w.stop)
	return w
}

func (w *watching) report(e config.Event) {
	w.gate.Lock()
	defer w.gate.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.done:
		w.t.Error("a report came after Watch had returned")
	default:
	}
	w.all = append(w.all, e)
	if e.Complete || w.now == nil {
		w.now = map[string]config.Item{}
	}
	maps.Copy(w.now, e.Items)
	for _, k := range e.Deleted {
		delete(w.now, k)
	}
	if w.spoil != nil && e.Items != nil {
		w.spoil(e.Items)
	}
	w.announce()
}

func (w *watching) announce() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// hold keeps the watcher busy with its next report until release.
func (w *watching) hold()    { w.gate.Lock() }
func (w *watching) release() { w.gate.Unlock() }

// spoilBy lets change be done to the items of each report from now on.
func (w *watching) spoilBy(change func(map[string]config.Item)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spoil = change
}

// stop ends the Watch and waits until it has returned.
func (w *watching) stop() {
	w.cancel()
	<-w.done
}

func (w *watching) events() []config.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

func (w *watching) items() map[string]config.Item {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.now)
}

// wait waits until the reports add up to want.
func (w *watching) wait(what string, want map[string]string) {
	w.t.Helper()
	w.await(what, func(all []config.Event) bool { return len(all) > 0 && maps.Equal(values(w.now), want) })
}

// await waits until ok, which is called with w.mu held.
func (w *watching) await(what string, ok func(all []config.Event) bool) {
	w.t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		w.mu.Lock()
		good, changed, err, now, n := ok(w.all), w.changed, w.err, values(w.now), len(w.all)
		w.mu.Unlock()
		switch {
		case good:
			return
		case err != nil:
			w.t.Fatalf("Watch has ended while waiting for %s: %v", what, err)
		}
		select {
		case <-changed:
		case <-deadline:
			w.t.Fatalf("not within 15 s: %s; after %d reports the items are %.300q", what, n, now)
		}
	}
}
