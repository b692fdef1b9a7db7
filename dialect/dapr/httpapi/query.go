package httpapi

import (
	"fmt"
	"strings"

	"github.com/proa-io/proa/dialect/dapr"
)

// query is the query of a request, undecoded, in which every name and value can
// be decoded.
type query string

// metadataPrefix is what the names of parameters begin with that go to the
// component.
const metadataPrefix = "metadata."

// query returns the query of the request. It reports whether it can be read;
// if not the request is answered.
func (c *call) query() (query, bool) {
	q := c.req.Query()
	if strings.IndexByte(q, '%') >= 0 {
		for pair := range strings.SplitSeq(q, "&") {
			if _, err := unescape(pair); err != nil {
				c.fail(dapr.BadRequest(fmt.Errorf("query parameter %q: %w", pair, err)))
				return "", false
			}
		}
	}
	return query(q), true
}

// next splits off the first parameter, decoded.
func (q query) next() (name, value string, rest query) {
	pair, more, _ := strings.Cut(string(q), "&")
	name, value, _ = strings.Cut(pair, "=")
	name, _ = unescape(name) // checked by call.query
	value, _ = unescape(value)
	return name, value, query(more)
}

// get returns the first value of a parameter.
func (q query) get(name string) (value string, ok bool) {
	for q != "" {
		var n, v string
		if n, v, q = q.next(); n == name {
			return v, true
		}
	}
	return "", false
}

// all returns the values of a parameter.
func (q query) all(name string) []string {
	var out []string
	for q != "" {
		var n, v string
		if n, v, q = q.next(); n == name {
			out = append(out, v)
		}
	}
	return out
}

// metadata returns the parameters for the component, nil for none. Of several
// with the same name the first counts.
func (q query) metadata() map[string]string {
	var out map[string]string
	for q != "" {
		var n, v string
		n, v, q = q.next()
		key, ok := strings.CutPrefix(n, metadataPrefix)
		if !ok {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		if _, dup := out[key]; !dup {
			out[key] = v
		}
	}
	return out
}
