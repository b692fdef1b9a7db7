package appchannel

import (
	"bytes"
	"context"
	"io"
	"net/url"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
)

// HTTPAdapter returns what carries HTTP requests to a gRPC application, as
// calls of OnInvoke; nil for an HTTP application, whose own transport does.
//
// The method of the call is the path without its leading slash, decoded; query,
// content type and content travel along, and so do the fields of the request,
// as metadata, those that HTTP defines with the prefix "dapr-". The response
// has status 200, the content and the metadata of the answer. When the
// application answers with an error, the response has the HTTP status that
// belongs to its code and the status as JSON (google.rpc.Status). In both cases
// its header has what dapr.TakeStatus takes, so that the caller's sidecar can
// tell a gRPC caller the very status, and dapr.FieldTypeURL where there is a
// type. Trailers become those of the response.
//
// An application that cannot be reached is an error, as with every
// RoundTripper. Options.Limit is not applied: it is for the caller to do.
func (c *Channel) HTTPAdapter() proxy.RoundTripper {
	if c.grpc == nil {
		return nil
	}
	return &adapter{c.grpc}
}

type adapter struct{ app *grpcApp }

// RoundTrip implements proxy.RoundTripper.
func (a *adapter) RoundTrip(ctx context.Context, r *proxy.Request, o proxy.RoundTripOptions) (*proxy.Response, error) {
	if r.Upgrade != "" || r.Method == "CONNECT" {
		return nil, proxy.MarkUnsent(fault.New(fault.Unimplemented,
			"application %q speaks gRPC and takes no two-way streams over HTTP", a.app.opt.AppID))
	}
	content, err := a.content(r)
	if err != nil {
		return nil, err
	}
	if o.HeadTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.HeadTimeout) // an answer comes at once or not at all
		defer cancel()
	}
	request := &commonv1.InvokeRequest{
		Method: valid(methodOf(r)), ContentType: valid(r.Header.Get(fieldContentType)),
		Data: &anypb.Any{TypeUrl: valid(r.Header.Get(dapr.FieldTypeURL)), Value: content},
		HttpExtension: &commonv1.HTTPExtension{
			Verb:        commonv1.HTTPExtension_Verb(commonv1.HTTPExtension_Verb_value[r.Method]),
			Querystring: valid(r.Query()),
		},
	}
	call := &rpcCall{header: invocationFields(r.Header)}
	var header, trailer metadata.MD
	answer, err := a.app.callback.OnInvoke(context.WithValue(ctx, rpcCallKey{}, call), request, grpc.Header(&header), grpc.Trailer(&trailer))
	if err == nil {
		return success(answer, header, trailer), nil
	}
	if _, ok := transportFault(err); ok {
		return nil, err
	}
	if cause := ctx.Err(); cause != nil {
		return nil, fault.Wrap(err, fault.CodeOf(cause), "call OnInvoke of the application")
	}
	return failure(status.Convert(err), header, trailer), nil
}

// content reads the content of a request.
func (a *adapter) content(r *proxy.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	most := int64(a.app.opt.MaxAnswer)
	tooLong := func() error {
		return fault.New(fault.ResourceExhausted, "the request is longer than %d bytes, the most that a gRPC application takes", most)
	}
	if r.ContentLength > most {
		return nil, tooLong()
	}
	content, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	if err != nil {
		return nil, &proxy.BodyError{Err: err}
	}
	if int64(len(content)) > most {
		return nil, tooLong()
	}
	return content, nil
}

// methodOf returns the method that a request calls.
func methodOf(r *proxy.Request) string {
	path := strings.TrimPrefix(r.Path(), "/")
	if plain, err := url.PathUnescape(path); err == nil {
		return plain
	}
	return path
}

// ownPrefix begins the names of the fields that sidecars set for each other.
const ownPrefix = "proa-"

// invocationFields returns the fields of a request as metadata.
func invocationFields(in proxy.Header) proxy.Header {
	h := make(proxy.Header, 0, len(in))
	for _, f := range in {
		name := strings.ToLower(f.Name)
		switch {
		case name == "traceparent", name == "tracestate":
			h = append(h, proxy.Field{Name: name, Value: f.Value})
			continue
		case isHTTPField(name):
			name = "dapr-" + name
		case isOurs(name), strings.HasPrefix(name, ownPrefix):
			continue
		}
		if strings.HasSuffix(name, "-bin") { // is encoded already
			if isMetadataName(name) && !isGRPCField(name) {
				h = append(h, proxy.Field{Name: name, Value: printable(f.Value)})
			}
			continue
		}
		h = appendField(h, name, f.Value, true)
	}
	return h
}

// isHTTPField reports whether a field has a meaning in HTTP that it must not
// have in the gRPC call, where its metadata gets a prefix.
func isHTTPField(name string) bool {
	switch name {
	case "accept", "accept-charset", "accept-language", "accept-ranges", "cache-control", "content-type", "cookie", "date",
		"expect", "from", "if-match", "if-modified-since", "if-none-match", "if-schedule-tag-match", "if-unmodified-since",
		"max-forwards", "origin", "pragma", "referer", "via", "warning":
		return true
	}
	return false
}

func success(answer *commonv1.InvokeResponse, header, trailer metadata.MD) *proxy.Response {
	h := answerFields(header)
	if ct := answer.GetContentType(); ct != "" {
		h = append(h, proxy.Field{Name: fieldContentType, Value: oneLine(ct)})
	}
	if t := answer.GetData().GetTypeUrl(); t != "" {
		h = append(h, proxy.Field{Name: dapr.FieldTypeURL, Value: oneLine(t)})
	}
	dapr.AddStatus(&h, status.New(codes.OK, ""))
	return respond(200, h, answer.GetData().GetValue(), trailer)
}

func failure(st *status.Status, header, trailer metadata.MD) *proxy.Response {
	content, err := protojson.Marshal(st.Proto())
	if err != nil { // a detail of a type that is not known here
		content, _ = protojson.Marshal(status.New(st.Code(), valid(st.Message())).Proto())
	}
	for name := range header { // a server that sent only a trailer sent it as the head
		delete(trailer, name)
	}
	h := append(answerFields(header), proxy.Field{Name: fieldContentType, Value: typeJSON})
	dapr.AddStatus(&h, st)
	return respond(dapr.HTTPStatus(st.Code()), h, content, trailer)
}

func respond(status int, h proxy.Header, content []byte, trailer metadata.MD) *proxy.Response {
	out := &proxy.Response{Status: status, Header: h, ContentLength: int64(len(content)), Body: &bufferedBody{bytes.NewReader(content)}}
	if t := answerFields(trailer); len(t) > 0 {
		out.Trailer = &t
	}
	return out
}

// answerFields returns the metadata of an answer as fields. What belongs to
// gRPC, or would be taken for the sidecar's own, is left out.
func answerFields(md metadata.MD) proxy.Header {
	for name := range md {
		if strings.HasPrefix(name, ownPrefix) {
			delete(md, name)
		}
	}
	return rpc.AppendMetadata(nil, md)
}

// bufferedBody is content that is there.
type bufferedBody struct{ *bytes.Reader }

// Buffered implements proxy.Lookahead.
func (b *bufferedBody) Buffered() int { return b.Len() }

// Close implements io.Closer.
func (b *bufferedBody) Close() error { return nil }
