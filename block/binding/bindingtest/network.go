package bindingtest

import (
	"context"
	"testing"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/faultnet"
)

// Network makes output drivers that reach their server through a proxy.
type Network struct {
	// Open returns a driver, and the proxy between it and its server. Use
	// t.Cleanup for what must be undone. The tests run in parallel.
	Open func(t testing.TB) (binding.Output, *faultnet.Proxy)
	// Request is one that succeeds, and that may be carried out twice.
	Request binding.Request
	// CutAfter is a number of bytes within the answer to Request; 5 when zero.
	CutAfter int64
}

// RunNetwork proves that an output driver that uses the network names its
// failures, ends when it is told to, and recovers.
func RunNetwork(t *testing.T, h Network) {
	fastloop.Skip(t, "waits for networks to fail and heal")
	if h.CutAfter == 0 {
		h.CutAfter = 5
	}
	for _, c := range []struct {
		name  string
		fault func(*faultnet.Proxy)
	}{
		{"Refused", (*faultnet.Proxy).Refuse},
		{"Reset", (*faultnet.Proxy).Reset},
		{"Stalled", func(p *faultnet.Proxy) { p.Stall() }},
		{"AnswersLost", func(p *faultnet.Proxy) { p.Blackhole(faultnet.Downstream) }},
		{"EverythingLost", func(p *faultnet.Proxy) { p.Blackhole() }},
		{"CutInTheAnswer", func(p *faultnet.Proxy) { p.CutAfter(faultnet.Downstream, h.CutAfter) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, proxy := h.Open(t)
			if _, err := d.Invoke(t.Context(), h.Request); err != nil {
				t.Fatalf("before the fault: %v", err)
			}
			c.fault(proxy)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begun := time.Now()
			_, err := d.Invoke(ctx, h.Request)
			if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.DeadlineExceeded) {
				t.Errorf("during the fault: error %v, want unavailable or deadline_exceeded", err)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("Invoke took %v with a deadline of 1 s", took)
			}
			proxy.Heal()
			awaitRecovery(t, d, h.Request)
		})
	}
}

func awaitRecovery(t *testing.T, d binding.Output, r binding.Request) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := d.Invoke(ctx, r)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v after the fault: %v", within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
