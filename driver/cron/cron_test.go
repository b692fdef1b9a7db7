package cron

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
)

func TestInput(t *testing.T) {
	bindingtest.RunInput(t, bindingtest.Input{
		Open:   func(t testing.TB) binding.Input { return open(t, "@every 1s") },
		Bubble: synctest.Test,
	})
}

func TestOutput(t *testing.T) {
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return open(t, "@every 1s") },
		Request: binding.Request{Operation: "delete"},
	})
}

// ticks lets a clock run for d of virtual time, which begins at midnight UTC
// of Saturday 2000-01-01, and returns when it ticked.
func ticks(t *testing.T, schedule string, d time.Duration) (all []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, schedule)
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		var mu sync.Mutex
		_ = c.Listen(ctx, func(context.Context, binding.Event) error {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, time.Now().UTC().Format("01-02 15:04:05"))
			return nil
		})
	})
	return all
}

func TestSchedules(t *testing.T) {
	for _, c := range []struct {
		schedule string
		wait     time.Duration
		want     []string
	}{
		{"@every 20s", 70 * time.Second, []string{"01-01 00:00:20", "01-01 00:00:40", "01-01 00:01:00"}},
		{"*/20 * * * * *", 70 * time.Second, []string{"01-01 00:00:20", "01-01 00:00:40", "01-01 00:01:00"}},
		{"@every 1h30m", 4 * time.Hour, []string{"01-01 01:30:00", "01-01 03:00:00"}},
		{"TZ=UTC 30 9 * * MON-FRI", 4 * 24 * time.Hour, []string{"01-03 09:30:00", "01-04 09:30:00"}},
		{"CRON_TZ=Asia/Tokyo 0 9 * * *", 48*time.Hour + time.Minute, []string{"01-02 00:00:00", "01-03 00:00:00"}},
		{"TZ=UTC @daily", 49 * time.Hour, []string{"01-02 00:00:00", "01-03 00:00:00"}},
		{" TZ=UTC  0 0 1 2 * ", 40 * 24 * time.Hour, []string{"02-01 00:00:00"}},
	} {
		if got := ticks(t, c.schedule, c.wait); !slices.Equal(got, c.want) {
			t.Errorf("%q ticks at %q, want %q", c.schedule, got, c.want)
		}
	}
}

func TestEventTellsTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_ = open(t, "TZ=Asia/Tokyo @hourly").Listen(ctx, func(_ context.Context, e binding.Event) error {
			defer cancel()
			if len(e.Data) != 0 || e.Metadata["timeZone"] != "Asia/Tokyo" || e.Metadata["readTimeUTC"] != "2000-01-01 01:00:00 +0000 UTC" {
				t.Errorf("event %q %v", e.Data, e.Metadata)
			}
			return nil
		})
	})
}

func TestSlowHandlersOverlapOnlySoMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var mu sync.Mutex
		now, most, all := 0, 0, 0
		_ = open(t, "@every 1s").Listen(ctx, func(context.Context, binding.Event) error {
			mu.Lock()
			now++
			all++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(30 * time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return nil
		})
		if most != maxOverlap || all != 2*maxOverlap {
			t.Errorf("%d events of which %d at once, want %d and %d", all, most, 2*maxOverlap, maxOverlap)
		}
	})
}

func TestDeleteStopsTheClockForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, "@every 1s")
		count := 0
		run := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5500*time.Millisecond)
			defer cancel()
			return c.Listen(ctx, func(context.Context, binding.Event) error { count++; return nil })
		}
		go func() {
			time.Sleep(2500 * time.Millisecond)
			resp, err := c.Invoke(t.Context(), binding.Request{Operation: "delete"})
			if err != nil || resp.Metadata["schedule"] != "@every 1s" || resp.Metadata["stopTimeUTC"] == "" {
				t.Errorf("delete: %v, %v", resp.Metadata, err)
			}
		}()
		for range 2 {
			if err := run(); err != context.DeadlineExceeded {
				t.Errorf("Listen = %v", err)
			}
		}
		if count != 2 {
			t.Errorf("%d events, want 2", count)
		}
	})
}

func TestSchedulesThatCannotBeAreRefused(t *testing.T) {
	for _, bad := range []string{
		"", " ", "every hour", "* * * *", "* * * * * * *", "61 * * * *", "* * 32 * *", "@every", "@every soon", "@every 0s", "@every -1h",
		"@nightly", "TZ=UTC", "CRON_TZ=UTC", "TZ=", "TZ=Nowhere/Land * * * * *", "TZ= ", "0 0 30 2 *", "*/0 * * * *",
	} {
		err := Specs()[0].Check(component.Settings{{Name: "schedule", Value: bad, Pos: component.Position{File: "c.yaml", Line: 7}}})
		if err == nil || !strings.HasPrefix(err.Error(), `c.yaml:7: "schedule": `) {
			t.Errorf("%q: error %v, want one with the line", bad, err)
		}
	}
	if err := Specs()[0].Check(nil); err == nil || !strings.Contains(err.Error(), `"schedule": is required`) {
		t.Errorf("without a schedule: %v", err)
	}
}

func FuzzSchedule(f *testing.F) {
	for _, s := range []string{"* * * * *", "@every 1s", "TZ=UTC", "TZ=UTC 0 0 29 2 *", "1-5/2,7 * ? JAN SUN", "*/99999999999999999999 * * * *", "TZ=\x00 *"} {
		f.Add(s)
	}
	now := time.Date(2025, 3, 30, 0, 59, 59, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parse(text)
		if err != nil {
			return
		}
		if next := s.Next(now); !next.IsZero() && !next.After(now) {
			t.Errorf("%q comes at %v, which is not after %v", text, next, now)
		}
	})
}

func open(t testing.TB, schedule string) *Clock {
	t.Helper()
	c, err := Open(t.Context(), Config{Schedule: schedule}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
