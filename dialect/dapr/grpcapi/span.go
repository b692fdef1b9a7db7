package grpcapi

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
	"github.com/proa-io/proa/telemetry"
)

// span is that of a call of the API.
type span struct {
	telemetry.Span
	method string
}

var _ rpc.Watcher = span{}

// invokeMethod is the call that answers with what another application has
// answered, so that no header of ours is in it.
const invokeMethod = apiPrefix + "InvokeService"

// enrich returns the context for a call, with its trace, and the span of the
// call if that is recorded.
func (a *API) enrich(ctx context.Context, method string, h proxy.Header) (context.Context, rpc.Watcher) {
	ctx, recorded := traceFields(h).Begin(ctx, a.opts.Tracing)
	if !recorded {
		return ctx, nil
	}
	i := dapr.APISpan(method, "grpc", method)
	i.Attributes = append(i.Attributes, dapr.OfUser(h)...)
	ctx, s := a.opts.Tracing.StartSpan(ctx, i)
	if tc, ok := telemetry.TraceFrom(ctx); ok && method != invokeMethod {
		setHeader(ctx, metadata.MD{dapr.TraceParent: {tc.Traceparent()}, traceBinary: {binaryOf(tc)}})
	}
	return ctx, span{s, method}
}

// binaryOf is the reverse of parentOf, before base64.
func binaryOf(tc telemetry.TraceContext) string {
	b := make([]byte, 0, 29)
	b = append(append(b, 0, 0), tc.TraceID[:]...)
	b = append(append(b, 1), tc.SpanID[:]...)
	return string(append(b, 2, tc.Flags))
}

// Request implements rpc.Watcher.
func (s span) Request(message any) {
	switch m := message.(type) {
	case *rtv1.InvokeServiceRequest:
		name, attributes := dapr.OfInvocation(m.GetId(), m.GetMessage().GetMethod())
		s.Rename(name)
		s.Set(attributes...)
	case *rtv1.InvokeBindingRequest:
		s.Set(dapr.OfStore(dapr.SystemBindings, m.GetName(), s.method)...)
	case *rtv1.GetSecretRequest:
		s.Set(dapr.OfStore(dapr.SystemSecrets, m.GetStoreName(), s.method)...)
	case *rtv1.GetBulkSecretRequest:
		s.Set(dapr.OfStore(dapr.SystemSecrets, m.GetStoreName(), s.method)...)
	case interface{ GetTopic() string }: // PublishEvent and BulkPublishEvent
		s.Set(dapr.OfTopic(m.GetTopic())...)
	case *rtv1.GetStateRequest, *rtv1.GetBulkStateRequest, *rtv1.SaveStateRequest, *rtv1.DeleteStateRequest, *rtv1.DeleteBulkStateRequest,
		*rtv1.QueryStateRequest:
		if of, ok := m.(interface{ GetStoreName() string }); ok {
			s.Set(dapr.OfStore(dapr.SystemState, of.GetStoreName(), s.method)...)
		}
	case *rtv1.ExecuteStateTransactionRequest:
		s.Set(dapr.OfStore(dapr.SystemState, m.GetStoreName(), s.method)...)
	}
}

// End implements rpc.Watcher.
func (s span) End(err error) {
	if err != nil {
		st := rpc.StatusFromError(err)
		s.Fail(st.Message())
		s.Set(dapr.AttrStatus, st.Code().String())
	}
	s.Span.End(nil)
}

// beginForward begins the span of a call that is passed on, if its trace is
// recorded, and makes the call part of it.
func (a *API) beginForward(ctx context.Context, r *proxy.Request, id string) (end func(error)) {
	nothing := func(error) {}
	if !a.opts.Tracing.Enabled() {
		return nothing
	}
	ctx, recorded := traceFields(r.Header).Begin(ctx, a.opts.Tracing)
	if !recorded {
		return nothing
	}
	_, attributes := dapr.OfInvocation(id, r.Target)
	i := dapr.APISpan(r.Target, "grpc", r.Target)
	i.Attributes = append(append(i.Attributes, attributes...), dapr.OfUser(r.Header)...)
	ctx, s := a.opts.Tracing.StartSpan(ctx, i)
	if parent, _, ok := dapr.TraceOf(ctx); ok {
		r.Header.Set(dapr.TraceParent, parent)
	}
	return span{s, r.Target}.End
}

// checkBaggage refuses a call whose baggage has not the form that it must have,
// as the HTTP API does.
func checkBaggage(h proxy.Header) error {
	if f := traceFields(h); f.Baggage != "" {
		if err := dapr.CheckBaggage(f.Baggage); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
	return nil
}
