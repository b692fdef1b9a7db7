package policy

import (
	"context"
	"log/slog"
	"runtime/debug"

	"github.com/proa-io/proa/fault"
)

// Recover turns a panic below it into an Internal error and logs the stack, so
// that a bug met by one call does not take the others down.
func Recover(log *slog.Logger) Policy {
	return func(op Op, next Handler) Handler {
		return func(ctx context.Context, c *Call) (err error) {
			defer func() {
				if r := recover(); r != nil {
					log.ErrorContext(ctx, "panic in a call", "block", op.Block, "component", op.Component, "op", op.Name,
						"panic", r, "stack", string(debug.Stack()))
					err = fault.New(fault.Internal, "%s %q: %s: internal error", op.Block, op.Component, op.Name)
				}
			}()
			return next(ctx, c)
		}
	}
}
