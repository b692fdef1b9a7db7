package lock_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
)

func openMemory(t *testing.T) *memory.Lock {
	t.Helper()
	m, err := memory.OpenLock(t.Context(), memory.LockConfig{}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// mute is a driver that does not tell when a lock is free, and counts how often
// it is asked.
type mute struct {
	lock.Driver
	asked atomic.Int32
}

func (m *mute) Acquire(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	m.asked.Add(1)
	return m.Driver.Acquire(ctx, name, owner, ttl)
}

// telling is a mute that does tell.
type telling struct {
	mute
	lock.Watcher
}

// kinds are a driver that tells and one that does not.
func kinds(t *testing.T, test func(*testing.T, *mute, lock.Driver)) {
	for _, c := range []struct {
		name string
		open func(*memory.Lock) (*mute, lock.Driver)
	}{
		{"Telling", func(d *memory.Lock) (*mute, lock.Driver) {
			tells := &telling{mute: mute{Driver: d}, Watcher: d}
			return &tells.mute, tells
		}},
		{"Mute", func(d *memory.Lock) (*mute, lock.Driver) {
			m := &mute{Driver: d}
			return m, m
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, d := c.open(openMemory(t))
				test(t, m, d)
			})
		})
	}
}

func request(owner string, wait time.Duration) lock.Request {
	return lock.Request{Resource: "r", Owner: owner, TTL: time.Hour, Wait: wait}
}

func TestLockThatIsFreeIsHadAtOnce(t *testing.T) {
	kinds(t, func(t *testing.T, _ *mute, d lock.Driver) {
		begun := time.Now()
		for _, wait := range []time.Duration{0, time.Minute} {
			s := newStore(d, lock.Config{})
			if _, ok, err := s.Lock(t.Context(), request("me", wait)); !ok || err != nil {
				t.Fatalf("Lock = %v, %v", ok, err)
			}
			if _, err := s.Unlock(t.Context(), "r", "me"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestWaitIsOverInItsTime(t *testing.T) {
	kinds(t, func(t *testing.T, m *mute, d lock.Driver) {
		s := newStore(d, lock.Config{})
		if _, _, err := s.TryLock(t.Context(), "r", "me", time.Hour); err != nil {
			t.Fatal(err)
		}
		for _, wait := range []time.Duration{0, time.Millisecond, time.Minute} {
			begun := time.Now()
			_, ok, err := s.Lock(t.Context(), request("you", wait))
			if took := time.Since(begun); ok || err != nil || took != wait {
				t.Errorf("Lock with a wait of %v = %v, %v after %v", wait, ok, err, took)
			}
		}
		if n := m.asked.Load(); n > 100 {
			t.Errorf("the store was asked %d times in a minute", n)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	kinds(t, func(t *testing.T, _ *mute, d lock.Driver) {
		s := newStore(d, lock.Config{})
		if _, _, err := s.TryLock(t.Context(), "r", "me", time.Hour); err != nil {
			t.Fatal(err)
		}
		why := errors.New("the client is gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		for range 3 { // the first in line, and others
			wg.Go(func() {
				_, ok, err := s.Lock(ctx, request("you", time.Minute))
				if ok || !errors.Is(err, why) {
					t.Errorf("Lock = %v, %v; want why the context ended", ok, err)
				}
			})
		}
		time.Sleep(10 * time.Second)
		begun := time.Now()
		cancel(why)
		wg.Wait()
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestThoseWhoWaitGetTheLockInTurn(t *testing.T) {
	kinds(t, func(t *testing.T, m *mute, d lock.Driver) {
		s := newStore(d, lock.Config{})
		if _, _, err := s.TryLock(t.Context(), "r", "first", time.Hour); err != nil {
			t.Fatal(err)
		}
		const crowd = 100
		var mu sync.Mutex
		var got, want []string
		var tokens []uint64
		var wg sync.WaitGroup
		for i := range crowd {
			owner := fmt.Sprint("owner", i)
			want = append(want, owner)
			wg.Go(func() {
				lease, ok, err := s.Lock(t.Context(), request(owner, time.Hour))
				if !ok || err != nil {
					t.Errorf("Lock = %v, %v", ok, err)
					return
				}
				mu.Lock()
				got, tokens = append(got, owner), append(tokens, lease.Token)
				mu.Unlock()
				if _, err := s.Unlock(t.Context(), "r", owner); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		before := m.asked.Load()
		begun := time.Now()
		if _, err := s.Unlock(t.Context(), "r", "first"); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if !slices.Equal(got, want) {
			t.Errorf("the order was %q", got)
		}
		if !slices.IsSorted(tokens) || len(slices.Compact(tokens)) != crowd {
			t.Errorf("the tokens do not grow: %v", tokens)
		}
		if n := m.asked.Load() - before; n > 2*crowd {
			t.Errorf("the store was asked %d times for %d turns", n, crowd)
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("releases in the same process were noticed after %v", took)
		}
	})
}

func TestReleaseElsewhereIsNoticed(t *testing.T) {
	kinds(t, func(t *testing.T, _ *mute, d lock.Driver) {
		here, there := newStore(d, lock.Config{}), newStore(d, lock.Config{})
		for i := range 10 {
			if _, ok, err := there.TryLock(t.Context(), "r", "there", time.Hour); !ok || err != nil {
				t.Fatalf("TryLock = %v, %v", ok, err)
			}
			done := make(chan time.Time, 1)
			go func() {
				if _, ok, err := here.Lock(t.Context(), request("here", time.Hour)); !ok || err != nil {
					t.Errorf("Lock = %v, %v", ok, err)
				}
				done <- time.Now()
			}()
			time.Sleep(time.Duration(i) * time.Minute)
			begun := time.Now()
			if _, err := there.Unlock(t.Context(), "r", "there"); err != nil {
				t.Fatal(err)
			}
			if took := (<-done).Sub(begun); took > time.Second {
				t.Errorf("it took %v", took)
			}
			if _, err := here.Unlock(t.Context(), "r", "here"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestLeaseThatEndsIsNoticed(t *testing.T) {
	kinds(t, func(t *testing.T, _ *mute, d lock.Driver) {
		s := newStore(d, lock.Config{})
		lease, _, err := s.TryLock(t.Context(), "r", "me", 90*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		next, ok, err := s.Lock(t.Context(), request("you", time.Hour))
		if !ok || err != nil || next.Token <= lease.Token {
			t.Fatalf("Lock = %v, %v, %v after token %d", next, ok, err, lease.Token)
		}
		if late := time.Since(lease.Expires); late < 0 || late > time.Second {
			t.Errorf("Lock returned %v after the lease ended", late)
		}
	})
}

// lying is a driver that says of every lock that it is free.
type lying struct{ mute }

func (*lying) AwaitFree(context.Context, string) error { return nil }

func TestDriverThatTellsWronglyIsNotAskedAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &lying{mute{Driver: openMemory(t)}}
		s := newStore(d, lock.Config{})
		if _, _, err := s.TryLock(t.Context(), "r", "me", time.Hour); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := s.Lock(t.Context(), request("you", time.Minute)); ok || err != nil {
			t.Errorf("Lock = %v, %v", ok, err)
		}
		if n := d.asked.Load(); n > 200 {
			t.Errorf("the store was asked %d times in a minute", n)
		}
	})
}

func TestStoreThatFailsEndsTheWait(t *testing.T) {
	_, ok, err := newStore(&scripted{err: fault.New(fault.Unavailable, "down")}, lock.Config{}).Lock(t.Context(), request("me", time.Hour))
	if ok || !fault.Is(err, fault.Unavailable) {
		t.Errorf("Lock = %v, %v", ok, err)
	}
}

func TestWaitThatIsNegativeIsRefused(t *testing.T) {
	_, _, err := newStore(&scripted{}, lock.Config{}).Lock(t.Context(), request("me", -time.Second))
	if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != lock.ReasonBadWait {
		t.Errorf("error %v", err)
	}
}

// slow is a driver that takes its time, whatever its context says, and notes
// who gave a lock back.
type slow struct {
	lock.Driver
	released chan string
}

func (s *slow) Acquire(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	select {
	case <-time.After(500 * time.Millisecond):
		return s.Driver.Acquire(context.WithoutCancel(ctx), name, owner, ttl)
	case <-ctx.Done():
		return lock.Lease{}, ctx.Err()
	}
}

func (s *slow) Release(ctx context.Context, name, owner string) error {
	s.released <- owner
	return s.Driver.Release(ctx, name, owner)
}

func TestLockThatIsGrantedTooLateIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &slow{openMemory(t), make(chan string, 1)}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, ok, err := newStore(d, lock.Config{}).Lock(ctx, request("me", time.Minute))
		if ok || !fault.Is(err, fault.DeadlineExceeded) {
			t.Errorf("Lock = %v, %v; want deadline_exceeded", ok, err)
		}
		select {
		case owner := <-d.released:
			if owner != "me" {
				t.Errorf("released for %q", owner)
			}
		default:
			t.Error("the lock is held by nobody for an hour")
		}
	})
}

func TestThoseWhoWaitGoOnAtTheStoreThatReplacesTheirs(t *testing.T) {
	kinds(t, func(t *testing.T, _ *mute, d lock.Driver) {
		s := newStore(d, lock.Config{})
		if _, _, err := s.TryLock(t.Context(), "r", "first", time.Hour); err != nil {
			t.Fatal(err)
		}
		results := make(chan bool, 3)
		for i := range 3 {
			go func() {
				owner := fmt.Sprint("owner", i)
				_, ok, err := s.Lock(t.Context(), request(owner, 10*time.Minute))
				if err != nil {
					t.Errorf("Lock: %v", err)
				}
				results <- ok
			}()
		}
		time.Sleep(time.Minute)
		next := newStore(d, lock.Config{})
		s.Replace(next)
		time.Sleep(time.Minute)
		if _, err := next.Unlock(t.Context(), "r", "first"); err != nil {
			t.Fatal(err)
		}
		if !<-results {
			t.Error("nobody has the lock after the release at the new store")
		}
		begun := time.Now()
		for range 2 { // the holder keeps it
			if <-results {
				t.Error("two hold the lock")
			}
		}
		if took := time.Since(begun); took > 9*time.Minute {
			t.Errorf("they waited %v more: the time began anew", took)
		}
	})
}

func TestThoseWhoWaitAreToldThatTheStoreWasRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(openMemory(t), lock.Config{})
		if _, _, err := s.TryLock(t.Context(), "r", "first", time.Hour); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, func() { s.Replace(nil) })
		begun := time.Now()
		_, ok, err := s.Lock(t.Context(), request("me", time.Hour))
		if ok || !fault.Is(err, fault.NotFound) || fault.ReasonOf(err) != lock.ReasonNoStore || time.Since(begun) != time.Minute {
			t.Errorf("Lock = %v, %v after %v", ok, err, time.Since(begun))
		}
	})
}
