package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/proa-io/proa/test/bench/proc"
	"github.com/proa-io/proa/test/bench/sidecar"
)

// fact is something that is measured once.
type fact struct{ name, value string }

// measureFacts measures how soon a sidecar is ready and what it takes when there
// is nothing to do.
func (r *rig) measureFacts(ctx context.Context) ([]fact, error) {
	ready, err := r.startToReady(ctx)
	if err != nil {
		return nil, err
	}
	program, err := os.Stat(r.proa)
	if err != nil {
		return nil, err
	}
	out := []fact{
		{fmt.Sprintf("from start to ready (median of %d, `/v1.0/healthz/outbound` answers)", startRuns), fmt.Sprint(ready.Round(100 * time.Microsecond))},
		{"stripped binary", megabytes(program.Size())},
	}
	idle, err := r.idle(ctx)
	for _, f := range out {
		fmt.Fprintf(os.Stderr, "%s: %s\n", f.name, f.value)
	}
	return append(out, idle...), err
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// restTime is how long a sidecar is left alone until it counts as idle.
const restTime = 2 * time.Second

// idle measures what an idle sidecar takes, with the engine in it and without.
func (r *rig) idle(ctx context.Context) (out []fact, err error) {
	for _, f := range []struct{ name, id string }{
		{"idle resident memory, with the embedded engine and the default components", "alone"}, // the first of its home
		{"idle resident memory, engine in another process", "second"},
	} {
		s, err := r.launch(ctx, "idle", f.id, nil, nil)
		if err != nil {
			return nil, err
		}
		defer s.Stop()
		time.Sleep(restTime)
		rss, err := proc.RSS(s.PID())
		if err != nil {
			return nil, err
		}
		out = append(out, fact{f.name, megabytes(rss)})
	}
	return out, nil
}

// startRuns is how often the start is measured.
const startRuns = 9

// startToReady measures from the start of the process, in an empty home, until
// it answers that it is ready for the application.
func (r *rig) startToReady(ctx context.Context) (time.Duration, error) {
	var all []time.Duration
	for range startRuns {
		home, err := os.MkdirTemp(r.home, "start-")
		if err != nil {
			return 0, err
		}
		start := time.Now()
		s, err := sidecar.Start(ctx, sidecar.Options{Proa: r.proa, Home: home, ID: "start", Ready: "/v1.0/healthz/outbound"})
		if err != nil {
			return 0, err
		}
		all = append(all, time.Since(start))
		if err := s.Stop(); err != nil {
			return 0, err
		}
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}
