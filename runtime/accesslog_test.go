package runtime

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

// accessLine is a line of the access log; what differs from run to run is left
// out.
type accessLine struct {
	Direction, Method, Path, Target, Caller, Failure, Upstream, Retried string

	Status     int    `json:"status"`
	GRPCStatus *int   `json:"grpc_status"`
	Sent       int64  `json:"bytes_out"`
	TraceID    string `json:"trace_id"`
	Attempts   int    `json:"attempts"`
}

func readAccessLog(t *testing.T, path string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var l accessLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		code := -1
		if l.GRPCStatus != nil {
			code = *l.GRPCStatus
		}
		text := fmt.Sprintf("%s %s %s to %q from %q: %d %d, %d bytes, %q, trace %.8s", l.Direction, l.Method, l.Path, l.Target, l.Caller,
			l.Status, code, l.Sent, l.Failure, l.TraceID)
		if l.Attempts > 0 {
			text += fmt.Sprintf(", %d at %s", l.Attempts, l.Upstream)
		}
		if l.Retried != "" {
			text += " after " + l.Retried
		}
		lines = append(lines, text)
	}
	return lines
}

func TestRequestsOfAllDirectionsAreInTheAccessLog(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			w.WriteHeader(500)
		}
		_, _ = io.WriteString(w, "answer")
	}))
	defer app.Close()
	u, err := url.Parse(app.URL)
	if err != nil {
		t.Fatal(err)
	}
	home, logs := t.TempDir(), t.TempDir()
	back := newRig(t, nil, func(c *Config) {
		c.Engine.Dir, c.AccessLog = home, filepath.Join(logs, "back")
		c.AppPort, _ = strconv.Atoi(u.Port())
	})
	front := newRig(t, map[string]string{"store.yaml": componentYAML("store", "state.in-memory")}, func(c *Config) {
		c.AppID, c.Engine.Dir, c.AccessLog = "front", home, filepath.Join(logs, "front")
	})
	get := func(path string) (status int) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", front.url(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	eventually(t, func() error {
		if s := get("/v1.0/invoke/shop/method/orders?secret=1"); s != 200 {
			return fmt.Errorf("invoking gives %d", s)
		}
		return nil
	})
	get("/v1.0/invoke/shop/method/broken")
	get("/v1.0/state/store/some-key")
	get("/v1.0/state/nowhere/some-key")
	cc, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", front.Addresses().GRPCPort), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	if _, err := rtv1.NewDaprClient(cc).GetState(t.Context(), &rtv1.GetStateRequest{StoreName: "store", Key: "some-key"}); err != nil {
		t.Fatal(err)
	}
	peer := back.endpoint().Address
	front.stop()
	back.stop()
	for name, want := range map[string][]string{
		"front": {
			`outbound GET /v1.0/invoke/shop/method/orders to "shop" from "": 200 -1, 6 bytes, "", trace 0af76519, 1 at ` + peer,
			`outbound GET /v1.0/invoke/shop/method/broken to "shop" from "": 500 -1, 6 bytes, "", trace 0af76519, 4 at ` + peer + ` after http_500,http_500,http_500`,
			`api GET /v1.0/state/store to "" from "": 204 -1, 0 bytes, "", trace 0af76519`,
			`"ERR_STATE_STORE_NOT_FOUND", trace 0af76519`,
			`api gRPC /dapr.proto.runtime.v1.Dapr/GetState to "" from "": 0 0, 0 bytes, "", trace `,
		},
		"back": {
			`inbound GET /orders to "shop" from "front": 200 -1, 6 bytes, "", trace 0af76519, 1 at ` + u.Host,
			`inbound GET /broken to "shop" from "front": 500 -1, 6 bytes, "", trace 0af76519, 1 at ` + u.Host,
		},
	} {
		text := strings.Join(readAccessLog(t, filepath.Join(logs, name)), "\n")
		for _, w := range want {
			if !strings.Contains(text+"\n", w+"\n") {
				t.Errorf("%s: no line %s in\n%s", name, w, text)
			}
		}
		if strings.Contains(text, "secret") || strings.Contains(text, "some-key") {
			t.Errorf("%s tells what it must not:\n%s", name, text)
		}
	}
}

// flaky answers all but every third request with 503, over HTTP and gRPC.
type flaky struct {
	*httptest.Server
	calls atomic.Int32
}

func newFlaky(t *testing.T) *flaky {
	t.Helper()
	f := &flaky{}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/dapr/") { // what its own sidecar asks it
			w.WriteHeader(404)
			return
		}
		isGRPC, broken := strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"), f.calls.Add(1)%3 != 0
		switch {
		case isGRPC:
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", map[bool]string{true: "14", false: "0"}[broken])
		case broken:
			w.WriteHeader(503)
		}
	}))
	f.Config.Protocols = new(http.Protocols)
	f.Config.Protocols.SetHTTP1(true)
	f.Config.Protocols.SetUnencryptedHTTP2(true)
	f.Start()
	t.Cleanup(f.Close)
	return f
}

func TestTheAccessLogTellsOfEachAttempt(t *testing.T) {
	app := newFlaky(t)
	u, err := url.Parse(app.URL)
	if err != nil {
		t.Fatal(err)
	}
	home, logs := t.TempDir(), t.TempDir()
	back := newRig(t, nil, func(c *Config) {
		c.Engine.Dir, c.AppProtocol = home, "h2c"
		c.AppPort, _ = strconv.Atoi(u.Port())
	})
	retries := "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: r\nspec:\n  policies:\n    retries:\n" +
		"      often: {policy: constant, duration: 1ms, maxRetries: 4}\n  targets:\n    apps:\n      shop: {retry: often}\n"
	logging := func(to string) string {
		return configurationYAML("  logging:\n    accessLog:\n      path: " + to + "\n")
	}
	first, second := filepath.Join(logs, "first"), filepath.Join(logs, "second")
	front := newRig(t, map[string]string{"retries.yaml": retries, "conf.yaml": logging(first)}, func(c *Config) {
		c.AppID, c.Engine.Dir = "front", home
	})
	front.must("GET", "/v1.0/invoke/shop/method/orders", "", 200)
	cc, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", front.Addresses().GRPCPort), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "dapr-app-id", "shop")
	_ = cc.Invoke(ctx, "/pkg.Orders/List", &emptypb.Empty{}, &emptypb.Empty{}) // an OK without a message, which is no answer
	_, err = rtv1.NewDaprClient(cc).InvokeService(t.Context(), &rtv1.InvokeServiceRequest{
		Id: "shop", Message: &commonv1.InvokeRequest{Method: "orders", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET}},
	})
	if err != nil {
		t.Fatal(err)
	}
	front.write("conf.yaml", logging(filepath.Join(first, "no-folder")))
	if r := front.next(); r.Err == nil || !strings.Contains(r.Err.Error(), "spec.logging.accessLog") {
		t.Fatalf("a log that cannot be written is %s", &r)
	}
	front.write("conf.yaml", logging(second))
	front.applied()
	front.must("GET", "/v1.0/invoke/shop/method/second", "", 200)
	front.write("conf.yaml", configurationYAML("  logging:\n    accessLog: {enabled: false}\n"))
	front.applied()
	front.must("GET", "/v1.0/invoke/shop/method/third", "", 200)
	peer := back.endpoint().Address
	front.stop()
	for path, want := range map[string][]string{
		first: {
			`outbound GET /v1.0/invoke/shop/method/orders to "shop" from "": 200 -1, 0 bytes, "", trace , 3 at ` + peer + ` after http_503,http_503`,
			`outbound gRPC /pkg.Orders/List to "shop" from "": 0 0, 0 bytes, "", trace , 3 at ` + peer + ` after grpc_14,grpc_14`,
			`outbound gRPC /dapr.proto.runtime.v1.Dapr/InvokeService to "shop" from "": 0 0, 2 bytes, "", trace , 3 at ` + peer + ` after http_503,http_503`,
		},
		second: {`outbound GET /v1.0/invoke/shop/method/second to "shop" from "": 200 -1, 0 bytes, "", trace , 3 at ` + peer + ` after http_503,http_503`},
	} {
		if got := readAccessLog(t, path); !slices.Equal(got, want) {
			t.Errorf("the log is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}
