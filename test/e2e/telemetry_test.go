package e2e_test

import (
	"os"
	"testing"

	"github.com/proa-io/proa/internal/testserver"
)

// TestVariablesAloneSendAllSignals runs the command of the page on observability
// beside a collector: all signals of a short life reach it.
func TestVariablesAloneSendAllSignals(t *testing.T) {
	t.Parallel()
	c := testserver.StartCollector(t)
	p, err := start(launch{name: "shop", dir: t.TempDir(), env: append(os.Environ(), "PROA_HOME="+t.TempDir(),
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.GRPC, "OTEL_METRICS_EXPORTER=otlp", "OTEL_LOGS_EXPORTER=otlp"),
		args: []string{proa(t), "run", "--app-id", "shop", "--", proa(t), "state", "set", "greeting", "hello"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.kill()
	if code, err := p.code(); err != nil || code != 0 {
		t.Fatalf("it ended with %d, %v\n%s", code, err, p.output())
	}
	names := map[string]bool{}
	for _, s := range c.Spans() {
		names[s.Service+" "+s.Name] = true
	}
	logs, metrics := c.Logs(), c.Metrics()
	if !names["shop /v1.0/state/statestore"] || !names["shop state/set"] || len(logs) == 0 || logs[0].Resource["service.name"] != "shop" ||
		len(metrics["dapr_component_state_count"].Points) == 0 {
		t.Errorf("spans %v, log lines %+v, %d metrics; it printed\n%s", names, logs, len(metrics), p.output())
	}
}
