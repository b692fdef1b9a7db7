package balance

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// Outliers is passive health checking, known as outlier detection: an endpoint
// whose answers are worse than they should be is ejected, which is to say not
// used, for a while: for BaseEjection, twice as long the second time in a row,
// three times the third, up to MaxEjection.
type Outliers struct {
	// Consecutive5xx ejects after so many answers in a row with a status of 500
	// and above (of gRPC: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
	// UNAVAILABLE, DATA_LOSS); 0 for never.
	Consecutive5xx int
	// ConsecutiveGateway is the same for 502, 503 and 504 (UNAVAILABLE and
	// DEADLINE_EXCEEDED).
	ConsecutiveGateway int
	// ConsecutiveLocalOrigin ejects after so many attempts in a row that had no
	// answer: no connection, a broken one, none in time.
	ConsecutiveLocalOrigin int
	// SplitLocalOrigin leaves attempts without an answer out of all that is not
	// ConsecutiveLocalOrigin. Otherwise they count as 503.
	SplitLocalOrigin bool
	// Interval is how often rates are looked at, and after how much time without
	// trouble one ejection before is forgotten.
	Interval time.Duration
	// BaseEjection and MaxEjection are how long an ejection lasts.
	BaseEjection, MaxEjection time.Duration
	// MaxPercent bounds how many endpoints are ejected at once. One can always
	// be, if it is not the only one.
	MaxPercent int
	// SuccessRate ejects those whose rate of success is below the average of all
	// by more than Factor times the standard deviation.
	SuccessRate SuccessRate
	// FailurePercentage ejects those of whose answers at least so many percent
	// fail.
	FailurePercentage FailurePercentage
}

// SuccessRate compares endpoints with each other; see Outliers.
type SuccessRate struct {
	Factor float64 // 0 for never
	// MinHosts is how many endpoints with enough requests there must be.
	MinHosts int
	// Volume is how many requests in an interval are enough.
	Volume int
}

// FailurePercentage looks at each endpoint by itself; see Outliers.
type FailurePercentage struct {
	Threshold int // 0 for never
	MinHosts  int
	Volume    int
}

// DefaultOutliers returns what holds for targets that nobody has configured: an
// endpoint that cannot be reached is left out for some seconds.
func DefaultOutliers() Outliers {
	return Outliers{
		ConsecutiveLocalOrigin: 5, SplitLocalOrigin: true, Interval: 10 * time.Second,
		BaseEjection: 5 * time.Second, MaxEjection: time.Minute, MaxPercent: 50,
	}
}

func (o *Outliers) enabled() bool {
	return o.Consecutive5xx > 0 || o.ConsecutiveGateway > 0 || o.ConsecutiveLocalOrigin > 0 || o.rates()
}

func (o *Outliers) rates() bool { return o.SuccessRate.Factor > 0 || o.FailurePercentage.Threshold > 0 }

// record is what outlier detection knows of a host.
type record struct {
	server, gateway, local atomic.Int32 // in a row
	answers, failures      atomic.Int64 // in this interval
}

// reset forgets what was counted in a row.
func (r *record) reset() {
	r.server.Store(0)
	r.gateway.Store(0)
	r.local.Store(0)
}

// status5xx reports whether the answer is a failure of the server.
func (r *Result) status5xx() bool {
	switch r.GRPC {
	case 2, 4, 12, 13, 14, 15:
		return true
	}
	return r.GRPC < 0 && r.Status >= 500
}

// gateway reports whether the answer says that nobody was there to answer.
func (r *Result) gateway() bool {
	return r.GRPC == 4 || r.GRPC == 14 || r.GRPC < 0 && r.Status >= 502 && r.Status <= 504
}

// observe takes a result into the record of a host.
func (c *Cluster) observe(s *snapshot, h *Host, r Result) {
	o := &s.policy.Outliers
	if r.Failure == Abandoned || !o.enabled() {
		return
	}
	local := r.Failure != Answered
	server, gateway := r.status5xx(), r.gateway()
	if local && !o.SplitLocalOrigin {
		server, gateway = true, true
	}
	why := ""
	rec := &h.record
	if count(&rec.local, local, o.ConsecutiveLocalOrigin, false) {
		why = fmt.Sprintf("%d attempts in a row had no answer", o.ConsecutiveLocalOrigin)
	}
	skip := local && o.SplitLocalOrigin
	if count(&rec.gateway, gateway, o.ConsecutiveGateway, skip) && why == "" {
		why = fmt.Sprintf("%d answers in a row were 502, 503 or 504", o.ConsecutiveGateway)
	}
	if count(&rec.server, server, o.Consecutive5xx, skip) && why == "" {
		why = fmt.Sprintf("%d answers in a row had a status of 500 or above", o.Consecutive5xx)
	}
	if why != "" && len(s.hosts) > 1 {
		c.eject(h, why)
	}
	if o.rates() {
		if !skip {
			rec.answers.Add(1)
			if server {
				rec.failures.Add(1)
			}
		}
		now := c.now()
		if last := c.swept.Load(); now-last >= int64(o.Interval) && c.swept.CompareAndSwap(last, now) {
			c.sweep(s)
		}
	}
}

// count counts failures in a row and reports whether there are most now.
func count(n *atomic.Int32, failed bool, most int, skip bool) bool {
	if skip {
		return false
	}
	if !failed {
		if n.Load() != 0 {
			n.Store(0)
		}
		return false
	}
	return n.Add(1) == int32(min(most, math.MaxInt32)) && most > 0
}

// rate is what one host has answered in an interval.
type rate struct {
	host    *Host
	answers int64
	success float64 // percent
}

// sweep looks at the rates of an interval.
func (c *Cluster) sweep(s *snapshot) {
	o := &s.policy.Outliers
	var rates []rate
	for _, h := range s.hosts {
		n, bad := h.record.answers.Swap(0), h.record.failures.Swap(0)
		if n > 0 {
			rates = append(rates, rate{h, n, 100 * float64(n-min(bad, n)) / float64(n)})
		}
	}
	if o.SuccessRate.Factor > 0 {
		if list := enough(rates, o.SuccessRate.Volume); len(list) >= max(o.SuccessRate.MinHosts, 1) {
			c.compare(list, o.SuccessRate.Factor)
		}
	}
	if t := o.FailurePercentage.Threshold; t > 0 {
		list := enough(rates, o.FailurePercentage.Volume)
		if len(list) < o.FailurePercentage.MinHosts {
			return
		}
		for _, r := range list {
			if 100-r.success >= float64(t) {
				c.eject(r.host, fmt.Sprintf("%.1f %% of its answers failed, at least %d %%", 100-r.success, t))
			}
		}
	}
}

// enough leaves out hosts with too few answers to tell.
func enough(rates []rate, volume int) []rate {
	var out []rate
	for _, r := range rates {
		if r.answers >= int64(volume) {
			out = append(out, r)
		}
	}
	return out
}

// compare ejects those whose rate of success stands out from that of all.
func (c *Cluster) compare(list []rate, factor float64) {
	mean, deviation := 0.0, 0.0
	for _, r := range list {
		mean += r.success / float64(len(list))
	}
	for _, r := range list {
		deviation += (r.success - mean) * (r.success - mean) / float64(len(list))
	}
	least := mean - factor*math.Sqrt(deviation)
	for _, r := range list {
		if r.success < least {
			c.eject(r.host, fmt.Sprintf("%.1f %% of its answers were good, less than %.1f %% (%.1f %% on average)", r.success, least, mean))
		}
	}
}

// eject takes a host out of use, if not too many are already.
func (c *Cluster) eject(h *Host, why string) {
	c.mu.Lock()
	defer c.unlock()
	o := &c.policy.Outliers
	ejected, there := 0, false
	for _, other := range c.hosts {
		if other.health.ejectedUntil != 0 {
			ejected++
		}
		there = there || other == h
	}
	v := &h.health
	if !there || v.ejectedUntil != 0 || len(c.hosts) < 2 || ejected > 0 && 100*(ejected+1) > o.MaxPercent*len(c.hosts) {
		return
	}
	now := c.now()
	if v.ejections > 0 && o.Interval > 0 {
		v.ejections = max(0, v.ejections-int((now-v.readmitted)/int64(o.Interval)))
	}
	v.ejections++
	wait := max(min(o.BaseEjection*time.Duration(v.ejections), max(o.MaxEjection, o.BaseEjection)), time.Millisecond)
	v.ejectedUntil, v.why = now+int64(wait), why
	c.event(h, Ejected, why, wait)
	c.rebuild()
}

// readmit brings back those whose ejection is over.
func (c *Cluster) readmit(now int64) *snapshot {
	c.mu.Lock()
	defer c.unlock()
	changed := false
	for _, h := range c.hosts {
		v := &h.health
		if v.ejectedUntil == 0 || v.ejectedUntil > now {
			continue
		}
		v.ejectedUntil, v.readmitted, changed = 0, now, true
		h.record.reset()
		h.begins(now, c.policy.SlowStart)
		c.event(h, Readmitted, "its ejection is over", 0)
	}
	if changed {
		c.rebuild()
	}
	return c.state.Load()
}
