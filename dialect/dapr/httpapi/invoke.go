package httpapi

import (
	"encoding/base64"
	"net/url"
	"path"
	"strings"

	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
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
	Forward(ex proxy.Exchange, id, path string) error
}

// appIDField is the header field that names the application to invoke, and the
// user name that does so in the Basic scheme.
const appIDField = "dapr-app-id"

// invoke passes the request on to another application.
func (c *call) invoke() {
	if !c.api.served[routeInvoke] {
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
	target, err := cleanMethod(method)
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
	ex := c.ex
	if len(c.header) > 0 || c.api.opts.Observe != nil {
		ex = &wrapped{ex, c.header, &c.status}
	}
	if err := c.api.opts.Invoker.Forward(ex, id, target); err != nil {
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

// cleanMethod turns the path to call, still escaped, into one that names what
// it seems to name: empty and dot segments are resolved, also those that are
// escaped, and never lead out of the root; a slash at the end stays. A path
// with control characters, or with escaped slashes that hide dot segments, is
// refused, since an access rule and an application might read it differently.
func cleanMethod(method string) (string, error) {
	if strings.IndexByte(method, '%') < 0 && !strings.HasPrefix(method, "/") && !strings.Contains(method, "//") && !hasDotSegment(method) {
		return "/" + method, nil
	}
	segments := strings.Split(method, "/")
	for i, s := range segments {
		if strings.IndexByte(s, '%') < 0 {
			continue
		}
		plain, err := url.PathUnescape(s)
		switch {
		case err != nil:
			return "", fault.New(fault.InvalidArgument, "path segment %q: invalid escape", s)
		case strings.ContainsFunc(plain, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return "", fault.New(fault.InvalidArgument, "path segment %q holds a control character", s)
		case plain == "." || plain == "..":
			segments[i] = plain
		case strings.ContainsAny(plain, `/\`) && hasDotSegment(strings.ReplaceAll(plain, `\`, "/")):
			return "", fault.New(fault.InvalidArgument, "path segment %q hides a dot segment", s)
		}
	}
	joined := "/" + strings.Join(segments, "/")
	cleaned := path.Clean(joined)
	if cleaned != "/" && (strings.HasSuffix(joined, "/") || strings.HasSuffix(joined, "/.") || strings.HasSuffix(joined, "/..")) {
		cleaned += "/" // RFC 3986, section 5.2.4
	}
	return cleaned, nil
}

// hasDotSegment reports whether a segment of p is "." or "..".
func hasDotSegment(p string) bool {
	for s := range strings.SplitSeq(p, "/") {
		if s == "." || s == ".." {
			return true
		}
	}
	return false
}
