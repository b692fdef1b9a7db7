package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/proa-io/proa/test/bench/proc"
)

// figures are what one sidecar has at one time.
type figures struct{ goroutines, descriptors, resident, heap float64 }

// What is flat, and what has come back when the load is over: pools keep some
// connections, and each has goroutines.
const (
	slackGoroutines  = 60
	slackDescriptors = 40
)

// sample reads the figures of a sidecar. The heap is what was reachable at the
// last collection: the goal of the next one, without what GOGC adds.
func (s *stand) sample(ctx context.Context, id string) (figures, error) {
	p := s.sidecars[id]
	v, err := p.Figures(ctx, "go_goroutines", "go_memstats_next_gc_bytes", "go_gc_gogc_percent")
	if err != nil {
		return figures{}, err
	}
	rss, err := proc.RSS(p.PID())
	if err != nil {
		return figures{}, err
	}
	fds, err := proc.Descriptors(p.PID())
	return figures{goroutines: v[0], descriptors: float64(fds), resident: float64(rss) / 1e6, heap: v[1] / (1 + v[2]/100) / 1e6}, err
}

// samples are the figures of all sidecars over time.
type samples map[string][]figures

// take adds a sample of each sidecar.
func (a samples) take(ctx context.Context, s *stand) error {
	var errs []error
	for id := range s.sidecars {
		f, err := s.sample(ctx, id)
		errs = append(errs, err)
		a[id] = append(a[id], f)
	}
	return errors.Join(errs...)
}

// series are what is judged. The bounds leave room for how many calls happen to
// be under way, and for pools that grow while the machine is slow; what a call in
// a thousand leaves behind is far above them after some minutes of thousands of
// calls a second. What comes back afterwards is judged more strictly.
func (a samples) series() []series {
	var out []series
	for _, id := range sidecars() {
		for _, c := range []struct {
			name, unit string
			of         func(figures) float64
			rule       rule
		}{
			{"goroutines", "goroutines", func(f figures) float64 { return f.goroutines }, rule{share: 0.5, amount: 400}},
			{"descriptors", "descriptors", func(f figures) float64 { return f.descriptors }, rule{share: 0.5, amount: 40}},
			{"resident", "MB", func(f figures) float64 { return f.resident }, rule{share: 0.15, amount: 15}},
			{"heap", "MB", func(f figures) float64 { return f.heap }, rule{share: 0.2, amount: 8}},
		} {
			s := series{name: id + ": " + c.name, unit: c.unit, rule: c.rule}
			for _, f := range a[id] {
				s.values = append(s.values, c.of(f))
			}
			out = append(out, s)
		}
	}
	return out
}

// sidecars returns the sidecars in the order of the table.
func sidecars() []string { return []string{"front", "http", "grpc"} }

// line is the last sample, for the screen.
func (a samples) line() string {
	var b strings.Builder
	for _, id := range sidecars() {
		f := a[id][len(a[id])-1]
		fmt.Fprintf(&b, "  %s %4.0f gor %4.0f fds %6.1f MB heap %5.1f", id, f.goroutines, f.descriptors, f.resident, f.heap)
	}
	return b.String()
}
