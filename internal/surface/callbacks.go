package surface

import "strings"

// A Callback is a request that a sidecar sends to an application that speaks
// HTTP.
type Callback struct {
	// Section is the building block: "pubsub".
	Section string
	// Name is the method and the path, and in words what is meant where those
	// do not tell: "POST {route}: event".
	Name string
}

// Names of callbacks whose paths the application chooses.
const (
	CallInvocation   = "ANY {path}: invocation"
	CallEvent        = "POST {route}: event"
	CallBulkEvent    = "POST {route}: bulk event"
	CallBindingProbe = "OPTIONS {binding or route}"
	CallBinding      = "POST {binding or route}: binding event"
	CallHealth       = "GET {health check path}"
)

// Callbacks returns every documented callback over HTTP.
func Callbacks() []Callback {
	return []Callback{
		{"invocation", CallInvocation},
		{"pubsub", "GET /dapr/subscribe"},
		{"pubsub", CallEvent},
		{"pubsub", CallBulkEvent},
		{"bindings", CallBindingProbe},
		{"bindings", CallBinding},
		{"configuration", "POST /configuration/{store}/{key}"},
		{"jobs", "POST /job/{name}"},
		{"health", CallHealth},
		{"actors", "GET /dapr/config"},
		{"actors", "PUT /actors/{type}/{id}/method/{method}"},
		{"actors", "PUT /actors/{type}/{id}/method/remind/{name}"},
		{"actors", "PUT /actors/{type}/{id}/method/timer/{name}"},
		{"actors", "DELETE /actors/{type}/{id}"},
	}
}

// FindCallback returns the name of the callback that a request to an application
// is. field returns a field of its header.
func FindCallback(method, target string, field func(name string) string) string {
	p, _, _ := strings.Cut(target, "?")
	switch {
	case field("dapr-caller-app-id") != "" || field("dapr-callee-app-id") != "":
		return CallInvocation
	case field("pubsubname") != "" && strings.HasPrefix(field("content-type"), "application/cloudevents+json"):
		return CallEvent
	case field("pubsubname") != "":
		return CallBulkEvent
	case method == "OPTIONS":
		return CallBindingProbe
	}
	for _, c := range Callbacks() {
		m, pattern, _ := strings.Cut(c.Name, " ")
		if strings.HasPrefix(pattern, "/") && m == method && matches(pattern, p) {
			return c.Name
		}
	}
	switch method {
	case "GET":
		return CallHealth
	case "POST":
		return CallBinding
	}
	return CallInvocation
}
