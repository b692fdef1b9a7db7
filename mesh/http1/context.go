package http1

import (
	"context"
	"sync"
	"time"

	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// exchangeContext is the context of one exchange. It is not recycled, because
// whoever was given it may look at it later. It is written by hand because the
// watch for the client's departure must begin only if somebody waits for Done.
type exchangeContext struct {
	watch *watch // told when somebody waits for the end
	co    *coroutine.Coroutine
	ex    *exchange

	mu    sync.Mutex
	done  chan struct{} // made when asked for
	err   error
	after map[*afterFunc]struct{}
}

type afterFunc struct{ f func() }

var _ context.Context = (*exchangeContext)(nil)

func (*exchangeContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value implements context.Context.
func (c *exchangeContext) Value(key any) any {
	if key != coroutine.Key() && key != proxy.ExchangeKey() || c.Err() != nil {
		return nil // it may be at another exchange by now
	}
	if key == proxy.ExchangeKey() {
		return c.ex
	}
	if c.co == nil {
		return nil
	}
	return c.co
}

func (c *exchangeContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *exchangeContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		} else {
			c.watch.want(c)
		}
	}
	return c.done
}

// AfterFunc lets context.AfterFunc and derived contexts wait for the end
// without a goroutine.
func (c *exchangeContext) AfterFunc(f func()) (stop func() bool) {
	a := &afterFunc{f}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	if c.after == nil {
		c.after = make(map[*afterFunc]struct{})
	}
	c.after[a] = struct{}{}
	c.watch.want(c)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, waiting := c.after[a]
		delete(c.after, a)
		return waiting
	}
}

// end ends the context. Functions that wait for it run in goroutines of their
// own, as those of context.AfterFunc do.
func (c *exchangeContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = context.Canceled
	if c.done != nil {
		close(c.done)
	}
	for a := range c.after {
		go a.f()
	}
	c.after = nil
}

// watchDelay is how long an exchange must have lasted before its connection is
// watched, so that short ones never pay for it.
const watchDelay = 20 * time.Millisecond

// watch finds out that the client has gone while a handler works, by reading
// ahead from the connection into its buffer: what it reads is the next request
// of the pipeline. It does so only while nobody else reads, that is after the
// body of the request, and only for an exchange whose context is waited for.
type watch struct {
	c *conn

	mu      sync.Mutex
	state   watchState
	wanted  *exchangeContext // waited for; nil: nobody waits
	bodyEnd bool             // the body was read, the connection is free
	timer   *time.Timer
	stopped chan struct{} // closed when a running watch has ended
}

type watchState uint8

const (
	watchOff   watchState = iota
	watchArmed            // the timer runs
	watchOn               // a goroutine reads
)

// want says that somebody waits for ctx to end.
func (w *watch) want(ctx *exchangeContext) {
	if ctx.co != nil {
		return // the connection's goroutine watches
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wanted = ctx
	w.arm()
}

// bodyEnded says that nobody else reads from the connection from now on.
func (w *watch) bodyEnded() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bodyEnd = true
	w.arm()
}

func (w *watch) arm() {
	if w.state != watchOff || w.wanted == nil || !w.bodyEnd {
		return
	}
	w.state = watchArmed
	if w.timer == nil {
		w.timer = time.AfterFunc(watchDelay, w.run)
	} else {
		w.timer.Reset(watchDelay)
	}
}

// run is called by the timer. A call that comes late, after a stop, does no
// more than to begin the watch of a later exchange early.
func (w *watch) run() {
	w.mu.Lock()
	if w.state != watchArmed {
		w.mu.Unlock()
		return
	}
	ctx, stopped := w.wanted, make(chan struct{})
	w.state, w.stopped = watchOn, stopped
	// Under the lock, so that the interruption by stop comes after it.
	w.c.waitForever()
	w.mu.Unlock()

	if gone := w.c.readAhead(); gone {
		ctx.end()
	}

	w.mu.Lock()
	w.state = watchOff
	w.wanted = nil
	w.mu.Unlock()
	close(stopped)
}

// stop ends the watch and forgets the exchange. The connection is free
// afterwards, and may have more bytes in its buffer.
func (w *watch) stop() {
	w.mu.Lock()
	if w.state == watchOn {
		interrupt(w.c.rd.conn)
		stopped := w.stopped
		w.mu.Unlock()
		<-stopped
		w.c.forgetDeadline()
		w.mu.Lock()
	}
	if w.state == watchArmed {
		w.timer.Stop()
		w.state = watchOff
	}
	w.wanted, w.bodyEnd = nil, false
	w.mu.Unlock()
}
