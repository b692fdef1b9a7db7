package resource

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
)

// What the schemas of the Gateway API check of fields together, and what they
// leave to who compiles expressions.

// base begins the check of a document: its name, and the rules of its fields.
func (h *header) base(p *problems, spec any) *gatewayCheck {
	h.requireName(p)
	if h.Metadata.CreationTimestamp != "" {
		if _, err := time.Parse(time.RFC3339, h.Metadata.CreationTimestamp); err != nil {
			p.addf(h.Pos, h.describe(), "metadata.creationTimestamp", "wants a time such as 2026-01-31T12:00:00Z, not %q", h.Metadata.CreationTimestamp)
		}
	}
	c := &gatewayCheck{problems: p, resource: h.describe(), names: map[string]int{}}
	(&ruleChecker{p, h.describe()}).walk(reflect.ValueOf(spec).Elem(), "spec", h.Pos)
	return c
}

type gatewayCheck struct {
	problems *problems
	resource string
	names    map[string]int // of rules
}

func (c *gatewayCheck) addf(pos component.Position, path, format string, args ...any) {
	c.problems.addf(pos, c.resource, path, format, args...)
}

// Created returns when a resource was made, as an exported one says; else the
// zero time.
func (h *header) Created() time.Time {
	t, _ := time.Parse(time.RFC3339, h.Metadata.CreationTimestamp) // checked when it was read
	return t
}

// Namespace returns that of the resource; "" when it does not say.
func (h *header) Namespace() string { return h.Metadata.Namespace }

// Name returns the name of the resource.
func (h *header) Name() string { return h.Metadata.Name }

// Position returns where the document starts.
func (h *header) Position() component.Position { return h.Pos }

// Problem returns an error about a field of the resource.
func (h *header) Problem(pos component.Position, field, format string, args ...any) error {
	return &Error{pos, h.describe(), field, fmt.Sprintf(format, args...)}
}

func (r *HTTPRoute) check(p *problems) {
	c := r.base(p, &r.Spec)
	c.parents(r.Spec.ParentRefs)
	if len(r.Spec.Rules) == 0 {
		r.Spec.Rules = []HTTPRouteRule{{Pos: r.Pos}}
	}
	matches := 0
	for i := range r.Spec.Rules {
		matches += max(1, len(r.Spec.Rules[i].Matches))
		c.httpRule(&r.Spec.Rules[i], fmt.Sprintf("spec.rules[%d]", i))
	}
	c.total(r.Pos, matches)
}

// maxMatches bounds the matches of a route.
const maxMatches = 128

func (c *gatewayCheck) total(pos component.Position, matches int) {
	if matches > maxMatches {
		c.addf(pos, "spec.rules", "have %d matches together; at most %d are allowed", matches, maxMatches)
	}
}

func (c *gatewayCheck) ruleName(name, path string, pos component.Position) {
	if name == "" {
		return
	}
	if line, dup := c.names[name]; dup {
		c.addf(pos, path+".name", "%q is the name of the rule in line %d, too", name, line)
	}
	c.names[name] = pos.Line
}

func (c *gatewayCheck) httpRule(r *HTTPRouteRule, path string) {
	c.ruleName(r.Name, path, r.Pos)
	if len(r.Matches) == 0 {
		r.Matches = []HTTPRouteMatch{{Pos: r.Pos}}
	}
	for i := range r.Matches {
		c.httpMatch(&r.Matches[i], fmt.Sprintf("%s.matches[%d]", path, i))
	}
	prefix := len(r.Matches) == 1 && r.Matches[0].Path.Type == "PathPrefix"
	c.filters(r.Filters, filterUse{path: path + ".filters", prefix: prefix})
	c.backends(r.BackendRefs, path, prefix, false)
	if i := slices.IndexFunc(r.Filters, func(f Filter) bool { return f.RequestRedirect != nil }); i >= 0 && len(r.BackendRefs) > 0 {
		c.addf(r.Filters[i].Pos, fmt.Sprintf("%s.filters[%d]", path, i), "redirects, so the rule must have no backendRefs")
	}
	c.timeouts(r.Timeouts, path+".timeouts")
	c.session(r.SessionPersistence, path+".sessionPersistence")
}

func (c *gatewayCheck) timeouts(t *RouteTimeouts, path string) {
	if t == nil {
		return
	}
	if t.Request.Std() != 0 && t.BackendRequest.Std() > t.Request.Std() {
		c.addf(t.Pos, path+".backendRequest", "is %v, longer than request, which is %v", t.BackendRequest.Std(), t.Request.Std())
	}
}

func (c *gatewayCheck) session(s *SessionPersistence, path string) {
	switch {
	case s == nil:
	case s.CookieConfig != nil && s.Type != "Cookie":
		c.addf(s.CookieConfig.Pos, path+".cookieConfig", "is for type Cookie only, not %s", s.Type)
	case s.CookieConfig != nil && s.CookieConfig.LifetimeType == "Permanent" && s.AbsoluteTimeout == nil:
		c.addf(s.Pos, path+".absoluteTimeout", "is required for cookies of lifetimeType Permanent")
	}
}

var (
	pathCharacters = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$`)
	grpcService    = regexp.MustCompile(`^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$`)
	grpcMethod     = regexp.MustCompile(`^[A-Za-z_][A-Za-z_0-9]*$`)
)

// httpMatch checks a match, and gives it the path that it has by default.
func (c *gatewayCheck) httpMatch(m *HTTPRouteMatch, path string) {
	if m.Path == nil {
		m.Path = &PathMatch{Type: "PathPrefix", Pos: m.Pos}
	}
	if m.Path.Value == nil {
		all := "/"
		m.Path.Value = &all
	}
	c.path(m.Path, path+".path.value")
	c.values(m.Headers, path+".headers", strings.EqualFold)
	c.values(m.QueryParams, path+".queryParams", func(a, b string) bool { return a == b })
	for i, q := range m.QueryParams {
		if len(q.Value) > 1024 {
			c.addf(q.Pos, fmt.Sprintf("%s.queryParams[%d].value", path, i), "has %d characters; at most 1024 are allowed", len(q.Value))
		}
	}
}

func (c *gatewayCheck) path(m *PathMatch, at string) {
	v := *m.Value
	if m.Type == "RegularExpression" {
		c.expression(v, at, m.Pos)
		return
	}
	if !strings.HasPrefix(v, "/") {
		c.addf(m.Pos, at, "must begin with \"/\" for type %s, not %q", m.Type, v)
		return
	}
	for _, part := range []string{"//", "/./", "/../", "%2f", "%2F", "#"} {
		if strings.Contains(v, part) {
			c.addf(m.Pos, at, "must not contain %q for type %s", part, m.Type)
			return
		}
	}
	switch {
	case strings.HasSuffix(v, "/..") || strings.HasSuffix(v, "/."):
		c.addf(m.Pos, at, "must not end with \"/.\" or \"/..\"")
	case !pathCharacters.MatchString(v):
		c.addf(m.Pos, at, "has characters that a path cannot have; write them as %%XX: %q", v)
	}
}

func (c *gatewayCheck) expression(text, at string, pos component.Position) {
	if _, err := regexp.Compile(text); err != nil {
		c.addf(pos, at, "is no regular expression (RE2): %v", err)
	}
}

// values checks matches by name. Of several with one name only the first would
// count, which nobody wants.
func (c *gatewayCheck) values(list []ValueMatch, path string, same func(a, b string) bool) {
	for i, m := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if j := slices.IndexFunc(list[:i], func(o ValueMatch) bool { return same(o.Name, m.Name) }); j >= 0 {
			c.addf(m.Pos, at+".name", "%q is matched twice; first in line %d", m.Name, list[j].Pos.Line)
		}
		if m.Type == "RegularExpression" {
			c.expression(m.Value, at+".value", m.Pos)
		}
	}
}

func (r *GRPCRoute) check(p *problems) {
	c := r.base(p, &r.Spec)
	c.parents(r.Spec.ParentRefs)
	matches := 0
	for i := range r.Spec.Rules {
		rule, path := &r.Spec.Rules[i], fmt.Sprintf("spec.rules[%d]", i)
		c.ruleName(rule.Name, path, rule.Pos)
		matches += max(1, len(rule.Matches))
		for j := range rule.Matches {
			m, at := &rule.Matches[j], fmt.Sprintf("%s.matches[%d]", path, j)
			c.values(m.Headers, at+".headers", strings.EqualFold)
			if m.Method != nil {
				c.grpcMethod(m.Method, at+".method")
			}
		}
		c.filters(rule.Filters, filterUse{path: path + ".filters", grpc: true})
		c.backends(rule.BackendRefs, path, false, true)
		c.session(rule.SessionPersistence, path+".sessionPersistence")
	}
	c.total(r.Pos, matches)
}

func (c *gatewayCheck) grpcMethod(m *GRPCMethodMatch, path string) {
	switch {
	case m.Service == "" && m.Method == "":
		c.addf(m.Pos, path, "wants a service, a method or both")
	case m.Type == "RegularExpression":
		c.expression(m.Service, path+".service", m.Pos)
		c.expression(m.Method, path+".method", m.Pos)
	case m.Service != "" && !grpcService.MatchString(m.Service):
		c.addf(m.Pos, path+".service", `wants a service such as "shop.v1.Orders", not %q`, m.Service)
	case m.Method != "" && !grpcMethod.MatchString(m.Method):
		c.addf(m.Pos, path+".method", `wants a method such as "GetOrder", not %q`, m.Method)
	}
}

func (r *TCPRoute) check(p *problems) {
	c := r.base(p, &r.Spec)
	c.parents(r.Spec.ParentRefs)
	c.connections(r.Spec.Rules)
}

func (r *TLSRoute) check(p *problems) {
	c := r.base(p, &r.Spec)
	c.parents(r.Spec.ParentRefs)
	c.connections(r.Spec.Rules)
}

func (c *gatewayCheck) connections(list []ConnectionRule) {
	for i, r := range list {
		for j := range r.BackendRefs {
			c.backend(&r.BackendRefs[j].BackendReference, r.BackendRefs[j].Pos, fmt.Sprintf("spec.rules[%d].backendRefs[%d]", i, j))
		}
	}
}

// parents checks what a route is attached to.
func (c *gatewayCheck) parents(list []ParentReference) {
	for i, ref := range list {
		at := fmt.Sprintf("spec.parentRefs[%d]", i)
		group := groupGateway
		if ref.Group != nil {
			group = *ref.Group
		}
		switch {
		case group == "" && ref.Kind == "Service", group == groupGateway && ref.Kind == "Gateway":
		case group == groupGateway && ref.Kind == "Service":
			c.addf(ref.Pos, at+".group", `is %q by default; a Service wants group: ""`, groupGateway)
		case group == groupGateway && ref.Kind == "ListenerSet":
			c.addf(ref.Pos, at+".kind", "ListenerSet is not supported; attach the route to a Gateway")
		default:
			c.addf(ref.Pos, at+".kind", "wants a Gateway of %s or a Service of the group \"\", not %s of %q", groupGateway, ref.Kind, group)
		}
		for _, o := range list[:i] {
			if o.Name == ref.Name && o.Kind == ref.Kind && o.Namespace == ref.Namespace && o.SectionName == ref.SectionName && o.Port == ref.Port {
				c.addf(ref.Pos, at, "%s %s is named twice; first in line %d", ref.Kind, ref.Name, o.Pos.Line)
			}
		}
	}
}

func (c *gatewayCheck) backends(list []RouteBackend, path string, prefix, grpc bool) {
	for i := range list {
		at := fmt.Sprintf("%s.backendRefs[%d]", path, i)
		c.backend(&list[i].BackendReference, list[i].Pos, at)
		c.filters(list[i].Filters, filterUse{path: at + ".filters", prefix: prefix, grpc: grpc, backend: true})
	}
}

// backend checks a reference and gives it the position of what it stands in.
func (c *gatewayCheck) backend(ref *BackendReference, pos component.Position, path string) {
	if ref.Pos.Line == 0 {
		ref.Pos = pos
	}
	if ref.Kind == "Hostname" && ref.Group == "proa.io" {
		if !formPrecise.re.MatchString(ref.Name) || isIP(ref.Name) {
			c.addf(ref.Pos, path+".name", "wants %s, not %q", formPrecise.wants, ref.Name)
		}
		if ref.Port == 0 {
			c.addf(ref.Pos, path+".port", "is required for a Hostname")
		}
	}
}
