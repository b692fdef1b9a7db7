package httpapi

import (
	"net/url"
	"path"
	"strings"

	"github.com/proa-io/proa/mesh/proxy"
)

// routeID names a part of the API.
type routeID uint8

// The routes. Everything that matches none of the others is an invocation.
const (
	routeInvoke routeID = iota
	routeGetState
	routeSaveState
	routeDeleteState
	routeBulkGetState
	routeTransaction
	routeQueryState
	routePublish
	routeBulkPublish
	routeBulkPublishAlpha1
	routeBinding
	routeGetSecret
	routeBulkGetSecret
	routeGetConfiguration
	routeGetConfigurationAlpha1
	routeSubscribeConfiguration
	routeSubscribeConfigurationAlpha1
	routeUnsubscribeConfiguration
	routeUnsubscribeConfigurationAlpha1
	routeTryLock
	routeUnlock
	routeGetMetadata
	routePutMetadata
	routeHealthz
	routeOutboundHealthz
	routeShutdown
	routeActors
	routeWorkflows
	routeWorkflowsAlpha1
	routeWorkflowsBeta1
	routeJobs
	routeJobsAlpha1
	routeCrypto
	routeSubtleCrypto
	routeConversation
	routeConversationAlpha2
	numRoutes
	// routeBeside is none of this API: another one on the same port has it.
	routeBeside
)

// routeInfo is what is known of a route beforehand.
type routeInfo struct {
	name           string
	group, version string // in the words of spec.api of the Configuration
	health         bool
	public         bool // served on the public port
}

func (r routeID) info() routeInfo {
	switch r {
	case routeGetState:
		return routeInfo{name: "GetState", group: "state", version: "v1"}
	case routeSaveState:
		return routeInfo{name: "SaveState", group: "state", version: "v1"}
	case routeDeleteState:
		return routeInfo{name: "DeleteState", group: "state", version: "v1"}
	case routeBulkGetState:
		return routeInfo{name: "GetBulkState", group: "state", version: "v1"}
	case routeTransaction:
		return routeInfo{name: "ExecuteStateTransaction", group: "state", version: "v1"}
	case routeQueryState:
		return routeInfo{name: "QueryStateAlpha1", group: "state", version: "v1alpha1"}
	case routePublish:
		return routeInfo{name: "PublishEvent", group: "publish", version: "v1"}
	case routeBulkPublish:
		return routeInfo{name: "BulkPublishEvent", group: "publish", version: "v1"}
	case routeBulkPublishAlpha1:
		return routeInfo{name: "BulkPublishEvent", group: "publish", version: "v1alpha1"}
	case routeBinding:
		return routeInfo{name: "InvokeBinding", group: "bindings", version: "v1"}
	case routeGetSecret:
		return routeInfo{name: "GetSecret", group: "secrets", version: "v1"}
	case routeBulkGetSecret:
		return routeInfo{name: "GetBulkSecret", group: "secrets", version: "v1"}
	}
	return r.moreInfo()
}

// moreInfo is the second half of info.
func (r routeID) moreInfo() routeInfo {
	switch r {
	case routeGetConfiguration:
		return routeInfo{name: "GetConfiguration", group: "configuration", version: "v1"}
	case routeGetConfigurationAlpha1:
		return routeInfo{name: "GetConfiguration", group: "configuration", version: "v1alpha1"}
	case routeSubscribeConfiguration:
		return routeInfo{name: "SubscribeConfiguration", group: "configuration", version: "v1"}
	case routeSubscribeConfigurationAlpha1:
		return routeInfo{name: "SubscribeConfiguration", group: "configuration", version: "v1alpha1"}
	case routeUnsubscribeConfiguration:
		return routeInfo{name: "UnsubscribeConfiguration", group: "configuration", version: "v1"}
	case routeUnsubscribeConfigurationAlpha1:
		return routeInfo{name: "UnsubscribeConfiguration", group: "configuration", version: "v1alpha1"}
	case routeTryLock:
		return routeInfo{name: "TryLock", group: "lock", version: "v1alpha1"}
	case routeUnlock:
		return routeInfo{name: "Unlock", group: "unlock", version: "v1alpha1"}
	case routeGetMetadata:
		return routeInfo{name: "GetMetadata", group: "metadata", version: "v1", public: true}
	case routePutMetadata:
		return routeInfo{name: "PutMetadata", group: "metadata", version: "v1"}
	case routeHealthz:
		return routeInfo{name: "Healthz", group: "healthz", version: "v1", health: true, public: true}
	case routeOutboundHealthz:
		return routeInfo{name: "HealthzOutbound", group: "healthz", version: "v1", health: true, public: true}
	case routeShutdown:
		return routeInfo{name: "Shutdown", group: "shutdown", version: "v1"}
	case routeActors:
		return routeInfo{name: "Actors", group: "actors", version: "v1"}
	case routeWorkflows:
		return routeInfo{name: "Workflows", group: "workflows", version: "v1"}
	case routeWorkflowsAlpha1:
		return routeInfo{name: "Workflows", group: "workflows", version: "v1alpha1"}
	case routeWorkflowsBeta1:
		return routeInfo{name: "Workflows", group: "workflows", version: "v1beta1"}
	case routeJobs:
		return routeInfo{name: "Jobs", group: "jobs", version: "v1"}
	case routeJobsAlpha1:
		return routeInfo{name: "Jobs", group: "jobs", version: "v1alpha1"}
	case routeCrypto:
		return routeInfo{name: "Crypto", group: "crypto", version: "v1alpha1"}
	case routeSubtleCrypto:
		return routeInfo{name: "SubtleCrypto", group: "subtlecrypto", version: "v1alpha1"}
	case routeConversation:
		return routeInfo{name: "Conversation", group: "conversation", version: "v1alpha1"}
	case routeConversationAlpha2:
		return routeInfo{name: "Conversation", group: "conversation", version: "v1alpha2"}
	case routeBeside:
		return routeInfo{name: "Beside"}
	}
	return routeInfo{name: "InvokeService", group: "invoke", version: "v1"}
}

// params are the variable parts of a path, still escaped.
type params [2]string

// find returns the route of a request and its path, cleaned.
func (a *API) find(r *proxy.Request, now *rules, p *params) (routeID, string) {
	cleaned := cleanPath(r.Path())
	version, rest := segment(cleaned)
	method := r.Method
	if method == "HEAD" {
		method = "GET" // whose answer it wants, less the body
	}
	var route routeID
	switch version {
	case "v1.0":
		route = matchV1(method, rest, p)
	case "v1.0-alpha1":
		route = matchAlpha1(method, rest, p)
	case "v1.0-alpha2":
		if group, rest := segment(rest); group == "conversation" && method == "POST" && endsIn(rest, "converse") {
			p[0], _ = segment(rest)
			route = routeConversationAlpha2
		}
	case "v1.0-beta1":
		if group, rest := segment(rest); group == "workflows" && isWorkflow(method, rest) {
			route = routeWorkflowsBeta1
		}
	}
	if !now.served[route] {
		route = routeInvoke
	}
	if b := a.opts.Beside; b != nil && route == routeInvoke && b.Serves(cleaned) {
		route = routeBeside
	}
	return route, cleaned
}

// segment splits "/first/rest" into "first" and "/rest".
func segment(p string) (first, rest string) {
	if p == "" || p[0] != '/' {
		return "", ""
	}
	if i := strings.IndexByte(p[1:], '/'); i >= 0 {
		return p[1 : 1+i], p[1+i:]
	}
	return p[1:], ""
}

// endsIn reports whether p is "/some/last".
func endsIn(p, last string) bool {
	name, rest := segment(p)
	return name != "" && rest == "/"+last
}

// isWrite reports whether a method stores: PUT and POST are the same to most
// of the API.
func isWrite(method string) bool { return method == "POST" || method == "PUT" }

func matchV1(method, p string, out *params) routeID {
	group, rest := segment(p)
	switch group {
	case "state":
		return matchState(method, rest, out)
	case "publish":
		return matchPublish(method, rest, out)
	case "bindings":
		if name, more := segment(rest); isWrite(method) && name != "" && more == "" {
			out[0] = name
			return routeBinding
		}
	case "secrets":
		return matchSecrets(method, rest, out)
	case "configuration":
		return matchConfiguration(method, rest, out, routeGetConfiguration, routeSubscribeConfiguration, routeUnsubscribeConfiguration)
	case "metadata":
		if rest == "" && method == "GET" {
			return routeGetMetadata
		}
		if key, more := segment(rest); method == "PUT" && key != "" && more == "" {
			out[0] = key
			return routePutMetadata
		}
	case "healthz":
		switch {
		case method == "GET" && rest == "":
			return routeHealthz
		case method == "GET" && rest == "/outbound":
			return routeOutboundHealthz
		}
	case "shutdown":
		if method == "POST" && rest == "" {
			return routeShutdown
		}
	case "actors":
		if isActor(method, rest) {
			return routeActors
		}
	case "workflows":
		if isWorkflow(method, rest) {
			return routeWorkflows
		}
	case "jobs":
		if isJob(method, rest, out) {
			return routeJobs
		}
	}
	return routeInvoke
}

func matchAlpha1(method, p string, out *params) routeID {
	group, rest := segment(p)
	name, more := segment(rest)
	if name == "" {
		return routeInvoke
	}
	switch group {
	case "state":
		if isWrite(method) && more == "/query" {
			out[0] = name
			return routeQueryState
		}
	case "publish":
		if broker, topic := segment(more); isWrite(method) && name == "bulk" && broker != "" {
			out[0], out[1] = broker, strings.TrimPrefix(topic, "/")
			return routeBulkPublishAlpha1
		}
	case "configuration":
		return matchConfiguration(method, rest, out,
			routeGetConfigurationAlpha1, routeSubscribeConfigurationAlpha1, routeUnsubscribeConfigurationAlpha1)
	case "lock", "unlock":
		if method == "POST" && more == "" {
			out[0] = name
			if group == "lock" {
				return routeTryLock
			}
			return routeUnlock
		}
	case "workflows":
		if isWorkflow(method, rest) {
			return routeWorkflowsAlpha1
		}
	case "jobs":
		if isJob(method, rest, out) {
			return routeJobsAlpha1
		}
	case "crypto":
		if method == "PUT" && (more == "/encrypt" || more == "/decrypt") {
			out[0], out[1] = name, more[1:]
			return routeCrypto
		}
	case "subtlecrypto":
		if method == "POST" && isSubtle(more) {
			out[0], out[1] = name, more[1:]
			return routeSubtleCrypto
		}
	case "conversation":
		if method == "POST" && more == "/converse" {
			out[0] = name
			return routeConversation
		}
	}
	return routeInvoke
}

func matchState(method, p string, out *params) routeID {
	store, rest := segment(p)
	key, more := segment(rest)
	if store == "" || more != "" {
		return routeInvoke
	}
	out[0], out[1] = store, key
	switch {
	case rest == "":
		if isWrite(method) {
			return routeSaveState
		}
	case isWrite(method) && key == "bulk":
		return routeBulkGetState
	case isWrite(method) && key == "transaction":
		return routeTransaction
	case method == "GET":
		return routeGetState
	case method == "DELETE":
		return routeDeleteState
	}
	return routeInvoke
}

// matchPublish matches also what has no topic: it is refused later.
func matchPublish(method, p string, out *params) routeID {
	if !isWrite(method) {
		return routeInvoke
	}
	name, rest := segment(p)
	if name == "bulk" {
		if broker, topic := segment(rest); broker != "" && topic != "" {
			out[0], out[1] = broker, topic[1:]
			return routeBulkPublish
		}
	}
	out[0], out[1] = name, strings.TrimPrefix(rest, "/")
	return routePublish
}

func matchSecrets(method, p string, out *params) routeID {
	store, rest := segment(p)
	name, more := segment(rest)
	if method != "GET" || name == "" || more != "" {
		return routeInvoke
	}
	out[0], out[1] = store, name
	if name == "bulk" {
		return routeBulkGetSecret
	}
	return routeGetSecret
}

func matchConfiguration(method, p string, out *params, get, subscribe, unsubscribe routeID) routeID {
	store, rest := segment(p)
	if method != "GET" || store == "" {
		return routeInvoke
	}
	id, more := segment(rest)
	out[0], out[1] = store, id
	switch {
	case rest == "":
		return get
	case rest == "/subscribe":
		return subscribe
	case more == "/unsubscribe" && id != "":
		return unsubscribe
	}
	return routeInvoke
}

// isActor reports whether a request is one to the actors API, which is served
// by no block yet.
func isActor(method, p string) bool {
	typ, rest := segment(p)
	id, rest := segment(rest)
	kind, rest := segment(rest)
	name, more := segment(rest)
	if typ == "" || id == "" || more != "" {
		return false
	}
	switch kind {
	case "state":
		return rest == "" && isWrite(method) || name != "" && method == "GET"
	case "method":
		return name != "" && (isWrite(method) || method == "GET" || method == "DELETE")
	case "reminders":
		return name != "" && (isWrite(method) || method == "GET" || method == "DELETE")
	case "timers":
		return name != "" && (isWrite(method) || method == "DELETE")
	}
	return false
}

// isWorkflow reports whether a request is one to the workflows API, which is
// served by no block yet.
func isWorkflow(method, p string) bool {
	engine, rest := segment(p)
	id, rest := segment(rest)
	verb, rest := segment(rest)
	if engine == "" || id == "" {
		return false
	}
	if verb == "" {
		return method == "GET" && rest == ""
	}
	if verb == "raiseEvent" {
		event, more := segment(rest)
		return method == "POST" && event != "" && more == ""
	}
	switch verb {
	case "start", "pause", "resume", "terminate", "purge":
		return method == "POST" && rest == ""
	}
	return false
}

// isJob reports whether a request is one to the jobs API.
func isJob(method, p string, out *params) bool {
	name, more := segment(p)
	out[0] = name
	return name != "" && more == "" && (method == "POST" || method == "GET" || method == "DELETE")
}

func isSubtle(p string) bool {
	switch p {
	case "/getkey", "/encrypt", "/decrypt", "/wrapkey", "/unwrapkey", "/sign", "/verify":
		return true
	}
	return false
}

// cleanPath resolves empty and dot segments of a path, still escaped, and
// takes off the slash at its end. A path that needs none of this is returned
// as it is.
func cleanPath(p string) string {
	if p == "" || p[0] != '/' {
		return p // "*", or the authority of a CONNECT
	}
	if len(p) > 1 && (p[len(p)-1] == '/' || strings.Contains(p, "//") || strings.Contains(p, "/.")) {
		return path.Clean(p)
	}
	return p
}

// unescape decodes a part of a path or query, in which "+" stands for a space.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s, nil
	}
	return url.QueryUnescape(s)
}
