package resource

import (
	"fmt"
	"slices"
	"strings"

	"github.com/proa-io/proa/component"
)

// filterUse says where filters stand.
type filterUse struct {
	path    string
	prefix  bool // the rule has one match, which is on a prefix
	grpc    bool
	backend bool // of a backend
}

// filterTypes are the types of filters, each with the field that belongs to it.
func filterTypes(f *Filter) []struct {
	name, field string
	given       bool
} {
	return []struct {
		name, field string
		given       bool
	}{
		{"RequestHeaderModifier", "requestHeaderModifier", f.RequestHeaderModifier != nil},
		{"ResponseHeaderModifier", "responseHeaderModifier", f.ResponseHeaderModifier != nil},
		{"RequestMirror", "requestMirror", f.RequestMirror != nil},
		{"ExtensionRef", "extensionRef", f.ExtensionRef != nil},
		{"RequestRedirect", "requestRedirect", f.RequestRedirect != nil},
		{"URLRewrite", "urlRewrite", f.URLRewrite != nil},
		{"CORS", "cors", f.CORS != nil},
	}
}

// grpcFilters is how many of filterTypes a GRPCRoute has, too.
const grpcFilters = 4

func (c *gatewayCheck) filters(list []Filter, use filterUse) {
	seen := map[string]bool{}
	for i := range list {
		f, at := &list[i], fmt.Sprintf("%s[%d]", use.path, i)
		if f.Type == "ExternalAuth" || f.ExternalAuth != nil {
			c.addf(f.Pos, at+".type", "ExternalAuth is not supported: who may do what is said by access rules (Configuration spec.accessControl)")
			continue
		}
		c.filterType(f, at, use.grpc)
		if seen[f.Type] && f.Type != "RequestMirror" && f.Type != "ExtensionRef" {
			c.addf(f.Pos, at+".type", "%s is given twice; once is allowed", f.Type)
		}
		seen[f.Type] = true
		c.filter(f, at, use)
	}
	if seen["RequestRedirect"] && seen["URLRewrite"] {
		c.addf(list[0].Pos, use.path, "have both RequestRedirect and URLRewrite; keep one")
	}
}

func (c *gatewayCheck) filterType(f *Filter, at string, grpc bool) {
	types := filterTypes(f)
	if grpc {
		types = types[:grpcFilters]
	}
	var names []string
	for _, t := range types {
		names = append(names, t.name)
	}
	if f.Type != "" && !slices.Contains(names, f.Type) {
		c.addf(f.Pos, at+".type", "wants one of %s, not %q%s", strings.Join(names, ", "), f.Type, nearest(f.Type, names))
		return
	}
	for _, t := range filterTypes(f) {
		switch {
		case t.name == f.Type && !t.given:
			c.addf(f.Pos, at+"."+t.field, "is required for a filter of type %s", f.Type)
		case t.name != f.Type && t.given && f.Type != "":
			c.addf(f.Pos, at+"."+t.field, "is for filters of type %s; this one is of type %s", t.name, f.Type)
		}
	}
}

func (c *gatewayCheck) filter(f *Filter, at string, use filterUse) {
	c.headers(f.RequestHeaderModifier, at+".requestHeaderModifier")
	c.headers(f.ResponseHeaderModifier, at+".responseHeaderModifier")
	if m := f.RequestMirror; m != nil {
		c.backend(&m.BackendRef, m.Pos, at+".requestMirror.backendRef")
		if m.Percent != nil && m.Fraction != nil {
			c.addf(m.Pos, at+".requestMirror", "has both percent and fraction; keep one")
		}
		if fr := m.Fraction; fr != nil && fr.Numerator > fr.Of() {
			c.addf(fr.Pos, at+".requestMirror.fraction", "is more than all: numerator %d of %d", fr.Numerator, fr.Of())
		}
	}
	if r := f.RequestRedirect; r != nil {
		c.pathModifier(r.Path, at+".requestRedirect.path", use.prefix)
		if use.backend {
			c.addf(f.Pos, at, "redirects, which is for rules, not for backends")
		}
	}
	if r := f.URLRewrite; r != nil {
		c.pathModifier(r.Path, at+".urlRewrite.path", use.prefix)
	}
	c.cors(f.CORS, at+".cors")
	if f.CORS != nil && use.backend {
		c.addf(f.Pos, at, "CORS is for rules, not for backends")
	}
	if e := f.ExtensionRef; e != nil && (e.Group != "proa.io" || e.Kind != "RouteFilter") {
		c.addf(e.Pos, at+".extensionRef", `wants a RouteFilter of "proa.io", not %s of %q`, e.Kind, e.Group)
	}
}

// Of returns the denominator; 100 by default.
func (f *Fraction) Of() int32 {
	if f.Denominator == nil {
		return 100
	}
	return *f.Denominator
}

func (c *gatewayCheck) headers(m *HeaderModifier, at string) {
	if m == nil {
		return
	}
	seen := map[string]component.Position{}
	note := func(name, path string, pos component.Position) {
		if first, dup := seen[strings.ToLower(name)]; dup {
			c.addf(pos, path, "%q is changed twice; first in line %d", name, first.Line)
		}
		seen[strings.ToLower(name)] = pos
	}
	for i, f := range m.Set {
		note(f.Name, fmt.Sprintf("%s.set[%d]", at, i), f.Pos)
		c.fieldValue(f, fmt.Sprintf("%s.set[%d]", at, i))
	}
	for i, f := range m.Add {
		note(f.Name, fmt.Sprintf("%s.add[%d]", at, i), f.Pos)
		c.fieldValue(f, fmt.Sprintf("%s.add[%d]", at, i))
	}
	for i, name := range m.Remove {
		note(name, fmt.Sprintf("%s.remove[%d]", at, i), m.Pos)
	}
}

// fieldValue refuses what cannot be sent as a field (RFC 9110, section 5.5).
func (c *gatewayCheck) fieldValue(f HeaderField, at string) {
	if strings.ContainsAny(f.Value, "\r\n\x00") {
		c.addf(f.Pos, at+".value", "has a line break or a NUL, which no header field can have")
	}
	switch strings.ToLower(f.Name) {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "content-length", "te", "trailer":
		c.addf(f.Pos, at+".name", "%q belongs to the connection or the length of the content, and cannot be set", f.Name)
	}
}

func (c *gatewayCheck) pathModifier(m *PathModifier, at string, prefix bool) {
	if m == nil {
		return
	}
	full := m.Type == "ReplaceFullPath"
	switch {
	case full && m.ReplaceFullPath == nil:
		c.addf(m.Pos, at+".replaceFullPath", "is required for type ReplaceFullPath")
	case !full && m.ReplacePrefixMatch == nil:
		c.addf(m.Pos, at+".replacePrefixMatch", "is required for type ReplacePrefixMatch")
	case full && m.ReplacePrefixMatch != nil:
		c.addf(m.Pos, at+".replacePrefixMatch", "is for type ReplacePrefixMatch only")
	case !full && m.ReplaceFullPath != nil:
		c.addf(m.Pos, at+".replaceFullPath", "is for type ReplaceFullPath only")
	case !full && !prefix:
		c.addf(m.Pos, at+".type", "ReplacePrefixMatch wants a rule with exactly one match, which is on a PathPrefix")
	}
	for _, text := range []*string{m.ReplaceFullPath, m.ReplacePrefixMatch} {
		if text != nil && *text != "" && !pathCharacters.MatchString(strings.ReplaceAll(*text, "?", "")) {
			c.addf(m.Pos, at, "has characters that a path cannot have; write them as %%XX: %q", *text)
		}
	}
}

func (c *gatewayCheck) cors(r *CORS, at string) {
	if r == nil {
		return
	}
	for _, l := range []struct {
		name string
		list []string
	}{{"allowOrigins", r.AllowOrigins}, {"allowMethods", r.AllowMethods}, {"allowHeaders", r.AllowHeaders}} {
		if len(l.list) > 1 && slices.Contains(l.list, "*") {
			c.addf(r.Pos, at+"."+l.name, `has "*" and others; "*" stands for all`)
		}
	}
}

func (g *ReferenceGrant) check(p *problems) { g.base(p, &g.Spec) }

func (f *RouteFilter) check(p *problems) {
	c := f.base(p, &f.Spec)
	s := &f.Spec
	c.timeouts(s.Timeouts, "spec.timeouts")
	if s.MaxRequestSize < 0 {
		c.addf(s.Pos, "spec.maxRequestSize", "wants a size, 1Mi for instance, not %d", s.MaxRequestSize)
	}
	if r := s.DirectResponse; r != nil {
		if r.Body != "" && (r.Status == 204 || r.Status == 304) {
			c.addf(r.Pos, "spec.directResponse.body", "cannot be sent with status %d", r.Status)
		}
		for i, h := range r.Headers {
			c.fieldValue(h, fmt.Sprintf("spec.directResponse.headers[%d]", i))
		}
	}
	if fi := s.Fault; fi != nil && fi.Delay == nil && fi.Abort == nil {
		c.addf(fi.Pos, "spec.fault", "wants delay, abort or both")
	}
	if z := s.Compression; z != nil {
		for i, t := range z.ContentTypes {
			if main, sub, ok := strings.Cut(t, "/"); !ok || main == "" || sub == "" || main == "*" && sub != "*" {
				c.addf(z.Pos, fmt.Sprintf("spec.compression.contentTypes[%d]", i), `wants a type such as "text/*" or "application/json", not %q`, t)
			}
		}
	}
}

func (b *BackendTLSPolicy) check(p *problems) {
	c := b.base(p, &b.Spec)
	for i, t := range b.Spec.TargetRefs {
		for _, o := range b.Spec.TargetRefs[:i] {
			if o.Group == t.Group && o.Kind == t.Kind && o.Name == t.Name && (o.SectionName == t.SectionName || o.SectionName == "" || t.SectionName == "") {
				c.addf(t.Pos, fmt.Sprintf("spec.targetRefs[%d]", i), "%s %s is named twice; then each wants a sectionName of its own", t.Kind, t.Name)
			}
		}
	}
	v := &b.Spec.Validation
	switch {
	case len(v.CACertificateRefs) > 0 && v.WellKnownCACertificates != "":
		c.addf(v.Pos, "spec.validation", "has both caCertificateRefs and wellKnownCACertificates; keep one")
	case len(v.CACertificateRefs) == 0 && v.WellKnownCACertificates == "":
		c.addf(v.Pos, "spec.validation", "wants caCertificateRefs or wellKnownCACertificates: System")
	case v.WellKnownCACertificates != "" && v.WellKnownCACertificates != "System":
		c.addf(v.Pos, "spec.validation.wellKnownCACertificates", `wants "System", not %q`, v.WellKnownCACertificates)
	}
	for i, n := range v.SubjectAltNames {
		at := fmt.Sprintf("spec.validation.subjectAltNames[%d]", i)
		if (n.Type == "Hostname") != (n.Hostname != "") {
			c.addf(n.Pos, at+".hostname", "is required for type Hostname, and for that only")
		}
		if (n.Type == "URI") != (n.URI != "") {
			c.addf(n.Pos, at+".uri", "is required for type URI, and for that only")
		}
	}
}

func (g *Gateway) check(p *problems) {
	c := g.base(p, &g.Spec)
	for i := range g.Spec.Listeners {
		l, at := &g.Spec.Listeners[i], fmt.Sprintf("spec.listeners[%d]", i)
		for _, o := range g.Spec.Listeners[:i] {
			switch {
			case o.Name == l.Name:
				c.addf(l.Pos, at+".name", "%q is the name of the listener in line %d, too", l.Name, o.Pos.Line)
			case o.Port == l.Port && o.Protocol == l.Protocol && o.Hostname == l.Hostname:
				c.addf(l.Pos, at, "has the port, protocol and hostname of the listener in line %d", o.Pos.Line)
			}
		}
		c.listener(l, at)
	}
	if t := g.Spec.TLS; t != nil && t.Frontend != nil {
		for i, pp := range t.Frontend.PerPort {
			if slices.ContainsFunc(t.Frontend.PerPort[:i], func(o PortTLS) bool { return o.Port == pp.Port }) {
				c.addf(pp.Pos, fmt.Sprintf("spec.tls.frontend.perPort[%d].port", i), "%d is given twice", pp.Port)
			}
		}
	}
}

func (c *gatewayCheck) listener(l *Listener, at string) {
	plain := l.Protocol == "HTTP" || l.Protocol == "TCP" || l.Protocol == "UDP"
	switch {
	case plain && l.TLS != nil:
		c.addf(l.Pos, at+".tls", "is not for protocol %s", l.Protocol)
	case l.Protocol == "HTTPS" && l.TLS != nil && l.TLS.Mode == "Passthrough":
		c.addf(l.Pos, at+".tls.mode", "wants Terminate for protocol HTTPS")
	case l.Protocol == "TLS" && (l.TLS == nil || l.TLS.Mode == ""):
		c.addf(l.Pos, at+".tls.mode", "is required for protocol TLS: Terminate or Passthrough")
	}
	if (l.Protocol == "TCP" || l.Protocol == "UDP") && l.Hostname != "" {
		c.addf(l.Pos, at+".hostname", "is not for protocol %s", l.Protocol)
	}
	if t := l.TLS; t != nil && t.Mode != "Passthrough" && len(t.CertificateRefs) == 0 && len(t.Options) == 0 {
		c.addf(t.Pos, at+".tls.certificateRefs", "are required for mode Terminate")
	}
}
