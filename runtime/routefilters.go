package runtime

import (
	"time"

	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/route"
	"github.com/proa-io/proa/resource"
)

// filters makes filters of those of a rule or a backend.
func (c *routeCompiler) filters(p place, list []resource.Filter) route.Filters {
	var out route.Filters
	for i := range list {
		f := &list[i]
		at := p.at(f.Pos, ".filters[%d]", i)
		switch {
		case f.RequestHeaderModifier != nil:
			out.Request = headerChange(f.RequestHeaderModifier)
		case f.ResponseHeaderModifier != nil:
			out.Response = headerChange(f.ResponseHeaderModifier)
		case f.URLRewrite != nil:
			out.Rewrite = &route.Rewrite{Host: f.URLRewrite.Hostname, Path: pathChange(f.URLRewrite.Path)}
		case f.RequestRedirect != nil:
			out.Redirect = redirect(f.RequestRedirect)
		case f.RequestMirror != nil:
			m := f.RequestMirror
			out.Mirrors = append(out.Mirrors, route.Mirror{Backend: c.backend(at.at(m.Pos, ".requestMirror.backendRef"), &m.BackendRef), Share: mirrored(m)})
		case f.CORS != nil:
			out.CORS = corsRules(f.CORS)
		case f.ExtensionRef != nil:
			c.extension(at.at(f.ExtensionRef.Pos, ".extensionRef"), &out, f.ExtensionRef)
		}
	}
	return out
}

func pathChange(m *resource.PathModifier) *route.PathChange {
	switch {
	case m == nil:
		return nil
	case m.ReplaceFullPath != nil:
		return &route.PathChange{Full: true, Value: *m.ReplaceFullPath}
	}
	return &route.PathChange{Value: *m.ReplacePrefixMatch}
}

// redirectStatus is that of redirects that name none.
const redirectStatus = 302

func redirect(r *resource.RequestRedirect) *route.Redirect {
	out := &route.Redirect{Scheme: r.Scheme, Host: r.Hostname, Port: int(r.Port), Path: pathChange(r.Path), Status: r.StatusCode}
	if out.Status == 0 {
		out.Status = redirectStatus
	}
	return out
}

// mirrored returns the share of the requests that are.
func mirrored(m *resource.RequestMirror) float64 {
	switch {
	case m.Percent != nil:
		return float64(*m.Percent) / 100
	case m.Fraction != nil:
		return float64(m.Fraction.Numerator) / float64(m.Fraction.Of())
	}
	return 1
}

// corsAge is how long browsers keep an answer to a preflight, unless a filter says.
const corsAge = 5 * time.Second

func corsRules(f *resource.CORS) *route.CORS {
	out := &route.CORS{
		Origins: f.AllowOrigins, Methods: f.AllowMethods, Headers: f.AllowHeaders, Expose: f.ExposeHeaders,
		Credentials: f.AllowCredentials, MaxAge: corsAge,
	}
	if f.MaxAge != nil {
		out.MaxAge = time.Duration(*f.MaxAge) * time.Second
	}
	return out
}

// extension adds what a RouteFilter says.
func (c *routeCompiler) extension(p place, out *route.Filters, ref *resource.ObjectReference) {
	there := map[string]*resource.RouteFilterSpec{}
	for i := range c.set.RouteFilters {
		if f := &c.set.RouteFilters[i]; orDefault(f.Namespace(), c.namespace) == p.namespace {
			there[f.Name()] = &f.Spec
		}
	}
	s, ok := there[ref.Name]
	if !ok {
		c.problem(p, "there is no RouteFilter %q in namespace %q%s", ref.Name, p.namespace, hint(ref.Name, there))
		return
	}
	if s.Fault != nil {
		out.Fault = faults(s.Fault)
	}
	if d := s.DirectResponse; d != nil {
		out.Direct = &route.Direct{Status: d.Status, Body: d.Body, Header: append(proxy.Header{{Name: "content-type", Value: d.ContentType}}, fields(d.Headers)...)}
	}
	if s.MaxRequestSize > 0 {
		out.MaxRequestBytes = int64(s.MaxRequestSize)
	}
	if z := s.Compression; z != nil {
		out.Compression = compression(z)
	}
	if s.Timeouts != nil {
		c.timeouts(p, out, s.Timeouts)
	}
	if s.Retry != nil {
		c.retry(p, out, s.Retry)
	}
	if h := s.Hedge; h != nil {
		out.Hedge = &route.Hedge{Delay: h.Delay.Std(), Budget: budget(h.Budget)}
	}
}

func percent(p *float64) float64 {
	if p == nil {
		return 1
	}
	return *p / 100
}

func faults(f *resource.FaultInjection) *route.Fault {
	out := &route.Fault{}
	if f.Delay != nil {
		out.Delay, out.DelayShare = f.Delay.Duration.Std(), percent(f.Delay.Percent)
	}
	if f.Abort != nil {
		out.Status, out.GRPCStatus, out.AbortShare = f.Abort.HTTPStatus, f.Abort.GRPCStatus, percent(f.Abort.Percent)
	}
	return out
}

func compression(z *resource.Compression) *route.Compression {
	out := &route.Compression{Algorithms: z.Algorithms, MinSize: 1 << 10, ContentTypes: z.ContentTypes}
	if len(out.Algorithms) == 0 {
		out.Algorithms = []string{"zstd", "br", "gzip"}
	}
	if z.MinSize != nil {
		out.MinSize = int64(*z.MinSize)
	}
	if len(out.ContentTypes) == 0 {
		out.ContentTypes = route.DefaultCompressed()
	}
	return out
}

func (c *routeCompiler) timeouts(p place, out *route.Filters, t *resource.RouteTimeouts) {
	if out.Timeouts != (route.Timeouts{}) {
		c.problem(p, "timeouts are given by the rule and by a RouteFilter; keep one")
	}
	out.Timeouts = route.Timeouts{Request: t.Request.Std(), Backend: t.BackendRequest.Std()}
}

// What retries are when a route does not say.
const (
	retryAttempts = 1
	retryBackoff  = 25 * time.Millisecond
	budgetRatio   = 0.2
	budgetReserve = 10
)

func (c *routeCompiler) retry(p place, out *route.Filters, r *resource.FilterRetry) {
	if out.Retry != nil {
		c.problem(p, "retry is given by the rule and by a RouteFilter; keep one")
	}
	out.Retry = &route.Retry{Codes: r.Codes, GRPCCodes: r.GRPCCodes, Attempts: retryAttempts, Backoff: retryBackoff, Budget: budget(r.Budget)}
	if r.Attempts != nil {
		out.Retry.Attempts = *r.Attempts
	}
	if r.Backoff != nil {
		out.Retry.Backoff = r.Backoff.Std()
	}
}

func budget(b *resource.RetryBudget) route.Share {
	out := route.Share{Ratio: budgetRatio, Reserve: budgetReserve}
	if b != nil && b.Percent != nil {
		out.Ratio = *b.Percent / 100
	}
	if b != nil && b.Reserve != nil {
		out.Reserve = *b.Reserve
	}
	return out
}
