package runtime

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/proa-io/proa/mesh/balance"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/resource"
)

// newBalance returns the table of the applications that are called.
func (rt *Runtime) newBalance(set *resource.Set) *balance.Table {
	p := &probes{rt}
	t := balance.NewTable(balance.TableOptions{Locality: rt.cfg.Locality, Probe: p.probe, Notify: rt.endpointChanged})
	t.Configure(trafficPolicies(set, rt.cfg.Namespace))
	return t
}

// endpointChanged tells what happened to an endpoint.
func (rt *Runtime) endpointChanged(e balance.Event) {
	rt.metrics.EndpointChanged(e.Target, string(e.Kind))
	log, address := rt.cfg.Log, e.Endpoint.Address
	switch e.Kind {
	case balance.Ejected:
		log.Warn("an endpoint is not used for a while", "target", e.Target, "address", address, "for", e.For, "reason", e.Reason)
	case balance.CheckFailed:
		log.Warn("an endpoint is not used until it is well", "target", e.Target, "address", address, "reason", e.Reason)
	default:
		log.Info("an endpoint is used again", "target", e.Target, "address", address, "reason", e.Reason)
	}
}

// trafficPolicies turns resources into policies.
func trafficPolicies(set *resource.Set, namespace string) *balance.Policies {
	out := &balance.Policies{Of: map[discovery.Service]*balance.Policy{}}
	for i := range set.TrafficPolicies {
		t := &set.TrafficPolicies[i]
		p := trafficPolicy(&t.Spec)
		for _, ref := range t.Spec.TargetRefs {
			if ref.Name == "*" {
				out.Default = p
				continue
			}
			out.Of[discovery.Service{Namespace: cmp.Or(ref.Namespace, namespace), AppID: ref.Name}] = p
		}
	}
	return out
}

// sameTraffic reports whether two sets have the same policies.
func sameTraffic(a, b *resource.Set) bool {
	return slices.EqualFunc(a.TrafficPolicies, b.TrafficPolicies, func(x, y resource.TrafficPolicy) bool {
		return x.Name() == y.Name() && x.Digest() == y.Digest()
	})
}

func trafficPolicy(spec *resource.TrafficPolicySpec) *balance.Policy {
	p := balance.DefaultPolicy()
	lb := &spec.LoadBalancer
	for i, name := range balance.Algorithms() {
		if name == lb.Type {
			p.Algorithm = balance.Algorithm(i)
		}
	}
	p.RingSize, p.TableSize = cmp.Or(lb.MinimumRingSize, p.RingSize), cmp.Or(lb.TableSize, p.TableSize)
	p.Bounded = float64(lb.HashBalanceFactor) / 100
	for i := range lb.HashKeys {
		p.HashKeys = append(p.HashKeys, hashKey(&lb.HashKeys[i]))
	}
	if s := lb.SlowStart; s != nil {
		p.SlowStart.Window = s.Window.Std()
		p.SlowStart.Aggression = cmp.Or(s.Aggression, p.SlowStart.Aggression)
		if s.MinWeightPercent != nil {
			p.SlowStart.Least = float64(*s.MinWeightPercent) / 100
		}
	}
	if l := lb.Locality; l != nil {
		p.Locality.Prefer = map[string]balance.Proximity{
			"None": balance.Anywhere, "Region": balance.Region, "Zone": balance.Zone, "SubZone": balance.SubZone,
		}[l.Prefer]
		set(&p.Locality.SpillAt, l.SpillOverAt)
	}
	set(&p.Panic, lb.PanicThreshold)
	for _, s := range lb.Subsets {
		sub := balance.SubsetPolicy{Name: s.Name, Labels: s.Labels}
		if s.Header != nil {
			sub.Header = balance.HeaderMatch{Name: s.Header.Name, Value: s.Header.Value}
		}
		if s.Fallback == "NoEndpoint" {
			sub.Fallback = balance.NoEndpoint
		}
		p.Subsets = append(p.Subsets, sub)
	}
	if o := spec.OutlierDetection; o != nil {
		p.Outliers = outliers(o)
	}
	for i := range spec.HealthChecks {
		p.Checks = append(p.Checks, healthCheck(&spec.HealthChecks[i]))
	}
	p.Limits = balance.Limits{
		Requests: spec.Connection.MaxParallelRequests, Retries: spec.Connection.MaxParallelRetries,
		PerEndpoint: spec.Connection.PerEndpoint.MaxParallelRequests,
	}
	return &p
}

// set takes over a value that is given.
func set(to *int, value *int) {
	if value != nil {
		*to = *value
	}
}

func hashKey(k *resource.HashKey) balance.HashKey {
	out := balance.HashKey{Header: k.Header, SourceIP: k.SourceIP, Query: k.QueryParameter, Path: k.Path, PathIndex: k.PathSegment}
	if c := k.Cookie; c != nil {
		out.Cookie = balance.Cookie{Name: c.Name, TTL: c.TTL.Std(), Path: c.Path, Attributes: c.Attributes}
	}
	return out
}

func outliers(o *resource.OutlierDetection) balance.Outliers {
	out := balance.Outliers{
		Consecutive5xx: 5, ConsecutiveLocalOrigin: 5, SplitLocalOrigin: o.SplitExternalLocalOriginErrors, MaxPercent: 10,
		Interval:     cmp.Or(o.Interval.Std(), 10*time.Second),
		BaseEjection: cmp.Or(o.BaseEjectionTime.Std(), 30*time.Second), MaxEjection: cmp.Or(o.MaxEjectionTime.Std(), 5*time.Minute),
	}
	set(&out.Consecutive5xx, o.Consecutive5xxErrors)
	set(&out.ConsecutiveGateway, o.ConsecutiveGatewayErrors)
	set(&out.ConsecutiveLocalOrigin, o.ConsecutiveLocalOriginFailures)
	set(&out.MaxPercent, o.MaxEjectionPercent)
	if s := o.SuccessRate; s != nil {
		out.SuccessRate = balance.SuccessRate{Factor: cmp.Or(s.StdevFactor, 1.9), MinHosts: s.MinimumHosts, Volume: s.RequestVolume}
	}
	if f := o.FailurePercentage; f != nil {
		out.FailurePercentage = balance.FailurePercentage{Threshold: f.Threshold, MinHosts: f.MinimumHosts, Volume: f.RequestVolume}
	}
	return out
}

func healthCheck(h *resource.HealthCheck) balance.Check {
	out := balance.Check{
		Interval: cmp.Or(h.Interval.Std(), 5*time.Second), Timeout: cmp.Or(h.Timeout.Std(), time.Second), Jitter: 0.1,
		FailAfter: h.UnhealthyThreshold, PassAfter: h.HealthyThreshold,
	}
	out.Unhealthy = cmp.Or(h.UnhealthyInterval.Std(), out.Interval)
	if h.JitterPercent != nil {
		out.Jitter = float64(*h.JitterPercent) / 100
	}
	switch {
	case h.HTTP != nil:
		out.Kind, out.Method, out.Path, out.Host = balance.CheckHTTP, h.HTTP.Method, h.HTTP.Path, h.HTTP.Hostname
		ranges, _ := resource.ParseCodes(h.HTTP.ExpectedStatuses, 100, 599) // which has been checked
		out.Wanted = h.HTTP.ExpectedStatuses
		out.Expected = func(status int) bool {
			for _, r := range ranges {
				if status >= r.From && status <= r.To {
					return true
				}
			}
			return false
		}
	case h.GRPC != nil:
		out.Kind, out.Service = balance.CheckGRPC, h.GRPC.Service
	}
	return out
}

// ParseLocality reads "region/zone/subzone", of which the last parts may be
// missing.
func ParseLocality(text string) discovery.Locality {
	region, rest, _ := strings.Cut(text, "/")
	zone, sub, _ := strings.Cut(rest, "/")
	return discovery.Locality{Region: region, Zone: zone, SubZone: sub}
}
