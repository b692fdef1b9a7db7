// Package bell lets many wait for news of names on one connection, which is
// there as long as somebody waits, and a moment longer.
package bell

import (
	"context"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
)

// linger is how long a connection is kept that nobody waits on.
const linger = 10 * time.Second

// Listen connects, calls ready once what happens from then on is told, calls
// rang for each name that there is news of, and returns when ctx ends or the
// connection is lost. An empty name is news of all.
type Listen func(ctx context.Context, ready func(), rang func(name string)) error

// Bell is safe for concurrent use.
type Bell struct {
	listen Listen
	life   context.Context //nolint:containedctx // of connections, which serve many calls
	end    context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	present *connection // nil for none
}

// connection is a Listen under way.
type connection struct {
	ready  chan struct{}
	over   chan struct{} // closed when Listen has returned
	err    error         // why; valid once over is closed
	cancel context.CancelFunc

	// Guarded by the mutex of the Bell.
	waiting map[string]map[*Waiter]struct{}
	count   int
	idle    *time.Timer
}

// New returns a Bell that nobody waits on. Its connections carry the values of
// ctx and do not end with it.
func New(ctx context.Context, listen Listen) *Bell {
	b := &Bell{listen: listen}
	b.life, b.end = context.WithCancel(context.WithoutCancel(ctx))
	return b
}

// Close ends the connection and everybody's wait.
func (b *Bell) Close() {
	b.mu.Lock()
	b.closed = true
	if c := b.present; c != nil && c.idle != nil {
		c.idle.Stop()
	}
	b.mu.Unlock()
	b.end()
	b.work.Wait()
}

// Waiter waits for news of a name.
type Waiter struct {
	bell *Bell
	name string
	on   *connection
	rung chan struct{} // has room for one
}

// Join begins to wait for news of a name, and returns once none that comes from
// then on is missed. The caller calls Leave in the end.
func (b *Bell) Join(ctx context.Context, name string) (*Waiter, error) {
	w, err := b.join(name)
	if err != nil {
		return nil, err
	}
	select {
	case <-w.on.ready:
		return w, nil
	case <-w.on.over:
		err = w.on.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	w.Leave()
	if err == nil {
		err = errClosed()
	}
	return nil, err
}

func errClosed() error { return fault.New(fault.Unavailable, "the component is closed") }

func (b *Bell) join(name string) (*Waiter, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed()
	}
	c := b.present
	if c == nil {
		c = b.connect()
	}
	if c.idle != nil {
		c.idle.Stop()
	}
	w := &Waiter{bell: b, name: name, on: c, rung: make(chan struct{}, 1)}
	if c.waiting[name] == nil {
		c.waiting[name] = map[*Waiter]struct{}{}
	}
	c.waiting[name][w] = struct{}{}
	c.count++
	return w, nil
}

// connect begins to listen. The caller holds b.mu.
func (b *Bell) connect() *connection {
	ctx, cancel := context.WithCancel(b.life)
	c := &connection{
		ready: make(chan struct{}), over: make(chan struct{}), cancel: cancel, waiting: map[string]map[*Waiter]struct{}{},
	}
	b.present = c
	b.work.Go(func() {
		defer cancel()
		err := b.listen(ctx, sync.OnceFunc(func() { close(c.ready) }), func(name string) { b.ring(c, name) })
		b.mu.Lock()
		if b.present == c {
			b.present = nil
		}
		b.mu.Unlock()
		c.err = err
		close(c.over)
	})
	return c
}

func (b *Bell) ring(c *connection, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if name != "" {
		ringAll(c.waiting[name])
		return
	}
	for _, waiting := range c.waiting {
		ringAll(waiting)
	}
}

func ringAll(waiting map[*Waiter]struct{}) {
	for w := range waiting {
		select {
		case w.rung <- struct{}{}:
		default:
		}
	}
}

// Rung gets a value when there is news of the name.
func (w *Waiter) Rung() <-chan struct{} { return w.rung }

// Lost is closed when no more news comes because the connection is lost, or the
// Bell closed.
func (w *Waiter) Lost() <-chan struct{} { return w.on.over }

// Err returns why the connection is lost. Call it once Lost is closed.
func (w *Waiter) Err() error {
	if w.on.err == nil {
		return errClosed()
	}
	return w.on.err
}

// Leave ends the wait. Call it once.
func (w *Waiter) Leave() {
	b, c := w.bell, w.on
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(c.waiting[w.name], w)
	if len(c.waiting[w.name]) == 0 {
		delete(c.waiting, w.name)
	}
	if c.count--; c.count > 0 || b.present != c || b.closed {
		return
	}
	c.idle = time.AfterFunc(linger, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if c.count == 0 && b.present == c {
			b.present = nil
			c.cancel()
		}
	})
}
