// Package appchannel is the way from the sidecar to the application beside it:
// the callbacks of the Dapr v1 API, over HTTP or gRPC, whichever the
// application speaks. It asks what the application subscribes to, hands over
// events, and knows whether the application is there and well.
//
// It sets no time limits on deliveries and repeats none: the policies around
// them do. It decides nothing but what an answer means.
package appchannel

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/telemetry"
)

// Options describe one application.
type Options struct {
	// AppID is the application's id.
	AppID string
	// Protocol is what the application speaks: "http", "https", "h2c", "grpc"
	// or "grpcs". Empty stands for "http".
	Protocol string
	// Transport carries the calls to the application. It must speak HTTP/2 for
	// the protocols h2c, grpc and grpcs, and TLS for https and grpcs.
	Transport proxy.RoundTripper
	// Address is the host and port of the application. It is the Host or
	// :authority of every call.
	Address string
	// Dial opens a bare connection to the application, to see whether somebody
	// listens there. Nil dials Address over TCP.
	Dial func(ctx context.Context) (net.Conn, error)
	// Token is shown to the application with every call, if set.
	Token component.Secret
	// Limit bounds how many deliveries (events, events of bindings, triggers of
	// jobs and changes of configuration items) are with the application at
	// once; nil for no bound. Questions and health probes are not counted.
	Limit *policy.Bulkhead
	// Health says how RunHealth probes.
	Health Health
	// BindingProbeTimeout bounds the question whether the application takes
	// the events of a binding; 3 s when zero.
	BindingProbeTimeout time.Duration
	// Ask repeats the questions of the application's start (what it subscribes
	// to, its bindings and its configuration), each of whose tries has 10 s; nil
	// repeats them three times.
	Ask policy.Policy
	// MaxAnswer bounds what is read of one answer, and the content of one
	// invocation that HTTPAdapter takes, in bytes; 4 MiB when zero.
	MaxAnswer int
	// Tracing records a span for each event of a sampled trace; nil for none.
	Tracing *telemetry.Tracing
	// Metrics measure gRPC calls; nil measures nothing.
	Metrics *telemetry.Metrics
	// Log tells when the application comes and goes, and what of its answers
	// cannot be used. Nil discards.
	Log *slog.Logger
}

// Health says how the health of an application is probed. Zero fields take the
// defaults that their comments give.
type Health struct {
	// Path is asked of an HTTP application; "/healthz".
	Path string
	// Interval is the time from the start of one probe to that of the next; 5 s.
	Interval time.Duration
	// Timeout bounds one probe; 500 ms.
	Timeout time.Duration
	// Threshold is how many probes in a row must fail; 3.
	Threshold int
}

const defaultMaxAnswer = 4 << 20

func (o Options) withDefaults() Options {
	defaulted(&o.Protocol, "http")
	defaulted(&o.BindingProbeTimeout, 3*time.Second)
	defaulted(&o.MaxAnswer, defaultMaxAnswer)
	defaulted(&o.Health.Path, "/healthz")
	defaulted(&o.Health.Interval, 5*time.Second)
	defaulted(&o.Health.Timeout, 500*time.Millisecond)
	defaulted(&o.Health.Threshold, 3)
	if o.Ask == nil {
		o.Ask = defaultAsk()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", o.Address)
		}
	}
	return o
}

func defaulted[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// application is an application that speaks one of the protocols.
type application interface {
	pubsub.App
	binding.App
	job.App
	dapr.ConfigurationApp

	subscriptions(ctx context.Context) ([]pubsub.SubscriptionSpec, error)
	config(ctx context.Context) (*AppConfig, error)
	takesBinding(ctx context.Context, name, route string) (bool, error)
	probe(ctx context.Context) error
}

// Channel is the way to one application. It is safe for concurrent use.
type Channel struct {
	opt  Options
	link link
	app  application
	grpc *grpcApp // nil for an HTTP application

	// findListeners finds who listens at Address; nil where that cannot be
	// known.
	findListeners func() ([]uint64, error)

	mu        sync.Mutex
	listeners []uint64 // who listened when the application was last seen to be up
}

var (
	_ pubsub.App            = (*Channel)(nil)
	_ binding.App           = (*Channel)(nil)
	_ job.App               = (*Channel)(nil)
	_ dapr.ConfigurationApp = (*Channel)(nil)
)

// New returns the way to the application that o describes. It does not call it
// yet, and starts nothing.
func New(o Options) *Channel {
	o = o.withDefaults()
	c := &Channel{opt: o, findListeners: listenerFinder(o.Address)}
	c.link = link{
		transport: o.Transport, authority: o.Address, scheme: "http", token: o.Token.Reveal(),
		trouble: make(chan struct{}, 1),
	}
	if o.Protocol == "https" || o.Protocol == "grpcs" {
		c.link.scheme = "https"
	}
	if o.Limit != nil {
		c.link.limit = policy.Chain{o.Limit.Policy}.Bind(policy.Op{Block: "app", Component: o.AppID, Name: "callback", Inbound: true})
	}
	if strings.HasPrefix(o.Protocol, "grpc") {
		c.grpc = newGRPCApp(&c.opt, &c.link)
		c.app = c.grpc
	} else {
		c.app = newHTTPApp(&c.opt, &c.link)
	}
	return c
}

// link is the transport to the application and what goes with every call.
type link struct {
	transport proxy.RoundTripper
	authority string
	scheme    string
	token     string
	limit     *policy.Operation // nil for no limit
	// trouble gets a token when a call found nobody at the other end.
	trouble chan struct{}
}

// send makes one round trip and notes when there was nobody to answer.
func (l *link) send(ctx context.Context, r *proxy.Request, o proxy.RoundTripOptions) (*proxy.Response, error) {
	resp, err := l.transport.RoundTrip(ctx, r, o)
	if err != nil && fault.CodeOf(err) == fault.Unavailable {
		select {
		case l.trouble <- struct{}{}:
		default:
		}
	}
	return resp, err
}

// limited carries out a delivery when the limit allows it.
func (l *link) limited(ctx context.Context, call *policy.Call, do func(context.Context) error) error {
	if l.limit == nil {
		return do(ctx)
	}
	return l.limit.Run(ctx, call, do)
}

// Deliver implements [pubsub.App].
//
// An HTTP application gets the envelope by POST at the route; its answer is
// Success when its status is 2xx, unless the content is a JSON object whose
// member "status" says otherwise, Drop when its status is 404, and Retry
// otherwise. A gRPC application gets OnTopicEvent; a code of Unimplemented is
// Drop and every other one Retry.
func (c *Channel) Deliver(ctx context.Context, route string, e *pubsub.Event) (pubsub.Status, error) {
	ctx, span := dapr.BeginDelivery(ctx, c.opt.Tracing, e)
	status, err := c.app.Deliver(ctx, route, e)
	span.End(err)
	return status, err
}

// DeliverBulk implements [pubsub.App].
//
// An HTTP application gets one POST at the route, a gRPC application one
// OnBulkTopicEvent or, where it has only that, OnBulkTopicEventAlpha1. A 404
// or Unimplemented drops all entries.
func (c *Channel) DeliverBulk(ctx context.Context, route string, b *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
	ctx, spans := dapr.BeginBulkDelivery(ctx, c.opt.Tracing, b)
	statuses, err := c.app.DeliverBulk(ctx, route, b)
	for _, s := range spans {
		s.End(err)
	}
	return statuses, err
}

// OnBindingEvent implements [binding.App]: POST at the route, or
// OnBindingEvent.
func (c *Channel) OnBindingEvent(ctx context.Context, name, route string, e binding.Event) (*binding.AppResponse, error) {
	ctx, span := dapr.BeginBinding(ctx, c.opt.Tracing, name, route, e.Metadata)
	answer, err := c.app.OnBindingEvent(ctx, name, route, e)
	span.End(err)
	return answer, err
}

// OnConfigurationUpdate implements [dapr.ConfigurationApp]: an HTTP application
// gets one POST at /configuration/{store}/{key} for each item that has changed,
// in the order of the keys. When some of them fail the error tells of all that
// did; another try repeats them all. A gRPC application gets its changes on
// the stream that it opened, so that this is Unimplemented.
func (c *Channel) OnConfigurationUpdate(ctx context.Context, store string, u config.Update) error {
	ctx, span := dapr.BeginCallback(ctx, c.opt.Tracing, "configuration/"+store, "OnConfigurationUpdate")
	err := c.app.OnConfigurationUpdate(ctx, store, u)
	span.End(err)
	return err
}

// Subscriptions asks the application what it subscribes to: GET
// /dapr/subscribe, or ListTopicSubscriptions. An application that answers 404,
// or Unimplemented, has none. When it cannot be reached or answers with
// another error it is asked three more times, over some seconds. Subscriptions
// that can never work because a part is missing are logged and left out.
func (c *Channel) Subscriptions(ctx context.Context) ([]pubsub.SubscriptionSpec, error) {
	return c.app.subscriptions(ctx)
}

// Config asks the application for its configuration: GET /dapr/config. It is
// nil when the application answers with another status than 200, and for a
// gRPC application. An application that cannot be reached is asked as often as
// by Subscriptions.
func (c *Channel) Config(ctx context.Context) (*AppConfig, error) { return c.app.config(ctx) }

// TakesBinding asks the application whether it takes the events of the named
// binding: OPTIONS at the route, which 2xx and 405 affirm, or
// ListInputBindings. An error means that there was no answer in time.
func (c *Channel) TakesBinding(ctx context.Context, name, route string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opt.BindingProbeTimeout)
	defer cancel()
	return c.app.takesBinding(ctx, name, route)
}
