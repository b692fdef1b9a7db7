package balance

import (
	"time"
)

// Attempt is one attempt at a request, at one host. It is not safe for
// concurrent use.
type Attempt struct {
	// Host is where it goes.
	Host *Host

	began   int64 // on the cluster's clock
	retry   bool
	counted bool // against limits
	headed  bool
}

// Failure is how an attempt failed other than by an answer.
type Failure uint8

// The failures.
const (
	// Answered: it did not; there was an answer.
	Answered Failure = iota
	// Unreachable: no connection could be had, or it was refused.
	Unreachable
	// Broken: the connection or stream broke off.
	Broken
	// TimedOut: there was no answer in time.
	TimedOut
	// Abandoned: the one who asked has lost interest, or the request was wrong.
	// It says nothing about the host.
	Abandoned
)

// Result is what came of an attempt.
type Result struct {
	Failure Failure
	// Status is the HTTP status of the answer.
	Status int
	// GRPC is the gRPC status of an answer that has one, otherwise -1.
	GRPC int
	// RetryAfter is how long the host asks to be left alone, when it refuses
	// because it has too much to do; 0 when it does not say.
	RetryAfter time.Duration
}

// Headed tells that the head of the answer has come.
func (a *Attempt) Headed() {
	if a.headed || a.Host == nil {
		return
	}
	a.headed = true
	now := a.Host.cluster.now()
	a.Host.latency.add(now, float64(now-a.began))
}

// How long a host is left alone that has too much to do, if it does not say so,
// and at most.
const (
	defaultRetryAfter = time.Second
	maxRetryAfter     = 30 * time.Second
)

// The latency that a failure counts as is eight times that before, within these
// bounds.
const (
	leastPenalty = 10 * time.Millisecond
	mostPenalty  = time.Second
)

// Done tells that the attempt is over, its answer passed on. Only the first call
// counts.
func (a *Attempt) Done(r Result) {
	h := a.Host
	if h == nil {
		return
	}
	a.Host = nil
	c := h.cluster
	h.active.Add(-1)
	a.uncount(c)
	s := c.state.Load()
	if !a.headed && (r.Failure == TimedOut || r.Failure == Abandoned) {
		// It would have taken longer still.
		if now := c.now(); float64(now-a.began) > h.latency.at(now) {
			h.latency.add(now, float64(now-a.began))
		}
	}
	if r.inVain() {
		// What fails at once is not quick: it would draw everything to it.
		now := c.now()
		h.latency.add(now, min(max(8*h.latency.at(now), float64(leastPenalty)), float64(mostPenalty)))
	}
	if r.limited() {
		wait := defaultRetryAfter
		if r.RetryAfter > 0 {
			wait = min(r.RetryAfter, maxRetryAfter)
		}
		h.limited.Store(c.now() + int64(wait))
		h.setAvoid(avoidLimited, true)
	}
	c.observe(s, h, r)
}

// uncount takes an attempt off the limits of the cluster.
func (a *Attempt) uncount(c *Cluster) {
	if !a.counted {
		return
	}
	a.counted = false
	c.under.Add(-1)
	if a.retry {
		c.retries.Add(-1)
	}
}

// limited reports whether the host says that it has too much to do.
func (r *Result) limited() bool {
	return r.Failure == Answered && (r.GRPC == 8 || r.GRPC < 0 && r.Status == 429)
}

// inVain reports whether nobody did what was asked for.
func (r *Result) inVain() bool {
	return r.Failure == Unreachable || r.Failure == Broken || r.gateway()
}
