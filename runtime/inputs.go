package runtime

import (
	"context"
	"sync"

	"github.com/proa-io/proa/block/binding"
)

// inputs are the input bindings that bring events to the application, while it
// takes them.
type inputs struct {
	rt  *Runtime
	app *application

	mu      sync.Mutex
	listen  func(name string, b *binding.Binding, after *listener) *listener // nil while the application takes none
	running map[string]*listener
	stopAll func() // ends and awaits all listeners
}

// listener is an input binding that delivers events.
type listener struct {
	binding *binding.Binding
	cancel  context.CancelFunc
	done    chan struct{} // closed when no event is under way any more
}

// start begins to deliver the events of all bindings there are, until stop is
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
	in.listen = func(name string, b *binding.Binding, after *listener) *listener {
		here, end := context.WithCancel(all)
		l := &listener{binding: b, cancel: end, done: make(chan struct{})}
		wg.Go(func() {
			defer close(l.done)
			defer end()
			if after != nil {
				<-after.done
			}
			in.app.listen(here, name, b)
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

// follow takes the bindings of a table instead of those there were. One that
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
	for name, l := range in.running {
		if table.bindings[name] != l.binding {
			l.cancel()
			ending = append(ending, l)
		}
	}
	next := map[string]*listener{}
	for name, b := range table.bindings {
		l := in.running[name]
		switch {
		case l != nil && l.binding == b:
			next[name] = l
		case b.IsInput():
			next[name] = in.listen(name, b, l)
		}
	}
	in.running = next
	return ending
}
