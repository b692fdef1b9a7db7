package runtime

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/resource"
)

const defaultsSpec = `
  policies:
    timeouts:
      DefaultTimeoutPolicy: 9s
      DefaultAppTimeoutPolicy: 8s
      DefaultComponentOutboundTimeoutPolicy: 7s
      DefaultStatestoreComponentOutboundTimeoutPolicy: 6s
      mine: 1s
    retries:
      DefaultRetryPolicy: {maxRetries: 1}
      DefaultPubsubComponentInboundRetryPolicy: {maxRetries: 2}
    circuitBreakers:
      DefaultComponentCircuitBreakerPolicy: {}
  targets:
    apps:
      named: {timeout: mine}
    components:
      bare: {inbound: {timeout: mine}}
`

func TestDefaultPoliciesServeTargetsThatNobodyNames(t *testing.T) {
	p := policiesOf(t, defaultsSpec)
	for _, tc := range []struct {
		name string
		got  resource.TargetPolicies
		want resource.TargetPolicies
	}{
		{"an application", p.app("other"), resource.TargetPolicies{Timeout: "DefaultAppTimeoutPolicy", Retry: "DefaultRetryPolicy", CircuitBreakerCacheSize: 100}},
		{"one that is named", p.app("named"), resource.TargetPolicies{Timeout: "mine", Retry: serviceRetries, CircuitBreakerCacheSize: 100}},
		{
			"a state store", p.component("state", "s", false),
			resource.TargetPolicies{Timeout: "DefaultStatestoreComponentOutboundTimeoutPolicy", Retry: "DefaultRetryPolicy", CircuitBreaker: "DefaultComponentCircuitBreakerPolicy"},
		},
		{
			"publishing", p.component("pubsub", "p", false),
			resource.TargetPolicies{Timeout: "DefaultComponentOutboundTimeoutPolicy", Retry: "DefaultRetryPolicy", CircuitBreaker: "DefaultComponentCircuitBreakerPolicy"},
		},
		{
			"subscribing", p.component("pubsub", "p", true),
			resource.TargetPolicies{Timeout: "DefaultTimeoutPolicy", Retry: "DefaultPubsubComponentInboundRetryPolicy", CircuitBreaker: "DefaultComponentCircuitBreakerPolicy"},
		},
		{"a component named for the other direction", p.component("pubsub", "bare", false), resource.TargetPolicies{}},
	} {
		tc.got.Pos = tc.want.Pos
		if tc.got != tc.want {
			t.Errorf("%s has %+v, want %+v", tc.name, tc.got, tc.want)
		}
	}
}

func TestBuiltInPoliciesCanBeDefinedOtherwise(t *testing.T) {
	p := policiesOf(t, `
  policies:
    retries:
      DaprBuiltInServiceRetries: {maxRetries: 1, duration: 2s}
      DaprBuiltInInitializationRetries: {maxRetries: 10, policy: exponential, maxInterval: 3s, duration: 1h}
      DaprBuiltInActorNotFoundRetries: {maxRetries: 99}
`)
	service, init, notFound := p.retries[serviceRetries], p.retries[initializationRetries], p.retries[actorNotFoundRetries]
	if service.Max != 3 || service.Delay != 2*time.Second || !service.SafeOnly {
		t.Errorf("service retries: %+v", service)
	}
	if init.Max != 10 || !init.Exponential || init.MaxDelay != 3*time.Second || init.Delay != 500*time.Millisecond || init.When == nil {
		t.Errorf("initialization retries: %+v", init)
	}
	if notFound.Max != 5 {
		t.Errorf("what cannot be defined otherwise: %+v", notFound)
	}
}

func TestAPolicyByNameFollowsTheResources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResiliency(policiesOf(t, "  policies: {}\n"), slog.New(slog.DiscardHandler), nil, nil)
		op := policy.Chain{r.retry(initializationRetries)}.Bind(policy.Op{})
		calls := func() (n int) {
			_ = op.Run(t.Context(), &policy.Call{}, func(context.Context) error { n++; return fault.New(fault.NotFound, "no") })
			return n
		}
		if n := calls(); n != 4 {
			t.Errorf("asked %d times, want 4", n)
		}
		r.set(policiesOf(t, "  policies:\n    retries:\n      DaprBuiltInInitializationRetries: {maxRetries: 6}\n"))
		if n := calls(); n != 7 {
			t.Errorf("asked %d times, want 7", n)
		}
	})
}
