package nats

import (
	"testing"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/job/jobtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

func TestJobs(t *testing.T) {
	for _, k := range engineKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			e := k.start(t)
			jobtest.Run(t, func(t testing.TB) job.Driver { return openJobs(t, e, newBucket()) })
		})
	}
}

func TestJobsOnABadNetwork(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	direct := runEngine(t, engine.Options{URL: server.URL()})
	jobtest.RunNetwork(t, func(t testing.TB) (job.Driver, job.Driver, *faultnet.Proxy) {
		proxy, bucket := faultnet.New(t, server.Addr()), newBucket()
		through := runEngine(t, engine.Options{URL: "nats://" + proxy.Addr()})
		return openJobs(t, through, bucket), openJobs(t, direct, bucket), proxy
	})
}

// Old servers keep the marks of deleted keys for ever, unless they are told to
// forget them.
func TestMarksOfDeletedJobsAreForgotten(t *testing.T) {
	e := runEngine(t, engine.Options{URL: testserver.NATS(t, testserver.NATSOptions{Installed: true}).URL()})
	j := openJobs(t, e, newBucket())
	key := func(name string) job.Key { return job.Key{Scope: job.Scope{Kind: "job", AppID: "shop"}, Name: name} }
	for _, name := range []string{"stays", "goes"} {
		if _, err := j.Put(t.Context(), key(name), nil, job.Absent()); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Delete(t.Context(), key("goes"), job.Anything()); err != nil {
		t.Fatal(err)
	}
	count := func() uint64 {
		t.Helper()
		st, err := j.bucket.KV().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Values()
	}
	if err := forgetDeletions(t.Context(), j.bucket, time.Hour); err != nil || count() != 2 {
		t.Errorf("%d messages are left of two, %v", count(), err)
	}
	if err := forgetDeletions(t.Context(), j.bucket, -1); err != nil || count() != 1 {
		t.Errorf("%d messages are left, %v; want the one that was not deleted", count(), err)
	}
	if _, err := j.Get(t.Context(), key("stays")); err != nil {
		t.Error(err)
	}
}

func openJobs(t testing.TB, e *engine.Engine, bucket string) *Jobs {
	t.Helper()
	j, err := OpenJobs(t.Context(), e, JobsConfig{Bucket: bucket}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return j
}
