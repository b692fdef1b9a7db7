package memory

import (
	"fmt"
	"testing"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/job/jobtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

func openJobs(t testing.TB, maxEntries int) *Jobs {
	t.Helper()
	d, err := OpenJobs(t.Context(), JobsConfig{MaxEntries: maxEntries}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestJobs(t *testing.T) {
	jobtest.Run(t, func(t testing.TB) job.Driver { return openJobs(t, 10_000) })
}

func TestJobsAreBounded(t *testing.T) {
	d := openJobs(t, 3)
	key := func(name string) job.Key { return job.Key{Scope: job.Scope{AppID: "shop"}, Name: name} }
	for i := range 3 {
		if _, err := d.Put(t.Context(), key(fmt.Sprint(i)), nil, job.Absent()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Put(t.Context(), key("one more"), nil, job.Anything()); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("error %v, want resource_exhausted", err)
	}
	if _, err := d.Put(t.Context(), key("1"), nil, job.Anything()); err != nil {
		t.Errorf("an entry that exists cannot be changed: %v", err)
	}
}
