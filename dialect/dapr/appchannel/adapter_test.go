package appchannel_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// invoked answers OnInvoke by a function.
type invoked struct {
	rtv1.UnimplementedAppCallbackServer
	do func(context.Context, *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error)
}

func (a *invoked) OnInvoke(ctx context.Context, r *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
	return a.do(ctx, r)
}

func (a *invoked) serve(t *testing.T) *grpcApp {
	return serveGRPC(t, func(s grpc.ServiceRegistrar) { rtv1.RegisterAppCallbackServer(s, a) })
}

// body reads a response to its end.
func body(t *testing.T, r *proxy.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != r.ContentLength {
		t.Errorf("%d bytes were announced, %d came", r.ContentLength, len(b))
	}
	_ = r.Body.Close()
	return string(b)
}

func TestAnHTTPRequestReachesAGRPCApplication(t *testing.T) {
	checkLeaks(t)
	var got *commonv1.InvokeRequest
	a := &invoked{do: func(ctx context.Context, r *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
		got = r
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-app", "1", "blob-bin", "\x00", "proa-grpc-status", "5"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-late", "2"))
		return &commonv1.InvokeResponse{Data: &anypb.Any{TypeUrl: "type.example/Out", Value: []byte("answer")}, ContentType: "text/css"}, nil
	}}
	app := a.serve(t)
	rt := app.channel(t, func(o *appchannel.Options) { o.Token = component.NewSecret("s3cret") }).HTTPAdapter()
	resp, err := rt.RoundTrip(t.Context(), &proxy.Request{
		Method: "PUT", Target: "/cart/an%20item?n=1&m=%20", ContentLength: 4, Body: strings.NewReader("data"),
		Header: proxy.Header{
			{Name: "Content-Type", Value: "application/json"}, {Name: "Accept", Value: "*/*"}, {Name: "User-Agent", Value: "curl"},
			{Name: "X-Tenant", Value: "acme"}, {Name: "traceparent", Value: parent}, {Name: "dapr-api-token", Value: "forged"},
			{Name: "dapr-caller-app-id", Value: "web"}, {Name: "key-bin", Value: "AAE"}, {Name: "grpc-timeout", Value: "1n"},
			{Name: dapr.FieldTypeURL, Value: "type.example/In"},
		},
	}, proxy.RoundTripOptions{HeadTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if text := body(t, resp); resp.Status != 200 || text != "answer" {
		t.Errorf("the response is %d %q", resp.Status, text)
	}
	for name, want := range map[string]string{"content-type": "text/css", dapr.FieldTypeURL: "type.example/Out", "x-app": "1", "blob-bin": "AA"} {
		if v := strings.Join(resp.Header.Values(name), ", "); v != want {
			t.Errorf("field %s is %q, want %q", name, v, want)
		}
	}
	if st, _, ok := dapr.TakeStatus(resp.Header); !ok || st.Code() != codes.OK {
		t.Errorf("the status in the header is %v", st)
	}
	if resp.Trailer == nil || resp.Trailer.Get("x-late") != "2" || len(*resp.Trailer) != 1 {
		t.Errorf("the trailer is %v", resp.Trailer)
	}
	if got.GetMethod() != "cart/an item" || string(got.GetData().GetValue()) != "data" || got.GetData().GetTypeUrl() != "type.example/In" || got.GetContentType() != "application/json" ||
		got.GetHttpExtension().GetVerb() != commonv1.HTTPExtension_PUT || got.GetHttpExtension().GetQuerystring() != "n=1&m=%20" {
		t.Errorf("the application got %v", got)
	}
	md := app.metadata(t)
	for name, want := range map[string]string{
		"x-tenant": "acme", "dapr-accept": "*/*", "dapr-content-type": "application/json", "traceparent": parent, "dapr-api-token": "s3cret",
		"dapr-caller-app-id": "web", "key-bin": "\x00\x01", "content-type": "application/grpc",
	} {
		if v := strings.Join(md.Get(name), ", "); v != want {
			t.Errorf("metadata %s is %q, want %q", name, v, want)
		}
	}
}

func TestTheStatusOfAGRPCApplicationSurvives(t *testing.T) {
	checkLeaks(t)
	var fail error
	rt := (&invoked{do: func(ctx context.Context, _ *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-late", "2"))
		return nil, fail
	}}).serve(t).channel(t, nil).HTTPAdapter()
	for code, want := range map[codes.Code]int{
		codes.Canceled: 408, codes.Unknown: 500, codes.InvalidArgument: 400, codes.DeadlineExceeded: 504, codes.NotFound: 404,
		codes.AlreadyExists: 409, codes.PermissionDenied: 403, codes.ResourceExhausted: 429, codes.FailedPrecondition: 400,
		codes.Aborted: 409, codes.OutOfRange: 400, codes.Unimplemented: 501, codes.Internal: 500, codes.Unavailable: 503,
		codes.DataLoss: 500, codes.Unauthenticated: 401, codes.Code(42): 500,
	} {
		st, err := status.New(code, "why é%").WithDetails(&errdetails.ErrorInfo{Reason: "BECAUSE"})
		if err != nil {
			t.Fatal(err)
		}
		fail = st.Err()
		resp, err := rt.RoundTrip(t.Context(), &proxy.Request{Method: "GET", Target: "/x"}, proxy.RoundTripOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Code    int
			Message string
			Details []struct{ Reason string }
		}
		text := body(t, resp)
		if err := json.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		if resp.Status != want || doc.Code != int(code) || doc.Message != "why é%" || len(doc.Details) != 1 || doc.Details[0].Reason != "BECAUSE" {
			t.Errorf("%v: the response is %d %s", code, resp.Status, text)
		}
		back, _, ok := dapr.TakeStatus(resp.Header)
		if !ok || back.Code() != code || back.Message() != "why é%" || len(back.Details()) != 1 {
			t.Errorf("%v: the status in the header is %v", code, back)
		}
		if resp.Header.Get("x-late") != "2" || resp.Header.Get("content-type") != "application/json" || resp.Trailer != nil {
			t.Errorf("%v: the fields are %v, %v", code, resp.Header, resp.Trailer)
		}
	}
}

func TestWhatAGRPCApplicationCannotTakeIsRefused(t *testing.T) {
	checkLeaks(t)
	app := (&invoked{do: func(context.Context, *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
		return nil, errors.New("must not be called")
	}}).serve(t)
	rt := app.channel(t, func(o *appchannel.Options) { o.MaxAnswer = 10 }).HTTPAdapter()
	broken := errors.New("gone")
	for name, tc := range map[string]struct {
		r    proxy.Request
		code fault.Code
	}{
		"an upgrade":        {proxy.Request{Method: "GET", Target: "/", Upgrade: "websocket"}, fault.Unimplemented},
		"a tunnel":          {proxy.Request{Method: "CONNECT", Target: "x:1"}, fault.Unimplemented},
		"too long":          {proxy.Request{Method: "POST", Target: "/", Body: strings.NewReader(strings.Repeat("x", 11)), ContentLength: 11}, fault.ResourceExhausted},
		"too long, unsaid":  {proxy.Request{Method: "POST", Target: "/", Body: strings.NewReader(strings.Repeat("x", 11)), ContentLength: -1}, fault.ResourceExhausted},
		"a body that broke": {proxy.Request{Method: "POST", Target: "/", Body: brokenBody{broken}, ContentLength: -1}, fault.Unknown},
	} {
		_, err := rt.RoundTrip(t.Context(), &tc.r, proxy.RoundTripOptions{})
		if err == nil || fault.CodeOf(err) != tc.code {
			t.Errorf("%s: the error is %v", name, err)
		}
		if be, ok := errors.AsType[*proxy.BodyError](err); ok != (tc.code == fault.Unknown) || ok && be.Err != broken {
			t.Errorf("%s: the error is %#v", name, err)
		}
	}
	gone := (&grpcApp{addr: "127.0.0.1:1"}).channel(t, nil).HTTPAdapter()
	_, err := gone.RoundTrip(t.Context(), &proxy.Request{Method: "GET", Target: "/"}, proxy.RoundTripOptions{})
	if !fault.Is(err, fault.Unavailable) || !proxy.Unsent(err) {
		t.Errorf("an application that is gone: %v", err)
	}
	if (&httpApp{addr: "127.0.0.1:1"}).channel(t, nil).HTTPAdapter() != nil {
		t.Error("an HTTP application has an adapter")
	}
}

type brokenBody struct{ err error }

func (b brokenBody) Read([]byte) (int, error) { return 0, b.err }

func TestAnInvocationEndsWithItsContext(t *testing.T) {
	checkLeaks(t)
	entered := make(chan struct{})
	rt := (&invoked{do: func(ctx context.Context, _ *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	}}).serve(t).channel(t, nil).HTTPAdapter()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	if _, err := rt.RoundTrip(ctx, &proxy.Request{Method: "GET", Target: "/"}, proxy.RoundTripOptions{}); !fault.Is(err, fault.Canceled) {
		t.Errorf("the error is %v", err)
	}
}
