package telemetry

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// milliseconds is d with fractions.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// statusLabel returns the label of an HTTP status, or of a gRPC code in digits.
// Those in use are not allocated.
func statusLabel(status int) string {
	switch status {
	case 200:
		return "200"
	case 204:
		return "204"
	case 201:
		return "201"
	case 202:
		return "202"
	case 304:
		return "304"
	case 400:
		return "400"
	case 404:
		return "404"
	case 500:
		return "500"
	case 503:
		return "503"
	}
	if status < 0 || status > 999 {
		return OtherValue
	}
	return strconv.Itoa(status)
}

// statusNumber is a status as a number below 1<<10; all that have one label have
// one number.
func statusNumber(status int) int {
	if status < 0 || status > 999 {
		return 1000
	}
	return status
}

// codeNumber is a gRPC code that there is.
func codeNumber(code int) int {
	if code < 0 || code > int(codes.Unauthenticated) {
		return int(codes.Unknown)
	}
	return code
}

// methods are the labels of methods, by methodNumber.
func methods() [10]string {
	return [...]string{"UNKNOWN", "GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE"}
}

func methodNumber(method string) int {
	switch method {
	case "GET":
		return 1
	case "PUT":
		return 2
	case "POST":
		return 3
	case "PATCH":
		return 4
	case "DELETE":
		return 5
	case "HEAD":
		return 6
	case "OPTIONS":
		return 7
	case "CONNECT":
		return 8
	case "TRACE":
		return 9
	}
	return 0
}

// HTTPRequest is a request that was answered.
type HTTPRequest struct {
	Method, Path string
	Status       int // 500 stands for no answer
	// Received and Sent are the content of the request and of its answer, in
	// bytes; 0 when that is not known.
	Received, Sent int64
	Duration       time.Duration
}

// measuring returns what there is to measure with; nil when nothing is measured.
func (m *Metrics) measuring() *generation {
	if m == nil {
		return nil
	}
	if g := m.now.Load(); !g.settings.Disabled {
		return g
	}
	return nil
}

// numberOf tells the series of a metric apart within a few: by a number below
// 1<<16.
func numberOf(m metric, n int) int { return int(m)<<16 | n }

// httpSeries returns a series by method, path and status. A metric without the
// label of a status has the status 0.
func (g *generation) httpSeries(of *few, m metric, r *HTTPRequest, path string, status int) *series {
	method := methodNumber(r.Method)
	n := numberOf(m, method<<10|statusNumber(status))
	if s := of.get(n); s != nil {
		return s
	}
	label := methods()[method]
	if g.settings.ExcludeVerbs {
		label = ""
	}
	v := values{label, path, ""}
	if len(g.vectors[m].def.labels) > 2 {
		v[2] = statusLabel(status)
	}
	return g.keep(of, n, m, v)
}

func (g *generation) observeSize(m metric, n int64) { g.vectors[m].only.observe(float64(n)) }

// HTTPServed records a request to the API.
func (m *Metrics) HTTPServed(r HTTPRequest) {
	g := m.measuring()
	if g == nil {
		return
	}
	path := ""
	if g.paths != nil || g.settings.IncreasedCardinality {
		path = g.pathLabel(r.Path)
	}
	g.httpSeries(g.byPath.of(path), httpServerLatency, &r, path, r.Status).observe(milliseconds(r.Duration))
	g.observeSize(httpServerReceived, r.Received)
	g.observeSize(httpServerSent, r.Sent)
}

// HTTPCalled records a request to the application. Received is the content of
// its answer.
func (m *Metrics) HTTPCalled(r HTTPRequest) {
	g := m.measuring()
	if g == nil {
		return
	}
	path := g.pathLabel(r.Path)
	of := g.byPath.of(path)
	g.httpSeries(of, httpClientSent, &r, path, 0).observe(float64(r.Sent))
	g.httpSeries(of, httpClientLatency, &r, path, r.Status).observe(milliseconds(r.Duration))
	g.observeSize(httpClientReceived, r.Received)
}

// HTTPProbed records a probe of the health of an HTTP application.
func (m *Metrics) HTTPProbed(status int, d time.Duration) {
	if m.Enabled() {
		m.now.Load().observe(httpProbeLatency, milliseconds(d), values{statusLabel(status)})
	}
}

// GRPCCall is a gRPC call that has ended.
type GRPCCall struct {
	Method string // "/package.Service/Method"
	Code   int
	// Received and Sent are the messages, in bytes; negative when they were
	// passed on uncounted.
	Received, Sent int
	Duration       time.Duration
}

// GRPCServed records a call of the API.
func (m *Metrics) GRPCServed(c GRPCCall) {
	m.grpc(c, grpcServerLatency, grpcServerReceived, grpcServerSent)
}

// GRPCCalled records a call of the application.
func (m *Metrics) GRPCCalled(c GRPCCall) {
	m.grpc(c, grpcClientLatency, grpcClientReceived, grpcClientSent)
}

func (m *Metrics) grpc(c GRPCCall, latency, received, sent metric) {
	g := m.measuring()
	if g == nil {
		return
	}
	of := g.byMethod.of(c.Method)
	code := codeNumber(c.Code)
	ended := of.get(numberOf(latency, code))
	if ended == nil {
		ended = g.keep(of, numberOf(latency, code), latency, values{c.Method, codes.Code(code).String()}) //nolint:gosec // it is one
	}
	ended.observe(milliseconds(c.Duration))
	if c.Received >= 0 {
		g.grpcSize(of, received, c.Method).observe(float64(c.Received))
	}
	if c.Sent >= 0 {
		g.grpcSize(of, sent, c.Method).observe(float64(c.Sent))
	}
}

func (g *generation) grpcSize(of *few, m metric, method string) *series {
	if s := of.get(numberOf(m, 0)); s != nil {
		return s
	}
	return g.keep(of, numberOf(m, 0), m, values{method})
}

// GRPCProbed records a probe of the health of a gRPC application.
func (m *Metrics) GRPCProbed(code int, d time.Duration) {
	if m.Enabled() {
		m.now.Load().observe(grpcProbeLatency, milliseconds(d), values{codes.Code(codeNumber(code)).String()}) //nolint:gosec // it is one
	}
}

// unary is the type of all invocations: whether a gRPC call that is passed on is
// a stream does not show.
const unary = "unary"

// appSeries returns a series by the application at the other end and the status;
// -1 for a metric without that label. last is what other labels there are.
func (g *generation) appSeries(m metric, app string, status int, last string) *series {
	of, n := g.byApp.of(app), numberOf(m, statusNumber(status))
	if s := of.get(n); s != nil {
		return s
	}
	v := values{app, last}
	if status >= 0 {
		v = values{app, statusLabel(status), last}
	}
	return g.keep(of, n, m, v)
}

// InvocationSent records a request to another application.
func (m *Metrics) InvocationSent(to string) {
	if g := m.measuring(); g != nil {
		g.appSeries(invocationSent, to, -1, unary).number.Add(1)
	}
}

// InvocationAnswer records the answer of another application: its HTTP status,
// or the code of a gRPC call. d is how long it took.
func (m *Metrics) InvocationAnswer(from string, status int, d time.Duration) {
	if g := m.measuring(); g != nil {
		g.appSeries(invocationAnswers, from, statusNumber(status), unary).number.Add(1)
		g.appSeries(invocationLatency, from, statusNumber(status), "").observe(milliseconds(d))
	}
}

// InvocationReceived records a request of another application.
func (m *Metrics) InvocationReceived(from string) {
	if g := m.measuring(); g != nil {
		g.appSeries(invocationReceived, from, -1, "").number.Add(1)
	}
}

// InvocationAnswered records the answer to a request of another application.
func (m *Metrics) InvocationAnswered(to string, status int) {
	if g := m.measuring(); g != nil {
		g.appSeries(invocationAnswered, to, statusNumber(status), "").number.Add(1)
	}
}

// AccessDecision is what the access rules said of a request.
type AccessDecision struct {
	// AppID, TrustDomain and Namespace are the caller's.
	AppID, TrustDomain, Namespace string
	// ByPolicy tells that a policy for the caller decided, not the default.
	ByPolicy bool
	Allowed  bool
}

// AccessDecided records a decision.
func (m *Metrics) AccessDecided(d AccessDecision) {
	g := m.measuring()
	if g == nil {
		return
	}
	s := g.decisions.get(d)
	if s == nil {
		s = g.with(d.metric(), values{d.AppID, d.TrustDomain, d.Namespace})
		if !g.decisions.full() && len(d.AppID)+len(d.TrustDomain)+len(d.Namespace) <= 3*maxLabelBytes {
			d.AppID, d.TrustDomain, d.Namespace = strings.Clone(d.AppID), strings.Clone(d.TrustDomain), strings.Clone(d.Namespace)
			g.decisions.add(d, s)
		}
	}
	s.number.Add(1)
}

func (d *AccessDecision) metric() metric {
	switch {
	case d.ByPolicy && d.Allowed:
		return aclAppAllowed
	case d.ByPolicy:
		return aclAppBlocked
	case d.Allowed:
		return aclGlobalAllowed
	}
	return aclGlobalBlocked
}
