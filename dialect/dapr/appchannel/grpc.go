package appchannel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/telemetry"
)

// grpcApp is an application that speaks gRPC.
type grpcApp struct {
	opt      *Options
	link     *link
	ask      *policy.Operation
	callback rtv1.AppCallbackClient
	alpha    rtv1.AppCallbackAlphaClient
	health   rtv1.AppCallbackHealthCheckClient
	// onlyAlpha tells that the application has the bulk method only under its
	// former name.
	onlyAlpha atomic.Bool
	// onlyAlphaJobs tells the same of the method for jobs.
	onlyAlphaJobs atomic.Bool
}

var _ application = (*grpcApp)(nil)

func newGRPCApp(o *Options, l *link) *grpcApp {
	conn := &rpc.ClientConn{Transport: rpcTransport{l}, Scheme: l.scheme, Authority: l.authority, MaxMessage: o.MaxAnswer}
	if m := o.Metrics; m != nil {
		conn.Observe = func(c rpc.Observed) { measure(m, c) }
	}
	if l.token != "" {
		conn.Header = proxy.Header{{Name: dapr.TokenHeader, Value: l.token}}
	}
	return &grpcApp{
		opt: o, link: l, ask: asking(o.Ask), callback: rtv1.NewAppCallbackClient(conn), alpha: rtv1.NewAppCallbackAlphaClient(conn),
		health: rtv1.NewAppCallbackHealthCheckClient(conn),
	}
}

// measure notes a call of the application.
func measure(m *telemetry.Metrics, c rpc.Observed) {
	if c.Method == rtv1.AppCallbackHealthCheck_HealthCheck_FullMethodName {
		m.GRPCProbed(int(c.Code), c.Duration)
		return
	}
	m.GRPCCalled(telemetry.GRPCCall{Method: c.Method, Code: int(c.Code), Received: c.Received, Sent: c.Sent, Duration: c.Duration})
}

// rpcCall is what belongs to a call beside its messages.
type rpcCall struct {
	policy policy.Call
	header proxy.Header // to send, beside what every call has
}

type rpcCallKey struct{}

// rpcTransport adds the fields of a call's rpcCall, which metadata would carry
// too, but not without a map for each call.
type rpcTransport struct{ link *link }

// RoundTrip implements proxy.RoundTripper.
func (t rpcTransport) RoundTrip(ctx context.Context, r *proxy.Request, o proxy.RoundTripOptions) (*proxy.Response, error) {
	if c, ok := ctx.Value(rpcCallKey{}).(*rpcCall); ok {
		r.Header = append(r.Header, c.header...)
	}
	return t.link.send(ctx, r, o)
}

// call makes a call, through do, and names its error.
func (g *grpcApp) call(ctx context.Context, method string, c *rpcCall, do func(context.Context) error) error {
	err := do(context.WithValue(ctx, rpcCallKey{}, c))
	if err == nil {
		return nil
	}
	if f, ok := transportFault(err); ok {
		return fault.Wrap(err, f.Code, "call %s of the application", method)
	}
	return rpcError(ctx, method, err)
}

// transportFault returns why there was no answer; false when there was one.
func transportFault(err error) (*fault.Error, bool) { return errors.AsType[*fault.Error](err) }

// deliver makes a call once the limit allows it.
func (g *grpcApp) deliver(ctx context.Context, method string, c *rpcCall, do func(context.Context) error) error {
	c.policy.Key = method
	return g.link.limited(ctx, &c.policy, func(ctx context.Context) error { return g.call(ctx, method, c, do) })
}

// isUnimplemented reports whether the application answered that it does not
// have the method.
func isUnimplemented(err error) bool { return answered(err, codes.Unimplemented) }

// answered reports whether the application answered with the code.
func answered(err error, code codes.Code) bool {
	a, ok := errors.AsType[*AnswerError](err)
	return ok && a.grpc == int(code)
}

// Deliver implements pubsub.App.
func (g *grpcApp) Deliver(ctx context.Context, route string, ev *pubsub.Event) (pubsub.Status, error) {
	c := &rpcCall{header: make(proxy.Header, 0, 3+len(ev.Metadata))}
	c.policy.Bytes = len(ev.JSON)
	c.header = append(c.header, proxy.Field{Name: fieldPubSubName, Value: printable(ev.Component)})
	c.header = appendTrace(ctx, c.header, ev.TraceParent(), ev.TraceState())
	c.header = appendMetadata(c.header, ev.Metadata, true)
	request := dapr.TopicEvent(ev, route)
	var answer *rtv1.TopicEventResponse
	err := g.deliver(ctx, "OnTopicEvent", c, func(ctx context.Context) (err error) {
		answer, err = g.callback.OnTopicEvent(ctx, request)
		return err
	})
	switch {
	case isUnimplemented(err):
		return pubsub.Drop, noHandler(err)
	case err != nil:
		return pubsub.Retry, err
	}
	return statusOf(answer.GetStatus()), nil
}

func statusOf(s rtv1.TopicEventResponse_TopicEventResponseStatus) pubsub.Status {
	switch s {
	case rtv1.TopicEventResponse_SUCCESS:
		return pubsub.Success
	case rtv1.TopicEventResponse_DROP:
		return pubsub.Drop
	}
	return pubsub.Retry
}

// DeliverBulk implements pubsub.App.
func (g *grpcApp) DeliverBulk(ctx context.Context, route string, b *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
	c := &rpcCall{header: proxy.Header{{Name: fieldPubSubName, Value: printable(b.Component)}}}
	c.header = appendTrace(ctx, c.header, "", "")
	request := bulkTopicEvent(route, b)
	var answer *rtv1.TopicEventBulkResponse
	stable := func(ctx context.Context) (err error) {
		answer, err = g.callback.OnBulkTopicEvent(ctx, request)
		return err
	}
	alpha := func(ctx context.Context) (err error) {
		//lint:ignore SA1019 it is what older applications have
		answer, err = g.alpha.OnBulkTopicEventAlpha1(ctx, request)
		return err
	}
	err := g.either(ctx, c, &g.onlyAlpha, method{"OnBulkTopicEvent", stable}, method{"OnBulkTopicEventAlpha1", alpha})
	switch {
	case isUnimplemented(err):
		return nil, noHandler(err)
	case err != nil:
		return nil, err
	}
	out := make([]pubsub.EntryStatus, len(answer.GetStatuses()))
	for i, s := range answer.GetStatuses() {
		out[i] = pubsub.EntryStatus{EntryID: s.GetEntryId(), Status: statusOf(s.GetStatus())}
	}
	return out, nil
}

// method is a method of the application and what calls it.
type method struct {
	name string
	do   func(context.Context) error
}

// either calls the method that the application has, of a stable one and its
// predecessor. Which one that is, it keeps in predecessor.
func (g *grpcApp) either(ctx context.Context, c *rpcCall, predecessor *atomic.Bool, stable, former method) error {
	first, second := stable, former
	was := predecessor.Load()
	if was {
		first, second = former, stable
	}
	err := g.deliver(ctx, first.name, c, first.do)
	if !isUnimplemented(err) {
		return err
	}
	err = g.deliver(ctx, second.name, c, second.do)
	if err == nil {
		predecessor.Store(!was)
	}
	return err
}

func (g *grpcApp) subscriptions(ctx context.Context) (specs []pubsub.SubscriptionSpec, err error) {
	const name = "ListTopicSubscriptions"
	err = ask(ctx, g.ask, func(attempt context.Context) (bool, error) {
		var list *rtv1.ListTopicSubscriptionsResponse
		err := g.call(attempt, name, g.question(), func(ctx context.Context) (err error) {
			list, err = g.callback.ListTopicSubscriptions(ctx, &emptypb.Empty{})
			return err
		})
		if isUnimplemented(err) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		for i, s := range list.GetSubscriptions() {
			spec := specOf(s)
			if p := missing(&spec); p != "" {
				g.opt.Log.WarnContext(ctx, "a subscription of the application cannot be used", "problem", fmt.Sprintf("entry %d %s", i+1, p))
				continue
			}
			specs = append(specs, spec)
		}
		return true, nil
	})
	return specs, err
}

// question returns a call that tells the application which one it is.
func (g *grpcApp) question() *rpcCall {
	return &rpcCall{header: proxy.Header{{Name: fieldAppID, Value: printable(g.opt.AppID)}}}
}

func specOf(s *rtv1.TopicSubscription) pubsub.SubscriptionSpec {
	spec := pubsub.SubscriptionSpec{
		Type: pubsub.Programmatic, PubSub: s.GetPubsubName(), Topic: s.GetTopic(), DeadLetterTopic: s.GetDeadLetterTopic(),
		DefaultRoute: s.GetRoutes().GetDefault(), Metadata: s.GetMetadata(),
		Bulk: pubsub.BulkSpec{
			Enabled: s.GetBulkSubscribe().GetEnabled(), MaxMessages: int(s.GetBulkSubscribe().GetMaxMessagesCount()),
			MaxAwait: time.Duration(min(int(s.GetBulkSubscribe().GetMaxAwaitDurationMs()), maxMillis)) * time.Millisecond,
		},
	}
	for _, r := range s.GetRoutes().GetRules() {
		spec.Rules = append(spec.Rules, pubsub.Rule{Match: strings.TrimSpace(r.GetMatch()), Path: r.GetPath()})
	}
	return spec
}

// config implements application: gRPC applications have no such document.
func (g *grpcApp) config(context.Context) (*AppConfig, error) { return nil, nil }

func (g *grpcApp) takesBinding(ctx context.Context, name, _ string) (bool, error) {
	var list *rtv1.ListInputBindingsResponse
	err := g.call(ctx, "ListInputBindings", g.question(), func(ctx context.Context) (err error) {
		list, err = g.callback.ListInputBindings(ctx, &emptypb.Empty{})
		return err
	})
	if isUnimplemented(err) {
		return false, nil
	}
	return slices.Contains(list.GetBindings(), name), err
}

// OnBindingEvent implements binding.App.
func (g *grpcApp) OnBindingEvent(ctx context.Context, name, _ string, ev binding.Event) (*binding.AppResponse, error) {
	c := &rpcCall{header: make(proxy.Header, 0, 2)}
	c.header = appendTrace(ctx, c.header, ev.Metadata[dapr.TraceParent], ev.Metadata[dapr.TraceState])
	c.policy.Bytes = len(ev.Data)
	request := &rtv1.BindingEventRequest{Name: valid(name), Data: ev.Data, Metadata: validMap(ev.Metadata)}
	var answer *rtv1.BindingEventResponse
	err := g.deliver(ctx, "OnBindingEvent", c, func(ctx context.Context) (err error) {
		answer, err = g.callback.OnBindingEvent(ctx, request)
		return err
	})
	if err != nil {
		return nil, err
	}
	return bindingAnswer(answer), nil
}

// OnConfigurationUpdate implements dapr.ConfigurationApp.
func (g *grpcApp) OnConfigurationUpdate(context.Context, string, config.Update) error {
	return fault.New(fault.Unimplemented,
		"a gRPC application gets changes of configuration items on the stream of SubscribeConfiguration, not by a call")
}

// probe asks the application whether it is well.
func (g *grpcApp) probe(ctx context.Context) error {
	return g.call(ctx, "HealthCheck", &rpcCall{}, func(ctx context.Context) error {
		_, err := g.health.HealthCheck(ctx, &emptypb.Empty{})
		return err
	})
}
