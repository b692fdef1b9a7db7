package runtime

import (
	"context"
	"sync"
)

// late runs what may come to be needed after the start.
type late struct {
	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // of run; nil before
	waiting []func(context.Context) error
	work    sync.WaitGroup
}

// start has service run until run ends, or as soon as run begins. What comes after
// run has ended is not run.
func (l *late) start(service func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ctx == nil:
		l.waiting = append(l.waiting, service)
	case l.ctx.Err() == nil:
		l.begin(service)
	}
}

func (l *late) begin(service func(context.Context) error) {
	ctx := l.ctx
	l.work.Go(func() { _ = service(ctx) }) // ends with it
}

// run runs what was started until ctx ends.
func (l *late) run(ctx context.Context) error {
	l.mu.Lock()
	l.ctx = ctx
	for _, service := range l.waiting {
		l.begin(service)
	}
	l.mu.Unlock()
	<-ctx.Done()
	l.mu.Lock() // whoever starts now sees that ctx has ended
	defer l.mu.Unlock()
	l.work.Wait()
	return nil
}
