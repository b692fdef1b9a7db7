// Package invoke is the service invocation building block: it carries an
// exchange from one application to another, or to an address outside, as it is.
//
// Between two sidecars an invocation is one HTTP/2 stream: the method, path,
// fields, content and trailers are the application's own, and a gRPC call of
// any kind is a request like every other. Only what says who calls whom is
// added. Nothing is buffered but small request bodies that have arrived
// already, so that a retry can send them again, and small failures, so that a
// retry policy can look at them.
package invoke

import (
	"context"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/balance"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/tcp"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/telemetry"
)

// Block is the name of this block in policies and metrics.
const Block = "invoke"

// Reasons of the errors of this block.
const (
	// ReasonNoTarget: a request that does not say whom to invoke.
	ReasonNoTarget fault.Reason = "invoke.no_target"
	// ReasonNoApp: the application invoked has no port, or does not speak the
	// protocol.
	ReasonNoApp fault.Reason = "invoke.no_app"
	// ReasonMisdirected: the sidecar asked belongs to another application.
	ReasonMisdirected fault.Reason = "invoke.misdirected"
	// ReasonBadTarget: an id or path that can never be invoked.
	ReasonBadTarget fault.Reason = "invoke.bad_target"
)

// Field names of what sidecars tell each other and the application.
const (
	FieldCalleeAppID  = "dapr-callee-app-id"
	FieldCallerAppID  = "dapr-caller-app-id"
	FieldCallerNS     = "dapr-caller-namespace"
	FieldDestination  = "destination-app-id"
	FieldTarget       = "dapr-app-id"
	fieldAPIToken     = "dapr-api-token"
	fieldFault        = "proa-fault"        // the code of a failure of the other sidecar
	fieldFaultReason  = "proa-fault-reason" // its reason
	fieldFaultAfter   = "proa-fault-after"  // milliseconds to wait before trying again
	fieldFaultUnsent  = "proa-fault-unsent" // "1" when the application saw nothing
	fieldTraceparent  = "traceparent"
	fieldTracestate   = "tracestate"
	fieldForwardedFor = "x-forwarded-for"
)

// App is the application beside this sidecar.
type App struct {
	// HTTP takes requests that are not gRPC; GRPC takes those that are. A nil
	// one means that the application does not take such requests.
	HTTP, GRPC proxy.RoundTripper
	// Address is where it is, as the access log tells.
	Address string
	// Token, if set, is sent to the application with every request.
	Token string
	// Host is where raw connections to its ports go; they are refused when it is
	// empty.
	Host string
	// Limit, if set, bounds the requests that are under way to the
	// application, whoever sends them.
	Limit policy.Policy
}

// Endpoint is an address outside that can be invoked by name.
type Endpoint struct {
	Name string
	// Base is the scheme, host and path prefix of every request.
	Base *url.URL
	// Header is added to every request.
	Header proxy.Header
	// Transport sends requests to Base's host.
	Transport proxy.RoundTripper
}

// Caller is an application that invokes this one.
type Caller struct {
	TrustDomain string // empty when it is not proven
	Namespace   string
	AppID       string
}

// Options configure a Service.
type Options struct {
	AppID, Namespace string
	// Host is what this sidecar calls itself in Forwarded fields.
	Host   string
	Chains policy.Chains
	// Inbound is the chain around requests from other sidecars.
	Inbound policy.Chain
	// Directory finds the sidecars of other applications.
	Directory *discovery.Directory
	// Balance says which endpoint gets a request; a table of its own with default
	// policies when nil.
	Balance *balance.Table
	// Peer returns the transport to the sidecar of an application at an
	// endpoint. It is called for every request and must be quick.
	Peer func(discovery.Service, discovery.Endpoint) proxy.RoundTripper
	// Caller, if set, returns who has proven to be on the other side of an
	// exchange from another sidecar; ok is false when nobody has.
	Caller func(proxy.Exchange) (c Caller, ok bool)
	// External returns the transport to an origin outside, "https://host".
	External func(origin *url.URL) proxy.RoundTripper
	// App is the application beside; nil when there is none.
	App *App
	// Endpoints are the addresses outside that have names.
	Endpoints []Endpoint
	// Access says what other applications may invoke of this one.
	Access AccessRules
	// Tunnels say where raw connections may lead.
	Tunnels TunnelRules
	// Dial opens a raw connection to an address. Unless local is set, it refuses
	// those of this host and of the links it is on.
	Dial    func(ctx context.Context, address string, local bool) (tcp.Stream, error)
	Tracing *telemetry.Tracing
	Metrics *telemetry.Metrics // nil measures nothing
	Log     *slog.Logger
}

// Service invokes applications and lets itself be invoked. It is safe for
// concurrent use.
type Service struct {
	opt       Options
	endpoints atomic.Pointer[map[string]*Endpoint]
	access    atomic.Pointer[access]
	tunnels   atomic.Pointer[TunnelRules]
	joiner    tcp.Joiner
	inbound   *policy.Operation
	own       *policy.Operation // around what the application asks of itself; nil without a limit
	relay     proxy.Relayer
	forwarded string // what the field Forwarded says (RFC 7239)

	targets sync.Map     // id → *policy.Operation
	count   atomic.Int64 // of targets
	routes  routes
	timeout atomic.Pointer[timeoutText] // the last

	forwards, receptions sync.Pool // *forward, *reception
}

// New returns a Service.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Balance == nil {
		o.Balance = balance.NewTable(balance.TableOptions{})
	}
	s := &Service{
		opt: o, joiner: tcp.Joiner{Limits: tcp.Limits{Idle: TunnelIdle}},
		forwarded: "for=" + o.Host + ";by=" + o.Host + ";host=" + o.Host,
	}
	s.SetEndpoints(o.Endpoints)
	s.SetAccess(o.Access)
	s.SetTunnels(o.Tunnels)
	op := policy.Op{Block: Block, Component: o.AppID, Name: "receive", Inbound: true}
	inbound := o.Inbound
	if o.App != nil && o.App.Limit != nil {
		inbound = append(slices.Clip(inbound), o.App.Limit)
		s.own = policy.Chain{o.App.Limit}.Bind(op)
	}
	s.inbound = inbound.Bind(op)
	return s
}

// SetEndpoints replaces Options.Endpoints. Requests under way go on.
func (s *Service) SetEndpoints(list []Endpoint) {
	all := make(map[string]*Endpoint, len(list))
	for i := range list {
		all[list[i].Name] = &list[i]
	}
	s.endpoints.Store(&all)
}

// SetAccess replaces Options.Access. Requests under way go on.
func (s *Service) SetAccess(r AccessRules) { s.access.Store(newAccess(r)) }

// target is where a request goes.
type target struct {
	id       string // as policies know it
	service  discovery.Service
	endpoint *Endpoint // for an address outside
	self     bool
	cluster  *balance.Cluster // the endpoints of an application; nil until it is known
}

// resolve reads an id: the name of an HTTPEndpoint, an application, an
// application and a namespace, or an absolute http(s) URL.
func (s *Service) resolve(id string) (target, error) {
	if id == "" {
		return target{}, fault.New(fault.NotFound, "no application to invoke was named").WithReason(ReasonNoTarget)
	}
	if e, ok := (*s.endpoints.Load())[id]; ok {
		return target{id: id, endpoint: e}, nil
	}
	if strings.HasPrefix(id, "http://") || strings.HasPrefix(id, "https://") {
		return s.external(id)
	}
	app, ns, dotted := strings.Cut(id, ".")
	if !dotted {
		ns = s.opt.Namespace
	}
	if app == "" || ns == "" || strings.ContainsAny(id, "/?#\x00 ") || strings.Count(id, ".") > 1 {
		return target{}, fault.New(fault.InvalidArgument,
			"%q cannot be invoked; give an application (shop), an application and a namespace (shop.prod), an HTTPEndpoint, or an http(s) URL", id).
			WithReason(ReasonBadTarget)
	}
	return target{
		id: app, service: discovery.Service{Namespace: ns, AppID: app},
		self: app == s.opt.AppID && ns == s.opt.Namespace,
	}, nil
}

func (s *Service) external(id string) (target, error) {
	u, err := url.Parse(id)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return target{}, fault.New(fault.InvalidArgument, "%q cannot be invoked; give scheme, host and path only", id).WithReason(ReasonBadTarget)
	}
	origin := &url.URL{Scheme: u.Scheme, Host: u.Host}
	return target{id: origin.String(), endpoint: &Endpoint{Name: u.Host, Base: u, Transport: s.opt.External(origin)}}, nil
}

// maxTargets bounds the targets that have policies and metrics of their own:
// callers choose the ids, and each costs memory for good.
const maxTargets = 4096

// operation returns the bound chain of a target.
func (s *Service) operation(id string) *policy.Operation {
	if op, ok := s.targets.Load(id); ok {
		return op.(*policy.Operation) //nolint:forcetypeassert // only operations are stored
	}
	if s.count.Load() >= maxTargets {
		id = "(other)"
		if op, ok := s.targets.Load(id); ok {
			return op.(*policy.Operation) //nolint:forcetypeassert // only operations are stored
		}
	}
	op, loaded := s.targets.LoadOrStore(id, s.opt.Chains.App(id).Bind(policy.Op{Block: Block, Component: id, Name: "invoke"}))
	if !loaded {
		s.count.Add(1)
	}
	return op.(*policy.Operation) //nolint:forcetypeassert // only operations are stored
}

// maxEndpoints bounds how many instances one attempt tries, when those before
// did not even get the request.
const maxEndpoints = 3

// sendTo sends a request to the endpoint that w has picked.
func (s *Service) sendTo(
	ctx context.Context, svc discovery.Service, r *proxy.Request, w *way, o proxy.RoundTripOptions,
) (*proxy.Response, error) {
	resp, err := s.opt.Peer(svc, *w.attempt.Host.Endpoint()).RoundTrip(ctx, r, o)
	if err != nil {
		w.failed(ctx, err)
		return nil, err
	}
	if code := resp.Header.Get(fieldFault); code != "" {
		defer resp.Body.Close()
		err := readFault(code, resp)
		w.refused(err)
		return nil, err
	}
	w.headed(resp)
	return resp, nil
}

// local passes a request to the application beside.
func (s *Service) local(ctx context.Context, g *sending, o proxy.RoundTripOptions) (*proxy.Response, error) {
	if s.opt.App == nil {
		return nil, fault.New(fault.FailedPrecondition,
			"application %q takes no requests: its sidecar was started without --app-port", s.opt.AppID).WithReason(ReasonNoApp)
	}
	rt, kind := s.opt.App.HTTP, "HTTP"
	if isGRPC(g.request.Header) {
		rt, kind = s.opt.App.GRPC, "gRPC"
	}
	if rt == nil {
		return nil, fault.New(fault.FailedPrecondition,
			"application %q does not take %s requests; see --app-protocol", s.opt.AppID, kind).WithReason(ReasonNoApp)
	}
	if s.opt.App.Token != "" {
		g.request.Header.Set(fieldAPIToken, s.opt.App.Token)
	}
	g.to(s.opt.App.Address)
	return rt.RoundTrip(ctx, &g.request, o)
}

func isGRPC(h proxy.Header) bool {
	return strings.HasPrefix(h.Get("content-type"), "application/grpc")
}
