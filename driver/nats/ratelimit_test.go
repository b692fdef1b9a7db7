package nats

import (
	"testing"
	"time"

	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/block/ratelimit/ratelimittest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

func openRateLimit(t testing.TB, e *engine.Engine, bucket string) *RateLimit {
	t.Helper()
	l, err := OpenRateLimit(t.Context(), e, RateLimitConfig{Bucket: bucket}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRateLimit(t *testing.T) {
	for _, k := range engineKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			e := k.start(t)
			ratelimittest.Run(t, func(t testing.TB) ratelimit.Driver { return openRateLimit(t, e, newBucket()) })
		})
	}
}

func TestRateLimitOnABadNetwork(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	ratelimittest.RunNetwork(t, func(t testing.TB) (ratelimit.Driver, *faultnet.Proxy) {
		proxy := faultnet.New(t, server.Addr())
		return openRateLimit(t, runEngine(t, engine.Options{URL: "nats://" + proxy.Addr()}), newBucket()), proxy
	})
}

// A process whose clock is fast would fill buckets for all others.
func TestWrongClockDoesNotFillBuckets(t *testing.T) {
	e, bucket := runEngine(t, engine.Options{Dir: t.TempDir()}), newBucket()
	right, fast, slow := openRateLimit(t, e, bucket), openRateLimit(t, e, bucket), openRateLimit(t, e, bucket)
	fast.now = func() time.Time { return time.Now().Add(24 * time.Hour) }
	slow.now = func() time.Time { return time.Now().Add(-24 * time.Hour) }
	r := ratelimit.Request{Name: "b", Bucket: ratelimit.Bucket{Rate: 1.0 / 3600, Burst: 10}, Tokens: 4, Member: "me", Remember: time.Minute}
	for i, c := range []struct {
		by   *RateLimit
		want int64
	}{{right, 4}, {fast, 4}, {slow, 2}, {fast, 0}, {right, 0}, {slow, 0}} {
		g, err := c.by.Take(t.Context(), r)
		if err != nil || g.Tokens != c.want {
			t.Errorf("%d: %+v, %v; want %d tokens", i, g, err, c.want)
		}
	}
}
