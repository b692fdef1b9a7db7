package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
)

// CallOutcome tells apart calls that ended without an error.
type CallOutcome uint8

// The outcomes.
const (
	Done     CallOutcome = iota
	Rejected             // an event that the application wants dropped
	Unwanted             // an event that the application has no handler for
)

// CallTally says what became of the parts of a call that has several, such as
// the events of a batch.
type CallTally struct{ Done, Rejected, Failed int }

// CallResult is how a call ended.
type CallResult struct {
	Duration time.Duration
	Err      error
	// Key is what the call was about: its topic, for pub/sub, or the operation
	// of a binding.
	Key     string
	Outcome CallOutcome
	Tally   *CallTally // nil when there are no parts
}

// CallStats are the metrics of one operation, looked up once. It is safe for
// concurrent use.
type CallStats struct {
	m                               *Metrics
	block, component, op, direction string
	bound                           atomic.Pointer[boundCall]
}

// boundCall is what the metrics of an operation are under certain settings.
type boundCall struct {
	g       *generation
	topic   metric // of metrics by topic, and by operation of a binding; numMetrics for none
	ok, bad boundSeries
	byCode  [32]boundSeries // by fault code; 0 stands for success
}

// boundSeries is a series that is made when it is first needed.
type boundSeries struct {
	metric metric
	values values
	series atomic.Pointer[series]
}

func (b *boundSeries) get(g *generation) *series {
	if s := b.series.Load(); s != nil {
		return s
	}
	s := g.with(b.metric, b.values)
	b.series.Store(s)
	return s
}

// Call returns the metrics of an operation. A nil *Metrics returns nil.
func (m *Metrics) Call(block, component, op string, inbound bool) *CallStats {
	if m == nil {
		return nil
	}
	s := &CallStats{m: m, block: block, component: component, op: op, direction: "outbound"}
	if inbound {
		s.direction = "inbound"
	}
	return s
}

// Enabled reports whether Observe does anything.
func (s *CallStats) Enabled() bool { return !s.m.now.Load().settings.Disabled }

// Observe counts and times one call.
func (s *CallStats) Observe(r CallResult) {
	g := s.m.now.Load()
	if g.settings.Disabled {
		return
	}
	b := s.bound.Load()
	if b == nil || b.g != g {
		b = s.bind(g)
		s.bound.Store(b)
	}
	code := 0
	if r.Err != nil {
		code = int(fault.CodeOf(r.Err)) + 1
	}
	b.byCode[code].get(g).counter.Inc()
	if b.topic != numMetrics {
		s.observeByKey(g, b, &r)
		return
	}
	end := &b.ok
	if r.Err != nil {
		end = &b.bad
	}
	d := milliseconds(r.Duration)
	if end.metric == callSeconds {
		d = r.Duration.Seconds()
	}
	end.get(g).histogram.Observe(d)
}

const (
	yes = "true"
	no  = "false"
)

// bind finds out which metrics an operation has.
func (s *CallStats) bind(g *generation) *boundCall {
	b := &boundCall{g: g, topic: numMetrics}
	call := values{s.block, s.component, s.op, s.direction}
	b.byCode[0].metric, b.byCode[0].values = calls, values{call[0], call[1], call[2], call[3], "ok"}
	for _, code := range fault.Codes() {
		c := &b.byCode[int(code)+1]
		c.metric, c.values = calls, values{call[0], call[1], call[2], call[3], code.String()}
	}
	which, operation := timedAs(s.block, s.op)
	b.ok.metric, b.bad.metric = which, which
	switch which {
	case callSeconds:
		b.ok.values, b.bad.values = call, call
	case jobLatency:
		b.ok.values, b.bad.values = values{operation, yes}, values{operation, no}
	case inputBindingLatency, conversationLatency:
		b.ok.values, b.bad.values = values{s.component, yes}, values{s.component, no}
	case outputBindingLatency, egressLatency, bulkEgressLatency, ingressLatency, bulkIngressLatency:
		b.topic = which
	default:
		b.ok.values, b.bad.values = values{s.component, operation, yes}, values{s.component, operation, no}
	}
	return b
}

// timedAs returns the metric that times an operation, and what Dapr calls the
// operation.
func timedAs(block, op string) (metric, string) {
	switch block {
	case "state":
		switch op {
		case "transact":
			op = "transaction"
		case "bulk_set":
			op = "set"
		}
		return stateLatency, op
	case "configuration":
		switch op {
		case "deliver":
			return callSeconds, ""
		case "watch":
			op = "subscribe"
		}
		return configurationLatency, op
	case "secretstores":
		if op == "list" {
			op = "bulk_get"
		}
		return secretLatency, op
	case "crypto":
		if op == "get_key" {
			return cryptoLatency, "get"
		}
		return cryptoLatency, "crypto_op"
	case "conversation":
		return conversationLatency, ""
	}
	return eventsTimedAs(block, op)
}

// eventsTimedAs is timedAs for blocks that deliver.
func eventsTimedAs(block, op string) (metric, string) {
	switch block + "/" + op {
	case "bindings/invoke":
		return outputBindingLatency, ""
	case "bindings/deliver":
		return inputBindingLatency, ""
	case "jobs/trigger":
		return jobLatency, "job_trigger_op"
	case "pubsub/publish":
		return egressLatency, ""
	case "pubsub/bulk_publish":
		return bulkEgressLatency, ""
	case "pubsub/deliver":
		return ingressLatency, ""
	case "pubsub/bulk_deliver":
		return bulkIngressLatency, ""
	}
	return callSeconds, ""
}

// observeByKey records a call whose series depends on what it was about.
func (s *CallStats) observeByKey(g *generation, b *boundCall, r *CallResult) {
	d, success := milliseconds(r.Duration), yes
	if r.Err != nil {
		success = no
	}
	switch b.topic {
	case outputBindingLatency:
		g.observe(b.topic, d, values{s.component, r.Key, success})
	case egressLatency:
		g.observe(b.topic, d, values{s.component, success, r.Key})
	case bulkEgressLatency:
		g.observe(b.topic, d, values{s.component, success, r.Key})
		if t := r.Tally; t != nil && t.Done > 0 {
			g.count(bulkEgressEvents, float64(t.Done), values{s.component, yes, r.Key})
		}
	case ingressLatency:
		process, status := processStatus(r)
		g.observe(b.topic, d, values{s.component, process, status, r.Key})
	case bulkIngressLatency:
		g.observe(b.topic, d, values{s.component, "", r.Key})
		if t := r.Tally; t != nil {
			for _, part := range [...]struct {
				n    int
				what string
			}{{t.Done, "success"}, {t.Rejected, "drop"}, {t.Failed, "retry"}} {
				if part.n > 0 {
					g.count(bulkIngressEvents, float64(part.n), values{s.component, part.what, r.Key})
				}
			}
		}
	default:
	}
}

// processStatus returns what the sidecar makes of an event, and what came back
// from the application.
func processStatus(r *CallResult) (process, status string) {
	switch {
	case r.Err != nil:
		return "retry", "retry"
	case r.Outcome == Rejected:
		return "drop", "success"
	case r.Outcome == Unwanted:
		return "drop", "drop"
	}
	return "success", "success"
}
