package job_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/job/jobtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// recorder is an application that notes when it is called, from the start of
// the test on, and answers as answer says.
type recorder struct {
	began  time.Time
	answer func(ctx context.Context, nth int, e job.Event) error

	mu    sync.Mutex
	calls []string
}

func newRecorder(answer func(ctx context.Context, nth int, e job.Event) error) *recorder {
	return &recorder{began: time.Now(), answer: answer}
}

func (r *recorder) OnJobEvent(ctx context.Context, e job.Event) error {
	r.mu.Lock()
	r.calls = append(r.calls, fmt.Sprint(e.Name, " ", time.Since(r.began).Round(time.Millisecond)))
	nth := len(r.calls)
	r.mu.Unlock()
	if r.answer == nil {
		return nil
	}
	return r.answer(ctx, nth, e)
}

func (r *recorder) want(t *testing.T, calls ...string) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.calls, calls) {
		t.Errorf("the application was called at %q, want %q", r.calls, calls)
	}
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.calls)
}

func (r *recorder) all() []string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = nil
}

// bench is a store whose jobs run, in a test with a clock of its own.
func bench(t *testing.T, test func(t *testing.T, s *job.Store, d job.Driver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := newDriver(t)
		test(t, jobtest.NewStore(t, d), d)
	})
}

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

func TestReplicasShareTheWork(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, d job.Driver) {
		const jobs, rounds = 40, 20
		var replicas []*recorder
		for range 3 {
			app := newRecorder(func(context.Context, int, job.Event) error { time.Sleep(10 * time.Millisecond); return nil })
			replicas = append(replicas, app)
			jobtest.Start(t, jobtest.NewStore(t, d), app)
		}
		for i := range jobs {
			schedule(t, s, job.Job{Name: fmt.Sprint("j", i), Schedule: "@every 1m"})
		}
		time.Sleep(rounds*time.Minute + 30*time.Second)
		total := 0
		for i, app := range replicas {
			n := app.count()
			if total += n; n < jobs*rounds/20 { // who is quicker is chance, who takes part is not
				t.Errorf("replica %d had %d of %d triggers", i, n, jobs*rounds)
			}
		}
		if total != jobs*rounds {
			t.Errorf("there were %d triggers, want %d", total, jobs*rounds)
		}
	})
}

func TestTriggersThatAreCutOffAreTakenOverAtOnce(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, d job.Driver) {
		hanging := newRecorder(func(ctx context.Context, _ int, _ job.Event) error { <-ctx.Done(); return ctx.Err() })
		stop := jobtest.Start(t, s, hanging)
		schedule(t, s, job.Job{Name: "a", DueTime: "1s"})
		time.Sleep(2 * time.Second)
		heir := newRecorder(nil)
		jobtest.Start(t, jobtest.NewStore(t, d), heir)
		stop() // takes the grace period
		synctest.Wait()
		heir.want(t, "a 5s")
	})
}

func TestTriggersUnderWayEndInPeaceWhenRunStops(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, d job.Driver) {
		slow := newRecorder(func(context.Context, int, job.Event) error { time.Sleep(4 * time.Second); return nil })
		stop := jobtest.Start(t, s, slow)
		schedule(t, s, job.Job{Name: "a", DueTime: "1s"})
		schedule(t, s, job.Job{Name: "b", DueTime: "3s"})
		time.Sleep(2 * time.Second)
		stop()
		slow.want(t, "a 1s")
		if got := names(t, s); !slices.Equal(got, []string{"b"}) {
			t.Errorf("there are jobs %v", got)
		}
	})
}

// counting counts the calls of a driver.
type counting struct {
	job.Driver
	calls atomic.Int64
}

func (c *counting) Get(ctx context.Context, k job.Key) (job.Entry, error) {
	c.calls.Add(1)
	return c.Driver.Get(ctx, k)
}

func (c *counting) Put(ctx context.Context, k job.Key, v []byte, e job.Expect) (uint64, error) {
	c.calls.Add(1)
	return c.Driver.Put(ctx, k, v, e)
}

func (c *counting) Delete(ctx context.Context, k job.Key, e job.Expect) error {
	c.calls.Add(1)
	return c.Driver.Delete(ctx, k, e)
}

func TestNothingIsAskedOfTheStoreWhileNothingIsDue(t *testing.T) {
	bench(t, func(t *testing.T, _ *job.Store, d job.Driver) {
		c := &counting{Driver: d}
		s := jobtest.NewStore(t, c)
		for range 3 {
			jobtest.Start(t, jobtest.NewStore(t, c), newRecorder(nil))
		}
		schedule(t, s, job.Job{Name: "soon", DueTime: "1s"})
		for i := range 100 {
			schedule(t, s, job.Job{Name: fmt.Sprint(i), DueTime: "48h"})
		}
		time.Sleep(time.Minute)
		before := c.calls.Load()
		time.Sleep(24 * time.Hour)
		if n := c.calls.Load() - before; n != 0 {
			t.Errorf("%d calls of the driver in a day without a trigger", n)
		}
	})
}

func TestManyJobsNeedFewGoroutines(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, _ job.Driver) {
		const jobs = 10_000
		most := atomic.Int64{}
		app := newRecorder(func(context.Context, int, job.Event) error {
			time.Sleep(time.Second)
			most.Store(max(most.Load(), int64(runtime.NumGoroutine())))
			return nil
		})
		jobtest.Start(t, s, app)
		for i := range jobs {
			schedule(t, s, job.Job{Name: fmt.Sprint(i), DueTime: "1m"})
		}
		synctest.Wait()
		if n := runtime.NumGoroutine(); n > 50 {
			t.Errorf("%d jobs that wait have %d goroutines", jobs, n)
		}
		time.Sleep(10 * time.Minute)
		if n := app.count(); n != jobs {
			t.Errorf("%d of %d jobs were triggered", n, jobs)
		}
		if most.Load() > 400 {
			t.Errorf("%d jobs that are due have %d goroutines", jobs, most.Load())
		}
	})
}

// failing is a driver whose calls fail while it is told to.
type failing struct {
	job.Driver
	broken atomic.Bool
	ended  chan struct{} // ends a Watch
}

func (f *failing) err() error { return fault.New(fault.Unavailable, "the store is away") }

func (f *failing) Get(ctx context.Context, k job.Key) (job.Entry, error) {
	if f.broken.Load() {
		return job.Entry{}, f.err()
	}
	return f.Driver.Get(ctx, k)
}

func (f *failing) Put(ctx context.Context, k job.Key, v []byte, e job.Expect) (uint64, error) {
	if f.broken.Load() {
		return 0, f.err()
	}
	return f.Driver.Put(ctx, k, v, e)
}

func (f *failing) Delete(ctx context.Context, k job.Key, e job.Expect) error {
	if f.broken.Load() {
		return f.err()
	}
	return f.Driver.Delete(ctx, k, e)
}

func (f *failing) Watch(ctx context.Context, s job.Scope, report func(job.Change)) error {
	if f.broken.Load() {
		return f.err()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-f.ended:
			cancel(f.err())
		case <-ctx.Done():
		}
	}()
	return f.Driver.Watch(ctx, s, report)
}

func TestOutageOfTheStoreIsWaitedOut(t *testing.T) {
	bench(t, func(t *testing.T, direct *job.Store, d job.Driver) {
		f := &failing{Driver: d, ended: make(chan struct{})}
		s := jobtest.NewStore(t, f)
		var release sync.WaitGroup
		release.Add(1)
		app := newRecorder(func(_ context.Context, nth int, _ job.Event) error {
			if nth == 1 {
				release.Wait()
			}
			return nil
		})
		jobtest.Start(t, s, app)
		schedule(t, direct, job.Job{Name: "running", DueTime: "1s"})
		schedule(t, direct, job.Job{Name: "due meanwhile", DueTime: "10s"})
		schedule(t, direct, job.Job{Name: "deleted meanwhile", DueTime: "3m"})
		time.Sleep(2 * time.Second)
		f.broken.Store(true)
		f.ended <- struct{}{}
		release.Done()
		time.Sleep(10 * time.Second)
		schedule(t, direct, job.Job{Name: "new", DueTime: "2s"})
		if err := direct.Delete(t.Context(), "deleted meanwhile"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		f.broken.Store(false)
		time.Sleep(10 * time.Minute)
		if got := names(t, direct); len(got) != 0 {
			t.Errorf("there are jobs %v", got)
		}
		counts := map[string]int{}
		for _, c := range app.all() {
			var name string
			_, _ = fmt.Sscan(c, &name)
			counts[name]++
		}
		if want := map[string]int{"running": 1, "due": 1, "new": 1}; !maps.Equal(counts, want) {
			t.Errorf("the application was called at %q, want each of three once", app.all())
		}
	})
}

func TestReplicasDoNotTakeEachOtherForDeadWhenTheStoreIsAway(t *testing.T) {
	for _, outage := range []time.Duration{2 * time.Second, 4 * time.Second, 5 * time.Second, 7 * time.Second, 30 * time.Second} {
		t.Run(outage.String(), func(t *testing.T) {
			bench(t, func(t *testing.T, direct *job.Store, d job.Driver) {
				app := newRecorder(func(context.Context, int, job.Event) error { time.Sleep(time.Minute); return nil })
				stores := []*failing{{Driver: d, ended: make(chan struct{})}, {Driver: d, ended: make(chan struct{})}}
				for _, f := range stores {
					jobtest.Start(t, jobtest.NewStore(t, f), app)
				}
				for i := range 10 {
					schedule(t, direct, job.Job{Name: fmt.Sprint(i), DueTime: fmt.Sprint(i, "s")})
				}
				time.Sleep(15 * time.Second)
				for _, f := range stores {
					f.broken.Store(true)
					f.ended <- struct{}{}
				}
				time.Sleep(outage)
				for _, f := range stores {
					f.broken.Store(false)
				}
				time.Sleep(10 * time.Minute)
				if n := app.count(); n != 10 {
					t.Errorf("there were %d triggers of 10 jobs: %q", n, app.all())
				}
			})
		})
	}
}

// inDoubt is a driver that does half of its writes without saying so.
type inDoubt struct {
	job.Driver
	n atomic.Int64
}

func (i *inDoubt) Put(ctx context.Context, k job.Key, v []byte, e job.Expect) (uint64, error) {
	rev, err := i.Driver.Put(ctx, k, v, e)
	if i.n.Add(1)%2 == 0 {
		return 0, fault.New(fault.Unavailable, "the answer was lost")
	}
	return rev, err
}

func (i *inDoubt) Delete(ctx context.Context, k job.Key, e job.Expect) error {
	err := i.Driver.Delete(ctx, k, e)
	if i.n.Add(1)%2 == 0 {
		return fault.New(fault.Unavailable, "the answer was lost")
	}
	return err
}

func TestLostAnswersOfTheStoreCauseNoDoubleTrigger(t *testing.T) {
	bench(t, func(t *testing.T, direct *job.Store, d job.Driver) {
		app := newRecorder(nil)
		for range 2 {
			jobtest.Start(t, jobtest.NewStore(t, &inDoubt{Driver: d}), app)
		}
		for i := range 20 {
			schedule(t, direct, job.Job{Name: fmt.Sprint(i), Schedule: "@every 1m", Repeats: times(3)})
		}
		time.Sleep(time.Hour)
		if n := app.count(); n != 60 {
			t.Errorf("there were %d triggers, want 60: %q", n, app.all())
		}
		if got := names(t, direct); len(got) != 0 {
			t.Errorf("there are jobs %v", got)
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

func TestWhatIsNoJobIsLeftAlone(t *testing.T) {
	bench(t, func(t *testing.T, s *job.Store, d job.Driver) {
		app := newRecorder(nil)
		jobtest.Start(t, s, app)
		scope := job.Scope{Kind: "job", Namespace: "default", AppID: "shop"}
		for i, value := range []string{"", "text", "{}", "[]", `{"id":"x"}`, `{"id":"x","due":"2000-01-01T00:00:00Z"`, "\x00\n"} {
			if _, err := d.Put(t.Context(), job.Key{Scope: scope, Name: fmt.Sprint(i)}, []byte(value), job.Anything()); err != nil {
				t.Fatal(err)
			}
		}
		schedule(t, s, job.Job{Name: "a", DueTime: "1s"})
		time.Sleep(time.Minute)
		app.want(t, "a 1s")
		if _, err := s.Get(t.Context(), "1"); !fault.Is(err, fault.Internal) {
			t.Errorf("Get of what is no job: %v", err)
		}
	})
}

func TestRunWaitsForAStoreThatIsNotOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, open := newDriver(t), atomic.Bool{}
		h := component.NewHandle[job.Driver](component.HandleOptions{Name: "jobs"}, func(context.Context) (job.Driver, error) {
			if !open.Load() {
				return nil, errors.New("connection refused")
			}
			return d, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = h.Run(ctx) })
		s := job.New(h, job.Options{AppID: "shop", Chains: policy.None{}, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		app := newRecorder(nil)
		stop := jobtest.Start(t, s, app)
		time.Sleep(time.Minute)
		open.Store(true)
		time.Sleep(time.Minute)
		schedule(t, s, job.Job{Name: "a", DueTime: "1s"})
		time.Sleep(time.Minute)
		app.want(t, "a 2m1s")
		stop()
		cancel()
		running.Wait()
	})
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"id":"x","due":"2000-01-01T00:00:00Z","schedule":"@every 1s","repeats":3,"began":"2000-01-01T00:00:01Z"}` + "\ndata"))
	f.Add([]byte(`{"id":"x","due":"2000-01-01T00:00:00Z","schedule":"CRON_TZ=UTC @daily","onFailure":{"interval":"1s","maxRetries":1},"attempts":1}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		synctest.Test(t, func(t *testing.T) {
			d := newDriver(t)
			s := jobtest.NewStore(t, d)
			k := job.Key{Scope: job.Scope{Kind: "job", Namespace: "default", AppID: "shop"}, Name: "a"}
			if _, err := d.Put(t.Context(), k, value, job.Anything()); err != nil {
				t.Fatal(err)
			}
			jobtest.Start(t, s, newRecorder(func(context.Context, int, job.Event) error { return errors.New("failed") }))
			time.Sleep(100 * time.Millisecond)
			_, _ = s.Get(t.Context(), "a")
			_, _ = s.List(t.Context())
		})
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
