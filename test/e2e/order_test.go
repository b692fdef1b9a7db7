package e2e_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/proa-io/proa/internal/freeport"
	"github.com/proa-io/proa/internal/testserver"
)

// TestTheOrderOfApplicationSidecarStoreAndBrokerDoesNotMatter starts an
// application, its sidecar, a store and a broker in every order, and restarts
// each of them, politely and not: whatever came first, all works once all are
// there.
func TestTheOrderOfApplicationSidecarStoreAndBrokerDoesNotMatter(t *testing.T) {
	long(t)
	proa(t) // built once, before the subtests need it
	for _, order := range permutations([]string{"app", "sidecar", "store", "broker"}) {
		t.Run(strings.Join(order, "-"), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for i, name := range order {
				w.parts[name].start()
				if i < len(order)-1 && w.parts["sidecar"].up() {
					w.answers() // the API is there, whatever is not
				}
			}
			w.works("at first")
			// Each order restarts its first part politely and its last one not;
			// between them they cover all.
			w.parts[order[0]].stop()
			w.parts[order[0]].start()
			w.works("after a restart of the " + order[0])
			w.parts[order[3]].kill()
			w.parts[order[3]].start()
			w.works("after the " + order[3] + " was killed")
		})
	}
}

func permutations(of []string) [][]string {
	if len(of) == 1 {
		return [][]string{of}
	}
	var out [][]string
	for i, first := range of {
		rest := append(append([]string{}, of[:i]...), of[i+1:]...)
		for _, p := range permutations(rest) {
			out = append(out, append([]string{first}, p...))
		}
	}
	return out
}

// part is something that starts and stops.
type part struct {
	start, stop, kill func()
	up                func() bool
}

// world is an application, its sidecar, a store and a broker.
type world struct {
	t       *testing.T
	parts   map[string]part
	sidecar *sidecar
	app     *restartable
	n       int
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, app: newRestartable(t)}
	store, broker := testserver.Redis(t, testserver.RedisOptions{}), testserver.Redis(t, testserver.RedisOptions{})
	home, resources := t.TempDir(), t.TempDir()
	var b strings.Builder
	for _, c := range [][3]string{{"store", "state.redis", store.Addr()}, {"broker", "pubsub.redis", broker.Addr()}} {
		fmt.Fprintf(&b, "---\napiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: %s\nspec:\n  type: %s\n  version: v1\n"+
			"  metadata:\n  - name: redisHost\n    value: %q\n", c[0], c[1], c[2])
		if c[0] == "broker" {
			b.WriteString("  - name: processingTimeout\n    value: 2s\n  - name: redeliverInterval\n    value: 1s\n")
		}
	}
	replaceFile(t, filepath.Join(resources, "components.yaml"), b.String())
	redis := func(r *testserver.RedisServer) part {
		r.Stop()
		return part{start: r.Restart, stop: r.Stop, kill: r.Kill, up: r.Running}
	}
	w.parts = map[string]part{
		"store": redis(store), "broker": redis(broker),
		"app": {start: w.app.start, stop: w.app.stop, kill: w.app.stop, up: func() bool { return w.app.server != nil }},
		"sidecar": {
			start: func() {
				w.sidecar = startSidecar(t, options{name: "shop", home: home, app: w.app.addr, flags: []string{"--resources-path", resources}})
			},
			stop: func() {
				if err := w.sidecar.stop(); err != nil {
					t.Fatal(err)
				}
			},
			kill: func() { w.sidecar.signal(syscall.SIGKILL); <-w.sidecar.exited },
			up:   func() bool { return w.sidecar != nil },
		},
	}
	return w
}

// answers wants the sidecar to answer.
func (w *world) answers() {
	w.t.Helper()
	w.sidecar.must(w.t, "GET", "/v1.0/metadata", "", http.StatusOK)
}

// works wants state, messages and invocations to work.
func (w *world) works(when string) {
	w.t.Helper()
	w.n++
	id := fmt.Sprintf("n-%d", w.n)
	try := func(what, method, path, body, want string) {
		w.t.Helper()
		if err := eventually(func() error {
			status, answer, err := w.sidecar.call(method, path, []byte(body))
			if err != nil || status >= 300 || answer != want {
				return fmt.Errorf("%d %s %w", status, answer, err)
			}
			return nil
		}); err != nil {
			w.t.Fatalf("%s, %s: %v", when, what, err)
		}
	}
	try("write", "POST", "/v1.0/state/store", fmt.Sprintf(`[{"key":%q,"value":%q}]`, id, id), "")
	try("read", "GET", "/v1.0/state/store/"+id, "", `"`+id+`"`)
	try("invoke", "GET", "/v1.0/invoke/shop/method/hello", "", "hello")
	try("publish", "POST", "/v1.0/publish/broker/orders", fmt.Sprintf("%q", id), "")
	if err := eventually(func() error { return w.app.got(id) }); err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
}

// restartable is an application that stops and starts on the same port.
type restartable struct {
	tb     testing.TB
	addr   string
	server *http.Server // nil while it is stopped

	mu   sync.Mutex
	seen map[string]bool
}

func newRestartable(tb testing.TB) *restartable {
	port, err := freeport.Pick()
	if err != nil {
		tb.Fatal(err)
	}
	a := &restartable{tb: tb, addr: fmt.Sprintf("127.0.0.1:%d", port), seen: map[string]bool{}}
	tb.Cleanup(a.stop)
	return a
}

func (a *restartable) start() {
	l, err := net.Listen("tcp", a.addr)
	if err != nil {
		a.tb.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dapr/subscribe", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, []map[string]string{{"pubsubname": "broker", "topic": "orders", "route": "/on/orders"}})
	})
	mux.HandleFunc("/hello", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	mux.HandleFunc("POST /on/orders", func(_ http.ResponseWriter, r *http.Request) {
		var e struct{ Data string }
		_ = json.NewDecoder(r.Body).Decode(&e)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.seen[e.Data] = true
	})
	a.server = &http.Server{Handler: mux} //nolint:gosec // a test
	go func(s *http.Server) { _ = s.Serve(l) }(a.server)
}

func (a *restartable) stop() {
	if a.server != nil {
		_ = a.server.Close()
		a.server = nil
	}
}

func (a *restartable) got(event string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.seen[event] {
		return fmt.Errorf("%s did not arrive, but %d others", event, len(a.seen))
	}
	return nil
}
