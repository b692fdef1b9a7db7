// Package leak finds goroutines that a test has started and not waited for.
//
//	func TestSubscription(t *testing.T) {
//		leak.Check(t)
//		...
//	}
//
// It compares goroutines, which belong to the process: a test that runs in
// parallel with others would be blamed for theirs. Only tests and packages made
// for tests import this package.
package leak

import (
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// grace is how long goroutines that are about to end may take. It costs time
// only where there is a leak.
const grace = 5 * time.Second

// standing are goroutines that outlive a test on purpose: parts of the stack
// that show one, and why it may stay.
var standing = []string{
	"testing.(*T).Run(",                            // a parent test, waiting
	"testing.(*M).",                                // the test binary's own
	"testing.runFuzzing(",                          // the fuzzing engine
	"testing.runTests",                             // the runner of all tests
	"os/signal.signal_recv(",                       // one per process, for good
	"os/signal.loop(",                              // the same, before it waits
	"runtime.ensureSigM",                           // one per process, for good
	"github.com/proa-io/proa/internal/testserver.", // lives as long as a server that tests share
}

// Check fails the test if, once it and its other cleanups are over, goroutines
// run that did not run when Check was called. Call it first. ignore names
// functions, as "net/http.(*persistConn).", whose goroutines do not count. It
// says nothing about a test that has failed already.
func Check(tb testing.TB, ignore ...string) {
	tb.Helper()
	check(tb, grace, ignore)
}

func check(tb testing.TB, grace time.Duration, ignore []string) {
	tb.Helper()
	before := map[string]bool{}
	for _, g := range goroutines() {
		before[g.id] = true
	}
	ignore = slices.Concat(standing, ignore)
	tb.Cleanup(func() {
		tb.Helper()
		if tb.Failed() {
			return
		}
		left := awaitEnd(before, ignore, grace)
		for _, g := range left {
			tb.Errorf("this goroutine was started during the test and still runs:\n%s", g.stack)
		}
	})
}

// awaitEnd returns the goroutines that are new and still there after grace.
func awaitEnd(before map[string]bool, ignore []string, grace time.Duration) []goroutine {
	deadline := time.Now().Add(grace)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		left := slices.DeleteFunc(goroutines(), func(g goroutine) bool {
			return before[g.id] || slices.ContainsFunc(ignore, func(part string) bool { return strings.Contains(g.stack, part) })
		})
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(pause)
	}
}

type goroutine struct {
	id    string // never used again by the runtime
	stack string
}

// goroutines returns all goroutines but the calling one.
func goroutines() []goroutine {
	buf := make([]byte, 64<<10)
	n := runtime.Stack(buf, true)
	for n == len(buf) {
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, true)
	}
	stacks := strings.Split(strings.TrimSpace(string(buf[:n])), "\n\n")
	all := make([]goroutine, 0, len(stacks))
	for _, stack := range stacks[1:] { // the caller's comes first
		// "goroutine 12 [chan receive]:"
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		all = append(all, goroutine{id, stack})
	}
	return all
}
