package job_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
