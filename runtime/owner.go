package runtime

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// owner is who gets chains from a resiliency, such as one component. Its
// circuit breakers are its own: a component that replaces another one starts
// with closed ones. It is a policy.Chains.
type owner struct {
	of    *resiliency
	calls *inFlight
	slots []*slot             // guarded by of.mu
	state map[string]*breaker // by target: its operations share one; guarded by of.mu
}

// breaker is the circuit breaker of a target, or those of its paths.
type breaker struct {
	policy policy.Policy
	print  string
}

// owner returns a new one. Its end must be called once it is of no more use.
func (r *resiliency) owner() *owner {
	o := &owner{of: r, calls: newInFlight(), state: map[string]*breaker{}}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owners[o] = struct{}{}
	return o
}

// end says that the policies need no longer follow the resources.
func (o *owner) end() {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	delete(o.of.owners, o)
}

// Component implements policy.Chains.
func (o *owner) Component(block, name string, inbound bool) policy.Chain {
	direction := "outbound"
	if inbound {
		direction = "inbound"
	}
	target := policyTarget{block + "/" + name + "/" + direction, kindOf(block) + "_" + name, inbound}
	return o.chain(target, func(p *policies) resource.TargetPolicies { return p.component(block, name, inbound) })
}

// App implements policy.Chains.
func (o *owner) App(id string) policy.Chain {
	return o.chain(policyTarget{"app/" + id, "app_" + id, false}, func(p *policies) resource.TargetPolicies { return p.app(id) })
}

// policyTarget is what the policies of a chain are for.
type policyTarget struct {
	name    string
	label   string // in metrics
	inbound bool
}

// chain is the one place that says in which order policies stand, together
// with owner.policies.
func (o *owner) chain(target policyTarget, pick func(*policies) resource.TargetPolicies) policy.Chain {
	return policy.Chain{
		o.calls.policy,
		policy.Recover(o.of.log),
		policy.Trace(o.of.tracing),
		policy.Metrics(o.of.metrics),
		policy.Log(o.of.log),
		o.slot(target, pick),
	}
}

// Receive returns the chain around what other sidecars ask of the application.
// Of the resources only rate limits are about it.
func (o *owner) Receive() policy.Chain {
	none := func(*policies) resource.TargetPolicies { return resource.TargetPolicies{} }
	return policy.Chain{
		policy.Recover(o.of.log), policy.Trace(o.of.tracing), policy.Metrics(o.of.metrics), policy.Log(o.of.log),
		o.slot(policyTarget{"receive", "app_receive", true}, none),
	}
}

// slot is a Policy that does what resources say.
func (o *owner) slot(target policyTarget, pick func(*policies) resource.TargetPolicies) policy.Policy {
	return func(op policy.Op, next policy.Handler) policy.Handler {
		s := &slot{target: target, pick: pick, op: op, next: next}
		o.of.mu.Lock()
		defer o.of.mu.Unlock()
		o.slots = append(o.slots, s)
		o.fill(s)
		return s.handle
	}
}

// slot is the part of a bound chain that Resiliency resources decide.
type slot struct {
	target policyTarget
	pick   func(*policies) resource.TargetPolicies
	op     policy.Op
	next   policy.Handler

	handler atomic.Pointer[policy.Handler]
}

func (s *slot) handle(ctx context.Context, c *policy.Call) error { return (*s.handler.Load())(ctx, c) }

// bind fills all slots anew. o.of.mu is held.
func (o *owner) bind() {
	for _, s := range o.slots {
		o.fill(s)
	}
}

// fill binds the policies of a slot. o.of.mu is held.
func (o *owner) fill(s *slot) {
	h := s.next
	for _, p := range slices.Backward(o.policies(s.target, s.pick(o.of.now))) {
		h = p(s.op, h)
	}
	s.handler.Store(&h)
}

// policies are those of a target. Rate limits are outermost, so that a call
// counts once however often it is tried. Retry is outside of the breaker, so that an
// open breaker is not hammered within one call, and the timeout is innermost,
// so that each try has the whole of it. o.of.mu is held.
func (o *owner) policies(target policyTarget, t resource.TargetPolicies) policy.Chain {
	var c policy.Chain
	now := o.of.now
	for _, l := range now.limits {
		c = append(c, l.rule.Policy)
	}
	stats := func(kind, policy, name string) *telemetry.PolicyStats {
		return o.of.metrics.Policy(now.origins[kind+name], policy, target.label, target.inbound)
	}
	if retry, ok := now.retries[t.Retry]; ok && retry.Max != 0 {
		retry.Stats = stats(originRetry, "retry", t.Retry)
		c = append(c, retry.Policy)
	}
	if rule, ok := now.breakers[t.CircuitBreaker]; ok {
		rule.Stats = stats(originBreaker, "circuitbreaker", t.CircuitBreaker)
		c = append(c, o.breaker(target.name, rule, t.CircuitBreakerCacheSize))
	} else {
		delete(o.state, target.name)
	}
	if d := now.timeouts[t.Timeout]; d > 0 {
		c = append(c, policy.Timeout(d, stats(originTimeout, "timeout", t.Timeout)))
	}
	return c
}

// breaker returns the breaker of a target, the same for all its operations and
// for as long as its rule is; with a cache size, that of each path. o.of.mu is
// held.
func (o *owner) breaker(target string, rule breakerRule, cacheSize int) policy.Policy {
	text := fmt.Sprintf("%s, %d keys", rule.print, cacheSize)
	if b, ok := o.state[target]; ok && b.print == text {
		return b.policy
	}
	opt, r := rule.BreakerOptions, o.of
	opt.OnChange = func(from, to policy.BreakerState) {
		r.log.Warn("circuit breaker changed", "target", target, "from", from.String(), "to", to.String())
	}
	b := &breaker{policy: policy.NewCircuitBreaker(opt).Policy, print: text}
	if cacheSize > 0 {
		b.policy = policy.NewBreakers(cacheSize, opt).Policy
	}
	o.state[target] = b
	return b.policy
}

var _ policy.Chains = (*owner)(nil)

// inFlight counts the calls that are under way, until there are none for good.
type inFlight struct {
	n    atomic.Int64 // and one until close is called
	once sync.Once
	idle chan struct{} // closed when the last one has ended
}

func newInFlight() *inFlight {
	f := &inFlight{idle: make(chan struct{})}
	f.n.Store(1)
	return f
}

// policy counts the calls that cross it.
func (f *inFlight) policy(_ policy.Op, next policy.Handler) policy.Handler {
	return func(ctx context.Context, c *policy.Call) error {
		f.enter()
		defer f.leave()
		return next(ctx, c)
	}
}

func (f *inFlight) enter() { f.n.Add(1) }

func (f *inFlight) leave() {
	if f.n.Add(-1) == 0 {
		f.once.Do(func() { close(f.idle) })
	}
}
