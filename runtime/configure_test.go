package runtime

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

func configurationYAML(spec string) string {
	return "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n" + spec
}

func TestPartsOfTheAPIAreDeniedAndServedAgain(t *testing.T) {
	store := componentYAML("store", "state.in-memory")
	r := newRig(t, map[string]string{"store.yaml": store}, nil)
	client := r.dial()
	get := func() codes.Code {
		_, err := client.GetState(t.Context(), &rtv1.GetStateRequest{StoreName: "store", Key: "k"})
		return status.Code(err)
	}
	stop := hammer(t, func(_, _ int) error { // what is not touched by the changes
		if status, answer, err := r.call("GET", "/v1.0/metadata", ""); err != nil || status != 200 {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		return nil
	})
	for range rounds / 5 {
		r.write("conf.yaml", configurationYAML("  api:\n    denied:\n    - name: state\n"))
		r.applied()
		if code := get(); code != codes.Unimplemented {
			t.Fatalf("gRPC, denied: %v", code)
		}
		r.must("GET", "/v1.0/state/store/k", "", http.StatusNotFound)
		r.must("POST", "/proa.v1.State/List", `{"storeName":"store"}`, http.StatusNotFound)
		r.remove("conf.yaml")
		r.applied()
		if code := get(); code != codes.OK {
			t.Fatalf("gRPC, served again: %v", code)
		}
		r.must("GET", "/v1.0/state/store/k", "", http.StatusNoContent)
		r.must("POST", "/proa.v1.State/List", `{"storeName":"store"}`, http.StatusOK)
	}
	stop()
}

func TestAPICallsAreLoggedWhenTheConfigurationSaysSo(t *testing.T) {
	r := newRig(t, nil, nil)
	r.must("GET", "/v1.0/metadata", "", 200)
	if strings.Contains(r.log.String(), "HTTP API Called") {
		t.Error("calls are logged although nobody asked for it")
	}
	r.write("conf.yaml", configurationYAML("  logging:\n    apiLogging:\n      enabled: true\n      omitHealthChecks: true\n"))
	r.applied()
	eventually(t, func() error {
		if status, answer, err := r.call("GET", "/v1.0/healthz/outbound", ""); err != nil || status != 204 {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		return nil
	})
	r.must("GET", "/v1.0/metadata", "", 200)
	eventually(t, func() error {
		if text := r.log.String(); !strings.Contains(text, `msg="HTTP API Called" method="GET /v1.0/metadata"`) || strings.Contains(text, `method="GET /v1.0/healthz`) {
			return fmt.Errorf("the log is\n%s", tail(text))
		}
		return nil
	})
}

func TestSamplingAndTheCollectorOfSpansChange(t *testing.T) {
	spans := make(chan string, 1000)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		spans <- string(body)
		w.WriteHeader(http.StatusAccepted)
	}))
	defer collector.Close()
	tracing := func(rate string) string {
		return configurationYAML("  tracing:\n    samplingRate: \"" + rate + "\"\n    zipkin:\n      endpointAddress: " + collector.URL + "\n")
	}
	r := newRig(t, map[string]string{"store.yaml": componentYAML("store", "state.in-memory")}, func(c *Config) { c.Grace = 1 })
	r.must("GET", "/v1.0/state/store/before", "", 204)
	r.write("conf.yaml", tracing("1"))
	r.applied()
	r.must("GET", "/v1.0/state/store/sampled", "", 204)
	r.write("conf.yaml", tracing("0"))
	r.applied() // the former exporter sends what it has when it is ended
	if got := <-spans; strings.Count(got, `"name":"state/get"`) != 1 {
		t.Errorf("spans %s", got)
	}
	r.must("GET", "/v1.0/state/store/after", "", 204)
	r.stop()
	select {
	case got := <-spans:
		t.Errorf("spans although nothing is sampled: %s", got)
	default:
	}
}

func TestWhatNeedsARestartIsNamedAndStays(t *testing.T) {
	r := newRig(t, map[string]string{"conf.yaml": configurationYAML("  nameResolution:\n    component: static\n    configuration:\n      other: 127.0.0.1:1\n")}, nil)
	r.write("conf.yaml", configurationYAML("  nameResolution:\n    component: mdns\n  features:\n  - name: HotReload\n    enabled: false\n  api:\n    denied:\n    - name: secrets\n"))
	got := r.next()
	want := []string{"Configuration spec.nameResolution", "Configuration spec.features HotReload"}
	if got.Err != nil || !slices.Equal(got.NeedsRestart, want) {
		t.Fatalf("%+v, want %q", got, want)
	}
	if nr := r.table.Load().set.Configuration.Spec.NameResolution; nr == nil || nr.Component != "static" {
		t.Errorf("name resolution is %+v", nr)
	}
	r.must("GET", "/v1.0/secrets/secretstore/HOME", "", 404) // what can change has changed
	if log := r.log.String(); !strings.Contains(log, `needs a restart; until then what was there before counts" field="Configuration spec.nameResolution"`) {
		t.Errorf("the log is\n%s", tail(log))
	}
	// It is said again as long as it is so, and no longer.
	r.write("store.yaml", componentYAML("store", "state.in-memory"))
	if got := r.next(); !slices.Equal(got.NeedsRestart, want) {
		t.Errorf("%+v", got)
	}
	r.remove("conf.yaml")
	r.write("conf.yaml", configurationYAML("  nameResolution:\n    component: static\n    configuration:\n      other: 127.0.0.1:1\n"))
	for got := r.next(); len(got.NeedsRestart) > 0; got = r.next() {
	}
}

func TestSecretScopesChange(t *testing.T) {
	t.Setenv("SHOP_SECRET", "x")
	scope := func(action string) string {
		return configurationYAML("  secrets:\n    scopes:\n    - storeName: secretstore\n      defaultAccess: " + action + "\n")
	}
	r := newRig(t, map[string]string{"conf.yaml": scope("allow")}, nil)
	for range 3 {
		r.must("GET", "/v1.0/secrets/secretstore/SHOP_SECRET", "", 200)
		r.write("conf.yaml", scope("deny"))
		r.applied()
		r.must("GET", "/v1.0/secrets/secretstore/SHOP_SECRET", "", 403)
		r.write("conf.yaml", scope("allow"))
		r.applied()
	}
}

func TestPipelinesComeAndGoUnderLoad(t *testing.T) {
	app := newTestApp(t)
	alias := componentYAML("alias", "middleware.http.routeralias", `routes={"/old": "/new"}`)
	api := componentYAML("api", "middleware.http.routeralias", `routes={"/md": "/v1.0/metadata"}`)
	conf := configurationYAML("  httpPipeline:\n    handlers:\n    - {name: api, type: middleware.http.routeralias}\n" +
		"  appHttpPipeline:\n    handlers:\n    - {name: alias, type: middleware.http.routeralias}\n")
	r := newRig(t, nil, func(c *Config) { c.AppPort = app.port })
	stop := hammer(t, func(_, i int) error {
		path := []string{"/v1.0/metadata", "/v1.0/invoke/shop/method/plain"}[i%2]
		if status, answer, err := r.call([]string{"GET", "POST"}[i%2], path, "x"); err != nil || status != 200 {
			return fmt.Errorf("%s: %d %s %w", path, status, answer, err)
		}
		return nil
	})
	for range rounds / 5 {
		before := app.times("/new x")
		r.write("all.yaml", conf+"---\n"+alias+"---\n"+api) // with its components
		r.applied()
		r.must("GET", "/md", "", 200)
		r.must("POST", "/v1.0/invoke/shop/method/old", "x", 200)
		if app.times("/new x") != before+1 {
			t.Fatal("the request did not pass the pipeline of the application")
		}
		r.remove("all.yaml")
		r.applied()
		r.must("GET", "/md", "", 404)
		r.must("POST", "/v1.0/invoke/shop/method/old", "x", 200)
		if app.times("/new x") != before+1 {
			t.Fatal("the request passed a pipeline that is gone")
		}
	}
	stop()
}
