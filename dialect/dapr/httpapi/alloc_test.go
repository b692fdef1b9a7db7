//go:build !race

package httpapi

import (
	"io"
	"strings"
	"testing"

	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/telemetry"
)

// TestHotPathsAllocateHardlyAnything bounds what a request costs in all, blocks
// and the driver in memory included: the key in the store; of a write also the
// key that the content names and the item that is kept; of an event its message
// and envelope. The race detector makes pools forget, so that it is of no use
// then.
//
// A trace that is not recorded costs nothing when it begins here, and its place
// in the context when it came with the request.
func TestHotPathsAllocateHardlyAnything(t *testing.T) {
	w := newWorld(t)
	w.addNullBroker()
	tracing, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{Stdout: io.Discard, SamplingRate: 1e-15})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tracing.Shutdown(t.Context()) }()                           // it has nothing to send
	plain := New(Options{AppID: "shop", Blocks: w, Observe: func(Call) {}}).Handle // as a process does, for metrics
	traced := New(Options{AppID: "shop", Blocks: w, Observe: func(Call) {}, Tracing: tracing}).Handle
	text := strings.Repeat("x", 1024)
	for _, test := range []struct {
		name, method, target string
		body                 string
		most                 float64
		status               int
	}{
		{"set", "POST", "/v1.0/state/plain", `[{"key":"item","value":"` + text + `"}]`, 5, 204},
		{"get", "GET", "/v1.0/state/plain/item", "", 1, 200},
		{"publish", "POST", "/v1.0/publish/null/orders", `{"text":"` + text + `"}`, 2, 204},
	} {
		ex, reset := newRequest(t, test.method, test.target, []byte(test.body))
		reset()
		came := append(proxy.Header{{Name: "Traceparent", Value: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}}, ex.req.Header...)
		for _, how := range []struct {
			name   string
			handle proxy.Handler
			came   proxy.Header // instead of the header
			more   float64
		}{
			{"without traces", plain, nil, 0}, {"not recorded", traced, nil, 0}, {"with a trace that is not recorded", traced, came, 1},
		} {
			got := testing.AllocsPerRun(500, func() {
				reset()
				if how.came != nil {
					ex.req.Header = how.came
				}
				how.handle(ex)
			})
			if most := test.most + how.more; ex.status != test.status || got > most {
				t.Errorf("%s, %s: %v allocations, the most is %v; status %d", test.name, how.name, got, most, ex.status)
			}
		}
	}
}
