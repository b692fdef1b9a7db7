package policy

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/telemetry"
)

// ReasonTimeout marks a DeadlineExceeded that the Timeout policy caused, not
// the caller's own deadline.
const ReasonTimeout fault.Reason = "policy.timeout"

// Timeout bounds each attempt by d. It starts no goroutine: what is below it
// must return soon after its context ends, as every driver does. d ≤ 0 means
// no bound. stats, if set, counts attempts and those that took too long.
func Timeout(d time.Duration, stats *telemetry.PolicyStats) Policy {
	return func(op Op, next Handler) Handler {
		if d <= 0 {
			return next
		}
		var used sync.Pool // *deadline
		return func(ctx context.Context, c *Call) error {
			stats.Executed("")
			tctx := withTimeout(ctx, d, &used)
			defer tctx.end()
			err := next(tctx, c)
			if err != nil && ctx.Err() == nil && errors.Is(tctx.Err(), context.DeadlineExceeded) {
				stats.Activated("")
				return fault.Wrap(err, fault.DeadlineExceeded, "%s %q: %s took longer than %v, the timeout set for it",
					op.Block, op.Component, op.Name, d).WithReason(ReasonTimeout)
			}
			return err
		}
	}
}
