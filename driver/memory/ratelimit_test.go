package memory

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/block/ratelimit/ratelimittest"
	"github.com/proa-io/proa/component"
)

func TestRateLimit(t *testing.T) {
	ratelimittest.Run(t, func(t testing.TB) ratelimit.Driver { return openRateLimit(t) })
}

func TestFullBucketsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openRateLimit(t)
		for i := range 100 * minSweep {
			r := ratelimit.Request{
				Name: fmt.Sprint(i), Bucket: ratelimit.Bucket{Rate: 1, Burst: 1}, Tokens: 1, Member: "me", Remember: time.Second,
			}
			if _, err := l.Take(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if i%minSweep == 0 {
				time.Sleep(2 * time.Second)
			}
		}
		if n := len(l.buckets); n > 3*minSweep {
			t.Errorf("%d buckets are remembered", n)
		}
	})
}

func openRateLimit(t testing.TB) *RateLimit {
	t.Helper()
	l, err := OpenRateLimit(t.Context(), RateLimitConfig{}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}
