package ratelimit

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/telemetry"
)

// Rule limits calls. It does not change once it is in use.
type Rule struct {
	// Name is for error texts, logs and metrics.
	Name string
	// Caller is who calls when a call does not say: the application beside.
	Caller string
	// Attributes returns what is known of the request that a call is made for;
	// nil when there is no request.
	Attributes func(context.Context) policy.Attributes
	// Targets are the calls it is about; all that the application makes when
	// empty.
	Targets []Target
	// Limits must all allow a call.
	Limits []Limit
	// DryRun lets what would be refused pass.
	DryRun bool
	// Stats, if set, returns what counts the calls of an operation.
	Stats func(policy.Op) *telemetry.PolicyStats
	// Log tells what a dry run would refuse, and nothing else.
	Log *slog.Logger
}

// Target describes calls. What is empty matches all, but for Inbound.
type Target struct {
	API, Component string
	Operations     []string
	// Keys are values of Call.Key; one that ends in * stands for all that begin
	// so.
	Keys    []string
	Inbound bool
}

// Limit is a Limiter and what it is about.
type Limit struct {
	Limiter Limiter
	// By are the attributes that make up the key.
	By []Attribute
	// When must all hold.
	When []Condition
}

// Attribute names something that can be known of a call.
type Attribute struct {
	// Kind is "caller", "key", "component", "operation", "method", "path",
	// "remote" or "header".
	Kind string
	// Name is that of the header field.
	Name string
}

// ParseAttribute reads "caller" or "header:x-tenant".
func ParseAttribute(text string) Attribute {
	kind, name, _ := strings.Cut(text, ":")
	return Attribute{kind, name}
}

// Condition holds when an attribute has one of some values.
type Condition struct {
	Attribute
	// In are the values; one that ends in * stands for all that begin so.
	// Without values any but the empty one will do.
	In  []string
	Not bool
}

// Policy is a Policy that refuses calls beyond the limits with
// ResourceExhausted and the time to wait. Events and jobs on their way to the
// application wait instead: there is nobody to refuse them to.
func (r *Rule) Policy(op policy.Op, next policy.Handler) policy.Handler {
	keys, ok := r.matches(op)
	if !ok {
		return next
	}
	b := &boundRule{rule: r, keys: keys, next: next, waits: op.Inbound && op.Block != "invoke"}
	if r.Stats != nil {
		b.stats = r.Stats(op)
	}
	return b.handle
}

// matches reports whether the rule is about an operation, and about which keys:
// nil for all.
func (r *Rule) matches(op policy.Op) (keys []string, ok bool) {
	if len(r.Targets) == 0 {
		return nil, !op.Inbound
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Inbound != op.Inbound || t.API != "" && t.API != op.Block || t.Component != "" && t.Component != op.Component ||
			len(t.Operations) > 0 && !slices.Contains(t.Operations, op.Name) {
			continue
		}
		if len(t.Keys) == 0 {
			return nil, true
		}
		keys, ok = append(keys, t.Keys...), true
	}
	return keys, ok
}

// boundRule is a rule around one operation.
type boundRule struct {
	rule  *Rule
	keys  []string
	waits bool
	stats *telemetry.PolicyStats
	next  policy.Handler
}

func (b *boundRule) handle(ctx context.Context, c *policy.Call) error {
	if b.keys != nil && !anyMatches(b.keys, c.Key) {
		return b.next(ctx, c)
	}
	b.stats.Executed("")
	for i := range b.rule.Limits {
		if err := b.pass(ctx, c, &b.rule.Limits[i]); err != nil {
			return err
		}
	}
	return b.next(ctx, c)
}

// pass returns nil when a limit allows the call.
func (b *boundRule) pass(ctx context.Context, c *policy.Call, l *Limit) error {
	var of policy.Attributes
	if len(l.By)+len(l.When) > 0 && b.rule.Attributes != nil {
		of = b.rule.Attributes(ctx)
	}
	for i := range l.When {
		if !b.holds(&l.When[i], c, of) {
			return nil
		}
	}
	key := b.key(l, c, of)
	for {
		d := l.Limiter.Take(ctx, key)
		if d.Degraded {
			b.stats.Activated("degraded")
		}
		if d.Allowed {
			return nil
		}
		b.stats.Activated("refused")
		switch {
		case b.rule.DryRun:
			if b.rule.Log != nil {
				b.rule.Log.InfoContext(ctx, "a rate limit would refuse a call", "limit", b.rule.Name, "api", c.Op.Block,
					"name", c.Op.Component, "operation", c.Op.Name, "caller", c.Caller, "by", printable(key))
			}
			return nil
		case !b.waits:
			return b.refusal(c, key, d.Wait)
		}
		if err := wait(ctx, d.Wait); err != nil {
			return err
		}
	}
}

func (b *boundRule) refusal(c *policy.Call, key string, wait time.Duration) error {
	whose := ""
	if key != "" {
		whose = " for " + printable(key)
	}
	return fault.New(fault.ResourceExhausted, "%s %q: rate limit %q%s is used up; next call in %v",
		c.Op.Block, c.Op.Component, b.rule.Name, whose, max(wait.Round(time.Millisecond), time.Millisecond)).
		WithReason(policy.ReasonRateLimited).WithRetryAfter(wait)
}

// longestWait bounds one wait, so that limits that change are noticed.
const longestWait = time.Second

func wait(ctx context.Context, d time.Duration) error {
	coroutine.Detach(ctx)
	t := time.NewTimer(min(d, longestWait))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// separator is between the parts of a key.
const separator = "\x1f"

// maxPart bounds one part of a key: callers choose them.
const maxPart = 256

// key returns what a call is counted by.
func (b *boundRule) key(l *Limit, c *policy.Call, of policy.Attributes) string {
	switch len(l.By) {
	case 0:
		return ""
	case 1:
		return b.value(l.By[0], c, of)
	}
	parts := make([]string, len(l.By))
	for i, a := range l.By {
		parts[i] = b.value(a, c, of)
	}
	return strings.Join(parts, separator)
}

// printable is a key as people read it.
func printable(key string) string { return strings.ReplaceAll(key, separator, ", ") }

// value returns the value of an attribute, "" when it is not known.
func (b *boundRule) value(a Attribute, c *policy.Call, of policy.Attributes) (value string) {
	switch a.Kind {
	case "caller":
		value = cmp.Or(c.Caller, b.rule.Caller)
	case "key":
		value = c.Key
	case "component":
		value = c.Op.Component
	case "operation":
		value = c.Op.Name
	default:
		if of == nil {
			return ""
		}
		switch a.Kind {
		case "method":
			value = of.Method()
		case "path":
			value = of.Path()
		case "remote":
			value = of.Remote()
		case "header":
			value = of.Header(a.Name)
		}
	}
	return value[:min(len(value), maxPart)]
}

func (b *boundRule) holds(w *Condition, c *policy.Call, of policy.Attributes) bool {
	value := b.value(w.Attribute, c, of)
	if len(w.In) == 0 {
		return (value != "") != w.Not
	}
	return anyMatches(w.In, value) != w.Not
}

// anyMatches reports whether a value is one of some, or begins as one of those
// that end in *.
func anyMatches(patterns []string, value string) bool {
	for _, p := range patterns {
		if begin, ok := strings.CutSuffix(p, "*"); ok && strings.HasPrefix(value, begin) || p == value {
			return true
		}
	}
	return false
}
