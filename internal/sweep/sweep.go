// Package sweep repeats a chore in the background until it is stopped.
package sweep

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Sweeper is a chore under way. A nil Sweeper does nothing.
type Sweeper struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Start calls chore at once and then every interval, and logs when it fails,
// until Stop. Without an interval above 0 it returns nil. The chore's context
// has the values of ctx but does not end with it.
func Start(ctx context.Context, interval time.Duration, log *slog.Logger, chore func(context.Context) error) *Sweeper {
	if interval <= 0 {
		return nil
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Sweeper{}
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.wg.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			if err := chore(ctx); err != nil && ctx.Err() == nil {
				log.WarnContext(ctx, "removing what has expired failed and will be tried again", "error", err, "in", interval)
			}
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	})
	return s
}

// Stop cancels the chore and waits for its end.
func (s *Sweeper) Stop() {
	if s == nil {
		return
	}
	s.cancel()
	s.wg.Wait()
}

// Row returns the name of the row that says when expired items were last removed
// from a table, in a table of such rows that Dapr shares. Dapr has one row for
// all tables, so that of several with one interval only the fastest is ever
// cleaned: here only the table of the default name goes by that row, and others
// have their own.
func Row(table, byDefault string) string {
	const row = "last-cleanup"
	if table == byDefault {
		return row
	}
	return row + "-" + table
}
