// Soak puts full load on three sidecars for ten minutes, of everything at once,
// and fails when a call failed that was not given up on purpose, when goroutines,
// open files or memory rise, or when they do not come back afterwards.
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
			for _, id := range sidecars() {
				text := s.sidecars[id].Log()
				fmt.Fprintf(os.Stderr, "--- the log of %s ends with\n%s\n", id, text[max(0, len(text)-4000):])
			}
		}
		err = errors.Join(err, s.close())
	}()
	if err := s.settle(ctx); err != nil {
		return err
	}
	before := samples{}
	if err := before.take(ctx, s); err != nil {
		return err
	}
	fmt.Println("before the load:", before.line())
	var t tally
	during, err := s.underLoad(ctx, duration, &t)
	if err != nil {
		return err
	}
	complaints := report(during, &t, duration)
	if err := s.awaitDeliveries(0); err != nil {
		complaints = append(complaints, err.Error())
	}
	after, err := s.comeBack(ctx, before)
	complaints = append(complaints, after...)
	if err != nil {
		return err
	}
	for _, c := range complaints {
		err = errors.Join(err, errors.New(c))
	}
	if err == nil {
		fmt.Println("flat, and no call failed")
	}
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

// samplings is how often figures are taken, in any duration; at most one every
// two seconds.
const samplings = 200

// underLoad lets all tasks run and takes samples.
func (s *stand) underLoad(ctx context.Context, duration time.Duration, t *tally) (samples, error) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx, s.tasks(), t)
	}()
	defer func() { <-done }()
	defer cancel()
	every := max(duration/samplings, min(2*time.Second, duration/40))
	all, start, last := samples{}, time.Now(), time.Time{}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, errors.New("interrupted")
			}
			return all, nil
		case <-tick.C:
		}
		// Not ctx: a sample that has begun is finished.
		if err := all.take(context.WithoutCancel(ctx), s); err != nil {
			return nil, fmt.Errorf("a sidecar does not answer: %w", err)
		}
		if time.Since(last) > duration/30 {
			last = time.Now()
			n, _ := t.failed()
			fmt.Printf("%6s %9d calls %7d aborted %3d failed%s\n", time.Since(start).Round(time.Second), t.calls.Load(), t.aborted.Load(), n, all.line())
		}
	}
}

// report prints the table and returns what is not as it should be.
func report(all samples, t *tally, duration time.Duration) (complaints []string) {
	fmt.Printf("\n%-22s %12s %12s %12s %12s\n", "", "first half", "second half", "slope", "at most")
	for _, s := range all.series() {
		v := judge(s)
		mark := ""
		if v.complaint != "" {
			mark = "  RISES"
			complaints = append(complaints, v.complaint)
		}
		fmt.Printf("%-22s %12.1f %12.1f %+12.1f %+12.1f%s\n", s.name, v.first, v.second, v.slope, v.limit, mark)
	}
	n, texts := t.failed()
	fmt.Printf("\n%d calls in %v, %.0f a second; %d given up on purpose; %d failed\n", t.calls.Load(), duration,
		float64(t.calls.Load())/duration.Seconds(), t.aborted.Load(), n)
	if n > 0 {
		complaints = append(complaints, fmt.Sprintf("%d calls failed that nobody gave up; the first:", n))
		complaints = append(complaints, texts...)
	}
	return complaints
}

// comeBackTime bounds how long goroutines and descriptors may take to come back:
// pools keep connections for up to two minutes.
const comeBackTime = 150 * time.Second

// comeBack waits until goroutines and descriptors are what they were.
func (s *stand) comeBack(ctx context.Context, before samples) (complaints []string, err error) {
	for deadline := time.Now().Add(comeBackTime); ; {
		after := samples{}
		if err := after.take(ctx, s); err != nil {
			return nil, err
		}
		complaints = nil
		for _, id := range sidecars() {
			was, is := before[id][0], after[id][0]
			for _, c := range []string{
				returned(id+": goroutines", was.goroutines, is.goroutines, slackGoroutines),
				returned(id+": descriptors", was.descriptors, is.descriptors, slackDescriptors),
			} {
				if c != "" {
					complaints = append(complaints, c)
				}
			}
		}
		if len(complaints) == 0 || time.Now().After(deadline) {
			fmt.Println("after the load: ", after.line())
			return complaints, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
