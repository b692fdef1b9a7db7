package policy

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/telemetry"
)

// Metrics counts and times every call. The counters are looked up when an
// operation is bound.
func Metrics(m *telemetry.Metrics) Policy {
	return func(op Op, next Handler) Handler {
		stats := m.Call(op.Block, op.Component, op.Name, op.Inbound)
		if stats == nil {
			return next
		}
		return func(ctx context.Context, c *Call) error {
			if !stats.Enabled() {
				return next(ctx, c)
			}
			start := time.Now()
			err := next(ctx, c)
			stats.Observe(telemetry.CallResult{
				Duration: time.Since(start), Err: err, Key: c.Key, Outcome: c.Outcome, Tally: c.Tally,
			})
			return err
		}
	}
}

// Trace records a span for every call of a sampled trace.
func Trace(t *telemetry.Tracing) Policy {
	return func(op Op, next Handler) Handler {
		if t == nil {
			return next
		}
		name := op.Block + "/" + op.Name
		fixed := []attribute.KeyValue{
			attribute.String("proa.block", op.Block), attribute.String("proa.component", op.Component),
			attribute.String("proa.op", op.Name),
		}
		return func(ctx context.Context, c *Call) error {
			if !t.Enabled() {
				return next(ctx, c)
			}
			ctx, span := t.Start(ctx, name, fixed...)
			err := next(ctx, c)
			span.End(err)
			return err
		}
	}
}

// logInterval is how often at the most one operation's failures are logged as
// warnings, so that a dead component does not fill the log.
const logInterval = time.Second

// Log writes one line for each call that failed: a warning when the
// infrastructure is at fault, at most one per operation and second, else a
// debug line.
func Log(log *slog.Logger) Policy {
	return func(op Op, next Handler) Handler {
		var last atomic.Int64 // Unix nanoseconds of the last warning
		var skipped atomic.Int64
		log := log.With("block", op.Block, "component", op.Component, "op", op.Name)
		return func(ctx context.Context, c *Call) error {
			err := next(ctx, c)
			if err == nil {
				return nil
			}
			if !RetryableError(err) {
				log.DebugContext(ctx, "call failed", "code", fault.CodeOf(err), "attempts", c.Attempt, "error", err)
				return err
			}
			now, then := time.Now().UnixNano(), last.Load()
			if now-then < int64(logInterval) || !last.CompareAndSwap(then, now) {
				skipped.Add(1)
				return err
			}
			log.WarnContext(ctx, "call failed", "code", fault.CodeOf(err), "attempts", c.Attempt,
				"not_logged_before", skipped.Swap(0), "error", err)
			return err
		}
	}
}
