package secret_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// telling is a driver that tells of changes when it is told to, and ends its
// watches with what is sent to broken.
type telling struct {
	fixed
	tell    chan struct{}
	broken  chan error
	watches atomic.Int32
}

func (d *telling) Watch(ctx context.Context, _ []string, changed func()) error {
	d.watches.Add(1)
	changed()
	for {
		select {
		case <-d.tell:
			changed()
		case err := <-d.broken:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// follow counts the calls of a Follow that runs until the test ends.
func follow(t *testing.T, s *secret.Store) *atomic.Int32 {
	calls, ctx := &atomic.Int32{}, t.Context()
	go s.Follow(ctx, []string{"a"}, time.Minute, func() { calls.Add(1) })
	return calls
}

func TestDriverThatTellsIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &telling{tell: make(chan struct{}), broken: make(chan error)}
		calls := follow(t, newStore(d, secret.Scope{DefaultAccess: "deny"}))
		synctest.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls as the watch stands, want 1", n)
		}
		d.tell <- struct{}{}
		synctest.Wait()
		if n := calls.Load(); n != 2 {
			t.Errorf("%d calls after a change, want 2", n)
		}
		time.Sleep(time.Hour)
		if n := calls.Load(); n != 2 {
			t.Errorf("%d calls in an hour without a change, want 2", n)
		}
		// An outage: nothing is missed, and the watch stands again soon.
		d.broken <- fault.New(fault.Unavailable, "connection reset")
		time.Sleep(2 * time.Second)
		if n, w := calls.Load(), d.watches.Load(); n != 4 || w != 2 {
			t.Errorf("%d calls and %d watches after an outage, want 4 and 2", n, w)
		}
	})
}

func TestStoreThatMayNotBeWatchedIsReadAtIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &telling{broken: make(chan error)}
		go func() {
			for {
				select {
				case d.broken <- fault.New(fault.PermissionDenied, "no watch"):
				case <-t.Context().Done():
					return
				}
			}
		}()
		calls := follow(t, newStore(d, secret.Scope{}))
		time.Sleep(time.Hour)
		if n := calls.Load(); n < 60 || n > 200 {
			t.Errorf("%d calls in an hour, want about two a minute", n)
		}
	})
}

func TestDriverThatCannotTellIsReadAtIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := follow(t, newStore(&fixed{}, secret.Scope{}))
		time.Sleep(time.Hour)
		if n := calls.Load(); n < 50 || n > 80 {
			t.Errorf("%d calls in an hour, want about one a minute", n)
		}
	})
}

func TestFollowWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		h := component.NewHandle(component.HandleOptions{Name: "vault"}, func(context.Context) (secret.Driver, error) {
			if !up.Load() {
				return nil, fault.New(fault.Unavailable, "down")
			}
			return &telling{tell: make(chan struct{}), broken: make(chan error)}, nil
		})
		go func() { _ = h.Run(t.Context()) }()
		calls := follow(t, secret.New(h, secret.Options{Chains: policy.None{}}))
		time.Sleep(10 * time.Minute)
		before := calls.Load()
		if before > 100 {
			t.Errorf("%d calls in ten minutes of an outage", before)
		}
		up.Store(true)
		time.Sleep(2 * time.Minute)
		if calls.Load() == before {
			t.Error("the store is not followed after its outage")
		}
	})
}
