// Package route decides what becomes of a request: which rule of which route it
// meets, and what that rule does with it.
//
// Routes are compiled once into a Table, which never changes. Looking a request up
// costs one map access per segment of its path and no memory, however many routes
// there are. Which rule counts when several match is what the Gateway API says
// (HTTPRouteRule.matches, GRPCRouteRule.matches), across all routes of a table.
//
// The package knows neither where requests come from nor how backends are
// reached: it is the same for requests between applications and for those that
// come in at a gateway.
package route

import (
	"cmp"
	"regexp"
	"strconv"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
)

// Route is a set of rules that were declared together.
type Route struct {
	// Kind is "HTTPRoute" or "GRPCRoute". Rules of a GRPCRoute are for gRPC
	// calls only, and those meet them before the rules of HTTPRoutes.
	Kind            string
	Namespace, Name string
	// Created is when it was made; zero when that is not known.
	Created time.Time
	// Hosts are the host names that it is for, in lower case, "*.example.com" for
	// all names below example.com; none for all.
	Hosts []string
	Rules []*Rule
}

// String returns "HTTPRoute shop/reviews".
func (r *Route) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// Rule says what becomes of the requests that any of its matches is true of. It
// must not be changed once it is in a Table.
type Rule struct {
	// Route and Index tell where it was declared; Compile sets them.
	Route *Route
	Index int
	// Name is optional.
	Name string
	// Where is the place in a file, for people.
	Where   string
	Matches []Match
	// Filters apply to all its requests, those of a Backend to what goes there.
	Filters  Filters
	Backends []Backend

	total uint64 // of the weights
}

// String returns "HTTPRoute shop/reviews rule canary".
func (r *Rule) String() string { return r.Route.String() + " rule " + r.Label() }

// Label returns the name of the rule, or its number.
func (r *Rule) Label() string { return cmp.Or(r.Name, strconv.Itoa(r.Index)) }

// Match is a condition on a request. All that is given must be true of it.
type Match struct {
	// Path is for HTTPRoutes, Service and Call for GRPCRoutes.
	Path          PathMatch
	Service, Call TextMatch
	// Method is an HTTP method; empty for all.
	Method         string
	Headers, Query []ValueMatch
}

// PathKind is how a path is matched.
type PathKind uint8

// The kinds of path matches.
const (
	// Prefix matches whole segments: "/a" is a prefix of "/a" and "/a/b", not of
	// "/ab". A slash at its end means nothing.
	Prefix PathKind = iota
	Exact
	// Expression is a regular expression (RE2) for the whole path.
	Expression
)

// PathMatch is a condition on the path of a request, as it is on the wire. The zero
// value is true of all.
type PathMatch struct {
	Kind  PathKind
	Value string
}

// TextMatch is a condition on a text. The zero value is true of all.
type TextMatch struct {
	Value      string
	Expression bool // Value is a regular expression for the whole text
}

// ValueMatch is a condition on a header field or a query parameter. A field that is
// there several times is taken as one with the values separated by commas, of a
// parameter the first counts.
type ValueMatch struct {
	Name string
	TextMatch
}

// Request is what a Table looks at.
type Request struct {
	// Host is in lower case, without a port; tables of one application do not look
	// at it.
	Host string
	// Path and Query are as they are on the wire.
	Path, Query string
	Method      string
	Header      proxy.Header
	// GRPC tells that it is a gRPC call.
	GRPC bool
}

// matcher is a compiled Match of a rule, with what its place among the others
// depends on.
type matcher struct {
	rule  *Rule
	index int // of the match in its rule
	match *Match
	host  string
	// path is that of the match without a slash at its end, when it is a prefix.
	path    string
	pathRE  *regexp.Regexp
	service pattern
	call    pattern
	headers []valuePattern
	query   []valuePattern
}

// pattern is a compiled TextMatch.
type pattern struct {
	text string
	re   *regexp.Regexp
}

type valuePattern struct {
	name string
	pattern
}

// Found is what a lookup has found.
type Found struct {
	Rule *Rule
	// Prefix is the path prefix that matched, without a slash at its end.
	Prefix string
}
