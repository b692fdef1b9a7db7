package runtime

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// resiliency compiles Resiliency resources into the chains around calls. It is
// the policy.Chains of the process.
type resiliency struct {
	log     *slog.Logger
	metrics *telemetry.Metrics
	tracing *telemetry.Tracing

	timeouts map[string]time.Duration
	retries  map[string]policy.Retry
	breakers map[string]policy.BreakerOptions
	apps     map[string]resource.TargetPolicies
	comps    map[string]resource.ComponentPolicies

	mu     sync.Mutex
	shared map[string]*policy.CircuitBreaker // by target: its operations share one
}

// builtInRetries is what an invocation gets when no policy says otherwise: a
// few tries at connections that failed before the application saw anything.
const builtInRetries = "DaprBuiltInServiceRetries"

// newResiliency compiles the resources, which have been checked one by one.
// The error says which condition does not compile, and where it stands.
func newResiliency(list []resource.Resiliency, log *slog.Logger, m *telemetry.Metrics, t *telemetry.Tracing) (*resiliency, error) {
	r := &resiliency{
		log: log, metrics: m, tracing: t,
		timeouts: map[string]time.Duration{},
		retries:  map[string]policy.Retry{builtInRetries: {Max: 3, Delay: time.Second, Jitter: .2, SafeOnly: true}},
		breakers: map[string]policy.BreakerOptions{},
		apps:     map[string]resource.TargetPolicies{},
		comps:    map[string]resource.ComponentPolicies{},
		shared:   map[string]*policy.CircuitBreaker{},
	}
	var errs []error
	for _, res := range list {
		errs = append(errs, r.add(res))
	}
	return r, errors.Join(errs...)
}

func (r *resiliency) add(res resource.Resiliency) error {
	for name, d := range res.Spec.Policies.Timeouts {
		r.timeouts[name] = d.Std()
	}
	for name, retry := range res.Spec.Policies.Retries {
		r.retries[name] = compileRetry(retry)
	}
	var errs []error
	for name, cb := range res.Spec.Policies.CircuitBreakers {
		opt := policy.BreakerOptions{HalfOpenRequests: cb.MaxRequests, Interval: cb.Interval.Std(), OpenFor: cb.Timeout.Std()}
		if cb.Trip != "" {
			trip, err := policy.ParseTrip(cb.Trip)
			if err != nil {
				errs = append(errs, &resource.Error{
					Pos: cb.Pos, Resource: "Resiliency " + res.Name(),
					Field: "spec.policies.circuitBreakers." + name + ".trip", Problem: err.Error(),
				})
			}
			opt.Trip = trip
		}
		r.breakers[name] = opt
	}
	for id, target := range res.Spec.Targets.Apps {
		r.apps[id] = target
	}
	for name, target := range res.Spec.Targets.Components {
		r.comps[name] = target
	}
	return errors.Join(errs...)
}

// compileRetry fills in the defaults of the resource.
func compileRetry(in resource.Retry) policy.Retry {
	out := policy.Retry{Max: -1, Delay: in.Duration.Std(), MaxDelay: in.MaxInterval.Std()}
	if in.MaxRetries != nil {
		out.Max = *in.MaxRetries
	}
	if in.Policy == "exponential" {
		out.Exponential, out.Jitter = true, .5
		if out.Delay == 0 {
			out.Delay = 500 * time.Millisecond
		}
	} else if out.Delay == 0 {
		out.Delay = 5 * time.Second
	}
	if m := in.Matching; m != nil && (m.HTTPStatusCodes != "" || m.GRPCStatusCodes != "") {
		http, _ := resource.ParseCodes(m.HTTPStatusCodes, 100, 599)
		grpc, _ := resource.ParseCodes(m.GRPCStatusCodes, 0, 16)
		out.When = func(err error) bool { return matches(err, http, grpc) }
	}
	return out
}

// statuser is implemented by errors that stand for the status an application
// answered with, so that a retry policy can match it.
type statuser interface {
	error
	// HTTPStatus returns the HTTP status, or 0.
	HTTPStatus() int
	// GRPCStatusCode returns the gRPC status, or -1.
	GRPCStatusCode() int
}

// matches decides by the status the application answered with, and where there
// was none by whether another try may end better.
func matches(err error, http, grpc []resource.CodeRange) bool {
	s, ok := errors.AsType[statuser](err)
	if !ok {
		return policy.RetryableError(err)
	}
	if code := s.HTTPStatus(); code != 0 && len(http) > 0 {
		return within(code, http)
	}
	if code := s.GRPCStatusCode(); code >= 0 && len(grpc) > 0 {
		return within(code, grpc)
	}
	return policy.RetryableError(err)
}

func within(code int, ranges []resource.CodeRange) bool {
	for _, r := range ranges {
		if r.From <= code && code <= r.To {
			return true
		}
	}
	return false
}

// Component implements policy.Chains.
func (r *resiliency) Component(block, name string, inbound bool) policy.Chain {
	direction, kinds := "outbound", []string{"ComponentOutbound", "Component"}
	target := r.comps[name].Outbound
	if inbound {
		direction, kinds = "inbound", []string{"ComponentInbound", "Component"}
		target = r.comps[name].Inbound
	}
	kinds = append([]string{kindOf(block) + kinds[0], kindOf(block) + "Component"}, kinds...)
	return r.chain(block+"/"+name+"/"+direction, r.withDefaults(target, kinds, ""))
}

// kindOf is how default policies spell a block: Default<Kind>ComponentOutboundRetryPolicy.
func kindOf(block string) string {
	switch block {
	case "state":
		return "Statestore"
	case "configuration":
		return "Configuration"
	case "lock":
		return "Lock"
	case "secretstores":
		return "Secretstore"
	case "bindings":
		return "Binding"
	}
	return strings.ToUpper(block[:1]) + block[1:]
}

// App implements policy.Chains.
func (r *resiliency) App(id string) policy.Chain {
	return r.chain("app/"+id, r.withDefaults(r.apps[id], []string{"App"}, builtInRetries))
}

// withDefaults fills in the policies that a target does not name from those
// called Default<Kind><Policy>Policy, the most specific kind first.
func (r *resiliency) withDefaults(t resource.TargetPolicies, kinds []string, retry string) resource.TargetPolicies {
	kinds = append(kinds, "")
	for _, kind := range kinds {
		if name := "Default" + kind + "TimeoutPolicy"; t.Timeout == "" && has(r.timeouts, name) {
			t.Timeout = name
		}
		if name := "Default" + kind + "RetryPolicy"; t.Retry == "" && has(r.retries, name) {
			t.Retry = name
		}
		if name := "Default" + kind + "CircuitBreakerPolicy"; t.CircuitBreaker == "" && has(r.breakers, name) {
			t.CircuitBreaker = name
		}
	}
	if t.Retry == "" {
		t.Retry = retry
	}
	return t
}

func has[V any](m map[string]V, key string) bool { _, ok := m[key]; return ok }

// chain is the one place that says in which order policies stand. Retry is
// outside of the breaker, so that an open breaker is not hammered within one
// call, and the timeout is innermost, so that each try has the whole of it.
func (r *resiliency) chain(target string, t resource.TargetPolicies) policy.Chain {
	c := policy.Chain{
		policy.Recover(r.log),
		policy.Trace(r.tracing),
		policy.Metrics(r.metrics),
		policy.Log(r.log),
	}
	if retry, ok := r.retries[t.Retry]; ok && retry.Max != 0 {
		c = append(c, retry.Policy)
	}
	if opt, ok := r.breakers[t.CircuitBreaker]; ok {
		c = append(c, r.breaker(target, opt).Policy)
	}
	if d := r.timeouts[t.Timeout]; d > 0 {
		c = append(c, policy.Timeout(d))
	}
	return c
}

// breaker returns the breaker of a target, the same for all its operations.
func (r *resiliency) breaker(target string, opt policy.BreakerOptions) *policy.CircuitBreaker {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, ok := r.shared[target]; ok {
		return b
	}
	opt.OnChange = func(from, to policy.BreakerState) {
		r.metrics.BreakerState(target, float64(to))
		r.log.Warn("circuit breaker changed", "target", target, "from", from.String(), "to", to.String())
	}
	b := policy.NewCircuitBreaker(opt)
	r.shared[target] = b
	return b
}

var _ policy.Chains = (*resiliency)(nil)
