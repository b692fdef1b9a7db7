package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/proa-io/proa/test/bench/load"
	"github.com/proa-io/proa/test/bench/proc"
	"github.com/proa-io/proa/test/bench/sidecar"
)

// row is what was measured of one contender in one shape. What it has of each
// round is in the same order for all contenders of a case.
type row struct {
	table, name, contender string
	shape                  shape
	base                   *row // what its latency is compared with, if anything
	costs                  bool // it has processes of its own

	rate, cpu                 []float64 // of each round: calls per second; ms per 1,000
	p50, p99, p999            []float64 // of each round, in µs
	allocs                    float64   // per call; negative when they are not known
	peak                      float64   // resident MB
	againstNginx, againstBest float64   // CPU time; 0 when there is nothing to compare
}

// String is the row for the screen.
func (r *row) String() string {
	text := fmt.Sprintf("%-28s %-18s c=%-5v %8.0f/s  p50 %6.0fµs  p99 %6.0fµs  p99.9 %6.0fµs", r.name, r.contender, r.shape,
		load.Median(r.rate), load.Median(r.p50), load.Median(r.p99), load.Median(r.p999))
	if !r.costs {
		return text
	}
	text += fmt.Sprintf("  cpu %6.1f ms/1k  peak %5.1f MB", load.Median(r.cpu), r.peak)
	if r.allocs >= 0 {
		text += fmt.Sprintf("  allocs %5.1f", r.allocs)
	}
	if r.againstNginx > 0 {
		text += fmt.Sprintf("  %.2f x nginx  %.2f x best", r.againstNginx, r.againstBest)
	}
	return text
}

// measureCases measures all cases that are wanted.
func (r *rig) measureCases(ctx context.Context) ([]*row, error) {
	var out []*row
	for _, c := range cases() {
		for _, s := range c.shapes {
			if !r.wantsShape(s) {
				continue
			}
			rows, err := r.measureCase(ctx, c, s)
			if err != nil {
				return nil, fmt.Errorf("%s, %v connections: %w", c.name, s, err)
			}
			for _, row := range rows {
				fmt.Fprintln(os.Stderr, row)
			}
			out = append(out, rows...)
		}
	}
	return out, nil
}

func (o options) wantsShape(s shape) bool {
	if o.shapes == "" {
		return true
	}
	for part := range strings.SplitSeq(o.shapes, ",") {
		if strings.TrimSpace(part) == s.String() {
			return true
		}
	}
	return false
}

// lane is a contender while it is measured.
type lane struct {
	way
	row    *row
	pool   *load.Pool
	pids   []int
	calls  int
	allocs float64 // of the calls
	scrape float64 // allocations of asking how many there were
}

// measureCase measures the contenders of a case in turns.
func (r *rig) measureCase(ctx context.Context, c benchCase, s shape) (rows []*row, err error) {
	var lanes []*lane
	defer func() {
		for _, l := range lanes {
			err = errors.Join(err, l.pool.Close())
		}
	}()
	for _, contender := range c.contenders {
		if !r.wants(c.name, contender.name) {
			continue
		}
		l, err := r.openLane(ctx, c, contender, s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", contender.name, err)
		}
		if l != nil {
			lanes = append(lanes, l)
		}
	}
	for round := range r.rounds {
		for i := range lanes {
			l := lanes[(i+round)%len(lanes)] // nobody is always behind the same one
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := l.turn(ctx, r.duration); err != nil {
				return nil, fmt.Errorf("%s: %w", l.row.contender, err)
			}
		}
	}
	for _, l := range lanes {
		if err := l.finish(); err != nil {
			return nil, fmt.Errorf("%s: %w", l.row.contender, err)
		}
		rows = append(rows, l.row)
		if err := r.profile(ctx, l); err != nil {
			return nil, err
		}
	}
	compare(rows, c.base)
	return rows, nil
}

// settleTime bounds how long the first call may take to succeed: sidecars have
// to find each other.
const settleTime = 10 * time.Second

// openLane makes a contender ready: it runs, is connected to, and warm. It
// returns nil for one that is not installed.
func (r *rig) openLane(ctx context.Context, c benchCase, con contender, s shape) (*lane, error) {
	w, err := con.open(ctx, r)
	if err != nil || w.dial == nil {
		return nil, err
	}
	for deadline := time.Now().Add(settleTime); ; {
		if err = callOnce(w.dial(one())); err == nil {
			break
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	l := &lane{way: w, row: &row{table: c.table, name: c.name, contender: con.name, shape: s, allocs: -1}}
	if l.pool, err = load.NewPool(s.conns, func() (load.Worker, error) { return w.dial(s) }); err != nil {
		return nil, err
	}
	if err := l.prepare(ctx, r.duration/4); err != nil {
		return nil, errors.Join(err, l.pool.Close())
	}
	return l, nil
}

// prepare warms a lane up and notes what its processes have used until now.
func (l *lane) prepare(ctx context.Context, warmUp time.Duration) error {
	if _, err := l.pool.Run(warmUp); err != nil {
		return err
	}
	var err error
	if l.pids, err = l.processes(); err != nil {
		return err
	}
	l.row.costs = len(l.pids) > 0
	if err := proc.ResetPeak(l.pids...); err != nil {
		return err
	}
	if len(l.sidecars) == 0 {
		return nil
	}
	return l.priceOfAsking(ctx)
}

// priceOfAsking finds out what asking for the allocations allocates.
func (l *lane) priceOfAsking(ctx context.Context) error {
	var prices []float64
	last := -1.0
	for range 4 {
		now, err := l.allocations(ctx)
		if err != nil {
			return err
		}
		if last >= 0 {
			prices = append(prices, now-last)
		}
		last = now
	}
	l.scrape = load.Median(prices)
	return nil
}

func (l *lane) allocations(ctx context.Context) (total float64, err error) {
	for _, s := range l.sidecars {
		n, err := s.Allocations(ctx)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// turn is one round of a lane.
func (l *lane) turn(ctx context.Context, d time.Duration) error {
	allocs, err := l.allocations(ctx)
	if err != nil {
		return err
	}
	before, err := proc.CPU(l.pids...)
	if err != nil {
		return err
	}
	res, err := l.pool.Run(d)
	if err != nil {
		return err
	}
	after, err := proc.CPU(l.pids...)
	if err != nil {
		return err
	}
	more, err := l.allocations(ctx)
	if err != nil {
		return err
	}
	n := res.Latency.Count()
	l.calls += n
	l.allocs += more - allocs - l.scrape
	l.row.rate = append(l.row.rate, res.Rate())
	l.row.cpu = append(l.row.cpu, ms(after-before)*1000/float64(n))
	for p, to := range map[float64]*[]float64{50: &l.row.p50, 99: &l.row.p99, 99.9: &l.row.p999} {
		*to = append(*to, us(res.Latency.Percentile(p)))
	}
	return nil
}

// finish completes the row.
func (l *lane) finish() error {
	if !l.row.costs {
		return nil
	}
	if len(l.sidecars) > 0 {
		l.row.allocs = max(0, l.allocs) / float64(l.calls)
	}
	peak, err := proc.Peak(l.pids...)
	l.row.peak = float64(peak) / 1e6
	return err
}

// compare fills in what rows are compared with.
func compare(rows []*row, base string) {
	byName := map[string]*row{}
	for _, r := range rows {
		byName[r.contender] = r
	}
	nginx, haproxy := byName["nginx"], byName["haproxy"]
	for _, r := range rows {
		if r.contender != base {
			r.base = byName[base]
		}
		if !r.costs || nginx == nil || haproxy == nil {
			continue
		}
		r.againstNginx = load.Ratio(r.cpu, nginx.cpu)
		r.againstBest = max(r.againstNginx, load.Ratio(r.cpu, haproxy.cpu))
	}
}

// profiled is how long a run for a profile takes.
const profiled = 2 * time.Second

// profile takes CPU profiles of a lane's sidecars in a run of its own, when they
// are wanted.
func (r *rig) profile(ctx context.Context, l *lane) error {
	if r.profiles == "" || len(l.sidecars) == 0 {
		return nil
	}
	wait := r.takeProfiles(ctx, l.sidecars, profiled, fmt.Sprintf("%s-%s-%v", l.row.name, l.row.contender, l.row.shape))
	_, err := l.pool.Run(profiled)
	return errors.Join(err, wait())
}

// takeProfiles takes CPU profiles of the next d. What it returns waits until they
// are written.
func (r *rig) takeProfiles(ctx context.Context, of []*sidecar.Process, d time.Duration, name string) (wait func() error) {
	if r.profiles == "" {
		return func() error { return nil }
	}
	var wg sync.WaitGroup
	errs := make([]error, len(of))
	clean := strings.NewReplacer(" ", "-", ",", "", "/", "", ";", "")
	for i, s := range of {
		file := filepath.Join(r.profiles, clean.Replace(name+"-"+s.ID)+".pprof")
		wg.Go(func() { errs[i] = s.CPUProfile(ctx, d, file) })
	}
	return func() error {
		wg.Wait()
		return errors.Join(errs...)
	}
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
