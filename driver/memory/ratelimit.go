package memory

import (
	"context"
	"sync"
	"time"

	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/component"
)

// RateLimitConfig configures token buckets in memory. There is nothing to
// configure.
type RateLimitConfig struct{}

// RateLimit is a ratelimit.Driver.
type RateLimit struct {
	mu      sync.Mutex
	buckets map[string]*sharedBucket // by name; some may be full
	sweep   int                      // size of buckets at which full ones are removed
}

// sharedBucket is a bucket and who uses it.
type sharedBucket struct {
	ratelimit.Level
	members map[string]time.Time // until when each counts
}

// OpenRateLimit returns a store in which every bucket is full.
func OpenRateLimit(context.Context, RateLimitConfig, component.Env) (*RateLimit, error) {
	return &RateLimit{buckets: map[string]*sharedBucket{}, sweep: minSweep}, nil
}

// Take implements ratelimit.Driver.
func (l *RateLimit) Take(ctx context.Context, r ratelimit.Request) (ratelimit.Grant, error) {
	if err := ctx.Err(); err != nil {
		return ratelimit.Grant{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	b := l.buckets[r.Name]
	if b == nil {
		l.forgetFull(now)
		b = &sharedBucket{members: map[string]time.Time{}}
		l.buckets[r.Name] = b
	}
	var g ratelimit.Grant
	g.Tokens, g.Wait = b.Take(r.Bucket, r.Tokens, micros(now))
	b.members[r.Member] = now.Add(r.Remember)
	b.forgetMembers(now)
	g.Members = len(b.members)
	return g, nil
}

// Close implements io.Closer.
func (l *RateLimit) Close() error { return nil }

func (b *sharedBucket) forgetMembers(now time.Time) {
	for id, until := range b.members {
		if now.After(until) {
			delete(b.members, id)
		}
	}
}

// forgetFull removes the buckets that are as those that are not known. l.mu is
// held.
func (l *RateLimit) forgetFull(now time.Time) {
	if len(l.buckets) < l.sweep {
		return
	}
	for name, b := range l.buckets {
		if b.forgetMembers(now); len(b.members) == 0 && b.Until <= micros(now) {
			delete(l.buckets, name)
		}
	}
	l.sweep = max(minSweep, 2*len(l.buckets))
}

func micros(t time.Time) float64 { return float64(t.UnixNano()) / 1e3 }
