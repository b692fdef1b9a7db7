package resource

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
)

// RateLimit is a resource of kind RateLimit of proa.io: how often something may
// be called.
type RateLimit struct {
	header `yaml:",inline"`
	Spec   RateLimitSpec `yaml:"spec"`
}

// RateLimitSpec is the spec of a RateLimit.
type RateLimitSpec struct {
	// Targets are the calls that it is about: those that any of them
	// describes. Without targets it is about all.
	Targets []CallTarget `yaml:"targets"`
	// Limits must all allow a call.
	Limits []Limit `yaml:"limits"`
	// Shared has the sidecars that read this resource keep the limits
	// together. Without it each sidecar has all of each limit for itself.
	Shared *SharedLimit `yaml:"shared"`
	// DryRun only counts and logs the calls that would be refused.
	DryRun bool               `yaml:"dryRun"`
	Pos    component.Position `yaml:"-"`
}

// CallTarget describes calls. What is empty matches all.
type CallTarget struct {
	// API is the building block: "invoke", "state", "pubsub", "bindings",
	// "secretstores", "configuration", "lock", "jobs", "crypto",
	// "conversation".
	API string `yaml:"api"`
	// Name is that of the component, or of the application that is invoked.
	Name string `yaml:"name"`
	// Operations are names such as "get", "set", "publish", "invoke".
	Operations []string `yaml:"operations"`
	// Keys are what the calls are about: keys of state, topics, paths of
	// methods. One that ends in * stands for all that begin so.
	Keys []string `yaml:"keys"`
	// Direction is "outbound", the default, for what the application calls,
	// or "inbound" for what reaches the application.
	Direction string             `yaml:"direction"`
	Pos       component.Position `yaml:"-"`
}

// Limit is so many calls in such a time.
type Limit struct {
	// Requests is how many calls are allowed in Per.
	Requests int64 `yaml:"requests"`
	// Per is a second unless given.
	Per component.Duration `yaml:"per"`
	// Burst is how many may come at once; by default a tenth of Requests.
	Burst int64 `yaml:"burst"`
	// By names what each has the limit for itself: "caller" (the application
	// that calls), "key", "component", "operation", "method", "path", "remote"
	// (the client's address), "header:NAME".
	// Without it there is one limit for all.
	By []string `yaml:"by"`
	// When says which of the calls the limit is about; all of it must hold.
	When []Condition        `yaml:"when"`
	Pos  component.Position `yaml:"-"`
}

// Condition holds when something has one of some values.
type Condition struct {
	// What is one of the names that Limit.By may have.
	What string `yaml:"what"`
	// In are the values. One that ends in * stands for all that begin so;
	// without values it holds when there is any value.
	In []string `yaml:"in"`
	// Not turns it round.
	Not bool               `yaml:"not"`
	Pos component.Position `yaml:"-"`
}

// SharedLimit says how limits are shared.
type SharedLimit struct {
	// Store is the name of a component of type ratelimit.*; by default the
	// engine.
	Store string `yaml:"store"`
	// Fallback is what happens while the store does not answer: "share" (the
	// default) limits each sidecar to its share of the limit, "allow" and
	// "deny" do that to all calls.
	Fallback string `yaml:"fallback"`
	// Timeout is how long a call waits for the store; 100ms by default.
	Timeout component.Duration `yaml:"timeout"`
	Pos     component.Position `yaml:"-"`
}

// Name returns the resource's name.
func (r *RateLimit) Name() string { return r.Metadata.Name }

// Position returns where the document starts.
func (r *RateLimit) Position() component.Position { return r.Pos }

// CallAPIs are what CallTarget.API may be.
func CallAPIs() []string {
	return []string{"bindings", "configuration", "conversation", "crypto", "invoke", "jobs", "lock", "pubsub", "secretstores", "state"}
}

func (r *RateLimit) check(p *problems) {
	res := r.describe()
	r.requireName(p)
	for i, t := range r.Spec.Targets {
		checkCallTarget(p, res, fmt.Sprintf("spec.targets[%d]", i), t)
	}
	if len(r.Spec.Limits) == 0 {
		p.addf(r.Spec.Pos, res, "spec.limits", "is required: a list of limits such as {requests: 100, per: 1s}")
	}
	for i, l := range r.Spec.Limits {
		r.checkLimit(p, fmt.Sprintf("spec.limits[%d]", i), l)
	}
	if s := r.Spec.Shared; s != nil {
		switch s.Fallback {
		case "", "share", "allow", "deny":
		default:
			p.addf(s.Pos, res, "spec.shared.fallback", `wants "share", "allow" or "deny", not %q`, s.Fallback)
		}
		if s.Timeout < 0 {
			p.addf(s.Pos, res, "spec.shared.timeout", "must not be negative, as %s is", s.Timeout)
		}
	}
}

// checkCallTarget reports a target that can match nothing.
func checkCallTarget(p *problems, res, at string, t CallTarget) {
	if t.API != "" && !slices.Contains(CallAPIs(), t.API) {
		p.addf(t.Pos, res, at+".api", "%q is not an API%s", t.API, suggest(t.API, CallAPIs()))
	}
	switch t.Direction {
	case "", "outbound", "inbound":
	default:
		p.addf(t.Pos, res, at+".direction", `wants "outbound" or "inbound", not %q`, t.Direction)
	}
}

// Most of what limits can be kept exactly.
const (
	mostPerSecond = 1e6
	longestToFill = 366 * 24 * time.Hour
)

func (r *RateLimit) checkLimit(p *problems, at string, l Limit) {
	res := r.describe()
	per := l.Interval()
	switch {
	case l.Requests <= 0:
		p.addf(l.Pos, res, at+".requests", "wants how many calls are allowed, at least 1, not %d", l.Requests)
		return
	case l.Per < 0:
		p.addf(l.Pos, res, at+".per", "must be positive, not %s", l.Per)
		return
	case l.Burst < 0:
		p.addf(l.Pos, res, at+".burst", "must not be negative, as %d is", l.Burst)
		return
	case float64(l.Requests)/per.Seconds() > mostPerSecond:
		p.addf(l.Pos, res, at+".requests", "is more than %.0f a second, the most that can be counted", float64(mostPerSecond))
	case float64(l.AtOnce())/float64(l.Requests)*per.Seconds() > longestToFill.Seconds():
		p.addf(l.Pos, res, at+".burst", "takes more than a year to come back; at most %d", int64(longestToFill.Seconds()/per.Seconds()*float64(l.Requests)))
	}
	for i, what := range l.By {
		checkAttribute(p, l.Pos, res, fmt.Sprintf("%s.by[%d]", at, i), what)
	}
	for i, c := range l.When {
		checkAttribute(p, c.Pos, res, fmt.Sprintf("%s.when[%d].what", at, i), c.What)
	}
}

// Interval returns Per, or its default.
func (l *Limit) Interval() time.Duration {
	if l.Per == 0 {
		return time.Second
	}
	return l.Per.Std()
}

// AtOnce returns Burst, or its default.
func (l *Limit) AtOnce() int64 {
	if l.Burst == 0 {
		return max(l.Requests/10, 1)
	}
	return l.Burst
}

// attributes are the names of what can be known of a call, but for those with a
// name of their own after a colon.
func attributes() []string {
	return []string{"caller", "key", "component", "operation", "method", "path", "remote", "header:NAME"}
}

func checkAttribute(p *problems, pos component.Position, res, at, what string) {
	kind, name, named := strings.Cut(what, ":")
	switch {
	case named && name != "" && kind == "header":
	case !named && slices.Contains(attributes(), what):
	default:
		p.addf(pos, res, at, "%q is nothing that is known of a call%s", what, suggest(what, attributes()))
	}
}
