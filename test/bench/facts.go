package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/proa-io/proa/test/bench/sidecar"
)

// fact is something that is measured once.
type fact struct{ name, value string }

// measureFacts measures what there is one of.
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
	for _, f := range out {
		fmt.Fprintf(os.Stderr, "%s: %s\n", f.name, f.value)
	}
	return out, nil
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

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
