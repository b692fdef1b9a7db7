package passthrough_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/tcp"
	"github.com/proa-io/proa/runtime"
)

// tunnels is a sidecar, "front", beside nobody, and another one, "shop", whose
// application serves raw connections too.
type tunnels struct {
	*testing.T
	front     *sidecar
	frontDir  string // resources
	reloads   chan runtime.Reload
	shopPorts []int // of the sidecar
	port      int   // raw, of the application
	served    chan net.Conn
	forward   string // a local port that leads to port
}

// newTunnels starts them. allow are the rules of the front; shop is more of the
// Configuration of the other one.
func newTunnels(t *testing.T, mtls string, allow []string, shop string, change func(*runtime.Config)) *tunnels {
	t.Helper()
	tt := &tunnels{T: t, frontDir: t.TempDir(), reloads: make(chan runtime.Reload, 10), served: make(chan net.Conn, 100)}
	ln := listen(t)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				close(tt.served)
				return
			}
			tt.served <- c
		}
	}()
	tt.port = ln.Addr().(*net.TCPAddr).Port
	home, shopDir, log := t.TempDir(), t.TempDir(), &logBuffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the sidecars logged:\n%s", log)
		}
	})
	tt.allow(allow...)
	write(t, shopDir, fmt.Sprintf("  connect:\n    ports: [%d]\n%s", tt.port, shop))
	c := runtime.Config{
		AppID: "shop", AppPort: startWebApp(t, false).port, MTLS: mtls, Engine: engine.Options{Dir: home, Durability: engine.Relaxed},
		ResourcesPaths: []string{shopDir}, NoDefaultComponents: true, MetricsPort: -1, Log: slog.New(slog.NewTextHandler(log, nil)),
	}
	a := startSidecar(t, c).Addresses()
	tt.shopPorts = []int{a.HTTPPort, a.GRPCPort, a.InternalPort}
	c.AppID, c.AppPort, c.ResourcesPaths = "front", 0, []string{tt.frontDir}
	c.Forwards = []runtime.Forward{{Listen: "127.0.0.1:0", App: "shop", Port: tt.port}}
	c.ReloadSettle, c.OnReload = 10*time.Millisecond, func(r runtime.Reload) { tt.reloads <- r }
	if change != nil {
		change(&c)
	}
	tt.front = startSidecar(t, c)
	tt.forward = tt.front.Addresses().Forwards[0]
	awaitApp(t, &mesh{front: tt.front, log: log}, "shop")
	return tt
}

// write puts a Configuration into a folder.
func write(t *testing.T, dir, spec string) {
	t.Helper()
	text := "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: config\nspec:\n" + spec
	file := filepath.Join(dir, "config.yaml")
	if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
		t.Fatal(err)
	}
}

// allow replaces the rules of the front.
func (tt *tunnels) allow(rules ...string) {
	tt.Helper()
	text := "  connect:\n    allow: ["
	for i, r := range rules {
		if i > 0 {
			text += ", "
		}
		text += strconv.Quote(r)
	}
	write(tt.T, tt.frontDir, text+"]\n")
}

// next returns the application's end of a connection.
func (tt *tunnels) next() *net.TCPConn {
	tt.Helper()
	c := wait(tt.T, tt.served, "connection at the application").(*net.TCPConn)
	tt.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c
}

// connect sends a CONNECT over HTTP/1.1, or over HTTP/2, and returns the tunnel;
// or nil and the answer.
func (tt *tunnels) connect(two bool, to string, fields ...proxy.Field) (tcp.Stream, int, string) {
	tt.Helper()
	if two {
		cl := &http2.Client{Addr: tt.front.api()}
		tt.Cleanup(cl.Close)
		resp, err := cl.RoundTrip(context.Background(), &proxy.Request{Method: "CONNECT", Authority: to, Target: to, Header: fields}, proxy.RoundTripOptions{})
		if err != nil {
			tt.Fatal(err)
		}
		if resp.Upgraded == nil {
			defer resp.Body.Close()
			return nil, resp.Status, string(readAll(tt.T, resp.Body))
		}
		return resp.Upgraded.(tcp.Stream), resp.Status, ""
	}
	c := (&mesh{front: tt.front}).dialRaw(tt.T)
	text := "CONNECT " + to + " HTTP/1.1\r\nHost: " + to + "\r\n"
	for _, f := range fields {
		text += f.Name + ": " + f.Value + "\r\n"
	}
	_, _ = io.WriteString(c, text+"\r\n")
	br := bufio.NewReaderSize(c, 16) // it must not read ahead of the answer
	resp, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"})
	if err != nil {
		tt.Fatal(err)
	}
	if resp.StatusCode != 200 {
		return nil, resp.StatusCode, string(readAll(tt.T, resp.Body))
	}
	if br.Buffered() > 0 {
		tt.Fatal("the application spoke first")
	}
	return c, 200, ""
}

// measures waits until the front's metrics have the lines.
func (tt *tunnels) measures(lines ...string) {
	tt.Helper()
	var got string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", tt.front.Addresses().MetricsPort)) //nolint:noctx // on this host
		if err != nil {
			tt.Fatal(err)
		}
		got = string(readAll(tt.T, resp.Body))
		_ = resp.Body.Close()
		if !slices.ContainsFunc(lines, func(l string) bool { return !strings.Contains(got, l+"\n") }) {
			return
		}
	}
	tt.Errorf("the metrics are %s, want %q", got, lines)
}

// talk sends content both ways, and the ends one after the other.
func talk(t *testing.T, client tcp.Stream, app *net.TCPConn) {
	t.Helper()
	content := text(1 << 20)
	sent := make(chan error, 1)
	go func() {
		_, err := client.Write(content)
		sent <- errors.Join(err, client.CloseWrite())
	}()
	got, err := io.ReadAll(app)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("the application reads %s, %v", sum(got), err)
	}
	if err := <-sent; err != nil {
		t.Errorf("the client sends: %v", err)
	}
	digest := sha256.Sum256(got)
	_, _ = app.Write(digest[:])
	_ = app.CloseWrite()
	if back, err := io.ReadAll(client); err != nil || !bytes.Equal(back, digest[:]) {
		t.Errorf("the client reads %x, %v", back, err)
	}
	_ = client.Close()
}

// eachTunnel runs a test with both versions of HTTP, and without and with mutual
// TLS.
func eachTunnel(t *testing.T, test func(t *testing.T, mtls string, two bool)) {
	t.Parallel()
	for _, mtls := range []string{runtime.MTLSOff, runtime.MTLSStrict} {
		for _, two := range []bool{false, true} {
			t.Run(mtls+", "+version(two), func(t *testing.T) {
				t.Parallel()
				test(t, mtls, two)
			})
		}
	}
}

func TestRawConnectionsToOtherApplications(t *testing.T) {
	eachTunnel(t, func(t *testing.T, mtls string, two bool) {
		tt := newTunnels(t, mtls, []string{"app:shop"}, "", nil)
		to := fmt.Sprintf("shop:%d", tt.port)
		c, status, body := tt.connect(two, to)
		if c == nil {
			t.Fatalf("the answer is %d %s", status, body)
		}
		talk(t, c, tt.next())
		if c, _, _ = tt.connect(two, to); c != nil { // the application may break it off
			app := tt.next()
			_ = app.SetLinger(0)
			_ = app.Close()
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the client takes a reset for %v", err)
			}
		}
		if c, _, _ = tt.connect(two, to); c != nil { // and so may the client
			app := tt.next()
			if tc, ok := c.(*net.TCPConn); ok {
				_ = tc.SetLinger(0)
			}
			_ = c.Close()
			if _, err := app.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the application takes a reset for %v", err)
			}
		}
	})
}

func TestRawConnectionsOutside(t *testing.T) {
	eachTunnel(t, func(t *testing.T, mtls string, two bool) {
		tt := newTunnels(t, mtls, []string{"127.0.0.1:*"}, "", nil)
		c, status, body := tt.connect(two, fmt.Sprintf("127.0.0.1:%d", tt.port))
		if c == nil {
			t.Fatalf("the answer is %d %s", status, body)
		}
		talk(t, c, tt.next())
	})
}

func TestConnectionsOfALocalPort(t *testing.T) {
	t.Parallel()
	for _, mtls := range []string{runtime.MTLSOff, runtime.MTLSStrict} {
		t.Run(mtls, func(t *testing.T) {
			t.Parallel()
			tt := newTunnels(t, mtls, nil, "", func(c *runtime.Config) { c.MetricsPort = 0 })
			for range 3 {
				c, err := net.Dial("tcp", tt.forward) //nolint:noctx // bounded below
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(2 * patience))
				talk(t, c.(*net.TCPConn), tt.next())
			}
			tt.measures(`proa_tunnels_total{app_id="front",failure="none",namespace="default",role="forward"} 3`,
				fmt.Sprintf(`proa_tunnel_sent_bytes_total{app_id="front",namespace="default",role="forward"} %g`, float64(3<<20)))
		})
	}
}

func TestConnectGoesNowhereUnlessItIsAllowed(t *testing.T) {
	t.Parallel()
	const deny = "  accessControl:\n    defaultAction: allow\n    policies:\n    - appId: front\n      defaultAction: allow\n" +
		"      operations:\n      - name: /%s\n        httpVerb: [CONNECT]\n        action: deny\n"
	tt := newTunnels(t, runtime.MTLSOff, nil, "", nil)
	denied := newTunnels(t, runtime.MTLSOff, []string{"app:shop"}, fmt.Sprintf(deny, "*"), nil)
	ported := newTunnels(t, runtime.MTLSOff, []string{"app:shop:1", "app:shop:2", "*:*", "127.0.0.1:*"}, "", nil)
	own := ported.front.Addresses()
	for _, tc := range []struct {
		name   string
		tt     *tunnels
		to     string
		status int
		says   string
	}{
		{"no rule", tt, fmt.Sprintf("shop:%d", tt.port), 403, `by "app:shop", in the list spec.connect.allow`},
		{"no rule for outside", tt, "db.example:5432", 403, `a Configuration allows it by "db.example:5432"`},
		{"an address of the host", tt, fmt.Sprintf("127.0.0.1:%d", tt.port), 403, "spec.connect.allow"},
		{"access rules", denied, fmt.Sprintf("shop:%d", denied.port), 403, "access"},
		{"a port that is not open", ported, "shop:2", 403, "spec.connect.ports"},
		{"the host by a wildcard", ported, fmt.Sprintf("localhost:%d", ported.port), 403, "is an address of this host"},
		{"a link", ported, "169.254.169.254:80", 403, "is an address of this host or its links"},
		{"the own API", ported, fmt.Sprintf("127.0.0.1:%d", own.HTTPPort), 403, "is a port of this sidecar"},
		{"the own internal port", ported, fmt.Sprintf("127.0.0.1:%d", own.InternalPort), 403, "is a port of this sidecar"},
		{"the own forward", ported, own.Forwards[0], 403, "is a port of this sidecar"},
		{"nobody there", ported, "127.0.0.1:1", 502, "connection refused"},
		{"no port", ported, "127.0.0.1:0", 400, "a port"},
	} {
		for _, two := range []bool{false, true} {
			c, status, body := tc.tt.connect(two, tc.to)
			if c != nil || status != tc.status || !strings.Contains(body, tc.says) {
				t.Errorf("%s, %s: status %d, %q", tc.name, version(two), status, body)
			}
		}
	}
}

func TestRulesForConnectChangeWhileItRuns(t *testing.T) {
	t.Parallel()
	tt := newTunnels(t, runtime.MTLSOff, nil, "", nil)
	to := fmt.Sprintf("shop:%d", tt.port)
	if c, status, _ := tt.connect(false, to); c != nil || status != 403 {
		t.Fatalf("status %d", status)
	}
	tt.allow(fmt.Sprintf("app:shop:%d", tt.port))
	if r := wait(t, tt.reloads, "reload"); r.Err != nil {
		t.Fatal(r.Err)
	}
	c, status, body := tt.connect(false, to)
	if c == nil {
		t.Fatalf("status %d %s", status, body)
	}
	app := tt.next()
	tt.allow("nonsense")
	if r := wait(t, tt.reloads, "reload"); r.Err == nil || !strings.Contains(r.Err.Error(), "spec.connect.allow[0]") {
		t.Errorf("a rule that is none: %v", r.Err)
	}
	tt.allow()
	if r := wait(t, tt.reloads, "reload"); r.Err != nil {
		t.Fatal(r.Err)
	}
	if c, status, _ := tt.connect(false, to); c != nil || status != 403 {
		t.Errorf("status %d", status)
	}
	talk(t, c, app) // what was open stays
}

func TestConnectWantsTheToken(t *testing.T) {
	t.Parallel()
	tt := newTunnels(t, runtime.MTLSOff, []string{"app:shop"}, "", func(c *runtime.Config) { c.APIToken = component.NewSecret("secret") })
	to := fmt.Sprintf("shop:%d", tt.port)
	for _, f := range []proxy.Field{
		{Name: "dapr-api-token", Value: "secret"},
		{Name: "Proxy-Authorization", Value: "Bearer secret"},
		{Name: "Proxy-Authorization", Value: "Basic dXNlcjpzZWNyZXQ="}, // user:secret
	} {
		c, status, body := tt.connect(false, to, f)
		if c == nil {
			t.Fatalf("%v: %d %s", f, status, body)
		}
		talk(t, c, tt.next())
	}
	for _, fields := range [][]proxy.Field{nil, {{Name: "Proxy-Authorization", Value: "Basic dXNlcjp3cm9uZw=="}}} {
		if c, status, _ := tt.connect(false, to, fields...); c != nil || status != 407 {
			t.Errorf("%v: status %d", fields, status)
		}
	}
}
