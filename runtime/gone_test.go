package runtime

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/engine"
)

// An application that subscribes to configuration items over HTTP has no
// connection that would tell of its end: what it has subscribed to ends when it
// is gone.
func TestSubscriptionsToConfigurationEndWithTheApplication(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	updates := make(chan string, 100)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /configuration/{store}/{key}", func(_ http.ResponseWriter, r *http.Request) {
		var u struct{ ID string }
		_ = json.NewDecoder(r.Body).Decode(&u)
		updates <- u.ID
	})
	first := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	go func() { _ = first.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = first.Close() })
	r := newRig(t, nil, func(c *Config) {
		c.AppPort, c.Engine = port, engine.Options{Dir: t.TempDir(), Durability: engine.Relaxed}
	})
	eventually(t, func() error {
		if !strings.Contains(r.log.String(), "component=configstore") || !r.app.ready.Load() {
			return fmt.Errorf("not ready")
		}
		return nil
	})
	subscribe := func() (id string) {
		t.Helper()
		var answer struct{ ID string }
		text := r.must("GET", "/v1.0/configuration/configstore/subscribe?key=color", "", 200)
		if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.ID == "" {
			t.Fatalf("%s, %v", text, err)
		}
		return answer.ID
	}
	set := func(value string) {
		t.Helper()
		r.must("POST", "/proa.v1.Configuration/Set", `{"storeName":"configstore","items":[{"key":"color","value":"`+value+`"}]}`, 200)
	}
	next := func() string {
		t.Helper()
		select {
		case id := <-updates:
			return id
		case <-time.After(patience):
			t.Fatalf("no update came; the log says:\n%s", tail(r.log.String()))
			return ""
		}
	}
	old := subscribe()
	set("red")
	if id := next(); id != old {
		t.Errorf("an update of %q, want %q", id, old)
	}
	time.Sleep(newcomer + 100*time.Millisecond) // what was made just before could be a successor's
	_ = first.Close()
	eventually(t, func() error {
		if !strings.Contains(r.log.String(), "subscriptions to configuration items end") {
			return fmt.Errorf("the subscription has not ended")
		}
		return nil
	})
	// The successor subscribes before it listens.
	again := subscribe()
	l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	second := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	go func() { _ = second.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = second.Close() })
	set("blue")
	if id := next(); id != again {
		t.Errorf("an update of %q, want %q", id, again)
	}
	set("green")
	if id := next(); id != again {
		t.Errorf("an update of %q, want %q", id, again)
	}
	if text := r.must("GET", "/v1.0/configuration/configstore/"+old+"/unsubscribe", "", 500); !strings.Contains(text, `"ok":false`) {
		t.Errorf("unsubscribe of what has ended: %s", text)
	}
}
