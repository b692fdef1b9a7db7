package component

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
)

// Reasons of the errors that Handle returns.
const (
	// ReasonNotReady marks a call to a component that is not open yet.
	ReasonNotReady fault.Reason = "component.not_ready"
)

// State is where a component is in its life.
type State uint8

// The states of a component, in the order they are passed.
const (
	Opening State = iota // not open yet; retried in the background
	Ready                // open
	Closed               // closed for good
)

// String returns the state in lower case.
func (s State) String() string { return [...]string{"opening", "ready", "closed"}[s] }

// Status tells how a component does.
type Status struct {
	State    State
	Attempts int       // tries to open it so far
	Err      error     // why the last try failed; nil when Ready
	NextTry  time.Time // when Opening after a failure
	Since    time.Time // when State began
}

// Handle opens a driver in the background, again and again until it succeeds,
// and gives it to callers. It is safe for concurrent use.
type Handle[D io.Closer] struct {
	name, typ string
	open      func(context.Context) (D, error)
	wait      time.Duration
	log       *slog.Logger

	ready  atomic.Pointer[D] // the fast path: nil until open
	wanted chan struct{}     // gets a token when a caller waits

	mu      sync.Mutex
	status  Status
	changed chan struct{} // closed and replaced when status changes
}

// HandleOptions configure a Handle.
type HandleOptions struct {
	Name string // the component's name
	Type string // its type string, for error texts
	// Wait bounds how long Get waits for a component that is not ready when
	// the caller's context allows more; 5 s when zero.
	Wait time.Duration
	Log  *slog.Logger // nil discards
}

// NewHandle returns a Handle that will open its driver when Run is called.
func NewHandle[D io.Closer](o HandleOptions, open func(context.Context) (D, error)) *Handle[D] {
	if o.Wait == 0 {
		o.Wait = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Handle[D]{
		name: o.Name, typ: o.Type, open: open, wait: o.Wait, log: o.Log,
		status:  Status{State: Opening, Since: time.Now()},
		wanted:  make(chan struct{}, 1),
		changed: make(chan struct{}),
	}
}

// Opened returns a Handle on a driver that is open already. The caller keeps
// the duty to close it, unless it calls Run.
func Opened[D io.Closer](name string, d D) *Handle[D] {
	h := NewHandle[D](HandleOptions{Name: name}, nil)
	h.publish(d)
	return h
}

// Name returns the component's name.
func (h *Handle[D]) Name() string { return h.name }

// Type returns the component's type string.
func (h *Handle[D]) Type() string { return h.typ }

// Status returns the present status.
func (h *Handle[D]) Status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status
}

// Await waits until the driver is open or closed for good, or ctx ends, and
// returns the status then. Unlike Get it has no bound of its own; like Get it
// has the driver be tried more often.
func (h *Handle[D]) Await(ctx context.Context) Status {
	for {
		h.mu.Lock()
		status, changed := h.status, h.changed
		h.mu.Unlock()
		if status.State != Opening {
			return status
		}
		h.want()
		select {
		case <-changed:
		case <-ctx.Done():
			return status
		}
	}
}

// Get returns the driver. When it is not open yet, Get waits until it is, ctx
// ends, or the handle's Wait is over, and then fails with Unavailable naming
// the component and why it is not ready.
func (h *Handle[D]) Get(ctx context.Context) (D, error) {
	if d := h.ready.Load(); d != nil {
		return *d, nil
	}
	return h.await(ctx)
}

func (h *Handle[D]) await(ctx context.Context) (D, error) {
	var zero D
	timer := time.NewTimer(h.wait)
	defer timer.Stop()
	for {
		h.mu.Lock()
		status, changed := h.status, h.changed
		h.mu.Unlock()
		if d := h.ready.Load(); d != nil {
			return *d, nil
		}
		if status.State == Closed {
			return zero, fault.New(fault.Unavailable, "component %q (%s) is closed", h.name, h.typ).WithReason(ReasonNotReady)
		}
		h.want()
		select {
		case <-changed:
			continue
		case <-ctx.Done():
			if ctx.Err() == context.Canceled {
				return zero, ctx.Err()
			}
		case <-timer.C:
		}
		return zero, h.notReady(status)
	}
}

// want tells that somebody waits.
func (h *Handle[D]) want() {
	select {
	case h.wanted <- struct{}{}:
	default:
	}
}

func (h *Handle[D]) notReady(s Status) error {
	if s.Err == nil {
		return fault.New(fault.Unavailable, "component %q (%s) is not ready: still connecting", h.name, h.typ).
			WithReason(ReasonNotReady)
	}
	return fault.New(fault.Unavailable, "component %q (%s) is not ready after %d attempts: %v", h.name, h.typ, s.Attempts, s.Err).
		WithReason(ReasonNotReady).WithRetryAfter(max(0, time.Until(s.NextTry)))
}

// Back-off between attempts to open a component. While a caller waits for it no
// delay is longer than wantedDelay.
const (
	firstDelay  = 200 * time.Millisecond
	wantedDelay = time.Second
	lastDelay   = 15 * time.Second
)

// Run opens the driver, trying again with growing delays, keeps it until ctx
// ends, closes it and returns nil. Each failure is logged once when its text
// changes.
func (h *Handle[D]) Run(ctx context.Context) error {
	defer h.close()
	if h.ready.Load() == nil && !h.openUntil(ctx) {
		return nil
	}
	<-ctx.Done()
	return nil
}

func (h *Handle[D]) openUntil(ctx context.Context) bool {
	delay, said := firstDelay, ""
	for attempt := 1; ; attempt++ {
		d, err := h.open(ctx)
		if err == nil {
			h.publish(d)
			h.log.InfoContext(ctx, "component is ready", "attempts", attempt)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		wait := delay/2 + rand.N(delay) //nolint:gosec // jitter needs no secrecy
		h.setStatus(Status{State: Opening, Attempts: attempt, Err: err, NextTry: time.Now().Add(wait), Since: h.Status().Since})
		if text := err.Error(); text != said {
			h.log.WarnContext(ctx, "component is not ready and will be retried", "attempt", attempt, "error", err)
			said = text
		}
		if !h.pause(ctx, wait) {
			return false
		}
		delay = min(2*delay, lastDelay)
	}
}

// pause waits before the next attempt. It returns false when ctx has ended.
func (h *Handle[D]) pause(ctx context.Context, wait time.Duration) bool {
	began, wanted := time.Now(), h.wanted
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-wanted:
			wanted = nil
			if wait > wantedDelay {
				timer.Reset(wantedDelay - time.Since(began))
			}
		}
	}
}

func (h *Handle[D]) publish(d D) {
	h.ready.Store(&d)
	h.setStatus(Status{State: Ready, Attempts: h.Status().Attempts + 1, Since: time.Now()})
}

func (h *Handle[D]) close() {
	d := h.ready.Swap(nil)
	h.setStatus(Status{State: Closed, Since: time.Now()})
	if d == nil {
		return
	}
	if err := (*d).Close(); err != nil {
		h.log.Warn("closing component", "error", err)
	}
}

func (h *Handle[D]) setStatus(s Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status = s
	close(h.changed)
	h.changed = make(chan struct{})
}
