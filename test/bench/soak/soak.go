package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// A trial is a load in rounds on processes that are measured.
type trial struct {
	processes map[string]process
	// load loads them until its context ends, and returns when nothing of it is
	// under way.
	load func(context.Context) error
	// failed returns what has failed up to now; nil for nothing.
	failed func() []string
	// progress is said of each round.
	progress func() string

	rounds int
	each   time.Duration // how long the load of a round takes
	pause  time.Duration // how long each process is left alone after it
	out    io.Writer
}

// run makes all rounds and returns what is not as it should be.
func (t *trial) run(ctx context.Context) error {
	var rounds []round
	for i := range t.rounds {
		r, err := t.round(ctx)
		if err != nil {
			return errors.Join(err, t.failures())
		}
		rounds = append(rounds, r)
		fmt.Fprintf(t.out, "%3d %s%s\n", i+1, t.progress(), r.line(t.names()))
	}
	return errors.Join(t.report(rounds), t.failures())
}

func (t *trial) names() []string {
	var names []string
	for name := range t.processes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// round is load, then rest.
func (t *trial) round(ctx context.Context) (round, error) {
	load, cancel := context.WithTimeout(ctx, t.each)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- t.load(load) }()
	loaded, err := residents(load, t.each/20, t.processes)
	cancel()
	if err = errors.Join(err, <-done, ctx.Err()); err != nil {
		return nil, err
	}
	r := round{}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for name, p := range t.processes {
		wg.Go(func() {
			f, err := rest(ctx, p, t.pause)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s does not answer: %w", name, err))
			}
			f.loaded = loaded[name]
			r[name] = f
		})
	}
	wg.Wait()
	return r, errors.Join(errs...)
}

// report prints what each series says, and returns those that rise.
func (t *trial) report(rounds []round) error {
	from := warm(rounds)
	fmt.Fprintf(t.out, "\nwarm after %d of %d rounds of %v; from then on:\n%-22s %12s %12s %12s %12s\n", from, len(rounds), t.each,
		"", "first half", "second half", "rise", "at most")
	var errs []error
	for _, s := range table(t.names(), rounds[from:]) {
		v := judge(s)
		mark := ""
		if v.complaint != "" {
			mark = "  RISES"
			errs = append(errs, errors.New(v.complaint))
		}
		fmt.Fprintf(t.out, "%-22s %12.2f %12.2f %+12.2f %+12.2f%s\n", s.name, v.first, v.second, v.rise, v.limit, mark)
	}
	return errors.Join(errs...)
}

// failures returns what has failed.
func (t *trial) failures() error {
	var errs []error
	for _, text := range t.failed() {
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}
