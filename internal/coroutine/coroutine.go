// Package coroutine runs tasks that wait for the network on the goroutines that
// hear from it.
//
// A goroutine that reads from a connection and hands each message to another
// one pays for waking that up, which is most of what a small request costs. A
// Coroutine has a stack of its own, as a goroutine has, but who calls Start or
// Resume runs it, until it suspends itself or ends; switching takes a tenth of
// a microsecond and no scheduler. So the code of a task reads as if it waited,
// while each of its parts runs on the goroutine that brought what it waited for.
//
// The price is a rule: a task must not wait for anything but by Suspend, since
// it would hold up the goroutine that runs it, and all who depend on that one.
// Before it does, it calls Detach, which gives it a goroutine of its own.
package coroutine

import (
	"context"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Task is what a Coroutine carries out.
type Task interface {
	// Do carries out the task. It must not panic.
	Do(*Coroutine)
}

// Coroutine is a task that is under way. A nil Coroutine stands for code that
// runs on a goroutine of its own: its methods say so, and do nothing.
type Coroutine struct {
	pool  *Pool
	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool

	task     Task
	batch    *Batch // of who runs it; nil once it is detached
	state    atomic.Int32
	attached atomic.Bool
	used     []Reusable // of the task
	parting  bool       // it has suspended itself to be run by a goroutine of its own
	epoch    int        // of the pool, when it became idle
}

// The states of a Coroutine.
const (
	idle      int32 = iota // has no task
	running                // somebody runs it
	notified               // the same, and it is to be run once more when it suspends itself
	suspended              // it waits for Resume
)

// Attached reports whether it runs on the goroutine of somebody else, and so
// must not wait.
func (c *Coroutine) Attached() bool { return c != nil && c.attached.Load() }

// Batch returns that of who runs it; nil when it is not attached. Only the task
// itself may call it.
func (c *Coroutine) Batch() *Batch {
	if c == nil {
		return nil
	}
	return c.batch
}

// Suspend lets the goroutine that runs the task go on with something else, and
// returns after Resume or Wake was called. It may return without a reason, so
// what is waited for must be looked at again. A Resume that comes between the
// decision to wait and Suspend is not lost. Only the task itself may call it,
// while it is attached.
func (c *Coroutine) Suspend() { c.yield(struct{}{}) }

// Detach gives the task a goroutine of its own, for good: it may wait in every
// way after that. Only the task itself may call it.
func (c *Coroutine) Detach() {
	if !c.Attached() {
		return
	}
	c.parting = true
	c.yield(struct{}{})
}

// Wake is Resume by a goroutine of its own, for who must not be held up or holds
// a lock. It may be called at any time, from any goroutine.
func (c *Coroutine) Wake() {
	if c == nil || !c.attached.Load() {
		return
	}
	go func() {
		var b Batch
		b.Resume(c)
		b.Flush()
	}()
}

// A Reusable is something that only one task uses.
type Reusable interface {
	// Reuse is told that the task has ended.
	Reuse()
}

// Used has r told when the task has ended, if that never got a goroutine of its
// own: a task that has waited for nothing but by Suspend has left nothing behind
// that others still use. A task that has been detached may have, and what it has
// used is left to the garbage collector. Only the task itself may call it.
func (c *Coroutine) Used(r Reusable) {
	if c.Attached() {
		c.used = append(c.used, r)
	}
}

// end tells what the task has used that it has ended.
func (c *Coroutine) end() {
	c.task = nil
	reusable := c.attached.Load()
	for i, r := range c.used {
		if reusable {
			r.Reuse()
		}
		c.used[i] = nil
	}
	c.used = c.used[:0]
}

// run runs the task until it waits or has ended.
func (c *Coroutine) run(b *Batch) {
	for {
		c.batch = b
		_, alive := c.next()
		switch {
		case !alive: // the pool was closed meanwhile
			return
		case c.task == nil:
			c.pool.rest(c)
			return
		case c.parting:
			c.parting = false
			c.attached.Store(false)
			go c.run(nil)
			return
		}
		c.batch = nil
		if c.state.CompareAndSwap(running, suspended) {
			return
		}
		c.state.Store(running)
	}
}

// A Flusher puts out what has gathered during a Batch.
type Flusher interface {
	// FlushBatch must not wait.
	FlushBatch()
}

// Batch is what one goroutine runs of coroutines before it waits again. What
// their tasks put out, on whatever connection, gathers until Flush. It is not
// safe for concurrent use; the zero value is ready.
type Batch struct{ flushers []Flusher }

// Start carries out t on a coroutine of p, until it waits or ends.
func (b *Batch) Start(p *Pool, t Task) {
	c := p.take()
	c.task = t
	c.attached.Store(true)
	c.state.Store(running)
	c.run(b)
}

// Resume goes on with c if it has suspended itself, and otherwise lets its next
// Suspend return at once.
func (b *Batch) Resume(c *Coroutine) {
	for {
		switch c.state.Load() {
		case suspended:
			if c.state.CompareAndSwap(suspended, running) {
				c.run(b)
				return
			}
		case running:
			if c.state.CompareAndSwap(running, notified) {
				return
			}
		default: // it has ended, or was notified already
			return
		}
	}
}

// Later has f flushed at the end of the batch.
func (b *Batch) Later(f Flusher) {
	if !slices.Contains(b.flushers, f) {
		b.flushers = append(b.flushers, f)
	}
}

// Flush flushes all that Later was called for.
func (b *Batch) Flush() {
	for i, f := range b.flushers {
		b.flushers[i] = nil
		f.FlushBatch()
	}
	b.flushers = b.flushers[:0]
}

// Pool keeps coroutines for later tasks. The zero value is ready. It is safe for
// concurrent use.
type Pool struct {
	mu     sync.Mutex
	idle   []*Coroutine
	closed bool
	epoch  int // counts the ticks of timer
	timer  *time.Timer
	armed  bool
	all    sync.WaitGroup
}

// idleTime is how long, at least, a coroutine without a task is kept.
const idleTime = 5 * time.Second

func (p *Pool) take() *Coroutine {
	p.mu.Lock()
	if n := len(p.idle) - 1; n >= 0 {
		c := p.idle[n]
		p.idle[n] = nil
		p.idle = p.idle[:n]
		p.mu.Unlock()
		return c
	}
	p.all.Add(1)
	p.mu.Unlock()
	c := &Coroutine{pool: p}
	c.next, c.stop = iter.Pull(c.loop)
	return c
}

// loop carries out tasks, one after the other.
func (c *Coroutine) loop(yield func(struct{}) bool) {
	c.yield = yield
	for {
		c.task.Do(c)
		c.end()
		if !yield(struct{}{}) {
			return
		}
	}
}

// rest puts c among the idle ones, unless there are to be none any more.
func (p *Pool) rest(c *Coroutine) {
	c.batch = nil
	c.attached.Store(false)
	c.state.Store(idle)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.end(c)
		return
	}
	c.epoch = p.epoch
	p.idle = append(p.idle, c)
	if p.armed {
		return
	}
	p.armed = true
	if p.timer == nil {
		p.timer = time.AfterFunc(idleTime, p.tick)
	} else {
		p.timer.Reset(idleTime)
	}
}

func (p *Pool) end(c *Coroutine) {
	c.stop()
	p.all.Done()
}

// tick lets go of those that have been idle since the tick before.
func (p *Pool) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.idle) && p.idle[n].epoch < p.epoch {
		p.end(p.idle[n])
		n++
	}
	p.idle = slices.Delete(p.idle, 0, n)
	p.epoch++
	if p.armed = len(p.idle) > 0 && !p.closed; p.armed {
		p.timer.Reset(idleTime)
	}
}

// Close lets go of all coroutines without a task, and of the others when theirs
// has ended, and waits for that. Tasks may still be started meanwhile.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for _, c := range p.idle {
		p.end(c)
	}
	p.idle = nil
	if p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Unlock()
	p.all.Wait()
}

type contextKey struct{}

// Key is the key by which a context.Context has the Coroutine that it belongs
// to, for contexts that are not made by context.WithValue.
func Key() any { return contextKey{} }

// IsKey reports whether key is Key.
func IsKey(key any) bool {
	_, ok := key.(contextKey)
	return ok
}

// From returns the coroutine that ctx belongs to; nil for none.
func From(ctx context.Context) *Coroutine {
	c, _ := ctx.Value(contextKey{}).(*Coroutine)
	return c
}

// Detach detaches the coroutine that ctx belongs to, if any. Whoever is about to
// wait in the course of a request calls it.
func Detach(ctx context.Context) { From(ctx).Detach() }
