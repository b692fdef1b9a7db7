package appchannel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/telemetry"
)

// serveTLS starts an HTTPS application, and returns its certificate and what
// clients need to trust it.
func serveTLS(t *testing.T, h http.Handler) (addr string, cert tls.Certificate, trust *tls.Config) {
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	trust = &tls.Config{RootCAs: pool, ServerName: "example.com", MinVersion: tls.VersionTLS12}
	return srv.Listener.Addr().String(), srv.TLS.Certificates[0], trust
}

func TestAnApplicationMaySpeakEveryProtocol(t *testing.T) {
	checkLeaks(t)
	var got atomic.Value
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Store(r.Proto + " " + r.Host)
		_, _ = io.WriteString(w, `{"status":"DROP"}`)
	})
	for protocol, serve := range map[string]func(t *testing.T) (proxy.RoundTripper, string, string){
		"https": func(t *testing.T) (proxy.RoundTripper, string, string) {
			addr, _, trust := serveTLS(t, handler)
			client := &http1.Client{Address: addr, TLS: trust}
			t.Cleanup(func() { _ = client.Close() })
			return client, addr, "HTTP/1.1 " + addr
		},
		"h2c": func(t *testing.T) (proxy.RoundTripper, string, string) {
			srv := httptest.NewUnstartedServer(handler)
			srv.Config.Protocols = new(http.Protocols)
			srv.Config.Protocols.SetUnencryptedHTTP2(true)
			srv.Start()
			t.Cleanup(srv.Close)
			addr := srv.Listener.Addr().String()
			client := &http2.Client{Addr: addr}
			t.Cleanup(client.Close)
			return client, addr, "HTTP/2.0 " + addr
		},
	} {
		t.Run(protocol, func(t *testing.T) {
			rt, addr, want := serve(t)
			c := appchannel.New(appchannel.Options{Protocol: protocol, Transport: rt, Address: addr})
			if err := c.AwaitApp(t.Context()); err != nil {
				t.Fatal(err)
			}
			e := event(t, "x", "text/plain", nil, false)
			e.Metadata = map[string]string{"Tenant": "acme"}
			status, err := c.Deliver(t.Context(), "/orders", e)
			if err != nil || status != pubsub.Drop || got.Load() != want {
				t.Errorf("Deliver = %v, %v over %v, want %s", status, err, got.Load(), want)
			}
		})
	}
}

func TestAGRPCApplicationMaySpeakTLS(t *testing.T) {
	checkLeaks(t)
	_, cert, trust := serveTLS(t, http.NotFoundHandler()) // for its certificate
	app := serveGRPC(t, func(s grpc.ServiceRegistrar) {
		rtv1.RegisterAppCallbackServer(s, &topicApp{topic: func(*rtv1.TopicEventRequest) (*rtv1.TopicEventResponse, error) {
			return &rtv1.TopicEventResponse{Status: rtv1.TopicEventResponse_DROP}, nil
		}})
	}, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})))
	trust.NextProtos = []string{"h2"}
	var scheme string
	client := &http2.Client{Addr: app.addr, TLS: trust}
	t.Cleanup(client.Close)
	c := app.channel(t, func(o *appchannel.Options) {
		o.Protocol = "grpcs"
		o.Transport = transport(func(ctx context.Context, r *proxy.Request) (*proxy.Response, error) {
			scheme = r.Scheme
			return client.RoundTrip(ctx, r, proxy.RoundTripOptions{})
		})
	})
	status, err := c.Deliver(t.Context(), "/orders", event(t, "x", "text/plain", nil, false))
	if err != nil || status != pubsub.Drop || scheme != "https" {
		t.Errorf("Deliver = %v, %v with scheme %q", status, err, scheme)
	}
}

func TestTheLimitHoldsForDeliveriesOnly(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	entered, release := make(chan struct{}), make(chan struct{})
	app.mux.HandleFunc("POST /slow", func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-release
	})
	app.answer("GET /healthz", 200, "")
	c := app.channel(t, func(o *appchannel.Options) { o.Limit = policy.NewBulkhead(1, 0) })
	e := event(t, "x", "text/plain", nil, false)
	done := make(chan error, 1)
	go func() { _, err := c.Deliver(t.Context(), "/slow", e); done <- err }()
	<-entered
	if _, err := c.Deliver(t.Context(), "/slow", e); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("a second event: %v", err)
	}
	if _, err := c.OnBindingEvent(t.Context(), "tick", "tick", binding.Event{}); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("the event of a binding: %v", err)
	}
	if _, err := c.Subscriptions(t.Context()); err != nil {
		t.Errorf("a question: %v", err)
	}
	reports, stop := runHealth(t, c)
	if !<-reports {
		t.Error("an application at its limit counts as ill")
	}
	stop()
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := c.OnBindingEvent(t.Context(), "tick", "healthz", binding.Event{}); fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("after the limit: %v", err)
	}
}

func TestTheLimitHoldsForGRPCToo(t *testing.T) {
	checkLeaks(t)
	entered, release := make(chan struct{}), make(chan struct{})
	app := serveGRPC(t, func(s grpc.ServiceRegistrar) {
		rtv1.RegisterAppCallbackServer(s, &topicApp{topic: func(*rtv1.TopicEventRequest) (*rtv1.TopicEventResponse, error) {
			close(entered)
			<-release
			return &rtv1.TopicEventResponse{}, nil
		}})
	})
	c := app.channel(t, func(o *appchannel.Options) { o.Limit = policy.NewBulkhead(1, 0) })
	e := event(t, "x", "text/plain", nil, false)
	done := make(chan error, 1)
	go func() { _, err := c.Deliver(t.Context(), "/slow", e); done <- err }()
	<-entered
	if _, err := c.DeliverBulk(t.Context(), "/slow", bulk(t)); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("a batch: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAnAnswerThatBreaksOffIsNoAnswer(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	app.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"status":"SUCCESS"}`)
	})
	c := app.channel(t, nil)
	got, err := c.Deliver(t.Context(), "/orders", event(t, "x", "text/plain", nil, false))
	if got != pubsub.Retry || !fault.Is(err, fault.Unavailable) {
		t.Errorf("Deliver = %v, %v", got, err)
	}
}

func TestALongAnswerIsNotReadToItsEnd(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	app.answer("/", 200, `{"status":"RETRY"`+strings.Repeat(" ", 1<<20)+"}")
	c := app.channel(t, func(o *appchannel.Options) { o.MaxAnswer = 1000 })
	if got, err := c.Deliver(t.Context(), "/orders", event(t, "x", "text/plain", nil, false)); err != nil || got != pubsub.Success {
		t.Errorf("Deliver = %v, %v", got, err)
	}
	if _, err := c.DeliverBulk(t.Context(), "/orders", bulk(t)); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("DeliverBulk: %v", err)
	}
}

func TestADeliveryEndsWithItsContext(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	release := make(chan struct{})
	app.mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	e := event(t, "x", "text/plain", nil, false)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := app.channel(t, nil).Deliver(ctx, "/", e); !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("over HTTP: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	g := serveGRPC(t, func(s grpc.ServiceRegistrar) {
		rtv1.RegisterAppCallbackServer(s, &topicApp{topic: func(*rtv1.TopicEventRequest) (*rtv1.TopicEventResponse, error) {
			cancel()
			<-release
			return &rtv1.TopicEventResponse{}, nil
		}})
	})
	if _, err := g.channel(t, nil).Deliver(ctx, "/", e); !fault.Is(err, fault.Canceled) {
		t.Errorf("over gRPC: %v", err)
	}
}

func TestAnEventOfASampledTraceGetsASpan(t *testing.T) {
	checkLeaks(t)
	var spans bytes.Buffer
	tracing, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{Service: telemetry.Service{Name: "shop"}, Stdout: &spans})
	if err != nil {
		t.Fatal(err)
	}
	app := newHTTPApp(t)
	app.answer("/", 200, "")
	c := app.channel(t, func(o *appchannel.Options) { o.Tracing = tracing })
	deliver := func(parent string) (traceparent string) {
		t.Helper()
		e := event(t, "x", "text/plain", map[string]string{"cloudevent.traceparent": parent, "cloudevent.tracestate": "k=v"}, false)
		if _, err := c.Deliver(t.Context(), "/orders", e); err != nil {
			t.Fatal(err)
		}
		return app.last(t).header.Get("Traceparent")
	}
	got := deliver(parent)
	if got == parent || got[:36] != parent[:36] || app.last(t).header.Get("Tracestate") != "k=v" {
		t.Errorf("the application got %q for an event of %q", got, parent)
	}
	if unsampled := parent[:53] + "00"; deliver(unsampled) != unsampled {
		t.Error("an event of a trace that is not sampled got another traceparent")
	}
	if deliver("no traceparent") != "" {
		t.Error("what is no traceparent went to the application")
	}
	outer := telemetry.NewTrace(true)
	if _, err := c.Deliver(telemetry.WithTrace(t.Context(), outer), "/orders", event(t, "x", "", nil, false)); err != nil {
		t.Fatal(err)
	}
	if got := app.last(t).header.Get("Traceparent"); got == outer.Traceparent() || got[:36] != outer.Traceparent()[:36] {
		t.Errorf("the application got %q, want one of the trace of the call, %q", got, outer.Traceparent())
	}
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	var span struct {
		Name        string
		SpanContext struct{ TraceID, SpanID string }
		Parent      struct{ SpanID string }
	}
	if err := json.NewDecoder(&spans).Decode(&span); err != nil {
		t.Fatal(err)
	}
	if span.Name != "pubsub/orders" || span.SpanContext.TraceID != parent[3:35] || span.Parent.SpanID != parent[36:52] ||
		span.SpanContext.SpanID != got[36:52] {
		t.Errorf("the span is %+v", span)
	}
}

// canned answers every request alike.
type canned struct{ resp *proxy.Response }

func (c canned) RoundTrip(context.Context, *proxy.Request, proxy.RoundTripOptions) (*proxy.Response, error) {
	return c.resp, nil
}

// again is content that begins anew when it has ended.
type again struct{ r *strings.Reader }

func (a again) Read(p []byte) (int, error) { return a.r.Read(p) }
func (a again) Close() error               { a.r.Seek(0, io.SeekStart); return nil } //nolint:errcheck // cannot fail

func delivery(t testing.TB) (c *appchannel.Channel, e *pubsub.Event) {
	resp := &proxy.Response{Status: 200, Body: again{strings.NewReader(`{"status":"SUCCESS"}`)}}
	c = appchannel.New(appchannel.Options{AppID: "shop", Address: "127.0.0.1:80", Transport: canned{resp}})
	e = event(t, strings.Repeat("x", 1000), "text/plain", map[string]string{"cloudevent.traceparent": parent}, false)
	e.Metadata = map[string]string{"tenant": "acme", "n": "1"}
	return c, e
}

func TestADeliveryAllocatesLittle(t *testing.T) {
	c, e := delivery(t)
	if got := testing.AllocsPerRun(1000, func() {
		if s, err := c.Deliver(context.Background(), "/orders", e); err != nil || s != pubsub.Success {
			t.Fatal(s, err)
		}
	}); got > 4 {
		t.Errorf("%v allocations", got)
	}
}

func BenchmarkDeliver(b *testing.B) {
	c, e := delivery(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Deliver(context.Background(), "/orders", e); err != nil {
			b.Fatal(err)
		}
	}
}

func TestTheZeroOptionsAreAnHTTPApplication(t *testing.T) {
	checkLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := appchannel.New(appchannel.Options{Address: l.Addr().String(), Transport: nowhere(t)})
	if err := c.AwaitApp(t.Context()); err != nil {
		t.Error(err)
	}
	if c.HTTPAdapter() != nil {
		t.Error("it has an adapter, as gRPC applications do")
	}
}
