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
// Series are made when they are first needed.
type boundCall struct {
	g *generation
	// timed is the metric that times the operation, and operation what Dapr
	// calls it there.
	timed     metric
	operation string
	calls     few // by fault code and one; 0 stands for success
	ends      few // by what came of the call
	// keys has what is measured by topic, or by operation of a binding; empty
	// for what is not.
	keys keyed
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
	code, success := 0, 1
	if r.Err != nil {
		code, success = int(fault.CodeOf(r.Err))+1, 0
	}
	count := b.calls.get(code)
	if count == nil {
		count = s.countOf(b, code)
	}
	count.number.Add(1)
	if b.keys.table != nil {
		s.observeByKey(b, &r, success)
		return
	}
	end := b.ends.get(success)
	if end == nil {
		end = g.keep(&b.ends, success, b.timed, s.valuesOf(b, success))
	}
	if b.timed == callSeconds {
		end.observe(r.Duration.Seconds())
		return
	}
	end.observe(milliseconds(r.Duration))
}

// bind finds out which metrics an operation has.
func (s *CallStats) bind(g *generation) *boundCall {
	b := &boundCall{g: g}
	b.timed, b.operation = timedAs(s.block, s.op)
	switch b.timed {
	case outputBindingLatency, egressLatency, bulkEgressLatency, ingressLatency, bulkIngressLatency:
		b.keys = newKeyed()
	default:
	}
	return b
}

// countOf returns the counter of the calls that ended with a code, and one.
func (s *CallStats) countOf(b *boundCall, code int) *series {
	text := "ok"
	if code > 0 {
		text = fault.Code(code - 1).String() //nolint:gosec // it was one
	}
	return b.g.keep(&b.calls, code, calls, values{s.block, s.component, s.op, s.direction, text})
}

// outcomes are the labels of what succeeded and what did not.
func outcomes() [2]string { return [...]string{"false", "true"} }

// valuesOf returns the labels of the metric that times the operation.
func (s *CallStats) valuesOf(b *boundCall, success int) values {
	ended := outcomes()[success]
	switch b.timed {
	case callSeconds:
		return values{s.block, s.component, s.op, s.direction}
	case jobLatency:
		return values{b.operation, ended}
	case inputBindingLatency, conversationLatency:
		return values{s.component, ended}
	default:
		return values{s.component, b.operation, ended}
	}
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

// The parts of a call that are counted by key, as numbers of a few; those before
// are successes and processStates.
const (
	partDone = iota + numStates
	partRejected
	partFailed
)

// observeByKey records a call whose series depends on what it was about.
func (s *CallStats) observeByKey(b *boundCall, r *CallResult, success int) {
	of, end := b.keys.of(r.Key), success
	switch b.timed {
	case ingressLatency:
		end = stateOf(r)
	case bulkIngressLatency:
		end = 0
	default:
	}
	timed := of.get(end)
	if timed == nil {
		timed = b.g.keep(of, end, b.timed, s.valuesByKey(b, r.Key, end))
	}
	timed.observe(milliseconds(r.Duration))
	if t := r.Tally; t != nil {
		s.countParts(b, r.Key, t)
	}
}

// valuesByKey returns the labels of the metric that times the operation.
func (s *CallStats) valuesByKey(b *boundCall, key string, end int) values {
	switch b.timed {
	case outputBindingLatency:
		return values{s.component, key, outcomes()[end]}
	case ingressLatency:
		process, status := processState(end)
		return values{s.component, process, status, key}
	case bulkIngressLatency:
		return values{s.component, "", key}
	default:
		return values{s.component, outcomes()[end], key}
	}
}

// countParts counts the events of a batch.
func (s *CallStats) countParts(b *boundCall, key string, t *CallTally) {
	which, names := bulkIngressEvents, [...]string{"success", "drop", "retry"}
	switch b.timed {
	case bulkEgressLatency:
		which, names = bulkEgressEvents, [...]string{"true", "", ""}
	case bulkIngressLatency:
	default:
		return
	}
	of := b.keys.of(key)
	for i, n := range [...]int{t.Done, t.Rejected, t.Failed} {
		if n == 0 || names[i] == "" {
			continue
		}
		part := of.get(partDone + i)
		if part == nil {
			part = b.g.keep(of, partDone+i, which, values{s.component, names[i], key})
		}
		part.number.Add(int64(n))
	}
}

// What the sidecar makes of an event, and what came back from the application.
const (
	stateRetry = iota
	stateSuccess
	stateRejected
	stateUnwanted
	numStates
)

func stateOf(r *CallResult) int {
	switch {
	case r.Err != nil:
		return stateRetry
	case r.Outcome == Rejected:
		return stateRejected
	case r.Outcome == Unwanted:
		return stateUnwanted
	}
	return stateSuccess
}

// processState returns the labels of a state.
func processState(state int) (process, status string) {
	switch state {
	case stateRetry:
		return "retry", "retry"
	case stateRejected:
		return "drop", "success"
	case stateUnwanted:
		return "drop", "drop"
	}
	return "success", "success"
}
