package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/policy"
)

// Fallback is what a shared limit does while its store does not answer.
type Fallback uint8

// The fallbacks.
const (
	// Share limits to the share of one of those who used the bucket last.
	Share Fallback = iota
	// Allow lets every request pass.
	Allow
	// Deny lets none pass.
	Deny
)

// SharedOptions configure a Shared.
type SharedOptions struct {
	// Name is what the names of its buckets begin with.
	Name string
	Bucket
	// Take is Driver.Take of the store.
	Take func(context.Context, Request) (Grant, error)
	// Member is who asks the store.
	Member string
	// Lease is for how long tokens are taken in advance: the longer, the fewer
	// questions, and the more may be taken by who does not need them; 100 ms
	// when zero.
	Lease time.Duration
	// Timeout is how long a request waits for the store; 100 ms when zero.
	Timeout time.Duration
	// Fallback is for when the store does not answer.
	Fallback Fallback
	// Keys is how many keys are remembered; 100,000 when zero.
	Keys int
	// Log tells when the store is lost and found; nil discards.
	Log *slog.Logger
}

// Shared is a Limiter whose buckets are kept in a store, where all sidecars
// together have the rate. It takes tokens in advance, as many as it is likely to
// need for a moment, so that hardly any request waits for the store. What it
// took and did not use is lost after a while, so together they may get a little
// less than the rate, and never more.
type Shared struct {
	opt    SharedOptions
	leases *keyed[lease]

	ctx  context.Context //nolint:containedctx // of the questions to the store: ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	down    bool       // the store did not answer
	retry   time.Time  // when to ask again although it is down
	backOff time.Duration
	members int  // how many used a bucket last
	closed  bool // no new questions
}

// lease is what is known of the bucket of one key.
type lease struct {
	mu      sync.Mutex
	tokens  int64     // taken and not used
	expires time.Time // of tokens
	size    int64     // of the last grant
	used    int64     // since the store was asked
	since   time.Time // when it was
	waiting int64     // requests that need a token
	asking  chan struct{}
	ask     time.Time // not before: the bucket is empty
	empty   time.Time // until when it is

	local   *policy.RateLimit // while the store does not answer
	members int               // that local is for
}

const (
	rememberMember = 10 * time.Second
	firstBackOff   = 100 * time.Millisecond
	lastBackOff    = 5 * time.Second
	// leaseLife is how long tokens are kept, in leases.
	leaseLife = 10
	// longestEmpty bounds how long a bucket is believed to be empty.
	longestEmpty = time.Second
)

// NewShared returns a Shared.
func NewShared(o SharedOptions) *Shared {
	if o.Lease == 0 {
		o.Lease = 100 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = 100 * time.Millisecond
	}
	if o.Keys == 0 {
		o.Keys = maxKeys
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Shared{opt: o, members: 1}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.leases = newKeyed(o.Keys, func() *lease { return &lease{} }, func(l *lease, now time.Time) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.asking == nil && !now.Before(l.expires) && !now.Before(l.empty)
	})
	return s
}

// Close implements Limiter.
func (s *Shared) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
}

// Take implements Limiter. When ctx ends first it decides as when the store does
// not answer.
func (s *Shared) Take(ctx context.Context, key string) Decision {
	now := time.Now()
	l := s.leases.of(key, now)
	l.mu.Lock()
	if l.spend(now) {
		if 2*l.tokens < l.size && !now.Before(l.ask) {
			s.question(l, key, now)
		}
		l.mu.Unlock()
		return Decision{Allowed: true}
	}
	l.mu.Unlock()
	return s.await(ctx, l, key)
}

// spend uses a token if there is one. l.mu is held.
func (l *lease) spend(now time.Time) bool {
	if l.tokens == 0 {
		return false
	}
	if !now.Before(l.expires) {
		l.tokens = 0
		return false
	}
	l.tokens--
	l.used++
	return true
}

// await asks the store, together with all others that need a token of the same
// bucket.
func (s *Shared) await(ctx context.Context, l *lease, key string) Decision {
	var late <-chan time.Time
	for {
		now := time.Now()
		l.mu.Lock()
		if l.spend(now) {
			l.mu.Unlock()
			return Decision{Allowed: true}
		}
		if now.Before(l.ask) {
			wait := l.empty.Sub(now)
			l.mu.Unlock()
			return Decision{Wait: max(wait, time.Millisecond)}
		}
		lost := s.lost(now)
		if asks := s.question(l, key, now); lost || !asks {
			d := s.fallback(l, now)
			l.mu.Unlock()
			return d
		}
		l.waiting++
		answered := l.asking
		l.mu.Unlock()
		coroutine.Detach(ctx)
		if late == nil {
			timer := time.NewTimer(s.opt.Timeout)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-answered:
			continue
		case <-late:
		case <-ctx.Done():
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.asking == answered {
			l.waiting--
		}
		return s.fallback(l, time.Now())
	}
}

// lost reports whether the store does not answer.
func (s *Shared) lost(time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// mayAsk reports whether the store may be asked: not after Close, nor all the
// time while it does not answer. A question that may be asked must be, for it is
// counted.
func (s *Shared) mayAsk(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.down && now.Before(s.retry) {
		return false
	}
	if s.down {
		s.retry = now.Add(s.opt.Timeout + s.backOff) // one at a time
	}
	s.wg.Add(1)
	return true
}

// question asks the store in the background, unless that is done already, and
// reports whether there will be an answer. l.mu is held.
func (s *Shared) question(l *lease, key string, now time.Time) bool {
	if l.asking != nil {
		return true
	}
	if !s.mayAsk(now) {
		return false
	}
	l.asking = make(chan struct{})
	r := Request{
		Name: s.opt.Name + key, Bucket: s.opt.Bucket, Tokens: s.demand(l, now), Member: s.opt.Member, Remember: rememberMember,
	}
	l.used, l.since = 0, now
	go func() {
		defer s.wg.Done()
		ctx, cancel := context.WithTimeout(s.ctx, max(s.opt.Timeout, time.Second))
		defer cancel()
		g, err := s.opt.Take(ctx, r)
		s.answer(l, r, g, err)
	}()
	return true
}

// demand is how many tokens to ask for: those that requests wait for, or those
// that will be used during a lease if it goes on like this. l.mu is held.
func (s *Shared) demand(l *lease, now time.Time) int64 {
	lease := s.opt.Lease.Seconds()
	n := 1.0
	if passed := now.Sub(l.since).Seconds(); passed > 0 {
		n = float64(l.used) / passed * lease
	}
	n = min(n, s.opt.Rate*lease, float64(s.opt.Burst)/2)
	return max(int64(n), l.waiting+1)
}

// answer takes the answer of the store into use.
func (s *Shared) answer(l *lease, r Request, g Grant, err error) {
	s.heard(g, err)
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.asking)
	l.asking, l.waiting = nil, 0
	if err != nil {
		return
	}
	l.local = nil
	l.tokens += g.Tokens
	l.size, l.expires = l.tokens, now.Add(leaseLife*s.opt.Lease)
	if g.Tokens == r.Tokens {
		return
	}
	// It is empty. Those who ask too often learn the same, and those who ask too
	// seldom leave it full.
	each := time.Duration(float64(time.Second) / s.opt.Rate)
	wait := max(g.Wait, each)
	if g.Tokens == 0 {
		wait = g.Wait
	}
	l.empty = now.Add(wait)
	least := min(s.opt.Lease/5, each*time.Duration(min(s.opt.Burst, 1000))/2)
	l.ask = now.Add(min(max(wait, least), longestEmpty))
}

// heard notes whether the store answers.
func (s *Shared) heard(g Grant, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.members = max(g.Members, 1)
		if s.down {
			s.opt.Log.Info("the store of a rate limit answers again", "limit", s.opt.Name)
		}
		s.down, s.backOff = false, 0
	case s.closed || errors.Is(err, context.Canceled):
	default:
		if !s.down {
			s.opt.Log.Warn("the store of a rate limit does not answer; until it does, this sidecar decides alone",
				"limit", s.opt.Name, "sidecars", s.members, "error", err)
		}
		s.down = true
		s.backOff = min(max(2*s.backOff, firstBackOff), lastBackOff)
		s.retry = time.Now().Add(s.backOff)
	}
}

// fallback decides without the store. l.mu is held.
func (s *Shared) fallback(l *lease, now time.Time) Decision {
	switch s.opt.Fallback {
	case Allow:
		return Decision{Allowed: true, Degraded: true}
	case Deny:
		return Decision{Wait: time.Second, Degraded: true}
	case Share:
	}
	s.mu.Lock()
	members := s.members
	s.mu.Unlock()
	if l.local == nil || l.members != members {
		n := float64(members)
		l.local, l.members = policy.NewRateLimit(s.opt.Rate/n, int(max(float64(s.opt.Burst)/n, 1))), members
	}
	ok, wait := l.local.Allow(now)
	return Decision{Allowed: ok, Wait: wait, Degraded: true}
}
