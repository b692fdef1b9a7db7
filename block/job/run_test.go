package job_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/job/jobtest"
	"github.com/proa-io/proa/fault"
)

func TestJobsAreTriggeredWhenTheyAreDue(t *testing.T) {
	for _, c := range []struct {
		what string
		job  job.Job
		wait time.Duration
		want []string
		left bool
	}{
		{"once", job.Job{DueTime: "90s"}, 59 * time.Minute, []string{"1m30s"}, false},
		{"at once", job.Job{DueTime: "0s"}, 59 * time.Minute, []string{"0s"}, false},
		{"long ago", job.Job{DueTime: "1999-01-01T00:00:00Z"}, 59 * time.Minute, []string{"0s"}, false}, // time begins in 2000
		{"repeats", job.Job{Schedule: "@every 1m", Repeats: times(3)}, 59 * time.Minute, []string{"1m0s", "2m0s", "3m0s"}, false},
		{"for ever", job.Job{Schedule: "@every 25m"}, 59 * time.Minute, []string{"25m0s", "50m0s"}, true},
		{"due, then again", job.Job{Schedule: "@every 25m", DueTime: "10m"}, 59 * time.Minute, []string{"10m0s", "35m0s"}, true},
		{"due, then by the calendar", job.Job{Schedule: "CRON_TZ=UTC 0 */20 * * * *", DueTime: "10m"}, 59 * time.Minute,
			[]string{"10m0s", "20m0s", "40m0s"}, true},
		{"until its end", job.Job{Schedule: "@every 10s", TTL: "35s"}, 59 * time.Minute, []string{"10s", "20s", "30s"}, false},
		{"at its very end", job.Job{Schedule: "@every 10s", TTL: "30s"}, 59 * time.Minute, []string{"10s", "20s", "30s"}, false},
		{"until its end, from when it is due", job.Job{Schedule: "@every 10s", DueTime: "1m", TTL: "15s"}, 59 * time.Minute,
			[]string{"1m0s", "1m10s"}, false},
		{"never", job.Job{Schedule: "@every 10m", TTL: "5m"}, 59 * time.Minute, nil, false},
		{"fast", job.Job{Schedule: "@every 1ms", Repeats: times(3)}, time.Second, []string{"1ms", "2ms", "3ms"}, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
				app := newRecorder(nil)
				jobtest.Start(t, s, app)
				c.job.Name = "a"
				schedule(t, s, c.job)
				time.Sleep(c.wait)
				var want []string
				for _, at := range c.want {
					want = append(want, "a "+at)
				}
				app.want(t, want...)
				if left := len(names(t, s)) > 0; left != c.left {
					t.Errorf("that the job is left is %v", left)
				}
			})
		})
	}
}

func TestTriggerBringsTheData(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
		var got job.Event
		jobtest.Start(t, s, newRecorder(func(_ context.Context, _ int, e job.Event) error { got = e; return nil }))
		schedule(t, s, job.Job{Name: "a", DueTime: "5s", Data: &job.Data{TypeURL: "t", Value: []byte("v\nw")}})
		due := time.Now().Add(5 * time.Second)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got.Name != "a" || got.Data.TypeURL != "t" || string(got.Data.Value) != "v\nw" || !got.Due.Equal(due) || got.Attempt != 1 {
			t.Errorf("the application got %+v", got)
		}
		schedule(t, s, job.Job{Name: "b", DueTime: "5s"})
		time.Sleep(time.Minute)
		synctest.Wait()
		if got.Name != "b" || got.Data != nil {
			t.Errorf("the application got %+v", got)
		}
	})
}

func TestFailurePolicySaysWhetherATriggerIsRepeated(t *testing.T) {
	fails := func(n int) func(context.Context, int, job.Event) error {
		return func(_ context.Context, nth int, e job.Event) error {
			if e.Attempt <= n {
				return fault.New(fault.Internal, "try %d failed", nth)
			}
			return nil
		}
	}
	for _, c := range []struct {
		what  string
		fail  int
		every string
		p     *job.FailurePolicy
		want  []string
	}{
		{"the default gives up after three more tries", 99, "", nil, []string{"1s", "2s", "3s", "4s"}},
		{"the default succeeds at the third", 2, "", nil, []string{"1s", "2s", "3s"}},
		{"drop", 99, "", &job.FailurePolicy{Drop: true}, []string{"1s"}},
		{"constant", 99, "", &job.FailurePolicy{Interval: 3 * time.Second, MaxRetries: times(1)}, []string{"1s", "4s"}},
		{"none", 99, "", &job.FailurePolicy{Interval: 3 * time.Second, MaxRetries: times(0)}, []string{"1s"}},
		{"without a bound", 5, "", &job.FailurePolicy{Interval: 10 * time.Second}, []string{"1s", "11s", "21s", "31s", "41s", "51s"}},
		{"growing", 5, "", &job.FailurePolicy{Interval: time.Second, MaxInterval: 5 * time.Second},
			[]string{"1s", "2s", "4s", "8s", "13s", "18s"}},
		{"a recurring job goes on", 99, "@every 20s", &job.FailurePolicy{Interval: time.Second, MaxRetries: times(1)},
			[]string{"1s", "2s", "21s", "22s", "41s", "42s"}},
		{"a longer wait than the schedule's", 1, "@every 40s", &job.FailurePolicy{Interval: 50 * time.Second}, []string{"1s", "51s", "51s"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
				app := newRecorder(fails(c.fail))
				jobtest.Start(t, s, app)
				schedule(t, s, job.Job{Name: "a", DueTime: "1s", Schedule: c.every, FailurePolicy: c.p})
				time.Sleep(time.Minute - time.Millisecond)
				var want []string
				for _, at := range c.want {
					want = append(want, "a "+at)
				}
				app.want(t, want...)
			})
		})
	}
}

func TestTriggerWithoutHandlerIsNotRepeated(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
		app := newRecorder(func(context.Context, int, job.Event) error {
			return fault.New(fault.NotFound, "404").WithReason(job.ReasonNoHandler)
		})
		jobtest.Start(t, s, app)
		schedule(t, s, job.Job{Name: "a", Schedule: "@every 10s", Repeats: times(2)})
		time.Sleep(time.Minute)
		app.want(t, "a 10s", "a 20s")
		if got := names(t, s); len(got) != 0 {
			t.Errorf("there are jobs %v", got)
		}
	})
}

func TestJobsWaitForAnApplicationThatCannotBeReached(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
		var up atomic.Bool
		app := newRecorder(func(_ context.Context, _ int, e job.Event) error {
			switch {
			case !up.Load():
				return fault.New(fault.Unavailable, "connection refused").WithReason(job.ReasonNotDelivered)
			case e.Attempt != 1:
				return fmt.Errorf("attempt %d", e.Attempt)
			}
			return nil
		})
		jobtest.Start(t, s, app)
		for i := range 20 {
			schedule(t, s, job.Job{Name: fmt.Sprint(i), DueTime: "1s", FailurePolicy: &job.FailurePolicy{Drop: true}})
		}
		time.Sleep(time.Hour)
		if n := app.count(); n > 20*500 {
			t.Errorf("the application that is away was called %d times in an hour", n)
		}
		up.Store(true)
		time.Sleep(11 * time.Second)
		if got := names(t, s); len(got) != 0 {
			t.Errorf("jobs are left: %v", got)
		}
	})
}

// Nobody runs the jobs for two and a half hours.
func TestWhatWasMissedIsMadeUpForOnce(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
		app := newRecorder(nil)
		schedule(t, s, job.Job{Name: "cron", Schedule: "CRON_TZ=UTC 0 0 * * * *"})
		schedule(t, s, job.Job{Name: "every", Schedule: "@every 25m", Repeats: times(3)})
		schedule(t, s, job.Job{Name: "once", DueTime: "1h"})
		schedule(t, s, job.Job{Name: "over", Schedule: "@every 10m", TTL: "1h"})
		time.Sleep(150 * time.Minute)
		jobtest.Start(t, s, app)
		synctest.Wait()
		if n := app.count(); n != 4 {
			t.Errorf("%d jobs were made up for, want 4: %v", n, app.all())
		}
		app.forget()
		time.Sleep(85 * time.Minute)
		app.want(t, "every 2h55m0s", "cron 3h0m0s", "every 3h20m0s")
	})
}

func TestTriggerThatTakesLongIsFollowedByOne(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
		app := newRecorder(func(_ context.Context, nth int, _ job.Event) error {
			if nth == 2 {
				time.Sleep(95 * time.Second)
			}
			return nil
		})
		jobtest.Start(t, s, app)
		schedule(t, s, job.Job{Name: "a", Schedule: "@every 20s"})
		time.Sleep(165 * time.Second)
		app.want(t, "a 20s", "a 40s", "a 2m15s", "a 2m20s", "a 2m40s")
	})
}

func TestChangesTakeEffectAtOnce(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, d job.Driver) {
		app := newRecorder(nil)
		jobtest.Start(t, s, app)
		api := jobtest.NewStore(t, d) // of another replica
		schedule(t, api, job.Job{Name: "moved", DueTime: "1h"})
		schedule(t, api, job.Job{Name: "deleted", DueTime: "30m"})
		schedule(t, api, job.Job{Name: "begun", Schedule: "@every 1m"})
		time.Sleep(90 * time.Second)
		if err := api.Schedule(t.Context(), &job.Job{Name: "moved", DueTime: "1m"}, true); err != nil {
			t.Fatal(err)
		}
		if err := api.Schedule(t.Context(), &job.Job{Name: "begun", Schedule: "@every 1m", Repeats: times(1)}, true); err != nil {
			t.Fatal(err)
		}
		if err := api.Delete(t.Context(), "deleted"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		got := slices.Sorted(slices.Values(app.all()))
		if want := []string{"begun 1m0s", "begun 2m30s", "moved 2m30s"}; !slices.Equal(got, want) {
			t.Errorf("the application was called at %q, want %q", got, want)
		}
	})
}

func TestJobScheduledAnewWhileItIsTriggeredIsTheNewOne(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
		app := newRecorder(func(ctx context.Context, nth int, e job.Event) error {
			if nth > 1 {
				return nil
			}
			return s.Schedule(ctx, &job.Job{Name: e.Name, DueTime: "1m"}, true)
		})
		jobtest.Start(t, s, app)
		schedule(t, s, job.Job{Name: "a", DueTime: "1s"})
		time.Sleep(time.Hour)
		app.want(t, "a 1s", "a 1m1s")
	})
}

func TestAJobCanBeWithdrawnUnlessItIsBeingTriggered(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
		withdraw := func(name string, failed uint32, ok bool) {
			t.Helper()
			if f, gone, err := s.Withdraw(t.Context(), name); f != failed || gone != ok || err != nil {
				t.Errorf("Withdraw %q = %d, %v, %v; want %d, %v", name, f, gone, err, failed, ok)
			}
		}
		held := make(chan struct{})
		app := newRecorder(func(_ context.Context, _ int, e job.Event) error {
			if e.Name == "held" {
				<-held
			}
			return errors.New("no")
		})
		jobtest.Start(t, s, app)
		schedule(t, s, job.Job{Name: "early", DueTime: "1h"})
		schedule(t, s, job.Job{Name: "held", DueTime: "1s", FailurePolicy: &job.FailurePolicy{Drop: true}})
		schedule(t, s, job.Job{Name: "failing", DueTime: "0s", FailurePolicy: &job.FailurePolicy{Interval: 10 * time.Second}})
		withdraw("early", 0, true)
		withdraw("early", 0, false)
		withdraw("none", 0, false)
		time.Sleep(15 * time.Second) // two tries
		withdraw("held", 0, false)
		withdraw("failing", 2, true)
		close(held)
		time.Sleep(2 * time.Hour)
		app.want(t, "failing 0s", "held 1s", "failing 10s")
		if _, _, err := s.Withdraw(t.Context(), ""); fault.ReasonOf(err) != job.ReasonNameEmpty {
			t.Errorf("Withdraw without a name: %v", err)
		}
	})
}

func TestClockThatIsSetForwardCountsAsTimeThatWasMissed(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
		var ahead atomic.Int64
		s.SetClock(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())).Round(0) })
		app := newRecorder(nil)
		jobtest.Start(t, s, app)
		schedule(t, s, job.Job{Name: "hourly", Schedule: "CRON_TZ=UTC @hourly"})
		time.Sleep(time.Minute + time.Second)
		ahead.Store(int64(5 * time.Hour))
		time.Sleep(40 * time.Minute) // the clock shows 5:41
		if n := app.count(); n != 1 {
			t.Errorf("the application was called at %q, want once", app.all())
		}
		time.Sleep(20 * time.Minute)
		if n := app.count(); n != 2 || app.all()[1] != "hourly 1h0m0s" {
			t.Errorf("the application was called at %q, want twice", app.all())
		}
	})
}

func TestClockThatIsSetBackDoesNotStopFixedDistances(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
		var ahead atomic.Int64
		ahead.Store(int64(24 * time.Hour))
		s.SetClock(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())).Round(0) })
		app := newRecorder(nil)
		jobtest.Start(t, s, app)
		schedule(t, s, job.Job{Name: "every", Schedule: "@every 1m"})
		time.Sleep(90 * time.Second)
		ahead.Store(0)
		time.Sleep(10 * time.Minute)
		if n := app.count(); n < 10 || n > 12 {
			t.Errorf("the application was called %d times in 11.5 minutes: %q", n, app.all())
		}
	})
}
