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
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

// accessLine is a line of the access log; what differs from run to run is left
// out.
type accessLine struct {
	Direction, Method, Path, Target, Caller, Failure string

	Status     int    `json:"status"`
	GRPCStatus *int   `json:"grpc_status"`
	Sent       int64  `json:"bytes_out"`
	TraceID    string `json:"trace_id"`
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
		lines = append(lines, fmt.Sprintf("%s %s %s to %q from %q: %d %d, %d bytes, %q, trace %.8s", l.Direction, l.Method, l.Path, l.Target, l.Caller,
			l.Status, code, l.Sent, l.Failure, l.TraceID))
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
	front.stop()
	back.stop()
	for name, want := range map[string][]string{
		"front": {
			`outbound GET /v1.0/invoke/shop/method/orders to "shop" from "": 200 -1, 6 bytes, "", trace 0af76519`,
			`outbound GET /v1.0/invoke/shop/method/broken to "shop" from "": 500 -1, 6 bytes, "", trace 0af76519`,
			`api GET /v1.0/state/store to "" from "": 204 -1, 0 bytes, "", trace 0af76519`,
			`"ERR_STATE_STORE_NOT_FOUND", trace 0af76519`,
			`api gRPC /dapr.proto.runtime.v1.Dapr/GetState to "" from "": 0 0, 0 bytes, "", trace `,
		},
		"back": {
			`inbound GET /orders to "shop" from "front": 200 -1, 6 bytes, "", trace 0af76519`,
			`inbound GET /broken to "shop" from "front": 500 -1, 6 bytes, "", trace 0af76519`,
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
