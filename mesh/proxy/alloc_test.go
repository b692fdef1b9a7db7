//go:build unix && !race

package proxy_test

import (
	"testing"

	"github.com/proa-io/proa/mesh/proxy"
)

// TestAllocationsPerRequest guards what a request costs: the string of a head on
// either side, the context and the response. The race detector makes pools
// forget, so it is of no use then.
func TestAllocationsPerRequest(t *testing.T) {
	tests := []struct {
		name  string
		addr  string
		bound float64
	}{
		{"server", upstream(t), 1},
		{"one hop and the server", hop(t, upstream(t), proxy.ForwardOptions{}, nil), 5},
		{"two hops and the server", hop(t, hop(t, upstream(t), proxy.ForwardOptions{}, nil), proxy.ForwardOptions{}, nil), 9},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The average is cut down to a whole number: a collection in between
			// does not count.
			if got := testing.AllocsPerRun(2000, rawClient(t, tt.addr)); got > tt.bound {
				t.Errorf("%v allocations, want %v at most", got, tt.bound)
			}
		})
	}
}
