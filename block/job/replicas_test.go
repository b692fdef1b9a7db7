package job_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/job/jobtest"
)

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
