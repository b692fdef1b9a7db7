package httpapi

import (
	"io"
	"slices"
	"strings"

	"github.com/proa-io/proa/mesh/proxy"
)

// origins are the web origins that may call the API.
type origins struct {
	all  bool
	list []string // in lower case; an entry may hold one "*"
}

func parseOrigins(text string) origins {
	var o origins
	for origin := range strings.SplitSeq(text, ",") {
		switch origin = strings.ToLower(strings.TrimSpace(origin)); origin {
		case "":
		case "*":
			o.all = true
		default:
			o.list = append(o.list, origin)
		}
	}
	return o
}

// none reports whether no origin may call, so that CORS is left out.
func (o origins) none() bool { return !o.all && len(o.list) == 0 }

func (o origins) allow(origin string) bool {
	if o.all {
		return true
	}
	origin = strings.ToLower(origin)
	return slices.ContainsFunc(o.list, func(pattern string) bool {
		before, after, wild := strings.Cut(pattern, "*")
		if !wild {
			return pattern == origin
		}
		return len(origin) >= len(before)+len(after) && strings.HasPrefix(origin, before) && strings.HasSuffix(origin, after)
	})
}

// corsMethods are those that web pages may use.
func corsMethods() []string { return []string{"GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"} }

// cors adds to the answer what lets web pages read it (the Fetch standard,
// section 3.2). It reports whether it answered: to a question before the
// request.
func (c *call) cors() bool {
	c.header.Add("Vary", "Origin")
	origin, wanted := c.fields.origin, c.req.Header.Get("access-control-request-method")
	preflight := c.req.Method == "OPTIONS" && wanted != ""
	if origin == "" && !preflight {
		return false
	}
	if preflight {
		c.header.Add("Vary", "Access-Control-Request-Method")
		c.header.Add("Vary", "Access-Control-Request-Headers")
	}
	if origin == "" || !c.api.origins.allow(origin) || preflight && !slices.Contains(corsMethods(), strings.ToUpper(wanted)) {
		return c.endPreflight(preflight)
	}
	if c.api.origins.all {
		origin = "*"
	}
	c.header.Add("Access-Control-Allow-Origin", origin)
	if preflight {
		c.header.Add("Access-Control-Allow-Methods", strings.ToUpper(wanted))
		if names := c.req.Header.Get("access-control-request-headers"); names != "" {
			c.header.Add("Access-Control-Allow-Headers", names)
		}
	}
	return c.endPreflight(preflight)
}

func (c *call) endPreflight(preflight bool) bool {
	if preflight {
		c.respond(200, nil)
	}
	return preflight
}

// wrapped is an exchange whose answer, which somebody else gives, gets more
// fields.
type wrapped struct {
	proxy.Exchange
	more proxy.Header
}

// Respond sends the head with the fields added.
func (w *wrapped) Respond(status int, h proxy.Header, contentLength int64) error {
	return w.Exchange.Respond(status, append(slices.Clip(h), w.more...), contentLength)
}

// ReadFrom keeps the engine's own way of passing on a body.
func (w *wrapped) ReadFrom(r io.Reader) (int64, error) {
	if to, ok := w.Exchange.(io.ReaderFrom); ok {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{w.Exchange}, r)
}
