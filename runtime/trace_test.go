package runtime

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/internal/testserver"
)

// caller is the span that calls the first sidecar.
const (
	callerTrace = "0af7651916cd43dd8448eb211c80319c"
	callerSpan  = "b7ad6b7169203331"
	caller      = "00-" + callerTrace + "-" + callerSpan + "-01"
)

// seen is a request that an application got.
type seen struct{ what, parent, state, baggage, body string }

// observer is an application over HTTP and over gRPC that keeps what it gets.
// What it is sent at a path, or for a topic, below "/dead" fails.
type observer struct {
	http, grpc int // ports
	mu         sync.Mutex
	got        []seen
}

func newObserver(t *testing.T) *observer {
	o := &observer{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method == "OPTIONS" {
			return
		}
		o.add(seen{r.Method + " " + r.URL.Path, r.Header.Get("traceparent"), r.Header.Get("tracestate"), r.Header.Get("baggage"), string(body)})
		switch {
		case r.URL.Path == "/dapr/subscribe":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `[{"pubsubname":"pubsub","topic":"asked","route":"/asked"}]`)
		case strings.HasPrefix(r.URL.Path, "/dapr/"):
			w.WriteHeader(http.StatusNotFound)
		case strings.HasPrefix(r.URL.Path, "/fails"):
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	t.Cleanup(srv.Close)
	o.http = srv.Listener.Addr().(*net.TCPAddr).Port
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	o.grpc = l.Addr().(*net.TCPAddr).Port
	rpc := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		m := &emptypb.Empty{}
		if err := s.RecvMsg(m); err != nil {
			return err
		}
		method, _ := grpc.MethodFromServerStream(s)
		md, _ := metadata.FromIncomingContext(s.Context())
		first := func(name string) string { return strings.Join(md.Get(name), ",") }
		o.add(seen{method, first("traceparent"), first("tracestate"), first("baggage"), string(m.ProtoReflect().GetUnknown())})
		return s.SendMsg(&emptypb.Empty{})
	}))
	var wg sync.WaitGroup
	wg.Go(func() { _ = rpc.Serve(l) }) // ends with the test
	t.Cleanup(func() { rpc.Stop(); wg.Wait() })
	return o
}

func (o *observer) add(s seen) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.got = append(o.got, s)
}

// await waits for a request and returns the last of its kind.
func (o *observer) await(t *testing.T, what string) (found seen) {
	t.Helper()
	eventually(t, func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, s := range slices.Backward(o.got) {
			if s.what == what {
				found = s
				return nil
			}
		}
		return fmt.Errorf("the application did not get %s; it got %+v", what, o.got)
	})
	return found
}

// pair is both sides of calls, whose spans go to one collector.
// front has no application; The other side is two
// sidecars, "back" of an application that speaks HTTP, and "rpc" of one that
// speaks gRPC.
type pair struct {
	collector        *testserver.Collector
	front, back, rpc *rig
	app              *observer
}

func newPair(t *testing.T, conf string) *pair {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	p := &pair{collector: testserver.StartCollector(t), app: newObserver(t)}
	if conf == "" {
		conf = "  tracing:\n    samplingRate: \"1\"\n    otel: {endpointAddress: \"http://" + p.collector.GRPC + "\"}\n"
	}
	home := t.TempDir()
	files := func(more ...string) map[string]string {
		out := map[string]string{"conf.yaml": configurationYAML(conf)}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	start := func(id string, more map[string]string, change func(*Config)) *rig {
		return newRig(t, more, func(c *Config) {
			c.AppID, c.Engine.Dir = id, home
			if change != nil {
				change(c)
			}
		})
	}
	p.front = start("front", files("store.yaml", componentYAML("store", "state.in-memory", "outboxPublishPubsub=pubsub", "outboxPublishTopic=outboxed"),
		"outward.yaml", componentYAML("outward", "bindings.http", fmt.Sprintf("url=http://127.0.0.1:%d/outward", p.app.http))), nil)
	p.back = start("back", files("subs.yaml", subscriptionsYAML, "tick.yaml", componentYAML("tick", "bindings.cron", "schedule=@every 1s"),
		"conf2.yaml", componentYAML("settings", "configuration.in-memory")), func(c *Config) { c.AppPort = p.app.http })
	p.rpc = start("rpc", files("subs.yaml", strings.ReplaceAll(subscriptionsYAML, "topic: ", "topic: rpc-")), func(c *Config) {
		c.AppPort, c.AppProtocol = p.app.grpc, "grpc"
	})
	return p
}

const subscriptionsYAML = `apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: declared}
spec: {pubsubname: pubsub, topic: declared, routes: {default: /declared}}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: bulk}
spec: {pubsubname: pubsub, topic: bulk, routes: {default: /bulk}, bulkSubscribe: {enabled: true, maxMessagesCount: 10, maxAwaitDurationMs: 20}}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: raw}
spec: {pubsubname: pubsub, topic: raw, routes: {default: /raw}, metadata: {rawPayload: "true"}}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: fails}
spec: {pubsubname: pubsub, topic: failing, routes: {default: /fails}, deadLetterTopic: dead}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: dead}
spec: {pubsubname: pubsub, topic: dead, routes: {default: /dead}}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: outboxed}
spec: {pubsubname: pubsub, topic: outboxed, routes: {default: /outboxed}}
`

// chain follows a span up to its root, as "service name [kind]" each, or as
// "caller" for the span of the caller. It waits for all of them to be sent.
func (p *pair) chain(t *testing.T, traceparent string) (out []string) {
	t.Helper()
	if len(traceparent) != 55 {
		t.Errorf("traceparent %q", traceparent)
		return nil
	}
	trace, id := traceparent[3:35], traceparent[36:52]
	for id != "" && id != callerSpan {
		var at testserver.Span
		p.collector.Await(t, "span "+id+" below "+strings.Join(out, ", "), func() bool {
			for _, s := range p.collector.Spans() {
				if s.ID == id && s.TraceID == trace {
					at = s
					return true
				}
			}
			return false
		})
		out = append(out, strings.TrimSpace(at.Service+" "+at.Name+" "+at.Kind))
		id = at.Parent
	}
	if id == callerSpan {
		out = append(out, "caller")
	}
	return out
}

// want compares the way up from a request to the caller.
func (p *pair) want(t *testing.T, got seen, chain ...string) {
	t.Helper()
	if !strings.HasPrefix(got.parent, "00-"+callerTrace+"-") || !strings.HasSuffix(got.parent, "-01") {
		t.Errorf("%s: traceparent %q", got.what, got.parent)
		return
	}
	if way := p.chain(t, got.parent); !slices.Equal(way, append(chain, "caller")) {
		t.Errorf("%s came by %q, want %q", got.what, way, chain)
	}
	if got.state != "vendor=1" {
		t.Errorf("%s: tracestate %q", got.what, got.state)
	}
}

// traced makes a request in the trace of the caller.
func (p *pair) traced(t *testing.T, method, path, body string, header ...string) http.Header {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.front.url(path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Traceparent", caller)
	req.Header.Set("Tracestate", "vendor=1")
	req.Header.Set("Baggage", "user=ann")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, answer)
	}
	return resp.Header
}

// outgoing is the metadata of a call in the trace of the caller.
func outgoing(ctx context.Context, more ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, append([]string{"traceparent", caller, "tracestate", "vendor=1", "baggage", "user=ann"}, more...)...)
}

func TestOneTraceFromTheCallerToEveryApplication(t *testing.T) {
	p := newPair(t, "")
	for _, r := range []*rig{p.back, p.rpc} {
		eventually(t, func() error {
			if n := strings.Count(r.log.String(), "msg=subscription "); n < 6 {
				return fmt.Errorf("%d subscriptions", n)
			}
			return nil
		})
	}
	client := p.front.dial()
	published := func(api, topic string) []string {
		return []string{"back pubsub/" + topic + " SERVER", "front " + api + " CLIENT"}
	}
	t.Run("invoke HTTP to HTTP", func(t *testing.T) {
		p.traced(t, "POST", "/v1.0/invoke/back/method/hello/you?x=1", "x")
		got := p.app.await(t, "POST /hello/you")
		p.want(t, got, "back CallLocal/back/hello/you SERVER", "front CallLocal/back/hello/you CLIENT")
		if got.baggage != "user=ann" {
			t.Errorf("baggage %q", got.baggage)
		}
	})
	t.Run("InvokeService to HTTP", func(t *testing.T) {
		in := &rtv1.InvokeServiceRequest{Id: "back", Message: &commonv1.InvokeRequest{Method: "served", Data: &anypb.Any{Value: []byte("x")}}}
		if _, err := client.InvokeService(outgoing(t.Context()), in); err != nil {
			t.Fatal(err)
		}
		got := p.app.await(t, "POST /served")
		p.want(t, got, "back CallLocal/back/served SERVER", "front CallLocal/back/served CLIENT")
		if got.baggage != "user=ann" {
			t.Errorf("baggage %q", got.baggage)
		}
	})
	t.Run("gRPC to gRPC", func(t *testing.T) {
		conn := p.front.conn()
		if err := conn.Invoke(outgoing(t.Context(), "dapr-app-id", "rpc"), "/shop.Orders/Get", &emptypb.Empty{}, &emptypb.Empty{}); err != nil {
			t.Fatal(err)
		}
		got := p.app.await(t, "/shop.Orders/Get")
		p.want(t, got, "rpc CallLocal/rpc/shop.Orders/Get SERVER", "front /shop.Orders/Get CLIENT")
		if got.baggage != "user=ann" {
			t.Errorf("baggage %q", got.baggage)
		}
	})
	t.Run("publish", func(t *testing.T) {
		h := p.traced(t, "POST", "/v1.0/publish/pubsub/declared", `{"n":1}`)
		got := p.app.await(t, "POST /declared")
		p.want(t, got, published("/v1.0/publish/pubsub/declared", "declared")...)
		if !strings.Contains(got.body, `"traceparent":"`+h.Get("traceparent")+`"`) || !strings.Contains(got.body, `"tracestate":"vendor=1"`) {
			t.Errorf("the event is %s, the answer said %q", got.body, h.Get("traceparent"))
		}
	})
	t.Run("publish to a programmatic subscription", func(t *testing.T) {
		p.traced(t, "POST", "/v1.0/publish/pubsub/asked", `{"n":1}`)
		p.want(t, p.app.await(t, "POST /asked"), published("/v1.0/publish/pubsub/asked", "asked")...)
	})
	t.Run("bulk publish to a bulk subscription", func(t *testing.T) {
		p.traced(t, "POST", "/v1.0/publish/bulk/pubsub/bulk", `[{"entryId":"1","event":"a","contentType":"text/plain"},{"entryId":"2","event":"b","contentType":"text/plain"}]`)
		got := p.app.await(t, "POST /bulk")
		p.want(t, got, published("/v1.0/publish/bulk/pubsub/bulk", "bulk")...)
	})
	t.Run("raw", func(t *testing.T) {
		p.traced(t, "POST", "/v1.0/publish/pubsub/raw?metadata.rawPayload=true", `plain`)
		p.want(t, p.app.await(t, "POST /raw"), published("/v1.0/publish/pubsub/raw", "raw")...)
	})
	t.Run("dead letter", func(t *testing.T) {
		p.traced(t, "POST", "/v1.0/publish/pubsub/failing", `{"n":1}`)
		p.want(t, p.app.await(t, "POST /fails"), published("/v1.0/publish/pubsub/failing", "failing")...)
		p.want(t, p.app.await(t, "POST /dead"), published("/v1.0/publish/pubsub/failing", "dead")...)
	})
	t.Run("publish over gRPC to a gRPC application", func(t *testing.T) {
		if _, err := client.PublishEvent(outgoing(t.Context()), &rtv1.PublishEventRequest{PubsubName: "pubsub", Topic: "rpc-declared", Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		p.want(t, p.app.await(t, "/dapr.proto.runtime.v1.AppCallback/OnTopicEvent"),
			"rpc pubsub/rpc-declared SERVER", "front /dapr.proto.runtime.v1.Dapr/PublishEvent CLIENT")
	})
	t.Run("streaming", func(t *testing.T) {
		stream, err := p.back.dial().SubscribeTopicEventsAlpha1(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&rtv1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &rtv1.SubscribeTopicEventsRequestAlpha1_InitialRequest{
			InitialRequest: &rtv1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "pubsub", Topic: "streamed"},
		}}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		h := p.traced(t, "POST", "/v1.0/publish/pubsub/streamed", `{"n":1}`)
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := m.GetEventMessage().GetExtensions().AsMap()["traceparent"]; got != h.Get("traceparent") {
			t.Errorf("the event has %v, the answer of the publish said %q", got, h.Get("traceparent"))
		}
		id := ""
		p.collector.Await(t, "the span of the delivery", func() bool {
			for _, s := range p.collector.Spans() {
				if s.Name == "pubsub/streamed" && s.Parent == h.Get("traceparent")[36:52] {
					id = s.ID
				}
			}
			return id != ""
		})
	})
	t.Run("outbox", func(t *testing.T) {
		p.traced(t, "POST", "/v1.0/state/store/transaction", `{"operations":[{"operation":"upsert","request":{"key":"k","value":{"n":1}}}]}`)
		p.want(t, p.app.await(t, "POST /outboxed"), published("/v1.0/state/store/transaction", "outboxed")...)
	})
	t.Run("output binding", func(t *testing.T) {
		p.traced(t, "POST", "/v1.0/bindings/outward", `{"operation":"post","data":"x"}`)
		got := p.app.await(t, "POST /outward")
		p.want(t, got, "front /v1.0/bindings/outward CLIENT")
		if got.baggage != "user=ann" {
			t.Errorf("baggage %q", got.baggage)
		}
	})
	root := func(got seen, span string) {
		t.Helper()
		if way := p.chain(t, got.parent); !slices.Equal(way, []string{span}) {
			t.Errorf("%s came by %q, want %q", got.what, way, span)
		}
	}
	t.Run("input binding", func(t *testing.T) { root(p.app.await(t, "POST /tick"), "back bindings/tick SERVER") })
	t.Run("job", func(t *testing.T) {
		if status, answer, err := p.back.call("POST", "/v1.0-alpha1/jobs/later", `{"dueTime":"100ms","data":{"a":1}}`); err != nil || status >= 300 {
			t.Fatalf("%d %s %v", status, answer, err)
		}
		root(p.app.await(t, "POST /job/later"), "back job/later SERVER")
	})
}

// find waits for the span with a name that was sent last.
func (p *pair) find(t *testing.T, name string) (found testserver.Span) {
	t.Helper()
	p.collector.Await(t, "a span "+name, func() bool {
		for _, s := range p.collector.Spans() {
			if s.Name == name {
				found = s
			}
		}
		return found.Name != ""
	})
	return found
}

func TestSpansHaveTheAttributesThatDaprGivesThem(t *testing.T) {
	p := newPair(t, "")
	client := p.front.dial()
	p.traced(t, "GET", "/v1.0/state/store/k", "", "Dapr-Tenant", "acme", "Dapr-Api-Token", "hidden")
	if _, err := client.GetState(outgoing(t.Context()), &rtv1.GetStateRequest{StoreName: "store", Key: "k"}); err != nil {
		t.Fatal(err)
	}
	_, _ = client.GetSecret(outgoing(t.Context()), &rtv1.GetSecretRequest{StoreName: "none", Key: "k"})
	p.traced(t, "POST", "/v1.0/publish/pubsub/nobody", "x")
	p.traced(t, "POST", "/v1.0/invoke/back/method/hello", "x")
	p.app.await(t, "POST /hello")
	const api = "/dapr.proto.runtime.v1.Dapr/"
	for name, want := range map[string]map[string]string{
		"/v1.0/state/store/k": {
			"dapr.api": "GET /v1.0/state/store/k", "dapr.protocol": "http", "dapr.status_code": "204", "db.system": "state", "db.name": "store",
			"db.statement": "GET /v1.0/state/store/k", "db.connection_string": "state", "dapr-tenant": "acme", "dapr-api-token": "",
		},
		api + "GetState":              {"dapr.api": api + "GetState", "dapr.protocol": "grpc", "db.system": "state", "db.name": "store", "db.statement": api + "GetState"},
		api + "GetSecret":             {"db.system": "secrets", "db.name": "none"},
		"/v1.0/publish/pubsub/nobody": {"dapr.protocol": "http", "dapr.status_code": "204", "messaging.system": "pubsub", "messaging.destination.name": "nobody"},
		"CallLocal/back/hello":        {"dapr.invoke_method": "hello", "rpc.service": "ServiceInvocation"},
	} {
		got := p.find(t, name)
		for key, value := range want {
			if got.Attributes[key] != value {
				t.Errorf("%s: %s is %q, want %q", name, key, got.Attributes[key], value)
			}
		}
		if failed := strings.HasSuffix(name, "GetSecret"); failed != (got.Error != "") {
			t.Errorf("%s: error %q", name, got.Error)
		}
	}
	if inner := p.find(t, "state/get"); inner.Parent == "" || inner.Attributes["proa.component"] != "store" {
		t.Errorf("span of the component: %+v", inner)
	}
}

func TestWhatIsNotRecordedPassesAsItCame(t *testing.T) {
	p := newPair(t, "  tracing:\n    samplingRate: \"0\"\n    stdout: true\n")
	const unsampled = "00-" + callerTrace + "-" + callerSpan + "-00"
	h := p.traced(t, "POST", "/v1.0/invoke/back/method/quiet", "x", "Traceparent", unsampled)
	if got := p.app.await(t, "POST /quiet"); got.parent != unsampled || got.state != "vendor=1" || h.Get("traceparent") != "" {
		t.Errorf("the application got %+v, the caller %q", got, h.Get("traceparent"))
	}
	h = p.traced(t, "POST", "/v1.0/publish/pubsub/declared", "x", "Traceparent", unsampled)
	if got := p.app.await(t, "POST /declared"); got.parent != unsampled || got.state != "vendor=1" || h.Get("traceparent") != "" {
		t.Errorf("the application got %+v, the caller %q", got, h.Get("traceparent"))
	}
}

func TestBaggageThatIsNoneIsRefusedOverBothProtocols(t *testing.T) {
	r := newRig(t, map[string]string{"store.yaml": componentYAML("store", "state.in-memory")}, nil)
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.url("/v1.0/state/store/k"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Baggage", "no baggage")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("over HTTP: %d", resp.StatusCode)
	}
	for what, call := range map[string]func(context.Context) error{
		"a method of the API": func(ctx context.Context) error {
			_, err := r.dial().GetState(ctx, &rtv1.GetStateRequest{StoreName: "store", Key: "k"})
			return err
		},
		"a call that is passed on": func(ctx context.Context) error {
			return r.conn().Invoke(metadata.AppendToOutgoingContext(ctx, "dapr-app-id", "other"), "/a.B/C", &emptypb.Empty{}, &emptypb.Empty{})
		},
	} {
		if err := call(metadata.AppendToOutgoingContext(t.Context(), "baggage", "no baggage")); status.Code(err) != codes.InvalidArgument {
			t.Errorf("over gRPC, %s: %v", what, err)
		}
	}
}
