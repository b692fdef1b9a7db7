package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/resource"
)

// policiesOf compiles a Resiliency resource with the given spec.
func policiesOf(t *testing.T, spec string) *policies {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resiliency.yaml")
	must(t, os.WriteFile(path, []byte("apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: r\nspec:\n"+spec), 0o600))
	set, err := resource.Load(resource.Options{Paths: []string{path}})
	must(t, err)
	p, err := compilePolicies(set.Resiliencies)
	must(t, err)
	return p
}

const breakerSpec = `
  policies:
    timeouts: {quick: %s}
    circuitBreakers:
      cb: {trip: consecutiveFailures >= 2, timeout: %s}
  targets:
    components:
      store:
        outbound: {circuitBreaker: cb, timeout: quick}
`

func TestBreakersOfUnchangedRulesKeepTheirState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := func(timeout, open string) *policies {
			return policiesOf(t, fmt.Sprintf(breakerSpec, timeout, open))
		}
		r := newResiliency(rule("1s", "1h"), slog.New(slog.DiscardHandler), nil, nil)
		o := r.owner()
		op := o.Component("state", "store", false).Bind(policy.Op{Block: "state", Component: "store", Name: "get"})
		call := func(err error) error {
			return op.Run(t.Context(), &policy.Call{}, func(context.Context) error { return err })
		}
		down := fault.New(fault.Unavailable, "down")
		open := func() bool { return fault.ReasonOf(call(nil)) == policy.ReasonBreakerOpen }
		_, _ = call(down), call(down)
		if !open() {
			t.Fatal("the breaker is not open after two failures")
		}
		r.set(rule("2s", "1h")) // another timeout
		if !open() {
			t.Error("a breaker that stays as it was has lost its state")
		}
		replacement := r.owner().Component("state", "store", false).Bind(policy.Op{Block: "state", Component: "store", Name: "get"})
		if err := replacement.Run(t.Context(), &policy.Call{}, func(context.Context) error { return nil }); err != nil {
			t.Errorf("a component that replaces another one begins with its breaker: %v", err)
		}
		r.set(rule("2s", "2h")) // another rule
		if open() {
			t.Error("a breaker with another rule has the state of the former")
		}
		r.set(policiesOf(t, "  policies: {}\n"))
		for range 3 {
			if err := call(down); !errors.Is(err, down) {
				t.Errorf("without policies a call fails with %v", err)
			}
		}
		o.end()
		if len(r.owners) != 1 {
			t.Errorf("there are %d owners, want that of the replacement", len(r.owners))
		}
	})
}

func TestACallUnderWayKeepsThePoliciesItBeganWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResiliency(policiesOf(t, fmt.Sprintf(breakerSpec, "10s", "1h")), slog.New(slog.DiscardHandler), nil, nil)
		op := r.owner().Component("state", "store", false).Bind(policy.Op{Block: "state", Component: "store", Name: "get"})
		took := make(chan time.Duration, 2)
		call := func() {
			began := time.Now()
			_ = op.Run(t.Context(), &policy.Call{}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			took <- time.Since(began)
		}
		go call()
		synctest.Wait()
		r.set(policiesOf(t, fmt.Sprintf(breakerSpec, "1s", "1h")))
		go call()
		if second, first := <-took, <-took; second != time.Second || first != 10*time.Second {
			t.Errorf("the new call took %v and the old one %v", second, first)
		}
	})
}
