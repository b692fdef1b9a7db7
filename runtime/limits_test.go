package runtime

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/internal/testserver"
)

func limitYAML(name, spec string) string {
	return "apiVersion: proa.io/v1alpha1\nkind: RateLimit\nmetadata:\n  name: " + name + "\nspec:\n" + spec
}

// asked makes a request with header fields and returns its answer.
func (r *rig) asked(method, path, body string, header ...string) *http.Response {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url(path), strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(strings.NewReader(string(text)))
	return resp
}

func TestCallsBeyondALimitAreRefused(t *testing.T) {
	const spec = `
  targets:
  - {api: state, operations: [get]}
  limits:
  - {requests: 3, per: 1h, burst: 3, by: ["header:x-tenant"]}
`
	r := newRig(t, map[string]string{"store.yaml": componentYAML("store", "state.in-memory"), "limit.yaml": limitYAML("tenants", spec)}, func(c *Config) { c.MetricsPort = 0 })
	for _, tenant := range []string{"a", "b"} {
		for i := range 5 {
			resp := r.asked("GET", "/v1.0/state/store/k", "", "x-tenant", tenant)
			if i < 3 {
				if resp.StatusCode != 204 {
					t.Errorf("tenant %s, call %d: %s", tenant, i+1, resp.Status)
				}
				continue
			}
			text, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1200" ||
				!strings.Contains(string(text), `rate limit \"tenants\" for `+tenant+` is used up`) {
				t.Errorf("tenant %s, call %d: %s, Retry-After %q, %s", tenant, i+1, resp.Status, resp.Header.Get("Retry-After"), text)
			}
		}
	}
	r.must("POST", "/v1.0/state/store", `[{"key":"k","value":1}]`, 204) // another operation
	client := r.dial()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-tenant", "c")
	for i := range 5 {
		_, err := client.GetState(ctx, &rtv1.GetStateRequest{StoreName: "store", Key: "k"})
		want := codes.OK
		if i >= 3 {
			want = codes.ResourceExhausted
		}
		if status.Code(err) != want {
			t.Errorf("gRPC call %d: %v, want %v", i+1, err, want)
		}
	}
	r.measured(`dapr_resiliency_activations_total{app_id="shop",flow_direction="outbound",name="tenants",namespace="default",policy="ratelimit",status="refused",target="Statestore_store"} 6`, true)
}

func TestLimitsAreAboutWhatTheySay(t *testing.T) {
	const topics = `
  targets:
  - {api: pubsub, name: broker, keys: ["orders*", exact]}
  limits:
  - {requests: 1, per: 1h}
`
	const writers = `
  targets:
  - {api: state}
  limits:
  - {requests: 1, per: 1h, when: [{what: method, in: [POST]}, {what: "header:x-tier", in: [gold], not: true}]}
`
	r := newRig(t, map[string]string{
		"broker.yaml": componentYAML("broker", "pubsub.in-memory"), "store.yaml": componentYAML("store", "state.in-memory"),
		"topics.yaml": limitYAML("topics", topics), "writers.yaml": limitYAML("writers", writers),
		"dry.yaml": limitYAML("dry", "  dryRun: true\n  limits:\n  - {requests: 1, per: 1h, by: [component, caller]}\n"),
	}, nil)
	for _, c := range []struct {
		path string
		want int
	}{
		{"orders", 204}, {"orders.eu", 429}, {"exact", 429}, {"exactly", 204}, {"other", 204}, {"other", 204},
	} {
		r.must("POST", "/v1.0/publish/broker/"+c.path, `{}`, c.want)
	}
	for i, c := range []struct {
		method, tier string
		want         int
	}{{"POST", "", 204}, {"POST", "", 429}, {"POST", "gold", 204}, {"GET", "", 204}, {"GET", "", 204}} {
		path, body := "/v1.0/state/store", `[{"key":"k","value":1}]`
		if c.method == "GET" {
			path, body = path+"/none", ""
		}
		if resp := r.asked(c.method, path, body, "x-tier", c.tier); resp.StatusCode != c.want {
			t.Errorf("%d: %s, want %d", i, resp.Status, c.want)
		}
	}
	if log := r.log.String(); !strings.Contains(log, "a rate limit would refuse a call") || !strings.Contains(log, `by="broker, shop"`) {
		t.Errorf("the dry run said nothing:\n%s", tail(log))
	}
}

func TestInvocationsAreLimitedWhereTheyArrive(t *testing.T) {
	const spec = `
  targets:
  - {api: invoke, direction: inbound, keys: ["/orders*"]}
  limits:
  - {requests: 2, per: 1h, burst: 2, by: [caller]}
`
	app := newTestApp(t)
	shop := newRig(t, map[string]string{"limit.yaml": limitYAML("callers", spec)}, func(c *Config) { c.AppPort = app.port })
	names := configurationYAML(fmt.Sprintf("  nameResolution:\n    component: static\n    configuration:\n      shop: 127.0.0.1:%d\n", shop.Addresses().InternalPort))
	for _, caller := range []string{"cart", "web"} {
		r := newRig(t, map[string]string{"conf.yaml": names}, func(c *Config) { c.AppID = caller })
		for i, want := range []int{200, 200, 429, 429} {
			resp := r.asked("POST", "/v1.0/invoke/shop/method/orders/7", "{}")
			if text, _ := io.ReadAll(resp.Body); resp.StatusCode != want || want == 429 && (resp.Header.Get("Retry-After") != "1800" || !strings.Contains(string(text), "for "+caller)) {
				t.Errorf("%s, call %d: %s, Retry-After %q, %s", caller, i+1, resp.Status, resp.Header.Get("Retry-After"), text)
			}
		}
		r.must("POST", "/v1.0/invoke/shop/method/other", "{}", 200)
	}
}

func TestLimitsChangeWhileRunning(t *testing.T) {
	limit := func(n int) string {
		return limitYAML("reads", fmt.Sprintf("  limits:\n  - {requests: %d, per: 1h, burst: %d}\n", n, n))
	}
	store := componentYAML("store", "state.in-memory")
	r := newRig(t, map[string]string{"store.yaml": store, "limit.yaml": limit(2)}, nil)
	const path = "/v1.0/state/store/k"
	r.must("GET", path, "", 204)
	r.write("other.yaml", componentYAML("other", "state.in-memory"))
	r.applied()
	r.must("GET", path, "", 204)
	r.must("GET", path, "", 429) // what was counted is kept
	r.write("limit.yaml", limit(4))
	if got := r.applied(); !slices.Contains(got.Changes.Changed, "RateLimit reads") {
		t.Errorf("the change is %s", &got)
	}
	r.must("GET", path, "", 204)
	r.write("limit.yaml", limitYAML("reads", "  shared: {store: nowhere}\n  limits:\n  - {requests: 1}\n"))
	if got := r.next(); got.Err == nil || !strings.Contains(got.Err.Error(), `limit.yaml:6`) || !strings.Contains(got.Err.Error(), `there is no component "nowhere" of a type ratelimit.*`) {
		t.Errorf("the change is %s", &got)
	}
	r.must("GET", path, "", 204) // the former one goes on
	r.remove("limit.yaml")
	r.applied()
	for range 10 {
		r.must("GET", path, "", 204)
	}
}

// TestFiveSidecarsShareALimit counts what five sidecars let pass: together the
// limit, while their store is there, and their shares of it when it is gone.
func TestFiveSidecarsShareALimit(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a server, for many seconds")
	}
	t.Parallel()
	redis := testserver.Redis(t, testserver.RedisOptions{})
	const spec = `
  targets:
  - {api: state, operations: [get]}
  shared: {store: limits}
  limits:
  - {requests: 100, burst: 40}
`
	files := map[string]string{
		"store.yaml":  componentYAML("store", "state.in-memory"),
		"limits.yaml": componentYAML("limits", "ratelimit.redis", "redisHost="+redis.Addr()), "limit.yaml": limitYAML("reads", spec),
	}
	var all []*rig
	for range 5 {
		all = append(all, newRig(t, files, nil))
	}
	// count reads for a while and returns how often each was allowed to.
	count := func(d time.Duration) (allowed [5]int, total int) {
		var wg sync.WaitGroup
		end := time.Now().Add(d)
		for i, r := range all {
			wg.Go(func() {
				for time.Now().Before(end) {
					switch code, text, err := r.call("GET", "/v1.0/state/store/k", ""); {
					case err != nil || code != 204 && code != 429:
						t.Errorf("%d %s %v", code, text, err)
						return
					case code == 204:
						allowed[i]++
					default:
						time.Sleep(2 * time.Millisecond) // asks again 500 times a second
					}
				}
			})
		}
		wg.Wait()
		for _, n := range allowed {
			total += n
		}
		return allowed, total
	}
	count(2 * time.Second) // uses up the burst, and lets them know each other
	if allowed, n := count(10 * time.Second); math.Abs(float64(n)-1000) > 50 {
		t.Errorf("%d of 1000 were allowed: %v", n, allowed)
	}
	redis.Kill()
	count(2 * time.Second) // until all have noticed
	allowed, n := count(10 * time.Second)
	if n < 900 || n > 1100 {
		t.Errorf("without the store %d of 1000 were allowed: %v", n, allowed)
	}
	for i, n := range allowed {
		if n < 150 || n > 250 {
			t.Errorf("without the store sidecar %d was allowed %d, and its share is 200", i, n)
		}
	}
}
