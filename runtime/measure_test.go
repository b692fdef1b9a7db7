package runtime

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/proa-io/proa/resource"
)

// scrape returns what a sidecar serves on its port for metrics.
func (r *rig) scrape() (string, error) {
	port := r.Addresses().MetricsPort
	if port == 0 {
		return "", errors.New("no metrics are served")
	}
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// measured waits until metrics have, or have not, a line that begins so.
func (r *rig) measured(begin string, want bool) {
	r.t.Helper()
	eventually(r.t, func() error {
		text, err := r.scrape()
		if err != nil {
			return err
		}
		if strings.Contains(text, "\n"+begin) != want {
			return fmt.Errorf("a line %s is there: %v, in\n%s", begin, !want, text)
		}
		return nil
	})
}

func TestMetricsChangeWithTheConfiguration(t *testing.T) {
	const latency = `dapr_component_state_latencies_bucket{app_id="shop",component="store",namespace="default",operation="get",success="true",le=`
	r := newRig(t, map[string]string{"store.yaml": componentYAML("store", "state.in-memory")}, func(c *Config) { c.MetricsPort = 0 })
	get := func() { r.must("GET", "/v1.0/state/store/k", "", 204) }
	get()
	r.measured(latency+`"13"}`, true)
	r.measured(`dapr_runtime_component_init_total{app_id="shop",component="state.in-memory"} 1`, true)
	r.measured(`proa_component_ready{app_id="shop",component="store",namespace="default",type="state.in-memory"} 1`, true)

	r.write("conf.yaml", configurationYAML("  metrics:\n    latencyDistributionBuckets: [7, 70]\n"))
	if got := r.applied(); len(got.NeedsRestart) > 0 {
		t.Errorf("a restart is needed for %v", got.NeedsRestart)
	}
	get()
	r.measured(latency+`"7"}`, true)
	r.measured(latency+`"13"}`, false)
	r.measured(`dapr_runtime_component_init_total{app_id="shop",component="state.in-memory"} 1`, true)

	r.write("conf.yaml", configurationYAML("  metric:\n    enabled: false\n"))
	r.applied()
	eventually(t, func() error {
		if _, err := r.scrape(); err == nil {
			return errors.New("metrics are still served")
		}
		return nil
	})
	r.write("conf.yaml", configurationYAML("  metric:\n    enabled: true\n"))
	r.applied()
	get()
	r.measured(latency+`"13"}`, true)
}

func TestMetricsThatAreOffFromTheStartLeaveThePortAlone(t *testing.T) {
	r := newRig(t, map[string]string{"conf.yaml": configurationYAML("  metric:\n    enabled: false\n")}, func(c *Config) { c.MetricsPort = 0 })
	if port := r.Addresses().MetricsPort; port != 0 {
		t.Errorf("port %d is open", port)
	}
	r.remove("conf.yaml")
	r.applied()
	r.measured(`proa_reload_ok{app_id="shop",namespace="default"} 1`, true)
}

func TestMetricSettingsThatCannotWorkAreRefused(t *testing.T) {
	r := newRig(t, nil, func(c *Config) { c.MetricsPort = 0 })
	r.write("conf.yaml", configurationYAML("  metrics:\n    http:\n      pathMatching: [\"/{a}\", \"orders\"]\n"))
	got := r.next()
	if got.Err == nil || !strings.Contains(got.Err.Error(), `conf.yaml:7`) || !strings.Contains(got.Err.Error(), `spec.metrics: path template "orders": wants a path that begins with "/"`) {
		t.Errorf("the error is %v", got.Err)
	}
	r.measured(`proa_reload_ok{app_id="shop",namespace="default"} 0`, true)
}

func TestTheTwoNamesOfMetricSettingsAddUp(t *testing.T) {
	yes, no := true, false
	c := resource.Configuration{Spec: resource.ConfigurationSpec{
		Metric:  &resource.Metrics{Enabled: &no, RecordErrorCodes: &yes, LatencyDistributionBuckets: []float64{1}},
		Metrics: &resource.Metrics{Enabled: &yes, HTTP: &resource.HTTPMetrics{IncreasedCardinality: &no, ExcludeVerbs: &yes}},
	}}
	got := metricSettings(&c)
	if got.Disabled || !got.RecordErrorCodes || got.IncreasedCardinality || !got.ExcludeVerbs || len(got.LatencyBuckets) != 1 {
		t.Errorf("%+v", got)
	}
}
