package appchannel_test

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

func TestAnHTTPApplicationIsAskedWhatItSubscribesTo(t *testing.T) {
	checkLeaks(t)
	for _, tc := range []struct {
		name, body string
		want       []pubsub.SubscriptionSpec
		log        string
	}{
		{name: "one route", body: `[{"pubsubname":"bus","topic":"orders","route":"orders"}]`,
			want: []pubsub.SubscriptionSpec{{PubSub: "bus", Topic: "orders", DefaultRoute: "orders"}}},
		{name: "everything", body: `[{"pubsubname":"bus","topic":"orders","deadLetterTopic":"poison","metadata":{"rawPayload":"true","n":3,"b":true,"x":null},
			"routes":{"rules":[{"match":" event.type == \"a\" ","path":"/a"},{"match":"","path":"/b"}],"default":"/c"},"route":"/old",
			"bulkSubscribe":{"enabled":true,"maxMessagesCount":7,"maxAwaitDurationMs":40}}]`,
			want: []pubsub.SubscriptionSpec{{
				PubSub: "bus", Topic: "orders", DefaultRoute: "/c", DeadLetterTopic: "poison",
				Metadata: map[string]string{"rawPayload": "true", "n": "3", "b": "true"},
				Rules:    []pubsub.Rule{{Match: `event.type == "a"`, Path: "/a"}, {Path: "/b"}},
				Bulk:     pubsub.BulkSpec{Enabled: true, MaxMessages: 7, MaxAwait: 40 * time.Millisecond},
			}}},
		{name: "rules without a default", body: `[{"pubsubname":"bus","topic":"t","routes":{"rules":[{"match":"event.x == 1","path":"/a"}]}}]`,
			want: []pubsub.SubscriptionSpec{{PubSub: "bus", Topic: "t", Rules: []pubsub.Rule{{Match: "event.x == 1", Path: "/a"}}}}},
		{name: "routes as a path", body: `[{"pubsubname":"bus","topic":"t","routes":"/a"}]`,
			want: []pubsub.SubscriptionSpec{{PubSub: "bus", Topic: "t", DefaultRoute: "/a"}}},
		{name: "routes as a list", body: `[{"pubsubname":"bus","topic":"t","routes":[{"match":"event.x == 1","path":"/a"}]}]`,
			want: []pubsub.SubscriptionSpec{{PubSub: "bus", Topic: "t", Rules: []pubsub.Rule{{Match: "event.x == 1", Path: "/a"}}}}},
		{name: "null parts", body: `[{"pubsubname":"bus","topic":"t","route":"/a","routes":null,"metadata":null,"bulkSubscribe":null}]`,
			want: []pubsub.SubscriptionSpec{{PubSub: "bus", Topic: "t", DefaultRoute: "/a"}}},
		{name: "no list", body: `null`},
		{name: "an empty list", body: `[]`},
		{name: "nothing", body: ``},
		{name: "no route", body: `[{"pubsubname":"bus","topic":"t"},{"pubsubname":"bus","topic":"u","route":"/u"}]`,
			want: []pubsub.SubscriptionSpec{{PubSub: "bus", Topic: "u", DefaultRoute: "/u"}}, log: `entry 1 (topic \"t\" of \"bus\") has no route`},
		{name: "no component", body: `[{"topic":"t","route":"/a"}]`, log: `entry 1 (topic \"t\") does not name a pub/sub component`},
		{name: "no topic", body: `[{"pubsubname":"bus","route":"/a"}]`, log: `entry 1 (of component \"bus\") has no topic`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			app := newHTTPApp(t)
			app.answer("GET /dapr/subscribe", 200, tc.body)
			log := &logged{}
			c := app.channel(t, func(o *appchannel.Options) { o.Token, o.Log = component.NewSecret("s3cret"), log.logger() })
			got, err := c.Subscriptions(t.Context())
			for i := range tc.want {
				tc.want[i].Type = pubsub.Programmatic
			}
			if err != nil || len(got)+len(tc.want) > 0 && !reflect.DeepEqual(got, tc.want) {
				t.Errorf("Subscriptions = %+v, %v; want %+v", got, err, tc.want)
			}
			if tc.log == "" && log.String() != "" || !strings.Contains(log.String(), tc.log) {
				t.Errorf("the log is %q, want %q", log, tc.log)
			}
			if h := app.last(t).header; h.Get("Dapr-App-Id") != "shop" || h.Get("Dapr-Api-Token") != "s3cret" {
				t.Errorf("the fields are %v", h)
			}
		})
	}
}

func TestAnApplicationWithoutSubscriptionsHasNone(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t) // answers 404
	if got, err := app.channel(t, nil).Subscriptions(t.Context()); err != nil || got != nil {
		t.Errorf("over HTTP: Subscriptions = %v, %v", got, err)
	}
	g := serveGRPC(t, func(grpc.ServiceRegistrar) {})
	if got, err := g.channel(t, nil).Subscriptions(t.Context()); err != nil || got != nil {
		t.Errorf("over gRPC: Subscriptions = %v, %v", got, err)
	}
	if n := len(app.requests()); n != 1 {
		t.Errorf("the application was asked %d times", n)
	}
}

func TestAnAnswerThatIsNoListOfSubscriptionsIsAnError(t *testing.T) {
	checkLeaks(t)
	for _, body := range []string{"<html>", `{"pubsubname":"bus"}`, `[{"topic":7}]`, `[{"routes":7}]`, `[{"metadata":{"a":{}}}]`, "[" + strings.Repeat(" ", 100)} {
		app := newHTTPApp(t)
		app.answer("GET /dapr/subscribe", 200, body)
		c := app.channel(t, func(o *appchannel.Options) { o.MaxAnswer = 80 })
		got, err := c.Subscriptions(t.Context())
		if got != nil || err == nil || !strings.Contains(err.Error(), "GET /dapr/subscribe") {
			t.Errorf("%s: Subscriptions = %v, %v", body, got, err)
		}
		if n := len(app.requests()); n != 1 {
			t.Errorf("%s: the application was asked %d times, though another answer was not to be expected", body, n)
		}
	}
}

// transport answers requests by a function.
type transport func(ctx context.Context, r *proxy.Request) (*proxy.Response, error)

func (f transport) RoundTrip(ctx context.Context, r *proxy.Request, _ proxy.RoundTripOptions) (*proxy.Response, error) {
	return f(ctx, r)
}

func answer(status int) *proxy.Response { return &proxy.Response{Status: status, Body: proxy.NoBody{}} }

func TestAnApplicationInTroubleIsAskedAgain(t *testing.T) {
	for _, tc := range []struct {
		name     string
		failures int
		fail     func(context.Context) (*proxy.Response, error)
		asked    int
		err      fault.Code // Unknown for none
	}{
		{"it comes up late", 3, func(context.Context) (*proxy.Response, error) {
			return nil, fault.New(fault.Unavailable, "refused")
		}, 4, 0},
		{"it never comes up", 9, func(context.Context) (*proxy.Response, error) {
			return nil, fault.New(fault.Unavailable, "refused")
		}, 4, fault.Unavailable},
		{"it answers with an error", 9, func(context.Context) (*proxy.Response, error) { return answer(500), nil }, 4, fault.Internal},
		{"it does not answer", 9, func(ctx context.Context) (*proxy.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, 4, fault.DeadlineExceeded},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				c := appchannel.New(appchannel.Options{AppID: "shop", Address: "app:80", Transport: transport(
					func(ctx context.Context, _ *proxy.Request) (*proxy.Response, error) {
						if asked++; asked <= tc.failures {
							return tc.fail(ctx)
						}
						return answer(404), nil
					})})
				began := time.Now()
				_, err := c.Subscriptions(t.Context())
				if asked != tc.asked || (err != nil) != (tc.err != 0) || err != nil && fault.CodeOf(err) != tc.err {
					t.Errorf("after %d questions: %v", asked, err)
				}
				if d := time.Since(began); d < time.Second || d > time.Minute {
					t.Errorf("that took %v", d)
				}
			})
		})
	}
}

func TestTheConfigurationOfAnApplicationIsRead(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	app.answer("GET /dapr/config", 200, `{"entities":["Cart","Order"],"actorIdleTimeout":"1h","actorScanInterval":"30s","drainOngoingCallTimeout":"0h1m0s0ms",
		"drainRebalancedActors":false,"reentrancy":{"enabled":true,"maxStackDepth":8},"remindersStoragePartitions":0,
		"entitiesConfig":[{"entities":["Order"],"actorIdleTimeout":"5s","drainOngoingCallTimeout":""}]}`)
	got, err := app.channel(t, nil).Config(t.Context())
	no, depth := false, 8
	want := &appchannel.AppConfig{
		Entities: []string{"Cart", "Order"},
		ActorSettings: appchannel.ActorSettings{
			IdleTimeout: time.Hour, DrainOngoingCallTimeout: time.Minute, DrainRebalancedActors: &no, Reentrancy: true, MaxStackDepth: &depth,
		},
		EntityConfigs: []appchannel.EntityConfig{{Entities: []string{"Order"}, ActorSettings: appchannel.ActorSettings{IdleTimeout: 5 * time.Second}}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Config = %+v, %v", got, err)
	}
	if h := app.last(t).header; h.Get("Dapr-App-Id") != "shop" {
		t.Errorf("the fields are %v", h)
	}
}

func TestAnApplicationMayHaveNoConfiguration(t *testing.T) {
	checkLeaks(t)
	for _, status := range []int{204, 404, 405, 500} {
		app := newHTTPApp(t)
		app.answer("GET /dapr/config", status, "")
		if got, err := app.channel(t, nil).Config(t.Context()); got != nil || err != nil {
			t.Errorf("%d: Config = %v, %v", status, got, err)
		}
	}
	g := serveGRPC(t, func(grpc.ServiceRegistrar) {})
	if got, err := g.channel(t, nil).Config(t.Context()); got != nil || err != nil {
		t.Errorf("over gRPC: Config = %v, %v", got, err)
	}
}

func TestAConfigurationThatCannotBeReadIsAnError(t *testing.T) {
	checkLeaks(t)
	for body, want := range map[string]string{
		"<html>":                      "GET /dapr/config cannot be used",
		`{"actorIdleTimeout":"soon"}`: `actorIdleTimeout wants a duration such as "1h" or "30s", not "soon"`,
		`{"actorIdleTimeout":"-1s"}`:  `not "-1s"`,
		`{"entitiesConfig":[{},{"drainOngoingCallTimeout":"x"}]}`: `entitiesConfig, entry 2: drainOngoingCallTimeout`,
	} {
		app := newHTTPApp(t)
		app.answer("GET /dapr/config", 200, body)
		got, err := app.channel(t, nil).Config(t.Context())
		if got != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Config = %v, %v; want %q", body, got, err, want)
		}
	}
}

// listingApp tells what it subscribes to, and which bindings it takes.
type listingApp struct {
	rtv1.UnimplementedAppCallbackServer
	failures atomic.Int32 // how often it fails before it tells
}

func (a *listingApp) ListTopicSubscriptions(context.Context, *emptypb.Empty) (*rtv1.ListTopicSubscriptionsResponse, error) {
	if a.failures.Add(-1) >= 0 {
		return nil, status.Error(codes.Internal, "not yet")
	}
	return &rtv1.ListTopicSubscriptionsResponse{Subscriptions: []*rtv1.TopicSubscription{
		{PubsubName: "bus", Topic: "plain"},
		{PubsubName: "bus"},
		{
			PubsubName: "bus", Topic: "orders", Metadata: map[string]string{"rawPayload": "true"}, DeadLetterTopic: "poison",
			Routes:        &rtv1.TopicRoutes{Rules: []*rtv1.TopicRule{{Match: "event.x == 1", Path: "/a"}}, Default: "/b"},
			BulkSubscribe: &rtv1.BulkSubscribeConfig{Enabled: true, MaxMessagesCount: 5, MaxAwaitDurationMs: 10},
		},
	}}, nil
}

func (a *listingApp) ListInputBindings(context.Context, *emptypb.Empty) (*rtv1.ListInputBindingsResponse, error) {
	return &rtv1.ListInputBindingsResponse{Bindings: []string{"tick", "queue"}}, nil
}

func TestAGRPCApplicationIsAskedWhatItSubscribesTo(t *testing.T) {
	checkLeaks(t)
	a := &listingApp{}
	a.failures.Store(1)
	log := &logged{}
	app := serveGRPC(t, func(s grpc.ServiceRegistrar) { rtv1.RegisterAppCallbackServer(s, a) })
	got, err := app.channel(t, func(o *appchannel.Options) { o.Log = log.logger() }).Subscriptions(t.Context())
	want := []pubsub.SubscriptionSpec{
		{Type: pubsub.Programmatic, PubSub: "bus", Topic: "plain"},
		{
			Type: pubsub.Programmatic, PubSub: "bus", Topic: "orders", Metadata: map[string]string{"rawPayload": "true"},
			DeadLetterTopic: "poison", Rules: []pubsub.Rule{{Match: "event.x == 1", Path: "/a"}}, DefaultRoute: "/b",
			Bulk: pubsub.BulkSpec{Enabled: true, MaxMessages: 5, MaxAwait: 10 * time.Millisecond},
		},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Subscriptions = %+v, %v", got, err)
	}
	if !strings.Contains(log.String(), `entry 2 (of component \"bus\") has no topic`) {
		t.Errorf("the log is %q", log)
	}
	if md := app.metadata(t); strings.Join(md.Get("dapr-app-id"), "") != "shop" {
		t.Errorf("the metadata is %v", md)
	}
}

func TestAnApplicationIsAskedWhetherItTakesABinding(t *testing.T) {
	checkLeaks(t)
	for _, tc := range []struct {
		status int
		takes  bool
	}{{200, true}, {204, true}, {405, true}, {404, false}, {500, false}, {301, false}} {
		app := newHTTPApp(t)
		app.answer("OPTIONS /on-tick", tc.status, "")
		got, err := app.channel(t, nil).TakesBinding(t.Context(), "tick", "on-tick")
		if err != nil || got != tc.takes {
			t.Errorf("%d: TakesBinding = %v, %v", tc.status, got, err)
		}
	}
	g := serveGRPC(t, func(s grpc.ServiceRegistrar) { rtv1.RegisterAppCallbackServer(s, &listingApp{}) }).channel(t, nil)
	for name, want := range map[string]bool{"tick": true, "queue": true, "other": false} {
		if got, err := g.TakesBinding(t.Context(), name, "/route"); err != nil || got != want {
			t.Errorf("over gRPC, %s: TakesBinding = %v, %v", name, got, err)
		}
	}
	none := serveGRPC(t, func(grpc.ServiceRegistrar) {}).channel(t, nil)
	if got, err := none.TakesBinding(t.Context(), "tick", ""); err != nil || got {
		t.Errorf("an application without the method: TakesBinding = %v, %v", got, err)
	}
}

func TestTheQuestionForABindingEndsInTime(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	release := make(chan struct{})
	app.mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) { <-release })
	c := app.channel(t, func(o *appchannel.Options) { o.BindingProbeTimeout = 50 * time.Millisecond })
	got, err := c.TakesBinding(t.Context(), "tick", "tick")
	close(release)
	if got || !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("TakesBinding = %v, %v", got, err)
	}
}
