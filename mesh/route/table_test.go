package route

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
)

func compile(t testing.TB, routes ...*Route) *Table {
	t.Helper()
	table, err := Compile(routes, false)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func rule(name string, matches ...Match) *Rule { return &Rule{Name: name, Matches: matches} }

func path(kind PathKind, value string) Match { return Match{Path: PathMatch{kind, value}} }

func TestTheMostParticularRuleCounts(t *testing.T) {
	old := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	table := compile(t,
		&Route{Kind: "HTTPRoute", Name: "any", Rules: []*Rule{
			rule("all"), rule("root prefix", path(Prefix, "/")), rule("a", path(Prefix, "/a")), rule("a slash b", path(Prefix, "/a/b/")),
			rule("exact a", path(Exact, "/a")), rule("expression", path(Expression, "/x/[0-9]+")),
			rule("post a", Match{Path: PathMatch{Prefix, "/a"}, Method: "POST"}),
			rule("header", Match{Path: PathMatch{Prefix, "/a"}, Headers: []ValueMatch{{"X-V", TextMatch{Value: "2"}}}}),
			rule("two headers", Match{Path: PathMatch{Prefix, "/a"}, Headers: []ValueMatch{{"X-V", TextMatch{Value: "2"}}, {"y", TextMatch{Value: "[ab]", Expression: true}}}}),
			rule("query", Match{Path: PathMatch{Prefix, "/a"}, Query: []ValueMatch{{"q", TextMatch{Value: "a b"}}}}),
		}},
		&Route{Kind: "HTTPRoute", Name: "hosts", Hosts: []string{"shop.example.com"}, Rules: []*Rule{rule("shop", path(Prefix, "/shop"))}},
		&Route{Kind: "HTTPRoute", Name: "wild", Hosts: []string{"*.example.com"}, Rules: []*Rule{rule("wild", path(Prefix, "/"))}},
		&Route{Kind: "HTTPRoute", Name: "wilder", Hosts: []string{"*.b.example.com"}, Rules: []*Rule{rule("wilder", path(Prefix, "/"))}},
		&Route{Kind: "HTTPRoute", Name: "z", Created: old, Hosts: []string{"age"}, Rules: []*Rule{rule("old")}},
		&Route{Kind: "HTTPRoute", Name: "a", Created: old.Add(time.Second), Hosts: []string{"age"}, Rules: []*Rule{rule("young")}},
		&Route{Kind: "HTTPRoute", Name: "b", Namespace: "n", Hosts: []string{"name"}, Rules: []*Rule{rule("second")}},
		&Route{Kind: "HTTPRoute", Name: "a", Namespace: "n", Hosts: []string{"name"}, Rules: []*Rule{rule("first")}},
		&Route{Kind: "GRPCRoute", Name: "calls", Rules: []*Rule{
			rule("every call"), rule("service", Match{Service: TextMatch{Value: "shop.Orders"}}),
			rule("call", Match{Service: TextMatch{Value: "shop.Orders"}, Call: TextMatch{Value: "Get"}}),
			rule("any get", Match{Call: TextMatch{Value: "Get"}}), rule("expressions", Match{Service: TextMatch{Value: "a.*", Expression: true}}),
		}},
	)
	h := func(fields ...string) (out proxy.Header) {
		for i := 0; i < len(fields); i += 2 {
			out.Add(fields[i], fields[i+1])
		}
		return out
	}
	for _, tt := range []struct {
		r    Request
		want string
	}{
		{Request{Path: "/"}, "all"}, {Request{Path: "*"}, "all"}, {Request{Path: "/ab"}, "all"},
		{Request{Path: "/a"}, "exact a"}, {Request{Path: "/a/"}, "a"}, {Request{Path: "/a/c"}, "a"}, {Request{Path: "/a/b"}, "a slash b"},
		{Request{Path: "/a/b/c"}, "a slash b"}, {Request{Path: "/a/bc"}, "a"},
		{Request{Path: "/x/12"}, "expression"}, {Request{Path: "/x/12/3"}, "all"},
		{Request{Path: "/a/", Method: "POST"}, "post a"},
		{Request{Path: "/a/", Header: h("x-v", "2")}, "header"}, {Request{Path: "/a/", Header: h("x-v", "2", "x-v", "3")}, "a"},
		{Request{Path: "/a/", Header: h("x-v", "2", "Y", "a")}, "two headers"}, {Request{Path: "/a/", Header: h("x-v", "2", "Y", "ab")}, "header"},
		{Request{Path: "/a/", Query: "p=1&q=a+b"}, "query"}, {Request{Path: "/a/", Query: "q=a%20b&q=c"}, "query"}, {Request{Path: "/a/", Query: "q=c&q=a%20b"}, "a"},
		{Request{Host: "shop.example.com", Path: "/shop"}, "shop"}, {Request{Host: "shop.example.com", Path: "/else"}, "wild"},
		{Request{Host: "a.b.example.com", Path: "/shop"}, "wilder"}, {Request{Host: "b.example.com", Path: "/"}, "wild"},
		{Request{Host: "example.com", Path: "/"}, "all"}, {Request{Host: "age", Path: "/"}, "old"}, {Request{Host: "name", Path: "/"}, "first"},
		{Request{Path: "/shop.Orders/Get", GRPC: true}, "call"}, {Request{Path: "/shop.Orders/List", GRPC: true}, "service"},
		{Request{Path: "/other/Get", GRPC: true}, "any get"}, {Request{Path: "/ab/List", GRPC: true}, "expressions"},
		{Request{Path: "/other/List", GRPC: true}, "every call"}, {Request{Path: "/shop.Orders/Get"}, "all"},
	} {
		found, ok := table.Lookup(&tt.r)
		if !ok || found.Rule.Name != tt.want {
			t.Errorf("%+v meets %+v, want %q", tt.r, found.Rule, tt.want)
		}
		if e := table.Explain(&tt.r); e.Found != found || !slices.ContainsFunc(e.Steps, func(s Step) bool { return s.Taken && s.Rule == found.Rule }) {
			t.Errorf("%+v is explained by %+v", tt.r, e.Found.Rule)
		}
	}
}

func TestWhatIsNoExpressionIsRefused(t *testing.T) {
	_, err := Compile([]*Route{{Kind: "HTTPRoute", Name: "r", Rules: []*Rule{rule("x", path(Expression, "("))}}}, false)
	if err == nil || !strings.Contains(err.Error(), "HTTPRoute r rule x match 0: path") {
		t.Errorf("%v", err)
	}
}

// naive looks at all matches of all routes, and takes the best by the text of the
// Gateway API, one sentence after the other.
func naive(routes []*Route, r *Request) *Rule {
	type candidate struct {
		rule  *Rule
		m     *Match
		index int
		host  string
	}
	var all []candidate
	for _, rt := range routes {
		hosts := rt.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, ru := range rt.Rules {
			for i := range ru.Matches {
				for _, host := range hosts {
					if naiveHost(host, r.Host) && naiveMatch(rt.Kind, &ru.Matches[i], r) {
						all = append(all, candidate{ru, &ru.Matches[i], i, host})
					}
				}
			}
		}
	}
	best := func(a, b candidate) int {
		plain := func(c candidate) int { // characters in a matching non-wildcard hostname
			if strings.HasPrefix(c.host, "*") {
				return 0
			}
			return len(c.host)
		}
		order := []int{cmp.Compare(plain(b), plain(a)), cmp.Compare(len(b.host), len(a.host)), cmp.Compare(a.rule.Route.Kind, b.rule.Route.Kind)}
		if a.rule.Route.Kind == "GRPCRoute" && b.rule.Route.Kind == "GRPCRoute" {
			order = append(order, cmp.Compare(len(b.m.Service.Value), len(a.m.Service.Value)), cmp.Compare(len(b.m.Call.Value), len(a.m.Call.Value)))
		} else {
			kind := func(c candidate) int { return []int{Exact: 0, Expression: 1, Prefix: 2}[c.m.Path.Kind] }
			order = append(order, cmp.Compare(kind(a), kind(b)),
				cmp.Compare(len(strings.TrimSuffix(b.m.Path.Value, "/")), len(strings.TrimSuffix(a.m.Path.Value, "/"))))
		}
		method := func(c candidate) int { return min(1, len(c.m.Method)) }
		order = append(order, cmp.Compare(method(b), method(a)), cmp.Compare(len(b.m.Headers), len(a.m.Headers)), cmp.Compare(len(b.m.Query), len(a.m.Query)),
			a.rule.Route.Created.Compare(b.rule.Route.Created), cmp.Compare(a.rule.Route.Namespace+"/"+a.rule.Route.Name, b.rule.Route.Namespace+"/"+b.rule.Route.Name),
			cmp.Compare(slices.Index(a.rule.Route.Rules, a.rule), slices.Index(b.rule.Route.Rules, b.rule)), cmp.Compare(a.index, b.index))
		return cmp.Or(order...)
	}
	if len(all) == 0 {
		return nil
	}
	return slices.MinFunc(all, best).rule
}

func naiveHost(pattern, host string) bool {
	if pattern == "" {
		return true
	}
	if !strings.HasPrefix(pattern, "*.") {
		return pattern == host
	}
	return strings.HasSuffix(host, pattern[1:]) && host != pattern[1:]
}

func naiveMatch(kind string, m *Match, r *Request) bool {
	if kind == "GRPCRoute" {
		parts := strings.SplitN(r.Path, "/", 3)
		if !r.GRPC || len(parts) != 3 || parts[0] != "" || m.Service.Value != "" && m.Service.Value != parts[1] || m.Call.Value != "" && m.Call.Value != parts[2] {
			return false
		}
	} else {
		segments := func(p string) []string { return strings.Split(strings.TrimSuffix(p, "/"), "/") }
		got, want := strings.Split(r.Path, "/"), segments(m.Path.Value)
		switch {
		case m.Path.Kind == Exact && r.Path != m.Path.Value:
			return false
		case m.Path.Kind == Expression && !regexp.MustCompile("^(?:"+m.Path.Value+")$").MatchString(r.Path):
			return false
		case m.Path.Kind == Prefix && strings.TrimSuffix(m.Path.Value, "/") != "" && (len(got) < len(want) || !slices.Equal(got[:len(want)], want)):
			return false
		}
	}
	for _, h := range m.Headers {
		if values := r.Header.Values(h.Name); len(values) == 0 || strings.Join(values, ",") != h.Value {
			return false
		}
	}
	for _, q := range m.Query {
		found := false
		for _, pair := range strings.Split(r.Query, "&") {
			if name, value, _ := strings.Cut(pair, "="); name == q.Name {
				if value != q.Value {
					return false
				}
				found = true
				break
			}
		}
		if !found {
			return false
		}
	}
	return m.Method == "" || m.Method == r.Method
}

// random makes routes and requests of few words, so that many meet.
type random struct{ *rand.Rand }

func (r random) pick(list ...string) string { return list[r.IntN(len(list))] }

func (r random) path() string {
	p := ""
	for range r.IntN(4) {
		p += "/" + r.pick("a", "b", "ab", "")
	}
	return cmp.Or(p, "/")
}

func (r random) host() string { return r.pick("a.com", "b.a.com", "c.b.a.com", "x") }

func (r random) routes() []*Route {
	var out []*Route
	for i := range 1 + r.IntN(6) {
		rt := &Route{
			Kind: r.pick("HTTPRoute", "HTTPRoute", "GRPCRoute"), Namespace: r.pick("", "n"), Name: fmt.Sprintf("r%d", i),
			Created: time.Unix(int64(1+r.IntN(2)), 0),
		}
		for range r.IntN(3) {
			if h := r.pick("a.com", "*.a.com", "*.b.a.com", "b.a.com", "x"); !slices.Contains(rt.Hosts, h) {
				rt.Hosts = append(rt.Hosts, h)
			}
		}
		for range 1 + r.IntN(3) {
			ru := &Rule{Route: rt}
			for range 1 + r.IntN(2) {
				ru.Matches = append(ru.Matches, r.match(rt.Kind))
			}
			rt.Rules = append(rt.Rules, ru)
		}
		out = append(out, rt)
	}
	return out
}

func (r random) match(kind string) Match {
	m := Match{}
	if kind == "GRPCRoute" {
		if service := r.pick("", "a", "b"); service != "" {
			m.Service, m.Call = TextMatch{Value: service}, TextMatch{Value: r.pick("", "a", "b")}
		}
	} else {
		m.Path = PathMatch{PathKind(r.IntN(3)), r.path()}
		if m.Path.Kind == Expression {
			m.Path.Value = r.pick("/a.*", "/[ab]/b", "/.*")
		}
		m.Method = r.pick("", "", "GET", "POST")
	}
	for _, name := range []string{"h", "i"} {
		if r.IntN(4) == 0 {
			m.Headers = append(m.Headers, ValueMatch{name, TextMatch{Value: r.pick("1", "2")}})
		}
	}
	if r.IntN(4) == 0 {
		m.Query = append(m.Query, ValueMatch{"q", TextMatch{Value: r.pick("1", "2")}})
	}
	return m
}

func (r random) request() Request {
	q := Request{Host: r.host(), Path: r.path(), Method: r.pick("GET", "POST"), GRPC: r.IntN(3) == 0, Query: r.pick("", "q=1", "q=2&q=1", "p=3&q=2")}
	for range r.IntN(3) {
		q.Header.Add(r.pick("h", "I"), r.pick("1", "2"))
	}
	return q
}

func against(t *testing.T, a, b uint64) {
	r := random{rand.New(rand.NewPCG(a, b))}
	routes := r.routes()
	table := compile(t, routes...)
	for range 50 {
		q := r.request()
		found, _ := table.Lookup(&q)
		if want := naive(routes, &q); found.Rule != want {
			t.Fatalf("seed %d %d: %+v meets %v, want %v", a, b, q, found.Rule, want)
		}
	}
}

func TestLookupDoesWhatTheSpecificationSays(t *testing.T) {
	for i := range uint64(1000) {
		against(t, i, 1)
	}
}

func FuzzLookupDoesWhatTheSpecificationSays(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) { against(t, a, b) })
}

func FuzzNoRequestBreaksALookup(f *testing.F) {
	table := compile(f, &Route{Kind: "HTTPRoute", Name: "r", Hosts: []string{"*.example.com"}, Rules: []*Rule{
		rule("a", Match{Path: PathMatch{Prefix, "/a"}, Query: []ValueMatch{{"q", TextMatch{Value: "1"}}}}), rule("b", path(Expression, "/b+")),
	}}, &Route{Kind: "GRPCRoute", Name: "g", Rules: []*Rule{rule("c", Match{Call: TextMatch{Value: "C"}})}})
	f.Add("a.example.com", "/a", "q=%", true)
	f.Add("....", "", "&&==", false)
	f.Fuzz(func(_ *testing.T, host, path, query string, grpc bool) {
		r := Request{Host: host, Path: path, Query: query, GRPC: grpc}
		if len(query) > 0 {
			r.Header.Add("a", query)
		}
		table.Explain(&r)
	})
}

// large is a table of n routes on as many paths, and requests that meet them.
func large(t testing.TB, n int) (*Table, []Request) {
	var routes []*Route
	var requests []Request
	for i := range n {
		p := fmt.Sprintf("/api/v%d/service-%d", i%7, i)
		rt := &Route{Kind: "HTTPRoute", Name: fmt.Sprintf("r%d", i), Hosts: []string{fmt.Sprintf("h%d.example.com", i%10), "*.example.org"}}
		rt.Rules = []*Rule{
			{Matches: []Match{{Path: PathMatch{Prefix, p}, Headers: []ValueMatch{{"x-canary", TextMatch{Value: "1"}}}}}},
			{Matches: []Match{{Path: PathMatch{Prefix, p}}}, Backends: []Backend{{Name: "a", Weight: 90}, {Name: "b", Weight: 10}}},
		}
		routes = append(routes, rt)
		requests = append(requests, Request{
			Host: fmt.Sprintf("h%d.example.com", i%10), Path: p + "/items/17", Method: "GET",
			Header: proxy.Header{{Name: "accept", Value: "*/*"}, {Name: "user-agent", Value: "x"}, {Name: "x-request-id", Value: "1"}},
		})
	}
	return compile(t, routes...), requests
}

func TestALookupTakesNoMemory(t *testing.T) {
	table, requests := large(t, 1000)
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		f, ok := table.Lookup(&requests[i%len(requests)])
		if !ok || f.Rule.Pick(uint64(i)) == nil {
			t.Fatal("no rule")
		}
		i++
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 1000} {
		table, requests := large(b, n)
		b.Run(fmt.Sprintf("%d routes", n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				table.Lookup(&requests[i%len(requests)])
				i++
			}
		})
	}
}

func TestBackendsAreChosenByTheirWeight(t *testing.T) {
	r := &Rule{Backends: []Backend{{Name: "a", Weight: 90}, {Name: "none"}, {Name: "b", Weight: 10}}}
	r.Prepare()
	got := map[string]int{}
	for i := range uint64(1000) {
		got[r.Pick(i).Name]++
	}
	if got["a"] != 900 || got["b"] != 100 || got["none"] != 0 {
		t.Errorf("%v", got)
	}
	none := &Rule{Backends: []Backend{{Name: "a"}}}
	none.Prepare()
	if none.Pick(1) != nil || (&Rule{}).Pick(1) != nil {
		t.Error("a backend without a weight was chosen")
	}
}
