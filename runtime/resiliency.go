package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// resiliency gives every call the policies that the Resiliency resources say,
// and others when those change.
type resiliency struct {
	log     *slog.Logger
	metrics *telemetry.Metrics
	tracing *telemetry.Tracing

	mu     sync.Mutex // guards the fields below, and those of all owners
	now    *policies
	owners map[*owner]struct{}
}

// policies are compiled Resiliency resources. They do not change.
type policies struct {
	timeouts map[string]time.Duration
	retries  map[string]policy.Retry
	breakers map[string]breakerRule
	apps     map[string]resource.TargetPolicies
	comps    map[string]resource.ComponentPolicies
	// origins are the names of the resources that policies come from, by the
	// kind of the policy and its name.
	origins   map[string]string
	resources []string // the names of all
	// limits are the rate limits, in the order they are declared.
	limits []*limitRule
}

// Kinds of policies.
const (
	originTimeout = "timeout/"
	originRetry   = "retry/"
	originBreaker = "breaker/"
)

// breakerRule is a circuit breaker as it is written down.
type breakerRule struct {
	policy.BreakerOptions
	print string // equal for rules that say the same
}

// Names of retry policies that exist without being defined, and that a
// Resiliency resource can define otherwise.
const (
	// serviceRetries is what an invocation gets when no policy says otherwise:
	// a few tries at connections that failed before the application saw
	// anything.
	serviceRetries = "DaprBuiltInServiceRetries"
	// initializationRetries is for the questions that an application is asked
	// when it starts.
	initializationRetries = "DaprBuiltInInitializationRetries"
	// Those of actors. The last of them cannot be defined otherwise.
	actorRetries         = "DaprBuiltInActorRetries"
	actorReminderRetries = "DaprBuiltInActorReminderRetries"
	actorNotFoundRetries = "DaprBuiltInActorNotFoundRetries"
)

// leastBuiltInRetries is how often a built-in policy that is defined otherwise
// repeats a call at least.
const leastBuiltInRetries = 3

// builtInRetries returns the policies of these names.
func builtInRetries() map[string]policy.Retry {
	always := func(error) bool { return true }
	return map[string]policy.Retry{
		serviceRetries:        {Max: 3, Delay: time.Second, Jitter: .2, SafeOnly: true},
		initializationRetries: {Max: 3, Delay: 500 * time.Millisecond, MaxDelay: 10 * time.Second, Exponential: true, Jitter: .5, When: always},
		actorRetries:          {Max: 3, Delay: time.Second, SafeOnly: true},
		actorReminderRetries: {
			Max: -1, Delay: 500 * time.Millisecond, MaxDelay: time.Minute, MaxElapsed: 15 * time.Minute, Exponential: true, Jitter: .5,
		},
		actorNotFoundRetries: {Max: 5, Delay: time.Second},
	}
}

// defaultBreakerCacheSize is how many paths of an application have a circuit
// breaker of their own when a target does not say it.
const defaultBreakerCacheSize = 100

// newResiliency returns a resiliency with the policies p.
func newResiliency(p *policies, log *slog.Logger, m *telemetry.Metrics, t *telemetry.Tracing) *resiliency {
	r := &resiliency{log: log, metrics: m, tracing: t, now: p, owners: map[*owner]struct{}{}}
	r.countLoaded()
	return r
}

// set replaces the policies. Calls under way go on with those that they began
// with. Circuit breakers that stay as they are keep their state.
func (r *resiliency) set(p *policies) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = p
	r.countLoaded()
	for o := range r.owners {
		o.bind()
	}
}

// retry is a Policy that repeats as the retry policy of the name says at the
// time of the call.
func (r *resiliency) retry(name string) policy.Policy {
	return func(op policy.Op, next policy.Handler) policy.Handler {
		return func(ctx context.Context, c *policy.Call) error {
			r.mu.Lock()
			retry := r.now.retries[name]
			r.mu.Unlock()
			return retry.Policy(op, next)(ctx, c)
		}
	}
}

// countLoaded counts the resources that are taken into use. r.mu is held, or
// nobody else knows r yet.
func (r *resiliency) countLoaded() {
	if r.now == nil {
		return
	}
	for _, name := range r.now.resources {
		r.metrics.ResiliencyLoaded(name)
	}
}

// compilePolicies compiles the resources, which have been checked one by one.
// The error says which condition does not compile, and where it stands.
func compilePolicies(list []resource.Resiliency) (*policies, error) {
	p := &policies{
		timeouts: map[string]time.Duration{},
		retries:  builtInRetries(),
		breakers: map[string]breakerRule{},
		apps:     map[string]resource.TargetPolicies{},
		comps:    map[string]resource.ComponentPolicies{},
		origins:  map[string]string{},
	}
	var errs []error
	for _, res := range list {
		errs = append(errs, p.add(res))
	}
	return p, errors.Join(errs...)
}

func (p *policies) add(res resource.Resiliency) error {
	p.resources = append(p.resources, res.Name())
	for name, d := range res.Spec.Policies.Timeouts {
		p.timeouts[name] = d.Std()
		p.origins[originTimeout+name] = res.Name()
	}
	builtIn := builtInRetries()
	for name, retry := range res.Spec.Policies.Retries {
		if was, ok := builtIn[name]; ok {
			p.retries[name] = redefine(was, retry, name)
		} else {
			p.retries[name] = compileRetry(retry)
		}
		p.origins[originRetry+name] = res.Name()
	}
	var errs []error
	for name, cb := range res.Spec.Policies.CircuitBreakers {
		rule := breakerRule{
			BreakerOptions: policy.BreakerOptions{HalfOpenRequests: cb.MaxRequests, Interval: cb.Interval.Std(), OpenFor: cb.Timeout.Std()},
			print:          fmt.Sprintf("%d %s %s %q", cb.MaxRequests, cb.Interval.Std(), cb.Timeout.Std(), cb.Trip),
		}
		if cb.Trip != "" {
			trip, err := policy.ParseTrip(cb.Trip)
			if err != nil {
				errs = append(errs, &resource.Error{
					Pos: cb.Pos, Resource: "Resiliency " + res.Name(),
					Field: "spec.policies.circuitBreakers." + name + ".trip", Problem: err.Error(),
				})
			}
			rule.Trip = trip
		}
		p.breakers[name] = rule
		p.origins[originBreaker+name] = res.Name()
	}
	for id, target := range res.Spec.Targets.Apps {
		p.apps[id] = target
	}
	for name, target := range res.Spec.Targets.Components {
		p.comps[name] = target
	}
	return errors.Join(errs...)
}

// redefine is a built-in policy as a resource defines it: with other times, but
// for the errors that it is about, and not with fewer tries than it has.
func redefine(was policy.Retry, in resource.Retry, name string) policy.Retry {
	if name == actorNotFoundRetries {
		return was
	}
	out := compileRetry(in)
	if out.Max >= 0 {
		out.Max = max(out.Max, leastBuiltInRetries)
	}
	out.SafeOnly = was.SafeOnly
	if out.When == nil {
		out.When = was.When
	}
	return out
}

// compileRetry fills in the defaults of the resource.
func compileRetry(in resource.Retry) policy.Retry {
	out := policy.Retry{Max: -1, Delay: in.Duration.Std(), MaxDelay: in.MaxInterval.Std()}
	if in.MaxRetries != nil {
		out.Max = *in.MaxRetries
	}
	if in.Policy == "exponential" {
		out.Exponential, out.Jitter, out.Delay = true, .5, 500*time.Millisecond
	} else if out.Delay == 0 {
		out.Delay = 5 * time.Second
	}
	if m := in.Matching; m != nil && (m.HTTPStatusCodes != "" || m.GRPCStatusCodes != "") {
		http, _ := resource.ParseCodes(m.HTTPStatusCodes, 100, 599)
		grpc, _ := resource.ParseCodes(m.GRPCStatusCodes, 0, 16)
		out.When = func(err error) bool { return matches(err, http, grpc) }
		out.HTTP = func(code int) bool { return within(code, http) }
		out.GRPC = func(code int) bool { return within(code, grpc) }
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

// component returns the policies of a component's target.
func (p *policies) component(block, name string, inbound bool) resource.TargetPolicies {
	target, named := p.comps[name]
	direction, policies := "Outbound", target.Outbound
	if inbound {
		direction, policies = "Inbound", target.Inbound
	}
	if named {
		return policies
	}
	kind := kindOf(block) + "Component"
	return p.defaults(kind+direction, kind, "Component"+direction, "Component", "")
}

// app returns the policies of an application.
func (p *policies) app(id string) resource.TargetPolicies {
	t, named := p.apps[id]
	if !named {
		t = p.defaults("App", "")
	}
	if t.Retry == "" {
		t.Retry = serviceRetries
	}
	if t.CircuitBreakerCacheSize <= 0 {
		t.CircuitBreakerCacheSize = defaultBreakerCacheSize
	}
	return t
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

// defaults are the policies of a target that no resource names: those called
// Default<Kind><Policy>Policy, the most specific kind first.
func (p *policies) defaults(kinds ...string) resource.TargetPolicies {
	var t resource.TargetPolicies
	for _, kind := range kinds {
		if name := "Default" + kind + "TimeoutPolicy"; t.Timeout == "" && has(p.timeouts, name) {
			t.Timeout = name
		}
		if name := "Default" + kind + "RetryPolicy"; t.Retry == "" && has(p.retries, name) {
			t.Retry = name
		}
		if name := "Default" + kind + "CircuitBreakerPolicy"; t.CircuitBreaker == "" && has(p.breakers, name) {
			t.CircuitBreaker = name
		}
	}
	return t
}

func has[V any](m map[string]V, key string) bool { _, ok := m[key]; return ok }
