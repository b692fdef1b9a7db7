// Package ratelimittest is the contract of ratelimit.Driver as tests.
package ratelimittest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

// Open returns a driver on a store in which no bucket is known. Use t.Cleanup
// for what must be undone. It is called concurrently: the tests run in parallel.
type Open func(t testing.TB) ratelimit.Driver

// Run proves that a driver keeps the contract.
func Run(t *testing.T, open Open) {
	for _, p := range []struct {
		name string
		test func(*testing.T, ratelimit.Driver)
	}{
		{"NewBucketIsFull", newBucketIsFull},
		{"EmptyBucketSaysHowLongToWait", emptyBucket},
		{"BucketFillsAtItsRateUpToItsBurst", fills},
		{"BucketsAreIndependent", independent},
		{"AnyNameAndMemberWillDo", oddNames},
		{"SlowBucketsAreRemembered", slow},
		{"LargeAndFastBucketsAreExact", large},
		{"NeverMoreThanTheRateUnderContention", contention},
		{"MembersAreCountedWhileTheyAsk", members},
		{"ChangedBucketGoesOn", changed},
		{"CanceledContextReturnsCanceled", canceled},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.test(t, open(t))
		})
	}
}

const remember = time.Minute

// take takes tokens for member "me".
func take(t *testing.T, d ratelimit.Driver, name string, b ratelimit.Bucket, n int64) ratelimit.Grant {
	t.Helper()
	return takeFor(t, d, ratelimit.Request{Name: name, Bucket: b, Tokens: n, Member: "me", Remember: remember})
}

func takeFor(t *testing.T, d ratelimit.Driver, r ratelimit.Request) ratelimit.Grant {
	t.Helper()
	g, err := d.Take(t.Context(), r)
	if err != nil {
		t.Fatalf("Take %+v: %v", r, err)
	}
	if g.Tokens < 0 || g.Tokens > r.Tokens || (g.Tokens == 0) != (g.Wait > 0) || g.Members < 1 {
		t.Fatalf("Take %+v = %+v", r, g)
	}
	return g
}

// hourly fills too slowly for a test to notice.
func hourly(burst int64) ratelimit.Bucket { return ratelimit.Bucket{Rate: 1.0 / 3600, Burst: burst} }

func newBucketIsFull(t *testing.T, d ratelimit.Driver) {
	for _, want := range []int64{4, 4, 2, 0, 0} {
		if g := take(t, d, "b", hourly(10), 4); g.Tokens != want {
			t.Fatalf("got %d tokens, want %d", g.Tokens, want)
		}
	}
}

func emptyBucket(t *testing.T, d ratelimit.Driver) {
	b := ratelimit.Bucket{Rate: 2, Burst: 1} // a token each half second
	take(t, d, "b", b, 1)
	g := take(t, d, "b", b, 1)
	if g.Tokens == 0 && g.Wait > 500*time.Millisecond {
		t.Errorf("to wait %v for a token of a bucket that gets one each 500ms", g.Wait)
	}
	if g := take(t, d, "slow", hourly(1), 5); g.Tokens != 1 {
		t.Fatalf("%+v", g)
	}
	if g := take(t, d, "slow", hourly(1), 5); g.Wait < 59*time.Minute || g.Wait > time.Hour {
		t.Errorf("to wait %v for the token of an hour", g.Wait)
	}
}

// fills empties a bucket and takes what comes: the test is not about how soon it
// comes, but that it does and that it is not more.
func fills(t *testing.T, d ratelimit.Driver) {
	b := ratelimit.Bucket{Rate: 200, Burst: 20}
	begun := time.Now()
	got := take(t, d, "b", b, 20).Tokens
	for got < 60 {
		g := take(t, d, "b", b, 100)
		if got += g.Tokens; g.Tokens == 0 {
			await(t, g.Wait)
		}
		if g.Tokens > b.Burst {
			t.Fatalf("%d tokens at once of a bucket that holds %d", g.Tokens, b.Burst)
		}
		within(t, b, got, begun)
	}
}

// within fails if more tokens were got than there can have been.
func within(t *testing.T, b ratelimit.Bucket, got int64, begun time.Time) {
	t.Helper()
	// The store's clock may be read a little apart from ours.
	if most := float64(b.Burst) + b.Rate*(time.Since(begun)+10*time.Millisecond).Seconds() + 1; float64(got) > most {
		t.Fatalf("%d tokens in %v, of %v a second and %d at once", got, time.Since(begun), b.Rate, b.Burst)
	}
}

// await waits for as long as a bucket said.
func await(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal("the test has ended")
	}
}

func independent(t *testing.T, d ratelimit.Driver) {
	for _, name := range []string{"a", "b", "A", "a.b", "a/b"} {
		if g := take(t, d, name, hourly(3), 3); g.Tokens != 3 {
			t.Errorf("bucket %q has %d tokens, want 3", name, g.Tokens)
		}
	}
}

func oddNames(t *testing.T, d ratelimit.Driver) {
	for i, name := range []string{
		"rule||10.0.0.1", "with space", "dots.and.more.", ".", "*", ">", "{a}b}", "grüße 世界", "tab\tand\nline", "%s %2F",
		strings.Repeat("long", 100), "\xff\xfe", "m:", "until",
	} {
		r := ratelimit.Request{Name: name, Bucket: hourly(2), Tokens: 1, Member: name, Remember: remember}
		if g := takeFor(t, d, r); g.Tokens != 1 || g.Members != 1 {
			t.Errorf("%d %q: %+v", i, name, g)
		}
		r.Member = "other " + name
		if g := takeFor(t, d, r); g.Tokens != 1 || g.Members != 2 {
			t.Errorf("%d %q: %+v", i, name, g)
		}
		if g := takeFor(t, d, r); g.Tokens != 0 || g.Members != 2 {
			t.Errorf("%d %q: %+v", i, name, g)
		}
	}
}

func slow(t *testing.T, d ratelimit.Driver) {
	daily := ratelimit.Bucket{Rate: 1.0 / 86400, Burst: 1}
	if g := take(t, d, "b", daily, 1); g.Tokens != 1 {
		t.Fatalf("%+v", g)
	}
	for range 3 {
		if g := take(t, d, "b", daily, 1); g.Tokens != 0 || g.Wait < 23*time.Hour {
			t.Fatalf("%+v", g)
		}
	}
}

func large(t *testing.T, d ratelimit.Driver) {
	begun := time.Now()
	fast := ratelimit.Bucket{Rate: ratelimit.MaxRate, Burst: 10_000_000}
	if g := take(t, d, "fast", fast, 9_999_999); g.Tokens != 9_999_999 {
		t.Errorf("%+v", g)
	}
	got := 9_999_999 + take(t, d, "fast", fast, fast.Burst).Tokens
	within(t, fast, got, begun)
	big := ratelimit.Bucket{Rate: 1.0 / 3600, Burst: 1_000_000}
	if g := take(t, d, "big", big, big.Burst-1); g.Tokens != big.Burst-1 {
		t.Errorf("%+v", g)
	}
	for _, want := range []int64{1, 0} {
		if g := take(t, d, "big", big, 1); g.Tokens != want {
			t.Errorf("%+v, want %d", g, want)
		}
	}
}

func contention(t *testing.T, d ratelimit.Driver) {
	b := ratelimit.Bucket{Rate: 100, Burst: 50}
	begun := time.Now()
	var got atomic.Int64
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			for got.Load() < 90 {
				r := ratelimit.Request{Name: "b", Bucket: b, Tokens: 3, Member: fmt.Sprint(i), Remember: remember}
				g, err := d.Take(t.Context(), r)
				if err != nil {
					t.Errorf("Take: %v", err)
					return
				}
				got.Add(g.Tokens)
				select {
				case <-time.After(g.Wait):
				case <-t.Context().Done():
				}
			}
		})
	}
	wg.Wait()
	within(t, b, got.Load(), begun)
}

func members(t *testing.T, d ratelimit.Driver) {
	const brief = 300 * time.Millisecond
	ask := func(member string, remember time.Duration) int {
		return takeFor(t, d, ratelimit.Request{Name: "b", Bucket: hourly(1), Tokens: 1, Member: member, Remember: remember}).Members
	}
	for i, member := range []string{"a", "b", "c"} {
		if n := ask(member, remember); n != i+1 {
			t.Errorf("%d members after %q asked, want %d", n, member, i+1)
		}
	}
	if n := ask("a", remember); n != 3 {
		t.Errorf("%d members, want 3: one that asks again is no other", n)
	}
	// Of three, one says that it stays for a little while.
	if n := ask("b", brief); n != 3 {
		t.Errorf("%d members, want 3", n)
	}
	for deadline := time.Now().Add(20 * time.Second); ask("a", remember) != 2; await(t, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a member that asks no more still counts")
		}
	}
}

// changed asks for a bucket as a rule that has just been changed does.
func changed(t *testing.T, d ratelimit.Driver) {
	take(t, d, "b", hourly(10), 10)
	if g := take(t, d, "b", hourly(10), 1); g.Tokens != 0 {
		t.Fatalf("%+v", g)
	}
	if g := take(t, d, "b", hourly(15), 10); g.Tokens != 5 {
		t.Errorf("a bucket that may hold 5 more gives %d", g.Tokens)
	}
	if g := take(t, d, "b", hourly(3), 1); g.Tokens != 0 {
		t.Errorf("a bucket that may hold less gives %d", g.Tokens)
	}
}

func canceled(t *testing.T, d ratelimit.Driver) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := d.Take(ctx, ratelimit.Request{Name: "b", Bucket: hourly(1), Tokens: 1, Member: "me", Remember: remember})
	if !fault.Is(err, fault.Canceled) {
		t.Errorf("Take with a context that has ended: %v", err)
	}
	if g := take(t, d, "b", hourly(1), 1); g.Tokens != 1 {
		t.Errorf("what was not granted is gone: %+v", g)
	}
}

// OpenThrough returns a driver on a store in which no bucket is known, and the
// proxy between the two. Use t.Cleanup for what must be undone. The tests run in
// parallel.
type OpenThrough func(t testing.TB) (ratelimit.Driver, *faultnet.Proxy)

// RunNetwork proves that a driver that uses the network names its failures,
// ends when it is told to, and recovers.
func RunNetwork(t *testing.T, open OpenThrough) {
	for _, c := range []struct {
		name  string
		fault func(*faultnet.Proxy)
	}{
		{"Refused", (*faultnet.Proxy).Refuse},
		{"Reset", (*faultnet.Proxy).Reset},
		{"Stalled", func(p *faultnet.Proxy) { p.Stall() }},
		{"AnswersLost", func(p *faultnet.Proxy) { p.Blackhole(faultnet.Downstream) }},
		{"CutInAnAnswer", func(p *faultnet.Proxy) { p.CutAfter(faultnet.Downstream, 3) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, proxy := open(t)
			take(t, d, "b", hourly(10), 5)
			c.fault(proxy)
			begun := time.Now()
			r := ratelimit.Request{Name: "b", Bucket: hourly(10), Tokens: 1, Member: "me", Remember: remember}
			if _, err := ask(t, d, r); !passing(err) {
				t.Errorf("Take during the fault: error %v, want unavailable or deadline_exceeded", err)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("Take took %v with a deadline of 1 s", took)
			}
			proxy.Heal()
			for deadline := time.Now().Add(30 * time.Second); ; await(t, 20*time.Millisecond) {
				g, err := ask(t, d, r)
				if err == nil {
					if g.Tokens > 1 {
						t.Errorf("%+v", g)
					}
					return
				}
				if !passing(err) || time.Now().After(deadline) {
					t.Fatalf("after the fault: %v", err)
				}
			}
		})
	}
}

// ask takes with a second to go.
func ask(t *testing.T, d ratelimit.Driver, r ratelimit.Request) (ratelimit.Grant, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return d.Take(ctx, r)
}

func passing(err error) bool {
	return fault.Is(err, fault.Unavailable) || fault.Is(err, fault.DeadlineExceeded)
}
