package telemetry

// EndpointChanged counts what happened to an endpoint of an application that is
// called: "ejected" or "readmitted" by outlier detection, "check_failed" or
// "check_passed" by health checks.
func (m *Metrics) EndpointChanged(target, event string) {
	if m != nil {
		m.now.Load().count(endpointEvents, 1, values{target, event})
	}
}
