package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

// stopping says how everything is stopped.
type stopping struct {
	// grace bounds the time from the order to stop to the end.
	grace time.Duration
	// haste, when it is closed, ends the grace period at once.
	haste <-chan struct{}
	log   *slog.Logger
}

// stopOrder is the cause of the end of a service's context.
type stopOrder struct {
	by    time.Time
	haste <-chan struct{}
}

func (stopOrder) Error() string { return "everything stops" }

// StopBy returns until when a service should have stopped whose context has
// ended: the grace period is one for all of them.
func StopBy(ctx context.Context) time.Time {
	if order, ok := errors.AsType[stopOrder](context.Cause(ctx)); ok {
		return order.by
	}
	return time.Now()
}

// Draining returns a context for what a service may still do whose context has
// ended. It ends at StopBy, but not before least is over; and when everything
// is to stop in haste, at once.
func Draining(ctx context.Context, least time.Duration) (context.Context, context.CancelFunc) {
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(time.Until(StopBy(ctx)), least))
	order, ok := errors.AsType[stopOrder](context.Cause(ctx))
	if !ok || order.haste == nil {
		return drain, cancel
	}
	go func() {
		select {
		case <-order.haste:
			cancel()
		case <-drain.Done():
		}
	}()
	return drain, cancel
}

// lastMoment is what services get to end in once everything stops in haste.
const lastMoment = time.Second

// errInHaste says that services were left behind.
var errInHaste = errors.New("stopped in haste: not everything had ended")

// runStages starts the stages in order and, when ctx ends, stops them in
// reverse, waiting for each to finish before the one below is told to stop.
// The first service to return early stops everything, and runStages returns
// why; otherwise it returns what services said when they were told to stop.
// Services can ask StopBy until when all should be over. In haste all stages
// that are left are stopped together and waited for only for a moment.
func runStages(ctx context.Context, how stopping, stages ...[]service) error {
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var mu sync.Mutex
	var late []error
	up := make([]*runningStage, 0, len(stages))
	for _, services := range stages {
		// Detached: a stage outlives ctx until the stages above have drained.
		sctx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
		r := &runningStage{stop: stop, done: make(chan struct{})}
		var wg sync.WaitGroup
		for _, s := range services {
			wg.Go(func() {
				err := s.run(sctx)
				switch {
				case sctx.Err() == nil:
					fail(fmt.Errorf("%s: %w", s.name, errors.Join(err, errStopped)))
				case err != nil:
					how.log.Warn("a service did not stop cleanly", "service", s.name, "error", err)
					mu.Lock()
					late = append(late, fmt.Errorf("%s: %w", s.name, err))
					mu.Unlock()
				}
			})
		}
		go func() { wg.Wait(); close(r.done) }()
		up = append(up, r)
	}
	<-failed.Done()
	hasty := how.stop(up)
	if ctx.Err() == nil {
		return context.Cause(failed)
	}
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(append(late, hasty)...)
}

// runningStage is a stage that was started.
type runningStage struct {
	stop context.CancelCauseFunc
	done chan struct{} // closed when all its services have returned
}

// stop stops the stages from the top down.
func (how stopping) stop(up []*runningStage) error {
	order := stopOrder{time.Now().Add(how.grace), how.haste}
	for i := len(up) - 1; i >= 0; i-- {
		up[i].stop(order)
		select {
		case <-up[i].done:
		case <-how.haste:
			return stopInHaste(up[:i+1], order)
		}
	}
	return nil
}

func stopInHaste(up []*runningStage, order stopOrder) error {
	order.by = time.Now()
	for _, r := range slices.Backward(up) {
		r.stop(order)
	}
	moment := time.After(lastMoment)
	for _, r := range slices.Backward(up) {
		select {
		case <-r.done:
		case <-moment:
			return errInHaste
		}
	}
	return nil
}
