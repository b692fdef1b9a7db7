package runtime

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// pipelineConfig writes a Configuration and returns what makes a sidecar use it.
func pipelineConfig(t *testing.T, section string, handlers ...string) func(*Config) {
	t.Helper()
	text := "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: config\nspec:\n  " + section + ":\n    handlers:\n"
	for _, h := range handlers {
		name, typ, _ := strings.Cut(h, " ")
		text += "    - name: " + name + "\n      type: " + typ + "\n"
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.ConfigPaths = []string{path} }
}

func TestRequestsToTheAPIPassThePipeline(t *testing.T) {
	r := newRig(t, map[string]string{
		"alias.yaml": componentYAML("alias", "middleware.http.routeralias", `routes={"/save": "/v1.0/state/statestore", "/read/{key}": "/v1.0/state/statestore/{key}"}`),
		"check.yaml": componentYAML("check", "middleware.http.routerchecker", `rule=^/(v1\.0|save|read)`),
	}, pipelineConfig(t, "httpPipeline", "check middleware.http.routerchecker", "alias middleware.http.routeralias"))
	r.must("POST", "/save", `[{"key":"k","value":"v"}]`, 204)
	if got := r.must("GET", "/read/k", "", 200); got != `"v"` {
		t.Errorf("read %s", got)
	}
	if got := r.must("GET", "/v1.0/state/statestore/k", "", 200); got != `"v"` {
		t.Errorf("read %s", got)
	}
	if got := r.must("GET", "/other", "", 400); !strings.Contains(got, "ERR_INVALID_ROUTE") {
		t.Errorf("a path that may not pass: %s", got)
	}
	// A middleware may be replaced while requests come.
	r.write("alias.yaml", componentYAML("alias", "middleware.http.routeralias", `routes={"/read/{key}/now": "/v1.0/state/statestore/{key}"}`))
	r.applied()
	r.must("GET", "/read/k/now", "", 200)
	r.must("GET", "/read/k", "", 404)
	// It may not be taken away, nor become another one.
	r.remove("alias.yaml")
	if result := r.next(); result.Err == nil || !strings.Contains(result.Err.Error(), `spec.httpPipeline.handlers[1]: names the component "alias", which is no middleware`) {
		t.Errorf("the reload is %s", &result)
	}
	r.must("GET", "/read/k/now", "", 200)
}

func TestProbesOfHealthPassByThePipeline(t *testing.T) {
	r := newRig(t, map[string]string{
		"limit.yaml": componentYAML("limit", "middleware.http.ratelimit", "maxRequestsPerSecond=0.001"),
	}, pipelineConfig(t, "httpPipeline", "limit middleware.http.ratelimit"))
	r.must("GET", "/v1.0/state/statestore/k", "", 204)
	if got := r.must("GET", "/v1.0/state/statestore/k", "", 429); !strings.Contains(got, "0.001 per second") {
		t.Errorf("beyond the limit: %s", got)
	}
	if status, answer, err := r.call("GET", "/v1.0/healthz/outbound", ""); err != nil || status == 429 {
		t.Errorf("a probe: %d %s, %v", status, answer, err)
	}
}

func TestRequestsToTheApplicationPassItsPipeline(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Method, r.URL)
	}))
	t.Cleanup(app.Close)
	_, port, err := net.SplitHostPort(app.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	config := pipelineConfig(t, "appHttpPipeline", "alias middleware.http.routeralias")
	r := newRig(t, map[string]string{
		"alias.yaml": componentYAML("alias", "middleware.http.routeralias", `routes={"/old": "/new?from=old"}`),
	}, func(c *Config) {
		config(c)
		if c.AppPort, err = strconv.Atoi(port); err != nil {
			t.Fatal(err)
		}
	})
	for path, want := range map[string]string{"/old": "POST /new?from=old", "/other?x=1": "POST /other?x=1"} {
		if got := r.must("POST", "/v1.0/invoke/shop/method"+path, `{}`, 200); got != want {
			t.Errorf("%s arrives as %s, want %s", path, got, want)
		}
	}
}
