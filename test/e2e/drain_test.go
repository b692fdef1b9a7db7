package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestWhatIsUnderWayIsFinishedWhenTheSidecarStops tells a sidecar to stop while
// a request, a call of an output binding, an event of an input binding and a
// message are with the application: each is finished, nothing new begins, and
// what was published and not delivered comes to the next sidecar.
func TestWhatIsUnderWayIsFinishedWhenTheSidecarStops(t *testing.T) {
	long(t)
	var mu sync.Mutex
	begun, ended := map[string]int{}, map[string]int{}
	release := make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/dapr/subscribe":
			answerJSON(w, []map[string]string{{"pubsubname": "pubsub", "topic": "orders", "route": "/message"}})
			return
		case "/invoke", "/output", "/input", "/message":
		default:
			http.NotFound(w, r)
			return
		}
		if r.Method == http.MethodOptions {
			return
		}
		name := r.URL.Path
		if strings.Contains(string(body), "late") {
			name = "/late"
		}
		mu.Lock()
		begun[name]++
		mu.Unlock()
		<-release
		mu.Lock()
		ended[name]++
		mu.Unlock()
		fmt.Fprint(w, "{}")
	}))
	defer app.Close()
	resources, home := t.TempDir(), t.TempDir()
	replaceFile(t, filepath.Join(resources, "bindings.yaml"), fmt.Sprintf(`apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: out
spec:
  type: bindings.http
  version: v1
  metadata:
  - {name: url, value: "%s/output"}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: tick
spec:
  type: bindings.cron
  version: v1
  metadata:
  - {name: schedule, value: "@every 1s"}
  - {name: route, value: /input}
  - {name: direction, value: input}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: pubsub
spec:
  type: pubsub.nats
  version: v1
  metadata:
  - {name: concurrency, value: "1"}
`, app.URL))
	o := options{name: "shop", home: home, app: app.Listener.Addr().String(), flags: []string{"--resources-path", resources, "--dapr-graceful-shutdown-seconds", "30"}}
	s := startSidecar(t, o)
	if err := s.await("msg=subscription .*topic=orders"); err != nil {
		t.Fatal(err)
	}
	s.must(t, "POST", "/v1.0/publish/pubsub/orders", `"early"`, http.StatusNoContent)
	calls := make(chan error, 2)
	for path, body := range map[string]string{"/v1.0/invoke/shop/method/invoke": "", "/v1.0/bindings/out": `{"operation":"post","data":"x"}`} {
		go func() {
			status, answer, err := s.call("POST", path, []byte(body))
			if err != nil || status >= 300 {
				err = fmt.Errorf("%s: %d %s %w", path, status, answer, err)
			}
			calls <- err
		}()
	}
	all := []string{"/invoke", "/output", "/input", "/message"}
	if err := eventually(func() error {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range all {
			if begun[name] == 0 {
				return fmt.Errorf("%s has not begun: %v", name, begun)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.must(t, "POST", "/v1.0/publish/pubsub/orders", `"late"`, http.StatusNoContent) // waits for its turn
	s.signal(syscall.SIGTERM)
	close(release)
	for range 2 {
		if err := <-calls; err != nil {
			t.Error(err)
		}
	}
	if code, err := s.code(); err != nil || code != 0 {
		t.Fatalf("the sidecar ended with %d, %v\n%s", code, err, s.output())
	}
	mu.Lock()
	for _, name := range all {
		if begun[name] != ended[name] {
			t.Errorf("%s began %d times and ended %d times", name, begun[name], ended[name])
		}
	}
	early := ended["/message"]
	mu.Unlock()
	if early != 1 {
		t.Errorf("the message was processed %d times", early)
	}
	if text := s.output(); strings.Contains(text, "level=error") || strings.Contains(text, "did not stop cleanly") {
		t.Errorf("it printed\n%s", text)
	}
	// The next one gets what was left, and nothing twice.
	next := startSidecar(t, o)
	if err := eventually(func() error {
		mu.Lock()
		defer mu.Unlock()
		if ended["/late"] != 1 || ended["/message"] != 1 {
			return fmt.Errorf("processed: %v", ended)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := next.stop(); err != nil {
		t.Error(err)
	}
}
