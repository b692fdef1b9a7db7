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
			done <- runStages(ctx, time.Minute, slog.New(slog.DiscardHandler), []service{svc("driver")}, []service{svc("block")}, []service{svc("dialect")})
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
	err := runStages(t.Context(), time.Minute, slog.New(slog.DiscardHandler),
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
	err := runStages(ctx, time.Minute, slog.New(slog.DiscardHandler), []service{{"a", func(ctx context.Context) error { <-ctx.Done(); return boom }}})
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
		err := runStages(ctx, 5*time.Second, slog.New(slog.DiscardHandler), []service{svc("a")}, []service{svc("b")}, []service{svc("c")})
		if want := []time.Duration{5 * time.Second, 3 * time.Second, time.Second}; err != nil || !slices.Equal(left, want) {
			t.Fatal(err, left)
		}
	})
}
