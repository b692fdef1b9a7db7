package telemetry_test

import (
	"testing"
	"time"

	"github.com/proa-io/proa/telemetry"
)

// crossings are the requests of the hot paths, as metrics see them: all that
// one of them is observed by on its way.
func crossings(m *telemetry.Metrics) map[string]func() {
	const d = 700 * time.Microsecond
	get, publish := m.Call("state", "c", "get", false), m.Call("pubsub", "c", "publish", false)
	deliver := m.Call("pubsub", "c", "deliver", true)
	invoke, receive := m.Call("invoke", "orders", "invoke", false), m.Call("invoke", "shop", "receive", true)
	retry := m.Policy("", "retry", "app_orders", false)
	return map[string]func(){
		"state over HTTP": func() {
			get.Observe(telemetry.CallResult{Duration: d})
			m.HTTPServed(telemetry.HTTPRequest{Method: "GET", Path: "/v1.0/state/store/k", Status: 200, Sent: 1000, Duration: d})
		},
		"state over gRPC": func() {
			get.Observe(telemetry.CallResult{Duration: d})
			m.GRPCServed(telemetry.GRPCCall{Method: "/dapr.proto.runtime.v1.Dapr/GetState", Received: 20, Sent: 1000, Duration: d})
		},
		"publish over HTTP": func() {
			publish.Observe(telemetry.CallResult{Key: "orders", Duration: d})
			m.HTTPServed(telemetry.HTTPRequest{Method: "POST", Path: "/v1.0/publish/c/orders", Status: 204, Received: 1000, Duration: d})
		},
		"deliver over HTTP": func() {
			deliver.Observe(telemetry.CallResult{Key: "orders", Duration: d})
			m.HTTPCalled(telemetry.HTTPRequest{Method: "POST", Path: "/orders", Status: 200, Sent: 1000, Duration: d})
		},
		"invoke, at the caller": func() {
			retry.Executed("")
			m.InvocationSent("orders")
			m.InvocationAnswer("orders", 200, d)
			invoke.Observe(telemetry.CallResult{Key: "/x", Duration: d})
			m.HTTPServed(telemetry.HTTPRequest{Method: "GET", Path: "/v1.0/invoke/orders/method/x", Status: 200, Sent: 1000, Duration: d})
		},
		"invoke, at the callee": func() {
			m.AccessDecided(telemetry.AccessDecision{AppID: "shop", TrustDomain: "public", Namespace: "default", Allowed: true})
			m.InvocationReceived("shop")
			m.HTTPCalled(telemetry.HTTPRequest{Method: "GET", Path: "/x", Status: 200, Received: 1000, Duration: d})
			receive.Observe(telemetry.CallResult{Key: "/x", Duration: d})
			m.InvocationAnswered("shop", 200)
		},
	}
}

// BenchmarkRequest is what metrics cost per request.
func BenchmarkRequest(b *testing.B) {
	for name, f := range crossings(telemetry.NewMetrics("shop", "default")) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					f()
				}
			})
		})
	}
}
