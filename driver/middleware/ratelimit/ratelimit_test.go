package ratelimit

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/middleware/middlewaretest"
	"github.com/proa-io/proa/component"
)

func TestEachClientHasABudgetOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := Open(t.Context(), Config{MaxRequestsPerSecond: 2}, component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		status := func(addr string) int {
			x := middlewaretest.New(t, "GET", "/")
			x.RemoteAddr = netip.MustParseAddrPort(addr)
			x.Through(l)
			if x.Passed != (x.Status == 200) {
				t.Errorf("passed %v with the status %d", x.Passed, x.Status)
			}
			if x.Status == 429 && (x.Header.Get("retry-after") != "1" || !strings.Contains(string(x.Content), "2 per second")) {
				t.Errorf("refused with %v %s", x.Header, x.Content)
			}
			return x.Status
		}
		for i, want := range []int{200, 200, 429, 429} {
			if got := status("192.0.2.1:1"); got != want {
				t.Errorf("request %d: %d, want %d", i+1, got, want)
			}
		}
		if got := status("[::ffff:192.0.2.1]:9"); got != 429 {
			t.Errorf("the same address in other words: %d", got)
		}
		if got := status("192.0.2.2:1"); got != 200 {
			t.Errorf("another client: %d", got)
		}
		time.Sleep(500 * time.Millisecond)
		if a, b := status("192.0.2.1:1"), status("192.0.2.1:1"); a != 200 || b != 429 {
			t.Errorf("half a second later: %d, %d", a, b)
		}
	})
}

func TestTheNumberOfClientsIsBounded(t *testing.T) {
	l, err := Open(t.Context(), Config{MaxRequestsPerSecond: 1}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("10.0.0.0")
	for range maxClients + 100 {
		l.take(addr)
		addr = addr.Next()
	}
	if len(l.clients) != maxClients || l.order.Len() != maxClients {
		t.Errorf("%d clients are known", len(l.clients))
	}
}

func TestALimitMustBePositive(t *testing.T) {
	for _, n := range []float64{0, -1} {
		if (Config{MaxRequestsPerSecond: n}).Validate() == nil {
			t.Errorf("%v is accepted", n)
		}
	}
}
