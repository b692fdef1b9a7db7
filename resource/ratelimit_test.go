package resource_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/resource"
)

func loadRateLimit(t *testing.T, spec string) (*resource.Set, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "limit.yaml")
	text := "apiVersion: proa.io/v1alpha1\nkind: RateLimit\nmetadata:\n  name: l\nspec:\n" + spec
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return resource.Load(resource.Options{Paths: []string{path}})
}

func TestRateLimitsAreRead(t *testing.T) {
	set, err := loadRateLimit(t, `
  targets:
  - {api: invoke, name: shop, operations: [invoke], keys: ["/orders*"], direction: inbound}
  shared: {fallback: deny, timeout: 50ms}
  limits:
  - {requests: 600, per: 1m, by: [caller, "header:x-tenant"], when: [{what: method, in: [POST], not: true}]}
  - {requests: 5, burst: 7}
`)
	if err != nil || len(set.RateLimits) != 1 {
		t.Fatalf("%d, %v", len(set.RateLimits), err)
	}
	l := set.RateLimits[0].Spec.Limits
	if l[0].Interval() != time.Minute || l[0].AtOnce() != 60 || l[1].Interval() != time.Second || l[1].AtOnce() != 7 {
		t.Errorf("%+v", l)
	}
}

func TestWrongRateLimitsAreExplained(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{"  dryRun: true\n", "limit.yaml:6: RateLimit l: spec.limits: is required: a list of limits such as {requests: 100, per: 1s}"},
		{"  limits:\n  - {per: 1s}\n", "limit.yaml:7: RateLimit l: spec.limits[0].requests: wants how many calls are allowed, at least 1, not 0"},
		{"  limits:\n  - {requests: 1, per: -1s}\n", "spec.limits[0].per: must be positive"},
		{"  limits:\n  - {requests: 1, burst: -1}\n", "spec.limits[0].burst: must not be negative"},
		{"  limits:\n  - {requests: 2000000}\n", "spec.limits[0].requests: is more than 1000000 a second"},
		{"  limits:\n  - {requests: 1, per: 24h, burst: 1000}\n", "spec.limits[0].burst: takes more than a year to come back; at most 366"},
		{"  limits:\n  - {requests: 1, by: [calller]}\n", `spec.limits[0].by[0]: "calller" is nothing that is known of a call; did you mean "caller"?`},
		{"  limits:\n  - {requests: 1, by: ['header:']}\n", `spec.limits[0].by[0]: "header:" is nothing`},
		{"  limits:\n  - {requests: 1, when: [{in: [a]}]}\n", `spec.limits[0].when[0].what: "" is nothing`},
		{"  limits:\n  - {requests: 1, perr: 1s}\n", `spec.limits[0].perr`},
		{"  limits: [{requests: 1}]\n  targets: [{api: states}]\n", `spec.targets[0].api: "states" is not an API; did you mean "state"?`},
		{"  limits: [{requests: 1}]\n  targets: [{direction: up}]\n", `spec.targets[0].direction: wants "outbound" or "inbound", not "up"`},
		{"  limits: [{requests: 1}]\n  shared: {fallback: none}\n", `spec.shared.fallback: wants "share", "allow" or "deny", not "none"`},
		{"  limits: [{requests: 1}]\n  shared: {timeout: -1s}\n", `spec.shared.timeout: must not be negative`},
	} {
		if _, err := loadRateLimit(t, c.spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.spec, err, c.want)
		}
	}
}
