package resource

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/proa-io/proa/component"
)

// Resiliency is a resource of kind Resiliency: named policies, and which
// target has which of them.
type Resiliency struct {
	header `yaml:",inline"`
	Spec   ResiliencySpec `yaml:"spec"`
}

// ResiliencySpec is the spec of a Resiliency.
type ResiliencySpec struct {
	Policies ResiliencyPolicies `yaml:"policies"`
	Targets  ResiliencyTargets  `yaml:"targets"`
}

// ResiliencyPolicies are policies by name.
type ResiliencyPolicies struct {
	Timeouts        map[string]component.Duration `yaml:"timeouts"`
	Retries         map[string]Retry              `yaml:"retries"`
	CircuitBreakers map[string]CircuitBreaker     `yaml:"circuitBreakers"`
}

// Retry says how often and when a failed call is made again.
type Retry struct {
	// Policy is "constant" (the default) or "exponential".
	Policy string `yaml:"policy"`
	// Duration is the delay of the constant policy; 5s by default. The
	// exponential policy begins with 500ms and does not look at it.
	Duration component.Duration `yaml:"duration"`
	// MaxInterval bounds the delay of the exponential policy; 60s by default.
	MaxInterval component.Duration `yaml:"maxInterval"`
	// MaxRetries counts tries after the first; -1, the default, for no bound.
	MaxRetries *int               `yaml:"maxRetries"`
	Matching   *RetryMatching     `yaml:"matching"`
	Pos        component.Position `yaml:"-"`
}

// RetryMatching limits retries to some results.
type RetryMatching struct {
	// HTTPStatusCodes is a list of codes and ranges, "429,500-599".
	HTTPStatusCodes string `yaml:"httpStatusCodes"`
	// GRPCStatusCodes is a list of codes and ranges, "1-3,14".
	GRPCStatusCodes string `yaml:"gRPCStatusCodes"`
}

// CircuitBreaker says when calls are refused without being tried.
type CircuitBreaker struct {
	// MaxRequests is how many calls pass while it is half open; 1 by default.
	MaxRequests uint32 `yaml:"maxRequests"`
	// Interval is how often the counts start from zero; 0 for never.
	Interval component.Duration `yaml:"interval"`
	// Timeout is how long it stays open; 60s by default.
	Timeout component.Duration `yaml:"timeout"`
	// Trip is a CEL condition over requests, totalSuccesses, totalFailures,
	// consecutiveSuccesses and consecutiveFailures; by default
	// "consecutiveFailures > 5".
	Trip string             `yaml:"trip"`
	Pos  component.Position `yaml:"-"`
}

// ResiliencyTargets say which policies apply to what.
type ResiliencyTargets struct {
	Apps       map[string]TargetPolicies    `yaml:"apps"`
	Actors     map[string]TargetPolicies    `yaml:"actors"`
	Components map[string]ComponentPolicies `yaml:"components"`
}

// TargetPolicies names the policies of one target.
type TargetPolicies struct {
	Timeout                 string             `yaml:"timeout"`
	Retry                   string             `yaml:"retry"`
	CircuitBreaker          string             `yaml:"circuitBreaker"`
	CircuitBreakerScope     string             `yaml:"circuitBreakerScope"`
	CircuitBreakerCacheSize int                `yaml:"circuitBreakerCacheSize"`
	Pos                     component.Position `yaml:"-"`
}

// ComponentPolicies names the policies of a component, by direction.
type ComponentPolicies struct {
	Inbound  TargetPolicies `yaml:"inbound"`
	Outbound TargetPolicies `yaml:"outbound"`
}

// Name returns the resource's name.
func (r *Resiliency) Name() string { return r.Metadata.Name }

// Scopes returns the applications the resource is for; empty for all.
func (r *Resiliency) Scopes() []string { return r.header.Scopes }

func (r *Resiliency) check(p *problems) {
	res := r.describe()
	r.requireName(p)
	for _, name := range slices.Sorted(maps.Keys(r.Spec.Policies.Retries)) {
		r.checkRetry(p, res, name, r.Spec.Policies.Retries[name])
	}
	for name, id := range r.Spec.Targets.Apps {
		if id.CircuitBreakerCacheSize < 0 {
			p.addf(id.Pos, res, "spec.targets.apps."+name+".circuitBreakerCacheSize", "wants a number of paths, not %d", id.CircuitBreakerCacheSize)
		}
	}
	for name, id := range r.Spec.Targets.Actors {
		switch id.CircuitBreakerScope {
		case "", "type", "id", "both":
		default:
			p.addf(id.Pos, res, "spec.targets.actors."+name+".circuitBreakerScope",
				`wants "type", "id" or "both", not %q`, id.CircuitBreakerScope)
		}
	}
}

func (r *Resiliency) checkRetry(p *problems, res, name string, retry Retry) {
	at := "spec.policies.retries." + name
	switch retry.Policy {
	case "", "constant", "exponential":
	default:
		p.addf(retry.Pos, res, at+".policy", `wants "constant" or "exponential", not %q`, retry.Policy)
	}
	if retry.MaxRetries != nil && *retry.MaxRetries < -1 {
		p.addf(retry.Pos, res, at+".maxRetries", "wants -1 (no bound), 0 (none) or more, not %d", *retry.MaxRetries)
	}
	if m := retry.Matching; m != nil {
		if _, err := ParseCodes(m.HTTPStatusCodes, 100, 599); err != "" {
			p.addf(retry.Pos, res, at+".matching.httpStatusCodes", "%s", err)
		}
		if _, err := ParseCodes(m.GRPCStatusCodes, 0, 16); err != "" {
			p.addf(retry.Pos, res, at+".matching.gRPCStatusCodes", "%s", err)
		}
	}
}

// builtInPolicies are the names of policies that exist without being defined.
func builtInPolicies() []string {
	return []string{
		"DaprBuiltInServiceRetries", "DaprBuiltInActorRetries", "DaprBuiltInActorReminderRetries",
		"DaprBuiltInActorNotFoundRetries", "DaprBuiltInInitializationRetries",
	}
}

// checkPolicies reports targets that name a policy which no resource defines.
func checkPolicies(list []Resiliency, p *problems) {
	var timeouts, breakers []string
	retries := builtInPolicies()
	for _, r := range list {
		pol := r.Spec.Policies
		timeouts = slices.AppendSeq(timeouts, maps.Keys(pol.Timeouts))
		retries = slices.AppendSeq(retries, maps.Keys(pol.Retries))
		breakers = slices.AppendSeq(breakers, maps.Keys(pol.CircuitBreakers))
	}
	for _, names := range [][]string{timeouts, retries, breakers} {
		slices.Sort(names)
	}
	for _, r := range list {
		res := r.describe()
		check := func(at string, t TargetPolicies) {
			undefined(p, t.Pos, res, at+".timeout", t.Timeout, timeouts)
			undefined(p, t.Pos, res, at+".retry", t.Retry, retries)
			undefined(p, t.Pos, res, at+".circuitBreaker", t.CircuitBreaker, breakers)
		}
		for name, t := range r.Spec.Targets.Apps {
			check("spec.targets.apps."+name, t)
		}
		for name, t := range r.Spec.Targets.Actors {
			check("spec.targets.actors."+name, t)
		}
		for name, c := range r.Spec.Targets.Components {
			check("spec.targets.components."+name+".inbound", c.Inbound)
			check("spec.targets.components."+name+".outbound", c.Outbound)
		}
	}
}

// undefined reports the name of a policy that is not among those defined.
func undefined(p *problems, pos component.Position, res, field, name string, defined []string) {
	if name != "" && !slices.Contains(defined, name) {
		p.addf(pos, res, field, "names the policy %q, which no Resiliency defines%s", name, suggest(name, defined))
	}
}

// CodeRange is a range of status codes, both ends included.
type CodeRange struct{ From, To int }

// ParseCodes reads a list of codes and ranges such as "429,500-599" and
// returns what is wrong with it, or "".
func ParseCodes(text string, least, most int) ([]CodeRange, string) {
	if text == "" {
		return nil, ""
	}
	var out []CodeRange
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.Atoi(strings.TrimSpace(from))
		b, errB := strconv.Atoi(strings.TrimSpace(to))
		if errA != nil || errB != nil || a < least || b > most || a > b {
			return nil, "wants codes and ranges from " + itoa(least) + " to " + itoa(most) +
				`, such as "` + itoa(least) + "," + itoa(most-1) + "-" + itoa(most) + `", not ` + strconv.Quote(part)
		}
		out = append(out, CodeRange{a, b})
	}
	return out, ""
}
