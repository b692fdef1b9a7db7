package ratelimit_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/fault"
)

// store is a ratelimit.Driver that can be gone.
type store struct {
	mu      sync.Mutex
	buckets map[string]*ratelimit.Level
	members map[string]map[string]bool
	delay   time.Duration
	gone    bool
	asked   atomic.Int64
}

func newStore() *store {
	return &store{buckets: map[string]*ratelimit.Level{}, members: map[string]map[string]bool{}}
}

func (s *store) Take(ctx context.Context, r ratelimit.Request) (ratelimit.Grant, error) {
	s.asked.Add(1)
	s.mu.Lock()
	delay := s.delay
	s.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return ratelimit.Grant{}, fault.Wrap(ctx.Err(), fault.DeadlineExceeded, "ask")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return ratelimit.Grant{}, fault.New(fault.Unavailable, "the store is gone")
	}
	b := s.buckets[r.Name]
	if b == nil {
		b = &ratelimit.Level{}
		s.buckets[r.Name], s.members[r.Name] = b, map[string]bool{}
	}
	var g ratelimit.Grant
	g.Tokens, g.Wait = b.Take(r.Bucket, r.Tokens, float64(time.Now().UnixNano())/1e3)
	s.members[r.Name][r.Member] = true
	g.Members = len(s.members[r.Name])
	return g, nil
}

func (s *store) set(gone bool, delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone, s.delay = gone, delay
}

func shared(t *testing.T, s *store, o ratelimit.SharedOptions) *ratelimit.Shared {
	t.Helper()
	o.Take = s.Take
	l := ratelimit.NewShared(o)
	t.Cleanup(l.Close)
	return l
}

// sidecars are five of them with one limit.
func sidecars(t *testing.T, s *store, b ratelimit.Bucket) []*ratelimit.Shared {
	t.Helper()
	var all []*ratelimit.Shared
	for i := range 5 {
		all = append(all, shared(t, s, ratelimit.SharedOptions{Name: "limit", Bucket: b, Member: fmt.Sprint(i)}))
	}
	return all
}

// drive sends requests at the given rates for a time and counts those that were
// allowed, by sidecar.
func drive(t *testing.T, all []*ratelimit.Shared, perSecond []float64, d time.Duration) []int {
	t.Helper()
	allowed := make([]int, len(all))
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for i, l := range all {
		wg.Go(func() {
			for tick := 0; ; tick++ {
				time.Sleep(time.Duration(float64(time.Second) / perSecond[i]))
				if !time.Now().Before(end) {
					return
				}
				d := l.Take(t.Context(), "")
				if d.Allowed {
					allowed[i]++
				} else if d.Wait <= 0 {
					t.Error("refused, with no time to wait")
				}
			}
		})
	}
	wg.Wait()
	return allowed
}

func total(allowed []int) (n int) {
	for _, a := range allowed {
		n += a
	}
	return n
}

func TestFiveSidecarsKeepOneLimit(t *testing.T) {
	for _, c := range []struct {
		name      string
		perSecond []float64
	}{
		{"all ask for too much", []float64{200, 200, 200, 200, 200}},
		{"one asks for nearly all", []float64{1000, 3, 3, 3, 3}},
		{"each asks for a little more than its share", []float64{23, 25, 27, 29, 31}},
		{"much too much", []float64{3000, 3000, 3000, 3000, 3000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				s.delay = 2 * time.Millisecond
				all := sidecars(t, s, ratelimit.Bucket{Rate: 100, Burst: 10})
				allowed := drive(t, all, c.perSecond, 10*time.Second)
				if n := total(allowed); math.Abs(float64(n)-1000) > 50 {
					t.Errorf("%d of 1000 were allowed: %v", n, allowed)
				}
				if n := s.asked.Load(); n > 5000 {
					t.Errorf("the store was asked %d times", n)
				}
			})
		})
	}
}

func TestBelowTheLimitNothingIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.delay = time.Millisecond
		all := sidecars(t, s, ratelimit.Bucket{Rate: 1000, Burst: 100})
		allowed := drive(t, all, []float64{100, 200, 50, 10, 300}, 5*time.Second)
		if n := total(allowed); n < 660*5-5*5 {
			t.Errorf("%d were allowed: %v", n, allowed)
		}
	})
}

func TestWithoutTheStoreEachHasItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		all := sidecars(t, s, ratelimit.Bucket{Rate: 100, Burst: 10})
		much := []float64{200, 200, 200, 200, 200}
		drive(t, all, much, 2*time.Second)
		s.set(true, 0)
		for i, n := range drive(t, all, much, 10*time.Second) {
			if math.Abs(float64(n)-200) > 10 {
				t.Errorf("sidecar %d was allowed %d of 200", i, n)
			}
		}
		s.set(false, 0)
		drive(t, all, much, 6*time.Second) // until all know
		if n := total(drive(t, all, much, 10*time.Second)); math.Abs(float64(n)-1000) > 50 {
			t.Errorf("%d of 1000 were allowed after the store came back", n)
		}
	})
}

func TestSlowStoreHoldsNobodyUpForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.set(false, time.Hour)
		l := shared(t, s, ratelimit.SharedOptions{Bucket: ratelimit.Bucket{Rate: 100, Burst: 10}, Member: "me"})
		begun := time.Now()
		if d := l.Take(t.Context(), ""); !d.Allowed || !d.Degraded {
			t.Errorf("%+v", d)
		}
		if took := time.Since(begun); took != 100*time.Millisecond {
			t.Errorf("a request waited %v", took)
		}
		time.Sleep(2 * time.Second) // it is lost now
		begun = time.Now()
		if d := l.Take(t.Context(), ""); !d.Allowed || !d.Degraded {
			t.Errorf("%+v", d)
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("a request waited %v for a store that is known not to answer", took)
		}
	})
}

func TestFallbacks(t *testing.T) {
	for fallback, want := range map[ratelimit.Fallback]bool{ratelimit.Allow: true, ratelimit.Deny: false} {
		synctest.Test(t, func(t *testing.T) {
			s := newStore()
			s.set(true, 0)
			l := shared(t, s, ratelimit.SharedOptions{Bucket: ratelimit.Bucket{Rate: 1, Burst: 1}, Member: "me", Fallback: fallback})
			for range 5 {
				if d := l.Take(t.Context(), ""); d.Allowed != want || !d.Degraded {
					t.Errorf("fallback %d: %+v", fallback, d)
				}
			}
		})
	}
}

func TestRequestsThatWaitAreServedByOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.set(false, 50*time.Millisecond)
		l := shared(t, s, ratelimit.SharedOptions{Bucket: ratelimit.Bucket{Rate: 100, Burst: 100}, Member: "me"})
		var allowed atomic.Int64
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if l.Take(t.Context(), "").Allowed {
					allowed.Add(1)
				}
			})
		}
		wg.Wait()
		if n, asked := allowed.Load(), s.asked.Load(); n != 20 || asked > 3 {
			t.Errorf("%d of 20 were allowed, the store was asked %d times", n, asked)
		}
	})
}

func TestKeysHaveBucketsOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		b := ratelimit.Bucket{Rate: 0.001, Burst: 3}
		for name, l := range map[string]ratelimit.Limiter{
			"shared": shared(t, s, ratelimit.SharedOptions{Bucket: b, Member: "me"}), "local": ratelimit.NewLocal(b, 0),
		} {
			for _, key := range []string{"", "a", "b"} {
				for i, want := range []bool{true, true, true, false, false} {
					if d := l.Take(t.Context(), key); d.Allowed != want || d.Allowed == (d.Wait > 0) {
						t.Errorf("%s: request %d of %q: %+v", name, i+1, key, d)
					}
				}
			}
		}
	})
}

func TestUnusedTokensAreNotHoarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		all := sidecars(t, s, ratelimit.Bucket{Rate: 100, Burst: 10})
		drive(t, all, []float64{200, 200, 200, 200, 200}, time.Second)
		time.Sleep(time.Hour)
		// Only the bucket's own burst is there.
		n := 0
		for _, l := range all {
			for range 20 {
				if l.Take(t.Context(), "").Allowed {
					n++
				}
			}
		}
		if n > 12 {
			t.Errorf("%d at once of a bucket that holds 10", n)
		}
	})
}

func TestWhatIsAllowedCostsNoAllocation(t *testing.T) {
	s := newStore()
	b := ratelimit.Bucket{Rate: 1e6, Burst: 1e6}
	for name, l := range map[string]ratelimit.Limiter{
		"shared": shared(t, s, ratelimit.SharedOptions{Bucket: b, Member: "me", Lease: time.Minute}), "local": ratelimit.NewLocal(b, 0),
	} {
		for _, key := range []string{"", "tenant"} {
			for range 1000 {
				l.Take(t.Context(), key)
			}
			if n := testing.AllocsPerRun(1000, func() { l.Take(t.Context(), key) }); n > 0.5 {
				t.Errorf("%s, key %q: %v allocations", name, key, n)
			}
		}
	}
}

func TestFullBucketsAreForgottenFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.NewLocal(ratelimit.Bucket{Rate: 1, Burst: 1}, 1600)
		for i := range 10_000 {
			l.Take(t.Context(), fmt.Sprint(i))
			time.Sleep(2 * time.Millisecond) // 500 are not full at a time
		}
		if n := l.Len(); n > 1600 {
			t.Errorf("%d keys are remembered", n)
		}
		if d := l.Take(t.Context(), "9999"); d.Allowed {
			t.Error("a bucket that is not full was forgotten")
		}
	})
}
