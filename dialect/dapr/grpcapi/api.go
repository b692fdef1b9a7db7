// Package grpcapi is the gRPC API of Dapr v1, dapr.proto.runtime.v1.Dapr: state,
// publish and streaming subscriptions, bindings, secrets, configuration, locks,
// invocation, metadata and shutdown; with server reflection and the standard
// health service beside it.
//
// It stands on the seam of the data path (mesh/proxy, mesh/rpc), so that calls
// of services it does not know are passed on to the application that their
// metadata names, frame by frame and never read here.
package grpcapi

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
	"github.com/proa-io/proa/telemetry"
)

// DefaultMaxMessage is the bound of a message, in bytes, when Options have none.
const DefaultMaxMessage = rpc.DefaultMaxMessage

// Invoker carries out invocations. *invoke.Service is one.
type Invoker interface {
	// Forward sends the call of ex to another application and answers ex with
	// what comes back. An error means that ex has not been answered.
	Forward(ex proxy.Exchange, id, path string) (proxy.Progress, error)
	// Call invokes an application and returns its whole answer, of at most
	// maxBody bytes, whatever its status.
	Call(ctx context.Context, id string, r invoke.Request, maxBody int64) (*invoke.Reply, error)
}

// Options say what the API serves, and for whom.
type Options struct {
	// AppID is the id of the application that the process serves.
	AppID string
	// Blocks is what calls reach; required.
	Blocks dapr.Blocks
	// Invoker carries out invocations; nil answers them with an error.
	Invoker Invoker
	// Tracing begins the traces of calls that come without; may be nil.
	Tracing *telemetry.Tracing
	// Token is what callers must show, but for the health service.
	Token dapr.Token
	// MaxMessage bounds a message, in bytes, but not those of calls that are
	// passed on; DefaultMaxMessage when zero, no bound when negative.
	MaxMessage int
	// Allows reports whether a group of the API ("state", "v1") is served; nil
	// serves all. It is asked once, by New.
	Allows func(group, version string) bool
	// Beside, when not nil, registers the services of another API, which are
	// served behind the same gates. It is called once, by New.
	Beside func(grpc.ServiceRegistrar)
	// Observe, when not nil, is told of each call after it was answered. It
	// must not block.
	Observe func(Call)
	// OnError, when not nil, is told of each error that is answered. It must
	// not block.
	OnError func(*dapr.Error)
}

// Call is a call as Options.Observe sees it.
type Call struct {
	// Method has the form "/package.Service/Method".
	Method    string
	UserAgent string
	// Forwarded tells that the call was passed on to another application.
	Forwarded bool
	// Passed tells where a call went that invokes another application.
	Passed proxy.Route
	// TraceParent is the trace that the call came with; empty for none.
	TraceParent string
	// Code is how it ended.
	Code codes.Code
	// Received and Sent are the messages, in bytes; -1 for those of a call that
	// was passed on.
	Received, Sent int
	// Stream tells that the call is no unary one, as far as that is known.
	Stream   bool
	Duration time.Duration
}

// API is the gRPC API of Dapr. It is safe for concurrent use.
type API struct {
	opts    Options
	front   atomic.Pointer[front]
	stop    chan struct{}
	stopped sync.Once

	mu      sync.Mutex
	streams map[*pubsubStream]struct{}
}

// front is what SetRules replaces.
type front struct {
	server  *rpc.Server
	invokes bool // whether invocations are served
	observe func(Call)
}

// New returns an API.
func New(o Options) *API {
	switch {
	case o.MaxMessage == 0:
		o.MaxMessage = DefaultMaxMessage
	case o.MaxMessage < 0:
		o.MaxMessage = math.MaxInt32
	}
	a := &API{opts: o, stop: make(chan struct{}), streams: map[*pubsubStream]struct{}{}}
	a.SetRules(o.Allows, o.Observe)
	return a
}

// SetRules replaces Options.Allows and Options.Observe. Calls under way go on by
// the former ones. Options.Beside is called again.
func (a *API) SetRules(allows func(group, version string) bool, observe func(Call)) {
	if allows == nil {
		allows = func(string, string) bool { return true }
	}
	ro := rpc.Options{
		MaxMessage: a.opts.MaxMessage, Check: func(_ string, h proxy.Header) error { return checkBaggage(h) }, Enrich: a.enrich,
		Unknown: a.forward, ErrorStatus: a.statusOf,
	}
	if observe != nil {
		ro.Observe = func(c rpc.Observed) {
			observe(Call{
				Method: c.Method, UserAgent: c.Header.Get("user-agent"), Code: c.Code, Received: c.Received, Sent: c.Sent,
				Stream: c.Stream, Duration: c.Duration, TraceParent: c.Header.Get(dapr.TraceParent),
				Passed: c.Route,
			})
		}
	}
	server := rpc.NewServer(ro)
	server.RegisterService(served(&rtv1.Dapr_ServiceDesc, allows), &service{API: a, nothing: &emptypb.Empty{}})
	server.RegisterService(workflowWorkers(), nil)
	if a.opts.Beside != nil {
		a.opts.Beside(server)
	}
	healthpb.RegisterHealthServer(server, &health{API: a})
	reflection.Register(server)
	a.front.Store(&front{server, allows("invoke", "v1"), observe})
}

// Stop ends the streams that would never end by themselves: subscriptions to
// topics, once the application has settled what it got or the grace of the
// broker is over, those to configuration items, and health watches. It returns
// at once; other calls go on, and new streams are refused.
func (a *API) Stop() { a.stopped.Do(func() { close(a.stop) }) }

// errStopping is what ends a stream of a process that stops: the client
// connects again, to another instance or to this one when it is back.
func errStopping() error { return status.Error(codes.Unavailable, "the sidecar is shutting down") }

// apiPrefix begins the paths of the Dapr service; healthPrefix those of the
// health service.
const (
	apiPrefix    = "/dapr.proto.runtime.v1.Dapr/"
	healthPrefix = "/grpc.health.v1.Health/"
)

// Handle answers one call. It is a proxy.Handler.
func (a *API) Handle(ex proxy.Exchange) {
	r, server := ex.Request(), a.front.Load().server
	ofAPI := strings.HasPrefix(r.Target, apiPrefix)
	if ofAPI && !a.opts.Token.Required() {
		server.Handle(ex)
		return
	}
	id := ""
	if !ofAPI {
		id = target(r.Header)
	}
	probe := id == "" && strings.HasPrefix(r.Target, healthPrefix)
	if !probe && !a.opts.Token.Admits(r.Header.Get(dapr.TokenHeader)) {
		_ = rpc.Fail(ex, badToken(r.Header)) // the client is gone if this fails
		return
	}
	if id != "" && server.Serves(r.Target) && rpc.IsGRPC(r.Header) {
		a.forward(ex) // the application's own reflection or health is meant
		return
	}
	server.Handle(ex)
}

// badToken is what a caller is told whose token is missing or wrong.
func badToken(h proxy.Header) *status.Status {
	if !h.Has(dapr.TokenHeader) {
		return dapr.HTTPFailure(401, "missing api token in request metadata")
	}
	return dapr.HTTPFailure(401, "authentication error: api token mismatch")
}

// target returns the application that a call's metadata names.
func target(h proxy.Header) string {
	if id := h.Get(invoke.FieldTarget); id != "" {
		return id
	}
	return h.Get(invoke.FieldCalleeAppID)
}

// forward passes a call on to the application that its metadata names.
func (a *API) forward(ex proxy.Exchange) {
	r := ex.Request()
	if observe := a.front.Load().observe; observe != nil {
		began, c := time.Now(), Call{
			Method: r.Target, UserAgent: r.Header.Get("user-agent"), Forwarded: true,
			TraceParent: r.Header.Get(dapr.TraceParent), Code: codes.Unknown, Received: -1, Sent: -1,
		}
		defer func() { c.Duration = time.Since(began); observe(c) }()
		to := target(r.Header)
		c.Code, c.Passed = a.forwardCall(ex, r)
		c.Passed.Target = to
		return
	}
	a.forwardCall(ex, r)
}

// statusOf lets the status of an error be as it is, and tells OnError of it.
func (a *API) statusOf(err error) *status.Status {
	if a.opts.OnError != nil {
		if e, ok := errors.AsType[*dapr.Error](err); ok {
			a.opts.OnError(e)
		}
	}
	return nil
}

// forwardCall passes a call on and returns how it ended, and where it went.
func (a *API) forwardCall(ex proxy.Exchange, r *proxy.Request) (codes.Code, proxy.Route) {
	p, err := a.passOn(ex, r)
	if err != nil {
		a.statusOf(err)
		st := rpc.StatusFromError(err)
		_ = rpc.Fail(ex, st) // the client is gone if this fails
		return st.Code(), p.Route
	}
	n, err := strconv.ParseUint(p.GRPCStatus, 10, 8)
	if err != nil {
		return codes.Unknown, p.Route // it broke off
	}
	return codes.Code(n), p.Route
}

func (a *API) passOn(ex proxy.Exchange, r *proxy.Request) (proxy.Progress, error) {
	id := target(r.Header)
	switch {
	case !a.front.Load().invokes:
		return proxy.Progress{}, errNotServed()
	case id == "":
		return proxy.Progress{}, status.Error(codes.Unknown, "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found")
	case a.opts.Invoker == nil:
		return proxy.Progress{}, dapr.InvokeNotReady()
	}
	if err := checkBaggage(r.Header); err != nil {
		return proxy.Progress{}, err
	}
	path := r.Target
	r.Header.Del(invoke.FieldTarget)
	r.Header.Del(dapr.TokenHeader)
	end := a.beginForward(ex.Context(), r, id)
	p, err := a.opts.Invoker.Forward(ex, id, path)
	end(err)
	if err != nil {
		return p, a.failed(dapr.Invoke, dapr.Subject{Key: id}, err)
	}
	return p, nil
}

// failed returns the error that tells what became of an operation.
func (a *API) failed(op dapr.Operation, about dapr.Subject, err error) error {
	if code := fault.CodeOf(err); code == fault.Canceled {
		return status.FromContextError(context.Canceled).Err() // nobody reads it
	}
	about.AppID = a.opts.AppID
	return dapr.Describe(op, about, err)
}

// service serves the methods of the API.
type service struct {
	rtv1.UnimplementedDaprServer
	*API
	nothing *emptypb.Empty // never changed
}
