package job_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/job/jobtest"
)

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
