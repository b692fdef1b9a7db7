package balance

import (
	"fmt"
	"math"
	"time"

	"github.com/proa-io/proa/mesh/discovery"
)

// EventKind is what can happen to an endpoint.
type EventKind string

// The kinds of events.
const (
	Ejected     EventKind = "ejected"
	Readmitted  EventKind = "readmitted"
	CheckFailed EventKind = "check_failed"
	CheckPassed EventKind = "check_passed"
)

// Event is something that happened to an endpoint.
type Event struct {
	Target   string
	Endpoint discovery.Endpoint
	Kind     EventKind
	// Reason says why, for people.
	Reason string
	// For is how long an ejection lasts.
	For time.Duration
}

// event notes what is told when the mutex is given back.
func (c *Cluster) event(h *Host, kind EventKind, why string, d time.Duration) {
	c.events = append(c.events, Event{c.opt.Name, *h.Endpoint(), kind, why, d})
}

// verdict is what is held against a host. The cluster's mutex guards it.
type verdict struct {
	draining, unhealthy bool // as its source says
	check               checkState
	ejectedUntil        int64  // on the cluster's clock; 0 when it is not ejected
	why                 string // it was ejected the last time
	readmitted          int64  // when the last ejection ended
	ejections           int    // in a row
}

// usable reports whether nothing is held against the host, but that it may be
// about to leave.
func (v *verdict) usable() bool { return !v.unhealthy && !v.check.failing && v.ejectedUntil == 0 }

// reason says what is held against the host; "" for nothing.
func (v *verdict) reason(epoch time.Time) string {
	switch {
	case v.ejectedUntil != 0:
		until := epoch.Add(time.Duration(v.ejectedUntil)).UTC().Format(time.TimeOnly)
		return fmt.Sprintf("is ejected until %s UTC (ejection %d in a row): %s", until, v.ejections, v.why)
	case v.check.failing:
		return "fails its health checks: " + v.check.why
	case v.unhealthy:
		return "is unhealthy, as its source says"
	case v.draining:
		return "is draining: it finishes what it has"
	}
	return ""
}

// HostStatus is what is known of an endpoint.
type HostStatus struct {
	Endpoint discovery.Endpoint
	// InUse tells that nothing is held against it.
	InUse bool
	// Reason says why it is not in use: by whom it was taken out, why, and until
	// when.
	Reason string
	// Ejections counts those in a row.
	Ejections int
	// Active is what is under way from here.
	Active int
	// Latency is the moving average until the head of an answer; 0 when none was
	// measured.
	Latency time.Duration
}

// Hosts returns what is known of each endpoint, by address.
func (c *Cluster) Hosts() []HostStatus {
	c.readmit(c.now())
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]HostStatus, len(c.hosts))
	for i, h := range c.hosts {
		why := h.health.reason(c.epoch)
		out[i] = HostStatus{
			Endpoint: *h.Endpoint(), InUse: why == "", Reason: why, Ejections: h.health.ejections,
			Active: h.Active(), Latency: time.Duration(math.Float64frombits(h.latency.value.Load())),
		}
	}
	return out
}
