package route

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
)

func (c *CORS) prepare() {
	c.methods, c.headers, c.expose = strings.Join(c.Methods, ", "), strings.Join(c.Headers, ", "), strings.Join(c.Expose, ", ")
}

// preflight reports whether a request asks what a page may ask for (Fetch standard,
// section 3.2.2).
func (c *CORS) preflight(r *proxy.Request) bool {
	return r.Method == "OPTIONS" && r.Header.Has("origin") && r.Header.Has("access-control-request-method")
}

// allows reports whether pages of an origin may ask.
func (c *CORS) allows(origin string) bool {
	return origin != "" && slices.ContainsFunc(c.Origins, func(want string) bool { return sameOrigin(want, origin) })
}

// sameOrigin compares an origin with one that may have a "*" in the place of its
// host, or before the rest of it.
func sameOrigin(want, origin string) bool {
	if want == "*" || strings.EqualFold(want, origin) {
		return true
	}
	scheme, host, ok := strings.Cut(want, "://")
	if !ok || !strings.HasPrefix(host, "*") {
		return false
	}
	gotScheme, gotHost, ok := strings.Cut(origin, "://")
	suffix := strings.ToLower(host[1:])
	if !ok || !strings.EqualFold(scheme, gotScheme) || len(gotHost) <= len(suffix) {
		return false
	}
	if !strings.HasSuffix(strings.ToLower(gotHost), suffix) {
		return false
	}
	return strings.HasPrefix(suffix, ".") || !strings.ContainsAny(gotHost[:len(gotHost)-len(suffix)], ":") // a port that is not asked for
}

// answerPreflight says what pages of the origin may ask for: nothing when the
// origin is none of those allowed.
func (c *CORS) answerPreflight(r *proxy.Request) proxy.Header {
	h := proxy.Header{{Name: "vary", Value: "origin, access-control-request-method, access-control-request-headers"}}
	if !c.allows(r.Header.Get("origin")) {
		return h
	}
	c.origin(r, &h)
	if methods := c.list(c.Methods, c.methods, r.Header.Get("access-control-request-method")); methods != "" {
		h.Add("access-control-allow-methods", methods)
	}
	if headers := c.list(c.Headers, c.headers, r.Header.Get("access-control-request-headers")); headers != "" {
		h.Add("access-control-allow-headers", headers)
	}
	if c.MaxAge > 0 {
		h.Add("access-control-max-age", strconv.Itoa(int(c.MaxAge/time.Second)))
	}
	return h
}

// list is what is said to be allowed. A "*" means nothing to a page that sends
// credentials, so it gets what it asks for instead.
func (c *CORS) list(all []string, text, asked string) string {
	if c.Credentials && slices.Contains(all, "*") {
		return asked
	}
	return text
}

func (c *CORS) origin(r *proxy.Request, h *proxy.Header) {
	origin := r.Header.Get("origin")
	if slices.Contains(c.Origins, "*") && !c.Credentials {
		origin = "*"
	}
	h.Set("access-control-allow-origin", origin)
	if c.Credentials {
		h.Set("access-control-allow-credentials", "true")
	}
}

// addTo lets the page that asked read the answer, if it may.
func (c *CORS) addTo(r *proxy.Request, h *proxy.Header) {
	if !slices.Contains(c.Origins, "*") || c.Credentials {
		h.Add("vary", "origin")
	}
	if !c.allows(r.Header.Get("origin")) {
		return
	}
	c.origin(r, h)
	if c.expose != "" {
		h.Set("access-control-expose-headers", c.expose)
	}
}
