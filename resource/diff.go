package resource

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Changes are what is different between two Sets, each as "Kind name", in the
// order they are declared; of the Configuration the parts of its spec.
type Changes struct {
	Added, Changed, Removed []string
}

// None reports whether there is no change.
func (c Changes) None() bool { return len(c.Added)+len(c.Changed)+len(c.Removed) == 0 }

// Diff tells what is different in now, by kind and name.
func Diff(before, now *Set) Changes {
	var c Changes
	diff(&c, list(before.Components), list(now.Components))
	diff(&c, list(before.Subscriptions), list(now.Subscriptions))
	diff(&c, list(before.Resiliencies), list(now.Resiliencies))
	diff(&c, list(before.HTTPEndpoints), list(now.HTTPEndpoints))
	diff(&c, list(before.TrafficPolicies), list(now.TrafficPolicies))
	diff(&c, before.Gateway.list(), now.Gateway.list())
	diff(&c, list(before.RateLimits), list(now.RateLimits))
	a, b := before.Configuration.sections, now.Configuration.sections
	for _, name := range slices.Sorted(maps.Keys(b)) {
		switch old, ok := a[name]; {
		case !ok:
			c.Added = append(c.Added, "Configuration "+name)
		case old != b[name]:
			c.Changed = append(c.Changed, "Configuration "+name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if _, ok := b[name]; !ok {
			c.Removed = append(c.Removed, "Configuration "+name)
		}
	}
	return c
}

// described is a resource of any kind.
type described interface {
	describe() string
	identity() string
	Digest() string
}

// identity is what only one resource has.
func (h *header) identity() string {
	if h.everywhere() {
		return h.describe() + " " + h.Metadata.Namespace
	}
	return h.describe()
}

// identity implements described: components of different blocks may have the
// same name.
func (c *Component) identity() string { return c.Block() + " " + c.describe() }

func list[T any, P interface {
	*T
	described
}](all []T) []described {
	out := make([]described, len(all))
	for i := range all {
		out[i] = P(&all[i])
	}
	return out
}

func diff(c *Changes, before, now []described) {
	old := map[string]string{}
	for _, r := range before {
		old[r.identity()] = r.Digest()
	}
	there := map[string]bool{}
	for _, r := range now {
		there[r.identity()] = true
		switch digest, ok := old[r.identity()]; {
		case !ok:
			c.Added = append(c.Added, r.describe())
		case digest != r.Digest():
			c.Changed = append(c.Changed, r.describe())
		}
	}
	for _, r := range before {
		if !there[r.identity()] {
			c.Removed = append(c.Removed, r.describe())
		}
	}
}

// Adopt takes the subscriptions of s that say the same as before from there:
// but for where they stand they are equal, and so they are in all respects.
func (s *Set) Adopt(before *Set) {
	for i := range s.Subscriptions {
		now := &s.Subscriptions[i]
		j := slices.IndexFunc(before.Subscriptions, func(old Subscription) bool {
			return old.Name() == now.Name() && old.digest == now.digest
		})
		if j >= 0 {
			*now = before.Subscriptions[j]
		}
	}
}

// Section returns the digest of a field of the spec, "tracing", over all
// resources that were merged; "" when none has it.
func (c *Configuration) Section(name string) string { return c.sections[name] }

// Sections returns the names of the fields of the spec that are set, sorted.
func (c *Configuration) Sections() []string { return slices.Sorted(maps.Keys(c.sections)) }

// Keep takes a field of the spec from another Configuration.
func (c *Configuration) Keep(name string, from *Configuration) {
	to, was := reflect.ValueOf(&c.Spec).Elem(), reflect.ValueOf(&from.Spec).Elem()
	for i := range to.NumField() {
		if to.Type().Field(i).Tag.Get("yaml") == name {
			to.Field(i).Set(was.Field(i))
		}
	}
	c.sections = maps.Clone(c.sections)
	if digest, ok := from.sections[name]; ok {
		if c.sections == nil {
			c.sections = map[string]string{}
		}
		c.sections[name] = digest
		return
	}
	delete(c.sections, name)
}

// Feature reports whether a feature is on; def when nobody says. Names are
// compared without regard to case.
func (c *Configuration) Feature(name string, def bool) bool {
	for _, f := range c.Spec.Features {
		if strings.EqualFold(f.Name, name) {
			return f.Enabled
		}
	}
	return def
}
