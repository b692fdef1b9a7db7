package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// reportInterval is how often at the most it is logged that a collector does
// not take what it is sent.
const reportInterval = 30 * time.Second

// reporter logs what could not be exported. It is safe for concurrent use.
type reporter struct {
	log *slog.Logger

	mu     sync.Mutex
	failed bool      // the last export
	last   time.Time // when that was logged
	lost   int       // since then
}

func newReporter(log *slog.Logger, signal, to string) *reporter {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &reporter{log: log.With("signal", signal, "collector", to)}
}

// result notes how the export of n things ended.
func (r *reporter) result(ctx context.Context, n int, err error) {
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return // by the SDK, which exports once more before it ends
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		if r.failed {
			r.log.InfoContext(ctx, "the collector takes telemetry again", "lost", r.lost)
			r.failed, r.lost, r.last = false, 0, time.Time{}
		}
		return
	}
	r.failed = true
	r.lost += n
	if now := time.Now(); now.Sub(r.last) >= reportInterval {
		r.log.WarnContext(ctx, "the collector does not take telemetry; requests are not affected", "lost", r.lost, "error", err)
		r.last, r.lost = now, 0
	}
}
