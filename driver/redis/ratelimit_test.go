package redis

import (
	"testing"
	"time"

	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/block/ratelimit/ratelimittest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/faultnet"
)

func openRateLimit(t testing.TB, cfg Config) *RateLimit {
	t.Helper()
	l, err := OpenRateLimit(t.Context(), RateLimitConfig{Config: cfg, KeyPrefix: t.Name() + "||"}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestRateLimit(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	ratelimittest.Run(t, func(t testing.TB) ratelimit.Driver { return openRateLimit(t, cfg) })
}

func TestRateLimitOnABadNetwork(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	ratelimittest.RunNetwork(t, func(t testing.TB) (ratelimit.Driver, *faultnet.Proxy) {
		proxy := faultnet.New(t, cfg.Host)
		through := cfg
		through.Host = proxy.Addr()
		return openRateLimit(t, through), proxy
	})
}

func TestBucketsExpireWhenTheyAreFull(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	l := openRateLimit(t, cfg)
	r := ratelimit.Request{Name: "b", Bucket: ratelimit.Bucket{Rate: 1, Burst: 100}, Tokens: 50, Member: "me", Remember: time.Second}
	if _, err := l.Take(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got, ok := command(t, cfg, "PTTL", l.prefix+"b").(int64)
	if left := time.Duration(got) * time.Millisecond; !ok || left < 40*time.Second || left > 51*time.Second {
		t.Errorf("the bucket expires in %v, and is full in 50s", left)
	}
}
