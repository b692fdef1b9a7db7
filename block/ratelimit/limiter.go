package ratelimit

import (
	"context"
	"time"

	"github.com/proa-io/proa/policy"
)

// Decision is what a Limiter says to a request.
type Decision struct {
	Allowed bool
	// Wait is how long to wait before asking again is of any use; 0 when
	// Allowed.
	Wait time.Duration
	// Degraded tells that the store of a shared limit did not answer, and that
	// the Fallback decided.
	Degraded bool
}

// Limiter limits the rate of requests, of each key by itself. It is safe for
// concurrent use.
type Limiter interface {
	// Take takes the token for one request.
	Take(ctx context.Context, key string) Decision
	// Close ends what runs in the background. Requests that ask later are
	// decided as before, as well as can be.
	Close()
}

// maxKeys is how many keys a Limiter remembers when nobody says.
const maxKeys = 100_000

// Local is a Limiter whose buckets are its own.
type Local struct {
	whole *policy.RateLimit // of key ""
	keys  *keyed[policy.RateLimit]
}

// NewLocal returns a Limiter with a bucket for each key, and remembers at most
// so many keys that have one which is not full; 100,000 when most is 0. When
// there are more, some are given a full one.
func NewLocal(b Bucket, most int) *Local {
	if most == 0 {
		most = maxKeys
	}
	fresh := func() *policy.RateLimit { return policy.NewRateLimit(b.Rate, int(b.Burst)) }
	return &Local{fresh(), newKeyed(most, fresh, (*policy.RateLimit).Full)}
}

// Take implements Limiter.
func (l *Local) Take(_ context.Context, key string) Decision {
	now := time.Now()
	bucket := l.whole
	if key != "" {
		bucket = l.keys.of(key, now)
	}
	ok, wait := bucket.Allow(now)
	return Decision{Allowed: ok, Wait: wait}
}

// Close implements Limiter.
func (l *Local) Close() {}
