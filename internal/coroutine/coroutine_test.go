package coroutine_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/internal/coroutine"
)

type task func(*coroutine.Coroutine)

func (t task) Do(c *coroutine.Coroutine) { t(c) }

func TestATaskRunsInPartsBetweenThoseWhoRunIt(t *testing.T) {
	var p coroutine.Pool
	defer p.Close()
	var b coroutine.Batch
	var got []string
	var co *coroutine.Coroutine
	b.Start(&p, task(func(c *coroutine.Coroutine) {
		co = c
		got = append(got, "first part")
		c.Suspend()
		got = append(got, "second part")
	}))
	got = append(got, "between")
	b.Resume(co)
	got = append(got, "after")
	b.Resume(co) // it has ended: nothing happens
	if want := []string{"first part", "between", "second part", "after"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAResumeThatComesBeforeSuspendIsNotLost(t *testing.T) {
	var p coroutine.Pool
	defer p.Close()
	var b coroutine.Batch
	ended := false
	b.Start(&p, task(func(c *coroutine.Coroutine) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			var other coroutine.Batch
			other.Resume(c)
		}()
		<-done
		c.Suspend()
		ended = true
	}))
	if !ended {
		t.Error("the task still waits")
	}
}

func TestADetachedTaskMayWait(t *testing.T) {
	var p coroutine.Pool
	defer p.Close()
	var b coroutine.Batch
	release, ended := make(chan struct{}), make(chan bool)
	b.Start(&p, task(func(c *coroutine.Coroutine) {
		before := c.Attached() && c.Batch() == &b
		c.Detach()
		c.Detach() // once is enough
		<-release
		ended <- before && !c.Attached() && c.Batch() == nil
	}))
	close(release) // it is reached although the task waits for it
	if !<-ended {
		t.Error("the coroutine does not know whether it is attached")
	}
}

func TestWakeGoesOnFromAnywhere(t *testing.T) {
	var p coroutine.Pool
	defer p.Close()
	var b coroutine.Batch
	var mu sync.Mutex
	ended := make(chan struct{})
	var co *coroutine.Coroutine
	b.Start(&p, task(func(c *coroutine.Coroutine) {
		co = c
		c.Suspend()
		mu.Lock() // held by who wakes
		defer mu.Unlock()
		close(ended)
	}))
	mu.Lock()
	co.Wake()
	mu.Unlock()
	<-ended
	co.Wake() // too late, and no harm
}

func TestNoCoroutineIsOneThatIsDetached(t *testing.T) {
	var none *coroutine.Coroutine
	none.Detach()
	none.Wake()
	coroutine.Detach(t.Context())
	if none.Attached() || none.Batch() != nil || coroutine.From(t.Context()) != nil {
		t.Error("there is a coroutine where there is none")
	}
}

func TestAContextKnowsItsCoroutine(t *testing.T) {
	var p coroutine.Pool
	defer p.Close()
	var b coroutine.Batch
	b.Start(&p, task(func(c *coroutine.Coroutine) {
		ctx := context.WithValue(context.Background(), coroutine.Key(), c)
		if coroutine.From(ctx) != c {
			t.Error("the context belongs to another coroutine")
		}
	}))
}

type reused int

func (n *reused) Reuse() { *n++ }

func TestWhatATaskHasUsedIsUsedAgainUnlessItWasDetached(t *testing.T) {
	var p coroutine.Pool
	defer p.Close()
	var b coroutine.Batch
	var whole, detached, late reused
	var co *coroutine.Coroutine
	b.Start(&p, task(func(c *coroutine.Coroutine) {
		co = c
		c.Used(&whole)
		c.Suspend()
	}))
	if whole != 0 {
		t.Error("used again while the task waits")
	}
	b.Resume(co)
	ended := make(chan struct{})
	b.Start(&p, task(func(c *coroutine.Coroutine) {
		defer close(ended)
		c.Used(&detached)
		c.Detach()
		c.Used(&late)
	}))
	<-ended
	b.Start(&p, task(func(*coroutine.Coroutine) {})) // it has nothing of those before
	p.Close()
	if whole != 1 || detached != 0 || late != 0 {
		t.Errorf("told %d, %d and %d times", whole, detached, late)
	}
	(*coroutine.Coroutine)(nil).Used(&late)
}

type counted int

func (n *counted) FlushBatch() { *n++ }

func TestABatchFlushesEachOnceAtItsEnd(t *testing.T) {
	var b coroutine.Batch
	var x, y counted
	b.Later(&x)
	b.Later(&y)
	b.Later(&x)
	if x != 0 || y != 0 {
		t.Fatal("flushed before the end")
	}
	b.Flush()
	b.Flush()
	if x != 1 || y != 1 {
		t.Errorf("flushed %d and %d times", x, y)
	}
}

func TestIdleCoroutinesAreLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p coroutine.Pool
		var b coroutine.Batch
		var all []*coroutine.Coroutine
		for range 10 {
			b.Start(&p, task(func(c *coroutine.Coroutine) {
				all = append(all, c)
				c.Suspend()
			}))
		}
		for _, c := range all {
			b.Resume(c)
		}
		time.Sleep(time.Minute) // the bubble ends only when the pool has let go of all
		p.Close()
	})
}

// Many goroutines resume, wake and detach: each task gets through all of its
// parts, and no two run at a time.
func TestTasksGetThroughWhoeverResumesThem(t *testing.T) {
	const tasks, parts, others = 50, 100, 4
	var p coroutine.Pool
	defer p.Close()
	var cos [tasks]atomic.Pointer[coroutine.Coroutine]
	var ended sync.WaitGroup
	stop := make(chan struct{})
	var resumers sync.WaitGroup
	for n := range others {
		resumers.Go(func() {
			var b coroutine.Batch
			for i := n; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if c := cos[i%tasks].Load(); c == nil {
					continue
				} else if i%7 == 0 {
					c.Wake()
				} else {
					b.Resume(c)
				}
			}
		})
	}
	var b coroutine.Batch
	for i := range tasks {
		ended.Add(1)
		b.Start(&p, task(func(c *coroutine.Coroutine) {
			defer ended.Done()
			cos[i].Store(c)
			sum := 0 // the race detector sees who else touches it
			for range parts {
				if c.Attached() {
					c.Suspend()
				}
				sum++
			}
			if i%5 == 0 {
				c.Detach()
			}
			if sum != parts {
				t.Errorf("%d parts of %d", sum, parts)
			}
		}))
	}
	ended.Wait()
	close(stop)
	resumers.Wait()
}

func BenchmarkSuspendAndResume(b *testing.B) {
	var p coroutine.Pool
	defer p.Close()
	var batch coroutine.Batch
	var co *coroutine.Coroutine
	stop := false
	batch.Start(&p, task(func(c *coroutine.Coroutine) {
		for co = c; !stop; {
			c.Suspend()
		}
	}))
	b.ReportAllocs()
	for b.Loop() {
		batch.Resume(co)
	}
	stop = true
	batch.Resume(co)
}
