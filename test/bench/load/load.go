// Package load puts load on a server and measures how long calls take. It knows
// no protocol: the workers that it drives do (see test/bench/wire).
package load

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A Worker drives one connection.
type Worker interface {
	// Run makes calls, each as soon as the one before has ended, until a time,
	// waits for those under way and records how long each took.
	Run(until time.Time, h *Histogram) error
	// Close closes the connection.
	Close() error
}

// A Pool is some workers that run together.
type Pool struct {
	workers []Worker
	hists   []Histogram
}

// NewPool makes n workers, one after the other.
func NewPool(n int, dial func() (Worker, error)) (*Pool, error) {
	p := &Pool{hists: make([]Histogram, n)}
	for i := range n {
		w, err := dial()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("connection %d of %d: %w", i+1, n, err), p.Close())
		}
		p.workers = append(p.workers, w)
	}
	return p, nil
}

// Result is what one run has measured.
type Result struct {
	Latency Histogram
	Took    time.Duration // from the start until the last call has ended
}

// Rate returns the calls per second.
func (r *Result) Rate() float64 { return float64(r.Latency.Count()) / r.Took.Seconds() }

// Run lets all workers run for d.
func (p *Pool) Run(d time.Duration) (*Result, error) {
	var wg sync.WaitGroup
	errs := make([]error, len(p.workers))
	start := time.Now()
	for i, w := range p.workers {
		p.hists[i] = Histogram{}
		wg.Go(func() { errs[i] = w.Run(start.Add(d), &p.hists[i]) })
	}
	wg.Wait()
	out := &Result{Took: time.Since(start)}
	for i := range p.hists {
		out.Latency.Add(&p.hists[i])
	}
	if err := errors.Join(errs...); err != nil {
		return out, err
	}
	if out.Latency.Count() == 0 {
		return out, errors.New("no call ended in time")
	}
	return out, nil
}

// Close closes all connections.
func (p *Pool) Close() error {
	var errs []error
	for _, w := range p.workers {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}

// Median returns the middle of values, or the mean of the two in the middle; 0
// for none.
func Median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// Ratio returns the median of a[i]/b[i]. Values with the same index were measured
// right after each other: a machine whose speed drifts gives both the same
// share. It is 0 where nothing can be compared.
func Ratio(a, b []float64) float64 {
	var all []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			all = append(all, a[i]/b[i])
		}
	}
	return Median(all)
}
