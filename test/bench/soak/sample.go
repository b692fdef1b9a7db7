package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/proa-io/proa/test/bench/load"
	"github.com/proa-io/proa/test/bench/proc"
	"github.com/proa-io/proa/test/bench/sidecar"
)

// figures are what one process has: memory in megabytes.
type figures struct{ goroutines, descriptors, threads, heap, held, resident, loaded float64 }

// round is what each process has after a round: once the load has paused, when
// nothing is under way, what is garbage was collected and what is free was given
// back; loaded is the resident memory under load.
type round map[string]figures

// table is all series of the rounds, with what is flat. Between rounds nothing
// is under way, so that there is little noise: what is left are connections that
// are kept for the next call, and what a collection finds in use.
func table(names []string, rounds []round) (all []series) {
	for _, name := range names {
		for _, c := range []struct {
			name, unit    string
			of            func(figures) float64
			share, amount float64
		}{
			{"goroutines", "goroutines", func(f figures) float64 { return f.goroutines }, 0.1, 12},
			{"descriptors", "descriptors", func(f figures) float64 { return f.descriptors }, 0.1, 12},
			{"threads", "threads", func(f figures) float64 { return f.threads }, 0.2, 6},
			{"heap", "MB", func(f figures) float64 { return f.heap }, 0.08, 1.5},
			{"heap with gaps", "MB", func(f figures) float64 { return f.held }, 0.15, 4},
			// How much of what is free has been given back depends on when the
			// sidecar looked last.
			{"resident", "MB", func(f figures) float64 { return f.resident }, 0.3, 20},
			// What the collector lets the heap grow by depends on how long the
			// machine lets it wait.
			{"resident, loaded", "MB", func(f figures) float64 { return f.loaded }, 0.4, 40},
		} {
			s := series{name: name + ": " + c.name, unit: c.unit, share: c.share, amount: c.amount}
			for _, r := range rounds {
				s.values = append(s.values, c.of(r[name]))
			}
			all = append(all, s)
		}
	}
	return all
}

// line is a round, for the screen.
func (r round) line(names []string) string {
	var b strings.Builder
	for _, name := range names {
		f := r[name]
		fmt.Fprintf(&b, "  %s %3.0f gor %3.0f fds %2.0f thr %5.2f MB heap %5.2f with gaps %5.1f MB, %5.1f loaded", name,
			f.goroutines, f.descriptors, f.threads, f.heap, f.held, f.resident, f.loaded)
	}
	return b.String()
}

// A process is one that is measured.
type process interface {
	// Counts returns what it has now.
	Counts(ctx context.Context) (goroutines, descriptors, threads int, err error)
	// Resident returns its resident memory in bytes.
	Resident() (int64, error)
	// Heap collects garbage and returns how many bytes are in use: by objects,
	// and by what they and the stacks occupy, with the gaps between them.
	Heap(ctx context.Context) (objects, held int64, err error)
}

// watched is a sidecar that is measured.
type watched struct{ *sidecar.Process }

// Counts implements process.
func (w watched) Counts(ctx context.Context) (goroutines, descriptors, threads int, err error) {
	v, err := w.Figures(ctx, "go_goroutines")
	if err != nil {
		return 0, 0, 0, err
	}
	if descriptors, err = proc.Descriptors(w.PID()); err != nil {
		return 0, 0, 0, err
	}
	threads, err = proc.Threads(w.PID())
	return int(v[0]), descriptors, threads, err
}

// Resident implements process.
func (w watched) Resident() (int64, error) { return proc.RSS(w.PID()) }

const (
	// looks is how often is counted at the end of a pause, and lookEvery how long
	// it takes until the next time.
	looks     = 10
	lookEvery = 100 * time.Millisecond
	// collections are needed until sync.Pools have given back what they keep,
	// and what finalizers held is gone too.
	collections = 3
)

// rest leaves a process alone for a pause, and returns what it has then: the
// least that was seen of each count, for what asks counts as well. It asks
// nothing before, so that the process sees that nothing happens.
func rest(ctx context.Context, p process, pause time.Duration) (figures, error) {
	select {
	case <-ctx.Done():
		return figures{}, ctx.Err()
	case <-time.After(pause):
	}
	resident, err := p.Resident()
	if err != nil {
		return figures{}, err
	}
	least := figures{goroutines: math.Inf(1), descriptors: math.Inf(1), resident: float64(resident) / 1e6}
	for range looks {
		g, d, t, err := p.Counts(ctx)
		if err != nil {
			return figures{}, err
		}
		least.goroutines, least.descriptors = min(least.goroutines, float64(g)), min(least.descriptors, float64(d))
		least.threads = float64(t)
		time.Sleep(min(lookEvery, pause))
	}
	for range collections {
		objects, held, err := p.Heap(ctx)
		if err != nil {
			return figures{}, err
		}
		least.heap, least.held = float64(objects)/1e6, float64(held)/1e6
	}
	return least, nil
}

// residents samples the resident memory of processes until ctx ends, and returns
// the median of each in megabytes.
func residents(ctx context.Context, every time.Duration, processes map[string]process) (map[string]float64, error) {
	samples := map[string][]float64{}
	for {
		for name, p := range processes {
			n, err := p.Resident()
			if err != nil {
				return nil, err
			}
			samples[name] = append(samples[name], float64(n)/1e6)
		}
		select {
		case <-ctx.Done():
			medians := map[string]float64{}
			for name, all := range samples {
				medians[name] = load.Median(all[len(all)/2:]) // of the later half, when the load is on
			}
			return medians, nil
		case <-time.After(every):
		}
	}
}
