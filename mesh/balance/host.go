package balance

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/mesh/discovery"
)

// Host is one endpoint of a Cluster and what is known of it. It is safe for
// concurrent use.
type Host struct {
	cluster  *Cluster
	key      string // what tells it from others
	hash     uint64 // of its address, for the consistent algorithms
	endpoint atomic.Pointer[discovery.Endpoint]

	// What follows is read and written by every request.
	active  atomic.Int64
	latency ewma
	// avoid is not 0 while there is a reason to look closer: it warms up, or
	// asks to be left alone.
	avoid   atomic.Uint32
	limited atomic.Int64 // until when it asks to be left alone
	warm    atomic.Int64 // since when it warms up; 0 when it does not
	record  record

	// What follows is guarded by the cluster's mutex.
	health verdict
}

// The reasons to look closer.
const (
	avoidLimited = 1 << iota
	avoidWarming
)

// Endpoint returns what discovery says of the host. It must not be changed.
func (h *Host) Endpoint() *discovery.Endpoint { return h.endpoint.Load() }

// Active returns how many requests it has under way from here.
func (h *Host) Active() int { return int(h.active.Load()) }

// weight is its share relative to others.
func (h *Host) weight() uint32 { return max(h.Endpoint().Weight, 1) }

// setAvoid sets or clears a reason to look closer.
func (h *Host) setAvoid(reason uint32, on bool) {
	if on {
		h.avoid.Or(reason)
		return
	}
	h.avoid.And(^reason)
}

// left reports whether the host asks to be left alone now.
func (h *Host) left(now int64) bool {
	if h.avoid.Load()&avoidLimited == 0 {
		return false
	}
	if h.limited.Load() > now {
		return true
	}
	h.setAvoid(avoidLimited, false)
	return false
}

// share returns which part of what is due to it the host gets now, 0 to 1.
func (h *Host) share(now int64, s SlowStart) float64 {
	if h.avoid.Load()&avoidWarming == 0 {
		return 1
	}
	since := h.warm.Load()
	if s.Window <= 0 || now-since >= int64(s.Window) {
		h.setAvoid(avoidWarming, false)
		return 1
	}
	part := float64(now-since) / float64(s.Window)
	return max(s.Least, math.Pow(part, 1/s.Aggression))
}

// begins lets the host warm up from now on.
func (h *Host) begins(now int64, s SlowStart) {
	if s.Window > 0 {
		h.warm.Store(now)
		h.setAvoid(avoidWarming, true)
	}
}

// ewma is a moving average of latencies that takes a peak as it is and forgets
// it with time (as Finagle and Linkerd have it). Updates that meet may lose one.
type ewma struct {
	value atomic.Uint64 // nanoseconds, as the bits of a float64; 0 for none yet
	stamp atomic.Int64  // of the last update
}

// ewmaDecay is the time in which the weight of what was measured falls to 1/e.
const ewmaDecay = 10 * time.Second

// mostLatency is what a latency counts as at most: that of a stream whose head
// comes with its first message says little, and must not weigh for minutes.
const mostLatency = 10 * time.Second

// add takes one latency in.
func (e *ewma) add(now int64, latency float64) {
	latency = min(latency, float64(mostLatency))
	old := math.Float64frombits(e.value.Load())
	last := e.stamp.Load()
	if !e.stamp.CompareAndSwap(last, now) && latency <= old {
		return // another one is as good
	}
	next := latency
	if latency < old {
		w := math.Exp(-float64(max(now-last, 0)) / float64(ewmaDecay))
		next = old*w + latency*(1-w)
	}
	e.value.Store(math.Float64bits(max(next, 1)))
}

// at returns the average at a time: what is not confirmed is forgotten, so that
// an endpoint that was slow once is tried again.
func (e *ewma) at(now int64) float64 {
	v := math.Float64frombits(e.value.Load())
	if v == 0 {
		return 0
	}
	if age := now - e.stamp.Load(); age > int64(ewmaDecay/64) {
		return v * math.Exp(-float64(age)/float64(ewmaDecay))
	}
	return v
}

// unmeasured is the cost of a request under way at a host of which no latency is
// known: it gets one to measure, and not all.
const unmeasured = float64(time.Second)

// cost is what PeakEWMA compares: the latency to expect, if a host of average
// weight serves its requests one after the other.
func (h *Host) cost(now int64, average float64) float64 {
	latency := h.latency.at(now)
	under := float64(h.active.Load())
	if latency == 0 {
		return unmeasured * under
	}
	return latency * (1 + under*average/float64(h.weight()))
}

// load is what LeastRequest compares.
func (h *Host) load() float64 { return float64(h.active.Load()) / float64(h.weight()) }
