// Package proa serves proa.v1: what applications may ask of the building blocks
// that the Dapr API has no words for. There is one small service per block, in
// one file each, here and in api/proa/v1.
//
// A service is written once, as its gRPC interface says; this package serves it
// over gRPC and, with messages in the JSON mapping of Protocol Buffers, over
// HTTP (see http.go). It stands beside the Dapr API on the same ports, which
// take care of tokens, traces and logs.
//
// To add one: write api/proa/v1/<block>.proto and <block>.go, add the method
// that returns the block to Blocks, and a line to API.services.
package proa

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// Blocks is what the services may reach of the process. It is safe for
// concurrent use. A component that cannot be had is an error that is fit for
// the caller.
type Blocks interface {
	Config(name string) (*config.Store, error)
	Conversation(name string) (*conversation.Model, error)
	Jobs() (*job.Store, error)
	Lock(name string) (*lock.Store, error)
	PubSub(name string) (*pubsub.Broker, error)
	State(name string) (*state.Store, error)

	// CancelDelayed takes back a message that waits to be published. It reports
	// whether it will not be published any more, and how often that had been
	// tried in vain.
	CancelDelayed(ctx context.Context, id string) (tries uint32, ok bool, err error)
}

// Options say what is served.
type Options struct {
	// Blocks is what calls reach; required.
	Blocks Blocks
	// MaxBody bounds a request over HTTP, in bytes; DefaultMaxBody when zero,
	// no bound when negative.
	MaxBody int64
	// AllowsHTTP and AllowsGRPC report whether a group of the API ("state",
	// "proa.v1") is served over a protocol; nil serves all. They are asked
	// once.
	AllowsHTTP, AllowsGRPC func(group, version string) bool
}

// DefaultMaxBody is the bound of a request's body, in bytes, when Options have
// none.
const DefaultMaxBody = 4 << 20

// Version is the version of every group of this API, in the words of spec.api
// of the Configuration.
const Version = "proa.v1"

// A service is one of the services and what serves it.
type service struct {
	// group names the building block in spec.api of the Configuration.
	group string
	desc  *grpc.ServiceDesc
	impl  any
}

// services lists all of them.
func (a *API) services() []service {
	return []service{
		{"configuration", &proav1.Configuration_ServiceDesc, &configurationService{API: a}},
		{"conversation", &proav1.Conversation_ServiceDesc, &conversationService{API: a}},
		{"deadletters", &proav1.DeadLetters_ServiceDesc, &deadLetterService{API: a}},
		{"jobs", &proav1.Jobs_ServiceDesc, &jobsService{API: a}},
		{"lock", &proav1.Lock_ServiceDesc, &lockService{API: a}},
		{"publish", &proav1.PubSub_ServiceDesc, &pubsubService{API: a}},
		{"state", &proav1.State_ServiceDesc, &stateService{API: a}},
	}
}

// API serves proa.v1. It is safe for concurrent use.
type API struct {
	opts    Options
	rules   atomic.Pointer[rules]
	stop    chan struct{}
	stopped sync.Once
}

// rules are what SetRules replaces.
type rules struct {
	methods    map[string]*httpMethod // by path
	allowsGRPC func(group, version string) bool
}

// New returns an API.
func New(o Options) *API {
	if o.MaxBody == 0 {
		o.MaxBody = DefaultMaxBody
	}
	a := &API{opts: o, stop: make(chan struct{})}
	a.SetRules(o.AllowsHTTP, o.AllowsGRPC)
	return a
}

// SetRules replaces Options.AllowsHTTP and Options.AllowsGRPC; the latter counts
// for the next Register.
func (a *API) SetRules(http, grpc func(group, version string) bool) {
	now := &rules{methods: map[string]*httpMethod{}, allowsGRPC: grpc}
	for _, s := range a.services() {
		now.addHTTP(s, http == nil || http(s.group, Version))
	}
	a.rules.Store(now)
}

// Stop ends the calls that would never end by themselves. It returns at once.
func (a *API) Stop() { a.stopped.Do(func() { close(a.stop) }) }

// Register registers the services with a gRPC server, which must not serve yet.
func (a *API) Register(r grpc.ServiceRegistrar) {
	for _, s := range a.services() {
		allows := a.rules.Load().allowsGRPC
		served := allows == nil || allows(s.group, Version)
		r.RegisterService(a.guarded(s.desc, served), s.impl)
	}
}

// guarded returns a copy of desc whose methods tell errors as this API does and
// end when the API stops; or, if it is not served, refuse every call.
func (a *API) guarded(desc *grpc.ServiceDesc, served bool) *grpc.ServiceDesc {
	out := *desc
	out.Methods, out.Streams = slices.Clone(desc.Methods), slices.Clone(desc.Streams)
	for i := range out.Methods {
		handle := out.Methods[i].Handler
		out.Methods[i].Handler = func(impl any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if !served {
				return nil, statusOf(errNotServed()).Err()
			}
			answer, err := handle(impl, ctx, read, nil)
			if err != nil {
				return nil, statusOf(err).Err()
			}
			return answer, nil
		}
	}
	for i := range out.Streams {
		handle := out.Streams[i].Handler
		out.Streams[i].Handler = func(impl any, stream grpc.ServerStream) error {
			if !served {
				return statusOf(errNotServed()).Err()
			}
			ctx, cancel := a.untilStop(stream.Context())
			defer cancel()
			if err := stopped(ctx, handle(impl, &boundStream{stream, ctx})); err != nil {
				return statusOf(err).Err()
			}
			return nil
		}
	}
	return &out
}

func errNotServed() error {
	return fault.New(fault.Unimplemented, "requested endpoint is not available")
}

// errStopping is what ends a stream of a process that stops: the client
// connects again, to another instance or to this one when it is back.
var errStopping = errors.New("the sidecar is shutting down")

// untilStop returns a context that also ends when the API stops.
func (a *API) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-a.stop:
			cancel(errStopping)
		case <-done:
		}
	})
	return ctx, func() {
		close(done)
		waiting.Wait()
		cancel(nil)
	}
}

// stopped returns the error of a stream, which is another one when it has ended
// because the API stops.
func stopped(ctx context.Context, err error) error {
	if err != nil && context.Cause(ctx) == errStopping {
		return fault.Wrap(errStopping, fault.Unavailable, "%v", errStopping)
	}
	return err
}

// boundStream is a stream with another context.
type boundStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a grpc.ServerStream has the context of its call
}

// Context returns the context of the call.
func (s *boundStream) Context() context.Context { return s.ctx }

// path returns the path of a method, the same for gRPC and HTTP.
func path(service, method string) string { return "/" + service + "/" + method }

// prefix begins the paths of all methods.
const prefix = "/proa.v1."

// Serves reports whether a path is one of this API: whether it begins as the
// paths of its methods do.
func (a *API) Serves(path string) bool { return strings.HasPrefix(path, prefix) }
