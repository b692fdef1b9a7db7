package dapr

import (
	"context"
	"strings"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/telemetry"
)

// AttrStatus is the attribute of a span that tells the status of the answer.
const AttrStatus = "dapr.status_code"

// Attributes of spans. Those of OpenTelemetry have the names that Dapr uses.
const (
	attrAPI          = "dapr.api"
	attrProtocol     = "dapr.protocol"
	attrInvokeMethod = "dapr.invoke_method"

	attrDBSystem     = "db.system"
	attrDBName       = "db.name"
	attrDBStatement  = "db.statement"
	attrDBConnection = "db.connection_string"

	attrMessagingSystem = "messaging.system"
	attrMessagingTopic  = "messaging.destination.name"

	attrRPCService = "rpc.service"
	attrPeer       = "net.peer.name"

	serviceDapr   = "Dapr"
	serviceInvoke = "ServiceInvocation"
)

// The building blocks, as attributes name them.
const (
	SystemState    = "state"
	SystemSecrets  = "secrets"
	SystemBindings = "bindings"
	systemPubSub   = "pubsub"
)

// APISpan returns the span of a call of the API. protocol is "http" or "grpc";
// what is the request, "GET /v1.0/state/orders/k" or the method.
func APISpan(name, protocol, what string) telemetry.SpanInfo {
	return telemetry.SpanInfo{Name: name, Kind: telemetry.Client, Attributes: []string{attrAPI, what, attrProtocol, protocol}}
}

// OfStore returns the attributes of a call of a store or a binding.
func OfStore(system, component, statement string) []string {
	return []string{
		attrDBSystem, system, attrDBName, component, attrDBStatement, statement, attrDBConnection, system, attrRPCService, serviceDapr,
	}
}

// OfTopic returns the attributes of what is published or delivered.
func OfTopic(topic string) []string {
	return []string{attrMessagingSystem, systemPubSub, attrMessagingTopic, topic, attrRPCService, serviceDapr}
}

// OfInvocation returns the attributes of an invocation, and what its span is
// called.
func OfInvocation(appID, method string) (name string, attributes []string) {
	method, _, _ = strings.Cut(strings.TrimPrefix(method, "/"), "?")
	return "CallLocal/" + appID + "/" + method, []string{attrRPCService, serviceInvoke, attrPeer, appID, attrInvokeMethod, method}
}

// OfUser returns the header fields that users add for spans: those whose name
// begins with "dapr-", but for those that mean something to a sidecar.
func OfUser(h proxy.Header) (attributes []string) {
	for _, f := range h {
		name := strings.ToLower(f.Name)
		if !strings.HasPrefix(name, "dapr-") || strings.HasSuffix(name, "-bin") {
			continue
		}
		switch name {
		case TokenHeader, "dapr-app-id", "dapr-callee-app-id", "dapr-caller-app-id", "dapr-caller-namespace", "dapr-force-shutdown":
			continue
		}
		attributes = append(attributes, name, f.Value)
	}
	return attributes
}

// TraceOf returns the trace fields of what ctx is about; false without a trace.
func TraceOf(ctx context.Context) (parent, state string, ok bool) {
	tc, ok := telemetry.TraceFrom(ctx)
	if !ok {
		return "", "", false
	}
	return tc.Traceparent(), tc.State, true
}

// BeginDelivery starts the span of the delivery of an event, below the trace
// that it was published in.
func BeginDelivery(ctx context.Context, t *telemetry.Tracing, e *pubsub.Event) (context.Context, telemetry.Span) {
	if !t.Enabled() {
		return ctx, telemetry.Span{}
	}
	return beginCallback(ctx, t, e.TraceParent(), e.TraceState(), func() telemetry.SpanInfo {
		return telemetry.SpanInfo{Name: "pubsub/" + e.Topic, Kind: telemetry.Server, Attributes: OfTopic(e.Topic)}
	})
}

// BeginBulkDelivery starts a span for each event of a delivery of several, below
// the trace that it was published in. The context is part of that trace if it is
// one for all.
func BeginBulkDelivery(ctx context.Context, t *telemetry.Tracing, b *pubsub.BulkEvent) (context.Context, []telemetry.Span) {
	if !t.Enabled() {
		return ctx, nil
	}
	var spans []telemetry.Span
	var all telemetry.TraceContext
	same := true
	for i := range b.Entries {
		e := b.Entries[i].Event
		came, ok := telemetry.ParseTraceparent(e.TraceParent())
		same = same && (i == 0 || ok && came.TraceID == all.TraceID)
		if !ok {
			continue
		}
		came.State = e.TraceState()
		inner, span := t.StartSpan(telemetry.WithTrace(ctx, t.Decide(came)), telemetry.SpanInfo{
			Name: "pubsub/" + b.Topic, Kind: telemetry.Server, Attributes: append(OfTopic(b.Topic), "messaging.message.id", e.ID()),
		})
		if i == 0 {
			all, _ = telemetry.TraceFrom(inner)
		}
		if span.Recording() {
			spans = append(spans, span)
		}
	}
	if same && all.IsValid() {
		ctx = telemetry.WithTrace(ctx, all)
	}
	return ctx, spans
}

// BeginBinding starts the span of an event of an input binding, below the trace
// that its metadata names. route is where the application takes it.
func BeginBinding(ctx context.Context, t *telemetry.Tracing, name, route string, metadata map[string]string) (context.Context, telemetry.Span) {
	if !t.Enabled() {
		return ctx, telemetry.Span{}
	}
	return beginCallback(ctx, t, metadata[TraceParent], metadata[TraceState], func() telemetry.SpanInfo {
		return telemetry.SpanInfo{Name: "bindings/" + name, Kind: telemetry.Server, Attributes: []string{
			attrDBSystem, SystemBindings, attrDBName, name, attrDBConnection, route, attrRPCService, serviceDapr,
		}}
	})
}

// BeginCallback starts the span of another call of the application, which
// begins a trace unless ctx has one.
func BeginCallback(ctx context.Context, t *telemetry.Tracing, name, method string) (context.Context, telemetry.Span) {
	if !t.Enabled() {
		return ctx, telemetry.Span{}
	}
	return beginCallback(ctx, t, "", "", func() telemetry.SpanInfo {
		return telemetry.SpanInfo{Name: name, Kind: telemetry.Server, Attributes: []string{attrAPI, method, attrRPCService, serviceDapr}}
	})
}

// beginCallback starts a span below the given trace or, where that is none, the
// one of ctx. Without either it begins a trace.
func beginCallback(ctx context.Context, t *telemetry.Tracing, parent, state string, about func() telemetry.SpanInfo) (context.Context, telemetry.Span) {
	came, ok := telemetry.ParseTraceparent(parent)
	if ok {
		came.State = state
	} else {
		came, _ = telemetry.TraceFrom(ctx)
	}
	if decided := t.Decide(came); decided.Sampled() {
		return t.StartSpan(telemetry.WithTrace(ctx, decided), about())
	}
	return ctx, telemetry.Span{}
}
