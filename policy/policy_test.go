package policy_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

var op = policy.Op{Block: "state", Component: "orders", Name: "get"}

// failing returns a function that fails with err the first n times.
func failing(n int, err error) (func(context.Context) error, *int) {
	calls := 0
	return func(context.Context) error {
		calls++
		if calls <= n {
			return err
		}
		return nil
	}, &calls
}

func down() error { return fault.New(fault.Unavailable, "down") }

func run(t *testing.T, c policy.Chain, call policy.Call, fn func(context.Context) error) error {
	t.Helper()
	return c.Bind(op).Run(t.Context(), &call, fn)
}

func TestChainRunsOutermostFirstAndReturnsTheResult(t *testing.T) {
	var order []string
	named := func(name string) policy.Policy {
		return func(_ policy.Op, next policy.Handler) policy.Handler {
			return func(ctx context.Context, c *policy.Call) error {
				order = append(order, name)
				return next(ctx, c)
			}
		}
	}
	o := policy.Chain{named("a"), named("b")}.Bind(op)
	got, err := policy.Do(t.Context(), o, policy.Call{Key: "k"}, func(context.Context) (int, error) { return 7, nil })
	if err != nil || got != 7 || strings.Join(order, "") != "ab" {
		t.Errorf("Do = %d, %v in order %v", got, err, order)
	}
	if got, err := policy.Do(t.Context(), o, policy.Call{}, func(context.Context) (int, error) { return 7, down() }); got != 0 || err == nil {
		t.Errorf("a failed call returned %d, %v", got, err)
	}
}

func TestRetryRepeatsWhatMayEndBetter(t *testing.T) {
	for _, tc := range []struct {
		name  string
		err   error
		retry policy.Retry
		call  policy.Call
		calls int
	}{
		{"unavailable", down(), policy.Retry{Max: 3}, policy.Call{}, 3},
		{"gives up after max", down(), policy.Retry{Max: 1}, policy.Call{}, 2},
		{"wrong input stays wrong", fault.New(fault.InvalidArgument, "no"), policy.Retry{Max: 3}, policy.Call{}, 1},
		{"a lost race is the caller's", fault.New(fault.Aborted, "no"), policy.Retry{Max: 3}, policy.Call{}, 1},
		{"committed", down(), policy.Retry{Max: 3}, policy.Call{Committed: true}, 1},
		{"safe only: not idempotent", down(), policy.Retry{Max: 3, SafeOnly: true}, policy.Call{}, 1},
		{"safe only: idempotent", down(), policy.Retry{Max: 3, SafeOnly: true}, policy.Call{Idempotent: true}, 3},
		{"safe only: nothing sent", down(), policy.Retry{Max: 1, SafeOnly: true}, policy.Call{Unsent: true}, 2},
		{"own choice of errors", down(), policy.Retry{Max: 3, When: func(error) bool { return false }}, policy.Call{}, 1},
		{"budget", down(), policy.Retry{Max: 9, Budget: policy.NewBudget(0, 1)}, policy.Call{}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fn, calls := failing(2, tc.err)
			_ = run(t, policy.Chain{tc.retry.Policy}, tc.call, fn)
			if *calls != tc.calls {
				t.Errorf("%d calls, want %d", *calls, tc.calls)
			}
		})
	}
}

func TestRetryWaitsLongerEachTimeWithinTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn, calls := failing(99, down())
		r := policy.Retry{Max: -1, Delay: time.Second, Exponential: true, MaxDelay: 5 * time.Second}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		start := time.Now()
		err := policy.Chain{r.Policy}.Bind(op).Run(ctx, &policy.Call{}, fn)
		// Waits of 1, 1.5, 2.25, 3.375, 5 and 5 seconds; the next would end after the deadline.
		if took := time.Since(start); *calls != 7 || took != 18125*time.Millisecond || !fault.Is(err, fault.Unavailable) {
			t.Errorf("%d calls in %v, %v", *calls, took, err)
		}
	})
}

func TestRetryWaitsAsLongAsTheTargetAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn, _ := failing(1, fault.New(fault.ResourceExhausted, "slow down").WithRetryAfter(time.Minute))
		start := time.Now()
		err := run(t, policy.Chain{policy.Retry{Max: 1, Delay: time.Second}.Policy}, policy.Call{}, fn)
		if err != nil || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestRetryEndsWithTheTimeItMayTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn, calls := failing(99, down())
		start := time.Now()
		err := run(t, policy.Chain{policy.Retry{Max: -1, Delay: time.Second, MaxElapsed: 3 * time.Second}.Policy}, policy.Call{}, fn)
		if took := time.Since(start); *calls != 4 || took != 3*time.Second || !fault.Is(err, fault.Unavailable) {
			t.Errorf("%d calls in %v, %v", *calls, took, err)
		}
	})
}

func TestAnOpenBreakerIsOnlyWaitedForByWhatComesIn(t *testing.T) {
	for inbound, want := range map[bool]time.Duration{false: 0, true: time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			b := policy.NewCircuitBreaker(policy.BreakerOptions{Trip: func(c policy.Counts) bool { return c.TotalFailures > 0 }})
			op := policy.Op{Block: "pubsub", Component: "orders", Inbound: inbound}
			o := policy.Chain{policy.Retry{Max: 1, Delay: time.Second}.Policy, b.Policy}.Bind(op)
			_ = policy.Chain{b.Policy}.Bind(op).Run(t.Context(), &policy.Call{}, func(context.Context) error { return down() })
			start := time.Now()
			err := o.Run(t.Context(), &policy.Call{}, func(context.Context) error { return nil })
			if took := time.Since(start); took != want || (err == nil) != inbound {
				t.Errorf("inbound %v: %v after %v", inbound, err, took)
			}
		})
	}
}

func TestEachKeyHasABreaker(t *testing.T) {
	bs := policy.NewBreakers(2, policy.BreakerOptions{Trip: func(c policy.Counts) bool { return c.TotalFailures > 0 }})
	o := policy.Chain{bs.Policy}.Bind(op)
	call := func(key string, err error) error {
		return o.Run(t.Context(), &policy.Call{Key: key}, func(context.Context) error { return err })
	}
	_ = call("/a?x=1", down())
	if err := call("/a?x=2", nil); fault.ReasonOf(err) != policy.ReasonBreakerOpen {
		t.Errorf("the breaker of the path that failed: %v", err)
	}
	if err := call("/b", nil); err != nil {
		t.Errorf("another path: %v", err)
	}
	if err := call("/a", nil); fault.ReasonOf(err) != policy.ReasonBreakerOpen {
		t.Errorf("with room for two the first is still known: %v", err)
	}
	_, _ = call("/c", nil), call("/d", nil)
	if err := call("/a", nil); err != nil {
		t.Errorf("what was not asked for longest is forgotten: %v", err)
	}
}

func TestRetryJitterStaysNearTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 100 {
			fn, _ := failing(1, down())
			start := time.Now()
			_ = run(t, policy.Chain{policy.Retry{Max: 1, Delay: time.Second, Jitter: .5}.Policy}, policy.Call{}, fn)
			if d := time.Since(start); d < 500*time.Millisecond || d > 1500*time.Millisecond {
				t.Fatalf("waited %v", d)
			}
		}
	})
}

func TestBudgetRefillsWithCalls(t *testing.T) {
	b := policy.NewBudget(0.5, 1)
	r := policy.Chain{policy.Retry{Max: 1, Budget: b}.Policy}
	total := 0
	for range 100 {
		fn, calls := failing(99, down())
		_ = run(t, r, policy.Call{}, fn)
		total += *calls
	}
	if total < 145 || total > 155 {
		t.Errorf("%d tries for 100 calls, want about 150", total)
	}
}

func TestTimeoutBoundsEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		err := run(t, policy.Chain{policy.Timeout(time.Second, nil)}, policy.Call{}, slow)
		if !fault.Is(err, fault.DeadlineExceeded) || fault.ReasonOf(err) != policy.ReasonTimeout {
			t.Errorf("error is %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err = policy.Chain{policy.Timeout(time.Second, nil)}.Bind(op).Run(ctx, &policy.Call{}, slow)
		if !fault.Is(err, fault.Canceled) {
			t.Errorf("a canceled caller gets %v", err)
		}
	})
}

func TestBreakerOpensTriesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes []string
		b := policy.NewCircuitBreaker(policy.BreakerOptions{
			OpenFor: 10 * time.Second, Trip: func(c policy.Counts) bool { return c.ConsecutiveFailures >= 2 },
			OnChange: func(from, to policy.BreakerState) { changes = append(changes, from.String()+">"+to.String()) },
		})
		chain := policy.Chain{b.Policy}
		bad := func(context.Context) error { return down() }
		good := func(context.Context) error { return nil }
		wrong := func(context.Context) error { return fault.New(fault.NotFound, "no") }
		for range 5 { // the caller's errors do not trip it
			_ = run(t, chain, policy.Call{}, wrong)
		}
		_ = run(t, chain, policy.Call{}, bad)
		_ = run(t, chain, policy.Call{}, bad)
		fn, calls := failing(0, nil)
		err := run(t, chain, policy.Call{}, fn)
		if *calls != 0 || fault.ReasonOf(err) != policy.ReasonBreakerOpen || fault.RetryAfterOf(err) != 10*time.Second {
			t.Fatalf("an open breaker let %d calls pass: %v", *calls, err)
		}
		time.Sleep(10 * time.Second)
		_ = run(t, chain, policy.Call{}, bad) // the trial fails: open again
		if err := run(t, chain, policy.Call{}, good); fault.ReasonOf(err) != policy.ReasonBreakerOpen {
			t.Errorf("after a failed trial: %v", err)
		}
		time.Sleep(10 * time.Second)
		if err := run(t, chain, policy.Call{}, good); err != nil || b.State() != policy.BreakerClosed {
			t.Errorf("after a good trial: %v, %v", err, b.State())
		}
		want := "closed>open open>half-open half-open>open open>half-open half-open>closed"
		if got := strings.Join(changes, " "); got != want {
			t.Errorf("changes %s, want %s", got, want)
		}
	})
}

func TestHalfOpenBreakerLetsOnlySomeCallsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := policy.NewCircuitBreaker(policy.BreakerOptions{OpenFor: time.Second, Trip: func(c policy.Counts) bool { return true }})
		o := policy.Chain{b.Policy}.Bind(op)
		_ = o.Run(t.Context(), &policy.Call{}, func(context.Context) error { return down() })
		time.Sleep(time.Second)
		hold := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = o.Run(t.Context(), &policy.Call{}, func(context.Context) error { <-hold; return nil })
		})
		synctest.Wait()
		if err := o.Run(t.Context(), &policy.Call{}, func(context.Context) error { return nil }); fault.ReasonOf(err) != policy.ReasonBreakerOpen {
			t.Errorf("a second trial call: %v", err)
		}
		close(hold)
		wg.Wait()
	})
}

func TestTripConditionsAreCEL(t *testing.T) {
	trip, err := policy.ParseTrip("requests > 10 && totalFailures * 2 > requests")
	if err != nil {
		t.Fatal(err)
	}
	if trip(policy.Counts{Requests: 10, TotalFailures: 10}) || !trip(policy.Counts{Requests: 12, TotalFailures: 7}) {
		t.Error("the condition is not applied")
	}
	if div, err := policy.ParseTrip("totalFailures / requests > 0"); err != nil || div(policy.Counts{}) {
		t.Errorf("a division by zero: %v", err)
	}
	for _, bad := range []string{"requests >", "failures > 3", "requests + 1", `"x"`} {
		if _, err := policy.ParseTrip(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestBulkheadBoundsCallsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := policy.Chain{policy.NewBulkhead(2, time.Second).Policy}.Bind(op)
		hold := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				_ = o.Run(t.Context(), &policy.Call{}, func(context.Context) error { <-hold; return nil })
			})
		}
		synctest.Wait()
		err := o.Run(t.Context(), &policy.Call{}, func(context.Context) error { return nil })
		if fault.ReasonOf(err) != policy.ReasonBulkhead {
			t.Errorf("a third call: %v", err)
		}
		close(hold)
		wg.Wait()
		if err := o.Run(t.Context(), &policy.Call{}, func(context.Context) error { return nil }); err != nil {
			t.Errorf("after the others: %v", err)
		}
	})
}

func TestRateLimitAllowsBurstThenRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := policy.Chain{policy.NewRateLimit(10, 5).Policy}.Bind(op)
		allowed := func() (n int, err error) {
			for range 100 {
				if e := o.Run(t.Context(), &policy.Call{}, func(context.Context) error { return nil }); e == nil {
					n++
				} else {
					err = e
				}
			}
			return n, err
		}
		n, err := allowed()
		if n != 5 || fault.RetryAfterOf(err) != 100*time.Millisecond || fault.ReasonOf(err) != policy.ReasonRateLimited {
			t.Errorf("%d of a burst passed; %v", n, err)
		}
		time.Sleep(300 * time.Millisecond)
		if n, _ := allowed(); n != 3 {
			t.Errorf("%d passed after 300ms at 10 per second", n)
		}
		time.Sleep(time.Hour)
		if n, _ := allowed(); n != 5 {
			t.Errorf("%d passed after an hour of silence, want the burst", n)
		}
	})
}

func TestPanicsBecomeInternalErrors(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	err := run(t, policy.Chain{policy.Recover(log)}, policy.Call{}, func(context.Context) error { panic("boom") })
	if !fault.Is(err, fault.Internal) || strings.Contains(err.Error(), "boom") || !strings.Contains(out.String(), "boom") {
		t.Errorf("error %v, log %s", err, out.String())
	}
}

func TestDeadComponentsDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		o := policy.Chain{policy.Log(slog.New(slog.NewTextHandler(&out, nil)))}.Bind(op)
		for range 50 {
			_ = o.Run(t.Context(), &policy.Call{}, func(context.Context) error { return down() })
			_ = o.Run(t.Context(), &policy.Call{}, func(context.Context) error { return errors.Join(fault.New(fault.NotFound, "x")) })
		}
		time.Sleep(2 * time.Second)
		_ = o.Run(t.Context(), &policy.Call{}, func(context.Context) error { return down() })
		if lines := strings.Count(out.String(), "\n"); lines != 2 || !strings.Contains(out.String(), "not_logged_before=49") {
			t.Errorf("%d lines:\n%s", lines, out.String())
		}
	})
}

func BenchmarkChain(b *testing.B) {
	log := slog.New(slog.DiscardHandler)
	o := policy.Chain{
		policy.Recover(log), policy.Log(log), policy.Retry{Max: 3}.Policy,
		policy.NewCircuitBreaker(policy.BreakerOptions{}).Policy,
	}.Bind(op)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = policy.Do(ctx, o, policy.Call{Key: "k"}, func(context.Context) (int, error) { return 1, nil })
	}
}

func TestRetryEndsWithTheTimeOfTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn, calls := failing(99, down())
		start := time.Now()
		err := run(t, policy.Chain{policy.Retry{Max: -1, Delay: time.Second}.Policy}, policy.Call{Deadline: start.Add(2500 * time.Millisecond)}, fn)
		if took := time.Since(start); *calls != 3 || took != 2*time.Second || !fault.Is(err, fault.Unavailable) {
			t.Errorf("%d calls in %v, %v", *calls, took, err)
		}
	})
}
