// Soak puts full load on three sidecars for ten minutes, of everything at once,
// and fails when a call failed that was not given up on purpose, or when what
// the sidecars hold rises: live heap, resident memory, goroutines, open files,
// threads.
//
// The load comes in rounds. After each it pauses until nothing is under way;
// then garbage is collected, through the port for profiles, and what is left is
// counted: what is left after a round and was not left after the one before is a
// leak, once everything is warm. See judge and warm.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

// rounds are in a run, however long it is.
const rounds = 12

// pause is longer than goroutines without work are kept for the next request (see
// package coroutine), and than it takes a sidecar to find that nothing happens
// and to give back memory.
const pause = 12 * time.Second

func main() {
	proa := flag.String("proa", "bin/proa", "the program to load")
	duration := flag.Duration("duration", 10*time.Minute, "how long")
	logs := flag.Bool("logs", false, "show the ends of the sidecars' logs when it fails")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := soak(ctx, *proa, *duration, *logs); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
	fmt.Println("flat, and no call failed")
}

func soak(ctx context.Context, proa string, duration time.Duration, logs bool) (err error) {
	home, err := os.MkdirTemp("", "soak-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	s, err := newStand(ctx, proa, home)
	if err != nil {
		return err
	}
	defer func() {
		if logs && err != nil {
			for id, p := range s.sidecars {
				text := p.Log()
				fmt.Fprintf(os.Stderr, "--- the log of %s ends with\n%s\n", id, text[max(0, len(text)-4000):])
			}
		}
		err = errors.Join(err, s.close())
	}()
	if err := s.settle(ctx); err != nil {
		return err
	}
	var t tally
	start := time.Now()
	all := trial{processes: map[string]process{}, rounds: rounds, each: duration / rounds, pause: pause, out: os.Stdout, failed: t.failed}
	for id, p := range s.sidecars {
		all.processes[id] = watched{p}
	}
	all.load = func(ctx context.Context) error {
		run(ctx, s.tasks(), &t)
		return s.awaitDeliveries(0)
	}
	all.progress = func() string {
		return fmt.Sprintf("%6s %9d calls %7d aborted", time.Since(start).Round(time.Second), t.calls.Load(), t.aborted.Load())
	}
	err = all.run(ctx)
	fmt.Printf("\n%d calls in %v, %.0f a second; %d given up on purpose; %d failed; %d reloads\n", t.calls.Load(), duration,
		float64(t.calls.Load())/duration.Seconds(), t.aborted.Load(), t.failures, s.reloads.Load())
	t.print(os.Stdout)
	return err
}

// settleTime bounds how long the sidecars may take to find each other.
const settleTime = 30 * time.Second

// settle makes a call of each kind until all succeed.
func (s *stand) settle(ctx context.Context) error {
	for _, k := range s.tasks() {
		for deadline := time.Now().Add(settleTime); ; time.Sleep(100 * time.Millisecond) {
			_, err := k.work(ctx, time.Millisecond)
			if err == nil {
				break
			}
			if ctx.Err() != nil || time.Now().After(deadline) {
				return fmt.Errorf("before the load, %s: %w", k.name, err)
			}
		}
	}
	return s.awaitDeliveries(0)
}
