package telemetry_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/telemetry"
)

// scrape returns the metrics that are there, without those of the Go runtime.
func scrape(m *telemetry.Metrics) []string {
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	var out []string
	for line := range strings.Lines(rec.Body.String()) {
		if strings.HasPrefix(line, "dapr_") || strings.HasPrefix(line, "proa_") {
			out = append(out, strings.TrimSuffix(line, "\n"))
		}
	}
	return out
}

func wantLines(t *testing.T, m *telemetry.Metrics, want ...string) {
	t.Helper()
	text := "\n" + strings.Join(scrape(m), "\n") + "\n"
	for _, w := range want {
		if !strings.Contains(text, "\n"+w+"\n") {
			t.Errorf("no line %s in%s", w, without(text, "_bucket"))
		}
	}
}

// without leaves out the lines that hold a text.
func without(text, part string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, part) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func wantNone(t *testing.T, m *telemetry.Metrics, part string) {
	t.Helper()
	for _, line := range scrape(m) {
		if strings.Contains(line, part) {
			t.Errorf("there is %s", line)
		}
	}
}

func TestCallsAreMeasuredUnderTheNamesOfDapr(t *testing.T) {
	const of = `{app_id="shop",component="c",namespace="default",`
	for _, tc := range []struct {
		block, op string
		inbound   bool
		result    telemetry.CallResult
		want      []string
	}{
		{"state", "get", false, telemetry.CallResult{}, []string{
			"dapr_component_state_count" + of + `operation="get",success="true"} 1`,
			"dapr_component_state_latencies_count" + of + `operation="get",success="true"} 1`,
			"dapr_component_state_latencies_sum" + of + `operation="get",success="true"} 1.5`,
			"dapr_component_state_latencies_bucket" + of + `operation="get",success="true",le="1"} 0`,
			"dapr_component_state_latencies_bucket" + of + `operation="get",success="true",le="2"} 1`,
			`proa_calls_total{app_id="shop",block="state",code="ok",component="c",direction="outbound",namespace="default",op="get"} 1`,
		}},
		{"state", "transact", false, telemetry.CallResult{Err: fault.New(fault.Aborted, "x")}, []string{
			"dapr_component_state_count" + of + `operation="transaction",success="false"} 1`,
			`proa_calls_total{app_id="shop",block="state",code="aborted",component="c",direction="outbound",namespace="default",op="transact"} 1`,
		}},
		{"secretstores", "list", false, telemetry.CallResult{Err: errors.New("x")}, []string{
			"dapr_component_secret_count" + of + `operation="bulk_get",success="false"} 1`,
			`proa_calls_total{app_id="shop",block="secretstores",code="unknown",component="c",direction="outbound",namespace="default",op="list"} 1`,
		}},
		{"configuration", "watch", false, telemetry.CallResult{}, []string{"dapr_component_configuration_count" + of + `operation="subscribe",success="true"} 1`}},
		{"crypto", "wrap_key", false, telemetry.CallResult{}, []string{"dapr_component_crypto_count" + of + `operation="crypto_op",success="true"} 1`}},
		{"crypto", "get_key", false, telemetry.CallResult{}, []string{"dapr_component_crypto_count" + of + `operation="get",success="true"} 1`}},
		{"conversation", "converse", false, telemetry.CallResult{}, []string{"dapr_component_conversation_count" + of + `success="true"} 1`}},
		{"bindings", "invoke", false, telemetry.CallResult{Key: "create"}, []string{
			"dapr_component_output_binding_count" + of + `operation="create",success="true"} 1`,
		}},
		{"bindings", "deliver", true, telemetry.CallResult{Key: "/route"}, []string{"dapr_component_input_binding_count" + of + `success="true"} 1`}},
		{"pubsub", "publish", false, telemetry.CallResult{Key: "t"}, []string{"dapr_component_pubsub_egress_count" + of + `success="true",topic="t"} 1`}},
		{"pubsub", "bulk_publish", false, telemetry.CallResult{Key: "t", Tally: &telemetry.CallTally{Done: 4, Failed: 1}}, []string{
			"dapr_component_pubsub_egress_bulk_count" + of + `success="true",topic="t"} 1`,
			"dapr_component_pubsub_egress_bulk_event_count" + of + `success="true",topic="t"} 4`,
		}},
		{"pubsub", "deliver", true, telemetry.CallResult{Key: "t"}, []string{
			"dapr_component_pubsub_ingress_count" + of + `process_status="success",status="success",topic="t"} 1`,
		}},
		{"pubsub", "deliver", true, telemetry.CallResult{Key: "t", Outcome: telemetry.Rejected}, []string{
			"dapr_component_pubsub_ingress_count" + of + `process_status="drop",status="success",topic="t"} 1`,
		}},
		{"pubsub", "deliver", true, telemetry.CallResult{Key: "t", Outcome: telemetry.Unwanted}, []string{
			"dapr_component_pubsub_ingress_count" + of + `process_status="drop",status="drop",topic="t"} 1`,
		}},
		{"pubsub", "deliver", true, telemetry.CallResult{Key: "t", Err: fault.New(fault.Unavailable, "x")}, []string{
			"dapr_component_pubsub_ingress_count" + of + `process_status="retry",status="retry",topic="t"} 1`,
		}},
		{"pubsub", "bulk_deliver", true, telemetry.CallResult{Key: "t", Tally: &telemetry.CallTally{Done: 2, Rejected: 3, Failed: 4}}, []string{
			"dapr_component_pubsub_ingress_bulk_count" + of + `process_status="",topic="t"} 1`,
			"dapr_component_pubsub_ingress_bulk_event_count" + of + `process_status="success",topic="t"} 2`,
			"dapr_component_pubsub_ingress_bulk_event_count" + of + `process_status="drop",topic="t"} 3`,
			"dapr_component_pubsub_ingress_bulk_event_count" + of + `process_status="retry",topic="t"} 4`,
		}},
		{"jobs", "trigger", true, telemetry.CallResult{Key: "j"}, []string{
			`dapr_component_job_success_count{app_id="shop",namespace="default",operation="job_trigger_op"} 1`,
			`dapr_component_job_latencies_count{app_id="shop",namespace="default",operation="job_trigger_op",success="true"} 1`,
		}},
		{"jobs", "trigger", true, telemetry.CallResult{Err: fault.New(fault.Internal, "x")}, []string{
			`dapr_component_job_failure_count{app_id="shop",namespace="default",operation="job_trigger_op"} 1`,
		}},
		{"lock", "acquire", false, telemetry.CallResult{}, []string{
			`proa_call_seconds_count{app_id="shop",block="lock",component="c",direction="outbound",namespace="default",op="acquire"} 1`,
			`proa_call_seconds_sum{app_id="shop",block="lock",component="c",direction="outbound",namespace="default",op="acquire"} 0.0015`,
		}},
	} {
		m := telemetry.NewMetrics("shop", "default")
		tc.result.Duration = 1500 * time.Microsecond
		m.Call(tc.block, "c", tc.op, tc.inbound).Observe(tc.result)
		wantLines(t, m, tc.want...)
	}
}

// random returns a text that nobody has sent before.
func random(i int) string { return fmt.Sprintf("%d-%x", i, rand.Uint64()) }

func TestSeriesStayBoundedWhateverCallersSend(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	for _, tc := range []struct {
		name string
		send func(m *telemetry.Metrics, i int)
	}{
		{"paths of requests", func(m *telemetry.Metrics, i int) {
			m.HTTPServed(telemetry.HTTPRequest{Method: "GET", Path: "/v1.0/invoke/" + random(i) + "/method/x", Status: 200 + i%5})
		}},
		{"methods of requests", func(m *telemetry.Metrics, i int) {
			m.HTTPServed(telemetry.HTTPRequest{Method: random(i), Path: "/v1.0/state/store/" + random(i), Status: 200})
		}},
		{"paths of the application", func(m *telemetry.Metrics, i int) {
			m.HTTPCalled(telemetry.HTTPRequest{Method: "GET", Path: "/" + random(i), Status: 200})
		}},
		{"gRPC methods", func(m *telemetry.Metrics, i int) {
			c := telemetry.GRPCCall{Method: "/shop.Orders/" + random(i)}
			m.GRPCServed(c)
			m.GRPCCalled(c)
		}},
		{"applications", func(m *telemetry.Metrics, i int) {
			id := random(i)
			m.InvocationSent(id)
			m.InvocationAnswer(id, 200, 0)
			m.InvocationReceived(id)
			m.InvocationAnswered(id, 200)
			m.AccessDecided(telemetry.AccessDecision{AppID: id, Namespace: id, TrustDomain: "public"})
			m.Policy("", "retry", "app_"+id, false).Executed("")
			m.Call("invoke", id, "invoke", false).Observe(telemetry.CallResult{})
		}},
		{"topics", func(m *telemetry.Metrics, i int) {
			m.Call("pubsub", "broker", "publish", false).Observe(telemetry.CallResult{Key: random(i)})
			m.Call("pubsub", "broker", "deliver", true).Observe(telemetry.CallResult{Key: random(i)})
		}},
		{"operations of a binding", func(m *telemetry.Metrics, i int) {
			m.Call("bindings", "mail", "invoke", false).Observe(telemetry.CallResult{Key: random(i)})
		}},
		{"error codes", func(m *telemetry.Metrics, i int) { m.ErrorCode(random(i), "common") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := telemetry.NewMetrics("shop", "default")
			if err := m.Configure(telemetry.MetricSettings{IncreasedCardinality: true, RecordErrorCodes: true, LatencyBuckets: []float64{1}}); err != nil {
				t.Fatal(err)
			}
			for i := range 20_000 { // ten times what a family may have
				tc.send(m, i)
			}
			perFamily := map[string]int{}
			other := false
			for _, line := range scrape(m) {
				name, _, _ := strings.Cut(line, "{")
				if !strings.HasSuffix(name, "_bucket") {
					perFamily[name]++
				}
				other = other || strings.Contains(line, telemetry.OtherValue)
			}
			for name, n := range perFamily {
				if most := 5 * (telemetry.MaxLabelValues + 1); n > most { // each with 5 statuses
					t.Errorf("%s has %d series, the most is %d", name, n, most)
				}
			}
			if tc.name != "methods of requests" && !other {
				t.Errorf("nothing counts as %s", telemetry.OtherValue)
			}
		})
	}
}

func TestWhatHasNoRoomIsCountedAllTheSame(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	s := m.Call("pubsub", "broker", "publish", false)
	for i := range telemetry.MaxLabelValues + 300 {
		s.Observe(telemetry.CallResult{Key: fmt.Sprint("topic-", i)})
	}
	wantLines(t, m,
		`dapr_component_pubsub_egress_count{app_id="shop",component="broker",namespace="default",success="true",topic="topic-0"} 1`,
		`dapr_component_pubsub_egress_count{app_id="shop",component="broker",namespace="default",success="true",topic="_other"} 300`)
}

func TestHTTPPathsAndMethodsAreLabelledAsTheSettingsSay(t *testing.T) {
	templates := []string{"/orders/{orderID}/items/{itemID}", "/orders/{orderID}", "/orders/special", "/v1.0/invoke/shop/method/{rest...}", "/static/"}
	detailed, plain := telemetry.MetricSettings{IncreasedCardinality: true}, telemetry.MetricSettings{}
	matching, matchingDetailed := plain, detailed
	matching.PathMatching, matchingDetailed.PathMatching = templates, templates
	verbless := detailed
	verbless.ExcludeVerbs = true
	for _, tc := range []struct {
		name         string
		settings     telemetry.MetricSettings
		method, path string
		want         string // labels
	}{
		{"keys are left out", detailed, "GET", "/v1.0/state/store/k1", `method="GET",path="/v1.0/state/store"`},
		{"names of secrets are left out", detailed, "GET", "/v1.0/secrets/vault/k", `method="GET",path="/v1.0/secrets/vault"`},
		{"slashes are joined", detailed, "GET", "//v1.0//state/store/k1", `method="GET",path="/v1.0/state/store"`},
		{"ids of actors are left out", detailed, "PUT", "/v1.0/actors/Robot/7/timers/t", `method="PUT",path="/v1.0/actors/Robot/{id}/timers"`},
		{"calls of actors", detailed, "PUT", "/actors/Robot/7/method/m", `method="PUT",path="/actors/Robot/{id}/method/m"`},
		{"workflows", detailed, "GET", "/v1.0/workflows/dapr/17", `method="GET",path="/v1.0/workflows/dapr/{instanceId}"`},
		{"events of workflows", detailed, "POST", "/v1.0/workflows/dapr/17/raiseEvent/e", `method="POST",path="/v1.0/workflows/dapr/{instanceId}/raiseEvent/{eventName}"`},
		{"starts of workflows", detailed, "POST", "/v1.0/workflows/dapr/order/start", `method="POST",path="/v1.0/workflows/dapr/order/start"`},
		{"others stay", detailed, "GET", "/v1.0/metadata", `method="GET",path="/v1.0/metadata"`},
		{"without increased cardinality there is no path", plain, "GET", "/v1.0/state/store/k1", `method="GET",path=""`},
		{"strange methods", detailed, "BREW", "/v1.0/metadata", `method="UNKNOWN",path="/v1.0/metadata"`},
		{"verbs are excluded", verbless, "GET", "/v1.0/metadata", `method="",path="/v1.0/metadata"`},
		{"a template", matching, "GET", "/orders/17", `method="GET",path="/orders/{orderID}"`},
		{"a longer template", matching, "GET", "/orders/17/items/4", `method="GET",path="/orders/{orderID}/items/{itemID}"`},
		{"a literal segment wins", matching, "GET", "/orders/special", `method="GET",path="/orders/special"`},
		{"a literal segment does not hide what is longer", matching, "GET", "/orders/special/items/4", `method="GET",path="/orders/{orderID}/items/{itemID}"`},
		{"any rest", matching, "GET", "/v1.0/invoke/shop/method/a/b/c", `method="GET",path="/v1.0/invoke/shop/method/{rest...}"`},
		{"a slash at the end is any rest", matching, "GET", "/static/x/y", `method="GET",path="/static/"`},
		{"no template matches", matching, "GET", "/orders", `method="GET",path=""`},
		{"no template matches, with increased cardinality", matchingDetailed, "GET", "/orders", `method="GET",path="/orders"`},
	} {
		m := telemetry.NewMetrics("shop", "default")
		if err := m.Configure(tc.settings); err != nil {
			t.Fatal(err)
		}
		m.HTTPServed(telemetry.HTTPRequest{Method: tc.method, Path: tc.path, Status: 200, Sent: 3})
		line := `dapr_http_server_request_count{app_id="shop",` + tc.want + `,status="200"} 1`
		if text := strings.Join(scrape(m), "\n"); !strings.Contains(text, line) {
			t.Errorf("%s: no line %s", tc.name, line)
		}
	}
}

func TestResponsesAreCountedOnlyWithIncreasedCardinality(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	m.HTTPServed(telemetry.HTTPRequest{Method: "GET", Path: "/v1.0/metadata", Status: 204})
	wantLines(t, m, `dapr_http_server_response_count{app_id="shop",method="GET",path="/v1.0/metadata",status="204"} 1`)
	if err := m.Configure(telemetry.MetricSettings{}); err != nil {
		t.Fatal(err)
	}
	m.HTTPServed(telemetry.HTTPRequest{Method: "GET", Path: "/v1.0/metadata", Status: 204})
	wantLines(t, m, `dapr_http_server_request_count{app_id="shop",method="GET",path="",status="204"} 1`)
	wantNone(t, m, "dapr_http_server_response_count")
}

func TestRulesRewriteLabels(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	s := telemetry.DefaultMetricSettings()
	s.Rules = []telemetry.MetricRule{
		{Metric: "dapr_http_server_request_count", Label: "path", Replace: map[string]string{"/orders/{id}": "^/orders/[0-9]+$"}},
		{Metric: "component/pubsub_egress/count", Label: "topic", Replace: map[string]string{"tenant-$1": "^t([a-z])[0-9]+$"}},
	}
	if err := m.Configure(s); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		m.HTTPServed(telemetry.HTTPRequest{Method: "GET", Path: fmt.Sprint("/orders/", i), Status: 200})
		m.Call("pubsub", "b", "publish", false).Observe(telemetry.CallResult{Key: fmt.Sprint("ta", i)})
	}
	wantLines(t, m,
		`dapr_http_server_request_count{app_id="shop",method="GET",path="/orders/{id}",status="200"} 1000`,
		`dapr_component_pubsub_egress_count{app_id="shop",component="b",namespace="default",success="true",topic="tenant-a"} 1000`)
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	for _, tc := range []struct {
		settings telemetry.MetricSettings
		want     string
	}{
		{telemetry.MetricSettings{LatencyBuckets: []float64{1, 1}}, "ascend"},
		{telemetry.MetricSettings{LatencyBuckets: []float64{-1, 1}}, "above 0"},
		{telemetry.MetricSettings{LatencyBuckets: []float64{1, math.NaN(), 2}}, "above 0"},
		{telemetry.MetricSettings{LatencyBuckets: []float64{1, math.Inf(1)}}, "above 0"},
		{telemetry.MetricSettings{LatencyBuckets: make([]float64, 1000)}, "the most is"},
		{telemetry.MetricSettings{PathMatching: []string{"orders"}}, `begins with "/"`},
		{telemetry.MetricSettings{PathMatching: []string{"/a{b}"}}, "neither a text"},
		{telemetry.MetricSettings{PathMatching: []string{"/{a...}/b"}}, "must be the last"},
		{telemetry.MetricSettings{PathMatching: []string{"/{a}", "/{b}"}}, `says the same as "/{a}"`},
		{telemetry.MetricSettings{Rules: []telemetry.MetricRule{
			{Metric: "dapr_http_server_latency", Label: "path", Replace: map[string]string{"x": "("}},
		}}, "missing closing"},
	} {
		m := telemetry.NewMetrics("shop", "default")
		if err := m.Configure(tc.settings); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("the error is %v, want one with %q", err, tc.want)
		}
	}
}

func TestRawConnectionsAreMeasuredWhenTheyEnd(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	m.TunnelEnded(telemetry.Tunnel{Role: "connect", Failure: "none", Sent: 10, Received: 20, Duration: time.Second})
	m.TunnelEnded(telemetry.Tunnel{Role: "connect", Failure: "idle", Sent: 1, Received: 2, Duration: 2 * time.Second})
	const of = `{app_id="shop",namespace="default",role="connect"}`
	wantLines(t, m,
		`proa_tunnels_total{app_id="shop",failure="none",namespace="default",role="connect"} 1`,
		`proa_tunnels_total{app_id="shop",failure="idle",namespace="default",role="connect"} 1`,
		"proa_tunnel_sent_bytes_total"+of+" 11", "proa_tunnel_received_bytes_total"+of+" 22", "proa_tunnel_seconds_sum"+of+" 3",
	)
	var none *telemetry.Metrics
	none.TunnelEnded(telemetry.Tunnel{}) // measures nothing
}

func TestRequestsThatMeetRoutesAreCounted(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	m.RequestRouted(telemetry.Routed{Route: "HTTPRoute a", Rule: "0", Backend: "b", Status: 200})
	m.RequestRouted(telemetry.Routed{Status: 404})
	wantLines(t, m,
		`proa_route_requests_total{app_id="shop",backend="b",namespace="default",route="HTTPRoute a",rule="0",status="200"} 1`,
		`proa_route_requests_total{app_id="shop",backend="",namespace="default",route="",rule="",status="404"} 1`,
	)
	var none *telemetry.Metrics
	none.RequestRouted(telemetry.Routed{}) // measures nothing
}

func TestOtherSettingsKeepCountersAndGauges(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	s := m.Call("state", "c", "get", false)
	s.Observe(telemetry.CallResult{})
	m.ComponentReady("c", "state.redis", true)
	m.ComponentOpened("c", "state.redis", errors.New("x"))
	m.Reloaded("applied", true)
	settings := telemetry.DefaultMetricSettings()
	settings.LatencyBuckets = []float64{7}
	if err := m.Configure(settings); err != nil {
		t.Fatal(err)
	}
	s.Observe(telemetry.CallResult{Duration: time.Millisecond})
	const of = `{app_id="shop",component="c",namespace="default",`
	wantLines(t, m,
		`proa_component_ready`+of+`type="state.redis"} 1`,
		`proa_reloads_total{app_id="shop",namespace="default",result="applied"} 1`,
		`proa_reload_ok{app_id="shop",namespace="default"} 1`,
		`dapr_runtime_component_init_fail_total{app_id="shop",component="state.redis",componentName="c",reason="init"} 1`,
		`proa_calls_total{app_id="shop",block="state",code="ok",component="c",direction="outbound",namespace="default",op="get"} 2`,
		`dapr_component_state_latencies_bucket`+of+`operation="get",success="true",le="7"} 1`,
		`dapr_component_state_count`+of+`operation="get",success="true"} 1`)
}

func TestDisabledMetricsMeasureNothing(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	s := m.Call("state", "c", "get", false)
	if err := m.Configure(telemetry.MetricSettings{Disabled: true}); err != nil {
		t.Fatal(err)
	}
	s.Observe(telemetry.CallResult{})
	m.HTTPServed(telemetry.HTTPRequest{Method: "GET", Path: "/", Status: 200})
	m.ComponentReady("c", "state.redis", true)
	if m.Enabled() || len(scrape(m)) > 0 {
		t.Errorf("there is %v", scrape(m))
	}
	if err := m.Configure(telemetry.DefaultMetricSettings()); err != nil {
		t.Fatal(err)
	}
	wantLines(t, m, `proa_component_ready{app_id="shop",component="c",namespace="default",type="state.redis"} 1`)
	wantNone(t, m, "dapr_component_state_count")
}

func TestComponentsThatAreGoneAreForgotten(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	m.ComponentReady("c", "state.redis", true)
	m.ComponentGone("c", "state.redis")
	m.ComponentGone("d", "state.redis")
	wantNone(t, m, "proa_component_ready")
	m.ComponentReady("c", "state.redis", false)
	wantLines(t, m, `proa_component_ready{app_id="shop",component="c",namespace="default",type="state.redis"} 0`)
}

func TestCircuitBreakersShowEachOfTheirStates(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	p := m.Policy("res", "circuitbreaker", "app_orders", false)
	p.Executed("closed")
	p.Activated("open")
	p.InState("open")
	const of = `{app_id="shop",flow_direction="outbound",name="res",namespace="default",policy="circuitbreaker",`
	wantLines(t, m,
		`dapr_resiliency_count`+of+`status="closed",target="app_orders"} 1`,
		`dapr_resiliency_activations_total`+of+`status="open",target="app_orders"} 1`,
		`dapr_resiliency_cb_state`+of+`status="open",target="app_orders"} 1`,
		`dapr_resiliency_cb_state`+of+`status="closed",target="app_orders"} 0`,
		`dapr_resiliency_cb_state`+of+`status="unknown",target="app_orders"} 0`)
}

func TestErrorCodesAreCountedOnDemand(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	m.ErrorCode("ERR_STATE_GET", "state")
	wantNone(t, m, "dapr_error_code_total")
	s := telemetry.DefaultMetricSettings()
	s.RecordErrorCodes = true
	if err := m.Configure(s); err != nil {
		t.Fatal(err)
	}
	m.ErrorCode("ERR_STATE_GET", "state")
	wantLines(t, m, `dapr_error_code_total{app_id="shop",category="state",error_code="ERR_STATE_GET"} 1`)
}

func TestMeasuringAllocatesNothing(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	get, publish := m.Call("state", "c", "get", false), m.Call("pubsub", "c", "publish", false)
	retry, bulk := m.Policy("", "retry", "app_orders", false), m.Call("pubsub", "c", "bulk_deliver", true)
	tally := &telemetry.CallTally{Done: 1, Rejected: 1, Failed: 1}
	for name, f := range map[string]func(){
		"a call":            func() { get.Observe(telemetry.CallResult{Duration: time.Millisecond}) },
		"a publication":     func() { publish.Observe(telemetry.CallResult{Key: "topic"}) },
		"a request":         func() { m.HTTPServed(telemetry.HTTPRequest{Method: "GET", Path: "/v1.0/state/store/k", Status: 204}) },
		"an invocation":     func() { m.InvocationSent("orders"); m.InvocationAnswer("orders", 200, 0) },
		"a gRPC call":       func() { m.GRPCServed(telemetry.GRPCCall{Method: "/a.B/C"}) },
		"a policy":          func() { retry.Executed("") },
		"a call of the app": func() { m.HTTPCalled(telemetry.HTTPRequest{Method: "POST", Path: "/orders", Status: 200}) },
		"a probe":           func() { m.HTTPProbed(200, 0); m.GRPCProbed(0, 0) },
		"a breaker":         func() { retry.Activated("open"); retry.InState("open") },
		"a batch": func() {
			bulk.Observe(telemetry.CallResult{Key: "topic", Tally: tally})
		},
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s costs %v allocations", name, n)
		}
	}
	for name, f := range crossings(m) {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s costs %v allocations", name, n)
		}
	}
}

func TestMeasuringWhatHasNoRoomAllocatesNothing(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	path := make([]string, 5000)
	for i := range path {
		path[i] = "/" + random(i)
		m.HTTPServed(telemetry.HTTPRequest{Method: "GET", Path: path[i], Status: 200})
	}
	i := len(path) - 1000
	if n := testing.AllocsPerRun(500, func() { m.HTTPServed(telemetry.HTTPRequest{Method: "GET", Path: path[i], Status: 200}); i++ }); n != 0 {
		t.Errorf("a request to one path of many costs %v allocations", n)
	}
}

func TestWhatManyMeasureAtOnceIsCountedOnce(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	s := m.Call("pubsub", "broker", "publish", false)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 1000 {
				key := fmt.Sprint("topic-", (i*7+w)%(telemetry.MaxLabelValues+50))
				s.Observe(telemetry.CallResult{Key: key, Duration: time.Millisecond})
				m.InvocationSent(key)
				if i%200 == 0 {
					scrape(m)
				}
			}
		})
	}
	wg.Wait()
	total := map[string]float64{}
	for _, line := range scrape(m) {
		name, rest, _ := strings.Cut(line, "{")
		if _, value, ok := strings.Cut(rest, "} "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			total[name] += n
		}
	}
	for _, name := range []string{"dapr_component_pubsub_egress_count", "dapr_component_pubsub_egress_latencies_sum",
		"dapr_component_pubsub_egress_latencies_count", "dapr_runtime_service_invocation_req_sent_total"} {
		if total[name] != 4000 {
			t.Errorf("%s counts %v, want 4000", name, total[name])
		}
	}
}

func TestEachObservationIsInTheBucketOfItsSize(t *testing.T) {
	for _, bounds := range [][]float64{
		telemetry.DefaultMetricSettings().LatencyBuckets, {1}, {5e-324, 1e-300, 1, 1e300}, {1, 1.01, 1.02, 1.03, 1.04, 1.05, 2},
	} {
		m := telemetry.NewMetrics("shop", "default")
		if err := m.Configure(telemetry.MetricSettings{LatencyBuckets: bounds}); err != nil {
			t.Fatal(err)
		}
		s := m.Call("state", "c", "get", false)
		want := make([]int, len(bounds))
		for range 2000 {
			d := time.Duration(math.Exp(rand.Float64()*26)) * time.Nanosecond
			if rand.IntN(3) == 0 {
				d = time.Duration(bounds[rand.IntN(len(bounds))] * float64(time.Millisecond))
			}
			d = max(d, 0)
			for i, b := range bounds {
				if float64(d)/float64(time.Millisecond) <= b {
					want[i]++
				}
			}
			s.Observe(telemetry.CallResult{Duration: d})
		}
		for i, b := range bounds {
			wantLines(t, m, fmt.Sprintf(`dapr_component_state_latencies_bucket{app_id="shop",component="c",namespace="default",operation="get",success="true",le="%v"} %d`,
				strconv.FormatFloat(b, 'g', -1, 64), want[i]))
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	m := telemetry.NewMetrics("shop", "default")
	b.Run("call", func(b *testing.B) {
		s := m.Call("state", "c", "get", false)
		b.ReportAllocs()
		for b.Loop() {
			s.Observe(telemetry.CallResult{Duration: time.Millisecond})
		}
	})
	b.Run("topic", func(b *testing.B) {
		s := m.Call("pubsub", "c", "publish", false)
		b.ReportAllocs()
		for b.Loop() {
			s.Observe(telemetry.CallResult{Duration: time.Millisecond, Key: "orders"})
		}
	})
	b.Run("request", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.HTTPServed(telemetry.HTTPRequest{Method: "GET", Path: "/v1.0/state/store/k", Status: 200, Duration: time.Millisecond})
		}
	})
}
