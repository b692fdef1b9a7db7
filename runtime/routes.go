package runtime

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/route"
	"github.com/proa-io/proa/resource"
)

// Routes are the routes of applications as the resources declare them.
type Routes struct {
	// Apps are the tables of the applications that have routes.
	Apps map[discovery.Service]*route.Table
	// Ports are the backends of raw connections to the applications that have
	// TCPRoutes.
	Ports map[discovery.Service]*route.Rule

	digest string
}

// groupGateway is the API group of routes.
const groupGateway = "gateway.networking.k8s.io"

// CompileRoutes makes tables of what was read, for a sidecar in a namespace: its
// own routes of an application count before those that the application's namespace
// has for everybody.
func CompileRoutes(set *resource.Set, namespace string) (*Routes, error) {
	c := &routeCompiler{set: &set.Gateway, all: set, namespace: namespace, httpRoutes: map[discovery.Service]*declared{}, ports: map[discovery.Service]*route.Rule{}}
	for i := range c.set.HTTPRoutes {
		c.httpRoute(&c.set.HTTPRoutes[i])
	}
	for i := range c.set.GRPCRoutes {
		c.grpcRoute(&c.set.GRPCRoutes[i])
	}
	for i := range c.set.TCPRoutes {
		r := &c.set.TCPRoutes[i]
		c.connections(r, "TCPRoute", r.Spec.ParentRefs, r.Spec.Rules)
	}
	for i := range c.set.TLSRoutes {
		r := &c.set.TLSRoutes[i]
		c.connections(r, "TLSRoute", r.Spec.ParentRefs, r.Spec.Rules)
	}
	out := &Routes{Apps: map[discovery.Service]*route.Table{}, Ports: c.ports, digest: c.set.Digest()}
	for app, d := range c.httpRoutes {
		list := d.own
		if len(list) == 0 {
			list = d.everybody
		}
		table, err := route.Compile(list, true)
		c.errs = append(c.errs, err)
		out.Apps[app] = table
	}
	return out, errors.Join(c.errs...)
}

// Empty reports whether there are no routes.
func (r *Routes) Empty() bool { return r == nil || len(r.Apps) == 0 && len(r.Ports) == 0 }

// AppRoutes are the rules for one application.
type AppRoutes struct {
	Namespace, AppID string
	// Rules are in the order in which they count.
	Rules []*route.Rule
	// Connections is the rule for raw connections; nil for none.
	Connections *route.Rule
}

// String returns "app.namespace".
func (a *AppRoutes) String() string { return a.AppID + "." + a.Namespace }

// List returns the rules of all applications that have any, by name.
func (r *Routes) List() []AppRoutes {
	var out []AppRoutes
	add := func(app discovery.Service) {
		if slices.ContainsFunc(out, func(a AppRoutes) bool { return a.AppID == app.AppID && a.Namespace == app.Namespace }) {
			return
		}
		a := AppRoutes{Namespace: app.Namespace, AppID: app.AppID, Connections: r.Ports[app]}
		if t := r.Apps[app]; t != nil {
			a.Rules = t.Rules()
		}
		out = append(out, a)
	}
	for app := range r.Apps {
		add(app)
	}
	for app := range r.Ports {
		add(app)
	}
	slices.SortFunc(out, func(a, b AppRoutes) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// Table returns the routes of an application; nil for none.
func (r *Routes) Table(namespace, appID string) *route.Table {
	return r.Apps[discovery.Service{Namespace: namespace, AppID: appID}]
}

// declared are the routes of one application.
type declared struct{ own, everybody []*route.Route }

type routeCompiler struct {
	set        *resource.GatewaySet
	all        *resource.Set
	namespace  string
	httpRoutes map[discovery.Service]*declared
	ports      map[discovery.Service]*route.Rule
	errs       []error
}

// origin is the resource that something is declared in.
type origin interface {
	Name() string
	Namespace() string
	Position() component.Position
	Problem(pos component.Position, field, format string, args ...any) error
}

// place is where in a resource something is declared.
type place struct {
	of        origin
	kind      string
	namespace string // of the resource
	path      string
	pos       component.Position
}

func (c *routeCompiler) place(of origin, kind string) place {
	return place{of: of, kind: kind, namespace: orDefault(of.Namespace(), c.namespace), pos: of.Position()}
}

func (p place) at(pos component.Position, format string, args ...any) place {
	p.path += fmt.Sprintf(format, args...)
	if pos.Line != 0 {
		p.pos = pos
	}
	return p
}

func (c *routeCompiler) problem(p place, format string, args ...any) {
	c.errs = append(c.errs, p.of.Problem(p.pos, p.path, format, args...))
}

func orDefault(namespace, own string) string {
	if namespace == "" {
		return own
	}
	return namespace
}

// parents returns the applications that a route is for, and whether only for those
// who call from its own namespace.
func (c *routeCompiler) parents(p place, refs []resource.ParentReference) (apps []discovery.Service, consumer []bool) {
	for _, ref := range refs {
		if ref.Kind != "Service" {
			continue // it is for a gateway
		}
		app := discovery.Service{Namespace: orDefault(ref.Namespace, p.namespace), AppID: ref.Name}
		if app.Namespace != p.namespace && p.namespace != c.namespace {
			continue // it is for who calls from there
		}
		if !slices.Contains(apps, app) {
			apps, consumer = append(apps, app), append(consumer, app.Namespace != p.namespace)
		}
	}
	return apps, consumer
}

func (c *routeCompiler) attach(p place, refs []resource.ParentReference, r *route.Route) {
	apps, consumer := c.parents(p, refs)
	for i, app := range apps {
		d := c.httpRoutes[app]
		if d == nil {
			d = &declared{}
			c.httpRoutes[app] = d
		}
		attached := *r
		attached.Rules = nil
		for _, rule := range r.Rules {
			own := *rule // each table has rules of its own
			own.Backends = slices.Clone(rule.Backends)
			attached.Rules = append(attached.Rules, &own)
		}
		if consumer[i] {
			d.own = append(d.own, &attached)
		} else {
			d.everybody = append(d.everybody, &attached)
		}
	}
}

func (c *routeCompiler) httpRoute(r *resource.HTTPRoute) {
	p := c.place(r, "HTTPRoute")
	out := &route.Route{Kind: "HTTPRoute", Namespace: r.Namespace(), Name: r.Name(), Created: r.Created(), Hosts: r.Spec.Hostnames}
	for i := range r.Spec.Rules {
		in := &r.Spec.Rules[i]
		at := p.at(in.Pos, "spec.rules[%d]", i)
		rule := &route.Rule{Name: in.Name, Where: in.Pos.String()}
		for _, m := range in.Matches {
			rule.Matches = append(rule.Matches, httpMatch(&m))
		}
		c.session(at, in.SessionPersistence)
		rule.Filters = c.filters(at, in.Filters)
		if t := in.Timeouts; t != nil {
			c.timeouts(at.at(t.Pos, ".timeouts"), &rule.Filters, t)
		}
		if in.Retry != nil {
			c.retry(at.at(in.Retry.Pos, ".retry"), &rule.Filters, &resource.FilterRetry{Codes: in.Retry.Codes, Attempts: in.Retry.Attempts, Backoff: in.Retry.Backoff})
		}
		c.backends(at, rule, in.BackendRefs)
		out.Rules = append(out.Rules, rule)
	}
	c.attach(p, r.Spec.ParentRefs, out)
}

func httpMatch(m *resource.HTTPRouteMatch) route.Match {
	kinds := map[string]route.PathKind{"Exact": route.Exact, "PathPrefix": route.Prefix, "RegularExpression": route.Expression}
	return route.Match{
		Path: route.PathMatch{Kind: kinds[m.Path.Type], Value: *m.Path.Value}, Method: m.Method,
		Headers: valueMatches(m.Headers), Query: valueMatches(m.QueryParams),
	}
}

func valueMatches(list []resource.ValueMatch) (out []route.ValueMatch) {
	for _, v := range list {
		out = append(out, route.ValueMatch{Name: v.Name, TextMatch: route.TextMatch{Value: v.Value, Expression: v.Type == "RegularExpression"}})
	}
	return out
}

func (c *routeCompiler) grpcRoute(r *resource.GRPCRoute) {
	p := c.place(r, "GRPCRoute")
	out := &route.Route{Kind: "GRPCRoute", Namespace: r.Namespace(), Name: r.Name(), Created: r.Created(), Hosts: r.Spec.Hostnames}
	for i := range r.Spec.Rules {
		in := &r.Spec.Rules[i]
		at := p.at(in.Pos, "spec.rules[%d]", i)
		rule := &route.Rule{Name: in.Name, Where: in.Pos.String()}
		for _, m := range in.Matches {
			match := route.Match{Headers: valueMatches(m.Headers)}
			if g := m.Method; g != nil {
				expression := g.Type == "RegularExpression"
				match.Service = route.TextMatch{Value: g.Service, Expression: expression}
				match.Call = route.TextMatch{Value: g.Method, Expression: expression}
			}
			rule.Matches = append(rule.Matches, match)
		}
		c.session(at, in.SessionPersistence)
		rule.Filters = c.filters(at, in.Filters)
		c.backends(at, rule, in.BackendRefs)
		out.Rules = append(out.Rules, rule)
	}
	c.attach(p, r.Spec.ParentRefs, out)
}

func (c *routeCompiler) session(p place, s *resource.SessionPersistence) {
	if s != nil {
		c.problem(p.at(s.Pos, ".sessionPersistence"), "is not supported: requests of a session go to whichever instance is chosen")
	}
}

func (c *routeCompiler) backends(p place, rule *route.Rule, list []resource.RouteBackend) {
	for i := range list {
		b := &list[i]
		at := p.at(b.Pos, ".backendRefs[%d]", i)
		out := c.backend(at, &b.BackendReference)
		out.Weight = weightOf(b.Weight)
		out.Filters = c.filters(at, b.Filters)
		if f := &out.Filters; f.Fault != nil || f.Direct != nil || f.Retry != nil || f.Hedge != nil || f.Compression != nil ||
			f.MaxRequestBytes > 0 || f.Timeouts != (route.Timeouts{}) {
			c.problem(at.at(b.Pos, ".filters"), "name a RouteFilter, which is for rules, not for backends")
		}
		rule.Backends = append(rule.Backends, out)
	}
}

func weightOf(w *int32) uint32 {
	if w == nil {
		return 1
	}
	return uint32(*w) //nolint:gosec // it was checked to be from 0 to 1,000,000
}

// backend resolves a reference. What cannot be resolved is a backend that answers
// with why.
func (c *routeCompiler) backend(p place, ref *resource.BackendReference) route.Backend {
	b := route.Backend{Name: ref.Name, Port: int(ref.Port)}
	namespace := orDefault(ref.Namespace, p.namespace)
	switch {
	case ref.Group == "" && ref.Kind == "Service":
		b.Namespace = namespace
		if namespace != p.namespace && !c.granted(p, ref, namespace) {
			b.Problem = fmt.Sprintf("it is of namespace %q, which has no ReferenceGrant for %ss of %q", namespace, p.kind, p.namespace)
		}
	case ref.Group == "dapr.io" && ref.Kind == "HTTPEndpoint":
		b.Kind = route.Endpoint
		if !slices.ContainsFunc(c.all.HTTPEndpoints, func(e resource.HTTPEndpoint) bool { return e.Name() == ref.Name }) {
			b.Problem = fmt.Sprintf("there is no HTTPEndpoint %q", ref.Name)
		}
	case ref.Group == "proa.io" && ref.Kind == "Hostname":
		b.Kind = route.External
		b.Name = c.external(p, ref)
	default:
		b.Problem = fmt.Sprintf(`%s of %q is no kind of backend; there is Service, HTTPEndpoint of "dapr.io" and Hostname of "proa.io"`, ref.Kind, ref.Group)
	}
	return b
}

// external returns the origin of a host outside: https on port 443, and where a
// BackendTLSPolicy says so.
func (c *routeCompiler) external(p place, ref *resource.BackendReference) string {
	scheme := "http"
	if ref.Port == 443 {
		scheme = "https"
	}
	for i := range c.set.BackendTLSPolicies {
		t := &c.set.BackendTLSPolicies[i]
		for _, target := range t.Spec.TargetRefs {
			if target.Group != ref.Group || target.Kind != ref.Kind || target.Name != ref.Name || orDefault(t.Namespace(), c.namespace) != p.namespace {
				continue
			}
			scheme = "https"
			v := &t.Spec.Validation
			if v.WellKnownCACertificates != "System" || v.Hostname != ref.Name || len(v.SubjectAltNames) > 0 {
				c.problem(p, "BackendTLSPolicy %s asks for authorities or names of its own, which are supported by an HTTPEndpoint of dapr.io (spec.clientTLS)", t.Name())
			}
		}
	}
	origin := scheme + "://" + ref.Name
	if scheme == "http" && ref.Port == 80 || scheme == "https" && ref.Port == 443 {
		return origin
	}
	return origin + ":" + strconv.Itoa(int(ref.Port))
}

// granted reports whether another namespace lets itself be referred to.
func (c *routeCompiler) granted(p place, ref *resource.BackendReference, namespace string) bool {
	for i := range c.set.ReferenceGrants {
		g := &c.set.ReferenceGrants[i]
		if orDefault(g.Namespace(), c.namespace) != namespace {
			continue
		}
		from := slices.ContainsFunc(g.Spec.From, func(f resource.GrantFrom) bool {
			return f.Group == groupGateway && f.Kind == p.kind && f.Namespace == p.namespace
		})
		to := slices.ContainsFunc(g.Spec.To, func(t resource.GrantTo) bool {
			return t.Group == ref.Group && t.Kind == ref.Kind && (t.Name == "" || t.Name == ref.Name)
		})
		if from && to {
			return true
		}
	}
	return false
}

// connections takes the rule of a TCPRoute or a TLSRoute. Of several for one
// application the oldest counts, or the first by name; a TCPRoute after a TLSRoute
// never does.
func (c *routeCompiler) connections(of origin, kind string, refs []resource.ParentReference, rules []resource.ConnectionRule) {
	p := c.place(of, kind)
	apps, _ := c.parents(p, refs)
	if len(apps) == 0 {
		return
	}
	if kind == "TLSRoute" {
		c.problem(p.at(p.pos, "spec.parentRefs"), "name a Service: TLS between applications is that of their sidecars, which know no host names; use a TCPRoute")
		return
	}
	at := p.at(rules[0].Pos, "spec.rules[0]")
	rule := &route.Rule{Name: rules[0].Name, Where: rules[0].Pos.String(), Route: &route.Route{Kind: kind, Namespace: of.Namespace(), Name: of.Name()}}
	for i := range rules[0].BackendRefs {
		ref := &rules[0].BackendRefs[i]
		b := c.backend(at.at(ref.Pos, ".backendRefs[%d]", i), &ref.BackendReference)
		if b.Kind != route.Application && b.Problem == "" {
			b.Problem = "raw connections lead to applications only"
		}
		b.Weight = weightOf(ref.Weight)
		rule.Backends = append(rule.Backends, b)
	}
	rule.Prepare()
	for _, app := range apps {
		if old := c.ports[app]; old != nil && strings.Compare(old.Route.Name, of.Name()) < 0 {
			continue
		}
		c.ports[app] = rule
	}
}

// header makes a change of header fields.
func headerChange(m *resource.HeaderModifier) *route.HeaderChange {
	if m == nil {
		return nil
	}
	return &route.HeaderChange{Set: fields(m.Set), Add: fields(m.Add), Remove: m.Remove}
}

func fields(list []resource.HeaderField) (out proxy.Header) {
	for _, f := range list {
		out.Add(strings.ToLower(f.Name), f.Value)
	}
	return out
}
