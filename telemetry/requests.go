package telemetry

import (
	"strconv"
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

// codeLabel returns the name of a gRPC code, "NotFound".
func codeLabel(code int) string {
	if code < 0 || code > int(codes.Unauthenticated) {
		code = int(codes.Unknown)
	}
	return codes.Code(code).String() //nolint:gosec // checked
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

// HTTPServed records a request to the API.
func (m *Metrics) HTTPServed(r HTTPRequest) {
	if !m.Enabled() {
		return
	}
	g := m.now.Load()
	path := ""
	if g.paths != nil || g.settings.IncreasedCardinality {
		path = g.pathLabel(r.Path)
	}
	g.observe(httpServerLatency, milliseconds(r.Duration), values{g.methodLabel(r.Method), path, statusLabel(r.Status)})
	g.observe(httpServerReceived, float64(max(r.Received, 0)), values{})
	g.observe(httpServerSent, float64(max(r.Sent, 0)), values{})
}

// HTTPCalled records a request to the application. Received is the content of
// its answer.
func (m *Metrics) HTTPCalled(r HTTPRequest) {
	if !m.Enabled() {
		return
	}
	g := m.now.Load()
	method, path := g.methodLabel(r.Method), g.pathLabel(r.Path)
	g.observe(httpClientSent, float64(max(r.Sent, 0)), values{method, path, ""})
	g.observe(httpClientLatency, milliseconds(r.Duration), values{method, path, statusLabel(r.Status)})
	g.observe(httpClientReceived, float64(max(r.Received, 0)), values{})
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
	if !m.Enabled() {
		return
	}
	g := m.now.Load()
	g.observe(latency, milliseconds(c.Duration), values{c.Method, codeLabel(c.Code)})
	if c.Received >= 0 {
		g.observe(received, float64(c.Received), values{c.Method})
	}
	if c.Sent >= 0 {
		g.observe(sent, float64(c.Sent), values{c.Method})
	}
}

// GRPCProbed records a probe of the health of a gRPC application.
func (m *Metrics) GRPCProbed(code int, d time.Duration) {
	if m.Enabled() {
		m.now.Load().observe(grpcProbeLatency, milliseconds(d), values{codeLabel(code)})
	}
}

// unary is the type of all invocations: whether a gRPC call that is passed on is
// a stream does not show.
const unary = "unary"

// InvocationSent records a request to another application.
func (m *Metrics) InvocationSent(to string) {
	if m.Enabled() {
		m.now.Load().count(invocationSent, 1, values{to, unary})
	}
}

// InvocationAnswer records the answer of another application: its HTTP status,
// or the code of a gRPC call. d is how long it took.
func (m *Metrics) InvocationAnswer(from string, status int, d time.Duration) {
	if !m.Enabled() {
		return
	}
	g, text := m.now.Load(), statusLabel(status)
	g.count(invocationAnswers, 1, values{from, text, unary})
	g.observe(invocationLatency, milliseconds(d), values{from, text})
}

// InvocationReceived records a request of another application.
func (m *Metrics) InvocationReceived(from string) {
	if m.Enabled() {
		m.now.Load().count(invocationReceived, 1, values{from})
	}
}

// InvocationAnswered records the answer to a request of another application.
func (m *Metrics) InvocationAnswered(to string, status int) {
	if m.Enabled() {
		m.now.Load().count(invocationAnswered, 1, values{to, statusLabel(status)})
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
	if !m.Enabled() {
		return
	}
	which := aclGlobalBlocked
	switch {
	case d.ByPolicy && d.Allowed:
		which = aclAppAllowed
	case d.ByPolicy:
		which = aclAppBlocked
	case d.Allowed:
		which = aclGlobalAllowed
	}
	m.now.Load().count(which, 1, values{d.AppID, d.TrustDomain, d.Namespace})
}
