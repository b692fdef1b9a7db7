package jobtest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/policy"
)

// NewStore returns the jobs of the application "shop" on a driver.
func NewStore(t testing.TB, d job.Driver) *job.Store { return newStore(t, d, 0) }

func newStore(t testing.TB, d job.Driver, grace time.Duration) *job.Store {
	return job.New(component.Opened("jobstore", d), job.Options{
		Namespace: "default", AppID: "shop", Chains: policy.None{}, Grace: grace, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
}

// App is an application that notes its triggers, and whether it is to be
// called at all. It is safe for concurrent use.
type App struct {
	// Answer, when not nil, decides what becomes of a trigger.
	Answer func(context.Context, job.Event) error

	mu      sync.Mutex
	events  []job.Event
	changed chan struct{}
}

// OnJobEvent implements job.App.
func (a *App) OnJobEvent(ctx context.Context, e job.Event) error {
	a.mu.Lock()
	a.events = append(a.events, e)
	if a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
	a.mu.Unlock()
	if a.Answer != nil {
		return a.Answer(ctx, e)
	}
	return nil
}

// Counts returns how often each job was triggered, and what wakes who waits
// for more.
func (a *App) Counts() (counts map[string]int, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	counts = map[string]int{}
	for _, e := range a.events {
		counts[e.Name]++
	}
	if a.changed == nil {
		a.changed = make(chan struct{})
	}
	return counts, a.changed
}

// Await waits until the application has been called for n different jobs.
func (a *App) Await(t testing.TB, n int) {
	t.Helper()
	for late := time.After(patience); ; {
		counts, changed := a.Counts()
		if len(counts) >= n {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%d of %d jobs were triggered in %v", len(counts), n, patience)
		}
	}
}

// Start runs the store's jobs until the returned function is called or the test
// ends.
func Start(t testing.TB, s *job.Store, a job.App) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx, a); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// awaitNone waits until the store has no jobs: all triggers are noted.
func awaitNone(t testing.TB, s *job.Store) {
	t.Helper()
	for late := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		jobs, err := s.List(t.Context())
		if err == nil && len(jobs) == 0 {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("there are %d jobs left: %v", len(jobs), err)
		}
	}
}

// Three replicas share fifty jobs that are due at the same time.
func triggeredOnce(t *testing.T, d job.Driver) {
	a, stores := &App{}, []*job.Store{NewStore(t, d), NewStore(t, d), NewStore(t, d)}
	for _, s := range stores {
		Start(t, s, a)
	}
	const jobs = 50
	due := time.Now().Add(time.Second).Format(time.RFC3339)
	for i := range jobs {
		j := &job.Job{Name: fmt.Sprint("j", i), DueTime: due, Data: &job.Data{TypeURL: "text", Value: []byte("data")}}
		if err := stores[i%3].Schedule(t.Context(), j, false); err != nil {
			t.Fatal(err)
		}
	}
	a.Await(t, jobs)
	awaitNone(t, stores[0])
	counts, _ := a.Counts()
	for name, n := range counts {
		if n != 1 {
			t.Errorf("%s was triggered %d times", name, n)
		}
	}
}

// A replica claims jobs and is cut off from the store and from the world, as
// one that is killed is. Another one triggers them.
func takenOver(t *testing.T, d job.Driver) {
	dying := &mortal{Driver: d}
	s := newStore(t, dying, 100*time.Millisecond)
	hanging := &App{Answer: func(ctx context.Context, _ job.Event) error { <-ctx.Done(); return ctx.Err() }}
	stop := Start(t, s, hanging)
	for i := range 5 {
		if err := s.Schedule(t.Context(), &job.Job{Name: fmt.Sprint("j", i), DueTime: "0s"}, false); err != nil {
			t.Fatal(err)
		}
	}
	hanging.Await(t, 5)
	dying.kill()
	heir, other := &App{}, NewStore(t, d)
	Start(t, other, heir)
	heir.Await(t, 5)
	awaitNone(t, other)
	counts, _ := heir.Counts()
	for name, n := range counts {
		if n != 1 {
			t.Errorf("%s was triggered %d times", name, n)
		}
	}
	stop()
}

// mortal is a driver whose writes go nowhere once it is dead.
type mortal struct {
	job.Driver
	mu   sync.Mutex
	dead bool
}

func (m *mortal) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
}

func (m *mortal) isDead() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

// Put implements job.Driver.
func (m *mortal) Put(ctx context.Context, k job.Key, value []byte, expect job.Expect) (uint64, error) {
	if m.isDead() {
		return 0, job.ErrConflict()
	}
	return m.Driver.Put(ctx, k, value, expect)
}

// Delete implements job.Driver.
func (m *mortal) Delete(ctx context.Context, k job.Key, expect job.Expect) error {
	if m.isDead() {
		return job.ErrConflict()
	}
	return m.Driver.Delete(ctx, k, expect)
}
