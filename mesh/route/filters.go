package route

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
)

// Filters are what a rule, or a backend of it, does beside choosing where to send
// a request. What is nil or zero does nothing.
type Filters struct {
	Request, Response *HeaderChange
	Rewrite           *Rewrite
	Redirect          *Redirect
	Mirrors           []Mirror
	CORS              *CORS
	Fault             *Fault
	Direct            *Direct
	// MaxRequestBytes bounds the content of a request.
	MaxRequestBytes int64
	Compression     *Compression
	Timeouts        Timeouts
	Retry           *Retry
	Hedge           *Hedge
	// Problem says why what a rule refers to cannot be had; its requests get 500.
	Problem string

	plain                    bool // there is nothing to do
	retryBudget, hedgeBudget *policy.Budget
}

// prepare makes filters ready for use.
func (f *Filters) prepare() {
	f.plain = len(f.Names()) == 0 && f.Problem == ""
	if f.Retry != nil {
		f.retryBudget = f.Retry.Budget.budget()
	}
	if f.Hedge != nil {
		f.hedgeBudget = f.Hedge.Budget.budget()
	}
	if f.CORS != nil {
		f.CORS.prepare()
	}
}

// HeaderChange changes fields of a header: sets, adds, then removes.
type HeaderChange struct {
	Set, Add proxy.Header
	Remove   []string
}

// Apply changes h, which must be the caller's own.
func (c *HeaderChange) Apply(h *proxy.Header) {
	if c == nil {
		return
	}
	for _, f := range c.Set {
		h.Set(f.Name, f.Value)
	}
	for _, f := range c.Add {
		h.Add(f.Name, f.Value)
	}
	for _, name := range c.Remove {
		h.Del(name)
	}
}

// Rewrite changes what a backend is asked for.
type Rewrite struct {
	// Host is the new host name; empty to keep it.
	Host string
	Path *PathChange
}

// PathChange replaces a path, or the prefix of it that matched.
type PathChange struct {
	Full  bool
	Value string
}

// Apply returns a target, path and query, with the path changed. prefix is what
// matched of it.
func (c *PathChange) Apply(target, prefix string) string {
	if c == nil {
		return target
	}
	path, query, has := strings.Cut(target, "?")
	switch {
	case c.Full:
		path = c.Value
	case hasPrefix(path, prefix):
		rest := path[len(prefix):]
		path = strings.TrimSuffix(c.Value, "/") + rest
		if rest == "" {
			path = c.Value
		}
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if has {
		path += "?" + query
	}
	return path
}

// Redirect answers with another place to ask at.
type Redirect struct {
	Scheme, Host string
	Port         int
	Path         *PathChange
	Status       int
}

// Location returns where a request is sent to. scheme, host and port are those at
// which it came.
func (d *Redirect) Location(scheme, authority, target, prefix string) string {
	u := url.URL{Scheme: scheme}
	host, port := splitPort(authority)
	if d.Host != "" {
		host = d.Host
	}
	if d.Scheme != "" {
		u.Scheme, port = d.Scheme, "" // the default one of the new scheme
	}
	if d.Port != 0 {
		port = strconv.Itoa(d.Port)
	}
	if port == "80" && u.Scheme == "http" || port == "443" && u.Scheme == "https" {
		port = ""
	}
	u.Host = host
	if port != "" {
		u.Host += ":" + port
	}
	return u.Scheme + "://" + u.Host + d.Path.Apply(target, prefix)
}

// splitPort takes an authority apart; an address of IPv6 keeps its brackets.
func splitPort(authority string) (host, port string) {
	i := strings.LastIndexByte(authority, ':')
	if i < 0 || strings.HasSuffix(authority, "]") {
		return authority, ""
	}
	return authority[:i], authority[i+1:]
}

// Timeouts bound a request as a whole, and each try at a backend; 0 for no bound.
type Timeouts struct{ Request, Backend time.Duration }

// Retry says when a request is sent again.
type Retry struct {
	// Codes are the statuses of answers after which it is.
	Codes, GRPCCodes []int
	Attempts         int // after the first
	Backoff          time.Duration
	Budget           Share
}

// Share bounds what is sent a second time to a share of all requests.
type Share struct {
	Ratio   float64
	Reserve int
}

func (s Share) budget() *policy.Budget { return policy.NewBudget(s.Ratio, s.Reserve) }

// Hedge says when a request is sent a second time before there is an answer.
type Hedge struct {
	Delay  time.Duration
	Budget Share
}

// Fault makes a share of the requests late, or fail. Shares are from 0 to 1.
type Fault struct {
	Delay      time.Duration
	DelayShare float64
	Status     int // of HTTP
	GRPCStatus int
	AbortShare float64
}

// Direct is an answer that needs no backend.
type Direct struct {
	Status int
	Header proxy.Header
	Body   string
}

// Mirror sends copies of a share of the requests, from 0 to 1, to a backend.
type Mirror struct {
	Backend Backend
	Share   float64
}

// CORS lets pages of other origins ask (Fetch standard, section 3.2).
type CORS struct {
	Origins          []string // "https://*.example.com" among them, or "*"
	Methods, Headers []string // "*" stands for all
	Expose           []string
	Credentials      bool
	MaxAge           time.Duration

	methods, headers, expose string // as they are sent
}

// BackendKind is what a backend is.
type BackendKind uint8

// The kinds of backends.
const (
	// Application is one with a sidecar.
	Application BackendKind = iota
	// Endpoint is an HTTPEndpoint.
	Endpoint
	// External is a host outside.
	External
)

// Backend is where a share of the requests goes.
type Backend struct {
	Kind BackendKind
	// Namespace and Name are those of an application; Name that of an endpoint, or
	// the origin of a host outside, "https://api.example.com:8443".
	Namespace, Name string
	Port            int
	Weight          uint32
	Filters         Filters
	// Problem says why it cannot be reached at all; what it would get is answered
	// with 500.
	Problem string

	plain bool // it has no filters, and can be reached
}

// String returns "reviews-v2", "reviews-v2.prod" or an origin.
func (b *Backend) String() string {
	if b.Kind == Application && b.Namespace != "" {
		return b.Name + "." + b.Namespace
	}
	return b.Name
}

// Pick chooses a backend by weight, for a random number. It returns nil when there
// is none: no backend at all, or none with a weight.
func (r *Rule) Pick(random uint64) *Backend {
	if len(r.Backends) == 1 && r.total > 0 {
		return &r.Backends[0]
	}
	if r.total == 0 {
		return nil
	}
	n := random % r.total
	for i := range r.Backends {
		w := uint64(r.Backends[i].Weight)
		if n < w {
			return &r.Backends[i]
		}
		n -= w
	}
	return nil
}

// Total returns the sum of the weights of the backends.
func (r *Rule) Total() uint64 { return r.total }

// Names lists the filters in use, for people.
func (f *Filters) Names() []string {
	var out []string
	for _, n := range []struct {
		name string
		used bool
	}{
		{"RequestHeaderModifier", f.Request != nil}, {"ResponseHeaderModifier", f.Response != nil}, {"RequestRedirect", f.Redirect != nil},
		{"URLRewrite", f.Rewrite != nil}, {"RequestMirror", len(f.Mirrors) > 0}, {"CORS", f.CORS != nil}, {"fault", f.Fault != nil},
		{"directResponse", f.Direct != nil}, {"maxRequestSize", f.MaxRequestBytes > 0}, {"compression", f.Compression != nil},
		{"timeouts", f.Timeouts != Timeouts{}}, {"retry", f.Retry != nil}, {"hedge", f.Hedge != nil},
	} {
		if n.used {
			out = append(out, n.name)
		}
	}
	return out
}

// Compression says what is compressed, and how.
type Compression struct {
	Algorithms   []string // "br", "zstd", "gzip", the preferred first
	MinSize      int64
	ContentTypes []string // "text/*" among them
}

// matchesType reports whether content of a type is compressed.
func (c *Compression) matchesType(contentType string) bool {
	main, _, _ := strings.Cut(contentType, ";")
	main = strings.ToLower(strings.TrimSpace(main))
	return main != "" && slices.ContainsFunc(c.ContentTypes, func(want string) bool {
		if prefix, ok := strings.CutSuffix(want, "*"); ok {
			return strings.HasPrefix(main, prefix)
		}
		return want == main
	})
}
