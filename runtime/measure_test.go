package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
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

func TestRequestsAreMeasuredUnderTheNamesOfDapr(t *testing.T) {
	app := newTestApp(t)
	r := newRig(t, map[string]string{
		"store.yaml": componentYAML("store", "state.in-memory"),
		"conf.yaml": configurationYAML("  metric:\n    recordErrorCodes: true\n" +
			"  accessControl:\n    defaultAction: deny\n    policies:\n    - appId: cart\n      defaultAction: allow\n" +
			"      operations:\n      - name: /closed\n        action: deny\n"),
	}, func(c *Config) {
		c.MetricsPort, c.AppPort = 0, app.port
		c.AppHealth = AppHealth{Enabled: true, Path: "/dapr/subscribe", Interval: 20 * time.Millisecond}
	})
	shop := fmt.Sprintf("127.0.0.1:%d", r.Addresses().InternalPort)
	cart := newRig(t, map[string]string{
		"conf.yaml": configurationYAML("  nameResolution:\n    component: static\n    configuration:\n      shop: " + shop + "\n"),
	}, func(c *Config) { c.AppID, c.MetricsPort = "cart", 0 })

	r.must("POST", "/v1.0/state/store", `[{"key":"k","value":1}]`, 204)
	r.must("GET", "/v1.0/state/store/k", "", 200)
	r.must("GET", "/v1.0/state/nothing/k", "", 400)
	if _, err := r.dial().GetState(t.Context(), &rtv1.GetStateRequest{StoreName: "store", Key: "k"}); err != nil {
		t.Fatal(err)
	}
	cart.must("POST", "/v1.0/invoke/shop/method/orders", "x", 200)
	cart.must("POST", "/v1.0/invoke/shop/method/closed", "x", 403)

	const of = `{app_id="shop",`
	r.measured(`dapr_http_server_request_count`+of+`method="GET",path="/v1.0/state/store",status="200"} 1`, true)
	r.measured(`dapr_http_server_response_count`+of+`method="POST",path="/v1.0/state/store",status="204"} 1`, true)
	r.measured(`dapr_http_server_latency_count`+of+`method="GET",path="/v1.0/state/nothing",status="400"} 1`, true)
	r.measured(`dapr_http_server_response_bytes_count{app_id="shop"} 3`, true)
	r.measured(`dapr_error_code_total`+of+`category="state",error_code="ERR_STATE_STORE_NOT_FOUND"} 1`, true)
	r.measured(`dapr_grpc_io_server_completed_rpcs`+of+`grpc_server_method="/dapr.proto.runtime.v1.Dapr/GetState",grpc_server_status="OK"} 1`, true)
	r.measured(`dapr_grpc_io_server_sent_bytes_per_rpc_count`+of+`grpc_server_method="/dapr.proto.runtime.v1.Dapr/GetState"} 1`, true)
	r.measured(`dapr_http_client_completed_count`+of+`method="POST",path="/orders",status="200"} 1`, true)
	r.measured(`dapr_http_healthprobes_completed_count`+of+`status="200"} `, true)
	r.measured(`dapr_runtime_service_invocation_req_recv_total`+of+`src_app_id="cart"} 1`, true)
	r.measured(`dapr_runtime_service_invocation_res_sent_total`+of+`dst_app_id="cart",status="200"} 1`, true)
	r.measured(`dapr_runtime_acl_app_policy_action_allowed_total{app_id="cart",namespace="default",trustDomain="public"} 1`, true)
	r.measured(`dapr_runtime_acl_app_policy_action_blocked_total{app_id="cart",namespace="default",trustDomain="public"} 1`, true)

	const from = `{app_id="cart",`
	cart.measured(`dapr_http_server_request_count`+from+`method="POST",path="/v1.0/invoke/shop/method/orders",status="200"} 1`, true)
	cart.measured(`dapr_runtime_service_invocation_req_sent_total`+from+`dst_app_id="shop",type="unary"} 2`, true)
	cart.measured(`dapr_runtime_service_invocation_res_recv_total`+from+`src_app_id="shop",status="200",type="unary"} 1`, true)
	cart.measured(`dapr_runtime_service_invocation_res_recv_latency_ms_count`+from+`src_app_id="shop",status="200"} 1`, true)
	cart.measured(`dapr_resiliency_count`+from+`flow_direction="outbound",name="",namespace="default",policy="retry",status="",target="app_shop"} 2`, true)
}

func TestMetadataTellWhatIsBroken(t *testing.T) {
	r := newRig(t, map[string]string{
		"store.yaml":  componentYAML("store", "state.in-memory"),
		"broken.yaml": componentYAML("broken", "state.redis", "redisHost=127.0.0.1:1"),
	}, nil)
	eventually(t, func() error {
		var answer struct {
			Components []struct {
				Name, Status, Problem string
				Capabilities          []string
			}
			Extended map[string]string
		}
		if err := json.Unmarshal([]byte(r.must("GET", "/v1.0/metadata", "", 200)), &answer); err != nil {
			return err
		}
		for _, c := range answer.Components {
			switch {
			case c.Name == "store" && (c.Status != "" || !slices.Contains(c.Capabilities, "ACTOR")):
				return fmt.Errorf("%+v", c)
			case c.Name == "broken" && (c.Status != "opening" || !strings.Contains(c.Problem, "cannot be reached")):
				return fmt.Errorf("%+v", c)
			}
		}
		if text := answer.Extended["proa.component.broken"]; !strings.HasPrefix(text, "opening: ") {
			return fmt.Errorf("extended: %v", answer.Extended)
		}
		return nil
	})
}
