package leak

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// recorder is a test whose end and failures the real test sees.
type recorder struct {
	testing.TB
	failed   bool
	errors   []string
	cleanups []func()
}

func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Failed() bool     { return r.failed }
func (r *recorder) Helper()          {}
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// finish ends the recorded test and returns what it complained about.
func (r *recorder) finish() string {
	for _, f := range r.cleanups {
		f()
	}
	return strings.Join(r.errors, "\n")
}

// linger starts a goroutine that stays until the test lets it go.
func linger(t *testing.T) (release func()) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { stayBehind(stop) })
	return func() {
		close(stop)
		wg.Wait()
	}
}

func stayBehind(stop chan struct{}) { <-stop }

const soon = 50 * time.Millisecond

func TestAGoroutineThatStaysIsReportedWithItsStack(t *testing.T) {
	r := &recorder{TB: t}
	check(r, soon, nil)
	release := linger(t)
	defer release()
	if got := r.finish(); len(r.errors) != 1 || !strings.Contains(got, "stayBehind") || !strings.Contains(got, "created by") {
		t.Errorf("got %d reports: %s", len(r.errors), got)
	}
}

func TestGoroutinesFromBeforeTheTestDoNotCount(t *testing.T) {
	release := linger(t)
	defer release()
	r := &recorder{TB: t}
	check(r, soon, nil)
	if got := r.finish(); got != "" {
		t.Error(got)
	}
}

func TestAGoroutineThatEndsWithinGraceIsNoLeak(t *testing.T) {
	r := &recorder{TB: t}
	check(r, time.Minute, nil)
	release := linger(t)
	time.AfterFunc(soon, release)
	if got := r.finish(); got != "" {
		t.Error(got)
	}
}

func TestIgnoredFunctionsDoNotCount(t *testing.T) {
	r := &recorder{TB: t}
	check(r, soon, []string{"leak.stayBehind("})
	release := linger(t)
	defer release()
	if got := r.finish(); got != "" {
		t.Error(got)
	}
}

func TestAFailedTestIsNotBlamedForItsLeaksToo(t *testing.T) {
	r := &recorder{TB: t}
	check(r, soon, nil)
	release := linger(t)
	defer release()
	r.failed = true
	if got := r.finish(); got != "" {
		t.Error(got)
	}
}

func TestManyGoroutinesAreAllSeen(t *testing.T) {
	const many = 500 // more than one buffer of stacks
	r := &recorder{TB: t}
	check(r, soon, nil)
	for range many {
		defer linger(t)()
	}
	r.finish()
	if len(r.errors) != many {
		t.Errorf("reported %d, want %d", len(r.errors), many)
	}
}

func TestSubtestsAndCleanTestsPass(t *testing.T) {
	Check(t)
	t.Run("sub", func(t *testing.T) {
		Check(t, "net/http.(*persistConn).")
		release := linger(t)
		release()
	})
}
