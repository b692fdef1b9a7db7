package invoke

import (
	"cmp"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/proa-io/proa/fault"
)

// ReasonDenied: the access rules of the application invoked do not let the
// caller do this.
const ReasonDenied fault.Reason = "invoke.denied"

// DefaultTrustDomain is the trust domain of rules that name none.
const DefaultTrustDomain = "public"

// AccessRules say which application may invoke what of this one. The zero value
// lets everybody invoke everything.
type AccessRules struct {
	// Default decides about callers without a policy of their own, and where
	// such a policy does not decide. Unset, it is Allow when there is no
	// policy at all and Deny when there is one.
	Default Action
	// TrustDomain is the one of this application; DefaultTrustDomain when
	// empty.
	TrustDomain string
	Policies    []CallerPolicy
}

// Action is what a rule says.
type Action uint8

// The actions.
const (
	Undecided Action = iota
	Allow
	Deny
)

// CallerPolicy is what one calling application may invoke.
type CallerPolicy struct {
	AppID string
	// Namespace is the caller's; "default" when empty.
	Namespace string
	// TrustDomain is the caller's; that of the rules when empty. Callers that do
	// not prove theirs are taken to be of the rules'.
	TrustDomain string
	// Default decides about operations that no rule is for.
	Default    Action
	Operations []OperationRule
}

// OperationRule allows or denies some operations.
type OperationRule struct {
	// Name is a path, or the full name of a gRPC method, "/pkg.Service/Method".
	// A segment "*" stands for any one segment, and "**", as the last one, for
	// any number of them, also none. A "*" at the end of a segment stands for
	// any rest of it.
	Name string
	// Verbs are the HTTP methods that it is for, in any case; all when empty
	// or when "*" is among them. They mean nothing for gRPC.
	Verbs  []string
	Action Action
}

// access is AccessRules made ready.
type access struct {
	fallback Action
	domain   string // of callers that prove none
	callers  map[Caller]*callerAccess
}

type callerAccess struct {
	fallback Action
	rules    []accessRule // the most particular first
}

type accessRule struct {
	segments []string
	verbs    []string // in upper case; nil for all
	action   Action
}

// newAccess returns nil for rules that allow everything.
func newAccess(r AccessRules) *access {
	if r.Default == Undecided {
		r.Default = Allow
		if len(r.Policies) > 0 {
			r.Default = Deny
		}
	}
	if r.Default == Allow && len(r.Policies) == 0 {
		return nil
	}
	a := &access{fallback: r.Default, domain: cmp.Or(r.TrustDomain, DefaultTrustDomain), callers: map[Caller]*callerAccess{}}
	for _, p := range r.Policies {
		c := &callerAccess{fallback: p.Default}
		if c.fallback == Undecided {
			c.fallback = r.Default
		}
		for _, o := range p.Operations {
			c.rules = append(c.rules, newAccessRule(o))
		}
		slices.SortStableFunc(c.rules, func(x, y accessRule) int { return compareNames(x.segments, y.segments) })
		a.callers[Caller{cmp.Or(p.TrustDomain, a.domain), cmp.Or(p.Namespace, defaultNamespace), p.AppID}] = c
	}
	return a
}

// defaultNamespace is that of callers and policies that name none.
const defaultNamespace = "default"

func newAccessRule(o OperationRule) accessRule {
	out := accessRule{segments: splitPath(path.Clean("/" + o.Name)), action: o.Action}
	for _, v := range o.Verbs {
		if v == "*" {
			return accessRule{segments: out.segments, action: o.Action}
		}
		out.verbs = append(out.verbs, strings.ToUpper(v))
	}
	return out
}

func splitPath(p string) []string {
	p = strings.Trim(p, "/")
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}

// compareNames orders names: what says more comes first.
func compareNames(a, b []string) int {
	for i := range min(len(a), len(b)) {
		if c := cmp.Compare(vagueness(a[i]), vagueness(b[i])); c != 0 {
			return c
		}
		if c := cmp.Compare(len(b[i]), len(a[i])); c != 0 && vagueness(a[i]) == 1 {
			return c
		}
	}
	return cmp.Compare(len(b), len(a))
}

func vagueness(segment string) int {
	switch {
	case segment == "**":
		return 3
	case segment == "*":
		return 2
	case strings.HasSuffix(segment, "*"):
		return 1
	}
	return 0
}

// matches reports whether a rule is for a path. A rule that denies does not
// mind upper and lower case, since many applications do not either.
func (r *accessRule) matches(segments []string, verb string) bool {
	if r.verbs != nil && verb != "" && !slices.Contains(r.verbs, strings.ToUpper(verb)) {
		return false
	}
	for i, want := range r.segments {
		if want == "**" && i == len(r.segments)-1 {
			return true
		}
		if i >= len(segments) || !segmentMatches(want, segments[i], r.action == Deny) {
			return false
		}
	}
	return len(segments) == len(r.segments)
}

func segmentMatches(want, got string, anyCase bool) bool {
	if want == "*" || want == "**" {
		return got != ""
	}
	if anyCase {
		want, got = strings.ToLower(want), strings.ToLower(got)
	}
	if prefix, ok := strings.CutSuffix(want, "*"); ok {
		return strings.HasPrefix(got, prefix)
	}
	return want == got
}

// decision is what rules say of a request.
type decision struct {
	byPolicy bool // and not by default
	allowed  bool
}

// check returns an error when the caller may not invoke the path. verb is empty
// for gRPC.
func (a *access) check(caller Caller, target, verb string) (decision, error) {
	if a == nil {
		return decision{allowed: true}, nil
	}
	appID := caller.AppID
	caller.Namespace = cmp.Or(caller.Namespace, defaultNamespace)
	caller.TrustDomain = cmp.Or(caller.TrustDomain, a.domain)
	c := a.callers[caller]
	for _, p := range readings(target) {
		if a.decide(c, p, verb) != Allow {
			return decision{byPolicy: c != nil}, fault.New(fault.PermissionDenied, "access control policy has denied access to appid: %s operation: %s verb: %s",
				appID, path.Clean("/"+target), cmp.Or(verb, "NONE")).WithReason(ReasonDenied)
		}
	}
	return decision{byPolicy: c != nil, allowed: true}, nil
}

func (a *access) decide(c *callerAccess, p, verb string) Action {
	if c == nil {
		return a.fallback
	}
	segments := splitPath(p)
	for i := range c.rules {
		if r := &c.rules[i]; r.matches(segments, verb) && r.action != Undecided {
			return r.action
		}
	}
	return c.fallback
}

// readings returns the ways in which an application may read a path: as it is,
// and with its escapes decoded, again and again, since frameworks differ in when
// they split it. All of them must be allowed, so that no spelling leads around a
// rule.
func readings(target string) []string {
	p, _, _ := strings.Cut(target, "?")
	out := []string{clean(p)}
	for range 3 {
		decoded, err := url.PathUnescape(p)
		if err != nil || decoded == p {
			break
		}
		p = decoded
		for _, form := range []string{clean(p), clean(strings.ReplaceAll(p, `\`, "/"))} {
			if !slices.Contains(out, form) {
				out = append(out, form)
			}
		}
	}
	return out
}

// clean removes what changes nothing in a path: empty and dot segments, and
// parameters of segments (RFC 3986, section 3.3), which some frameworks drop.
func clean(p string) string {
	if strings.Contains(p, ";") {
		segments := strings.Split(p, "/")
		for i, s := range segments {
			segments[i], _, _ = strings.Cut(s, ";")
		}
		p = strings.Join(segments, "/")
	}
	return path.Clean("/" + p)
}
