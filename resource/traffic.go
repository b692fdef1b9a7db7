package resource

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/proa-io/proa/component"
)

// TrafficPolicy is a resource of proa.io: how requests to applications are spread
// over their instances, and which instances are left out.
type TrafficPolicy struct {
	header `yaml:",inline"`
	Spec   TrafficPolicySpec `yaml:"spec"`
}

// TrafficPolicySpec is the spec of a TrafficPolicy. What is not given is as
// without a policy.
type TrafficPolicySpec struct {
	// TargetRefs are the applications that the policy is for.
	TargetRefs       []TrafficTarget    `yaml:"targetRefs" rule:"minitems=1,maxitems=64"`
	LoadBalancer     LoadBalancer       `yaml:"loadBalancer"`
	OutlierDetection *OutlierDetection  `yaml:"outlierDetection"`
	HealthChecks     []HealthCheck      `yaml:"healthChecks" rule:"maxitems=8"`
	Connection       ConnectionLimits   `yaml:"connection"`
	Pos              component.Position `yaml:"-"`
}

// TrafficTarget names an application.
type TrafficTarget struct {
	// Name is its id; "*" stands for every application that no other policy
	// names.
	Name string `yaml:"name" rule:"required,max=253"`
	// Namespace is that of this sidecar when it is empty.
	Namespace string             `yaml:"namespace" rule:"max=253"`
	Pos       component.Position `yaml:"-"`
}

// LoadBalancer says which instance gets a request.
type LoadBalancer struct {
	// Type is the algorithm.
	Type string `yaml:"type" rule:"default=PeakEWMA,enum=PeakEWMA;RoundRobin;LeastRequest;Random;RingHash;Maglev"`
	// HashKeys are where RingHash and Maglev take a key from: the first of them
	// that a request has.
	HashKeys []HashKey `yaml:"hashKeys" rule:"maxitems=8"`
	// MinimumRingSize is how many points the ring of RingHash has at least; 1024
	// by default.
	MinimumRingSize int `yaml:"minimumRingSize" rule:"from=1,to=1048576"`
	// TableSize is the length of Maglev's table, a prime; 65537 by default.
	TableSize int `yaml:"tableSize" rule:"from=2,to=5000011"`
	// HashBalanceFactor is how many percent of the average of requests under way
	// an instance may have before RingHash and Maglev pass over it, at least
	// 100; 0, the default, is no bound.
	HashBalanceFactor int        `yaml:"hashBalanceFactor" rule:"from=100"`
	SlowStart         *SlowStart `yaml:"slowStart"`
	Locality          *Locality  `yaml:"locality"`
	// PanicThreshold is the percentage of instances that must be healthy; with
	// fewer, the others are used as well. 50 by default; 0 never uses them.
	PanicThreshold *int               `yaml:"panicThreshold" rule:"from=0,to=100"`
	Subsets        []TrafficSubset    `yaml:"subsets" rule:"maxitems=64"`
	Pos            component.Position `yaml:"-"`
}

// HashKey is where a key comes from. One of its fields is given.
type HashKey struct {
	Header         string             `yaml:"header" rule:"max=256,is=header"`
	Cookie         *HashCookie        `yaml:"cookie"`
	SourceIP       bool               `yaml:"sourceIP"`
	QueryParameter string             `yaml:"queryParameter" rule:"max=256"`
	Path           bool               `yaml:"path"`
	PathSegment    int                `yaml:"pathSegment" rule:"from=1,to=64"`
	Pos            component.Position `yaml:"-"`
}

// HashCookie is a cookie that is set when a client does not have it.
type HashCookie struct {
	Name string `yaml:"name" rule:"required,max=256,is=header"`
	// TTL is how long the client keeps it; as long as its session by default.
	TTL        component.Duration `yaml:"ttl"`
	Path       string             `yaml:"path" rule:"max=1024"`
	Attributes []string           `yaml:"attributes" rule:"maxitems=8,min=1,max=128"`
	Pos        component.Position `yaml:"-"`
}

// SlowStart has an instance that is new, or healthy again, begin with a part of
// its share.
type SlowStart struct {
	Window component.Duration `yaml:"window" rule:"required"`
	// Aggression is how its share grows: 1, the default, is a straight line, more
	// is quicker.
	Aggression float64 `yaml:"aggression"`
	// MinWeightPercent is the part that it begins with; 10 by default.
	MinWeightPercent *int               `yaml:"minWeightPercent" rule:"from=1,to=100"`
	Pos              component.Position `yaml:"-"`
}

// Locality says how much it counts that an instance is near.
type Locality struct {
	// Prefer is what instances have in common with this one that are used first.
	Prefer string `yaml:"prefer" rule:"default=Zone,enum=SubZone;Zone;Region;None"`
	// SpillOverAt is how many requests an instance may have under way before one
	// that is further away is used, if that is better off; 64 by default, 0 for
	// no bound.
	SpillOverAt *int               `yaml:"spillOverAt" rule:"from=0"`
	Pos         component.Position `yaml:"-"`
}

// TrafficSubset is a part of the instances.
type TrafficSubset struct {
	Name string `yaml:"name" rule:"required,max=253"`
	// Labels are those that an instance has.
	Labels map[string]string `yaml:"labels" rule:"minitems=1,maxitems=16"`
	// Header is what requests have that go there.
	Header *HeaderField `yaml:"header"`
	// Fallback is what happens when no instance has the labels: all are used, or
	// the request fails.
	Fallback string             `yaml:"fallback" rule:"default=AnyEndpoint,enum=AnyEndpoint;NoEndpoint"`
	Pos      component.Position `yaml:"-"`
}

// OutlierDetection leaves out instances whose answers are worse than they should
// be, for a while.
type OutlierDetection struct {
	// Consecutive5xxErrors, 5 by default, ConsecutiveGatewayErrors (502, 503,
	// 504), off by default, and ConsecutiveLocalOriginFailures (no answer), 5 by
	// default, in a row eject; 0 is never.
	Consecutive5xxErrors           *int `yaml:"consecutive5xxErrors" rule:"from=0"`
	ConsecutiveGatewayErrors       *int `yaml:"consecutiveGatewayErrors" rule:"from=0"`
	ConsecutiveLocalOriginFailures *int `yaml:"consecutiveLocalOriginFailures" rule:"from=0"`
	// SplitExternalLocalOriginErrors keeps failures without an answer out of the
	// other counts, where they are 503 otherwise.
	SplitExternalLocalOriginErrors bool `yaml:"splitExternalLocalOriginErrors"`
	// Interval is how often rates are looked at; 10s by default.
	Interval component.Duration `yaml:"interval"`
	// BaseEjectionTime is how long the first ejection lasts, 30s by default; those
	// after it twice, three times as long, up to MaxEjectionTime, 300s by
	// default.
	BaseEjectionTime component.Duration `yaml:"baseEjectionTime"`
	MaxEjectionTime  component.Duration `yaml:"maxEjectionTime"`
	// MaxEjectionPercent bounds how many are out at once; 10 by default, but one
	// always can be.
	MaxEjectionPercent *int `yaml:"maxEjectionPercent" rule:"from=0,to=100"`
	// SuccessRate ejects those that are worse than the others.
	SuccessRate *SuccessRateDetection `yaml:"successRate"`
	// FailurePercentage ejects those that fail too often.
	FailurePercentage *FailurePercentageDetection `yaml:"failurePercentage"`
	Pos               component.Position          `yaml:"-"`
}

// SuccessRateDetection compares instances with each other.
type SuccessRateDetection struct {
	// StdevFactor is by how many standard deviations the rate of success may be
	// below the average; 1.9 by default.
	StdevFactor float64 `yaml:"stdevFactor" rule:"from=0.001"`
	// MinimumHosts is how many instances must have had RequestVolume answers in
	// the interval; 5 and 100 by default.
	MinimumHosts  int                `yaml:"minimumHosts" rule:"default=5,from=1"`
	RequestVolume int                `yaml:"requestVolume" rule:"default=100,from=1"`
	Pos           component.Position `yaml:"-"`
}

// FailurePercentageDetection looks at each instance by itself.
type FailurePercentageDetection struct {
	// Threshold is the percentage of failures; 85 by default.
	Threshold int `yaml:"threshold" rule:"default=85,from=1,to=100"`
	// MinimumHosts and RequestVolume are as in SuccessRate; 5 and 50 by default.
	MinimumHosts  int                `yaml:"minimumHosts" rule:"default=5,from=1"`
	RequestVolume int                `yaml:"requestVolume" rule:"default=50,from=1"`
	Pos           component.Position `yaml:"-"`
}

// HealthCheck asks instances whether they are well. One of TCP, HTTP and GRPC is
// given.
type HealthCheck struct {
	TCP  *TCPCheck  `yaml:"tcp"`
	HTTP *HTTPCheck `yaml:"http"`
	GRPC *GRPCCheck `yaml:"grpc"`
	// Interval is how often, 5s by default; UnhealthyInterval while an instance
	// fails, the same by default. Each is a little longer or shorter by chance:
	// up to JitterPercent, 10 by default.
	Interval          component.Duration `yaml:"interval"`
	UnhealthyInterval component.Duration `yaml:"unhealthyInterval"`
	JitterPercent     *int               `yaml:"jitterPercent" rule:"from=0,to=100"`
	// Timeout is how long an answer may take; 1s by default.
	Timeout component.Duration `yaml:"timeout"`
	// UnhealthyThreshold is how many failures in a row it takes, 3 by default;
	// HealthyThreshold how many successes, 1 by default. The first check of an
	// instance decides by itself.
	UnhealthyThreshold int                `yaml:"unhealthyThreshold" rule:"default=3,from=1"`
	HealthyThreshold   int                `yaml:"healthyThreshold" rule:"default=1,from=1"`
	Pos                component.Position `yaml:"-"`
}

// TCPCheck opens a connection to the address of the instance.
type TCPCheck struct {
	Pos component.Position `yaml:"-"`
}

// HTTPCheck sends a request.
type HTTPCheck struct {
	Path   string `yaml:"path" rule:"required,max=1024"`
	Method string `yaml:"method" rule:"default=GET,enum=GET;HEAD;POST;OPTIONS"`
	// Hostname is what the field Host says; the id of the application by default.
	Hostname string `yaml:"hostname" rule:"max=253,is=precise"`
	// ExpectedStatuses is a list of codes and ranges; "200-299" by default.
	ExpectedStatuses string             `yaml:"expectedStatuses" rule:"default=200-299,max=256"`
	Pos              component.Position `yaml:"-"`
}

// GRPCCheck calls grpc.health.v1.Health/Check.
type GRPCCheck struct {
	// Service is asked for; "" for the whole server.
	Service string             `yaml:"service" rule:"max=1024"`
	Pos     component.Position `yaml:"-"`
}

// ConnectionLimits bound what is under way to an application; 0 is no bound.
type ConnectionLimits struct {
	MaxParallelRequests int                `yaml:"maxParallelRequests" rule:"from=1"`
	MaxParallelRetries  int                `yaml:"maxParallelRetries" rule:"from=1"`
	PerEndpoint         PerEndpointLimits  `yaml:"perEndpoint"`
	Pos                 component.Position `yaml:"-"`
}

// PerEndpointLimits bound what is under way to one instance.
type PerEndpointLimits struct {
	MaxParallelRequests int                `yaml:"maxParallelRequests" rule:"from=1"`
	Pos                 component.Position `yaml:"-"`
}

// Name returns the resource's name.
func (t *TrafficPolicy) Name() string { return t.Metadata.Name }

// Position returns where the resource stands.
func (t *TrafficPolicy) Position() component.Position { return t.Pos }

func (t *TrafficPolicy) check(p *problems) {
	t.requireName(p)
	res := t.describe()
	rules := ruleChecker{p, res}
	rules.walk(reflect.ValueOf(&t.Spec).Elem(), "spec", t.Pos)
	t.checkBalancer(p, res)
	for i := range t.Spec.HealthChecks {
		h := &t.Spec.HealthChecks[i]
		at := fmt.Sprintf("spec.healthChecks[%d]", i)
		given := 0
		for _, g := range []bool{h.TCP != nil, h.HTTP != nil, h.GRPC != nil} {
			if g {
				given++
			}
		}
		if given != 1 {
			p.addf(h.Pos, res, at, "wants one of tcp, http and grpc; it has %d (`tcp: {}` opens a connection)", given)
		}
		if h.HTTP != nil {
			if !strings.HasPrefix(h.HTTP.Path, "/") {
				p.addf(h.HTTP.Pos, res, at+".http.path", `wants a path such as "/healthz", not %q`, h.HTTP.Path)
			}
			if _, bad := ParseCodes(h.HTTP.ExpectedStatuses, 100, 599); bad != "" {
				p.addf(h.HTTP.Pos, res, at+".http.expectedStatuses", "%s", bad)
			}
		}
		for name, d := range map[string]component.Duration{"interval": h.Interval, "timeout": h.Timeout, "unhealthyInterval": h.UnhealthyInterval} {
			notNegative(p, h.Pos, [2]string{res, at + "." + name}, d)
		}
	}
	if o := t.Spec.OutlierDetection; o != nil {
		for name, d := range map[string]component.Duration{"interval": o.Interval, "baseEjectionTime": o.BaseEjectionTime, "maxEjectionTime": o.MaxEjectionTime} {
			notNegative(p, o.Pos, [2]string{res, "spec.outlierDetection." + name}, d)
		}
	}
}

func notNegative(p *problems, pos component.Position, at [2]string, d component.Duration) {
	if d.Std() < 0 {
		p.addf(pos, at[0], at[1], "wants a time such as 10s, not %s", d.Std())
	}
}

func (t *TrafficPolicy) checkBalancer(p *problems, res string) {
	b := &t.Spec.LoadBalancer
	at := "spec.loadBalancer"
	hashed := b.Type == "RingHash" || b.Type == "Maglev"
	switch {
	case hashed && len(b.HashKeys) == 0:
		p.addf(b.Pos, res, at+".hashKeys", "are required for %s: what does it go by?", b.Type)
	case !hashed && len(b.HashKeys) > 0:
		p.addf(b.Pos, res, at+".hashKeys", "are for type RingHash or Maglev; %s does not go by keys", b.Type)
	}
	for i := range b.HashKeys {
		k := &b.HashKeys[i]
		given := 0
		for _, g := range []bool{k.Header != "", k.Cookie != nil, k.SourceIP, k.QueryParameter != "", k.Path, k.PathSegment > 0} {
			if g {
				given++
			}
		}
		if given != 1 {
			p.addf(k.Pos, res, fmt.Sprintf("%s.hashKeys[%d]", at, i),
				"wants one of header, cookie, sourceIP, queryParameter, path and pathSegment; it has %d", given)
		}
	}
	if b.TableSize > 0 && !isPrime(b.TableSize) {
		p.addf(b.Pos, res, at+".tableSize", "wants a prime, such as 65537, not %d", b.TableSize)
	}
	if s := b.SlowStart; s != nil {
		if s.Window.Std() <= 0 {
			p.addf(s.Pos, res, at+".slowStart.window", "wants a time such as 30s, not %s", s.Window.Std())
		}
		if s.Aggression < 0 {
			p.addf(s.Pos, res, at+".slowStart.aggression", "wants a number above 0, not %v", s.Aggression)
		}
	}
	names := []string{}
	for i := range b.Subsets {
		s := &b.Subsets[i]
		if slices.Contains(names, s.Name) {
			p.addf(s.Pos, res, fmt.Sprintf("%s.subsets[%d].name", at, i), "%q is taken by another subset", s.Name)
		}
		names = append(names, s.Name)
	}
}

func isPrime(n int) bool {
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return n > 1
}

// checkTraffic reports applications that two policies name.
func checkTraffic(list []TrafficPolicy, p *problems) {
	first := map[[2]string]component.Position{}
	for i := range list {
		t := &list[i]
		for j, r := range t.Spec.TargetRefs {
			key := [2]string{r.Namespace, r.Name}
			if was, dup := first[key]; dup {
				p.addf(r.Pos, t.describe(), fmt.Sprintf("spec.targetRefs[%d]", j), "%q has a policy already, at %s", r.Name, was)
				continue
			}
			first[key] = r.Pos
		}
	}
}
