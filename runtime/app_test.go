package runtime

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// testApp is an application that notes what it gets.
type testApp struct {
	port          int
	subscriptions any // the answer to /dapr/subscribe; nil for none

	mu     sync.Mutex
	seen   map[string]int // "route data" → times
	config []string       // "key=value" of configuration updates
}

func newTestApp(t *testing.T) *testApp {
	a := &testApp{seen: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dapr/subscribe", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if a.subscriptions == nil {
			_, _ = io.WriteString(w, "[]")
			return
		}
		_ = json.NewEncoder(w).Encode(a.subscriptions)
	})
	mux.HandleFunc("OPTIONS /", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /configuration/{store}/{key}", func(_ http.ResponseWriter, r *http.Request) {
		var u struct {
			Items map[string]struct{ Value string }
		}
		_ = json.NewDecoder(r.Body).Decode(&u)
		a.mu.Lock()
		defer a.mu.Unlock()
		for k, item := range u.Items {
			a.config = append(a.config, k+"="+item.Value)
		}
	})
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		var e struct{ Data string }
		if json.Unmarshal(body, &e) != nil || e.Data == "" {
			e.Data = string(body)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.seen[r.URL.Path+" "+e.Data]++
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	a.port = srv.Listener.Addr().(*net.TCPAddr).Port
	return a
}

func (a *testApp) times(what string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[what]
}

// eventually calls f until it returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// once wants each of the events to have arrived, and once.
func (a *testApp) once(t *testing.T, events []string) {
	t.Helper()
	eventually(t, func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		missing := 0
		example := ""
		for _, e := range events {
			if a.seen[e] == 0 {
				missing++
				example = e
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d events did not arrive, such as %s", missing, len(events), example)
		}
		return nil
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range events {
		if a.seen[e] > 1 {
			t.Errorf("%s arrived %d times", e, a.seen[e])
		}
	}
}

// notes collects the texts of what was sent, from several goroutines. With an
// application, whoever is far ahead of what it has got waits: a test is about
// what happens to events, not about how many pile up.
type notes struct {
	app *testApp // nil to wait for nobody
	mu  sync.Mutex
	all []string
}

// ahead is how many events may be under way.
const ahead = 500

func (n *notes) add(text string) {
	n.mu.Lock()
	n.all = append(n.all, text)
	sent := len(n.all)
	n.mu.Unlock()
	if n.app == nil {
		return
	}
	// Events that are lost are missed in the end, not here.
	for deadline := time.Now().Add(patience); sent-n.app.got() > ahead && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// got returns how many different events have arrived.
func (a *testApp) got() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen)
}
