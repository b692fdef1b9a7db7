package job_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/job/jobtest"
)

// recorder is an application that notes when it is called, from the start of
// the test on, and answers as answer says.
type recorder struct {
	began  time.Time
	answer func(ctx context.Context, nth int, e job.Event) error

	mu    sync.Mutex
	calls []string
}

func newRecorder(answer func(ctx context.Context, nth int, e job.Event) error) *recorder {
	return &recorder{began: time.Now(), answer: answer}
}

func (r *recorder) OnJobEvent(ctx context.Context, e job.Event) error {
	r.mu.Lock()
	r.calls = append(r.calls, fmt.Sprint(e.Name, " ", time.Since(r.began).Round(time.Millisecond)))
	nth := len(r.calls)
	r.mu.Unlock()
	if r.answer == nil {
		return nil
	}
	return r.answer(ctx, nth, e)
}

func (r *recorder) want(t *testing.T, calls ...string) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.calls, calls) {
		t.Errorf("the application was called at %q, want %q", r.calls, calls)
	}
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.calls)
}

func (r *recorder) all() []string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = nil
}

// bench is a store whose jobs run, in a test with a clock of its own.
func bench(t *testing.T, test func(t *testing.T, s *job.Store, d job.Driver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := newDriver(t)
		test(t, jobtest.NewStore(t, d), d)
	})
}
