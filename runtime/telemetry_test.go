package runtime

import (
	"fmt"
	"strings"
	"testing"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/resource"
)

func TestAConfigurationSendsAllSignalsToOneCollector(t *testing.T) {
	t.Setenv("COLLECTOR_KEY", "k1")
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
	for _, protocol := range []string{"grpc", "http"} {
		t.Run(protocol, func(t *testing.T) {
			c := testserver.StartCollector(t)
			address := c.GRPC
			if protocol == "http" {
				address = "http://" + c.HTTP
			}
			r := newRig(t, map[string]string{
				"store.yaml": componentYAML("store", "state.in-memory"),
				"conf.yaml": configurationYAML(fmt.Sprintf(`  tracing:
    samplingRate: "1"
    otel:
      protocol: %s
      endpointAddress: %q
      isSecure: false
      timeout: 5s
      headers:
      - name: x-key
        secretKeyRef: {name: COLLECTOR_KEY}
  metrics:
    otel: {}
  logging:
    otel: {}
auth:
  secretStore: secretstore
`, protocol, address)),
			}, nil)
			r.must("GET", "/v1.0/state/store/k", "", 204)
			c.Await(t, "metrics", func() bool { return len(c.Metrics()["proa_calls_total"].Points) > 0 })
			r.stop()
			if len(c.Spans()) == 0 || len(c.Logs()) == 0 {
				t.Errorf("spans %+v, log lines %+v", c.Spans(), c.Logs())
			}
			for _, key := range c.Header("x-key") {
				if key != "k1" {
					t.Errorf("header %q", key)
				}
			}
			if log := r.log.String(); strings.Contains(log, "level=WARN") {
				t.Errorf("the log is\n%s", tail(log))
			}
		})
	}
}

func TestTheCollectorOfAllSignalsChangesAtAReload(t *testing.T) {
	first, second := testserver.StartCollector(t), testserver.StartCollector(t)
	conf := func(c *testserver.Collector) string {
		return configurationYAML("  tracing:\n    samplingRate: \"1\"\n    otel: {protocol: http, endpointAddress: \"http://" + c.HTTP + "\", headers: \"x-key=a%20b\"}\n" +
			"  logging:\n    otel: {}\n")
	}
	r := newRig(t, map[string]string{"store.yaml": componentYAML("store", "state.in-memory"), "conf.yaml": conf(first)}, func(c *Config) { c.Grace = 1 })
	r.must("GET", "/v1.0/state/store/k", "", 204)
	r.write("conf.yaml", conf(second))
	r.applied()
	first.Await(t, "the spans and log lines of before", func() bool { return len(first.Spans()) > 0 && len(first.Logs()) > 0 })
	before := len(first.Spans())
	r.must("GET", "/v1.0/state/store/k", "", 204)
	r.stop()
	if len(second.Spans()) != before || len(first.Spans()) != before {
		t.Errorf("the former collector has %d spans, the new one %d; want %d in each", len(first.Spans()), len(second.Spans()), before)
	}
	found := false
	for _, l := range second.Logs() {
		found = found || l.Body == "resources reloaded"
	}
	if !found || first.Header("x-key")[0] != "a b" {
		t.Errorf("log lines %+v, header %q", second.Logs(), first.Header("x-key"))
	}
}

func TestVariablesOfOpenTelemetryFillInWhatTheConfigurationLeavesOpen(t *testing.T) {
	byVariable, byFile := testserver.StartCollector(t), testserver.StartCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+byVariable.GRPC)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=k2")
	t.Setenv("OTEL_LOGS_EXPORTER", "otlp")
	t.Setenv("OTEL_SERVICE_NAME", "renamed")
	store := componentYAML("store", "state.in-memory")
	for _, tc := range []struct {
		name, conf string
		spans      *testserver.Collector
	}{
		{"no Configuration", "", byVariable},
		{"a Configuration with another collector", configurationYAML("  tracing:\n    samplingRate: \"1\"\n    otel: {endpointAddress: \"" + byFile.GRPC + "\", isSecure: false}\n"), byFile},
	} {
		t.Run(tc.name, func(t *testing.T) {
			files := map[string]string{"store.yaml": store}
			if tc.conf != "" {
				files["conf.yaml"] = tc.conf
			}
			r := newRig(t, files, nil)
			before := len(tc.spans.Spans())
			r.must("GET", "/v1.0/state/store/k", "", 204)
			r.stop()
			spans, logs := tc.spans.Spans()[before:], byVariable.Logs()
			if len(spans) == 0 || spans[0].Service != "renamed" || tc.spans.Header("x-key")[0] != "k2" {
				t.Errorf("spans %+v, header %q", spans, tc.spans.Header("x-key"))
			}
			if len(logs) == 0 || logs[0].Resource["service.name"] != "renamed" {
				t.Errorf("log lines %+v", logs)
			}
		})
	}
}

func TestNothingIsSentWhenTheSDKIsDisabled(t *testing.T) {
	c := testserver.StartCollector(t)
	t.Setenv("OTEL_SDK_DISABLED", "true")
	r := newRig(t, map[string]string{
		"store.yaml": componentYAML("store", "state.in-memory"),
		"conf.yaml":  configurationYAML("  tracing:\n    samplingRate: \"1\"\n    otel: {endpointAddress: \"http://" + c.GRPC + "\"}\n"),
	}, nil)
	r.must("GET", "/v1.0/state/store/k", "", 204)
	r.stop()
	if len(c.Spans()) != 0 {
		t.Errorf("spans %+v", c.Spans())
	}
}

// The first export can come before the components are there.
func TestCollectorsWaitForTheSecretStores(t *testing.T) {
	h := &headers{rt: &Runtime{}, of: &resource.Otel{}}
	if _, err := h.get(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("headers before there is a secret store: %v", err)
	}
}
