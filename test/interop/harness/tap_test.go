package harness

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/proa-io/proa/internal/leak"
)

// through returns a tap to a server, the address where it listens, and what it
// has seen once it is closed.
func through(t *testing.T, to string) (address string, seen func() []string) {
	t.Helper()
	_, text, _ := net.SplitHostPort(to)
	var port int
	_, _ = fmt.Sscan(text, &port)
	lines := make(chan string, 1000)
	tap := newTap(t, port, func(r request) { lines <- r.method + " " + r.target + " " + r.field("x-name") })
	at, err := tap.listen(0)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at), func() []string {
		tap.close()
		close(lines)
		return slices.Sorted(func(yield func(string) bool) {
			for line := range lines {
				if !yield(line) {
					return
				}
			}
		})
	}
}

func TestATapSeesEveryRequestOverHTTP1(t *testing.T) {
	leak.Check(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %d", r.URL.Path, len(body))
	}))
	defer server.Close()
	address, seen := through(t, server.Listener.Addr().String())
	client := &http.Client{Transport: &http.Transport{}}
	for i, size := range []int{0, 100_000, 3} {
		var body io.Reader = strings.NewReader(strings.Repeat("x", size))
		if i == 1 {
			body = io.MultiReader(body) // in chunks
		}
		req, _ := http.NewRequestWithContext(t.Context(), "POST", fmt.Sprintf("http://%s/%d?q=1", address, i), body)
		req.Header.Set("X-Name", "n")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if want := fmt.Sprintf("/%d %d", i, size); string(text) != want {
			t.Errorf("the answer is %q, want %q", text, want)
		}
	}
	client.CloseIdleConnections()
	if got := strings.Join(seen(), ", "); got != "POST /0?q=1 n, POST /1?q=1 n, POST /2?q=1 n" {
		t.Errorf("the tap has seen %s", got)
	}
}

func TestATapSeesEveryCallOverHTTP2(t *testing.T) {
	leak.Check(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, done := grpc.NewServer(), make(chan error, 1)
	healthpb.RegisterHealthServer(server, health.NewServer())
	go func() { done <- server.Serve(l) }()
	defer func() { server.Stop(); <-done }()
	address, seen := through(t, l.Addr().String())
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // the second time the head is a few numbers in a table
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-name", "n")
		if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	_ = conn.Close()
	want := "POST /grpc.health.v1.Health/Check n"
	if got := seen(); !slices.Equal(got, []string{want, want, want}) {
		t.Errorf("the tap has seen %q", got)
	}
}

func TestWhatIsNotHTTPPassesThroughATap(t *testing.T) {
	leak.Check(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	address, seen := through(t, l.Addr().String())
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("\x00\x01 no HTTP\r\n", 10_000)
	go func() {
		_, _ = io.WriteString(conn, want)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != want {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(want), err)
	}
	_ = conn.Close()
	<-echoed
	if requests := seen(); len(requests) != 0 {
		t.Errorf("the tap has seen %q", requests)
	}
}

func TestARecordIsComparedLineByLine(t *testing.T) {
	c := NewCalls()
	c.overHTTP(request{"GET", "/v1.0/state/s/k?x=y", http.Header{}.Get})
	c.overGRPC(request{"POST", "/dapr.proto.runtime.v1.Dapr/GetState", http.Header{}.Get})
	c.overGRPC(request{"POST", "/shop.v1.Orders/Place", http.Header{}.Get})
	c.ofApp(request{"GET", "/dapr/subscribe", http.Header{}.Get})
	c.ofApp(request{"POST", "/dapr.proto.runtime.v1.AppCallback/OnInvoke", http.Header{"Content-Type": {"application/grpc"}}.Get})
	file := filepath.Join(t.TempDir(), "record.txt")
	want := `callback GET /dapr/subscribe
callback rpc dapr.proto.runtime.v1.AppCallback/OnInvoke
route GET /v1.0/state/{store}/{key}
rpc dapr.proto.runtime.v1.Dapr/GetState
rpc {service}/{method}
`
	if err := os.WriteFile(file, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Check(t, file)
}
