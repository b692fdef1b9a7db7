package runtime

import (
	"context"
	"sync"

	"github.com/proa-io/proa/block/job"
)

// inputs bring events to the application, while it takes them: those of input
// bindings, and the triggers of jobs.
type inputs struct {
	rt  *Runtime
	app *application

	mu      sync.Mutex
	listen  func(s source, after *listener) *listener // nil while the application takes none
	running map[string]*listener
	stopAll func() // ends and awaits all listeners
}

// source is where events come from.
type source struct {
	// block is what it is made of: another one makes another source.
	block any
	// run delivers the events until its context ends and no event is under way
	// any more.
	run func(context.Context)
}

// listener is a source that delivers events.
type listener struct {
	block  any
	cancel context.CancelFunc
	done   chan struct{} // closed when no event is under way any more
}

// start begins to deliver the events of all sources there are, until stop is
// called or ctx ends.
func (in *inputs) start(ctx context.Context) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.listen != nil {
		return
	}
	all, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	in.stopAll = func() { cancel(); wg.Wait() }
	in.listen = func(s source, after *listener) *listener {
		here, end := context.WithCancel(all)
		l := &listener{block: s.block, cancel: end, done: make(chan struct{})}
		wg.Go(func() {
			defer close(l.done)
			defer end()
			if after != nil {
				<-after.done
			}
			s.run(here)
		})
		return l
	}
	in.running = map[string]*listener{}
	in.followLocked(in.rt.table.Load())
}

// stop ends all deliveries and waits for those under way.
func (in *inputs) stop() {
	in.mu.Lock()
	stop := in.stopAll
	in.listen, in.stopAll = nil, nil
	in.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// follow takes the sources of a table instead of those there were. One that
// replaces another begins when that one has ended: both might bring the same
// events. It returns the listeners that end.
func (in *inputs) follow(table *components) []*listener {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.listen == nil {
		return nil
	}
	return in.followLocked(table)
}

func (in *inputs) followLocked(table *components) (ending []*listener) {
	wanted := in.sources(table)
	for name, l := range in.running {
		if wanted[name].block != l.block {
			l.cancel()
			ending = append(ending, l)
		}
	}
	next := map[string]*listener{}
	for name, s := range wanted {
		if l := in.running[name]; l != nil && l.block == s.block {
			next[name] = l
		} else {
			next[name] = in.listen(s, l)
		}
	}
	in.running = next
	return ending
}

// sources returns those of a table, by names that are the same from table to
// table.
func (in *inputs) sources(table *components) map[string]source {
	out := map[string]source{}
	for name, b := range table.bindings {
		if b.IsInput() {
			out["binding/"+name] = source{b, func(ctx context.Context) { in.app.listen(ctx, name, b) }}
		}
	}
	if s := table.jobs; s != nil {
		out[job.Block] = source{s, func(ctx context.Context) {
			_ = s.Run(ctx, in.app.channel) // nil when ctx has ended
		}}
	}
	return out
}
