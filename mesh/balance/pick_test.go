package balance

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
)

func TestRequestsAreSpreadByWeight(t *testing.T) {
	weights := []uint32{1, 2, 5}
	for _, a := range []Algorithm{PeakEWMA, RoundRobin, LeastRequest, Random, RingHash, Maglev} {
		t.Run(a.String(), func(t *testing.T) {
			list := endpoints(3, func(i int, ep *discovery.Endpoint) { ep.Weight = weights[i] })
			c := newCluster(list, func(p *Policy) { p.Algorithm = a; p.RingSize = 64 << 10 })
			// The same latency everywhere: PeakEWMA must not see that of the machine.
			for _, h := range c.hosts {
				h.latency.add(c.now(), float64(time.Hour))
			}
			got := counts(t, c, 16000)
			for i, w := range weights {
				within(t, address(i), got[address(i)], int(w)*2000, 0.1)
			}
		})
	}
}

func TestRoundRobinTakesEachInTurn(t *testing.T) {
	c := newCluster(endpoints(4, nil), func(p *Policy) { p.Algorithm = RoundRobin })
	for range 5 {
		seen := map[string]bool{}
		for range 4 {
			seen[pick(t, c, Request{})] = true
		}
		if len(seen) != 4 {
			t.Fatalf("four picks met %d endpoints, want each once", len(seen))
		}
	}
}

func TestWeightedRoundRobinSpreadsTurnsEvenly(t *testing.T) {
	order := newOrder([]uint32{5, 1, 1})
	if len(order) != 7 {
		t.Fatalf("the cycle has %d places, want 7", len(order))
	}
	run, longest := 0, 0
	for i := range 2 * len(order) {
		if order[i%len(order)] == 0 {
			run++
			longest = max(longest, run)
		} else {
			run = 0
		}
	}
	if longest > 3 {
		t.Errorf("the heaviest has %d turns in a row, want no more than 3: %v", longest, order)
	}
	if n := len(newOrder([]uint32{1 << 30, 1, 7})); n > maxOrder+2 {
		t.Errorf("a cycle has %d places, more than %d", n, maxOrder+2)
	}
}

func TestPeakEWMAAvoidsASlowEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(endpoints(3, nil), nil)
		slow := 0
		for range 1000 {
			r := Request{}
			a, err := c.Pick(&r)
			if err != nil {
				t.Fatal(err)
			}
			if a.Host.Endpoint().Address == address(1) {
				slow++
				time.Sleep(100 * time.Millisecond)
			} else {
				time.Sleep(time.Millisecond)
			}
			a.Headed()
			a.Done(Result{Status: 200, GRPC: -1})
		}
		if slow == 0 || slow > 20 {
			t.Errorf("the slow endpoint got %d of 1000 requests, want a few to measure it and no more than 20", slow)
		}
	})
}

func TestPeakEWMAGivesASlowEndpointAnotherChanceInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(endpoints(2, nil), nil)
		c.hosts[0].latency.add(c.now(), float64(time.Second))
		c.hosts[1].latency.add(c.now(), float64(time.Millisecond))
		for i := range 200 {
			r := Request{}
			a, err := c.Pick(&r)
			if err != nil {
				t.Fatal(err)
			}
			if a.Host == c.hosts[0] {
				if i < 10 {
					t.Fatalf("a slow endpoint is picked after %d s", i)
				}
				return
			}
			time.Sleep(time.Millisecond)
			a.Headed()
			a.Done(Result{Status: 200, GRPC: -1})
			time.Sleep(time.Second)
		}
		t.Error("an endpoint that was slow once has not been tried for 200 s")
	})
}

func TestWhoFailsAtOnceDoesNotDrawRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(endpoints(2, nil), func(p *Policy) { p.Outliers = Outliers{} })
		failed := 0
		for range 500 {
			r := Request{}
			a, err := c.Pick(&r)
			if err != nil {
				t.Fatal(err)
			}
			if a.Host == c.hosts[0] {
				failed++
				a.Done(Result{Failure: Unreachable, GRPC: -1})
				continue
			}
			time.Sleep(5 * time.Millisecond)
			a.Headed()
			a.Done(Result{Status: 200, GRPC: -1})
		}
		if failed > 10 {
			t.Errorf("%d of 500 requests went to an endpoint that refuses connections, want no more than 10", failed)
		}
	})
}

func TestLeastRequestEvensOutWhatIsUnderWay(t *testing.T) {
	c := newCluster(endpoints(5, nil), func(p *Policy) { p.Algorithm = LeastRequest })
	for range 500 {
		if _, err := c.Pick(&Request{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range c.hosts {
		within(t, h.Endpoint().Address, h.Active(), 100, 0.1)
	}
}

func TestARetryGoesToAnotherEndpoint(t *testing.T) {
	for _, a := range []Algorithm{PeakEWMA, RoundRobin, LeastRequest, Random, RingHash, Maglev} {
		t.Run(a.String(), func(t *testing.T) {
			c := newCluster(endpoints(3, nil), func(p *Policy) { p.Algorithm = a })
			for key := range uint64(200) {
				r := Request{Key: mix(key), Keyed: true}
				seen := map[*Host]bool{}
				for range 3 {
					at, err := c.Pick(&r)
					if err != nil {
						t.Fatal(err)
					}
					if seen[at.Host] {
						t.Fatal("an attempt went where one had been, while there were others")
					}
					seen[at.Host] = true
					at.Done(Result{Status: 200, GRPC: -1})
				}
				if at, err := c.Pick(&r); err != nil || at.Host == nil {
					t.Fatalf("with all endpoints tried: %v", err)
				}
			}
		})
	}
}

func TestARetryLeavesAPriorityThatHasNoOtherEndpoint(t *testing.T) {
	c := newCluster(endpoints(2, func(i int, ep *discovery.Endpoint) { ep.Priority = uint32(i) }), nil)
	r := Request{}
	for i, want := range []string{address(0), address(1)} {
		a, err := c.Pick(&r)
		if err != nil || a.Host.Endpoint().Address != want {
			t.Fatalf("attempt %d: %v, %v, want %s", i+1, a.Host, err, want)
		}
	}
}

func TestAHostThatAsksForItIsLeftAlone(t *testing.T) {
	for _, result := range []Result{
		{Status: 429, GRPC: -1, RetryAfter: 5 * time.Second},
		{Status: 200, GRPC: 8, RetryAfter: 5 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(endpoints(3, nil), func(p *Policy) { p.Algorithm = RoundRobin })
			r := Request{}
			a, err := c.Pick(&r)
			if err != nil {
				t.Fatal(err)
			}
			limited := a.Host.Endpoint().Address
			a.Done(result)
			if n := counts(t, c, 300)[limited]; n != 0 {
				t.Errorf("it got %d requests while it asked for none", n)
			}
			time.Sleep(5 * time.Second)
			if n := counts(t, c, 300)[limited]; n != 100 {
				t.Errorf("it got %d of 300 requests after that, want 100", n)
			}
		})
	}
}

func TestHostsThatAllAskToBeLeftAloneAreUsed(t *testing.T) {
	c := newCluster(endpoints(2, nil), nil)
	for range 10 {
		a, err := c.Pick(&Request{})
		if err != nil {
			t.Fatal(err)
		}
		a.Done(Result{Status: 429, GRPC: -1})
	}
}

func TestANewEndpointStartsSlowly(t *testing.T) {
	for _, a := range []Algorithm{PeakEWMA, RoundRobin, LeastRequest, Random} {
		t.Run(a.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(endpoints(3, nil), func(p *Policy) {
					p.Algorithm, p.SlowStart.Window = a, 100*time.Second
				})
				time.Sleep(time.Second)
				c.Update(endpoints(4, nil))
				last := 0
				for _, step := range []struct{ seconds, least, most int }{{10, 100, 320}, {40, 450, 900}, {50, 900, 1100}} {
					time.Sleep(time.Duration(step.seconds) * time.Second)
					for _, h := range c.hosts {
						h.latency.value.Store(0)
					}
					n := counts(t, c, 4000)[address(3)]
					if n < step.least || n > step.most || n < last {
						t.Errorf("after %d s more it gets %d of 4000, want %d to %d", step.seconds, n, step.least, step.most)
					}
					last = n
				}
			})
		})
	}
}

func TestWhatIsKnownOfHostsThatStayIsKept(t *testing.T) {
	c := newCluster(endpoints(3, nil), nil)
	c.hosts[0].latency.add(c.now(), 1e9)
	before := c.hosts[0]
	list := endpoints(4, func(i int, ep *discovery.Endpoint) { ep.Weight = 3 })
	list[1].ID = "another instance at the same address"
	second := c.hosts[1]
	c.Update(list)
	if c.hosts[0] != before || before.Endpoint().Weight != 3 {
		t.Error("an endpoint whose weight changed was taken for another one")
	}
	if c.hosts[1] == second {
		t.Error("another instance at the same address has taken over what was known of the former")
	}
}

func TestLimitsBoundWhatIsUnderWay(t *testing.T) {
	c := newCluster(endpoints(2, nil), func(p *Policy) { p.Limits = Limits{Requests: 3, Retries: 1} })
	var r Request
	for range 2 {
		if _, err := c.Pick(&r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Pick(&r); fault.ReasonOf(err) != ReasonOverflow || !strings.Contains(err.Error(), "maxParallelRetries") {
		t.Errorf("a second retry at the same time: %v", err)
	}
	a, err := c.Pick(&Request{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Pick(&Request{}); fault.ReasonOf(err) != ReasonOverflow || !strings.Contains(err.Error(), "maxParallelRequests") {
		t.Errorf("a fourth request at the same time: %v", err)
	}
	a.Done(Result{Status: 200, GRPC: -1})
	a.Done(Result{Status: 200, GRPC: -1}) // counts once
	if _, err := c.Pick(&Request{}); err != nil {
		t.Errorf("after one was over: %v", err)
	}
	if _, err := c.Pick(&Request{}); err == nil {
		t.Error("an attempt that ended twice made room for two")
	}
}

func TestAFullEndpointGetsNoMore(t *testing.T) {
	for _, a := range []Algorithm{PeakEWMA, RoundRobin, RingHash, Maglev} {
		c := newCluster(endpoints(2, nil), func(p *Policy) { p.Algorithm = a; p.Limits.PerEndpoint = 5 })
		for range 10 {
			if _, err := c.Pick(&Request{Key: 7, Keyed: true}); err != nil {
				t.Fatalf("%s: %v", a, err)
			}
		}
		if _, err := c.Pick(&Request{}); !fault.Is(err, fault.ResourceExhausted) {
			t.Errorf("%s: with all full: %v", a, err)
		}
	}
}

func TestACheapPickIsRightUnderConcurrency(t *testing.T) {
	p := DefaultPolicy()
	p.Outliers.Consecutive5xx, p.Outliers.BaseEjection = 3, time.Millisecond
	c := New(Options{Name: "shop", Policy: &p})
	c.Update(endpoints(5, nil))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				r := Request{}
				a, err := c.Pick(&r)
				if err != nil {
					t.Error(err)
					return
				}
				a.Headed()
				status := 200
				if a.Host.Endpoint().Address == address(2) {
					status = 500
				}
				a.Done(Result{Status: status, GRPC: -1})
				switch {
				case g == 0 && i%100 == 0:
					c.Update(endpoints(3+i/100%3, nil))
				case g == 1 && i%100 == 0:
					next := p
					next.Algorithm = Algorithm(i / 100 % 6)
					next.TableSize = 251
					c.Configure(&next)
				case g == 2 && i%100 == 0:
					c.Hosts()
				}
			}
		})
	}
	wg.Wait()
	for _, h := range c.hosts {
		if n := h.Active(); n != 0 {
			t.Errorf("%s has %d requests under way when all are over", h.Endpoint().Address, n)
		}
	}
}
