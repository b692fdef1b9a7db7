package telemetry

import "time"

// Tunnel is a raw connection that has ended.
type Tunnel struct {
	// Role is what this process was for it: "connect" for a CONNECT of the
	// application, "forward" for a local port, "receive" for one of another
	// sidecar.
	Role string
	// Failure says why it did not end in good order; "none" if it did.
	Failure string
	// Sent is what went to where it led, and Received what came from there, in
	// bytes.
	Sent, Received int64
	Duration       time.Duration
}

// TunnelEnded records a raw connection.
func (m *Metrics) TunnelEnded(t Tunnel) {
	if !m.Enabled() {
		return
	}
	g := m.now.Load()
	g.count(tunnels, 1, values{t.Role, t.Failure})
	g.count(tunnelSent, t.Sent, values{t.Role})
	g.count(tunnelReceived, t.Received, values{t.Role})
	g.observe(tunnelSeconds, t.Duration.Seconds(), values{t.Role})
}
