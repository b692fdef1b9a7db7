package jobtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/faultnet"
)

// OpenThrough returns two drivers on one store without entries, and the proxy
// between the first of them and the store. Use t.Cleanup for what must be
// undone. The tests run in parallel.
type OpenThrough func(t testing.TB) (through, direct job.Driver, proxy *faultnet.Proxy)

// RunNetwork proves that a driver that uses the network names its failures,
// ends when it is told to, and recovers; and that jobs are triggered, once, when
// the store was out of reach.
func RunNetwork(t *testing.T, open OpenThrough) {
	fastloop.Skip(t, "waits for networks to fail and heal")
	for _, c := range []struct {
		name  string
		fault func(*faultnet.Proxy)
	}{
		{"Refused", (*faultnet.Proxy).Refuse},
		{"Reset", (*faultnet.Proxy).Reset},
		{"Stalled", func(p *faultnet.Proxy) { p.Stall() }},
		{"AnswersLost", func(p *faultnet.Proxy) { p.Blackhole(faultnet.Downstream) }},
		{"EverythingLost", func(p *faultnet.Proxy) { p.Blackhole() }},
		{"CutInAnAnswer", func(p *faultnet.Proxy) { p.CutAfter(faultnet.Downstream, 3) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			through, direct, proxy := open(t)
			outage(t, through, direct, func() { c.fault(proxy) }, proxy.Heal)
		})
	}
}

// outage breaks the way of one replica to the store while it is at a trigger
// and others are due.
func outage(t *testing.T, through, direct job.Driver, breakIt, heal func()) {
	far, near, release := NewStore(t, through), NewStore(t, direct), make(chan struct{})
	app := &App{Answer: func(ctx context.Context, e job.Event) error {
		if e.Name == "running" {
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}}
	Start(t, far, app)
	schedule := func(name, due string) {
		t.Helper()
		if err := near.Schedule(t.Context(), &job.Job{Name: name, DueTime: due}, false); err != nil {
			t.Fatal(err)
		}
	}
	schedule("running", "0s")
	schedule("meanwhile", "2s")
	schedule("deleted", "1h")
	app.Await(t, 1)
	breakIt()
	for what, call := range map[string]func(context.Context) error{
		"Get": func(ctx context.Context) error { _, err := through.Get(ctx, key("running")); return err },
		"Put": func(ctx context.Context) error {
			_, err := through.Put(ctx, key("/x"), nil, job.Anything())
			return err
		},
		"Delete": func(ctx context.Context) error { return through.Delete(ctx, key("/x"), job.Anything()) },
	} {
		failsInTime(t, what, call)
	}
	close(release)
	schedule("new", "0s")
	if err := near.Delete(t.Context(), "deleted"); err != nil {
		t.Error(err)
	}
	heal()
	app.Await(t, 3)
	awaitNone(t, near)
	counts, _ := app.Counts()
	for _, name := range []string{"running", "meanwhile", "new"} {
		if counts[name] != 1 {
			t.Errorf("%s was triggered %d times", name, counts[name])
		}
	}
	put(t, direct, key("/x"), "", job.Anything())
	wait := time.Now().Add(patience)
	for _, err := through.Get(t.Context(), key("/x")); err != nil; _, err = through.Get(t.Context(), key("/x")) {
		if time.Now().After(wait) {
			t.Fatal(fmt.Errorf("long after the fault: %w", err))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// failsInTime calls fn with a second to go.
func failsInTime(t *testing.T, what string, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begun := time.Now()
	err := fn(ctx)
	if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("%s during the fault: error %v, want unavailable or deadline_exceeded", what, err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("%s took %v with a deadline of 1 s", what, took)
	}
}
