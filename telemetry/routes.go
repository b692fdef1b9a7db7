package telemetry

import "strconv"

// Routed is a request that met a route.
type Routed struct {
	// Route is "HTTPRoute shop/reviews", Rule the name or the number of its rule;
	// both are empty when none matched. Backend is empty when none was asked.
	Route, Rule, Backend string
	// Status is that of the answer; 0 for none.
	Status int
}

// RequestRouted records a request that met a route.
func (m *Metrics) RequestRouted(r Routed) {
	if !m.Enabled() {
		return
	}
	m.now.Load().count(routed, 1, values{r.Route, r.Rule, r.Backend, strconv.Itoa(r.Status)})
}
