package runtime

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func inTime(grace time.Duration) stopping {
	return stopping{grace: grace, log: slog.New(slog.DiscardHandler)}
}

func TestStagesStopTopDownOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		said := func(s string) { mu.Lock(); order = append(order, s); mu.Unlock() }
		svc := func(name string) service {
			return service{name, func(ctx context.Context) error {
				<-ctx.Done()
				said(name + " told")
				time.Sleep(time.Second)
				said(name + " done")
				return nil
			}}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- runStages(ctx, inTime(time.Minute), []service{svc("driver")}, []service{svc("block")}, []service{svc("dialect")})
		}()
		synctest.Wait()
		cancel()
		err := <-done
		want := []string{"dialect told", "dialect done", "block told", "block done", "driver told", "driver done"}
		if err != nil || !slices.Equal(order, want) {
			t.Fatal(err, order)
		}
	})
}

func TestAServiceThatFailsStopsAllAndIsNamed(t *testing.T) {
	boom := errors.New("boom")
	stopped := false
	err := runStages(t.Context(), inTime(time.Minute),
		[]service{{"a", func(ctx context.Context) error { <-ctx.Done(); stopped = true; return nil }}},
		[]service{{"b", func(context.Context) error { return boom }}})
	if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "b: ") || !stopped {
		t.Fatal(err, stopped)
	}
}

func TestAServiceThatStopsBadlyIsReported(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	boom := errors.New("boom")
	err := runStages(ctx, inTime(time.Minute), []service{{"a", func(ctx context.Context) error { <-ctx.Done(); return boom }}})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
}

func TestTheGracePeriodIsOneForAllStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var left []time.Duration
		svc := func(name string) service {
			return service{name, func(ctx context.Context) error {
				<-ctx.Done()
				left = append(left, time.Until(StopBy(ctx)))
				time.Sleep(2 * time.Second)
				return nil
			}}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := runStages(ctx, inTime(5*time.Second), []service{svc("a")}, []service{svc("b")}, []service{svc("c")})
		if want := []time.Duration{5 * time.Second, 3 * time.Second, time.Second}; err != nil || !slices.Equal(left, want) {
			t.Fatal(err, left)
		}
	})
}

func TestInHasteEverythingStopsTogetherAndIsWaitedForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		haste := make(chan struct{})
		var told sync.Map
		svc := func(name string, takes time.Duration) service {
			return service{name, func(ctx context.Context) error {
				<-ctx.Done()
				told.Store(name, time.Now())
				drain, cancel := Draining(ctx, 500*time.Millisecond)
				defer cancel()
				<-drain.Done()
				time.Sleep(takes)
				return nil
			}}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		how := stopping{grace: time.Minute, haste: haste, log: slog.New(slog.DiscardHandler)}
		go func() {
			done <- runStages(ctx, how, []service{svc("engine", 0)}, []service{svc("server", 3*time.Second)}, []service{svc("subscriptions", 0)})
		}()
		synctest.Wait()
		began := time.Now()
		cancel()
		time.Sleep(10 * time.Second)
		close(haste)
		if err := <-done; !errors.Is(err, errInHaste) {
			t.Errorf("runStages: %v", err)
		}
		if took := time.Since(began); took != 10*time.Second+lastMoment {
			t.Errorf("it took %v", took)
		}
		for name, want := range map[string]time.Duration{"subscriptions": 0, "server": 10 * time.Second, "engine": 10 * time.Second} {
			if at, _ := told.Load(name); at.(time.Time).Sub(began) != want {
				t.Errorf("%s was told after %v, want %v", name, at.(time.Time).Sub(began), want)
			}
		}
		time.Sleep(time.Minute) // what was left behind ends
	})
}
