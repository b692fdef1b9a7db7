package runtime

import (
	"cmp"
	"strings"
	"time"

	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/dialect/dapr/grpcapi"
	"github.com/proa-io/proa/dialect/dapr/httpapi"
	"github.com/proa-io/proa/dialect/proa"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// buildAPIs makes the two forms of the Dapr API, and proa.v1 beside them.
func (rt *Runtime) buildAPIs() {
	token := dapr.NewToken(rt.cfg.APIToken.Reveal())
	conf := &rt.table.Load().set.Configuration
	rules := conf.Spec.API
	rt.proa = proa.New(proa.Options{
		Blocks: rt, MaxBody: rt.cfg.MaxBodySize, AllowsHTTP: apiRule(rules, "http"), AllowsGRPC: apiRule(rules, "grpc"),
	})
	h := httpapi.Options{
		AppID: rt.cfg.AppID, Blocks: rt, Invoker: rt.routing, Connector: rt.invoker, Tracing: rt.signals.tracing, Token: token,
		AllowedOrigins: rt.cfg.AllowedOrigins, MaxBody: rt.cfg.MaxBodySize,
		Allows: apiRule(rules, "http"), Beside: rt.proa, Pipeline: rt.wrapAPI,
	}
	g := grpcapi.Options{
		AppID: rt.cfg.AppID, Blocks: rt, Invoker: rt.routing, Tracing: rt.signals.tracing, Token: token,
		MaxMessage: int(rt.cfg.MaxBodySize), Allows: apiRule(rules, "grpc"), Beside: rt.proa.Register,
	}
	if rt.app != nil {
		h.ConfigurationApp = rt.app.channel
	}
	h.Observe, g.Observe = rt.observeCalls(conf)
	h.OnError = func(e *dapr.Error) { rt.metrics.ErrorCode(e.Tag, e.Category()) }
	g.OnError = h.OnError
	rt.http, rt.grpc = httpapi.New(h), grpcapi.New(g)
	rt.connect(rt.table.Load())
}

// setAPIRules takes what a Configuration says of the API into use.
func (rt *Runtime) setAPIRules(conf *resource.Configuration) {
	http, grpc := apiRule(conf.Spec.API, "http"), apiRule(conf.Spec.API, "grpc")
	observeHTTP, observeGRPC := rt.observeCalls(conf)
	rt.proa.SetRules(http, grpc)
	rt.http.SetRules(http, observeHTTP)
	rt.grpc.SetRules(grpc, observeGRPC)
}

// observeCalls returns what measures every API call, and logs it when that is
// asked for.
func (rt *Runtime) observeCalls(conf *resource.Configuration) (func(httpapi.Call), func(grpcapi.Call)) {
	logHTTP, logGRPC := rt.logCalls(conf)
	if logHTTP == nil && !rt.metrics.Enabled() && !rt.access.Enabled() {
		return nil, nil
	}
	return func(c httpapi.Call) {
			rt.metrics.HTTPServed(telemetry.HTTPRequest{
				Method: c.Method, Path: c.Path, Status: cmp.Or(c.Status, 500), Received: c.Received, Sent: c.Sent, Duration: c.Duration,
			})
			if logHTTP != nil {
				logHTTP(c)
			}
			if rt.access.Enabled() {
				rt.logHTTPAccess(&c)
			}
		}, func(c grpcapi.Call) {
			if !c.Stream {
				rt.metrics.GRPCServed(telemetry.GRPCCall{
					Method: c.Method, Code: int(c.Code), Received: c.Received, Sent: c.Sent, Duration: c.Duration,
				})
			}
			if logGRPC != nil {
				logGRPC(c)
			}
			if rt.access.Enabled() {
				rt.logGRPCAccess(&c)
			}
		}
}

// logCalls returns what logs every API call when the flag or, where that is not
// given, the Configuration asks for it; else nil.
func (rt *Runtime) logCalls(conf *resource.Configuration) (func(httpapi.Call), func(grpcapi.Call)) {
	on, omitHealth, hidePath := false, false, false
	if l := conf.Spec.Logging; l != nil && l.APILogging != nil {
		on = l.APILogging.Enabled != nil && *l.APILogging.Enabled
		omitHealth, hidePath = l.APILogging.OmitHealthChecks, l.APILogging.ObfuscateURLs
	}
	if rt.cfg.LogAPI != nil {
		on = *rt.cfg.LogAPI
	}
	if !on {
		return nil, nil
	}
	log := rt.apiLog()
	return func(c httpapi.Call) {
			if c.Health && omitHealth {
				return
			}
			method := c.Method + " " + c.Path
			if hidePath {
				if method = c.Route; c.Target != "" {
					method += "/" + c.Target
				}
			}
			log.Add(telemetry.APICall{
				Time: time.Now(), Protocol: "HTTP", Method: method, UserAgent: c.UserAgent, Code: c.Status, Size: c.Sent, Duration: c.Duration,
			})
		}, func(c grpcapi.Call) {
			log.Add(telemetry.APICall{
				Time: time.Now(), Protocol: "gRPC", Method: c.Method, UserAgent: c.UserAgent, Code: int(c.Code), Size: -1, Duration: c.Duration,
			})
		}
}

// apiLog returns the log of API calls, which is made when it is asked for first.
func (rt *Runtime) apiLog() *telemetry.APILog {
	if rt.apiCalls == nil {
		rt.apiCalls = telemetry.NewAPILog(rt.cfg.Log, rt.metrics)
		rt.late.start(rt.apiCalls.Run)
	}
	return rt.apiCalls
}

// apiRule says which groups of the API are served over a protocol: those that
// are allowed if any are, else those that are not denied. Nil serves all.
func apiRule(api *resource.API, protocol string) func(group, version string) bool {
	if api == nil || len(api.Allowed)+len(api.Denied) == 0 {
		return nil
	}
	matches := func(rules []resource.APIRule, group, version string) bool {
		for _, r := range rules {
			if (r.Protocol == "" || r.Protocol == protocol) && strings.EqualFold(r.Name, group) &&
				(r.Version == "" || apiVersion(r.Version) == apiVersion(version)) {
				return true
			}
		}
		return false
	}
	allows := false
	for _, r := range api.Allowed {
		allows = allows || r.Protocol == "" || r.Protocol == protocol
	}
	return func(group, version string) bool {
		if allows {
			return matches(api.Allowed, group, version)
		}
		return !matches(api.Denied, group, version)
	}
}

// apiVersion makes "v1.0-alpha1", as paths have it, and "v1alpha1" the same.
func apiVersion(text string) string {
	return strings.ReplaceAll(strings.Replace(strings.ToLower(text), "v1.0", "v1", 1), "-", "")
}
