package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheContainersMemoryLimitIsRead(t *testing.T) {
	for text, want := range map[string]int64{"268435456\n": 256 << 20, "max\n": 0, "9223372036854771712\n": 0, "": 0} {
		got := containerLimit(func(path string) ([]byte, error) {
			if path != "/sys/fs/cgroup/memory.max" {
				return nil, errors.New("no such file")
			}
			return []byte(text), nil
		})
		if got != want {
			t.Errorf("%q is a limit of %d, want %d", text, got, want)
		}
	}
}

// heap is what a tuner sees and does.
type heap struct {
	mu sync.Mutex // guards the fields below
	usage
	released int
	percents []int
}

func (h *heap) tuner() *tuner {
	return &tuner{
		read: func() usage {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.usage
		},
		release: func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.released++
			h.free = 0
			h.allocated += 10 << 10
		},
		set: func(percent int) { h.percents = append(h.percents, percent) }, percent: gcPercent,
	}
}

func (h *heap) use(allocated, free uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.allocated += allocated
	h.free = free
}

func (h *heap) given() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.released
}

func TestMemoryIsGivenBackOnceWhenItIsQuietAfterABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := &heap{usage: usage{allocated: 2 << 20, live: 4 << 20}}
		done := make(chan struct{})
		go func() { defer close(done); h.tuner().run(ctx) }()
		defer func() { cancel(); <-done }()
		for _, step := range []struct {
			what      string
			allocated uint64 // within a while
			free      uint64
			want      int // releases in all
		}{
			{"nothing to give back after the start", 0, 0, 0},
			{"nothing happens", 0, 0, 0},
			{"a burst", 50 << 20, 0, 0},
			{"it goes on", 50 << 20, 90 << 20, 0},
			{"quiet", 0, 0, 1},
			{"still quiet", 100 << 10, 0, 1},
			{"quiet all the time", 100 << 10, 0, 1},
			{"another burst", 9 << 20, 0, 1},
			{"the end of it", 0, 0, 2},
			{"connections end, and the runtime collects by itself", 0, 40 << 20, 3},
			{"a little is free", 0, 4 << 20, 3},
		} {
			h.use(step.allocated, step.free)
			time.Sleep(tuneEvery + time.Millisecond)
			synctest.Wait()
			if n := h.given(); n != step.want {
				t.Fatalf("%s: given back %d times, want %d", step.what, n, step.want)
			}
		}
	})
}

func TestALargeHeapGrowsByLess(t *testing.T) {
	h := &heap{}
	tune := h.tuner()
	for _, live := range []uint64{4 << 20, 20 << 20, 22 << 20, 30 << 20, 31 << 20, 60 << 20, 1 << 30, 5 << 20, 0} {
		h.live = live
		tune.look()
	}
	if want := []int{250, 200, 100, 300}; !slices.Equal(h.percents, want) {
		t.Errorf("set to %v, want %v", h.percents, want)
	}
}

func TestTheUsageOfThisProcessIsRead(t *testing.T) {
	before := readUsage()
	if before.allocated == 0 {
		t.Errorf("usage %+v", before)
	}
	block := make([]byte, 4<<20)
	if after := readUsage(); after.allocated-before.allocated < uint64(len(block)) {
		t.Errorf("allocated %d more, want %d at least", after.allocated-before.allocated, len(block))
	}
}
