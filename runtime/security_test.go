package runtime

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// caller asks the application "shop" through a sidecar of its own.
func invokeShop(t *testing.T, port int) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf("http://127.0.0.1:%d/v1.0/invoke/shop/method/who", port), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestSidecarsOfEveryModeOfMutualTLS(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s.%s", r.Header.Get("dapr-caller-app-id"), r.Header.Get("dapr-caller-namespace"))
	}))
	t.Cleanup(app.Close)
	port, err := strconv.Atoi(app.URL[strings.LastIndex(app.URL, ":")+1:])
	must(t, err)
	for _, tc := range []struct {
		caller, callee string
		works          bool
	}{
		{MTLSStrict, MTLSStrict, true},
		{MTLSStrict, MTLSPermissive, true},
		{MTLSPermissive, MTLSStrict, true},
		{MTLSPermissive, MTLSPermissive, true},
		{MTLSOff, MTLSPermissive, true},
		{MTLSPermissive, MTLSOff, true},
		{MTLSOff, MTLSStrict, false},
		{MTLSStrict, MTLSOff, false},
	} {
		t.Run(tc.caller+" to "+tc.callee, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			callee := newRig(t, nil, func(c *Config) { c.Engine.Dir, c.AppPort, c.MTLS = home, port, tc.callee })
			caller := newRig(t, nil, func(c *Config) { c.AppID, c.Engine.Dir, c.MTLS = "front", home, tc.caller })
			status, body := invokeShop(t, caller.Addresses().HTTPPort)
			if works := status == 200 && body == "front.default"; works != tc.works {
				t.Errorf("status %d: %s", status, body)
			}
			// Whoever has no certificate can say that it is somebody else, unless
			// certificates are what counts.
			if got := plain(t, callee.Addresses().InternalPort); (got == "admin.default") != (tc.callee != MTLSStrict) {
				t.Errorf("a caller in plain text is answered %q", got)
			}
		})
	}
}

// plain calls the port for other sidecars in plain text and returns the answer.
func plain(t *testing.T, port int) string {
	t.Helper()
	client := &http2.Client{Addr: fmt.Sprintf("127.0.0.1:%d", port)}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	resp, err := client.RoundTrip(ctx, &proxy.Request{
		Method: "GET", Scheme: "http", Authority: "shop", Target: "/who",
		Header: proxy.Header{{Name: "dapr-callee-app-id", Value: "shop"}, {Name: "dapr-caller-app-id", Value: "admin"}, {Name: "dapr-caller-namespace", Value: "default"}},
	}, proxy.RoundTripOptions{})
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
