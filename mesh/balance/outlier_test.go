package balance

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/mesh/discovery"
)

// ejecting is a cluster that notes what happens to its endpoints.
func ejecting(n int, o Outliers) (*Cluster, *[]Event) {
	events := &[]Event{}
	p := DefaultPolicy()
	p.Algorithm, p.Outliers, p.Panic = RoundRobin, o, 0
	c := New(Options{Name: "shop", Policy: &p, Random: seeded(), Notify: func(e Event) { *events = append(*events, e) }})
	c.Update(endpoints(n, nil))
	return c, events
}

// rounds has every endpoint in use get n attempts, which end as result says.
func rounds(t *testing.T, c *Cluster, n int, result func(i int) Result) {
	t.Helper()
	for range n * len(c.hosts) {
		a, err := c.Pick(&Request{})
		if err != nil {
			t.Fatal(err)
		}
		at := 0
		for i, h := range c.hosts {
			if h == a.Host {
				at = i
			}
		}
		a.Done(result(at))
	}
}

func good() Result { return Result{Status: 200, GRPC: -1} }

// only has the endpoint 0 end its attempts with r.
func only(r Result) func(int) Result {
	return func(i int) Result {
		if i == 0 {
			return r
		}
		return good()
	}
}

func TestFailuresInARowEject(t *testing.T) {
	all := Outliers{BaseEjection: time.Second, MaxPercent: 100}
	server, gateway, local, split := all, all, all, all
	server.Consecutive5xx, gateway.ConsecutiveGateway, local.ConsecutiveLocalOrigin = 3, 3, 3
	split.Consecutive5xx, split.SplitLocalOrigin = 3, true
	for _, test := range []struct {
		name   string
		o      Outliers
		result Result
		why    string // "" for no ejection
	}{
		{"500", server, Result{Status: 500, GRPC: -1}, "3 answers in a row had a status of 500 or above"},
		{"404", server, Result{Status: 404, GRPC: -1}, ""},
		{"INTERNAL", server, Result{Status: 200, GRPC: 13}, "3 answers in a row had a status of 500 or above"},
		{"NOT_FOUND", server, Result{Status: 200, GRPC: 5}, ""},
		{"no connection counts as 503", server, Result{Failure: Unreachable, GRPC: -1}, "3 answers in a row had a status of 500 or above"},
		{"no connection does not when it is split", split, Result{Failure: Unreachable, GRPC: -1}, ""},
		{"503", gateway, Result{Status: 503, GRPC: -1}, "3 answers in a row were 502, 503 or 504"},
		{"UNAVAILABLE", gateway, Result{Status: 200, GRPC: 14}, "3 answers in a row were 502, 503 or 504"},
		{"500 is none of the gateway", gateway, Result{Status: 500, GRPC: -1}, ""},
		{"no connection", local, Result{Failure: Unreachable, GRPC: -1}, "3 attempts in a row had no answer"},
		{"reset", local, Result{Failure: Broken, GRPC: -1}, "3 attempts in a row had no answer"},
		{"timeout", local, Result{Failure: TimedOut, GRPC: -1}, "3 attempts in a row had no answer"},
		{"503 is an answer", local, Result{Status: 503, GRPC: -1}, ""},
		{"the client went away", local, Result{Failure: Abandoned, GRPC: -1}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, events := ejecting(3, test.o)
			rounds(t, c, 2, only(test.result))
			rounds(t, c, 1, func(int) Result { return good() })
			rounds(t, c, 2, only(test.result))
			if len(*events) > 0 {
				t.Fatalf("ejected though there was a success in between: %v", *events)
			}
			rounds(t, c, 1, only(test.result))
			switch {
			case test.why == "":
				if len(*events) > 0 {
					t.Errorf("ejected: %v", *events)
				}
			case len(*events) != 1 || (*events)[0].Reason != test.why || (*events)[0].Endpoint.Address != address(0) || (*events)[0].For != time.Second:
				t.Errorf("events %+v, want one ejection because %s", *events, test.why)
			default:
				if n := counts(t, c, 100)[address(0)]; n != 0 {
					t.Errorf("it gets %d requests while it is ejected", n)
				}
				if s := c.Hosts()[0]; s.InUse || !strings.Contains(s.Reason, test.why) || !strings.Contains(s.Reason, "ejected until") {
					t.Errorf("its status: %+v", s)
				}
			}
		})
	}
}

func TestEjectionsGrowAndAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, events := ejecting(3, Outliers{
			Consecutive5xx: 2, BaseEjection: 10 * time.Second, MaxEjection: 25 * time.Second, MaxPercent: 100, Interval: time.Minute,
		})
		fail := func() {
			rounds(t, c, 2, only(Result{Status: 500, GRPC: -1}))
		}
		for _, want := range []time.Duration{10 * time.Second, 20 * time.Second, 25 * time.Second} {
			*events = nil
			fail()
			if len(*events) != 1 || (*events)[0].For != want {
				t.Fatalf("events %+v, want an ejection for %s", *events, want)
			}
			time.Sleep(want - time.Millisecond)
			if n := counts(t, c, 30)[address(0)]; n != 0 {
				t.Fatalf("it gets %d requests before %s are over", n, want)
			}
			time.Sleep(time.Millisecond)
			if n := counts(t, c, 30)[address(0)]; n != 10 {
				t.Fatalf("it gets %d of 30 requests after %s, want 10", n, want)
			}
		}
		if last := (*events)[len(*events)-1]; last.Kind != Readmitted {
			t.Errorf("the last event is %+v, want that it is back", last)
		}
		time.Sleep(10 * time.Minute)
		*events = nil
		fail()
		if len(*events) != 1 || (*events)[0].For != 10*time.Second {
			t.Errorf("after ten good minutes: %+v, want an ejection for 10 s", *events)
		}
	})
}

func TestNotTooManyAreEjected(t *testing.T) {
	for _, test := range []struct{ hosts, percent, ejected int }{{1, 100, 0}, {2, 10, 1}, {10, 30, 3}, {10, 10, 1}, {10, 0, 1}} {
		c, events := ejecting(test.hosts, Outliers{Consecutive5xx: 1, BaseEjection: time.Hour, MaxPercent: test.percent})
		rounds(t, c, 10, func(int) Result { return Result{Status: 500, GRPC: -1} })
		if len(*events) != test.ejected {
			t.Errorf("of %d endpoints with at most %d %%: %d are ejected, want %d", test.hosts, test.percent, len(*events), test.ejected)
		}
	}
}

func TestRatesEject(t *testing.T) {
	// The endpoint 0 fails in 6 of 10 attempts, never twice in a row for long.
	n := 0
	often := func(i int) Result {
		if n++; i == 0 && n%50 < 30 {
			return Result{Status: 500, GRPC: -1}
		}
		return good()
	}
	for _, test := range []struct {
		name string
		o    Outliers
		why  string
	}{
		{"success rate", Outliers{SuccessRate: SuccessRate{Factor: 1.9, MinHosts: 5, Volume: 20}}, "on average"},
		{"success rate of too few endpoints", Outliers{SuccessRate: SuccessRate{Factor: 1.9, MinHosts: 6, Volume: 20}}, ""},
		{"success rate of too few requests", Outliers{SuccessRate: SuccessRate{Factor: 1.9, MinHosts: 5, Volume: 2000}}, ""},
		{"failure percentage", Outliers{FailurePercentage: FailurePercentage{Threshold: 50, MinHosts: 1, Volume: 20}}, "at least 50 %"},
		{"failure percentage above", Outliers{FailurePercentage: FailurePercentage{Threshold: 85, MinHosts: 1, Volume: 20}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.o.Interval, test.o.BaseEjection, test.o.MaxPercent = 10*time.Second, time.Minute, 100
				c, events := ejecting(5, test.o)
				rounds(t, c, 100, often)
				time.Sleep(10 * time.Second)
				rounds(t, c, 1, often)
				if test.why == "" {
					if len(*events) > 0 {
						t.Errorf("ejected: %+v", *events)
					}
				} else if len(*events) != 1 || (*events)[0].Endpoint.Address != address(0) || !strings.Contains((*events)[0].Reason, test.why) {
					t.Errorf("events %+v, want one ejection because of %q", *events, test.why)
				}
			})
		})
	}
}

func TestAnEjectionDoesNotOutliveItsEndpointOrPolicy(t *testing.T) {
	c, _ := ejecting(3, Outliers{Consecutive5xx: 1, BaseEjection: time.Hour, MaxPercent: 100})
	rounds(t, c, 1, only(Result{Status: 500, GRPC: -1}))
	list := endpoints(3, func(i int, ep *discovery.Endpoint) { ep.Weight = 2 })
	c.Update(list)
	if n := counts(t, c, 30)[address(0)]; n != 0 {
		t.Errorf("another weight has ended the ejection: %d requests", n)
	}
	c.Update(list[1:])
	c.Update(list)
	if n := counts(t, c, 30)[address(0)]; n != 10 {
		t.Errorf("an endpoint that left and came again gets %d of 30 requests, want 10", n)
	}
	rounds(t, c, 1, only(Result{Status: 500, GRPC: -1}))
	p := *c.Policy()
	p.Outliers = Outliers{}
	c.Configure(&p)
	if n := counts(t, c, 30)[address(0)]; n != 10 {
		t.Errorf("without outlier detection it gets %d of 30 requests, want 10", n)
	}
}
