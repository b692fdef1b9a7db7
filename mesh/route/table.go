package route

import (
	"cmp"
	"errors"
	"slices"
	"strings"
)

const kindGRPC = "GRPCRoute"

// Table finds the rule for a request. It never changes, and is safe for concurrent
// use.
type Table struct {
	routes []*Route
	exact  map[string]*hostRules // by host
	under  map[string]*hostRules // by what follows "*", ".example.com"
	any    *hostRules            // for whatever host; nil for none
	all    []*matcher            // by precedence, for people
}

// hostRules are the matchers for one host pattern. Each list is in the order in
// which they count.
type hostRules struct {
	calls    map[string][]*matcher // of gRPC, by "/service/method"
	services map[string][]*matcher // by "/service"
	others   []*matcher            // of gRPC, all others

	exact   map[string][]*matcher // by path
	regular []*matcher
	prefix  map[string][]*matcher // by path without a slash at its end
	lengths [maxPath/64 + 1]uint64
}

// maxPath bounds the path of a match, and maxHost the name of a host (RFC 1035,
// section 2.3.4).
const (
	maxPath = 1024
	maxHost = 255
)

// Compile makes a table of routes. With anyHost their host names mean nothing, as
// for routes of one application.
func Compile(routes []*Route, anyHost bool) (*Table, error) {
	t := &Table{routes: routes, exact: map[string]*hostRules{}, under: map[string]*hostRules{}}
	var errs []error
	for _, r := range routes {
		hosts := r.Hosts
		if len(hosts) == 0 || anyHost {
			hosts = []string{""}
		}
		for i, rule := range r.Rules {
			rule.Route, rule.Index = r, i
			rule.Prepare()
			for _, host := range hosts {
				for j := range rule.Matches {
					m, err := newMatcher(rule, j, host)
					if err != nil {
						errs = append(errs, err)
						continue
					}
					t.all = append(t.all, m)
				}
			}
		}
	}
	slices.SortStableFunc(t.all, compare)
	for _, m := range t.all {
		t.bucket(m.host).add(m)
	}
	return t, errors.Join(errs...)
}

// Prepare gives a rule what it has by default. Compile does so by itself.
func (r *Rule) Prepare() {
	if len(r.Matches) == 0 {
		r.Matches = []Match{{}}
	}
	r.total = 0
	r.Filters.prepare()
	for i := range r.Backends {
		b := &r.Backends[i]
		r.total += uint64(b.Weight)
		b.Filters.prepare()
		b.plain = b.Filters.plain && b.Problem == ""
	}
}

// Routes returns what the table was made of. It must not be changed.
func (t *Table) Routes() []*Route { return t.routes }

// Rules returns the rules in the order in which they count, each once.
func (t *Table) Rules() []*Rule {
	var out []*Rule
	for _, m := range t.all {
		if !slices.Contains(out, m.rule) {
			out = append(out, m.rule)
		}
	}
	return out
}

func (t *Table) bucket(host string) *hostRules {
	at := t.exact
	if under, ok := strings.CutPrefix(host, "*"); ok {
		at, host = t.under, under
	} else if host == "" {
		if t.any == nil {
			t.any = newHostRules()
		}
		return t.any
	}
	if at[host] == nil {
		at[host] = newHostRules()
	}
	return at[host]
}

func newHostRules() *hostRules {
	return &hostRules{
		calls: map[string][]*matcher{}, services: map[string][]*matcher{}, exact: map[string][]*matcher{}, prefix: map[string][]*matcher{},
	}
}

func (h *hostRules) add(m *matcher) {
	switch {
	case m.rule.Route.Kind == kindGRPC && m.exactCall():
		key := "/" + m.service.text + "/" + m.call.text
		h.calls[key] = append(h.calls[key], m)
	case m.rule.Route.Kind == kindGRPC && m.exactService():
		h.services["/"+m.service.text] = append(h.services["/"+m.service.text], m)
	case m.rule.Route.Kind == kindGRPC:
		h.others = append(h.others, m)
	case m.match.Path.Kind == Exact:
		h.exact[m.path] = append(h.exact[m.path], m)
	case m.match.Path.Kind == Expression:
		h.regular = append(h.regular, m)
	default:
		h.prefix[m.path] = append(h.prefix[m.path], m)
		h.lengths[len(m.path)/64] |= 1 << (len(m.path) % 64)
	}
}

// exactCall reports whether m is for one method of gRPC, exactService whether it is
// for all of one service.
func (m *matcher) exactCall() bool {
	return m.service.text != "" && m.service.re == nil && m.call.text != "" && m.call.re == nil
}

func (m *matcher) exactService() bool {
	return m.service.text != "" && m.service.re == nil && m.call.text == ""
}

// Lookup returns the rule that a request meets. It reports false when there is
// none.
//
// Of several the one counts whose host name is more particular: a name before one
// with "*", the longer before the shorter, and any of them before none. Then for
// gRPC calls those of GRPCRoutes. Then the path: exact, regular expression (the
// longer first), prefix (the longer first); or service and method. Then with a
// method, with more header fields, with more query parameters. Then the older route,
// the first by namespace and name, and the first rule.
func (t *Table) Lookup(r *Request) (Found, bool) {
	if h := t.exact[r.Host]; h != nil {
		if m := h.find(r); m != nil {
			return m.found(), true
		}
	}
	if len(t.under) > 0 && len(r.Host) <= maxHost {
		for host := r.Host; ; {
			i := strings.IndexByte(host, '.')
			if i < 0 {
				break
			}
			if h := t.under[host[i:]]; h != nil && len(r.Host) > len(host)-i {
				if m := h.find(r); m != nil {
					return m.found(), true
				}
			}
			host = host[i+1:]
		}
	}
	if t.any != nil {
		if m := t.any.find(r); m != nil {
			return m.found(), true
		}
	}
	return Found{}, false
}

func (m *matcher) found() Found {
	f := Found{Rule: m.rule}
	if m.rule.Route.Kind != kindGRPC && m.match.Path.Kind == Prefix {
		f.Prefix = m.path
	}
	return f
}

func first(list []*matcher, r *Request) *matcher {
	for _, m := range list {
		if m.takes(r) {
			return m
		}
	}
	return nil
}

func (h *hostRules) find(r *Request) *matcher {
	if r.GRPC {
		if m := h.findCall(r); m != nil {
			return m
		}
	}
	if m := first(h.exact[r.Path], r); m != nil {
		return m
	}
	for _, m := range h.regular {
		if m.takes(r) && m.pathRE.MatchString(r.Path) {
			return m
		}
	}
	if len(h.prefix) == 0 {
		return nil
	}
	for n := min(len(r.Path), maxPath); n >= 0; n-- {
		if h.lengths[n/64]&(1<<(n%64)) == 0 || n > 0 && n < len(r.Path) && r.Path[n] != '/' {
			continue
		}
		if m := first(h.prefix[r.Path[:n]], r); m != nil {
			return m
		}
	}
	return nil
}

func (h *hostRules) findCall(r *Request) *matcher {
	service, call, ok := splitCall(r.Path)
	if !ok {
		return nil
	}
	if m := first(h.calls[r.Path], r); m != nil {
		return m
	}
	if m := first(h.services[r.Path[:1+len(service)]], r); m != nil {
		return m
	}
	for _, m := range h.others {
		if m.service.takes(service) && m.call.takes(call) && m.takes(r) {
			return m
		}
	}
	return nil
}

// compare orders matchers: what counts first comes first.
func compare(a, b *matcher) int {
	return cmp.Or(
		cmp.Compare(vagueHost(a.host), vagueHost(b.host)),
		-cmp.Compare(len(a.host), len(b.host)),
		cmp.Compare(vagueKind(a), vagueKind(b)),
		comparePaths(a, b),
		-cmp.Compare(min(1, len(a.match.Method)), min(1, len(b.match.Method))),
		-cmp.Compare(len(a.headers), len(b.headers)),
		-cmp.Compare(len(a.query), len(b.query)),
		compareAges(a.rule.Route, b.rule.Route),
		strings.Compare(a.rule.Route.Namespace+"/"+a.rule.Route.Name, b.rule.Route.Namespace+"/"+b.rule.Route.Name),
		cmp.Compare(a.rule.Index, b.rule.Index),
		cmp.Compare(a.index, b.index),
	)
}

func vagueHost(host string) int {
	switch {
	case host == "":
		return 2
	case host[0] == '*':
		return 1
	}
	return 0
}

func vagueKind(m *matcher) int {
	if m.rule.Route.Kind == kindGRPC {
		return 0
	}
	return 1
}

func comparePaths(a, b *matcher) int {
	if a.rule.Route.Kind == kindGRPC {
		return cmp.Or(
			cmp.Compare(vagueCall(a), vagueCall(b)),
			-cmp.Compare(len(a.service.text), len(b.service.text)),
			-cmp.Compare(len(a.call.text), len(b.call.text)),
		)
	}
	return cmp.Or(cmp.Compare(vaguePath(a), vaguePath(b)), -cmp.Compare(len(a.path), len(b.path)))
}

// vagueCall puts what is exact before expressions, which come before what is for
// all calls.
func vagueCall(m *matcher) int {
	switch {
	case m.exactCall():
		return 0
	case m.exactService():
		return 1
	case m.service.re != nil || m.call.re != nil:
		return 3
	case m.call.text != "":
		return 2
	}
	return 4
}

func vaguePath(m *matcher) int {
	switch m.match.Path.Kind {
	case Exact:
		return 0
	case Expression:
		return 1
	}
	return 2
}

// compareAges puts the older route first; one of unknown age after all others.
func compareAges(a, b *Route) int {
	if a.Created.IsZero() || b.Created.IsZero() {
		return cmp.Compare(zero(a), zero(b))
	}
	return a.Created.Compare(b.Created)
}

func zero(r *Route) int {
	if r.Created.IsZero() {
		return 1
	}
	return 0
}
