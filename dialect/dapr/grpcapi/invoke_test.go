package grpcapi

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/proxy"
)

// describe writes a request down.
func describe(id string, r invoke.Request) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s %s %q", id, r.Method, r.Path, r.Body)
	var fields []string
	for _, f := range r.Header {
		fields = append(fields, f.Name+"="+f.Value)
	}
	slices.Sort(fields)
	for _, f := range fields {
		out.WriteString(" " + f)
	}
	return out.String()
}

func TestInvocationsBecomeRequests(t *testing.T) {
	leak.Check(t)
	seen := make(chan string, 1)
	inv := fakeInvoker{call: func(id string, r invoke.Request) (*invoke.Reply, error) {
		seen <- describe(id, r)
		return &invoke.Reply{Status: 200}, nil
	}}
	c := rtv1.NewDaprClient(serve(t, New(Options{Blocks: newWorld(t), Token: dapr.NewToken("t"), Invoker: inv})))
	for _, tc := range []struct {
		name string
		in   *commonv1.InvokeRequest
		want string
	}{
		{"the usual", &commonv1.InvokeRequest{Method: "orders", Data: &anypb.Any{Value: []byte("{}")}, ContentType: "application/json",
			HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_PUT, Querystring: "a=b&c"}},
			`cart PUT /orders?a=b&c "{}" content-type=application/json x-mine=1`},
		{"nothing but a method", &commonv1.InvokeRequest{Method: "orders"}, `cart POST /orders "" x-mine=1`},
		{"no message", nil, `cart POST / "" x-mine=1`},
		{"a path", &commonv1.InvokeRequest{Method: "/a/../b c/é%2Fd/?x=1", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET, Querystring: "y"}},
			`cart GET /b%20c/é%2Fd/?x=1&y "" x-mine=1`},
		{"a typed message", &commonv1.InvokeRequest{Method: "m", Data: &anypb.Any{TypeUrl: "type.googleapis.com/a.B", Value: []byte("v")}},
			`cart POST /m "v" content-type=application/x-protobuf proa-type-url=type.googleapis.com/a.B x-mine=1`},
		{"a verb that cannot be", &commonv1.InvokeRequest{Method: "m", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_CONNECT}},
			`cart POST /m "" x-mine=1`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := with(timeout(t), "dapr-api-token", "t", "x-mine", "1")
			must[*commonv1.InvokeResponse](t)(c.InvokeService(ctx, &rtv1.InvokeServiceRequest{Id: "cart", Message: tc.in}))
			if got := <-seen; got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// grpcReply is the answer of a gRPC application as it travels.
func grpcReply(st *status.Status, h ...proxy.Field) *invoke.Reply {
	header := slices.Clone(proxy.Header(h))
	dapr.AddStatus(&header, st)
	return &invoke.Reply{
		Status: dapr.HTTPStatus(st.Code()), Header: header, Body: []byte("data"),
		Trailer: proxy.Header{{Name: "late", Value: "1"}, {Name: "late-bin", Value: "AP8"}},
	}
}

func TestAnswersOfApplicationsAreTranslated(t *testing.T) {
	leak.Check(t)
	rich := dapr.HTTPFailure(409, "detail")
	for _, tc := range []struct {
		name    string
		reply   *invoke.Reply
		want    *commonv1.InvokeResponse
		status  *status.Status
		header  map[string]string
		trailer map[string]string
	}{
		{name: "HTTP", reply: &invoke.Reply{Status: 201, Body: []byte("ok"), Header: proxy.Header{
			{Name: "Content-Type", Value: "text/plain"}, {Name: "X-Mine", Value: "1"}, {Name: "x-mine", Value: "2"}, {Name: "Date", Value: "now"},
			{Name: "x ü", Value: "lost"}, {Name: "X-Text", Value: "caf\u00e9"}}},
			want:   &commonv1.InvokeResponse{Data: &anypb.Any{Value: []byte("ok")}, ContentType: "text/plain"},
			header: map[string]string{"dapr-http-status": "201", "dapr-content-type": "text/plain", "x-mine": "1|2", "dapr-date": "now", "x-text": "caf?"}},
		{name: "HTTP that failed", reply: &invoke.Reply{Status: 404, Body: []byte("no such order"), Header: proxy.Header{{Name: "X-Mine", Value: "1"}}},
			status: dapr.HTTPFailure(404, "no such order"), header: map[string]string{"dapr-http-status": "404", "x-mine": "1"}},
		{name: "HTTP that redirects", reply: &invoke.Reply{Status: 302, Header: proxy.Header{{Name: "Location", Value: "/x"}}},
			status: dapr.HTTPFailure(302, ""), header: map[string]string{"dapr-http-status": "302", "location": "/x"}},
		{name: "gRPC", reply: grpcReply(status.New(codes.OK, ""), proxy.Field{Name: "content-type", Value: "application/x-protobuf"},
			proxy.Field{Name: dapr.FieldTypeURL, Value: "type.googleapis.com/a.B"}, proxy.Field{Name: "early", Value: "1"}, proxy.Field{Name: "early-bin", Value: "AP8"}),
			want:   &commonv1.InvokeResponse{Data: &anypb.Any{TypeUrl: "type.googleapis.com/a.B", Value: []byte("data")}, ContentType: "application/x-protobuf"},
			header: map[string]string{"early": "1", "early-bin": "\x00\xff", "dapr-http-status": ""}, trailer: map[string]string{"late": "1", "late-bin": "\x00\xff"}},
		{name: "gRPC that failed", reply: grpcReply(rich), status: rich, trailer: map[string]string{"late": "1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inv := fakeInvoker{call: func(string, invoke.Request) (*invoke.Reply, error) { return tc.reply, nil }}
			c := rtv1.NewDaprClient(serve(t, New(Options{Blocks: newWorld(t), Invoker: inv})))
			var header, trailer metadata.MD
			got, err := c.InvokeService(timeout(t), &rtv1.InvokeServiceRequest{Id: "cart"}, grpc.Header(&header), grpc.Trailer(&trailer))
			if tc.status != nil {
				st := status.Convert(err)
				if st.Code() != tc.status.Code() || st.Message() != tc.status.Message() || !proto.Equal(errorInfo(st), errorInfo(tc.status)) {
					t.Errorf("got %v, want %v", st.Proto(), tc.status.Proto())
				}
				header = metadata.Join(header, trailer) // they come in one block
			} else if err != nil || !proto.Equal(got, tc.want) {
				t.Errorf("got %v, %v", got, err)
			}
			for k, v := range tc.header {
				if got := strings.Join(header.Get(k), "|"); got != v {
					t.Errorf("header %s is %q, want %q", k, got, v)
				}
			}
			for k, v := range tc.trailer {
				if got := strings.Join(trailer.Get(k), "|"); got != v {
					t.Errorf("trailer %s is %q, want %q", k, got, v)
				}
			}
		})
	}
}

func TestInvocationsThatFailSayWhy(t *testing.T) {
	leak.Check(t)
	inv := fakeInvoker{call: func(id string, _ invoke.Request) (*invoke.Reply, error) {
		switch id {
		case "nobody":
			return nil, fault.New(fault.NotFound, "no application %q is known", id)
		case "forbidden":
			return nil, fault.New(fault.PermissionDenied, "access denied")
		case "away":
			return nil, fault.New(fault.Unavailable, "connection refused")
		}
		return &invoke.Reply{Status: 200, Body: make([]byte, 2000)}, nil
	}}
	w := newWorld(t)
	c := rtv1.NewDaprClient(serve(t, New(Options{Blocks: w, Invoker: inv, MaxMessage: 1000})))
	call := func(c rtv1.DaprClient, id, method string) error {
		_, err := c.InvokeService(timeout(t), &rtv1.InvokeServiceRequest{Id: id, Message: &commonv1.InvokeRequest{Method: method}})
		return err
	}
	for _, tc := range []struct {
		name string
		err  error
		want want
	}{
		{"no id", call(c, "", "m"), want{codes.NotFound, "ERR_DIRECT_INVOKE", ""}},
		{"nobody", call(c, "nobody", "m"), want{codes.Internal, "ERR_DIRECT_INVOKE", `failed to invoke, id: nobody, err: no application "nobody" is known`}},
		{"forbidden", call(c, "forbidden", "m"), want{codes.PermissionDenied, "ERR_DIRECT_INVOKE", "access denied"}},
		{"away", call(c, "away", "m"), want{codes.Unavailable, "ERR_DIRECT_INVOKE", "connection refused"}},
		{"too large", call(c, "cart", "m"), want{codes.ResourceExhausted, "ERR_DIRECT_INVOKE", "1000 bytes"}},
		{"a strange method", call(c, "cart", "a\x00b"), want{codes.InvalidArgument, "ERR_DIRECT_INVOKE", ""}},
		{"a fragment", call(c, "cart", "a#b"), want{codes.InvalidArgument, "ERR_DIRECT_INVOKE", ""}},
		{"a way out", call(c, "cart", "..%2fa"), want{codes.InvalidArgument, "ERR_DIRECT_INVOKE", ""}},
		{"not ready", call(connect(t, w), "cart", "m"), want{codes.Internal, "ERR_DIRECT_INVOKE", "invoke API is not ready"}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.want.check(t, tc.err) })
	}
}
