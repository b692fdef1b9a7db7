// Package httpapi is the HTTP API of Dapr v1: state, publish, bindings,
// secrets, configuration, locks, invocation, metadata, health and shutdown,
// under the prefixes /v1.0, /v1.0-alpha1, /v1.0-alpha2 and /v1.0-beta1.
//
// It stands on the seam of the data path (mesh/proxy), so that one API serves
// every connection engine, and translates between requests and blocks. What a
// request without an answer of its own means is an invocation of another
// application, which passes through and is never read here.
package httpapi

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/telemetry"
)

// DefaultMaxBody is the bound of a request's body, in bytes, when Options have
// none.
const DefaultMaxBody = 4 << 20

// Options say what the API serves, and for whom.
type Options struct {
	// AppID is the id of the application that the process serves.
	AppID string
	// Blocks is what requests reach; required.
	Blocks dapr.Blocks
	// Invoker carries out invocations; nil answers them with an error.
	Invoker Invoker
	// Connector carries out CONNECT; nil answers it with 501.
	Connector Connector
	// ConfigurationApp gets the changes of configuration items that are
	// subscribed to; nil when there is no application to deliver to.
	ConfigurationApp dapr.ConfigurationApp
	// Tracing begins the traces of requests that come without; may be nil.
	Tracing *telemetry.Tracing
	// Token is what callers must show, but for the health checks.
	Token dapr.Token
	// AllowedOrigins are the origins of web pages that may call the API,
	// separated by commas; "*" for every origin, empty for none, which leaves
	// CORS out. An origin may hold one "*" in place of any text.
	AllowedOrigins string
	// MaxBody bounds the body of a request, in bytes, but not that of an
	// invocation, which is passed on as it comes; DefaultMaxBody when zero, no
	// bound when negative.
	MaxBody int64
	// Allows reports whether a group of the API ("state", "v1") is served; nil
	// serves all. A group that is not served is as if it did not exist. It is
	// asked once, by New. See SetRules for this and the next.
	Allows func(group, version string) bool
	// Beside is another API on the same port; nil for none.
	Beside Beside
	// Pipeline, when not nil, puts middleware before the API, behind the token
	// and before the routes; probes of health pass by. It is given what comes
	// behind the middleware, and returns what tells the handler in front at
	// present; nil for none. That is asked for every request.
	Pipeline func(last proxy.Handler) (now func() proxy.Handler)
	// Observe, when not nil, is told of each request after it was answered. It
	// must not block.
	Observe func(Call)
	// OnError, when not nil, is told of each error that is answered. It must
	// not block.
	OnError func(*dapr.Error)
}

// Beside is an API that is served on the port of this one, behind the same
// gates: origins, token, baggage, trace and Observe. A request that names an
// application beside its path is for that all the same. It is safe for
// concurrent use.
type Beside interface {
	// Serves reports whether a path is one of this API.
	Serves(path string) bool
	// Handle answers a request. ctx is its context and path its path, cleaned.
	// It returns what to call the request in Call.Route, and the status of the
	// answer; 0 when there was none.
	Handle(ctx context.Context, ex proxy.Exchange, path string) (route string, status int)
}

// Call is a request as Options.Observe sees it.
type Call struct {
	// Route names the part of the API, "GetState"; "InvokeService" for an
	// invocation.
	Route string
	// Target is the application, or other target, that was invoked; empty for
	// none.
	Target string
	// Method and Path are those of the request; Path is without the query, as
	// it came.
	Method, Path string
	UserAgent    string
	// Status is that of the answer; 0 when there was none.
	Status int
	// Received and Sent are the content of the request, as declared, and of the
	// answer, in bytes; Received is negative when it was not declared.
	Received, Sent int64
	Duration       time.Duration
	// Health tells that the request is a health check.
	Health bool
	// TraceParent is the trace of the request, as it came or as it goes on; empty
	// for none.
	TraceParent string
	// Failure is the code of the error that was answered; empty for none.
	Failure string
	// Passed tells where an invocation went.
	Passed proxy.Route
}

// API is the HTTP API of Dapr. It is safe for concurrent use.
type API struct {
	pipeline func() proxy.Handler // returns the middleware before serve; nil for none
	opts     Options
	origins  origins
	rules    atomic.Pointer[rules]
	calls    sync.Pool // of *call
}

// rules are what SetRules changes.
type rules struct {
	served  [numRoutes]bool
	observe func(Call)
}

// New returns an API. It has nothing that must be closed.
func New(o Options) *API {
	if o.MaxBody == 0 {
		o.MaxBody = DefaultMaxBody
	}
	a := &API{opts: o, origins: parseOrigins(o.AllowedOrigins)}
	a.SetRules(o.Allows, o.Observe)
	a.calls.New = func() any { return new(call) }
	if o.Pipeline != nil {
		a.pipeline = o.Pipeline(a.handleBehind)
	}
	return a
}

// SetRules replaces Options.Allows and Options.Observe. Requests under way go on
// by the former ones.
func (a *API) SetRules(allows func(group, version string) bool, observe func(Call)) {
	now := &rules{observe: observe}
	for r := range now.served {
		info := routeID(r).info()
		now.served[r] = allows == nil || info.health || allows(info.group, info.version)
	}
	a.rules.Store(now)
}

// Handle answers one request. It is a proxy.Handler.
func (a *API) Handle(ex proxy.Exchange) { a.handle(ex, false) }

// HandlePublic answers requests to the public port, which is meant for probes
// from outside the host: health checks and the reading of metadata, without a
// token. It is a proxy.Handler.
func (a *API) HandlePublic(ex proxy.Exchange) { a.handle(ex, true) }

func (a *API) handle(ex proxy.Exchange, public bool) {
	if ex.Request().Method == "CONNECT" {
		a.connect(ex, public)
		return
	}
	c := a.calls.Get().(*call)
	c.begin(a, ex)
	defer c.end()
	observe := c.rules.observe
	if observe == nil {
		c.answer(public)
		return
	}
	start := time.Now()
	method, path, agent, received := c.req.Method, c.req.Path(), c.req.Header.Get("user-agent"), c.req.ContentLength
	defer func() {
		info := c.route.info()
		if c.beside != "" {
			info.name = c.beside
		}
		observe(Call{
			Route: info.name, Target: c.target, Method: method, Path: path, UserAgent: agent,
			Status: c.status, Received: received, Sent: c.sent, Duration: time.Since(start), Health: info.health,
			TraceParent: c.traceParent(), Failure: c.failure, Passed: c.passed,
		})
	}()
	c.answer(public)
}

// answer takes the request through the gates and to its route.
func (c *call) answer(public bool) {
	a := c.api
	c.route, c.path = a.find(c.req, c.rules, &c.params)
	c.fields.scan(c.req.Header)
	if public {
		c.answerPublic()
		return
	}
	if !a.origins.none() && c.cors() {
		return
	}
	if a.opts.Token.Required() && !c.route.info().health && !a.opts.Token.Admits(c.fields.token) {
		c.text(401, dapr.InvalidToken+"\n")
		return
	}
	if b := c.fields.trace.Baggage; b != "" {
		if err := dapr.CheckBaggage(b); err != nil {
			c.fail(dapr.Invalid("%v", err))
			return
		}
	}
	if a.pipeline != nil && !c.route.info().health {
		if pass := a.pipeline(); pass != nil {
			pass(&recorded{c.ex, &c.status, &c.sent})
			return
		}
	}
	c.serve()
}

// recorded is an exchange that notes the status and the length of its answer.
type recorded struct {
	proxy.Exchange
	status *int
	sent   *int64
}

// Write implements proxy.Exchange.
func (r *recorded) Write(p []byte) (int, error) {
	n, err := r.Exchange.Write(p)
	*r.sent += int64(n)
	return n, err
}

// Respond implements proxy.Exchange.
func (r *recorded) Respond(status int, h proxy.Header, length int64) error {
	*r.status = status
	return r.Exchange.Respond(status, h, length)
}

// AbortWith implements proxy.Aborter.
func (r *recorded) AbortWith(cause error) { proxy.Abort(r.Exchange, cause) }

// handleBehind takes a request that came out of the pipeline to its route, which
// may be another one than that it went in for.
func (a *API) handleBehind(ex proxy.Exchange) {
	c := a.calls.Get().(*call)
	c.begin(a, ex)
	defer c.end()
	c.route, c.path = a.find(c.req, c.rules, &c.params)
	c.fields.scan(c.req.Header)
	c.serve()
}

func (c *call) answerPublic() {
	if c.route.info().public {
		c.serve()
		return
	}
	c.fail(notServed())
}

// notServed tells of a request to what this port, or this configuration of it,
// does not have.
func notServed() *dapr.Error {
	return &dapr.Error{HTTPStatus: 404, Tag: "ERR_NOT_FOUND", Message: "requested endpoint is not available"}
}
