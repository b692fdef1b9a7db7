package route

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/proa-io/proa/mesh/proxy"
)

// anchored compiles an expression that is for a whole text.
func anchored(text string) (*regexp.Regexp, error) { return regexp.Compile(`^(?:` + text + `)$`) }

func (m TextMatch) compile() (pattern, error) {
	if !m.Expression || m.Value == "" {
		return pattern{text: m.Value}, nil
	}
	re, err := anchored(m.Value)
	return pattern{text: m.Value, re: re}, err
}

// takes reports whether a text matches. An empty pattern takes all.
func (p *pattern) takes(text string) bool {
	if p.re != nil {
		return p.re.MatchString(text)
	}
	return p.text == "" || p.text == text
}

func newMatcher(rule *Rule, index int, host string) (*matcher, error) {
	m := &matcher{rule: rule, index: index, match: &rule.Matches[index], host: host}
	var err error
	fail := func(what string, err error) error {
		return fmt.Errorf("%v match %d: %s: %w", rule, index, what, err)
	}
	if len(m.match.Path.Value) > maxPath {
		return nil, fail("path", fmt.Errorf("is longer than %d characters", maxPath))
	}
	switch p := m.match.Path; p.Kind {
	case Expression:
		if m.pathRE, err = anchored(p.Value); err != nil {
			return nil, fail("path", err)
		}
		m.path = p.Value
	case Prefix:
		m.path = strings.TrimSuffix(p.Value, "/")
	case Exact:
		m.path = p.Value
	}
	if m.service, err = m.match.Service.compile(); err != nil {
		return nil, fail("service", err)
	}
	if m.call, err = m.match.Call.compile(); err != nil {
		return nil, fail("method", err)
	}
	if m.headers, err = compileValues(m.match.Headers); err != nil {
		return nil, fail("headers", err)
	}
	if m.query, err = compileValues(m.match.Query); err != nil {
		return nil, fail("queryParams", err)
	}
	return m, nil
}

func compileValues(list []ValueMatch) ([]valuePattern, error) {
	var out []valuePattern
	for _, v := range list {
		p, err := v.compile()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.Name, err)
		}
		out = append(out, valuePattern{v.Name, p})
	}
	return out, nil
}

// takes reports whether all but the host and the path are as m wants them.
func (m *matcher) takes(r *Request) bool {
	if m.match.Method != "" && m.match.Method != r.Method {
		return false
	}
	for i := range m.headers {
		if !m.headers[i].inHeader(r.Header) {
			return false
		}
	}
	for i := range m.query {
		if !m.query[i].inQuery(r.Query) {
			return false
		}
	}
	return true
}

func (v *valuePattern) inHeader(h proxy.Header) bool {
	first := -1
	for i := range h {
		if !proxy.SameName(h[i].Name, v.name) {
			continue
		}
		if first >= 0 {
			return v.takes(strings.Join(h.Values(v.name), ","))
		}
		first = i
	}
	return first >= 0 && v.takes(h[first].Value)
}

// inQuery looks at the first parameter with the name.
func (v *valuePattern) inQuery(query string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if decoded(name) == v.name {
			return v.takes(decoded(value))
		}
	}
	return false
}

// decoded returns a part of a query without its escapes; as it is when they are
// malformed.
func decoded(text string) string {
	if !strings.ContainsAny(text, "%+") {
		return text
	}
	if plain, err := url.QueryUnescape(text); err == nil {
		return plain
	}
	return text
}

// onPath reports whether the path of a request is as m wants it.
func (m *matcher) onPath(r *Request) bool {
	if m.rule.Route.Kind == kindGRPC {
		service, call, ok := splitCall(r.Path)
		return r.GRPC && ok && m.service.takes(service) && m.call.takes(call)
	}
	switch m.match.Path.Kind {
	case Exact:
		return m.path == r.Path
	case Expression:
		return m.pathRE.MatchString(r.Path)
	}
	return hasPrefix(r.Path, m.path)
}

// hasPrefix reports whether the segments of prefix, which has no slash at its end,
// are the first of path.
func hasPrefix(path, prefix string) bool {
	return strings.HasPrefix(path, prefix) && (len(path) == len(prefix) || prefix == "" || path[len(prefix)] == '/')
}

// splitCall takes the path of a gRPC call apart.
func splitCall(path string) (service, call string, ok bool) {
	if path == "" || path[0] != '/' {
		return "", "", false
	}
	service, call, ok = strings.Cut(path[1:], "/")
	return service, call, ok
}

// onHost reports whether a host name is one that a pattern is for.
func onHost(host, pattern string) bool {
	if under, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(host) > len(under) && strings.HasSuffix(host, under)
	}
	return pattern == "" || pattern == host
}
