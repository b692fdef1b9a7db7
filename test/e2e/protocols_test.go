package e2e_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

// TestApplicationsOfEveryProtocol runs an application of each protocol beside a
// sidecar: it is invoked, gets events, and is asked for its health. Those that
// speak TLS show a certificate of their own making.
func TestApplicationsOfEveryProtocol(t *testing.T) {
	long(t)
	proa(t)
	for _, protocol := range []string{"http", "https", "h2c", "grpc", "grpcs"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			events := make(chan string, 10)
			addr := startApplication(t, protocol, events)
			s := startSidecar(t, options{name: "shop", home: t.TempDir(), app: addr, flags: []string{
				"--app-protocol", protocol, "--enable-app-health-check", "--app-health-probe-interval", "1",
			}})
			if err := s.await("msg=subscription .*topic=orders"); err != nil {
				t.Fatal(err)
			}
			if err := eventually(func() error {
				status, answer, err := s.call("GET", "/v1.0/healthz", nil)
				if err != nil || status != http.StatusNoContent {
					return fmt.Errorf("%d %s %w", status, answer, err)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if got := s.must(t, "POST", "/v1.0/invoke/shop/method/echo", `"ping"`, http.StatusOK); got != `POST echo "ping"` {
				t.Errorf("the answer is %s", got)
			}
			s.must(t, "POST", "/v1.0/publish/pubsub/orders", `"event"`, http.StatusNoContent)
			if got := <-events; got != `"event"` {
				t.Errorf("the event is %s", got)
			}
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// startApplication serves an application and returns its address.
func startApplication(t *testing.T, protocol string, events chan<- string) string {
	t.Helper()
	if protocol == "grpc" || protocol == "grpcs" {
		return startGRPCApplication(t, protocol == "grpcs", events)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dapr/subscribe", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, []map[string]string{{"pubsubname": "pubsub", "topic": "orders", "route": "/on/orders"}})
	})
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s echo %s", r.Method, body)
	})
	mux.HandleFunc("POST /on/orders", func(_ http.ResponseWriter, r *http.Request) {
		var e struct{ Data json.RawMessage }
		_ = json.NewDecoder(r.Body).Decode(&e)
		events <- string(e.Data)
	})
	srv := httptest.NewUnstartedServer(mux)
	switch protocol {
	case "https":
		srv.StartTLS()
	case "h2c":
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetUnencryptedHTTP2(true) // and nothing else
		srv.Start()
	default:
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// callbacks is an application that speaks gRPC.
type callbacks struct {
	rtv1.UnimplementedAppCallbackServer
	rtv1.UnimplementedAppCallbackHealthCheckServer
	events chan<- string
}

func (callbacks) ListTopicSubscriptions(context.Context, *emptypb.Empty) (*rtv1.ListTopicSubscriptionsResponse, error) {
	return &rtv1.ListTopicSubscriptionsResponse{Subscriptions: []*rtv1.TopicSubscription{{PubsubName: "pubsub", Topic: "orders"}}}, nil
}

func (callbacks) HealthCheck(context.Context, *emptypb.Empty) (*rtv1.HealthCheckResponse, error) {
	return &rtv1.HealthCheckResponse{}, nil
}

func (callbacks) OnInvoke(_ context.Context, in *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
	text := fmt.Sprintf("%s %s %s", in.GetHttpExtension().GetVerb(), in.GetMethod(), in.GetData().GetValue())
	return &commonv1.InvokeResponse{Data: &anypb.Any{Value: []byte(text)}, ContentType: "text/plain"}, nil
}

func (c callbacks) OnTopicEvent(_ context.Context, in *rtv1.TopicEventRequest) (*rtv1.TopicEventResponse, error) {
	c.events <- string(in.GetData())
	return &rtv1.TopicEventResponse{}, nil
}

func startGRPCApplication(t *testing.T, secure bool, events chan<- string) string {
	t.Helper()
	var opts []grpc.ServerOption
	if secure {
		borrowed := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
		defer borrowed.Close()
		opts = append(opts, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: borrowed.TLS.Certificates, MinVersion: tls.VersionTLS12})))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(opts...)
	rtv1.RegisterAppCallbackServer(srv, callbacks{events: events})
	rtv1.RegisterAppCallbackHealthCheckServer(srv, callbacks{})
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return l.Addr().String()
}
