package main

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/test/bench/proc"
)

// self is the process of the test, measured as a sidecar is.
type self struct{}

func (self) Counts(context.Context) (goroutines, descriptors, threads int, err error) {
	if descriptors, err = proc.Descriptors(os.Getpid()); err != nil {
		return 0, 0, 0, err
	}
	threads, err = proc.Threads(os.Getpid())
	return runtime.NumGoroutine(), descriptors, threads, err
}

func (self) Resident() (int64, error) { return proc.RSS(os.Getpid()) }

func (self) Heap(context.Context) (objects, held int64, err error) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc), int64(m.HeapInuse + m.StackInuse), nil //nolint:gosec // they fit
}

// leaky is a server that keeps something of its calls.
type leaky struct {
	t *testing.T

	memory [][]byte
	files  []*os.File
	stop   chan struct{}
	wg     sync.WaitGroup
}

func (l *leaky) bytes() { l.memory = append(l.memory, bytes.Repeat([]byte("x"), 20<<10)) }

func (l *leaky) goroutine() { l.wg.Go(func() { <-l.stop }) }

func (l *leaky) file() {
	f, err := os.Open(os.DevNull)
	if err != nil {
		l.t.Error(err)
		return
	}
	l.files = append(l.files, f)
}

// thread keeps a goroutine on a thread of its own.
func (l *leaky) thread() {
	started := make(chan struct{})
	l.wg.Go(func() {
		runtime.LockOSThread()
		close(started)
		<-l.stop
	})
	<-started
}

func (l *leaky) close() {
	close(l.stop)
	l.wg.Wait()
	for _, f := range l.files {
		_ = f.Close()
	}
}

func TestALeakFailsWhateverLeaks(t *testing.T) {
	warmed := 0
	for _, c := range []struct {
		name  string
		leak  func(l *leaky) // is called 20 times a round
		every int            // only each so many rounds
		says  []string       // nothing when it must pass
	}{
		{"nothing", func(*leaky) {}, 1, nil},
		{"garbage", func(l *leaky) { l.bytes(); l.memory = nil }, 1, nil},
		{"a cache that fills up", func(l *leaky) {
			if warmed++; warmed < 80 {
				l.bytes()
			}
		}, 1, nil},
		{"memory", func(l *leaky) { l.bytes() }, 1, []string{"self: heap rises"}},
		{"memory now and then", func(l *leaky) { l.bytes(); l.bytes() }, 2, []string{"self: heap rises"}},
		{"goroutines", func(l *leaky) { l.goroutine() }, 1, []string{"self: goroutines rises"}},
		{"files", func(l *leaky) { l.file() }, 1, []string{"self: descriptors rises"}},
		{"threads", func(l *leaky) { l.thread() }, 1, []string{"self: threads rises", "self: goroutines rises"}},
	} {
		l := &leaky{t: t, stop: make(chan struct{})}
		var out bytes.Buffer
		rounds := 0
		err := (&trial{
			processes: map[string]process{"self": self{}},
			load: func(ctx context.Context) error {
				for range 20 {
					if rounds%c.every == 0 {
						c.leak(l)
					}
				}
				rounds++
				<-ctx.Done()
				return nil
			},
			failed: func() []string { return nil }, progress: func() string { return "" },
			rounds: 15, each: 5 * time.Millisecond, pause: time.Millisecond, out: &out,
		}).run(t.Context())
		l.close()
		if (err == nil) != (c.says == nil) {
			t.Errorf("%s: %v\n%s", c.name, err, &out)
			continue
		}
		for _, want := range c.says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: no %q in %v", c.name, want, err)
			}
		}
	}
}

func TestAFailedCallFailsTheRun(t *testing.T) {
	var calls tally
	calls.count(task{name: "a call"}, 1, context.DeadlineExceeded)
	calls.count(task{name: "aborted", aborts: true}, 3, nil)
	err := (&trial{failed: calls.failed, progress: func() string { return "" }, out: &bytes.Buffer{}}).run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "1 calls failed that nobody gave up") || !strings.Contains(err.Error(), "a call: context deadline exceeded") {
		t.Errorf("error %v", err)
	}
	if calls.calls.Load() != 1 || calls.aborted.Load() != 3 {
		t.Errorf("%d calls, %d aborted", calls.calls.Load(), calls.aborted.Load())
	}
}
