package job_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/job/jobtest"
	"github.com/proa-io/proa/fault"
)

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
