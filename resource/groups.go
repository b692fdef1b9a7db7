package resource

import (
	"maps"
	"slices"

	"github.com/proa-io/proa/component"
	"go.yaml.in/yaml/v3"
)

// GatewaySet is what was read of routing, of all namespaces.
type GatewaySet struct {
	HTTPRoutes         []HTTPRoute
	GRPCRoutes         []GRPCRoute
	TCPRoutes          []TCPRoute
	TLSRoutes          []TLSRoute
	Gateways           []Gateway
	BackendTLSPolicies []BackendTLSPolicy
	ReferenceGrants    []ReferenceGrant
	RouteFilters       []RouteFilter
}

func (g *GatewaySet) list() []described {
	return slices.Concat(list(g.HTTPRoutes), list(g.GRPCRoutes), list(g.TCPRoutes), list(g.TLSRoutes), list(g.Gateways),
		list(g.BackendTLSPolicies), list(g.ReferenceGrants), list(g.RouteFilters))
}

// Digest is equal for two sets that say the same, in whatever order.
func (g *GatewaySet) Digest() string {
	all := map[string]string{}
	for _, r := range g.list() {
		all[r.identity()] = r.Digest()
	}
	out := ""
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out += name + " " + all[name] + "\n"
	}
	return out
}

// Routes returns how many routes there are, of all kinds.
func (g *GatewaySet) Routes() int {
	return len(g.HTTPRoutes) + len(g.GRPCRoutes) + len(g.TCPRoutes) + len(g.TLSRoutes)
}

// Empty reports whether nothing was read.
func (g *GatewaySet) Empty() bool { return len(g.list()) == 0 }

// apiGroup is an API group beside dapr.io, of which some kinds are read.
type apiGroup struct {
	name string
	// kinds and the versions in which each is read.
	kinds map[string][]string
	// passed are kinds that say nothing to this program.
	passed []string
	// refused are kinds that it cannot honour, and why.
	refused map[string]string
}

func otherGroup(name string) (apiGroup, bool) {
	switch name {
	case groupGateway:
		return apiGroup{
			name: name,
			kinds: map[string][]string{
				"HTTPRoute": {"v1", "v1beta1"}, "GRPCRoute": {"v1", "v1alpha2"}, "TCPRoute": {"v1", "v1alpha2"},
				"TLSRoute": {"v1", "v1alpha2", "v1alpha3"}, "Gateway": {"v1", "v1beta1"},
				"BackendTLSPolicy": {"v1", "v1alpha3"}, "ReferenceGrant": {"v1", "v1beta1"},
			},
			passed: []string{"GatewayClass"},
			refused: map[string]string{
				"UDPRoute": "datagrams are not routed", "ListenerSet": "write its listeners into the Gateway",
			},
		}, true
	case "proa.io":
		return apiGroup{name: name, kinds: map[string][]string{
			"RouteFilter": {"v1alpha1"}, "TrafficPolicy": {"v1alpha1"}, "RateLimit": {"v1alpha1"},
		}}, true
	}
	return apiGroup{}, false
}

// everywhere reports whether resources of the kind are read whatever their
// namespace is: they say of themselves what they are for.
func (h *header) everywhere() bool {
	switch h.Kind {
	case "HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "Gateway", "BackendTLSPolicy", "ReferenceGrant", "RouteFilter":
		return true
	}
	return false
}

// other reads a document of another group than dapr.io.
func (l *loader) other(path string, n *yaml.Node, g apiGroup, apiVersion string) {
	pos := component.Position{File: path, Line: n.Line, Column: n.Column}
	kind := scalarField(n, "kind")
	versions, known := g.kinds[kind]
	switch {
	case slices.Contains(g.passed, kind):
		l.ignore(n, pos, apiVersion, kind)
	case g.refused[kind] != "":
		l.problems.addf(pos, describeNode(n), "kind", "is not supported: %s", g.refused[kind])
	case !known:
		l.problems.addf(pos, "", "kind", "%q is not a kind of %s%s", kind, g.name, suggest(kind, slices.Sorted(maps.Keys(g.kinds))))
	case !slices.Contains(versions, apiVersion[len(g.name)+min(1, len(apiVersion)-len(g.name)):]):
		l.problems.addf(pos, kind, "apiVersion", `%q is not known for this kind; there is "%s/%s"`, apiVersion, g.name, versions[0])
	default:
		l.decode(path, n, kind)
	}
}

func (l *loader) decodeOther(path string, n *yaml.Node, kind string) {
	g := &l.set.Gateway
	switch kind {
	case "HTTPRoute":
		keep(l, path, n, &g.HTTPRoutes)
	case "GRPCRoute":
		keep(l, path, n, &g.GRPCRoutes)
	case "TCPRoute":
		keep(l, path, n, &g.TCPRoutes)
	case "TLSRoute":
		keep(l, path, n, &g.TLSRoutes)
	case "Gateway":
		keep(l, path, n, &g.Gateways)
	case "BackendTLSPolicy":
		keep(l, path, n, &g.BackendTLSPolicies)
	case "ReferenceGrant":
		keep(l, path, n, &g.ReferenceGrants)
	case "RouteFilter":
		keep(l, path, n, &g.RouteFilters)
	case "TrafficPolicy":
		keep(l, path, n, &l.set.TrafficPolicies)
	case "RateLimit":
		keep(l, path, n, &l.set.RateLimits)
	}
}

// keep reads a document into a list.
func keep[T any, P checker[T]](l *loader, path string, n *yaml.Node, into *[]T) {
	r, ok := read[T, P](l, path, n)
	if h := P(&r).head(); ok && l.unique(h.Kind, h) {
		*into = append(*into, r)
	}
}
