package secret

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/proa-io/proa/fault"
)

// How long to wait before a broken watch is begun again.
const (
	firstDelay = 500 * time.Millisecond
	lastDelay  = 30 * time.Second
)

// Follow calls changed whenever one of the named secrets may have changed, until
// ctx ends: as soon as the driver tells, or every so often when it cannot tell.
// Whether there is a change, and which, a read shows. changed is called by one
// goroutine at a time. Scopes do not apply: see Resolve.
func (s *Store) Follow(ctx context.Context, names []string, every time.Duration, changed func()) {
	delay, said := firstDelay, ""
	for ctx.Err() == nil {
		d, err := s.handle.Get(ctx)
		if err == nil {
			w, ok := d.(Watcher)
			if !ok {
				s.poll(ctx, every, changed)
				return
			}
			begun := time.Now()
			err = w.Watch(ctx, names, changed)
			if time.Since(begun) > lastDelay {
				delay, said = firstDelay, ""
			}
		}
		if ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != said {
			s.log.WarnContext(ctx, "changes of secrets cannot be watched at present; they are looked for at intervals",
				"interval", every, "error", err)
			said = text
		}
		switch fault.CodeOf(err) {
		case fault.PermissionDenied, fault.Unauthenticated, fault.Unimplemented, fault.FailedPrecondition:
			delay = max(delay, every) // somebody has to do something about it
		}
		if !sleep(ctx, delay) {
			return
		}
		changed() // what has changed meanwhile
		delay = min(2*delay, max(lastDelay, every))
	}
}

// poll calls changed at intervals until ctx ends.
func (s *Store) poll(ctx context.Context, every time.Duration, changed func()) {
	for sleep(ctx, every) {
		changed()
	}
}

// sleep waits for d, give or take a quarter, so that sidecars do not ask all at
// once, and reports whether ctx still lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d*3/4 + rand.N(d/2+1)) //nolint:gosec // jitter needs no secrecy
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
