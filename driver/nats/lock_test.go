package nats

import (
	"testing"
	"time"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/lock/locktest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

func TestLock(t *testing.T) {
	for _, k := range engineKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			e := k.start(t)
			locktest.Run(t, func(t testing.TB) lock.Driver { return openLock(t, e, newBucket()) })
		})
	}
}

func TestLockOnABadNetwork(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	locktest.RunNetwork(t, func(t testing.TB) (lock.Driver, *faultnet.Proxy) {
		proxy := faultnet.New(t, server.Addr())
		return openLock(t, runEngine(t, engine.Options{URL: "nats://" + proxy.Addr()}), newBucket()), proxy
	})
}

func TestServerForgetsLeasesThatAreOver(t *testing.T) {
	l := openLock(t, runEngine(t, engine.Options{Dir: t.TempDir()}), newBucket())
	if _, err := l.Acquire(t.Context(), "l", "me", 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := l.bucket.Get(t.Context(), encodeKey("l"), engine.Strong)
		if fault.Is(err, fault.NotFound) {
			return
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the lease is still there: %v", err)
		}
	}
}

// A process whose clock is fast believes that every lease is over, and one
// whose clock is slow that none is.
func TestWrongClockDoesNotMatter(t *testing.T) {
	e, bucket := runEngine(t, engine.Options{Dir: t.TempDir()}), newBucket()
	right, fast, slow := openLock(t, e, bucket), openLock(t, e, bucket), openLock(t, e, bucket)
	fast.now = func() time.Time { return time.Now().Add(24 * time.Hour) }
	slow.now = func() time.Time { return time.Now().Add(-24 * time.Hour) }
	if _, err := right.Acquire(t.Context(), "l", "me", time.Hour); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*Lock{"fast": fast, "slow": slow} {
		if _, err := l.Acquire(t.Context(), "l", "you", time.Hour); fault.ReasonOf(err) != lock.ReasonHeld {
			t.Errorf("Acquire with a %s clock: %v, want that it is held", name, err)
		}
		if _, err := l.Renew(t.Context(), "l", "me", time.Hour); err != nil {
			t.Errorf("Renew with a %s clock: %v", name, err)
		}
	}
	if _, err := right.Renew(t.Context(), "l", "me", 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	// The server removes the lease in the end, whatever the slow clock says.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := slow.Acquire(t.Context(), "l", "you", time.Hour)
		if err == nil {
			return
		}
		if fault.ReasonOf(err) != lock.ReasonHeld || time.Now().After(deadline) {
			t.Fatalf("Acquire with a slow clock: %v", err)
		}
	}
}

func TestKeyThatHoldsNoLockIsLeftAlone(t *testing.T) {
	l := openLock(t, runEngine(t, engine.Options{Dir: t.TempDir()}), newBucket())
	for _, value := range []string{"", "text", "{}", `{"owner":""}`, `[]`} {
		if _, err := l.bucket.Put(t.Context(), "l", []byte(value), engine.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := l.Acquire(t.Context(), "l", "me", time.Hour)
		if !fault.Is(err, fault.FailedPrecondition) {
			t.Errorf("Acquire over %q: %v, want failed_precondition", value, err)
		}
		if err := l.Release(t.Context(), "l", "me"); !fault.Is(err, fault.FailedPrecondition) {
			t.Errorf("Release of %q: %v, want failed_precondition", value, err)
		}
	}
}

func openLock(t testing.TB, e *engine.Engine, bucket string) *Lock {
	t.Helper()
	l, err := OpenLock(t.Context(), e, LockConfig{Bucket: bucket}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}
