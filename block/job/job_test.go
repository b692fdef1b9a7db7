package job_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/job/jobtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

func newDriver(t testing.TB) *memory.Jobs {
	t.Helper()
	d, err := memory.OpenJobs(t.Context(), memory.JobsConfig{MaxEntries: 100_000}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func schedule(t testing.TB, s *job.Store, j job.Job) {
	t.Helper()
	if err := s.Schedule(t.Context(), &j, false); err != nil {
		t.Fatalf("Schedule %q: %v", j.Name, err)
	}
}

func names(t testing.TB, s *job.Store) []string {
	t.Helper()
	jobs, err := s.List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	out := []string{}
	for _, j := range jobs {
		out = append(out, j.Name)
	}
	return out
}

func times(n uint32) *uint32 { return &n }

func TestJobThatCanNeverWorkIsRefused(t *testing.T) {
	s := jobtest.NewStore(t, newDriver(t))
	for _, c := range []struct {
		job    job.Job
		reason fault.Reason
		text   string
	}{
		{job.Job{DueTime: "1s"}, job.ReasonNameEmpty, "the name of the job is empty"},
		{job.Job{Name: "a/b", DueTime: "1s"}, job.ReasonName, `has '/' at byte 1`},
		{job.Job{Name: `a\b`, DueTime: "1s"}, job.ReasonName, `at byte 1`},
		{job.Job{Name: "a#b", DueTime: "1s"}, job.ReasonName, `'#'`},
		{job.Job{Name: "a?b", DueTime: "1s"}, job.ReasonName, `'?'`},
		{job.Job{Name: "a%2Fb", DueTime: "1s"}, job.ReasonName, `'%'`},
		{job.Job{Name: "a\x00b", DueTime: "1s"}, job.ReasonName, `'\x00'`},
		{job.Job{Name: "a\nb", DueTime: "1s"}, job.ReasonName, `'\n'`},
		{job.Job{Name: "..", DueTime: "1s"}, job.ReasonName, `must not be ".."`},
		{job.Job{Name: "\xff", DueTime: "1s"}, job.ReasonName, "not UTF-8"},
		{job.Job{Name: strings.Repeat("a", 600), DueTime: "1s"}, job.ReasonName, "has 600 bytes; the most is 512"},
		{job.Job{Name: "a"}, job.ReasonScheduleEmpty, "neither a schedule nor a dueTime"},
		{job.Job{Name: "a", Schedule: "often"}, job.ReasonSchedule, "schedule: wants six fields"},
		{job.Job{Name: "a", Schedule: "0 0 0 30 2 *"}, job.ReasonSchedule, "names a time that never comes"},
		{job.Job{Name: "a", DueTime: "soon"}, job.ReasonDueTime, `dueTime: wants a time (RFC 3339, "2030-01-02T15:04:05Z") or a duration`},
		{job.Job{Name: "a", DueTime: "R3/PT1S"}, job.ReasonDueTime, "dueTime"},
		{job.Job{Name: "a", DueTime: "1s", TTL: "1h"}, job.ReasonTTL, "ends with its one trigger"},
		{job.Job{Name: "a", Schedule: "@hourly", TTL: "later"}, job.ReasonTTL, "ttl: wants"},
		{job.Job{Name: "a", Schedule: "@hourly", DueTime: "1h", TTL: "-1s"}, job.ReasonTTL, "before it is due"},
		{job.Job{Name: "a", Schedule: "@hourly", Repeats: times(0)}, job.ReasonRepeats, "cannot be triggered 0 times"},
		{job.Job{Name: "a", DueTime: "1s", Repeats: times(2)}, job.ReasonRepeats, "needs a schedule to be triggered 2 times"},
		{job.Job{Name: "a", DueTime: "1s", FailurePolicy: &job.FailurePolicy{Interval: -1}}, job.ReasonFailurePolicy, "negative"},
	} {
		err := s.Schedule(t.Context(), &c.job, true)
		if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != c.reason || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: error %v, want invalid_argument, %s and %q", c.job, err, c.reason, c.text)
		}
	}
	for what, err := range map[string]error{
		"Get": func() error { _, err := s.Get(t.Context(), ""); return err }(), "Delete": s.Delete(t.Context(), ""),
	} {
		if fault.ReasonOf(err) != job.ReasonNameEmpty {
			t.Errorf("%s of no name: %v", what, err)
		}
	}
	if got := names(t, s); len(got) != 0 {
		t.Errorf("there are jobs %v", got)
	}
}

func TestGetReturnsWhatWasScheduled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := jobtest.NewStore(t, newDriver(t))
		full := job.Job{
			Name: "my|job@name.", Schedule: "@every 1m", DueTime: "1000s", TTL: "2h", Repeats: times(123),
			Data:          &job.Data{TypeURL: "type.googleapis.com/google.protobuf.BytesValue", Value: []byte("a\n\x00b")},
			FailurePolicy: &job.FailurePolicy{Interval: 3 * time.Second, MaxRetries: times(5)},
		}
		schedule(t, s, full)
		full.Due = time.Now().Add(1000 * time.Second).UTC()
		if got, err := s.Get(t.Context(), full.Name); err != nil || !reflect.DeepEqual(got, full) {
			t.Errorf("Get = %+v, %v; want %+v", got, err, full)
		}
		schedule(t, s, job.Job{Name: "short", DueTime: "2100-01-01T00:00:00Z"})
		want := job.Job{
			Name: "short", DueTime: "2100-01-01T00:00:00Z", Due: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
			FailurePolicy: &job.FailurePolicy{Interval: time.Second, MaxRetries: times(3)},
		}
		if got, err := s.Get(t.Context(), "short"); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Get = %+v, %v; want %+v", got, err, want)
		}
		schedule(t, s, job.Job{Name: "drop", DueTime: "1h", Data: &job.Data{}, FailurePolicy: &job.FailurePolicy{Drop: true}})
		if got, err := s.Get(t.Context(), "drop"); err != nil || !got.FailurePolicy.Drop || got.Data == nil || len(got.Data.Value) != 0 {
			t.Errorf("Get = %+v, %v", got, err)
		}
	})
}

func TestMissingJobIsNotFound(t *testing.T) {
	s := jobtest.NewStore(t, newDriver(t))
	_, err := s.Get(t.Context(), "a")
	if !fault.Is(err, fault.NotFound) || fault.ReasonOf(err) != job.ReasonNotFound || err.Error() != "job not found: a" {
		t.Errorf("Get: %v", err)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Errorf("Delete: %v", err)
	}
}

func TestJobIsReplacedOnlyIfThatIsAskedFor(t *testing.T) {
	s := jobtest.NewStore(t, newDriver(t))
	schedule(t, s, job.Job{Name: "a", DueTime: "1h"})
	err := s.Schedule(t.Context(), &job.Job{Name: "a", DueTime: "2h"}, false)
	if !fault.Is(err, fault.AlreadyExists) || fault.ReasonOf(err) != job.ReasonExists || err.Error() != `job already exists: "a"` {
		t.Errorf("error %v, want already_exists", err)
	}
	if err := s.Schedule(t.Context(), &job.Job{Name: "a", DueTime: "3h"}, true); err != nil {
		t.Error(err)
	}
	if j, err := s.Get(t.Context(), "a"); err != nil || j.DueTime != "3h" {
		t.Errorf("Get = %+v, %v", j, err)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	schedule(t, s, job.Job{Name: "a", DueTime: "4h"})
}

// forgetful is a driver that stores what it is given and says that it does not
// know.
type forgetful struct {
	job.Driver
	times int
}

func (f *forgetful) Put(ctx context.Context, k job.Key, value []byte, expect job.Expect) (uint64, error) {
	rev, err := f.Driver.Put(ctx, k, value, expect)
	if f.times++; f.times == 1 && err == nil {
		return 0, fault.New(fault.Unavailable, "the answer was lost")
	}
	return rev, err
}

func TestScheduleThatIsRepeatedAfterALostAnswerSucceeds(t *testing.T) {
	s := job.New(component.Opened[job.Driver]("jobs", &forgetful{Driver: newDriver(t)}), job.Options{
		AppID: "shop", Chains: chains{policy.Retry{Max: 3}.Policy},
	})
	schedule(t, s, job.Job{Name: "a", DueTime: "1h"})
	if got := names(t, s); !slices.Equal(got, []string{"a"}) {
		t.Errorf("there are jobs %v", got)
	}
}

// chains is a Chains with the same policies for everything.
type chains policy.Chain

func (c chains) Component(string, string, bool) policy.Chain { return policy.Chain(c) }
func (c chains) App(string) policy.Chain                     { return nil }

func TestJobsOfApplicationsAreApart(t *testing.T) {
	d := newDriver(t)
	open := func(namespace, app string) *job.Store {
		return job.New(component.Opened[job.Driver]("jobs", d), job.Options{Namespace: namespace, AppID: app, Chains: policy.None{}})
	}
	shop, bar, prod := open("default", "shop"), open("default", "bar"), open("prod", "shop")
	for i := range 3 {
		schedule(t, shop, job.Job{Name: fmt.Sprint("abc-", i), DueTime: "1h"})
		schedule(t, shop, job.Job{Name: fmt.Sprint("hello-", i), DueTime: "1h"})
		schedule(t, bar, job.Job{Name: fmt.Sprint("abc-", i), DueTime: "1h"})
	}
	if got := names(t, prod); len(got) != 0 {
		t.Errorf("the other namespace has %v", got)
	}
	if err := shop.DeletePrefix(t.Context(), "abc-"); err != nil {
		t.Error(err)
	}
	if got := names(t, shop); !slices.Equal(got, []string{"hello-0", "hello-1", "hello-2"}) {
		t.Errorf("after the deletion by prefix there are %v", got)
	}
	if err := shop.DeletePrefix(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if got := append(names(t, shop), names(t, bar)...); !slices.Equal(got, []string{"abc-0", "abc-1", "abc-2"}) {
		t.Errorf("after the deletion of all there are %v", got)
	}
}

func TestJobThatHasEndedDoesNotExist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := jobtest.NewStore(t, newDriver(t))
		schedule(t, s, job.Job{Name: "a", Schedule: "@every 1h", TTL: "30m"})
		time.Sleep(29 * time.Minute)
		if _, err := s.Get(t.Context(), "a"); err != nil {
			t.Errorf("Get: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := s.Get(t.Context(), "a"); !fault.Is(err, fault.NotFound) {
			t.Errorf("Get: %v, want not_found", err)
		}
		if got := names(t, s); len(got) != 0 {
			t.Errorf("List has %v", got)
		}
		schedule(t, s, job.Job{Name: "a", Schedule: "@every 1h"})
	})
}

func TestPoliciesSeeCallsAndTriggers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var seen []string
		spy := func(op policy.Op, next policy.Handler) policy.Handler {
			return func(ctx context.Context, c *policy.Call) error {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, fmt.Sprint(op.Block, " ", op.Component, " ", op.Name, " ", op.Inbound, " ", c.Key, " ", c.Idempotent))
				return next(ctx, c)
			}
		}
		s := job.New(component.Opened[job.Driver]("jobs", newDriver(t)), job.Options{AppID: "shop", Chains: chains{spy}})
		schedule(t, s, job.Job{Name: "a", DueTime: "1s"})
		jobtest.Start(t, s, &jobtest.App{})
		time.Sleep(2 * time.Second)
		_ = names(t, s)
		mu.Lock()
		defer mu.Unlock()
		want := []string{"jobs jobs schedule false a true", "jobs jobs trigger true a true", "jobs jobs list false  true"}
		if !slices.Equal(seen, want) {
			t.Errorf("policies saw %q, want %q", seen, want)
		}
	})
}
