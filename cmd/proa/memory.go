package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

const (
	// gcPercent lets the heap grow to four times of what is in use before it is
	// collected. What a sidecar has in use is a few megabytes, so that this costs
	// little memory and saves a fifth of the CPU time under load.
	gcPercent = 300
	// mostGarbage bounds by how many bytes the heap grows all the same, as long
	// as it may still double: many connections are much to hold on to.
	mostGarbage = 64 << 20
	// leastPercent is for heaps of which mostGarbage is less than half.
	leastPercent = 100
)

// tuneMemory sets up garbage collection: seldom, but never beyond nine tenths of
// the memory that the container may have. GOGC and GOMEMLIMIT win. It returns
// the tuner of a heap that grows.
func tuneMemory() *tuner {
	t := &tuner{read: readUsage, release: giveBack, set: func(int) {}, percent: gcPercent}
	if os.Getenv("GOGC") == "" {
		t.set = func(percent int) { debug.SetGCPercent(percent) }
		t.set(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		if limit := containerLimit(os.ReadFile); limit > 0 {
			debug.SetMemoryLimit(limit / 10 * 9)
		}
	}
	return t
}

const (
	// tuneEvery is how often the heap is looked at, and how long it must have
	// been quiet to count as idle.
	tuneEvery = 5 * time.Second
	// quietBytes are allocated at most in that time while nothing happens: by
	// probes, scrapes of metrics and the engine.
	quietBytes = 1 << 20
	// worthBytes are worth a collection.
	worthBytes = 8 << 20
)

// A tuner gives memory back that nothing uses. The collector of Go works when
// something is allocated: after a burst, or when many connections have fallen
// idle, it would keep up to four times of what is in use until something happens.
type tuner struct {
	read    func() usage
	release func() // collects garbage and gives back what is free
	set     func(percent int)

	percent int
	before  uint64 // allocated when it was last looked at
	since   uint64 // allocated when memory was last given back
}

// giveBack collects garbage and gives back what is free, and the pages of the
// program that load has brought in.
func giveBack() {
	debug.FreeOSMemory()
	releaseProgram()
}

// usage is what there is of the heap, in bytes.
type usage struct {
	allocated uint64 // since the start
	live      uint64 // was in use at the last collection
	free      uint64 // in use by nothing, but not given back either
}

// run looks at the heap until ctx ends.
func (t *tuner) run(ctx context.Context) {
	tick := time.NewTicker(tuneEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.look()
		}
	}
}

// look gives memory back when there was quiet since the last look and enough
// happened before, or enough is free; and adapts how much the heap may grow.
func (t *tuner) look() {
	u := t.read()
	quiet := u.allocated-t.before < quietBytes
	t.before = u.allocated
	if quiet && (u.allocated-t.since >= worthBytes || u.free >= worthBytes) {
		t.release()
		u = t.read()
		t.before, t.since = u.allocated, u.allocated
	}
	if percent := percentFor(u.live); percent != t.percent {
		t.percent = percent
		t.set(percent)
	}
}

// percentFor returns by how much a heap may grow, in steps, for each change stops
// the world for a moment.
func percentFor(live uint64) int {
	const step = 50
	if live == 0 {
		return gcPercent
	}
	percent := int(min(mostGarbage*100/live, gcPercent)) //nolint:gosec // at most gcPercent
	return max(percent/step*step, leastPercent)
}

// readUsage reads the figures of this process.
func readUsage() usage {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(s)
	return usage{allocated: s[0].Value.Uint64(), live: s[1].Value.Uint64(), free: s[2].Value.Uint64()}
}

// containerLimit returns the memory limit of the control group, version 2 or 1,
// in bytes; 0 when there is none.
func containerLimit(readFile func(string) ([]byte, error)) int64 {
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := readFile(path)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && n > 0 && n < 1<<50 { // version 1 writes a huge number for none
			return n
		}
	}
	return 0
}
