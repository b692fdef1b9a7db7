// Package locktest is the contract of lock.Driver as tests.
package locktest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/fault"
)

// Open returns a driver on a store in which no lock is held. Use t.Cleanup for
// what must be undone. It is called
// concurrently: the tests run in parallel.
type Open func(t testing.TB) lock.Driver

// Run proves that a driver keeps the contract.
func Run(t *testing.T, open Open) {
	for _, p := range []struct {
		name string
		test func(*testing.T, lock.Driver)
	}{
		{"FreeLockIsAcquired", freeLockIsAcquired},
		{"HeldLockIsRefused", heldLockIsRefused},
		{"OwnerDoesNotGetItsLockAgain", ownerIsRefused},
		{"LocksAreIndependent", independent},
		{"AnyNameAndOwnerWillDo", oddNames},
		{"OneWinnerUnderContention", oneWinner},
		{"HoldersExcludeEachOther", mutualExclusion},
		{"ReleasedLockIsFree", releasedLockIsFree},
		{"ReleaseOfAFreeLockIsNotFound", releaseFree},
		{"ReleaseByAnotherIsRefused", releaseByAnother},
		{"LeaseIsNoLongerThanAskedFor", leaseLength},
		{"LockIsFreeAfterItsTimeAndNotBefore", expires},
		{"ReleaseAfterExpiryIsNotFound", releaseExpired},
		{"OldOwnerCannotReleaseTheNewOnesLock", oldOwner},
		{"LongTimeToLiveIsKept", longTTL},
		{"TokensGrow", tokensGrow},
		{"RenewExtendsTheLease", renewExtends},
		{"RenewCanShortenTheLease", renewShortens},
		{"RenewKeepsTheToken", renewKeepsToken},
		{"RenewOfAFreeLockIsNotFound", renewFree},
		{"RenewByAnotherIsRefused", renewByAnother},
		{"RenewAfterExpiryIsNotFound", renewExpired},
		{"FreeLockNeedNotBeAwaited", awaitFreeLock},
		{"ReleaseIsToldToThoseWhoWait", awaitRelease},
		{"EndOfALeaseIsToldToThoseWhoWait", awaitExpiry},
		{"RenewedLeaseIsAwaitedToItsNewEnd", awaitRenewed},
		{"WaitForAHeldLockIsNoSpinning", awaitHeld},
		{"WaitsForDifferentLocksAreIndependent", awaitOthers},
		{"CanceledContextReturnsCanceled", canceled},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.test(t, open(t))
		})
	}
}

const (
	long  = time.Hour
	short = 300 * time.Millisecond
)

func freeLockIsAcquired(t *testing.T, d lock.Driver) {
	if lease := acquire(t, d, "l", "me", long); lease.Token == 0 {
		t.Error("the token is 0")
	}
}

func heldLockIsRefused(t *testing.T, d lock.Driver) {
	acquire(t, d, "l", "me", long)
	wantHeld(t, d, "l", "you")
	wantHeld(t, d, "l", "them")
}

func ownerIsRefused(t *testing.T, d lock.Driver) {
	acquire(t, d, "l", "me", long)
	wantHeld(t, d, "l", "me")
	release(t, d, "l", "me")
}

func independent(t *testing.T, d lock.Driver) {
	for _, name := range []string{"a", "b", "a/b", "a.b", "A"} {
		acquire(t, d, name, "me", long)
	}
	release(t, d, "a", "me")
	wantHeld(t, d, "b", "you")
	wantHeld(t, d, "A", "you")
	acquire(t, d, "a", "you", long)
}

func oddNames(t *testing.T, d lock.Driver) {
	names := []string{
		"lock||app||order-1", "with space", "dots.and.more.", ".", "*", ">", "a.>", "$KV", "{a}b}", "{", "/etc/../passwd",
		"grüße 世界", "tab\tand\nline", "percent %s %2F", "=base64==", strings.Repeat("long", 100), "\xff\xfe",
	}
	for i, name := range names {
		acquire(t, d, name, name, long)
		wantHeld(t, d, name, "another")
		if err := d.Release(t.Context(), name, name+" "); !fault.Is(err, fault.PermissionDenied) {
			t.Errorf("Release of %q by an owner that differs by a blank: %v", name, err)
		}
		for _, other := range names[:i] {
			wantHeld(t, d, other, "another")
		}
	}
	for _, name := range names {
		release(t, d, name, name)
	}
}

func oneWinner(t *testing.T, d lock.Driver) {
	var mu sync.Mutex
	var winners []string
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			owner := fmt.Sprint("owner", i)
			_, err := d.Acquire(t.Context(), "l", owner, long)
			switch {
			case err == nil:
				mu.Lock()
				winners = append(winners, owner)
				mu.Unlock()
			case !isHeld(err):
				t.Errorf("a loser got %v", err)
			}
		})
	}
	wg.Wait()
	if len(winners) != 1 {
		t.Fatalf("winners: %v, want one", winners)
	}
	release(t, d, "l", winners[0])
}

// mutualExclusion lets workers take turns until each has had the lock several
// times.
func mutualExclusion(t *testing.T, d lock.Driver) {
	const workers, turns = 4, 5
	var inside atomic.Int32
	var mu sync.Mutex
	var tokens []uint64 // in the order in which the lock was held
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			owner := fmt.Sprint("worker", i)
			for range turns {
				lease, ok := acquireInTurn(t, d, owner)
				if !ok {
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d workers are inside", n)
				}
				mu.Lock()
				tokens = append(tokens, lease.Token)
				mu.Unlock()
				inside.Add(-1)
				if err := d.Release(t.Context(), "l", owner); err != nil {
					t.Errorf("Release: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if len(tokens) != workers*turns || !slices.IsSorted(tokens) || len(slices.Compact(tokens)) != workers*turns {
		t.Errorf("the tokens do not grow from holder to holder: %v", tokens)
	}
}

func acquireInTurn(t *testing.T, d lock.Driver, owner string) (lock.Lease, bool) {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		lease, err := d.Acquire(t.Context(), "l", owner, long)
		switch {
		case err == nil:
			return lease, true
		case !isHeld(err):
			t.Errorf("Acquire: %v", err)
			return lease, false
		case time.Now().After(deadline):
			t.Errorf("%s has not had a turn in 20 s", owner)
			return lease, false
		}
	}
}

func releasedLockIsFree(t *testing.T, d lock.Driver) {
	for _, owner := range []string{"me", "you", "you", "me"} {
		acquire(t, d, "l", owner, long)
		release(t, d, "l", owner)
	}
}

func releaseFree(t *testing.T, d lock.Driver) {
	wantCode(t, "Release of a lock that never was", d.Release(t.Context(), "l", "me"), fault.NotFound)
	acquire(t, d, "l", "me", long)
	release(t, d, "l", "me")
	wantCode(t, "second Release", d.Release(t.Context(), "l", "me"), fault.NotFound)
}

func releaseByAnother(t *testing.T, d lock.Driver) {
	acquire(t, d, "l", "me", long)
	wantCode(t, "Release", d.Release(t.Context(), "l", "you"), fault.PermissionDenied)
	wantHeld(t, d, "l", "you")
	release(t, d, "l", "me")
}

func leaseLength(t *testing.T, d lock.Driver) {
	before := time.Now()
	lease := acquire(t, d, "l", "me", long)
	if lease.Expires.Before(before) || lease.Expires.After(time.Now().Add(long)) {
		t.Errorf("the lease of %v from %v ends at %v", long, before, lease.Expires)
	}
}

func expires(t *testing.T, d lock.Driver) {
	lease := acquire(t, d, "l", "me", short)
	awaitFree(t, d, "l", "you")
	if now := time.Now(); now.Before(lease.Expires) {
		t.Errorf("somebody else got the lock %v before the lease ends", lease.Expires.Sub(now))
	}
}

func releaseExpired(t *testing.T, d lock.Driver) {
	acquire(t, d, "l", "me", short)
	awaitFree(t, d, "l", "you")
	release(t, d, "l", "you")
	wantCode(t, "Release by the owner whose time is over", d.Release(t.Context(), "l", "me"), fault.NotFound)
	// And with nobody in between.
	acquire(t, d, "m", "me", short)
	poll(t, "Release finds no lock", func() bool {
		err := d.Release(t.Context(), "m", "not me")
		return fault.Is(err, fault.NotFound)
	})
	wantCode(t, "Release", d.Release(t.Context(), "m", "me"), fault.NotFound)
}

func oldOwner(t *testing.T, d lock.Driver) {
	acquire(t, d, "l", "me", short)
	awaitFree(t, d, "l", "you")
	wantCode(t, "Release by the old owner", d.Release(t.Context(), "l", "me"), fault.PermissionDenied)
	wantHeld(t, d, "l", "them")
	release(t, d, "l", "you")
}

func longTTL(t *testing.T, d lock.Driver) {
	const year = 365 * 24 * time.Hour
	lease := acquire(t, d, "l", "me", year)
	if left := time.Until(lease.Expires); left < year-time.Hour {
		t.Errorf("the lease of a year has %v left", left)
	}
	wantHeld(t, d, "l", "you")
}

func tokensGrow(t *testing.T, d lock.Driver) {
	var last uint64
	grow := func(how string, lease lock.Lease) {
		t.Helper()
		if lease.Token <= last {
			t.Errorf("%s: token %d after %d", how, lease.Token, last)
		}
		last = lease.Token
	}
	grow("first", acquire(t, d, "l", "me", long))
	release(t, d, "l", "me")
	grow("same owner again", acquire(t, d, "l", "me", long))
	release(t, d, "l", "me")
	grow("another owner", acquire(t, d, "l", "you", short))
	grow("after expiry", awaitFree(t, d, "l", "me"))
}

func renewExtends(t *testing.T, d lock.Driver) {
	r := renewer(t, d)
	first := acquire(t, d, "l", "me", 2*time.Second)
	lease, err := r.Renew(t.Context(), "l", "me", 3*time.Second)
	if err != nil {
		t.Fatalf("Renew: %v", err)
	}
	if !lease.Expires.After(first.Expires) {
		t.Errorf("the lease ends at %v, before Renew at %v", lease.Expires, first.Expires)
	}
	awaitFree(t, d, "l", "you")
	if now := time.Now(); now.Before(lease.Expires) {
		t.Errorf("somebody else got the lock %v before the renewed lease ends", lease.Expires.Sub(now))
	}
}

func renewShortens(t *testing.T, d lock.Driver) {
	r := renewer(t, d)
	acquire(t, d, "l", "me", long)
	if _, err := r.Renew(t.Context(), "l", "me", short); err != nil {
		t.Fatalf("Renew: %v", err)
	}
	awaitFree(t, d, "l", "you")
}

func renewKeepsToken(t *testing.T, d lock.Driver) {
	r := renewer(t, d)
	first := acquire(t, d, "l", "me", long)
	acquire(t, d, "other", "me", long)
	for range 3 {
		lease, err := r.Renew(t.Context(), "l", "me", long)
		if err != nil || lease.Token != first.Token {
			t.Fatalf("Renew = token %d, %v; want token %d", lease.Token, err, first.Token)
		}
	}
	release(t, d, "l", "me")
	if next := acquire(t, d, "l", "you", long); next.Token <= first.Token {
		t.Errorf("token %d after %d", next.Token, first.Token)
	}
}

func renewFree(t *testing.T, d lock.Driver) {
	r := renewer(t, d)
	_, err := r.Renew(t.Context(), "l", "me", long)
	wantCode(t, "Renew", err, fault.NotFound)
	acquire(t, d, "l", "you", long) // Renew has not created it
}

func renewByAnother(t *testing.T, d lock.Driver) {
	r := renewer(t, d)
	acquire(t, d, "l", "me", long)
	_, err := r.Renew(t.Context(), "l", "you", long)
	wantCode(t, "Renew", err, fault.PermissionDenied)
	release(t, d, "l", "me")
}

func renewExpired(t *testing.T, d lock.Driver) {
	r := renewer(t, d)
	acquire(t, d, "l", "me", short)
	poll(t, "the lock expires", func() bool {
		_, err := r.Renew(t.Context(), "l", "another", long)
		return fault.Is(err, fault.NotFound)
	})
	_, err := r.Renew(t.Context(), "l", "me", long)
	wantCode(t, "Renew", err, fault.NotFound)
}

func awaitFreeLock(t *testing.T, d lock.Driver) {
	w := watcher(t, d)
	wait := func(what string) {
		t.Helper()
		if err := w.AwaitFree(t.Context(), "l"); err != nil {
			t.Fatalf("AwaitFree of %s: %v", what, err)
		}
	}
	wait("a lock that never was")
	acquire(t, d, "l", "me", long)
	release(t, d, "l", "me")
	wait("a released lock")
	acquire(t, d, "l", "me", short)
	awaitFree(t, d, "l", "you")
	release(t, d, "l", "you")
	wait("a lock whose lease was over")
}

// waiting waits for the lock in the background and takes it; the result gets
// what went wrong.
func waiting(t *testing.T, d lock.Driver, name, owner string) <-chan error {
	t.Helper()
	w, result := watcher(t, d), make(chan error, 1)
	var begun, work sync.WaitGroup
	begun.Add(1)
	work.Go(func() {
		begun.Done()
		for {
			if err := w.AwaitFree(t.Context(), name); err != nil {
				result <- err
				return
			}
			if _, err := d.Acquire(t.Context(), name, owner, long); !isHeld(err) {
				result <- err
				return
			}
		}
	})
	t.Cleanup(work.Wait)
	begun.Wait()
	return result
}

func wantTold(t *testing.T, result <-chan error) {
	t.Helper()
	select {
	case err := <-result:
		if err != nil {
			t.Fatalf("whoever waited got %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("whoever waits has not been told in 20 s")
	}
}

func awaitRelease(t *testing.T, d lock.Driver) {
	watcher(t, d)
	for i := range 5 {
		owner := fmt.Sprint("owner", i)
		acquire(t, d, "l", owner, long)
		told := waiting(t, d, "l", "next")
		if i%2 == 0 { // released as the wait begins, and some time after
			wantHeldFor(t, told)
		}
		release(t, d, "l", owner)
		wantTold(t, told)
		release(t, d, "l", "next")
	}
}

// wantHeldFor gives those who wait some time to begin, in which they must not
// get the lock.
func wantHeldFor(t *testing.T, result <-chan error) {
	t.Helper()
	select {
	case err := <-result:
		t.Fatalf("whoever waits got a lock that is held, or %v", err)
	case <-time.After(100 * time.Millisecond):
	}
}

func awaitExpiry(t *testing.T, d lock.Driver) {
	watcher(t, d)
	acquire(t, d, "l", "me", short)
	wantTold(t, waiting(t, d, "l", "you"))
}

func awaitRenewed(t *testing.T, d lock.Driver) {
	watcher(t, d)
	r := renewer(t, d)
	acquire(t, d, "l", "me", 2*time.Second)
	told := waiting(t, d, "l", "you")
	lease, err := r.Renew(t.Context(), "l", "me", 3*time.Second)
	if err != nil {
		t.Fatalf("Renew: %v", err)
	}
	wantTold(t, told)
	if now := time.Now(); now.Before(lease.Expires) {
		t.Errorf("somebody else got the lock %v before the renewed lease ends", lease.Expires.Sub(now))
	}
}

func awaitHeld(t *testing.T, d lock.Driver) {
	w := watcher(t, d)
	acquire(t, d, "l", "me", long)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	for range 20 {
		if err := w.AwaitFree(ctx, "l"); err != nil {
			wantCode(t, "AwaitFree when its context ends", err, fault.DeadlineExceeded)
			return
		}
	}
	if ctx.Err() == nil {
		t.Error("AwaitFree said 20 times within 500 ms that a held lock is free")
	}
}

func awaitOthers(t *testing.T, d lock.Driver) {
	names := []string{"a", "a.b", "a||b", "*", "grüße"}
	told := map[string]<-chan error{}
	watcher(t, d)
	for _, name := range names {
		acquire(t, d, name, "me", long)
		told[name] = waiting(t, d, name, "you")
	}
	for i, name := range names {
		release(t, d, name, "me")
		wantTold(t, told[name])
		for _, other := range names[i+1:] {
			wantHeld(t, d, other, "them")
			if err := d.Release(t.Context(), other, "you"); !fault.Is(err, fault.PermissionDenied) {
				t.Errorf("Release of %q, for which somebody waits, by them: %v", other, err)
			}
		}
	}
}

func canceled(t *testing.T, d lock.Driver) {
	acquire(t, d, "held", "me", long)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := d.Acquire(ctx, "free", "me", long)
	wantCode(t, "Acquire", err, fault.Canceled)
	wantCode(t, "Release", d.Release(ctx, "held", "me"), fault.Canceled)
	if r, ok := d.(lock.Renewer); ok {
		_, err := r.Renew(ctx, "held", "me", long)
		wantCode(t, "Renew", err, fault.Canceled)
	}
	if w, ok := d.(lock.Watcher); ok {
		wantCode(t, "AwaitFree", w.AwaitFree(ctx, "held"), fault.Canceled)
	}
	wantHeld(t, d, "held", "you")
	acquire(t, d, "free", "you", long)
}

func acquire(t *testing.T, d lock.Driver, name, owner string, ttl time.Duration) lock.Lease {
	t.Helper()
	lease, err := d.Acquire(t.Context(), name, owner, ttl)
	if err != nil {
		t.Fatalf("Acquire(%q) by %q: %v", name, owner, err)
	}
	return lease
}

func release(t *testing.T, d lock.Driver, name, owner string) {
	t.Helper()
	if err := d.Release(t.Context(), name, owner); err != nil {
		t.Fatalf("Release(%q) by %q: %v", name, owner, err)
	}
}

func isHeld(err error) bool {
	return fault.Is(err, fault.Aborted) && fault.ReasonOf(err) == lock.ReasonHeld
}

func wantHeld(t *testing.T, d lock.Driver, name, by string) {
	t.Helper()
	if _, err := d.Acquire(t.Context(), name, by, long); !isHeld(err) {
		t.Fatalf("Acquire(%q) by %q: error %v, want aborted with reason %q", name, by, err, lock.ReasonHeld)
	}
}

// awaitFree acquires the lock as soon as it can be had.
func awaitFree(t *testing.T, d lock.Driver, name, owner string) (lease lock.Lease) {
	t.Helper()
	poll(t, "the lock is free", func() bool {
		l, err := d.Acquire(t.Context(), name, owner, long)
		if err != nil && !isHeld(err) {
			t.Fatalf("Acquire(%q): %v", name, err)
		}
		lease = l
		return err == nil
	})
	return lease
}

// poll waits until done, because a store tells nobody that a lock has expired.
func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

func renewer(t *testing.T, d lock.Driver) lock.Renewer {
	t.Helper()
	r, ok := d.(lock.Renewer)
	if !ok {
		t.Skip("the driver is no lock.Renewer")
	}
	return r
}

func watcher(t *testing.T, d lock.Driver) lock.Watcher {
	t.Helper()
	w, ok := d.(lock.Watcher)
	if !ok {
		t.Skip("the driver is no lock.Watcher")
	}
	return w
}

func wantCode(t *testing.T, what string, err error, want fault.Code) {
	t.Helper()
	if !fault.Is(err, want) {
		t.Fatalf("%s: error %v, want %v", what, err, want)
	}
}
