package nats

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// RateLimitConfig configures token buckets on the engine.
//
// They are kept in the memory of the server: after it was lost, buckets are
// full again.
type RateLimitConfig struct {
	Server
	// Bucket is the key-value bucket that holds them; by default one for each
	// namespace. Letters, digits, _ and - only.
	Bucket string `setting:"bucket"`
}

// Validate reports settings that can never work.
func (c RateLimitConfig) Validate() error {
	if err := c.Server.Validate(); err != nil {
		return err
	}
	return checkBucket(c.Bucket)
}

// RateLimit is a ratelimit.Driver.
//
// A token bucket is a key, which is replaced provided that nobody else was
// faster. Time is that of the server, as far as it is known: how far the clock
// of this process is from it is found out once in a while.
type RateLimit struct {
	connection
	bucket *engine.Bucket
	ttl    bool             // the server removes what has ended
	now    func() time.Time // the clock of this process

	mu     sync.Mutex
	ahead  time.Duration // of the server's clock
	synced time.Time     // when that was found out
}

// rateLimitAge is how long a server that keeps no TTL per key remembers a token
// bucket which nobody uses.
const rateLimitAge = 48 * time.Hour

// OpenRateLimit opens the bucket, and creates it when it does not exist. It
// uses shared unless cfg names a server.
func OpenRateLimit(ctx context.Context, shared *engine.Engine, cfg RateLimitConfig, env component.Env) (*RateLimit, error) {
	c, err := cfg.connect(ctx, shared, env)
	if err != nil {
		return nil, err
	}
	if cfg.Bucket == "" {
		cfg.Bucket = bucketName("ratelimits", env.Namespace)
	}
	l := &RateLimit{connection: c, ttl: c.engine.Supports(engine.MessageTTL), now: time.Now}
	b := engine.BucketConfig{Name: cfg.Bucket, Description: "rate limits", Memory: true, KeyTTL: l.ttl}
	if !l.ttl {
		b.MaxAge = rateLimitAge
	}
	if l.bucket, err = c.engine.KeyValue(ctx, b); err != nil {
		c.stop()
		return nil, err
	}
	return l, nil
}

// Close implements io.Closer. A shared engine stays open.
func (l *RateLimit) Close() error {
	l.stop()
	return nil
}

// storedBucket is what the key of a token bucket holds. Times are in
// microseconds since 1970 by the server's clock.
type storedBucket struct {
	Until   float64          `json:"until"`
	Members map[string]int64 `json:"members"` // until when each counts
}

// maxRateLimitTries bounds how often a call begins again because others were
// faster.
const maxRateLimitTries = 32

// maxMembers bounds the members that are counted.
const maxMembers = 1000

// Take implements ratelimit.Driver.
func (l *RateLimit) Take(ctx context.Context, r ratelimit.Request) (ratelimit.Grant, error) {
	key := encodeKey(r.Name)
	r.Member = encodeKey(r.Member) // JSON has valid UTF-8 only
	for range maxRateLimitTries {
		if err := ctx.Err(); err != nil {
			return ratelimit.Grant{}, err
		}
		now, err := l.serverTime(ctx)
		if err != nil {
			return ratelimit.Grant{}, err
		}
		expect, s, err := l.read(ctx, key)
		if err != nil {
			return ratelimit.Grant{}, err
		}
		g, life := s.take(r, now)
		err = l.write(ctx, key, s, engine.PutOptions{Expect: expect, TTL: life})
		if !conflict(err) {
			return g, err
		}
	}
	return ratelimit.Grant{}, fault.New(fault.Unavailable, "a token bucket is asked for by too many at once")
}

// take takes tokens from s, and returns how long it differs from one that is
// not known.
func (s *storedBucket) take(r ratelimit.Request, now time.Time) (g ratelimit.Grant, life time.Duration) {
	at := now.UnixMicro()
	level := ratelimit.Level{Until: s.Until}
	g.Tokens, g.Wait = level.Take(r.Bucket, r.Tokens, float64(at))
	s.Until = level.Until
	if s.Members == nil {
		s.Members = map[string]int64{}
	}
	delete(s.Members, r.Member)
	last := at + r.Remember.Microseconds()
	for id, until := range s.Members {
		if until < at || len(s.Members) >= maxMembers {
			delete(s.Members, id)
		} else {
			last = max(last, until)
		}
	}
	s.Members[r.Member] = at + r.Remember.Microseconds()
	g.Members = len(s.Members)
	return g, time.Duration(max(s.Until, float64(last))-float64(at))*time.Microsecond + time.Second
}

// read returns a bucket, the zero one when it is not known, and what to expect
// of its key when it is written.
func (l *RateLimit) read(ctx context.Context, key string) (engine.Expect, *storedBucket, error) {
	s := &storedBucket{}
	e, err := l.bucket.Get(ctx, key, engine.Strong)
	if fault.Is(err, fault.NotFound) {
		return engine.Absent(), s, nil
	}
	if err != nil {
		return engine.Expect{}, nil, err
	}
	if json.Unmarshal(e.Value, s) != nil {
		return engine.Expect{}, nil, fault.New(fault.FailedPrecondition,
			"bucket %q holds something at key %q that is no rate limit", l.bucket.Name(), key)
	}
	return engine.Revision(e.Revision), s, nil
}

func (l *RateLimit) write(ctx context.Context, key string, s *storedBucket, o engine.PutOptions) error {
	value, err := json.Marshal(s)
	if err != nil {
		return fault.Wrap(err, fault.Internal, "encode rate limit")
	}
	if !l.ttl {
		o.TTL = 0
	}
	_, err = l.bucket.Put(ctx, key, value, o)
	return err
}

// syncEvery is how often the clocks are compared.
const syncEvery = 30 * time.Second

// serverTime returns the time by the server's clock: this process's, corrected
// by how far they were apart when they were compared last.
func (l *RateLimit) serverTime(ctx context.Context) (time.Time, error) {
	l.mu.Lock()
	ahead, synced := l.ahead, l.synced
	l.mu.Unlock()
	if now := l.now(); !synced.IsZero() && now.Sub(synced) < syncEvery {
		return now.Add(ahead), nil
	}
	before := l.now()
	if _, err := l.bucket.Put(ctx, clockKey, nil, engine.PutOptions{}); err != nil {
		return time.Time{}, err
	}
	after := l.now()
	e, err := l.bucket.Get(ctx, clockKey, engine.Strong)
	if err != nil {
		return time.Time{}, err
	}
	// The server stamped it between the two.
	ahead = e.Created.Sub(before.Add(after.Sub(before) / 2))
	l.mu.Lock()
	l.ahead, l.synced = ahead, after
	l.mu.Unlock()
	return l.now().Add(ahead), nil
}
