package secrettest

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/fault"
)

// Change sets the only value of a secret, whose key is its name; nil removes the
// secret.
type Change func(t testing.TB, name string, value *string)

// OpenChanging returns a driver on a store without secrets, and how an operator
// changes that.
type OpenChanging func(t testing.TB) (secret.Driver, Change)

// RunWatch proves that a driver that implements secret.Watcher tells of changes.
func RunWatch(t *testing.T, open OpenChanging) {
	for _, p := range []struct {
		name string
		test func(*testing.T, secret.Driver, Change)
	}{
		{"ChangesAreTold", changesAreTold},
		{"OtherSecretsDoNotMatter", othersDoNotMatter},
		{"WatchEndsWithItsContext", watchEnds},
		{"CanceledContextReturnsCanceled", watchCanceled},
	} {
		t.Run(p.name, func(t *testing.T) {
			d, change := open(t)
			p.test(t, d, change)
		})
	}
}

// watching is a Watch that runs beside the test.
type watching struct {
	d     secret.Driver
	told  chan struct{} // one token when it was told of a change
	calls atomic.Int64
	stop  func() error
}

func watch(t *testing.T, d secret.Driver, names ...string) *watching {
	t.Helper()
	w, ok := d.(secret.Watcher)
	if !ok {
		t.Fatal("the driver is no secret.Watcher")
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, done := &watching{d: d, told: make(chan struct{}, 1)}, make(chan error, 1)
	go func() {
		done <- w.Watch(ctx, names, func() {
			out.calls.Add(1)
			select {
			case out.told <- struct{}{}:
			default:
			}
		})
	}()
	stopped := false
	out.stop = func() error {
		cancel()
		if stopped {
			return nil
		}
		stopped = true
		return <-done
	}
	t.Cleanup(func() { _ = out.stop() })
	select {
	case <-out.told: // it stands
	case err := <-done:
		t.Fatalf("Watch: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the watch does not stand after 20 s")
	}
	return out
}

// wait waits until the watch has told of a change after which a read finds want;
// nil for no secret.
func (w *watching) wait(t *testing.T, name string, want *string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case <-w.told:
		case <-deadline:
			t.Fatalf("not told of the change of %q within 20 s", name)
		}
		values, err := w.d.Get(t.Context(), name, nil)
		value, there := values[name]
		switch {
		case err != nil && !fault.Is(err, fault.NotFound):
			t.Fatalf("Get(%q): %v", name, err)
		case want == nil && !there, want != nil && there && value == *want:
			return
		}
	}
}

func changesAreTold(t *testing.T, d secret.Driver, change Change) {
	change(t, "a", new("0"))
	w := watch(t, d, "a", "b", "c")
	for _, step := range []struct {
		name  string
		value *string
	}{{"a", new("1")}, {"b", new("1")}, {"a", new("2")}, {"b", nil}, {"a", nil}, {"a", new("3")}, {"c", new("")}} {
		change(t, step.name, step.value)
		w.wait(t, step.name, step.value)
	}
}

func othersDoNotMatter(t *testing.T, d secret.Driver, change Change) {
	w := watch(t, d, "a")
	other := watch(t, d, "b")
	change(t, "b", new("1"))
	other.wait(t, "b", new("1"))
	change(t, "a", new("1"))
	w.wait(t, "a", new("1"))
	// That others have changed may be told, as long as it does not go on.
	calls := w.calls.Load()
	time.Sleep(200 * time.Millisecond)
	if more := w.calls.Load() - calls; more > 10 {
		t.Errorf("%d calls in 200 ms without a change", more)
	}
}

func watchEnds(t *testing.T, d secret.Driver, _ Change) {
	w := watch(t, d, "a")
	if err := w.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch returned %v, want the cause of the end of its context", err)
	}
}

func watchCanceled(t *testing.T, d secret.Driver, _ Change) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := d.(secret.Watcher).Watch(ctx, []string{"a"}, func() {})
	if !fault.Is(err, fault.Canceled) {
		t.Errorf("Watch: %v, want canceled", err)
	}
}
