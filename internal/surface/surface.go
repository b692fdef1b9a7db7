// Package surface lists what the Dapr v1 API consists of over HTTP, in the words
// of its documentation: the routes of the sidecar, and the requests that a
// sidecar sends to its application. What it consists of over gRPC is in the
// descriptors of the protos (api/gen).
//
// The list serves tests and the reference, which say by it what is tested by
// what. It decides nothing: dialect/dapr has its own routing.
package surface

import (
	"path"
	"strings"
)

// A Route is a part of the HTTP API.
type Route struct {
	// Section is the building block: "state".
	Section string
	// Methods are those that the route is documented for; none for any.
	Methods []string
	// Path has a variable segment as {name}, and any number of them, none
	// included, as {name...} at its end.
	Path string
}

// Names returns the route once for each method, "GET /v1.0/metadata", or with
// "ANY" for any.
func (r Route) Names() []string {
	if len(r.Methods) == 0 {
		return []string{"ANY " + r.Path}
	}
	names := make([]string, len(r.Methods))
	for i, m := range r.Methods {
		names[i] = m + " " + r.Path
	}
	return names
}

// Unprefixed is the route of invocations that name their target in a header, or
// in the user name of basic authentication: any path at all.
const Unprefixed = "/{path...}"

// methods of routes.
func get() []string    { return []string{"GET"} }
func post() []string   { return []string{"POST"} }
func put() []string    { return []string{"PUT"} }
func writes() []string { return []string{"POST", "PUT"} }

// Routes returns every documented route, the more special one first where two
// match the same path.
func Routes() []Route {
	routes := []Route{
		{"state", writes(), "/v1.0/state/{store}/bulk"},
		{"state", writes(), "/v1.0/state/{store}/transaction"},
		{"state", writes(), "/v1.0/state/{store}"},
		{"state", []string{"GET", "DELETE"}, "/v1.0/state/{store}/{key}"},
		{"state", writes(), "/v1.0-alpha1/state/{store}/query"},
		{"pubsub", writes(), "/v1.0/publish/bulk/{pubsub}/{topic...}"},
		{"pubsub", writes(), "/v1.0-alpha1/publish/bulk/{pubsub}/{topic...}"},
		{"pubsub", writes(), "/v1.0/publish/{pubsub}/{topic...}"},
		{"bindings", writes(), "/v1.0/bindings/{name}"},
		{"secrets", get(), "/v1.0/secrets/{store}/bulk"},
		{"secrets", get(), "/v1.0/secrets/{store}/{key}"},
		{"lock", post(), "/v1.0-alpha1/lock/{store}"},
		{"lock", post(), "/v1.0-alpha1/unlock/{store}"},
		{"crypto", put(), "/v1.0-alpha1/crypto/{name}/encrypt"},
		{"crypto", put(), "/v1.0-alpha1/crypto/{name}/decrypt"},
		{"conversation", post(), "/v1.0-alpha1/conversation/{name}/converse"},
		{"conversation", post(), "/v1.0-alpha2/conversation/{name}/converse"},
		{"invocation", nil, "/v1.0/invoke/{appID}/method/{path...}"},
		{"metadata", get(), "/v1.0/metadata"},
		{"metadata", put(), "/v1.0/metadata/{key}"},
		{"health", get(), "/v1.0/healthz"},
		{"health", get(), "/v1.0/healthz/outbound"},
		{"shutdown", post(), "/v1.0/shutdown"},
	}
	for _, v := range []string{"/v1.0", "/v1.0-alpha1"} {
		routes = append(routes,
			Route{"configuration", get(), v + "/configuration/{store}"},
			Route{"configuration", get(), v + "/configuration/{store}/subscribe"},
			Route{"configuration", get(), v + "/configuration/{store}/{id}/unsubscribe"},
			Route{"jobs", []string{"POST", "GET", "DELETE"}, v + "/jobs/{name}"})
	}
	for _, op := range []string{"getkey", "encrypt", "decrypt", "wrapkey", "unwrapkey", "sign", "verify"} {
		routes = append(routes, Route{"crypto", post(), "/v1.0-alpha1/subtlecrypto/{name}/" + op})
	}
	return append(append(routes, later()...), Route{"invocation", nil, Unprefixed})
}

// later lists the routes of actors and workflows.
func later() []Route {
	const actor = "/v1.0/actors/{type}/{id}"
	routes := []Route{
		{"actors", writes(), actor + "/state"},
		{"actors", get(), actor + "/state/{key}"},
		{"actors", []string{"GET", "POST", "PUT", "DELETE"}, actor + "/method/{method}"},
		{"actors", []string{"POST", "PUT", "GET", "DELETE"}, actor + "/reminders/{name}"},
		{"actors", []string{"POST", "PUT", "DELETE"}, actor + "/timers/{name}"},
	}
	for _, v := range []string{"/v1.0", "/v1.0-beta1", "/v1.0-alpha1"} {
		engine := v + "/workflows/{component}/{id}"
		routes = append(routes, Route{"workflows", get(), engine},
			Route{"workflows", post(), v + "/workflows/{component}/{name}/start"},
			Route{"workflows", post(), engine + "/raiseEvent/{event}"})
		for _, verb := range []string{"pause", "resume", "terminate", "purge"} {
			routes = append(routes, Route{"workflows", post(), engine + "/" + verb})
		}
	}
	return routes
}

// Find returns the name of the route that a request is for, as Route.Names has
// it. target may have a query. A request that no other route is for is one for
// Unprefixed.
func Find(method, target string) string {
	p, _, _ := strings.Cut(target, "?")
	p = path.Clean(p)
	for _, r := range Routes() {
		if !matches(r.Path, p) {
			continue
		}
		if len(r.Methods) == 0 {
			return "ANY " + r.Path
		}
		for _, m := range r.Methods {
			if m == method {
				return m + " " + r.Path
			}
		}
	}
	return "ANY " + Unprefixed
}

// matches reports whether a path is one of a pattern.
func matches(pattern, p string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(p, "/")
	for i, w := range want {
		switch {
		case strings.HasSuffix(w, "...}"):
			return true
		case i >= len(got), w != got[i] && (w == "" || w[0] != '{' || got[i] == ""):
			return false
		}
	}
	return len(want) == len(got)
}

// ForeignRPC stands for the methods of services of applications, which are
// passed on.
const ForeignRPC = "{service}/{method}"

// FindRPC returns the name of a method, "package.Service/Method", by the path of
// a request over gRPC.
func FindRPC(target string) string {
	name := strings.TrimPrefix(target, "/")
	for _, prefix := range []string{"dapr.proto.runtime.v1.", "TaskHubSidecarService/", "proa.v1.", "grpc.health.v1.", "grpc.reflection."} {
		if strings.HasPrefix(name, prefix) {
			return name
		}
	}
	return ForeignRPC
}

// WorkerService is the service that workers of workflows connect to. No proto of
// this repository describes it.
const WorkerService = "TaskHubSidecarService"

// WorkerMethods returns the methods of WorkerService.
func WorkerMethods() []string {
	return []string{
		"Hello", "StartInstance", "GetInstance", "WaitForInstanceStart", "WaitForInstanceCompletion", "RaiseEvent",
		"TerminateInstance", "SuspendInstance", "ResumeInstance", "PurgeInstances", "GetWorkItems", "CompleteActivityTask",
		"CompleteOrchestratorTask", "CompleteWorkflowTask", "RerunWorkflowFromEvent", "ListInstanceIDs", "GetInstanceHistory",
	}
}
