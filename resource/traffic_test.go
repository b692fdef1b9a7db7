package resource

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func loadText(t *testing.T, text string) (*Set, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "traffic.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(Options{Paths: []string{path}, AppID: "shop"})
}

const policyHead = "apiVersion: proa.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: orders}\n"

func TestATrafficPolicyIsRead(t *testing.T) {
	set, err := loadText(t, policyHead+`
scopes: [shop]
spec:
  targetRefs:
  - name: orders
  - {name: stock, namespace: prod}
  loadBalancer:
    type: RingHash
    hashKeys:
    - header: x-user
    - cookie: {name: sid, ttl: 1h, attributes: [Secure]}
    slowStart: {window: 30s}
    locality: {spillOverAt: 0}
    panicThreshold: 0
    subsets:
    - name: canary
      labels: {version: v2}
      header: {name: x-canary, value: "1"}
      fallback: NoEndpoint
  outlierDetection:
    consecutive5xxErrors: 0
    baseEjectionTime: 3s
    successRate: {}
  healthChecks:
  - http: {path: /healthz}
  - grpc: {}
    interval: 1s
  - tcp: {}
  connection:
    maxParallelRequests: 100
    perEndpoint: {maxParallelRequests: 10}
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.TrafficPolicies) != 1 {
		t.Fatalf("read %d policies, want 1", len(set.TrafficPolicies))
	}
	s := set.TrafficPolicies[0].Spec
	lb := s.LoadBalancer
	switch {
	case lb.Type != "RingHash" || lb.HashKeys[1].Cookie.TTL.Std() != time.Hour || *lb.PanicThreshold != 0 || *lb.Locality.SpillOverAt != 0 || lb.Locality.Prefer != "Zone":
		t.Errorf("loadBalancer: %+v", lb)
	case lb.Subsets[0].Header.Name != "x-canary" || lb.Subsets[0].Labels["version"] != "v2":
		t.Errorf("subsets: %+v", lb.Subsets)
	case *s.OutlierDetection.Consecutive5xxErrors != 0 || s.OutlierDetection.SuccessRate.RequestVolume != 100:
		t.Errorf("outlierDetection: %+v", s.OutlierDetection)
	case s.HealthChecks[0].HTTP.ExpectedStatuses != "200-299" || s.HealthChecks[0].UnhealthyThreshold != 3 || s.HealthChecks[2].TCP == nil:
		t.Errorf("healthChecks: %+v", s.HealthChecks)
	case s.Connection.PerEndpoint.MaxParallelRequests != 10 || s.TargetRefs[1].Namespace != "prod":
		t.Errorf("spec: %+v", s)
	}
}

func TestWhatIsWrongInATrafficPolicyIsSaid(t *testing.T) {
	for _, test := range []struct{ name, spec, want string }{
		{"no target", "{}", "spec.targetRefs: is required"},
		{"unknown algorithm", "{targetRefs: [{name: a}], loadBalancer: {type: RoundRobbin}}", `did you mean "RoundRobin"?`},
		{"unknown field", "{targetRefs: [{name: a}], loadBalancer: {slowstart: {}}}", `did you mean "slowStart"?`},
		{"hash without keys", "{targetRefs: [{name: a}], loadBalancer: {type: Maglev}}", "spec.loadBalancer.hashKeys: are required for Maglev"},
		{"keys without hash", "{targetRefs: [{name: a}], loadBalancer: {hashKeys: [{path: true}]}}", "PeakEWMA does not go by keys"},
		{"two keys in one", "{targetRefs: [{name: a}], loadBalancer: {type: Maglev, hashKeys: [{path: true, sourceIP: true}]}}", "hashKeys[0]: wants one of header"},
		{"no prime", "{targetRefs: [{name: a}], loadBalancer: {type: Maglev, hashKeys: [{path: true}], tableSize: 1000}}", "wants a prime"},
		{"panic", "{targetRefs: [{name: a}], loadBalancer: {panicThreshold: 120}}", "spec.loadBalancer.panicThreshold: wants a number from 0 to 100"},
		{"two kinds of check", "{targetRefs: [{name: a}], healthChecks: [{tcp: {}, grpc: {}}]}", "spec.healthChecks[0]: wants one of tcp, http and grpc; it has 2"},
		{"statuses", "{targetRefs: [{name: a}], healthChecks: [{http: {path: /x, expectedStatuses: ok}}]}", "expectedStatuses: wants codes and ranges"},
		{"a path without a slash", "{targetRefs: [{name: a}], healthChecks: [{http: {path: x}}]}", `wants a path such as "/healthz"`},
		{"no window", "{targetRefs: [{name: a}], loadBalancer: {slowStart: {}}}", "slowStart.window"},
		{"twice", "{targetRefs: [{name: a}, {name: a}]}", `"a" has a policy already, at`},
		{"a subset without labels", "{targetRefs: [{name: a}], loadBalancer: {subsets: [{name: x}]}}", "subsets[0].labels: is required"},
	} {
		_, err := loadText(t, policyHead+"spec: "+test.spec+"\n")
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "traffic.yaml:") {
			t.Errorf("%s: %v, want it to say %q and where", test.name, err, test.want)
		}
	}
}
