package balance

import (
	"strings"
	"testing"
	"time"

	"net/netip"

	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/proxy"
)

func owners(t *testing.T, c *Cluster, keys int) []string {
	t.Helper()
	out := make([]string, keys)
	for i := range out {
		out[i] = pick(t, c, Request{Key: mix(uint64(i)), Keyed: true})
	}
	return out
}

func TestAChangeOfTheListMovesFewKeys(t *testing.T) {
	const keys = 10000
	for _, test := range []struct {
		algorithm Algorithm
		more      float64 // than those of the endpoint that left
	}{{RingHash, 0}, {Maglev, 0.06}} {
		t.Run(test.algorithm.String(), func(t *testing.T) {
			list := endpoints(20, nil)
			c := newCluster(list, func(p *Policy) { p.Algorithm = test.algorithm })
			before := owners(t, c, keys)
			c.Update(append(append([]discovery.Endpoint{}, list[:7]...), list[8:]...))
			moved, left := 0, 0
			for i, now := range owners(t, c, keys) {
				switch {
				case before[i] == address(7):
					left++
				case before[i] != now:
					moved++
				}
			}
			if float64(moved) > test.more*keys {
				t.Errorf("%d of %d keys moved beside the %d that had to, want at most %.0f", moved, keys, left, test.more*keys)
			}
			if left < keys/40 || left > keys/10 {
				t.Errorf("one of twenty had %d of %d keys, want about a twentieth", left, keys)
			}
			c.Update(list)
			for i, now := range owners(t, c, keys) {
				if now != before[i] {
					t.Fatal("a key has not come back with its endpoint")
				}
			}
		})
	}
}

func TestTwoProcessesAgreeOnTheOwnerOfAKey(t *testing.T) {
	for _, a := range []Algorithm{RingHash, Maglev} {
		list := endpoints(5, nil)
		one := newCluster(list, func(p *Policy) { p.Algorithm = a })
		list[0], list[4] = list[4], list[0]
		other := newCluster(list, func(p *Policy) { p.Algorithm = a })
		x, y := owners(t, one, 100), owners(t, other, 100)
		for i := range x {
			if x[i] != y[i] {
				t.Fatalf("%s: key %d belongs to %s and to %s", a, i, x[i], y[i])
			}
		}
	}
}

func TestBoundedLoadPassesOverWhoHasTooMuch(t *testing.T) {
	for _, a := range []Algorithm{RingHash, Maglev} {
		c := newCluster(endpoints(4, nil), func(p *Policy) { p.Algorithm, p.Bounded = a, 1.25 })
		for range 400 { // all with one key, all under way
			if _, err := c.Pick(&Request{Key: 42, Keyed: true}); err != nil {
				t.Fatal(err)
			}
		}
		for _, h := range c.hosts {
			if n := h.Active(); n > 126 {
				t.Errorf("%s: %s has %d of 400, more than 1.25 times the average", a, h.Endpoint().Address, n)
			}
		}
	}
}

func TestKeysComeFromWhereThePolicySays(t *testing.T) {
	request := func(fields ...string) Client {
		r := &proxy.Request{Target: "/orders/17/items?user=ann&x=1"}
		for i := 0; i < len(fields); i += 2 {
			r.Header.Add(fields[i], fields[i+1])
		}
		return Client{Request: r, Address: netip.MustParseAddr("192.0.2.7")}
	}
	for _, test := range []struct {
		name string
		key  HashKey
		from Client
		want string
	}{
		{"header", HashKey{Header: "X-User"}, request("x-user", "ann"), "ann"},
		{"header that is missing", HashKey{Header: "X-User"}, request(), ""},
		{"cookie", HashKey{Cookie: Cookie{Name: "sid"}}, request("Cookie", `a=b; sid="77"`), "77"},
		{"cookie in a second field", HashKey{Cookie: Cookie{Name: "sid"}}, request("cookie", "a=b", "cookie", "sid=9"), "9"},
		{"address", HashKey{SourceIP: true}, request(), "192.0.2.7"},
		{"parameter", HashKey{Query: "user"}, request(), "ann"},
		{"path", HashKey{Path: true}, request(), "/orders/17/items"},
		{"segment", HashKey{PathIndex: 2}, request(), "17"},
		{"segment that is missing", HashKey{PathIndex: 4}, request(), ""},
	} {
		got, ok := test.key.of(test.from)
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%s: the key is %q, want %q", test.name, got, test.want)
		}
	}
}

func TestAClientWithoutACookieGetsOneAndStays(t *testing.T) {
	c := newCluster(endpoints(10, nil), func(p *Policy) {
		p.Algorithm = Maglev
		p.HashKeys = []HashKey{{Header: "x-user"}, {Cookie: Cookie{Name: "sid", TTL: time.Hour, Attributes: []string{"Secure"}}}}
	})
	for range 20 {
		first := Request{}
		set := c.Prepare(&first, Client{Request: &proxy.Request{}})
		if !strings.HasPrefix(set, "sid=") || !strings.HasSuffix(set, "; Path=/; Max-Age=3600; Secure; HttpOnly") {
			t.Fatalf("Set-Cookie: %q", set)
		}
		cookie, _, _ := strings.Cut(set, ";")
		again := Request{}
		if set := c.Prepare(&again, Client{Request: &proxy.Request{Header: proxy.Header{{Name: "cookie", Value: cookie}}}}); set != "" {
			t.Fatalf("a client that has the cookie gets another one: %q", set)
		}
		if a, b := pick(t, c, first), pick(t, c, again); a != b {
			t.Fatalf("a client went from %s to %s", a, b)
		}
	}
	if set := c.Prepare(&Request{}, Client{Request: &proxy.Request{Header: proxy.Header{{Name: "x-user", Value: "ann"}}}}); set != "" {
		t.Errorf("a request with a key before the cookie gets a cookie: %q", set)
	}
}
