package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// service runs until its context ends and returns nil then, or returns earlier
// with why it failed.
type service struct {
	name string
	run  func(context.Context) error
}

// errStopped marks a service that returned although nobody told it to.
var errStopped = errors.New("stopped unexpectedly")

// stopOrder is the cause of the end of a service's context.
type stopOrder struct{ by time.Time }

func (stopOrder) Error() string { return "everything stops" }

// StopBy returns until when a service should have stopped whose context has
// ended: the grace period is one for all of them.
func StopBy(ctx context.Context) time.Time {
	if order, ok := errors.AsType[stopOrder](context.Cause(ctx)); ok {
		return order.by
	}
	return time.Now()
}

// runStages starts the stages in order and, when ctx ends, stops them in
// reverse, waiting for each to finish before the one below is told to stop.
// The first service to return early stops everything, and runStages returns
// why; otherwise it returns what services said when they were told to stop.
// Services can ask StopBy until when all should be over.
func runStages(ctx context.Context, grace time.Duration, log *slog.Logger, stages ...[]service) error {
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var mu sync.Mutex
	var late []error
	type running struct {
		stop context.CancelCauseFunc
		wg   sync.WaitGroup
	}
	up := make([]*running, 0, len(stages))
	for _, services := range stages {
		// Detached: a stage outlives ctx until the stages above have drained.
		sctx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
		r := &running{stop: stop}
		for _, s := range services {
			r.wg.Go(func() {
				err := s.run(sctx)
				switch {
				case sctx.Err() == nil:
					fail(fmt.Errorf("%s: %w", s.name, errors.Join(err, errStopped)))
				case err != nil:
					log.Warn("a service did not stop cleanly", "service", s.name, "error", err)
					mu.Lock()
					late = append(late, fmt.Errorf("%s: %w", s.name, err))
					mu.Unlock()
				}
			})
		}
		up = append(up, r)
	}
	<-failed.Done()
	order := stopOrder{time.Now().Add(grace)}
	for i := len(up) - 1; i >= 0; i-- {
		up[i].stop(order)
		up[i].wg.Wait()
	}
	if ctx.Err() == nil {
		return context.Cause(failed)
	}
	return errors.Join(late...)
}
