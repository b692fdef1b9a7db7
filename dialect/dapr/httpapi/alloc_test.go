//go:build !race

package httpapi

import (
	"strings"
	"testing"
)

// TestHotPathsAllocateHardlyAnything bounds what a request costs in all, blocks
// and the driver in memory included: the key in the store; of a write also the
// key that the content names and the item that is kept; of an event its message
// and envelope. The race detector makes pools forget, so that it is of no use
// then.
func TestHotPathsAllocateHardlyAnything(t *testing.T) {
	w := newWorld(t)
	w.addNullBroker()
	h := New(Options{AppID: "shop", Blocks: w, Observe: func(Call) {}}).Handle // as a process does, for metrics
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
		got := testing.AllocsPerRun(500, func() { reset(); h(ex) })
		if ex.status != test.status || got > test.most {
			t.Errorf("%s: %v allocations, the most is %v; status %d", test.name, got, test.most, ex.status)
		}
	}
}
