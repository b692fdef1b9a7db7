package secrettest

import (
	"context"
	"testing"
	"time"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/faultnet"
)

// OpenThrough returns a driver that holds the secret "S" with the value "v" at
// the key "S", and the proxy between it and its store. Use t.Cleanup for what
// must be undone. The tests run in parallel.
type OpenThrough func(t testing.TB) (secret.Driver, *faultnet.Proxy)

// RunNetwork proves that a driver that uses the network names its failures,
// ends when it is told to, and recovers.
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
			wantSecret(t, d, "S", map[string]string{"S": "v"})
			c.fault(proxy)
			failsInTime(t, "Get", func(ctx context.Context) error {
				_, err := d.Get(ctx, "S", nil)
				return err
			})
			if l, ok := d.(secret.Lister); ok {
				failsInTime(t, "List", func(ctx context.Context) error {
					_, err := l.List(ctx, nil, func(string) bool { return true })
					return err
				})
			}
			proxy.Heal()
			awaitRecovery(t, d)
		})
	}
}

// failsInTime calls fn with half a second to go.
func failsInTime(t *testing.T, what string, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	begun := time.Now()
	err := fn(ctx)
	if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("%s during the fault: error %v, want unavailable or deadline_exceeded", what, err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("%s took %v with a deadline of 500 ms", what, took)
	}
}

func awaitRecovery(t *testing.T, d secret.Driver) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		values, err := d.Get(ctx, "S", nil)
		cancel()
		if err == nil && values["S"] == "v" {
			return
		}
		if err != nil && !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.DeadlineExceeded) {
			t.Fatalf("after the fault: %v", err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("30 s after the fault: %v", err)
		}
	}
}
