package grpcapi

import (
	"context"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
)

// InvokeService calls a method of another application. An HTTP application
// gets a request for the path that the method names; a gRPC one an OnInvoke.
func (s *service) InvokeService(ctx context.Context, in *rtv1.InvokeServiceRequest) (*commonv1.InvokeResponse, error) {
	about := dapr.Subject{Key: in.GetId()}
	switch {
	case about.Key == "":
		return nil, dapr.InvokeNoAppID()
	case s.opts.Invoker == nil:
		return nil, dapr.InvokeNotReady()
	}
	r, err := invokeRequest(in.GetMessage(), rpc.IncomingHeader(ctx))
	if err != nil {
		return nil, s.failed(dapr.Invoke, about, err)
	}
	r.Route = rpc.Route(ctx)
	reply, err := s.opts.Invoker.Call(ctx, about.Key, r, int64(s.opts.MaxMessage))
	if err != nil {
		return nil, s.failed(dapr.Invoke, about, err)
	}
	return invokeResponse(ctx, reply)
}

// protobufType is the content type of data that names its own type.
const protobufType = "application/x-protobuf"

// invokeRequest returns what to ask the application for.
func invokeRequest(m *commonv1.InvokeRequest, came proxy.Header) (invoke.Request, error) {
	method, query, _ := strings.Cut(m.GetMethod(), "?")
	path, err := dapr.CleanMethod(strings.ReplaceAll(method, " ", "%20"))
	if err != nil {
		return invoke.Request{}, err
	}
	if strings.ContainsFunc(path+query, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }) {
		return invoke.Request{}, fault.New(fault.InvalidArgument, "method %q holds a character that a path cannot have", m.GetMethod()).
			WithReason(invoke.ReasonBadTarget)
	}
	if more := m.GetHttpExtension().GetQuerystring(); more != "" && query != "" {
		query += "&" + more
	} else {
		query += more
	}
	if query != "" {
		path += "?" + query
	}
	r := invoke.Request{Method: verb(m.GetHttpExtension().GetVerb()), Path: path, Body: m.GetData().GetValue()}
	for _, f := range came {
		if !ofSidecar(strings.ToLower(f.Name)) {
			r.Header = append(r.Header, f)
		}
	}
	ct := m.GetContentType()
	if typeURL := m.GetData().GetTypeUrl(); typeURL != "" {
		ct = protobufType
		r.Header.Add(dapr.FieldTypeURL, typeURL)
	}
	if ct != "" {
		r.Header.Add("content-type", ct)
	}
	return r, nil
}

// verb returns the HTTP method for a verb; POST for none.
func verb(v commonv1.HTTPExtension_Verb) string {
	if name, ok := commonv1.HTTPExtension_Verb_name[int32(v)]; ok && v != commonv1.HTTPExtension_NONE && v != commonv1.HTTPExtension_CONNECT {
		return name
	}
	return "POST"
}

// statusEntry is the metadata entry that tells the status of an HTTP answer.
const statusEntry = "dapr-http-status"

// invokeResponse returns the answer of an application: of a gRPC one its own
// status, header and trailer; of an HTTP one what gRPC says for them.
func invokeResponse(ctx context.Context, reply *invoke.Reply) (*commonv1.InvokeResponse, error) {
	out := &commonv1.InvokeResponse{ContentType: reply.Header.Get("content-type"), Data: &anypb.Any{Value: reply.Body}}
	st, header, isGRPC := dapr.TakeStatus(reply.Header)
	if isGRPC {
		out.Data.TypeUrl = header.Get(dapr.FieldTypeURL)
		header.Del(dapr.FieldTypeURL)
		setHeader(ctx, rpc.Metadata(header))
		_ = rpc.SetTrailer(ctx, rpc.Metadata(reply.Trailer)) // it fails only outside of a call
		if st.Code() != codes.OK {
			return nil, st.Err()
		}
		return out, nil
	}
	md := metadata.MD{statusEntry: {strconv.Itoa(reply.Status)}}
	for _, f := range header {
		name := strings.ToLower(f.Name)
		if permanent(name) {
			name = "dapr-" + name
		}
		md[name] = append(md[name], f.Value)
	}
	setHeader(ctx, md)
	if dapr.CodeOfHTTP(reply.Status) != codes.OK {
		return nil, dapr.HTTPFailure(reply.Status, string(reply.Body)).Err()
	}
	return out, nil
}

// permanent reports whether a header field belongs to HTTP itself, so that its
// name in metadata begins with "dapr-". The list is Dapr's.
func permanent(name string) bool {
	switch name {
	case "accept", "accept-charset", "accept-language", "accept-ranges", "cache-control", "connection", "content-length",
		"content-type", "cookie", "date", "expect", "from", "host", "if-match", "if-modified-since", "if-none-match",
		"if-schedule-tag-match", "if-unmodified-since", "keep-alive", "max-forwards", "origin", "pragma", "proxy-connection",
		"referer", "transfer-encoding", "upgrade", "via", "warning":
		return true
	}
	return false
}
