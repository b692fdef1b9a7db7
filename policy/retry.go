package policy

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/telemetry"
)

// Retry repeats failed calls. The zero value repeats nothing.
type Retry struct {
	// Max counts the tries after the first; -1 means no bound but the
	// caller's deadline.
	Max int
	// Delay is the wait before the first repetition.
	Delay time.Duration
	// Exponential makes the wait one and a half times as long each time; else
	// it stays the same.
	Exponential bool
	// MaxDelay bounds a wait that grows, before the jitter; 60 s when zero.
	MaxDelay time.Duration
	// MaxElapsed bounds the time from the first failure until the beginning of
	// the last repetition; no bound when zero.
	MaxElapsed time.Duration
	// Jitter, from 0 to 1, is by which share of itself a wait may be shorter or
	// longer, so that callers who failed together do not come back together.
	Jitter float64
	// SafeOnly repeats a call only when that certainly does no harm: it is
	// idempotent, or the attempt did nothing.
	SafeOnly bool
	// When, if set, decides which errors are worth another try instead of
	// RetryableError.
	When func(error) bool
	// HTTP and GRPC are those of Again: they tell When's opinion of an answer
	// before there is an error.
	HTTP, GRPC func(status int) bool
	// Budget, if set, bounds the share of calls that are repetitions. It may
	// be shared by several operations.
	Budget *Budget
	// Stats, if set, counts calls and repetitions.
	Stats *telemetry.PolicyStats
}

// growth is by what an exponential wait grows.
const growth = 1.5

// RetryableError reports whether another try at the same call may end better:
// the target was unavailable, overloaded, too slow or failed within itself.
// What the caller did wrong stays wrong.
func RetryableError(err error) bool {
	switch fault.CodeOf(err) {
	case fault.Unavailable, fault.ResourceExhausted, fault.DeadlineExceeded, fault.Internal, fault.Unknown:
		return true
	}
	return false
}

// Policy returns r as a Policy. It belongs outside of CircuitBreaker and
// Timeout: each try passes the breaker and has the whole timeout, while the
// caller's deadline bounds all tries together.
func (r Retry) Policy(_ Op, next Handler) Handler {
	if r.Max == 0 {
		return next
	}
	if r.MaxDelay <= 0 {
		r.MaxDelay = time.Minute
	}
	if r.When == nil {
		r.When = RetryableError
	}
	again := &Again{Whatever: !r.SafeOnly, HTTP: r.HTTP, GRPC: r.GRPC}
	return func(ctx context.Context, c *Call) error {
		r.Budget.Deposit()
		c.Again = again
		r.Stats.Executed("")
		err := next(ctx, c)
		if err == nil || !r.again(ctx, c, err) {
			return err
		}
		return r.repeat(ctx, c, next, err)
	}
}

func (r *Retry) repeat(ctx context.Context, c *Call, next Handler, err error) error {
	delay, began := r.Delay, time.Now()
	for n := 1; r.Max < 0 || n <= r.Max; n++ {
		if !r.Budget.Withdraw() {
			return err
		}
		wait := max(r.jittered(delay), fault.RetryAfterOf(err))
		if !lasts(ctx, c, wait) || r.MaxElapsed > 0 && time.Since(began)+wait > r.MaxElapsed {
			return err // there is no time for another try: say why the last one failed
		}
		if !sleep(ctx, wait) {
			return err
		}
		if r.Exponential {
			delay = min(time.Duration(growth*float64(delay)), r.MaxDelay)
		}
		c.Attempt++
		r.Stats.Activated("")
		c.Unsent = false
		if err = next(ctx, c); err == nil || !r.again(ctx, c, err) {
			return err
		}
	}
	return err
}

// lasts reports whether the caller still waits after d.
func lasts(ctx context.Context, c *Call, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	return c.Deadline.IsZero() || time.Until(c.Deadline) > d
}

func (r *Retry) again(ctx context.Context, c *Call, err error) bool {
	if c.Committed || ctx.Err() != nil {
		return false
	}
	if r.SafeOnly && !c.Idempotent && !c.Unsent {
		return false
	}
	if fault.ReasonOf(err) == ReasonBreakerOpen {
		return c.Op.Inbound // a caller is told at once; a message waits rather than being given up
	}
	return r.When(err)
}

func (r *Retry) jittered(d time.Duration) time.Duration {
	if r.Jitter <= 0 || d <= 0 {
		return d
	}
	spread := time.Duration(float64(d) * min(r.Jitter, 1))
	return d - spread + rand.N(2*spread+1)
}

// sleep waits and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	coroutine.Detach(ctx)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Budget bounds retries to a share of the calls, so that a target in trouble
// is not hit by a multiple of its load. Each call deposits Ratio tokens, each
// repetition takes one; a reserve of tokens serves rare callers. A nil Budget
// has no bound. It is safe for concurrent use.
type Budget struct {
	ratio    int64 // thousandths of a token per call
	capacity int64
	tokens   atomic.Int64 // thousandths
}

// NewBudget returns a full Budget that allows ratio repetitions per call (0.2
// is one in five) on top of reserve repetitions at once.
func NewBudget(ratio float64, reserve int) *Budget {
	b := &Budget{ratio: int64(ratio * 1000), capacity: int64(max(reserve, 1)) * 1000}
	b.tokens.Store(b.capacity)
	return b
}

// Deposit notes a call.
func (b *Budget) Deposit() {
	if b == nil {
		return
	}
	if b.tokens.Load() < b.capacity { // a small overshoot is harmless
		b.tokens.Add(b.ratio)
	}
}

// Withdraw reports whether a call may be repeated, and counts that it is.
func (b *Budget) Withdraw() bool {
	if b == nil {
		return true
	}
	for {
		n := b.tokens.Load()
		if n < 1000 {
			return false
		}
		if b.tokens.CompareAndSwap(n, n-1000) {
			return true
		}
	}
}
