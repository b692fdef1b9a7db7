package runtime

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/balance"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/resource"
)

// transported returns transports for a test.
func transported(t *testing.T) *transports {
	t.Helper()
	tr := &transports{log: slog.New(slog.DiscardHandler)}
	t.Cleanup(tr.close)
	return tr
}

// healthServer serves gRPC health checks.
func healthServer(t *testing.T) (*health.Server, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, h := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, h)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h, ln.Addr().String()
}

func TestApplicationsWithoutASidecarAreReached(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto+" "+r.URL.Path)
	}))
	defer plain.Close()
	both := httptest.NewUnstartedServer(plain.Config.Handler)
	both.Config.Protocols = new(http.Protocols)
	both.Config.Protocols.SetUnencryptedHTTP2(true)
	both.Start()
	defer both.Close()
	tr, svc := transported(t), discovery.Service{Namespace: "default", AppID: "legacy"}
	for _, test := range []struct {
		protocol     discovery.Protocol
		server, want string
	}{{discovery.HTTP1, plain.URL, "HTTP/1.1 /x"}, {discovery.HTTP2, both.URL, "HTTP/2.0 /x"}} {
		ep := discovery.Endpoint{Address: strings.TrimPrefix(test.server, "http://"), Protocol: test.protocol}
		resp, err := tr.peer(svc, ep).RoundTrip(t.Context(), &proxy.Request{Method: "GET", Scheme: "http", Authority: "legacy", Target: "/x"}, proxy.RoundTripOptions{})
		if err != nil {
			t.Fatalf("%s: %v", test.protocol, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(body) != test.want {
			t.Errorf("%s: %q, %v, want %q", test.protocol, body, err, test.want)
		}
	}
	_, err := tr.peer(svc, discovery.Endpoint{Address: "127.0.0.1:1", Protocol: discovery.TCP}).RoundTrip(t.Context(), &proxy.Request{}, proxy.RoundTripOptions{})
	if !fault.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), `speaks "tcp"`) {
		t.Errorf("an endpoint that speaks no HTTP: %v", err)
	}
}

func TestHealthChecksSayWhatIsWrong(t *testing.T) {
	status := http.StatusOK
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "shop.example" {
			http.Error(w, "who?", http.StatusMisdirectedRequest)
			return
		}
		w.WriteHeader(status)
	}))
	defer app.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	h, grpcAddress := healthServer(t)
	h.SetServingStatus("orders", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	p := &probes{&Runtime{cfg: Config{AppID: "shop", Namespace: "default"}, transports: transported(t)}}
	web := healthCheck(&resource.HealthCheck{HTTP: &resource.HTTPCheck{Path: "/healthz", Method: "GET", Hostname: "shop.example", ExpectedStatuses: "200,204"}})
	at := func(url string, protocol discovery.Protocol) discovery.Endpoint {
		return discovery.Endpoint{Address: strings.TrimPrefix(url, "http://"), Protocol: protocol}
	}
	for _, test := range []struct {
		name   string
		ep     discovery.Endpoint
		check  balance.Check
		status int
		want   string // "" when it passes
	}{
		{"HTTP", at(app.URL, discovery.HTTP1), web, 200, ""},
		{"another status that is expected", at(app.URL, discovery.HTTP1), web, 204, ""},
		{"a status that is not", at(app.URL, discovery.HTTP1), web, 503, "GET /healthz is answered with status 503, want 200,204"},
		{"nobody there", at(gone.URL, discovery.HTTP1), web, 200, "refused"},
		{"TCP", at(app.URL, discovery.HTTP1), balance.Check{Kind: balance.CheckTCP}, 200, ""},
		{"TCP with nobody there", at(gone.URL, discovery.HTTP1), balance.Check{Kind: balance.CheckTCP}, 200, "refused"},
		{"gRPC", at(grpcAddress, discovery.HTTP2), balance.Check{Kind: balance.CheckGRPC}, 200, ""},
		{"gRPC of a service that does not serve", at(grpcAddress, discovery.HTTP2), balance.Check{Kind: balance.CheckGRPC, Service: "orders"}, 200, "NOT_SERVING"},
		{"gRPC of a service that is unknown", at(grpcAddress, discovery.HTTP2), balance.Check{Kind: balance.CheckGRPC, Service: "x"}, 200, "gRPC status 5"},
	} {
		status = test.status
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := p.probe(ctx, discovery.Service{Namespace: "default", AppID: "shop"}, test.ep, &test.check)
		cancel()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestATrafficPolicyBecomesAPolicy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "traffic.yaml")
	text := `apiVersion: proa.io/v1alpha1
kind: TrafficPolicy
metadata: {name: a}
spec:
  targetRefs: [{name: orders}, {name: stock, namespace: prod}]
  loadBalancer:
    type: Maglev
    tableSize: 251
    hashBalanceFactor: 125
    hashKeys: [{cookie: {name: sid, ttl: 60}}, {pathSegment: 2}]
    slowStart: {window: 30s, aggression: 2, minWeightPercent: 5}
    locality: {prefer: Region, spillOverAt: 7}
    panicThreshold: 0
    subsets: [{name: v2, labels: {version: v2}, header: {name: x-v, value: "2"}, fallback: NoEndpoint}]
  outlierDetection:
    consecutive5xxErrors: 0
    consecutiveGatewayErrors: 3
    successRate: {}
  healthChecks: [{grpc: {service: orders}, interval: 2s, unhealthyThreshold: 2}]
  connection: {maxParallelRequests: 9, maxParallelRetries: 8, perEndpoint: {maxParallelRequests: 7}}
---
apiVersion: proa.io/v1alpha1
kind: TrafficPolicy
metadata: {name: b}
spec:
  targetRefs: [{name: "*"}]
  loadBalancer: {type: Random}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := resource.Load(resource.Options{Paths: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	all := trafficPolicies(set, "default")
	p := all.Of[discovery.Service{Namespace: "default", AppID: "orders"}]
	if p == nil || p != all.Of[discovery.Service{Namespace: "prod", AppID: "stock"}] || all.Default.Algorithm != balance.Random {
		t.Fatalf("policies: %+v", all)
	}
	switch {
	case p.Algorithm != balance.Maglev || p.TableSize != 251 || p.Bounded != 1.25 || p.RingSize != 1024 || p.Panic != 0:
		t.Errorf("algorithm: %+v", p)
	case p.HashKeys[0].Cookie.TTL != time.Minute || p.HashKeys[1].PathIndex != 2:
		t.Errorf("hash keys: %+v", p.HashKeys)
	case p.SlowStart != balance.SlowStart{Window: 30 * time.Second, Aggression: 2, Least: 0.05} || p.Locality != balance.LocalityPolicy{Prefer: balance.Region, SpillAt: 7}:
		t.Errorf("slow start %+v, locality %+v", p.SlowStart, p.Locality)
	case p.Subsets[0].Header.Value != "2" || p.Subsets[0].Fallback != balance.NoEndpoint || p.Subsets[0].Labels["version"] != "v2":
		t.Errorf("subsets: %+v", p.Subsets)
	case p.Outliers.Consecutive5xx != 0 || p.Outliers.ConsecutiveGateway != 3 || p.Outliers.SuccessRate.Factor != 1.9 || p.Outliers.MaxPercent != 10:
		t.Errorf("outliers: %+v", p.Outliers)
	case p.Checks[0].Kind != balance.CheckGRPC || p.Checks[0].Interval != 2*time.Second || p.Checks[0].Unhealthy != 2*time.Second || p.Checks[0].FailAfter != 2:
		t.Errorf("checks: %+v", p.Checks)
	case p.Limits != balance.Limits{Requests: 9, Retries: 8, PerEndpoint: 7}:
		t.Errorf("limits: %+v", p.Limits)
	}
}
