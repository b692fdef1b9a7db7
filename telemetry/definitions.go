package telemetry

import (
	"slices"
	"strings"
)

// metric names one family of series. The order is that of definitions.
type metric uint8

const (
	stateLatency metric = iota
	configurationLatency
	secretLatency
	conversationLatency
	cryptoLatency
	inputBindingLatency
	outputBindingLatency
	ingressLatency
	bulkIngressLatency
	bulkIngressEvents
	egressLatency
	bulkEgressLatency
	bulkEgressEvents
	jobLatency

	httpServerLatency
	httpServerReceived
	httpServerSent
	httpClientLatency
	httpClientSent
	httpClientReceived
	httpProbeLatency

	grpcServerLatency
	grpcServerReceived
	grpcServerSent
	grpcClientLatency
	grpcClientSent
	grpcClientReceived
	grpcProbeLatency

	componentLoaded
	componentInit
	componentInitFail

	invocationSent
	invocationReceived
	invocationAnswered
	invocationAnswers
	invocationLatency

	aclAppAllowed
	aclAppBlocked
	aclGlobalAllowed
	aclGlobalBlocked

	resiliencyLoaded
	resiliencyCount
	resiliencyActivations
	resiliencyBreaker

	errorCodes

	calls
	callSeconds
	componentReady
	reloads
	reloadOK
	identityExpiry
	identityRotations
	identityFailures
	accessLogDropped
	apiLogDropped

	routed
	tunnels
	tunnelSent
	tunnelReceived
	tunnelSeconds
	endpointEvents

	numMetrics
)

// kind says what a family consists of.
type kind uint8

const (
	counter kind = iota
	gauge
	latency // a histogram of milliseconds, with the buckets of the settings
	size    // a histogram of bytes
	seconds // a histogram of seconds
)

// definition describes a family.
type definition struct {
	name string
	help string
	kind kind
	// labels are those that differ from series to series.
	labels []string
	// open are the labels whose values callers or the application choose, so
	// that there is no end of them.
	open []string
	// counts are counters that go with a histogram: each counts what is
	// observed, of the series that it wants.
	counts []derived
	// scope says which labels all series have in common.
	scope sharing
}

// derived is a counter of what a histogram observes.
type derived struct {
	name, help string
	// where, if set, leaves out the label of that name and counts only series
	// with that value of it.
	where, equals string
	// detailed counters are there only with increased cardinality.
	detailed bool
}

// sharing says which labels all series of a family have in common.
type sharing uint8

const (
	ofApp       sharing = iota // app_id
	ofNamespace                // app_id and namespace
	ofNobody                   // none: app_id, too, differs
)

// component describes a family of a building block.
func component(part, what string, labels ...string) definition {
	d := definition{
		name: "dapr_component_" + part + "_latencies", help: "How long " + what + " took, in milliseconds.",
		kind: latency, scope: ofNamespace, labels: append([]string{"component"}, labels...),
		counts: []derived{{name: "dapr_component_" + part + "_count", help: "How often there was " + what + "."}},
	}
	if slices.Contains(labels, "topic") {
		d.open = []string{"topic"}
	}
	return d
}

// definitions are all families, in the order of their constants.
func definitions() [numMetrics]definition {
	var d [numMetrics]definition
	defineComponents(&d)
	defineHTTP(&d)
	defineGRPC(&d)
	defineRuntime(&d)
	defineResiliency(&d)
	defineTunnels(&d)
	d[errorCodes] = definition{
		name: "dapr_error_code_total", help: "Errors that callers of the API were told of; counted when recordErrorCodes is set.",
		labels: []string{"error_code", "category"}, open: []string{"error_code"},
	}
	call := []string{"block", "component", "op", "direction"}
	d[calls] = definition{
		name: "proa_calls_total", help: "Calls that crossed the waist, by the code they ended with.", scope: ofNamespace,
		labels: append(slices.Clip(call), "code"), open: []string{"component"},
	}
	d[callSeconds] = definition{
		name: "proa_call_seconds", help: "How long calls took, retries included, of those that no metric of Dapr times.", scope: ofNamespace,
		kind: seconds, labels: call, open: []string{"component"},
	}
	d[componentReady] = definition{
		name: "proa_component_ready", help: "1 when the component is open.", scope: ofNamespace,
		kind: gauge, labels: []string{"component", "type"},
	}
	d[reloads] = definition{
		name: "proa_reloads_total", help: "Changes of the resources, by what came of them: applied or refused.", scope: ofNamespace,
		labels: []string{"result"},
	}
	d[reloadOK] = definition{
		name: "proa_reload_ok", help: "0 when the resources as they are now were refused, so that former ones serve.", scope: ofNamespace,
		kind: gauge,
	}
	d[identityExpiry] = definition{
		name: "proa_identity_certificate_expiry_timestamp_seconds", scope: ofNamespace, kind: gauge, labels: []string{"certificate"},
		help: "When this sidecar's certificate for mutual TLS (leaf), or the last of the authorities it trusts (root), ends, in Unix time.",
	}
	d[identityRotations] = definition{
		name: "proa_identity_rotations_total", scope: ofNamespace, labels: []string{"certificate"},
		help: "Changes of the certificate for mutual TLS (leaf), and of the authorities that are trusted (root).",
	}
	d[identityFailures] = definition{
		name: "proa_identity_rotation_failures_total", help: "Failures to renew the certificate for mutual TLS or its authorities.", scope: ofNamespace,
	}
	d[accessLogDropped] = definition{
		name: "proa_access_log_dropped_total", help: "Lines of the access log that were dropped, since it was not written as fast as requests came.",
		scope: ofNamespace,
	}
	d[apiLogDropped] = definition{
		name: "proa_api_log_dropped_total", help: "Calls of the API that the log does not tell of, since it was not written as fast as they came.",
		scope: ofNamespace,
	}
	return d
}

func defineTunnels(d *[numMetrics]definition) {
	d[routed] = definition{
		name: "proa_route_requests_total", help: "Requests that met the routes of an application, by rule, backend and status of the answer; status 0 stands for none.",
		scope: ofNamespace, labels: []string{"route", "rule", "backend", "status"},
	}
	d[tunnels] = definition{
		name: "proa_tunnels_total", help: "Raw connections that have ended, by what this process was for them and why they did not end in good order.",
		scope: ofNamespace, labels: []string{"role", "failure"},
	}
	d[tunnelSent] = definition{
		name: "proa_tunnel_sent_bytes_total", help: "What raw connections that have ended had sent to where they led.", scope: ofNamespace, labels: []string{"role"},
	}
	d[tunnelReceived] = definition{
		name: "proa_tunnel_received_bytes_total", help: "What raw connections that have ended had got from where they led.", scope: ofNamespace, labels: []string{"role"},
	}
	d[tunnelSeconds] = definition{
		name: "proa_tunnel_seconds", help: "How long raw connections lasted.", scope: ofNamespace, kind: seconds, labels: []string{"role"},
	}
	d[endpointEvents] = definition{
		name: "proa_endpoint_events_total", scope: ofNamespace, labels: []string{"target", "event"},
		help: "What happened to endpoints of applications that are called: ejected and readmitted by outlier detection, check_failed and check_passed by health checks.",
	}
}

func defineComponents(d *[numMetrics]definition) {
	d[stateLatency] = component("state", "an operation on a state store", "operation", "success")
	d[configurationLatency] = component("configuration", "an operation on a configuration store", "operation", "success")
	d[secretLatency] = component("secret", "an operation on a secret store", "operation", "success")
	d[conversationLatency] = component("conversation", "a conversation with a language model", "success")
	d[cryptoLatency] = component("crypto", "an operation with a key", "operation", "success")
	d[inputBindingLatency] = component("input_binding", "an event of an input binding at the application", "success")
	d[outputBindingLatency] = component("output_binding", "an operation of an output binding", "operation", "success")
	d[outputBindingLatency].open = []string{"operation"}
	d[ingressLatency] = component("pubsub_ingress", "an event of a topic at the application", "process_status", "status", "topic")
	d[bulkIngressLatency] = component("pubsub_ingress_bulk", "a batch of events of a topic at the application", "process_status", "topic")
	d[bulkIngressEvents] = definition{
		name: "dapr_component_pubsub_ingress_bulk_event_count", help: "Events that came to the application in batches.",
		labels: []string{"component", "process_status", "topic"}, open: []string{"topic"}, scope: ofNamespace,
	}
	d[egressLatency] = component("pubsub_egress", "a publication to a topic", "success", "topic")
	d[bulkEgressLatency] = component("pubsub_egress_bulk", "a publication of several messages to a topic", "success", "topic")
	d[bulkEgressEvents] = definition{
		name: "dapr_component_pubsub_egress_bulk_event_count", help: "Messages that were published several at a time.",
		labels: []string{"component", "success", "topic"}, open: []string{"topic"}, scope: ofNamespace,
	}
	d[jobLatency] = definition{
		name: "dapr_component_job_latencies", help: "How long a trigger of a job took at the application, in milliseconds.",
		kind: latency, labels: []string{"operation", "success"}, scope: ofNamespace,
		counts: []derived{
			{name: "dapr_component_job_success_count", help: "Triggers of jobs that the application has carried out.", where: "success", equals: "true"},
			{name: "dapr_component_job_failure_count", help: "Triggers of jobs that failed.", where: "success", equals: "false"},
		},
	}
}

func defineHTTP(d *[numMetrics]definition) {
	request, path := []string{"method", "path", "status"}, []string{"path"}
	d[httpServerLatency] = definition{
		name: "dapr_http_server_latency", help: "How long HTTP requests to the API took, in milliseconds.", kind: latency, labels: request, open: path,
		counts: []derived{
			{name: "dapr_http_server_request_count", help: "HTTP requests to the API."},
			{name: "dapr_http_server_response_count", help: "Answers of the HTTP API; only with increased cardinality.", detailed: true},
		},
	}
	d[httpServerReceived] = definition{name: "dapr_http_server_request_bytes", help: "Content of HTTP requests to the API, as declared, in bytes.", kind: size}
	d[httpServerSent] = definition{name: "dapr_http_server_response_bytes", help: "Content of the answers of the HTTP API, in bytes.", kind: size}
	d[httpClientLatency] = definition{
		name: "dapr_http_client_roundtrip_latency", help: "How long the application took to answer HTTP requests, in milliseconds.",
		kind: latency, labels: request, open: path,
		counts: []derived{{name: "dapr_http_client_completed_count", help: "HTTP requests to the application."}},
	}
	d[httpClientSent] = definition{
		name: "dapr_http_client_sent_bytes", help: "Content of HTTP requests to the application, in bytes.", kind: size, labels: request, open: path,
	}
	d[httpClientReceived] = definition{
		name: "dapr_http_client_received_bytes", help: "Content of the application's HTTP answers, as declared, in bytes.", kind: size,
	}
	d[httpProbeLatency] = definition{
		name: "dapr_http_healthprobes_roundtrip_latency", help: "How long health probes of an HTTP application took, in milliseconds.",
		kind: latency, labels: []string{"status"},
		counts: []derived{{name: "dapr_http_healthprobes_completed_count", help: "Health probes of an HTTP application."}},
	}
}

func defineGRPC(d *[numMetrics]definition) {
	server, client := []string{"grpc_server_method"}, []string{"grpc_client_method"}
	d[grpcServerLatency] = definition{
		name: "dapr_grpc_io_server_server_latency", help: "How long gRPC calls of the API took, in milliseconds.",
		kind: latency, labels: []string{"grpc_server_method", "grpc_server_status"}, open: server,
		counts: []derived{{name: "dapr_grpc_io_server_completed_rpcs", help: "gRPC calls of the API."}},
	}
	d[grpcServerReceived] = definition{
		name: "dapr_grpc_io_server_received_bytes_per_rpc", help: "Messages of gRPC calls of the API, in bytes.", kind: size, labels: server, open: server,
	}
	d[grpcServerSent] = definition{
		name: "dapr_grpc_io_server_sent_bytes_per_rpc", help: "Answers to gRPC calls of the API, in bytes.", kind: size, labels: server, open: server,
	}
	d[grpcClientLatency] = definition{
		name: "dapr_grpc_io_client_roundtrip_latency", help: "How long gRPC calls of the application took, in milliseconds.",
		kind: latency, labels: []string{"grpc_client_method", "grpc_client_status"}, open: client,
		counts: []derived{{name: "dapr_grpc_io_client_completed_rpcs", help: "gRPC calls of the application."}},
	}
	d[grpcClientSent] = definition{
		name: "dapr_grpc_io_client_sent_bytes_per_rpc", help: "Messages of gRPC calls of the application, in bytes.", kind: size, labels: client, open: client,
	}
	d[grpcClientReceived] = definition{
		name: "dapr_grpc_io_client_received_bytes_per_rpc", help: "The application's answers to gRPC calls, in bytes.", kind: size, labels: client, open: client,
	}
	d[grpcProbeLatency] = definition{
		name: "dapr_grpc_io_healthprobes_roundtrip_latency", help: "How long health probes of a gRPC application took, in milliseconds.",
		kind: latency, labels: []string{"grpc_client_status"},
		counts: []derived{{name: "dapr_grpc_io_healthprobes_completed_count", help: "Health probes of a gRPC application."}},
	}
}

func defineRuntime(d *[numMetrics]definition) {
	d[componentLoaded] = definition{name: "dapr_runtime_component_loaded", help: "Components that were declared and could be built."}
	d[componentInit] = definition{
		name: "dapr_runtime_component_init_total", help: "Components that were opened, by their type.", labels: []string{"component"},
	}
	d[componentInitFail] = definition{
		name: "dapr_runtime_component_init_fail_total", help: "Attempts to open a component that failed, by its type and its name.",
		labels: []string{"component", "reason", "componentName"},
	}
	invocation := func(name, help string, open string, more ...string) definition {
		return definition{name: "dapr_runtime_service_invocation_" + name, help: help, labels: append([]string{open}, more...), open: []string{open}}
	}
	d[invocationSent] = invocation("req_sent_total", "Requests that were sent to other applications.", "dst_app_id", "type")
	d[invocationReceived] = invocation("req_recv_total", "Requests that came from other applications.", "src_app_id")
	d[invocationAnswered] = invocation("res_sent_total", "Answers that were sent to other applications.", "dst_app_id", "status")
	d[invocationAnswers] = invocation("res_recv_total", "Answers that came from other applications.", "src_app_id", "status", "type")
	d[invocationLatency] = invocation("res_recv_latency_ms", "How long other applications took to answer, in milliseconds.", "src_app_id", "status")
	d[invocationLatency].kind = latency
	acl := func(name, help string) definition {
		return definition{
			name: "dapr_runtime_acl_" + name, help: help, scope: ofNobody,
			labels: []string{"app_id", "trustDomain", "namespace"}, open: []string{"app_id", "namespace"},
		}
	}
	d[aclAppAllowed] = acl("app_policy_action_allowed_total", "Requests that the policy of the calling application allowed; app_id is the caller's.")
	d[aclAppBlocked] = acl("app_policy_action_blocked_total", "Requests that the policy of the calling application denied; app_id is the caller's.")
	d[aclGlobalAllowed] = acl("global_policy_action_allowed_total", "Requests that the default action allowed; app_id is the caller's.")
	d[aclGlobalBlocked] = acl("global_policy_action_blocked_total", "Requests that the default action denied; app_id is the caller's.")
}

func defineResiliency(d *[numMetrics]definition) {
	d[resiliencyLoaded] = definition{
		name: "dapr_resiliency_loaded", help: "Resiliency resources that were loaded.", labels: []string{"name"}, scope: ofNamespace,
	}
	policies := func(name, help string) definition {
		return definition{
			name: "dapr_resiliency_" + name, help: help, scope: ofNamespace,
			labels: []string{"name", "policy", "flow_direction", "target", "status"}, open: []string{"target"},
		}
	}
	d[resiliencyCount] = policies("count", "Calls that a retry, timeout, circuit breaker or rate limit was around.")
	d[resiliencyActivations] = policies("activations_total", "How often a call was tried again, a timeout ended a call, a circuit breaker changed its state, or a rate limit refused a call.")
	d[resiliencyBreaker] = policies("cb_state", "1 for the state that a circuit breaker is in, 0 for the others.")
	d[resiliencyBreaker].kind = gauge
}

// Description tells what there is to know of one metric.
type Description struct {
	Name string
	// Type is "counter", "gauge" or "histogram".
	Type   string
	Help   string
	Labels []string // sorted
	// Bounded are those of the Labels that callers or the application choose
	// the values of, and that are bounded by MaxLabelValues.
	Bounded []string
}

// Descriptions returns all metrics that there can be, but for those of the Go
// runtime and the process, sorted by name.
func Descriptions() []Description {
	var out []Description
	for _, d := range definitions() {
		typ := "counter"
		switch d.kind {
		case gauge:
			typ = "gauge"
		case latency, size, seconds:
			typ = "histogram"
		}
		out = append(out, Description{Name: d.name, Type: typ, Help: d.help, Labels: d.allLabels(""), Bounded: d.open})
		for _, c := range d.counts {
			out = append(out, Description{Name: c.name, Type: "counter", Help: c.help, Labels: d.allLabels(c.where), Bounded: d.open})
		}
	}
	slices.SortFunc(out, func(a, b Description) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// allLabels returns the labels of a family but the one without, sorted.
func (d *definition) allLabels(without string) []string {
	var out []string
	switch d.scope {
	case ofApp:
		out = []string{"app_id"}
	case ofNamespace:
		out = []string{"app_id", "namespace"}
	case ofNobody:
	}
	for _, l := range d.labels {
		if l != without {
			out = append(out, l)
		}
	}
	slices.Sort(out)
	return out
}
