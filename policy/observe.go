package policy

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
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

// Trace records a span for every call of a sampled trace: of a component an
// internal one, and of a request from another sidecar the one that answers that
// sidecar's. Calls of other applications, and deliveries to this one, have spans
// of the dialect that knows who is called.
func Trace(t *telemetry.Tracing) Policy {
	return func(op Op, next Handler) Handler {
		if t == nil || op.Block == blockInvoke && !op.Inbound || op.Block != blockInvoke && op.Inbound {
			return next
		}
		begin := ofComponent(t, op)
		if op.Block == blockInvoke {
			begin = ofPeer(t, op)
		}
		return func(ctx context.Context, c *Call) error {
			if !t.Records(ctx) {
				return next(ctx, c)
			}
			ctx, span := begin(ctx, c)
			err := next(ctx, c)
			if c.Attempt > 1 {
				span.Set("proa.attempts", strconv.Itoa(c.Attempt))
			}
			span.End(err)
			return err
		}
	}
}

// blockInvoke is the name of the block of service invocation.
const blockInvoke = "invoke"

type beginSpan func(context.Context, *Call) (context.Context, telemetry.Span)

func ofComponent(t *telemetry.Tracing, op Op) beginSpan {
	name := op.Block + "/" + op.Name
	fixed := []attribute.KeyValue{
		attribute.String("proa.block", op.Block), attribute.String("proa.component", op.Component),
		attribute.String("proa.op", op.Name),
	}
	return func(ctx context.Context, _ *Call) (context.Context, telemetry.Span) {
		return t.Start(ctx, name, fixed...)
	}
}

// ofPeer names what Dapr's sidecars call each other with.
func ofPeer(t *telemetry.Tracing, op Op) beginSpan {
	return func(ctx context.Context, c *Call) (context.Context, telemetry.Span) {
		return t.StartSpan(ctx, telemetry.SpanInfo{
			Name: "CallLocal/" + op.Component + "/" + strings.TrimPrefix(c.Key, "/"), Kind: telemetry.Server,
			Attributes: []string{
				"dapr.api", "/dapr.proto.internals.v1.ServiceInvocation/CallLocal", "dapr.protocol", "grpc",
				"dapr.invoke_method", strings.TrimPrefix(c.Key, "/"), "rpc.service", "ServiceInvocation", "proa.caller", c.Caller,
			},
		})
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
