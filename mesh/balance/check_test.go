package balance

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/mesh/discovery"
)

// patient answers health checks: endpoints whose address is in sick fail.
type patient struct {
	mu     sync.Mutex
	sick   map[string]bool
	asked  map[string][]time.Time
	events []Event
}

func (p *patient) set(address string, sick bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sick[address] = sick
}

func (p *patient) probe(ctx context.Context, _ discovery.Service, ep discovery.Endpoint, c *Check) error {
	p.mu.Lock()
	p.asked[ep.Address] = append(p.asked[ep.Address], time.Now())
	sick := p.sick[ep.Address]
	p.mu.Unlock()
	if sick {
		return errors.New("status 503, want 200 to 299")
	}
	return ctx.Err()
}

func (p *patient) kinds() []EventKind {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []EventKind
	for _, e := range p.events {
		out = append(out, e.Kind)
	}
	return out
}

// checkedTable runs a table with one application of n endpoints until the test is
// over.
func checkedTable(t *testing.T, n int, check Check) (*patient, *Table, *Cluster) {
	t.Helper()
	p := &patient{sick: map[string]bool{}, asked: map[string][]time.Time{}}
	table := NewTable(TableOptions{Probe: p.probe, Notify: func(e Event) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.events = append(p.events, e)
	}})
	policy := DefaultPolicy()
	policy.Algorithm, policy.Checks = RoundRobin, []Check{check}
	shop := discovery.Service{Namespace: "default", AppID: "shop"}
	table.Configure(&Policies{Of: map[discovery.Service]*Policy{shop: &policy}})
	c := table.Cluster(shop)
	c.Update(endpoints(n, nil))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := table.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return p, table, c
}

var everySecond = Check{Kind: CheckHTTP, Interval: time.Second, Unhealthy: 5 * time.Second, Timeout: time.Second, FailAfter: 3, PassAfter: 2}

func TestAnEndpointThatFailsItsChecksIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, c := checkedTable(t, 3, everySecond)
		time.Sleep(10 * time.Second)
		p.set(address(1), true)
		time.Sleep(2 * time.Second)
		if n := counts(t, c, 30)[address(1)]; n != 10 {
			t.Errorf("after two failures it gets %d of 30, want 10: three are needed", n)
		}
		time.Sleep(2 * time.Second)
		if n := counts(t, c, 30)[address(1)]; n != 0 {
			t.Errorf("after three failures it gets %d requests", n)
		}
		if s := c.Hosts()[1]; s.InUse || s.Reason != "fails its health checks: status 503, want 200 to 299" {
			t.Errorf("its status: %+v", s)
		}
		p.set(address(1), false)
		time.Sleep(6 * time.Second)
		if n := counts(t, c, 30)[address(1)]; n != 0 {
			t.Errorf("after one success it gets %d requests: two are needed", n)
		}
		time.Sleep(6 * time.Second)
		if n := counts(t, c, 30)[address(1)]; n != 10 {
			t.Errorf("after two successes it gets %d of 30, want 10", n)
		}
		if k := p.kinds(); len(k) != 2 || k[0] != CheckFailed || k[1] != CheckPassed {
			t.Errorf("events %v", k)
		}
	})
}

func TestTheFirstCheckDecidesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, c := checkedTable(t, 3, everySecond)
		time.Sleep(time.Second)
		p.set(address(3), true)
		c.Update(endpoints(4, nil))
		time.Sleep(time.Second)
		if n := counts(t, c, 30)[address(3)]; n != 0 {
			t.Errorf("a new endpoint that is not well gets %d requests", n)
		}
		c.Update(endpoints(3, nil))
		time.Sleep(time.Second)
		p.mu.Lock()
		n := len(p.asked[address(3)])
		p.mu.Unlock()
		time.Sleep(20 * time.Second)
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.asked[address(3)]) != n {
			t.Error("an endpoint that has left is still checked")
		}
	})
}

func TestChecksAreSpreadInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		check := everySecond
		check.Jitter = 0.5
		p, table, _ := checkedTable(t, 1, check)
		time.Sleep(100 * time.Second)
		p.mu.Lock()
		asked := p.asked[address(0)]
		p.mu.Unlock()
		if len(asked) < 80 || len(asked) > 125 {
			t.Errorf("checked %d times in 100 s, want about 100", len(asked))
		}
		for i := 1; i < len(asked); i++ {
			if d := asked[i].Sub(asked[i-1]); d < 500*time.Millisecond || d > 1500*time.Millisecond {
				t.Fatalf("%s between two checks, want 0.5 to 1.5 s", d)
			}
		}
		table.Configure(&Policies{})
		time.Sleep(time.Second)
		p.mu.Lock()
		n := len(p.asked[address(0)])
		p.mu.Unlock()
		time.Sleep(20 * time.Second)
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.asked[address(0)]) != n {
			t.Error("checks go on without a policy that wants them")
		}
	})
}
