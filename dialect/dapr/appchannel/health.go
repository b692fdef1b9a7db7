package appchannel

import (
	"context"
	"time"
)

// RunHealth probes the health of the application until ctx ends, and returns
// nil then. An HTTP application is well when it answers GET at Health.Path with
// 2xx; a gRPC application when it answers HealthCheck.
//
// At first the application counts as not well. report is called with true when
// a probe succeeds for the first time, with false when Health.Threshold probes
// in a row have failed, and so on, each time it changes. Probes wait while
// report runs.
func (c *Channel) RunHealth(ctx context.Context, report func(healthy bool)) error {
	h := c.opt.Health
	tick := time.NewTicker(h.Interval)
	defer tick.Stop()
	healthy, failures := false, 0
	for {
		err := c.probe(ctx, h.Timeout)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failures = 0
			if !healthy {
				healthy = true
				c.opt.Log.InfoContext(ctx, "the application is well")
				report(true)
			}
		default:
			if failures++; failures != h.Threshold {
				break
			}
			c.opt.Log.WarnContext(ctx, "the application is not well", "failed_probes", failures, "error", err)
			if healthy {
				healthy = false
				report(false)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Channel) probe(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return c.app.probe(ctx)
}
