package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/runtime"
)

// sidecar is a `proa sidecar` that runs beside the test.
type sidecar struct {
	*process
	http, grpc int // ports
}

// options say what sidecar to start.
type options struct {
	name  string // of the process; the id of the application is always "shop"
	home  string
	app   string // address of the application; "" for none
	flags []string
}

// startSidecar starts a sidecar on ports of its own choice and waits until it
// serves.
func startSidecar(tb testing.TB, o options) *sidecar {
	tb.Helper()
	args := []string{proa(tb), "sidecar", "--app-id", "shop", "--home", o.home, "--dapr-http-port", "0", "--dapr-grpc-port", "0", "--metrics-port", "0"}
	if o.app != "" {
		_, port, _ := strings.Cut(o.app, ":")
		args = append(args, "--app-port", port)
	}
	p, err := start(launch{name: o.name, dir: o.home, env: os.Environ(), args: append(args, o.flags...)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		p.kill()
		if tb.Failed() {
			tb.Logf("%s printed:\n%s", o.name, tail(p.output()))
		}
	})
	s := &sidecar{process: p}
	if err := eventually(s.locate(o.home)); err != nil {
		tb.Fatalf("%s does not serve: %v\n%s", o.name, err, p.output())
	}
	return s
}

// locate returns a function that looks up the ports.
func (s *sidecar) locate(home string) func() error {
	return func() error {
		running, err := runtime.Instances(home)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(running, func(i runtime.Instance) bool { return i.PID == s.cmd.Process.Pid })
		if i < 0 {
			return fmt.Errorf("it is not among %v", running)
		}
		s.http, s.grpc = running[i].HTTPPort, running[i].GRPCPort
		return nil
	}
}

// tail returns the end of a long text.
func tail(text string) string {
	const most = 20 << 10
	if len(text) > most {
		return "..." + text[len(text)-most:]
	}
	return text
}

// url returns an address of the HTTP API.
func (s *sidecar) url(path string) string {
	return "http://127.0.0.1:" + strconv.Itoa(s.http) + path
}

// client is the HTTP client of all Go tests. Its timeout is far beyond what the
// sidecar itself allows a call: what runs into it hangs.
var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}

// call makes a request to the HTTP API.
func (s *sidecar) call(method, path string, body []byte) (status int, answer string, err error) {
	req, err := http.NewRequest(method, s.url(path), bytes.NewReader(body)) //nolint:noctx // the client has a timeout
	if err != nil {
		return 0, "", err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(content), err
}

// must makes a request and ends the test unless it has the wanted status.
func (s *sidecar) must(tb testing.TB, method, path, body string, want int) string {
	tb.Helper()
	var content []byte
	if body != "" {
		content = []byte(body)
	}
	status, answer, err := s.call(method, path, content)
	if err != nil || status != want {
		tb.Fatalf("%s %s: %d %s (%v), want %d", method, path, status, answer, err, want)
	}
	return answer
}

// subscriber is an application that notes the events it has dealt with. It
// stays the same while its sidecars come and go.
type subscriber struct {
	addr string
	ill  atomic.Bool // what it answers to health checks

	mu   sync.Mutex
	seen map[string]int // event → times
	hold chan struct{}  // not nil: deliveries wait until it is closed
	held int
}

// newSubscriber serves an application that subscribes to the topic "orders".
func newSubscriber(tb testing.TB) *subscriber {
	s := &subscriber{seen: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dapr/subscribe", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, []map[string]string{{"pubsubname": "pubsub", "topic": "orders", "route": "/on/orders"}})
	})
	mux.HandleFunc("POST /on/orders", s.event)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if s.ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	srv := httptest.NewServer(mux)
	tb.Cleanup(srv.Close)
	s.addr = srv.Listener.Addr().String()
	return s
}

func (s *subscriber) event(w http.ResponseWriter, r *http.Request) {
	var e struct{ Data string }
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	hold := s.hold
	if hold != nil {
		s.held++
	}
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	s.mu.Lock()
	s.seen[e.Data]++
	s.mu.Unlock()
}

// missing returns which of the events have not been dealt with.
func (s *subscriber) missing(events []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, e := range events {
		if s.seen[e] == 0 {
			out = append(out, e)
		}
	}
	return out
}

// ackQuickly makes a folder of resources in which messages of a sidecar that
// was killed go to another one soon.
func ackQuickly(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	text := `apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: pubsub
spec:
  type: pubsub.nats
  version: v1
  metadata:
    - name: ackWait
      value: 2s
`
	if err := os.WriteFile(filepath.Join(dir, "pubsub.yaml"), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return dir
}
