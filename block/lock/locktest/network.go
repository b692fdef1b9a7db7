package locktest

import (
	"context"
	"testing"
	"time"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/faultnet"
)

// OpenThrough returns a driver on a store in which no lock is held, and the
// proxy between the two. Use t.Cleanup for what must be undone. The tests run in
// parallel.
type OpenThrough func(t testing.TB) (lock.Driver, *faultnet.Proxy)

// RunNetwork proves that a driver that uses the network names its failures,
// ends when it is told to, recovers, and loses no lock meanwhile.
func RunNetwork(t *testing.T, open OpenThrough) {
	fastloop.Skip(t, "waits for networks to fail and heal")
	for _, c := range []struct {
		name  string
		fault func(*faultnet.Proxy)
	}{
		{"Refused", (*faultnet.Proxy).Refuse},
		{"Reset", (*faultnet.Proxy).Reset},
		{"Stalled", func(p *faultnet.Proxy) { p.Stall() }},
		{"AnswersLost", func(p *faultnet.Proxy) { p.Blackhole(faultnet.Downstream) }},
		{"EverythingLost", func(p *faultnet.Proxy) { p.Blackhole() }},
		{"CutInAnAnswer", func(p *faultnet.Proxy) { p.CutAfter(faultnet.Downstream, 3) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, proxy := open(t)
			acquire(t, d, "held", "me", long)
			c.fault(proxy)
			failsInTime(t, "Acquire", func(ctx context.Context) error {
				_, err := d.Acquire(ctx, "free", "me", long)
				return err
			})
			failsInTime(t, "Release", func(ctx context.Context) error { return d.Release(ctx, "held", "you") })
			if r, ok := d.(lock.Renewer); ok {
				failsInTime(t, "Renew", func(ctx context.Context) error {
					_, err := r.Renew(ctx, "held", "me", long)
					return err
				})
			}
			if w, ok := d.(lock.Watcher); ok {
				endsInTime(t, func(ctx context.Context) error { return w.AwaitFree(ctx, "held") })
			}
			proxy.Heal()
			awaitRecovery(t, d)
			wantHeld(t, d, "held", "you")
			release(t, d, "held", "me")
		})
	}
}

// failsInTime calls fn with a second to go.
func failsInTime(t *testing.T, what string, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begun := time.Now()
	err := fn(ctx)
	if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("%s during the fault: error %v, want unavailable or deadline_exceeded", what, err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("%s took %v with a deadline of 1 s", what, took)
	}
}

// endsInTime calls AwaitFree with a second to go. It may wait for the network to
// come back.
func endsInTime(t *testing.T, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begun := time.Now()
	err := fn(ctx)
	if err != nil && !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("AwaitFree during the fault: error %v, want unavailable or deadline_exceeded", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("AwaitFree took %v with a deadline of 1 s", took)
	}
}

// awaitRecovery waits until a lock can be taken again. One that was asked for
// during the fault may have been taken although the answer was lost.
func awaitRecovery(t *testing.T, d lock.Driver) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := d.Acquire(ctx, "another", "me", long)
		cancel()
		if err == nil || isHeld(err) {
			return
		}
		if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.DeadlineExceeded) {
			t.Fatalf("after the fault: %v", err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("30 s after the fault: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
