package route

import (
	"fmt"
	"strings"
)

// Explanation says which rule a request meets, and why no other.
type Explanation struct {
	// Found is what Lookup returns, and OK whether it found anything.
	Found Found
	OK    bool
	// Steps are the matches of all rules in the order in which they are looked at.
	// Those after the one that counts are not looked at by Lookup.
	Steps []Step
}

// Step is what became of one match of a rule.
type Step struct {
	Rule *Rule
	// Condition says what the match wants, for people.
	Condition string
	// Why says why it is not true of the request; empty when it is.
	Why string
	// Taken tells that it is the one that counts.
	Taken bool
}

// Explain looks a request up and says how. It costs time for each rule there is.
func (t *Table) Explain(r *Request) Explanation {
	e := Explanation{}
	e.Found, e.OK = t.Lookup(r)
	taken := false
	for _, m := range t.all {
		s := Step{Rule: m.rule, Condition: m.String(), Why: m.why(r)}
		if s.Why == "" && !taken {
			taken, s.Taken = true, true
		}
		e.Steps = append(e.Steps, s)
	}
	return e
}

// why says what of m is not true of a request.
func (m *matcher) why(r *Request) string {
	switch {
	case !onHost(r.Host, m.host):
		return fmt.Sprintf("the host is %q", r.Host)
	case m.rule.Route.Kind == kindGRPC && !r.GRPC:
		return "it is no gRPC call"
	case !m.onPath(r):
		return fmt.Sprintf("the path is %q", r.Path)
	case m.match.Method != "" && m.match.Method != r.Method:
		return "the method is " + r.Method
	}
	for i := range m.headers {
		if h := &m.headers[i]; !h.inHeader(r.Header) {
			if !r.Header.Has(h.name) {
				return fmt.Sprintf("there is no header %q", h.name)
			}
			return fmt.Sprintf("the header %q is %q", h.name, strings.Join(r.Header.Values(h.name), ","))
		}
	}
	for i := range m.query {
		if q := &m.query[i]; !q.inQuery(r.Query) {
			return fmt.Sprintf("the query %q has no such parameter %q", r.Query, q.name)
		}
	}
	return ""
}

// String says what m wants.
func (m *matcher) String() string {
	var parts []string
	if m.host != "" {
		parts = append(parts, "host "+m.host)
	}
	return strings.Join(append(parts, m.match.String()), ", ")
}

// String says what the match wants.
func (m *Match) String() string {
	var parts []string
	if m.Method != "" {
		parts = append(parts, m.Method)
	}
	switch {
	case m.Path.Kind == Exact:
		parts = append(parts, "path "+m.Path.Value)
	case m.Path.Kind == Expression:
		parts = append(parts, "path ~ "+m.Path.Value)
	case strings.TrimSuffix(m.Path.Value, "/") != "":
		parts = append(parts, "path "+strings.TrimSuffix(m.Path.Value, "/")+"/*")
	}
	for _, v := range []struct {
		name string
		m    TextMatch
	}{{"service", m.Service}, {"method", m.Call}} {
		if v.m.Value != "" {
			parts = append(parts, v.name+v.m.String())
		}
	}
	for _, v := range m.Headers {
		parts = append(parts, "header "+v.Name+v.TextMatch.String())
	}
	for _, v := range m.Query {
		parts = append(parts, "query "+v.Name+v.TextMatch.String())
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

// String says what the match wants.
func (m TextMatch) String() string {
	if m.Expression {
		return " ~ " + m.Value
	}
	return " = " + m.Value
}
