package telemetry

import "sync/atomic"

// ResiliencyLoaded counts a Resiliency resource that was taken into use.
func (m *Metrics) ResiliencyLoaded(name string) {
	if m != nil {
		m.now.Load().count(resiliencyLoaded, 1, values{name})
	}
}

// PolicyStats are the metrics of one policy around the calls of one target. A
// nil *PolicyStats measures nothing. It is safe for concurrent use.
type PolicyStats struct {
	m                               *Metrics
	name, policy, direction, target string
	last                            atomic.Pointer[executed] // nil before the first
}

// executed is the counter of a policy in one state.
type executed struct {
	g      *generation
	status string
	series *series
}

// Policy returns the metrics of a policy: policy is "retry", "timeout" or
// "circuitbreaker", name that of the Resiliency it comes from, target
// "app_<id>" or "<kind>_<component>". A nil *Metrics returns nil.
func (m *Metrics) Policy(name, policy, target string, inbound bool) *PolicyStats {
	if m == nil {
		return nil
	}
	p := &PolicyStats{m: m, name: name, policy: policy, direction: "outbound", target: target}
	if inbound {
		p.direction = "inbound"
	}
	return p
}

// Executed counts a call that the policy was around. status is the state of a
// circuit breaker, and empty for others.
func (p *PolicyStats) Executed(status string) {
	if p == nil {
		return
	}
	g, last := p.m.now.Load(), p.last.Load()
	if g.settings.Disabled {
		return
	}
	if last == nil || last.g != g || last.status != status {
		last = &executed{g, status, g.with(resiliencyCount, values{p.name, p.policy, p.direction, p.target, status})}
		p.last.Store(last)
	}
	last.series.number.Add(1)
}

// Activated counts that the policy did something. status is the new state of a
// circuit breaker, and empty for others.
func (p *PolicyStats) Activated(status string) {
	if p != nil {
		p.m.now.Load().count(resiliencyActivations, 1, values{p.name, p.policy, p.direction, p.target, status})
	}
}

// InState records the state of a circuit breaker: "closed", "half-open" or
// "open".
func (p *PolicyStats) InState(state string) {
	if p == nil {
		return
	}
	g := p.m.now.Load()
	for _, s := range [...]string{"closed", "half-open", "open", "unknown"} {
		g.set(resiliencyBreaker, number(s == state), values{p.name, p.policy, p.direction, p.target, s})
	}
}
