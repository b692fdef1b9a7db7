package runtime

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	const secure, plainText, refused = "mutual TLS", "plain text", "nothing"
	for _, tc := range []struct{ caller, callee, speak string }{
		{MTLSStrict, MTLSStrict, secure},
		{MTLSStrict, MTLSPermissive, secure},
		{MTLSPermissive, MTLSStrict, secure},
		{MTLSPermissive, MTLSPermissive, secure},
		{MTLSOff, MTLSOff, plainText},
		{MTLSOff, MTLSPermissive, plainText},
		{MTLSPermissive, MTLSOff, plainText},
		{MTLSOff, MTLSStrict, refused},
		{MTLSStrict, MTLSOff, refused},
	} {
		t.Run(tc.caller+" to "+tc.callee, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			wire := &tap{}
			callee := newWiredRig(t, nil, func(c *Config) { c.Engine.Dir, c.AppPort, c.MTLS = home, port, tc.callee }, wire.on)
			caller := newRig(t, nil, func(c *Config) { c.AppID, c.Engine.Dir, c.MTLS = "front", home, tc.caller })
			status, body := invokeShop(t, caller.Addresses().HTTPPort)
			if works := status == 200 && body == "front.default"; works != (tc.speak != refused) {
				t.Errorf("status %d: %s", status, body)
			}
			spoken := refused
			switch in, out := wire.seen(); {
			case bytes.Contains(in, []byte("PRI * HTTP/2.0")) && bytes.Contains(out, []byte("front.default")):
				spoken = plainText
			case in[0] == recordHandshake && out[0] == recordHandshake && !bytes.Contains(out, []byte("front.default")):
				spoken = secure
			}
			if spoken != tc.speak {
				t.Errorf("%s was spoken, want %s", spoken, tc.speak)
			}
			// Whoever has no certificate can say that it is somebody else, unless
			// certificates are what counts.
			if got := plain(t, callee.Addresses().InternalPort); (got == "admin.default") != (tc.callee != MTLSStrict) {
				t.Errorf("a caller in plain text is answered %q", got)
			}
		})
	}
}

// tap is a listener that keeps what went over its connections.
type tap struct {
	net.Listener
	mu      sync.Mutex
	in, out bytes.Buffer
}

// on puts the tap before the port for other sidecars.
func (w *tap) on(rt *Runtime) { w.Listener, rt.listeners.internal = rt.listeners.internal, w }

func (w *tap) Accept() (net.Conn, error) {
	nc, err := w.Listener.Accept()
	return &tapped{nc, w}, err
}

// seen returns what callers have sent so far, and what they were sent.
func (w *tap) seen() (in, out []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.in.Bytes()), slices.Clone(w.out.Bytes())
}

type tapped struct {
	net.Conn
	w *tap
}

func (c *tapped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.in.Write(p[:n])
	return n, err
}

func (c *tapped) Write(p []byte) (int, error) {
	c.w.mu.Lock()
	c.w.out.Write(p)
	c.w.mu.Unlock()
	return c.Conn.Write(p)
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

func TestTheEndOfAnIdentityIsMeasuredAndTheProcessIsUnwellOnlyAfterIt(t *testing.T) {
	var late atomic.Int64 // how many nanoseconds the clock is ahead
	r := newWiredRig(t, nil, func(c *Config) { c.MTLS, c.MetricsPort = MTLSStrict, 0 }, func(rt *Runtime) {
		rt.security.now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	})
	metrics := func() string {
		t.Helper()
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", r.Addresses().MetricsPort))
		must(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		must(t, err)
		return string(text)
	}
	doc := r.security.Current()
	for name, ends := range map[string]time.Time{"leaf": doc.Expiry(), "root": doc.RootsExpiry()} {
		line := fmt.Sprintf("proa_identity_certificate_expiry_timestamp_seconds{app_id=\"shop\",certificate=%q,namespace=\"default\"} ", name)
		_, rest, ok := strings.Cut(metrics(), line)
		value, _, _ := strings.Cut(rest, "\n")
		if at, err := strconv.ParseFloat(value, 64); !ok || err != nil || int64(at) != ends.Unix() {
			t.Errorf("%s: %q, want %d", name, value, ends.Unix())
		}
	}
	healthy := func() int {
		t.Helper()
		status, _, err := r.call("GET", "/v1.0/healthz", "")
		must(t, err)
		return status
	}
	for deadline := time.Now().Add(patience); healthy() != 204; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the sidecar does not become ready")
		}
	}
	late.Store(int64(time.Until(doc.Expiry()) - time.Minute))
	if got := healthy(); got != 204 {
		t.Errorf("before the end: %d", got)
	}
	late.Store(int64(time.Until(doc.Expiry()) + time.Minute))
	if got := healthy(); got != 500 {
		t.Errorf("after the end: %d", got)
	}
	if answer := r.must("GET", "/v1.0/metadata", "", 200); !strings.Contains(answer, `"proa.identity":"spiffe://public/ns/default/shop"`) {
		t.Errorf("the metadata do not tell the identity: %s", answer)
	}
}
