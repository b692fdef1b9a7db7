package runtime

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/fastloop"
)

// patience bounds everything that is waited for. It is long because it costs time
// only where something is broken.
const patience = 30 * time.Second

// rig is a sidecar that runs in the test, on a folder of resources.
type rig struct {
	*Runtime
	t       *testing.T
	dir     string // of the resources
	reloads chan Reload
	log     *logBuffer
	stop    func()
}

// logBuffer is what was logged.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// newRig starts a sidecar of the application "shop". files are the resources,
// by the names of their files; change may adjust the configuration.
func newRig(t *testing.T, files map[string]string, change func(*Config)) *rig {
	t.Helper()
	return newWiredRig(t, files, change, func(*Runtime) {})
}

// newWiredRig is newRig; wired may change what was made before it runs.
func newWiredRig(t *testing.T, files map[string]string, change func(*Config), wired func(*Runtime)) *rig {
	t.Helper()
	fastloop.Skip(t, "starts a sidecar")
	r := &rig{t: t, dir: t.TempDir(), reloads: make(chan Reload, 1000), log: &logBuffer{}}
	for name, text := range files {
		r.write(name, text)
	}
	c := Config{
		AppID: "shop", ResourcesPaths: []string{r.dir}, Engine: engine.Options{Dir: t.TempDir(), Durability: engine.Relaxed},
		MetricsPort: -1, ReloadSettle: 20 * time.Millisecond, ReloadReconcile: time.Hour,
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	c.OnReload = func(reload Reload) { r.reloads <- reload }
	if change != nil {
		change(&c)
	}
	var err error
	if r.Runtime, err = New(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	wired(r.Runtime)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Errorf("the sidecar does not stop; it logged:\n%s", r.log)
		}
	})
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("the sidecar logged:\n%s", tail(r.log.String()))
		}
	})
	return r
}

func tail(text string) string { return text[max(0, len(text)-20<<10):] }

// write puts a file into the folder of resources as careful editors do: beside
// it, then renamed over it.
func (r *rig) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path+".tmp", []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) remove(name string) {
	r.t.Helper()
	if err := os.Remove(filepath.Join(r.dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

// next returns what came of the next change.
func (r *rig) next() Reload {
	r.t.Helper()
	select {
	case result := <-r.reloads:
		return result
	case <-time.After(patience):
		r.t.Fatalf("nothing was reloaded; the log says:\n%s", tail(r.log.String()))
	}
	panic("unreachable")
}

// applied waits for a change to be taken into use entirely.
func (r *rig) applied() Reload {
	r.t.Helper()
	result := r.next()
	if result.Err != nil || len(result.Pending) > 0 {
		r.t.Fatalf("the change is %s", &result)
	}
	return result
}

// url returns an address of the HTTP API.
func (r *rig) url(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", r.Addresses().HTTPPort, path)
}

// call makes a request to the HTTP API.
func (r *rig) call(method, path, body string) (status int, answer string, err error) {
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url(path), strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(content), err
}

// must makes a request and ends the test unless it has the wanted status.
func (r *rig) must(method, path, body string, want int) string {
	r.t.Helper()
	status, answer, err := r.call(method, path, body)
	if err != nil || status != want {
		r.t.Fatalf("%s %s: %d %s (%v), want %d", method, path, status, answer, err, want)
	}
	return answer
}

// componentYAML is a Component with settings "name=value"; initTimeout is one of
// the Component itself.
func componentYAML(name, typ string, settings ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: %s\nspec:\n  type: %s\n  version: v1\n", name, typ)
	if n := len(settings); n > 0 {
		if timeout, ok := strings.CutPrefix(settings[n-1], "initTimeout="); ok {
			fmt.Fprintf(&b, "  initTimeout: %s\n", timeout)
			settings = settings[:n-1]
		}
		b.WriteString("  metadata:\n")
	}
	for _, s := range settings {
		k, v, _ := strings.Cut(s, "=")
		fmt.Fprintf(&b, "  - name: %s\n    value: %q\n", k, v)
	}
	return b.String()
}
