// Package passthrough_test sends what HTTP and gRPC know of, piece by piece,
// through two sidecars and looks at what arrives at the other end: the
// application must not be able to tell, but for what the sidecars document, that
// the client is not beside it.
//
// The sidecars run in the process of the test, on the engine, with mutual TLS and
// without. Everything is asked of both of them, in HTTP/1.1 and HTTP/2, of
// applications that speak the one and the other: see eachWay.
package passthrough_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/runtime"
)

func TestMain(m *testing.M) { testserver.Main(m, plain, secure) }

// patience bounds everything that is waited for. It is long because it costs time
// only where something is broken.
const patience = 30 * time.Second

// plain and secure are the sidecars that the tests share, without mutual TLS and
// with it.
var (
	plain  = testserver.Share(func(tb testserver.TB) *mesh { return startMesh(tb, runtime.MTLSOff) })
	secure = testserver.Share(func(tb testserver.TB) *mesh { return startMesh(tb, runtime.MTLSStrict) })
)

// mesh is the sidecar of the client, and applications with sidecars of their own.
type mesh struct {
	front *sidecar
	// one and two are applications on net/http that speak HTTP/1.1 and HTTP/2,
	// raw is one that a test answers byte by byte in HTTP/1.1, framed one on
	// the engine for HTTP/2, and grpc one on grpc-go.
	one, two *webApp
	raw      *rawApp
	framed   *framedApp
	grpc     *grpcApp
	beside   *sidecar // of raw
	log      *logBuffer
}

// sidecar is one that runs in the test.
type sidecar struct {
	*runtime.Runtime
}

// api returns the address of its API.
func (s *sidecar) api() string { return "127.0.0.1:" + strconv.Itoa(s.Addresses().HTTPPort) }

// logBuffer is the end of what sidecars logged.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.text.Len() > 1<<20 {
		b.text.Reset()
	}
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()[max(0, b.text.Len()-20<<10):]
}

func startMesh(tb testserver.TB, mtls string) *mesh {
	fastloop.Skip(tb, "starts sidecars")
	home, err := os.MkdirTemp("", "passthrough-*")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(home) })
	m := &mesh{log: &logBuffer{}}
	m.one, m.two, m.raw, m.framed, m.grpc = startWebApp(tb, false), startWebApp(tb, true), startRawApp(tb), startFramedApp(tb), startGRPCApp(tb)
	start := func(id, protocol string, port int) *sidecar {
		return startSidecar(tb, runtime.Config{
			AppID: id, AppPort: port, AppProtocol: protocol, MTLS: mtls, Engine: engine.Options{Dir: home, Durability: engine.Relaxed},
			NoDefaultComponents: true, DisableInitEndpoints: []string{"config", "subscribe"}, MetricsPort: -1, Log: slog.New(slog.NewTextHandler(m.log, nil)),
		})
	}
	m.front = start("front", "", 0)
	start("one", "http", m.one.port)
	start("two", "h2c", m.two.port)
	m.beside = start("raw", "http", m.raw.port)
	start("framed", "h2c", m.framed.port)
	start("grpc", "grpc", m.grpc.port)
	for _, id := range []string{"one", "two"} {
		awaitApp(tb, m, id)
	}
	return m
}

// startSidecar runs a sidecar until the tests are over.
func startSidecar(tb testserver.TB, c runtime.Config) *sidecar {
	ctx, cancel := context.WithCancel(context.Background())
	rt, err := runtime.New(ctx, c)
	if err != nil {
		cancel()
		tb.Fatalf("%v", err)
	}
	done := make(chan error, 1)
	go func() { done <- rt.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			fmt.Fprintln(os.Stderr, "sidecar", c.AppID, "ended with", err)
		}
	})
	return &sidecar{rt}
}

// awaitApp waits until an application can be invoked.
func awaitApp(tb testserver.TB, m *mesh, id string) {
	var last string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		req, err := http.NewRequestWithContext(context.Background(), "GET", m.url(id, "/ping"), nil)
		if err != nil {
			tb.Fatalf("%v", err)
		}
		req.Header.Set("dapr-api-token", "secret") // where there is one
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusNoContent {
				return
			}
			last = resp.Status
			continue
		}
		last = err.Error()
	}
	tb.Fatalf("application %s cannot be invoked: %s\n%s", id, last, m.log)
}

// handlers answer the requests of many tests on one application: each has a path
// of its own.
type handlers[H any] struct {
	byName sync.Map // name → H
	count  atomic.Int64
}

// add returns the path at which h answers while the test runs.
func (s *handlers[H]) add(t *testing.T, h H) string {
	name := "t" + strconv.FormatInt(s.count.Add(1), 10)
	s.byName.Store(name, h)
	t.Cleanup(func() { s.byName.Delete(name) })
	return "/" + name
}

// find returns who answers at a path.
func (s *handlers[H]) find(path string) (h H, ok bool) {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	name, _, _ = strings.Cut(name, "?")
	v, ok := s.byName.Load(name)
	if ok {
		h, ok = v.(H)
	}
	return h, ok
}

// webApp is an application on net/http.
type webApp struct {
	id   string
	port int
	handlers[http.HandlerFunc]
}

func startWebApp(tb testserver.TB, two bool) *webApp {
	a := &webApp{id: "one"}
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, ok := a.find(r.URL.Path); ok {
			h(w, r)
			return
		}
		if r.URL.Path == "/ping" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		http.NotFound(w, r)
	})}
	srv.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	srv.Protocols.SetHTTP1(!two)
	if two {
		a.id = "two"
		srv.Protocols.SetUnencryptedHTTP2(true)
	}
	ln := listen(tb)
	a.port = ln.Addr().(*net.TCPAddr).Port
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	tb.Cleanup(func() { _ = srv.Close(); <-done })
	return a
}

func listen(tb testserver.TB) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return ln
}

// way is one way from a client to an application: the versions of HTTP at its
// ends, and what lies between.
type way struct {
	*mesh
	two    bool // the client speaks HTTP/2
	client *http.Client
	app    *webApp
}

// on has h answer at the application and returns the URL at which the client
// reaches it.
func (w way) on(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	return w.url(w.app.id, w.app.add(t, h))
}

// url returns where the client reaches a path of an application.
func (m *mesh) url(id, path string) string {
	return "http://" + m.front.api() + "/v1.0/invoke/" + id + "/method" + path
}

// eachMesh runs a test without mutual TLS and with it.
func eachMesh(t *testing.T, test func(t *testing.T, m *mesh)) {
	for name, m := range map[string]*testserver.Shared[*mesh]{"plain": plain, "mTLS": secure} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := m.Get(t)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the sidecars logged:\n%s", got.log)
				}
			})
			test(t, got)
		})
	}
}

// eachWay runs a test on all ways.
func eachWay(t *testing.T, test func(t *testing.T, w way)) {
	t.Parallel()
	eachMesh(t, func(t *testing.T, m *mesh) {
		for _, clientTwo := range []bool{false, true} {
			for _, app := range []*webApp{m.one, m.two} {
				t.Run(fmt.Sprintf("%s to %s", version(clientTwo), version(app == m.two)), func(t *testing.T) {
					t.Parallel()
					test(t, way{mesh: m, two: clientTwo, client: newClient(t, clientTwo), app: app})
				})
			}
		}
	})
}

func version(two bool) string {
	if two {
		return "h2"
	}
	return "h1"
}

// newClient returns a client of net/http for one of the versions.
func newClient(t *testing.T, two bool) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true, ExpectContinueTimeout: patience}
	tr.Protocols.SetHTTP1(!two)
	tr.Protocols.SetUnencryptedHTTP2(two)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport: tr, Timeout: 2 * patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// wait returns what comes out of a channel.
func wait[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

// newRequest returns a request that ends with the test.
func newRequest(t *testing.T, method, url string, body any) *http.Request {
	t.Helper()
	var req *http.Request
	var err error
	switch b := body.(type) {
	case nil:
		req, err = http.NewRequestWithContext(t.Context(), method, url, nil)
	case string:
		req, err = http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(b))
	case *bodyPipe:
		req, err = http.NewRequestWithContext(t.Context(), method, url, b.PipeReader)
	default:
		t.Fatalf("a body of type %T", body)
	}
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// do sends a request and ends the test unless an answer begins.
func (w way) do(t *testing.T, req *http.Request) *http.Response {
	t.Helper()
	resp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}
