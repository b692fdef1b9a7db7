package runtime

import (
	"slices"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/resource"
)

// fixed are the fields of a Configuration that count as they were at the start.
func fixed() []string {
	return []string{
		"mtls", "nameResolution", "wasm", "workflow",
	}
}

// keepFixed makes the fields of now that cannot change while the process runs
// those of before, and returns the names of the ones that should have changed.
func keepFixed(now, before *resource.Configuration) (needs []string) {
	names := append(now.Sections(), before.Sections()...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if slices.Contains(fixed(), name) && now.Section(name) != before.Section(name) {
			now.Keep(name, before)
			needs = append(needs, "Configuration spec."+name)
		}
	}
	return needs
}

// configure takes a Configuration into use, in place of another one.
func (rt *Runtime) configure(now, before *resource.Configuration) {
	rt.invoker.SetAccess(accessRules(now))
	tunnels, _ := tunnelRules(now) // which has been checked
	rt.invoker.SetTunnels(tunnels)
	metrics := now.Section("metric") != before.Section("metric") || now.Section("metrics") != before.Section("metrics")
	if metrics {
		rt.measure(now)
	}
	if metrics || now.Section("api") != before.Section("api") || now.Section("logging") != before.Section("logging") {
		rt.setAPIRules(now)
	}
}

// accessRules returns the access rules of a Configuration.
func accessRules(c *resource.Configuration) invoke.AccessRules {
	a := c.Spec.AccessControl
	if a == nil {
		return invoke.AccessRules{}
	}
	out := invoke.AccessRules{Default: accessAction(a.DefaultAction), TrustDomain: a.TrustDomain}
	for _, p := range a.Policies {
		policy := invoke.CallerPolicy{
			AppID: p.AppID, Namespace: p.Namespace, TrustDomain: p.TrustDomain, Default: accessAction(p.DefaultAction),
		}
		for _, o := range p.Operations {
			policy.Operations = append(policy.Operations, invoke.OperationRule{Name: o.Name, Verbs: o.HTTPVerb, Action: accessAction(o.Action)})
		}
		out.Policies = append(out.Policies, policy)
	}
	return out
}

func accessAction(text string) invoke.Action {
	switch text {
	case "allow":
		return invoke.Allow
	case "deny":
		return invoke.Deny
	}
	return invoke.Undecided
}
