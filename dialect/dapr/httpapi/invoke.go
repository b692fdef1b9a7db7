package httpapi

import (
	"encoding/base64"
	"net/url"
	"strings"

	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/proxy"
)

// Invoker carries out invocations. *invoke.Service is one.
type Invoker interface {
	// Forward sends the request of ex to another application and answers ex
	// with what comes back. id is an application id, one with its namespace
	// ("app.ns"), the name of an HTTP endpoint, or an http or https URL. path
	// is the path and query to ask for instead of that of the request; it is
	// in the form it has on the wire. What the request carries for this process
	// alone (the app id, the API token) has been taken out of its header.
	//
	// An error means that ex has not been answered; the caller does so.
	Forward(ex proxy.Exchange, id, path string) (proxy.Progress, error)
}

// appIDField is the header field that names the application to invoke, and the
// user name that does so in the Basic scheme.
const appIDField = "dapr-app-id"

// invoke passes the request on to another application.
func (c *call) invoke() {
	if !c.rules.served[routeInvoke] {
		c.fail(notServed())
		return
	}
	id, method := c.invokeTarget()
	if id == "" {
		c.fail(dapr.InvokeNoAppID())
		return
	}
	if c.api.opts.Invoker == nil {
		c.fail(dapr.InvokeNotReady())
		return
	}
	target, err := dapr.CleanMethod(method)
	if err != nil {
		c.failed(dapr.Invoke, dapr.Subject{Key: id}, err)
		return
	}
	if q := c.req.Query(); q != "" {
		target += "?" + q
	}
	if c.fields.appID != "" {
		c.req.Header.Del(appIDField)
	}
	if c.fields.token != "" {
		c.req.Header.Del(dapr.TokenHeader)
	}
	c.beginInvocation(id, target)
	ex := c.ex
	if len(c.header) > 0 {
		ex = &wrapped{ex, c.header}
	}
	c.target = id
	p, err := c.api.opts.Invoker.Forward(ex, id, target)
	c.status, c.sent, c.passed = p.Status, p.Bytes, p.Route
	if err != nil {
		c.failed(dapr.Invoke, dapr.Subject{Key: id}, err)
	}
}

// invokeTarget returns the id of the application to invoke and the path to
// call there, still escaped and without the slash at its beginning; an empty
// id when the request names none. The places are, in this order, a header
// field, the Basic scheme, and the path.
func (c *call) invokeTarget() (id, method string) {
	raw := c.req.Path()
	if raw == "" || raw[0] != '/' {
		return "", "" // "*", which asks about the server as a whole
	}
	if id := c.fields.appID; id != "" {
		return id, strings.TrimPrefix(raw, "/")
	}
	if id := basicAppID(c.fields.authorization); id != "" {
		c.req.Header.Del("authorization") // it was for this process
		return id, strings.TrimPrefix(raw, "/")
	}
	rest, ok := cutSegment(raw, "v1.0")
	if !ok {
		return "", ""
	}
	if rest, ok = cutSegment(rest, "invoke"); !ok {
		return "", ""
	}
	// The path is taken as it came, since the id may be a URL with "//" in it.
	rest = strings.TrimLeft(rest, "/")
	i := strings.Index(rest, "/method/")
	if i <= 0 {
		return "", ""
	}
	id = rest[:i]
	if plain, err := url.QueryUnescape(id); err == nil && plain != "" {
		id = plain
	}
	return id, rest[i+len("/method/"):]
}

// addressed reports whether the request names an application beside its path.
func (c *call) addressed() bool {
	return c.fields.appID != "" || c.fields.authorization != "" && basicAppID(c.fields.authorization) != ""
}

// basicAppID returns the application that an Authorization field names, as in
// http://dapr-app-id:<id>@localhost:3500/path, or "".
func basicAppID(authorization string) string {
	const scheme = "Basic "
	if len(authorization) < len(scheme) || !strings.EqualFold(authorization[:len(scheme)], scheme) {
		return ""
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(authorization[len(scheme):]))
	if err != nil {
		return ""
	}
	user, id, ok := strings.Cut(string(plain), ":")
	if !ok || !strings.EqualFold(user, appIDField) || strings.Contains(id, ":") {
		return ""
	}
	return id
}

// cutSegment takes a segment off the beginning of a path.
func cutSegment(p, name string) (rest string, ok bool) {
	if p == "" || p[0] != '/' {
		return "", false
	}
	rest, ok = strings.CutPrefix(strings.TrimLeft(p, "/"), name)
	return rest, ok && strings.HasPrefix(rest, "/")
}
