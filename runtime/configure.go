package runtime

import (
	"slices"

	"github.com/proa-io/proa/resource"
)

// fixed are the fields of a Configuration that count as they were at the start.
func fixed() []string {
	return []string{
		"tracing", "metric", "metrics", "httpPipeline", "appHttpPipeline", "mtls", "nameResolution", "wasm", "workflow",
		"accessControl", "api", "logging",
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
	const hot = "HotReload"
	if now.Feature(hot, true) != before.Feature(hot, true) {
		needs = append(needs, "Configuration spec.features "+hot)
	}
	return needs
}

// configure takes a Configuration into use.
func (rt *Runtime) configure(*resource.Configuration) {}
