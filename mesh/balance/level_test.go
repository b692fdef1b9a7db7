package balance

import (
	"strings"
	"testing"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
)

// inPriorities has the first of every ten endpoints in priority 0, the others in
// 1, and the given numbers of both unhealthy.
func inPriorities(sick0, sick1 int) []discovery.Endpoint {
	return endpoints(20, func(i int, ep *discovery.Endpoint) {
		ep.Priority = uint32(i / 10)
		if i < sick0 || i >= 10 && i-10 < sick1 {
			ep.Health = discovery.Unhealthy
		}
	})
}

func TestPrioritiesTakeOverByHealth(t *testing.T) {
	for _, test := range []struct {
		name         string
		sick0, sick1 int
		first        int // percent that stay at priority 0
	}{
		{"all healthy", 0, 0, 100},
		{"enough healthy", 2, 0, 100},            // 80 % * 1.4 > 100 %
		{"too few healthy", 5, 0, 70},            // 50 % * 1.4
		{"a few healthy", 8, 0, 28},              // 20 % * 1.4
		{"none healthy", 10, 0, 0},               //
		{"both too few healthy", 5, 7, 100 - 30}, // 70 + 42 > 100
		{"both in need", 8, 8, 50},               // 28 + 28, in panic
		{"all unhealthy", 10, 10, 50},            // by how many there are
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(inPriorities(test.sick0, test.sick1), func(p *Policy) { p.Algorithm = Random })
			first := 0
			for addr, n := range counts(t, c, 10000) {
				for i := range 10 {
					if addr == address(i) {
						first += n
					}
				}
			}
			if d := first - 100*test.first; d < -300 || d > 300 {
				t.Errorf("priority 0 gets %d of 10000, want %d %%", first, test.first)
			}
		})
	}
}

func TestTooFewHealthyEndpointsAreNotOverrun(t *testing.T) {
	sick := func(n int) []discovery.Endpoint {
		return endpoints(10, func(i int, ep *discovery.Endpoint) {
			if i < n {
				ep.Health = discovery.Unhealthy
			}
		})
	}
	for _, test := range []struct {
		panicBelow, sick, used int
	}{{50, 3, 7}, {50, 5, 5}, {50, 6, 10}, {0, 9, 1}, {100, 5, 10}} {
		c := newCluster(sick(test.sick), func(p *Policy) { p.Algorithm, p.Panic = RoundRobin, test.panicBelow })
		if used := len(counts(t, c, 1000)); used != test.used {
			t.Errorf("%d of 10 unhealthy, panic below %d %%: %d are used, want %d", test.sick, test.panicBelow, used, test.used)
		}
	}
	c := newCluster(sick(10), func(p *Policy) { p.Panic = 0 })
	_, err := c.Pick(&Request{})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "none of the 10 endpoints") {
		t.Errorf("with none healthy and no panic: %v", err)
	}
}

func TestADrainingEndpointGetsNothingNew(t *testing.T) {
	list := endpoints(3, nil)
	list[0].Health, list[1].Health, list[2].Health = discovery.Draining, discovery.Unhealthy, discovery.Unhealthy
	c := newCluster(list, nil)
	if n := counts(t, c, 100)[address(0)]; n != 0 {
		t.Errorf("it gets %d requests, in panic", n)
	}
	c.Update(list[:1])
	if n := counts(t, c, 100)[address(0)]; n != 100 {
		t.Errorf("it gets %d of 100 requests when there is no other, want all", n)
	}
}

func TestNearEndpointsAreUsedFirst(t *testing.T) {
	places := []discovery.Locality{
		{Region: "eu", Zone: "a", SubZone: "r1"}, {Region: "eu", Zone: "a"}, {Region: "eu", Zone: "b"}, {Region: "us", Zone: "a"}, {},
	}
	list := endpoints(5, func(i int, ep *discovery.Endpoint) { ep.Locality = places[i] })
	for _, test := range []struct {
		from   discovery.Locality
		prefer Proximity
		want   string // the endpoints used
	}{
		{places[0], Zone, "01"},
		{places[0], SubZone, "0"},
		{places[0], Region, "012"},
		{places[0], Anywhere, "01234"},
		{places[2], Zone, "2"},
		{discovery.Locality{}, Zone, "01234"},
		{discovery.Locality{Region: "eu", Zone: "c"}, Zone, "012"},
		{discovery.Locality{Region: "asia", Zone: "a"}, Zone, "01234"},
	} {
		p := DefaultPolicy()
		p.Algorithm, p.Locality.Prefer = RoundRobin, test.prefer
		c := New(Options{Policy: &p, Random: seeded(), Locality: test.from})
		c.Update(list)
		got := counts(t, c, 100)
		used := ""
		for i := range list {
			if got[address(i)] > 0 {
				used += string(rune('0' + i))
			}
		}
		if used != test.want {
			t.Errorf("from %+v with preference %d: %s are used, want %s", test.from, test.prefer, used, test.want)
		}
	}
}

func TestABusyZoneSpillsOver(t *testing.T) {
	list := endpoints(4, func(i int, ep *discovery.Endpoint) {
		ep.Locality = discovery.Locality{Region: "eu", Zone: string(rune('a' + i/2))}
	})
	for _, a := range []Algorithm{PeakEWMA, LeastRequest, RoundRobin} {
		p := DefaultPolicy()
		p.Algorithm, p.Locality.SpillAt = a, 10
		c := New(Options{Policy: &p, Random: seeded(), Locality: list[0].Locality})
		c.Update(list)
		for range 60 {
			if _, err := c.Pick(&Request{}); err != nil {
				t.Fatal(err)
			}
		}
		for i, h := range c.hosts {
			if n := h.Active(); n < 10 || n > 20 {
				t.Errorf("%s: endpoint %d has %d of 60 requests under way, want 10 to 20", a, i, n)
			}
		}
	}
}

func TestASubsetIsUsedByLabels(t *testing.T) {
	list := endpoints(4, func(i int, ep *discovery.Endpoint) {
		ep.Labels = map[string]string{"version": string(rune('1' + i/2)), "tier": "x"}
	})
	c := newCluster(list, func(p *Policy) { p.Algorithm = RoundRobin })
	second := c.Subset(map[string]string{"version": "2"}, AnyEndpoint)
	if again := c.Subset(map[string]string{"version": "2"}, AnyEndpoint); again != second {
		t.Errorf("the same subset has the numbers %d and %d", second, again)
	}
	anybody := c.Subset(map[string]string{"version": "3"}, AnyEndpoint)
	nobody := c.Subset(map[string]string{"version": "3"}, NoEndpoint)
	used := func(subset int) int {
		seen := map[string]bool{}
		for range 20 {
			seen[pick(t, c, Request{Subset: subset})] = true
		}
		return len(seen)
	}
	if n := used(second); n != 2 {
		t.Errorf("version 2 uses %d endpoints, want 2", n)
	}
	if n := used(anybody); n != 4 {
		t.Errorf("version 3, which nobody has, uses %d endpoints, want all", n)
	}
	if _, err := c.Pick(&Request{Subset: nobody}); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "labels") {
		t.Errorf("version 3 without a fallback: %v", err)
	}
	p := *c.Policy()
	c.Configure(&p)
	if n := used(second); n != 2 {
		t.Errorf("after another configuration version 2 uses %d endpoints, want 2", n)
	}
}
