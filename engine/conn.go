package engine

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

// Conn is one connection of the engine's pool. It lives as long as the
// engine: a restart of the server, or a take-over by another sidecar, breaks
// it for a moment and it comes back by itself. It is safe for concurrent use.
type Conn struct {
	engine *Engine

	// js and closed are set once, before nc, and that before the first link.
	js     jetstream.JetStream
	closed <-chan struct{} // closed when nc is closed for good
	nc     atomic.Pointer[nats.Conn]

	link   atomic.Pointer[link]   // nil while there is no connection
	denied atomic.Pointer[denial] // what the server last refused
	deny   chan struct{}          // gets a value when denied is set; holds one
}

// denial is a refusal that the server reports out of band: the request it
// concerns gets no answer.
type denial struct {
	at  time.Time
	err error
}

// NATS returns the connection for plain publish, subscribe and request. A
// publish while the connection is broken fails at once with
// nats.ErrReconnectBufExceeded: nothing is sent after it was reported as
// failed. Subscriptions are made again when the connection is back, but what
// was published in between is not delivered to them.
func (c *Conn) NATS() *nats.Conn { return c.nc.Load() }

// JetStream returns the JetStream handle on this connection. Use it inside
// [Conn.Do].
func (c *Conn) JetStream() jetstream.JetStream { return c.js }

// Do tries again what the server refused because it is still busy with another
// write to the same subject, a state that lasts 4 to 8 ms, and what was not
// sent because the connection broke.
const (
	maxTries  = 8
	busyPause = 2 * time.Millisecond
)

// Do calls fn with a context that ends when the caller's does or when the
// connection breaks, and classifies the error of fn.
//
// A call while the connection is broken waits for it as [Engine.Conn] does. A
// call that is in flight when the connection breaks fails at once with
// Unavailable and ReasonInDoubt. fn is called again when nothing was sent
// because the connection broke, and, for some milliseconds, while the server
// refuses the write because it is still busy with another on the same subject;
// fn must therefore make at most one write.
func (c *Conn) Do(ctx context.Context, fn func(context.Context) error) error {
	pause := busyPause
	for try := 1; ; try++ {
		l, err := c.ready(ctx)
		if err != nil {
			return err
		}
		err = c.over(ctx, l, fn)
		switch {
		case err == nil:
			return nil
		case try == maxTries:
			return c.classify(err)
		case isUnsent(err):
			// The library knows of the disconnect before it tells us.
			c.unlink(l)
			continue
		case !isBusy(err):
			return c.classify(err)
		}
		select {
		case <-ctx.Done():
			return c.classify(err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 16*time.Millisecond)
	}
}

// classify is Classify with what is known of this engine: an embedded server
// without JetStream has just closed its store, and is about to open it again.
func (c *Conn) classify(err error) error {
	if out := Classify(err); c.engine.opts.URL != "" || !isDisabled(err) {
		return out
	}
	return fault.Wrap(err, fault.Unavailable, "the engine's store is closed").WithReason(ReasonNotReady)
}

// over calls fn on the link l.
func (c *Conn) over(ctx context.Context, l *link, fn func(context.Context) error) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := flight{cancel: cancel}
	if !l.enter(&f) {
		return nats.ErrConnectionReconnecting
	}
	start := time.Now()
	err := fn(inner)
	l.leave(&f)
	switch {
	case err == nil:
		return nil
	case ctx.Err() == nil && errors.Is(context.Cause(inner), errLinkLost) && errors.Is(err, context.Canceled):
		return fault.Wrap(errLinkLost, fault.Unavailable, "the engine did not answer").WithReason(ReasonInDoubt)
	case isTimeout(err):
		return c.unanswered(ctx, start, err)
	}
	return err
}

// unlink ends l, if it is still the present link.
func (c *Conn) unlink(l *link) {
	l.lose()
	if c.link.CompareAndSwap(l, nil) {
		c.engine.announce()
	}
}

// unanswered explains a call that got no answer in time.
func (c *Conn) unanswered(ctx context.Context, start time.Time, err error) error {
	if d := c.denied.Load(); d != nil && !d.at.Before(start) {
		return Classify(d.err)
	}
	if ctx.Err() != nil {
		return fault.Wrap(err, fault.DeadlineExceeded, "the engine did not answer in time").WithReason(ReasonInDoubt)
	}
	return fault.Wrap(err, fault.Unavailable, "the engine did not answer").WithReason(ReasonInDoubt)
}

// Publish stores msg in the stream that has its subject and returns the
// acknowledgement, see [Conn.Do].
func (c *Conn) Publish(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error) {
	if err := checkSubject(msg.Subject); err != nil {
		return nil, err
	}
	var ack *jetstream.PubAck
	err := c.Do(ctx, func(ctx context.Context) (err error) {
		ack, err = c.js.PublishMsg(ctx, msg)
		return err
	})
	return ack, err
}

// maxSubject bounds the subjects that this package sends. Servers drop the
// connection on a protocol line of more than 4096 bytes, which also holds the
// reply subject and the sizes; the client does not check.
const maxSubject = 3 << 10

// checkSubject refuses a subject to publish to that would break the
// connection or that no stream can have.
func checkSubject(subject string) error { return checkName("subject", subject, maxSubject) }

// checkName refuses what cannot be a subject or the end of one. what says what
// it is to the caller.
func checkName(what, name string, most int) error {
	switch {
	case name == "":
		return invalid("the %s is empty", what)
	case len(name) > most:
		return invalid("the %s has %d bytes; the most is %d", what, len(name), most)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '*' || r == '>' }); i >= 0 {
		return invalid("the %s has %q at byte %d: blanks, control characters, * and > are not allowed", what, name[i], i)
	}
	if name[0] == '.' || name[len(name)-1] == '.' || strings.Contains(name, "..") {
		return invalid("the %s has an empty part between dots", what)
	}
	return nil
}

// ready returns the live link, waiting for it when there is none.
func (c *Conn) ready(ctx context.Context) (*link, error) {
	if l := c.link.Load(); l != nil && c.engine.refusal.Load() == nil {
		return l, nil
	}
	return c.engine.await(ctx, c)
}

var errLinkLost = errors.New("the connection to the engine was lost")

// link is the time between a connect and a disconnect of a Conn. It ends the
// calls that are in flight when the connection breaks: their answers cannot
// come any more, and the client library would wait for them until their
// deadline.
type link struct {
	mu      sync.Mutex
	gone    bool
	flights *flight // doubly linked
}

// flight is one call in flight.
type flight struct {
	prev, next *flight
	cancel     context.CancelCauseFunc
}

// enter adds f unless the link is lost.
func (l *link) enter(f *flight) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return false
	}
	if f.next = l.flights; f.next != nil {
		f.next.prev = f
	}
	l.flights = f
	return true
}

// leave removes f.
func (l *link) leave(f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.next != nil {
		f.next.prev = f.prev
	}
	switch {
	case f.prev != nil:
		f.prev.next = f.next
	case l.flights == f:
		l.flights = f.next
	}
	f.prev, f.next = nil, nil
}

// lose ends every flight and refuses new ones.
func (l *link) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return
	}
	l.gone = true
	for f := l.flights; f != nil; f = f.next {
		f.cancel(errLinkLost)
	}
}
