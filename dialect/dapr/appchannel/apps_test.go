package appchannel_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
)

// request is what an HTTP application got.
type request struct {
	method, target string
	header         http.Header
	body           string
}

// httpApp is an application on net/http that notes what it gets.
type httpApp struct {
	mux  *http.ServeMux
	addr string

	mu  sync.Mutex
	got []request
}

// newHTTPApp starts an application without routes.
func newHTTPApp(t testing.TB) *httpApp {
	a := &httpApp{mux: http.NewServeMux()}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		a.got = append(a.got, request{r.Method, r.RequestURI, r.Header, string(body)})
		a.mu.Unlock()
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		a.mux.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	a.addr = srv.Listener.Addr().String()
	return a
}

// answer lets the application answer a pattern of ServeMux.
func (a *httpApp) answer(pattern string, status int, body string) {
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

func (a *httpApp) requests() []request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.got)
}

// last returns what the application got last.
func (a *httpApp) last(t testing.TB) request {
	t.Helper()
	all := a.requests()
	if len(all) == 0 {
		t.Fatal("the application got nothing")
	}
	return all[len(all)-1]
}

// channel returns a Channel to the application. change may be nil.
func (a *httpApp) channel(t testing.TB, change func(*appchannel.Options)) *appchannel.Channel {
	client := &http1.Client{Address: a.addr}
	t.Cleanup(func() { _ = client.Close() })
	o := appchannel.Options{AppID: "shop", Protocol: "http", Transport: client, Address: a.addr}
	if change != nil {
		change(&o)
	}
	return appchannel.New(o)
}

// grpcApp is an application on grpc-go.
type grpcApp struct {
	rtv1.UnimplementedAppCallbackServer
	rtv1.UnimplementedAppCallbackAlphaServer
	rtv1.UnimplementedAppCallbackHealthCheckServer
	addr string
	stop func()

	mu sync.Mutex
	md []metadata.MD
}

// serveGRPC starts a gRPC server with what register registers.
func serveGRPC(t testing.TB, register func(grpc.ServiceRegistrar), opts ...grpc.ServerOption) *grpcApp {
	a := &grpcApp{}
	note := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		a.mu.Lock()
		a.md = append(a.md, md)
		a.mu.Unlock()
		return handler(ctx, req)
	}
	srv := grpc.NewServer(append(opts, grpc.UnaryInterceptor(note))...)
	register(srv)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	a.stop = func() { srv.Stop(); <-done }
	t.Cleanup(a.stop)
	a.addr = l.Addr().String()
	return a
}

func (a *grpcApp) metadata(t testing.TB) metadata.MD {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.md) == 0 {
		t.Fatal("the application was not called")
	}
	return a.md[len(a.md)-1]
}

func (a *grpcApp) channel(t testing.TB, change func(*appchannel.Options)) *appchannel.Channel {
	client := &http2.Client{Addr: a.addr}
	t.Cleanup(client.Close)
	o := appchannel.Options{AppID: "shop", Protocol: "grpc", Transport: client, Address: a.addr}
	if change != nil {
		change(&o)
	}
	return appchannel.New(o)
}

// logged is a log that tests can read.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// broker returns a broker named "bus" in memory, and a function that publishes
// to the topic "orders".
func broker(t testing.TB, o pubsub.Options) (b *pubsub.Broker, publish func(data, contentType string, metadata map[string]string)) {
	t.Helper()
	d, err := memory.OpenPubSub(t.Context(), memory.PubSubConfig{MaxMessages: 1000, MaxBytes: 1 << 24, Concurrency: 10}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	o.AppID = "shop"
	b = pubsub.New(component.Opened[pubsub.Driver]("bus", d), o)
	return b, func(data, contentType string, metadata map[string]string) {
		t.Helper()
		err := b.Publish(t.Context(), &pubsub.PublishRequest{
			Topic: "orders", Data: []byte(data), ContentType: contentType, Metadata: metadata,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// events returns an event of the topic "orders" as an application gets it: what
// the broker made of a publish.
func event(t testing.TB, data, contentType string, metadata map[string]string, raw bool) *pubsub.Event {
	t.Helper()
	b, publish := broker(t, pubsub.Options{})
	publish(data, contentType, metadata)
	return receive(t, b, raw)
}

func receive(t testing.TB, b *pubsub.Broker, raw bool) *pubsub.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(sink, 1)
	done := make(chan error, 1)
	go func() {
		done <- b.Subscribe(ctx, &pubsub.SubscriptionSpec{PubSub: "bus", Topic: "orders", RawPayload: raw}, got)
	}()
	e := <-got
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return e
}

// sink is an application that keeps its events.
type sink chan *pubsub.Event

func (s sink) Deliver(_ context.Context, _ string, e *pubsub.Event) (pubsub.Status, error) {
	s <- e
	return pubsub.Success, nil
}

func (s sink) DeliverBulk(context.Context, string, *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
	return nil, nil
}

// checkLeaks fails the test when something of the channel goes on after it.
func checkLeaks(t testing.TB) { leak.Check(t) }

// nowhere returns a client for a port at which nobody listens.
func nowhere(t testing.TB) *http1.Client {
	client := &http1.Client{Address: "127.0.0.1:1"}
	t.Cleanup(func() { _ = client.Close() })
	return client
}
