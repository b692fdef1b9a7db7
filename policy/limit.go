package policy

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
)

// Reasons of calls that a limit refused.
const (
	ReasonRateLimited fault.Reason = "policy.rate_limited"
	ReasonBulkhead    fault.Reason = "policy.bulkhead_full"
)

// Bulkhead bounds how many calls of one target are under way at once, so that
// a slow one does not use up everything.
type Bulkhead struct {
	slots   chan struct{}
	maxWait time.Duration
}

// NewBulkhead allows most calls at once. A call beyond that waits for maxWait
// at the most, or for ever within its deadline when maxWait is negative, and
// is refused with ResourceExhausted then.
func NewBulkhead(most int, maxWait time.Duration) *Bulkhead {
	return &Bulkhead{slots: make(chan struct{}, max(most, 1)), maxWait: maxWait}
}

// Policy is a Policy that passes calls through b.
func (b *Bulkhead) Policy(op Op, next Handler) Handler {
	return func(ctx context.Context, c *Call) error {
		select {
		case b.slots <- struct{}{}:
		default:
			if err := b.wait(ctx, op); err != nil {
				return err
			}
		}
		defer func() { <-b.slots }()
		return next(ctx, c)
	}
}

func (b *Bulkhead) wait(ctx context.Context, op Op) error {
	coroutine.Detach(ctx)
	var over <-chan time.Time
	if b.maxWait >= 0 {
		t := time.NewTimer(b.maxWait)
		defer t.Stop()
		over = t.C
	}
	select {
	case b.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-over:
		return fault.New(fault.ResourceExhausted, "%s %q: %d calls are under way, the most allowed at once",
			op.Block, op.Component, cap(b.slots)).WithReason(ReasonBulkhead)
	}
}

// RateLimit bounds the rate of calls with a token bucket, in the form of the
// generic cell rate algorithm: one atomic word and no timer. It is safe for
// concurrent use.
type RateLimit struct {
	interval int64        // nanoseconds between calls at the full rate
	burst    int64        // nanoseconds of credit
	tat      atomic.Int64 // theoretical arrival time of the next call, Unix nanoseconds
}

// NewRateLimit allows rate calls per second, and burst calls at once.
func NewRateLimit(rate float64, burst int) *RateLimit {
	interval := int64(float64(time.Second) / max(rate, 1e-9))
	return &RateLimit{interval: interval, burst: interval * int64(max(burst, 1))}
}

// Allow takes one call from the bucket. When there is none left it returns
// false and how long to wait for the next.
func (l *RateLimit) Allow(now time.Time) (bool, time.Duration) {
	t := now.UnixNano()
	for {
		old := l.tat.Load()
		next := max(old, t) + l.interval
		if wait := next - t - l.burst; wait > 0 {
			return false, time.Duration(wait)
		}
		if l.tat.CompareAndSwap(old, next) {
			return true, 0
		}
	}
}

// Full reports whether the bucket is full, so that it is as a new one.
func (l *RateLimit) Full(now time.Time) bool { return l.tat.Load() <= now.UnixNano() }

// Policy is a Policy that refuses calls beyond the rate with
// ResourceExhausted and the time to wait.
func (l *RateLimit) Policy(op Op, next Handler) Handler {
	return func(ctx context.Context, c *Call) error {
		if ok, wait := l.Allow(time.Now()); !ok {
			return fault.New(fault.ResourceExhausted, "%s %q: %s is called too often; next call in %v",
				op.Block, op.Component, op.Name, wait.Round(time.Millisecond)).WithReason(ReasonRateLimited).WithRetryAfter(wait)
		}
		return next(ctx, c)
	}
}
