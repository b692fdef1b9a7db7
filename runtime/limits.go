package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// engineLimits is the component that keeps shared limits which name no store.
const engineLimits = "ratelimitstore"

// limits turns RateLimit resources into rules. A resource that stays as it is
// keeps its rule, and with it what was counted.
type limits struct {
	appID, namespace string
	member           string // of this process, in stores
	pinned           func() *components
	metrics          *telemetry.Metrics
	log              *slog.Logger

	mu    sync.Mutex
	rules map[string]*limitRule // in use, by print
}

// limitRule is a resource that is in use.
type limitRule struct {
	print    string
	rule     *ratelimit.Rule
	limiters []ratelimit.Limiter
}

func newLimits(cfg *Config, pinned func() *components, m *telemetry.Metrics) *limits {
	return &limits{
		appID: cfg.AppID, namespace: cfg.Namespace, member: cfg.AppID + " " + uuid.NewString(), pinned: pinned, metrics: m,
		log: cfg.Log, rules: map[string]*limitRule{},
	}
}

// needsEngine reports whether any limit is kept on the engine without saying so
// by the name of a component.
func needsEngineLimits(list []resource.RateLimit) bool {
	return slices.ContainsFunc(list, func(r resource.RateLimit) bool { return r.Spec.Shared != nil && r.Spec.Shared.Store == "" })
}

// checkLimits reports rate limits whose store is not there.
func checkLimits(set *resource.Set, comps *components) error {
	var errs []error
	for i := range set.RateLimits {
		r := &set.RateLimits[i]
		s := r.Spec.Shared
		if s == nil || s.Store == "" {
			continue
		}
		if _, ok := comps.limits[s.Store]; !ok {
			errs = append(errs, &resource.Error{
				Pos: s.Pos, Resource: "RateLimit " + r.Name(), Field: "spec.shared.store",
				Problem: fmt.Sprintf("there is no component %q of a type ratelimit.*%s", s.Store, hint(s.Store, comps.limits)),
			})
		}
	}
	return errors.Join(errs...)
}

// compile returns the rules of resources, those in use where they are the same.
func (l *limits) compile(list []resource.RateLimit) []*limitRule {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*limitRule, len(list))
	for i := range list {
		print := list[i].Name() + " " + list[i].Digest()
		if out[i] = l.rules[print]; out[i] == nil {
			out[i] = l.rule(&list[i], print)
		}
	}
	return out
}

// use says which rules are in use from now on, and ends the others.
func (l *limits) use(now []*limitRule) {
	l.mu.Lock()
	before := l.rules
	l.rules = map[string]*limitRule{}
	for _, r := range now {
		l.rules[r.print] = r
		delete(before, r.print)
	}
	l.mu.Unlock()
	for _, r := range before {
		for _, limiter := range r.limiters {
			limiter.Close()
		}
	}
}

func (l *limits) rule(r *resource.RateLimit, print string) *limitRule {
	out := &limitRule{print: print, rule: &ratelimit.Rule{Name: r.Name(), Caller: l.appID, Attributes: attributesOf, DryRun: r.Spec.DryRun, Log: l.log}}
	out.rule.Stats = func(op policy.Op) *telemetry.PolicyStats {
		label := "app_" + op.Component
		if op.Block != "invoke" {
			label = kindOf(op.Block) + "_" + op.Component
		}
		return l.metrics.Policy(r.Name(), "ratelimit", label, op.Inbound)
	}
	for _, t := range r.Spec.Targets {
		out.rule.Targets = append(out.rule.Targets, ratelimit.Target{
			API: t.API, Component: t.Name, Operations: t.Operations, Keys: t.Keys, Inbound: t.Direction == "inbound",
		})
	}
	for i := range r.Spec.Limits {
		limit := l.limit(r, i)
		out.rule.Limits = append(out.rule.Limits, limit)
		out.limiters = append(out.limiters, limit.Limiter)
	}
	return out
}

func (l *limits) limit(r *resource.RateLimit, i int) ratelimit.Limit {
	in := &r.Spec.Limits[i]
	var out ratelimit.Limit
	for _, what := range in.By {
		out.By = append(out.By, ratelimit.ParseAttribute(what))
	}
	for _, c := range in.When {
		out.When = append(out.When, ratelimit.Condition{Attribute: ratelimit.ParseAttribute(c.What), In: c.In, Not: c.Not})
	}
	bucket := ratelimit.Bucket{Rate: float64(in.Requests) / in.Interval().Seconds(), Burst: in.AtOnce()}
	s := r.Spec.Shared
	if s == nil {
		out.Limiter = ratelimit.NewLocal(bucket, 0)
		return out
	}
	store := s.Store
	if store == "" {
		store = engineLimits
	}
	fallbacks := map[string]ratelimit.Fallback{"allow": ratelimit.Allow, "deny": ratelimit.Deny}
	out.Limiter = ratelimit.NewShared(ratelimit.SharedOptions{
		Name: fmt.Sprintf("%s/%s/%d/", l.namespace, r.Name(), i), Bucket: bucket, Take: l.take(store), Member: l.member,
		Timeout: s.Timeout.Std(), Fallback: fallbacks[s.Fallback], Log: l.log,
	})
	return out
}

// attributesOf returns what the request says that ctx comes from.
func attributesOf(ctx context.Context) policy.Attributes {
	if ex := proxy.ExchangeOf(ctx); ex != nil {
		return requestAttributes{ex}
	}
	return nil
}

// requestAttributes is a policy.Attributes.
type requestAttributes struct{ ex proxy.Exchange }

func (a requestAttributes) Header(name string) string { return a.ex.Request().Header.Get(name) }
func (a requestAttributes) Method() string            { return a.ex.Request().Method }
func (a requestAttributes) Path() string              { return a.ex.Request().Path() }

func (a requestAttributes) Remote() string {
	if at := a.ex.Remote(); at.IsValid() {
		return at.Addr().String()
	}
	return ""
}

// take returns what asks the store of a name, whichever has it at the time.
func (l *limits) take(store string) func(context.Context, ratelimit.Request) (ratelimit.Grant, error) {
	return func(ctx context.Context, r ratelimit.Request) (ratelimit.Grant, error) {
		table := l.pinned()
		defer table.release()
		s, ok := table.limits[store]
		if !ok {
			return ratelimit.Grant{}, fault.New(fault.Unavailable, "there is no rate limit store %q", store)
		}
		return s.Take(ctx, r)
	}
}
