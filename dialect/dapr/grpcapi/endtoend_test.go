package grpcapi

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/policy"
)

// callbackApp is an application on grpc-go: what the sidecar calls, and a
// service of its own.
type callbackApp struct {
	rtv1.UnimplementedAppCallbackServer
	pb.UnimplementedTestServiceServer
}

func (callbackApp) OnInvoke(ctx context.Context, in *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	_ = grpc.SetHeader(ctx, metadata.Pairs("early", strings.Join(md.Get("x-mine"), "|"), "early-bin", "\x00\xff",
		"token", strings.Join(md.Get("dapr-api-token"), "|")))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("late", "1"))
	if in.GetMethod() == "fail" {
		return nil, dapr.HTTPFailure(409, "Ünïcode").Err()
	}
	text := in.GetHttpExtension().GetVerb().String() + " " + in.GetMethod() + "?" + in.GetHttpExtension().GetQuerystring() + " " + in.GetContentType()
	return &commonv1.InvokeResponse{Data: &anypb.Any{Value: append([]byte(text+" "), in.GetData().GetValue()...)}, ContentType: "text/plain"}, nil
}

func (callbackApp) UnaryCall(ctx context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if md, _ := metadata.FromIncomingContext(ctx); strings.Join(md.Get("dapr-api-token"), "|") != "its own" {
		return nil, status.Errorf(codes.Unauthenticated, "the token is %q", md.Get("dapr-api-token"))
	}
	return &pb.SimpleResponse{Payload: in.GetPayload()}, nil
}

func (callbackApp) FullDuplexCall(both pb.TestService_FullDuplexCallServer) error {
	for {
		m, err := both.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.DataLoss, "enough")
		}
		if err != nil {
			return err
		}
		if err := both.Send(&pb.StreamingOutputCallResponse{Payload: m.GetPayload()}); err != nil {
			return err
		}
	}
}

// grpcApplication starts a gRPC application and returns it as its sidecar
// invokes it.
func grpcApplication(t *testing.T) *invoke.App {
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	g, done := grpc.NewServer(), make(chan struct{})
	rtv1.RegisterAppCallbackServer(g, callbackApp{})
	pb.RegisterTestServiceServer(g, callbackApp{})
	go func() { defer close(done); _ = g.Serve(l) }() // Stop ends it
	t.Cleanup(func() { g.Stop(); <-done })
	transport := &http2.Client{Addr: l.Addr().String()}
	t.Cleanup(transport.Close)
	channel := appchannel.New(appchannel.Options{
		AppID: "shop", Protocol: "grpc", Transport: transport, Address: l.Addr().String(), Token: component.NewSecret("its own"),
	})
	return &invoke.App{HTTP: channel.HTTPAdapter(), GRPC: transport, Token: "its own"}
}

func httpApplication(t *testing.T) *invoke.App {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Mine", r.Header.Get("X-Mine"))
		w.Header().Set("Token", r.Header.Get("Dapr-Api-Token"))
		w.Header().Set("Content-Type", "text/plain")
		if r.URL.Path == "/fail" {
			w.WriteHeader(409)
		}
		_, _ = io.WriteString(w, r.Method+" "+r.RequestURI+" "+r.Header.Get("Content-Type")+" "+string(body))
	}))
	t.Cleanup(srv.Close)
	transport := &http1.Client{Address: srv.Listener.Addr().String()}
	t.Cleanup(func() { _ = transport.Close() })
	return &invoke.App{HTTP: transport, Token: "its own"}
}

// invoking returns a connection to the API of an application that invokes
// itself, which takes every way but that between two sidecars.
func invoking(t *testing.T, app *invoke.App) *grpc.ClientConn {
	s := invoke.New(invoke.Options{AppID: "shop", Namespace: "default", Chains: policy.None{}, App: app})
	return serve(t, New(Options{AppID: "shop", Blocks: newWorld(t), Invoker: s}))
}

func order(method string) *rtv1.InvokeServiceRequest {
	return &rtv1.InvokeServiceRequest{Id: "shop", Message: &commonv1.InvokeRequest{
		Method: method, ContentType: "application/json", Data: &anypb.Any{Value: []byte("{}")},
		HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_PUT, Querystring: "a=b"},
	}}
}

func TestAGRPCApplicationIsInvoked(t *testing.T) {
	leak.Check(t)
	c, ctx := rtv1.NewDaprClient(invoking(t, grpcApplication(t))), with(timeout(t), "x-mine", "1", "dapr-api-token", "the caller's")
	var header, trailer metadata.MD
	out, err := c.InvokeService(ctx, order("orders/1"), grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || string(out.GetData().GetValue()) != "PUT orders/1?a=b application/json {}" || out.GetContentType() != "text/plain" {
		t.Errorf("got %v, %v", out, err)
	}
	if got := strings.Join(header.Get("token"), "|"); got != "its own" {
		t.Errorf("the application was shown the token %q", got)
	}
	if header.Get("early")[0] != "1" || header.Get("early-bin")[0] != "\x00\xff" || trailer.Get("late")[0] != "1" || len(header.Get("dapr-http-status")) > 0 {
		t.Errorf("header %v, trailer %v", header, trailer)
	}
	_, err = c.InvokeService(ctx, order("fail"))
	want{codes.AlreadyExists, "Conflict", "Conflict"}.check(t, err)
	if info := errorInfo(status.Convert(err)); !proto.Equal(info, errorInfo(dapr.HTTPFailure(409, "Ünïcode"))) {
		t.Errorf("the details are %v", info)
	}
}

func TestAnHTTPApplicationIsInvoked(t *testing.T) {
	leak.Check(t, "net/http.(*persistConn).", "net/http.(*conn).")
	c, ctx := rtv1.NewDaprClient(invoking(t, httpApplication(t))), with(timeout(t), "x-mine", "1", "dapr-api-token", "the caller's")
	var header, trailer metadata.MD
	out, err := c.InvokeService(ctx, order("orders/1"), grpc.Header(&header))
	if err != nil || string(out.GetData().GetValue()) != "PUT /orders/1?a=b application/json {}" || out.GetContentType() != "text/plain" {
		t.Errorf("got %v, %v", out, err)
	}
	if got := strings.Join(header.Get("token"), "|"); got != "its own" {
		t.Errorf("the application was shown the token %q", got)
	}
	if header.Get("x-mine")[0] != "1" || header.Get("dapr-http-status")[0] != "200" || header.Get("dapr-content-type")[0] != "text/plain" {
		t.Errorf("header %v", header)
	}
	_, err = c.InvokeService(ctx, order("fail"), grpc.Header(&header), grpc.Trailer(&trailer))
	want{codes.AlreadyExists, "Conflict", "Conflict"}.check(t, err)
	if info := errorInfo(status.Convert(err)); info.GetMetadata()["http.error_message"] != "PUT /fail?a=b application/json {}" {
		t.Errorf("the details are %v", info)
	}
	if got := metadata.Join(header, trailer).Get("dapr-http-status"); got[0] != "409" {
		t.Errorf("the status is %v", got)
	}
}

func TestServicesOfAnApplicationAreReachedThroughTheAPI(t *testing.T) {
	leak.Check(t)
	c, ctx := pb.NewTestServiceClient(invoking(t, grpcApplication(t))), with(timeout(t), "dapr-app-id", "shop")
	payload := &pb.Payload{Body: []byte(strings.Repeat("x", 100_000))}
	if out, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: payload}); err != nil || !proto.Equal(out.GetPayload(), payload) {
		t.Errorf("unary: %v", err)
	}
	both := must[pb.TestService_FullDuplexCallClient](t)(c.FullDuplexCall(ctx))
	for range 3 {
		if err := both.Send(&pb.StreamingOutputCallRequest{Payload: payload}); err != nil {
			t.Fatal(err)
		}
		if m, err := both.Recv(); err != nil || !proto.Equal(m.GetPayload(), payload) {
			t.Fatalf("duplex: %v", err)
		}
	}
	if err := both.CloseSend(); err != nil {
		t.Fatal(err)
	}
	_, err := both.Recv()
	want{codes.DataLoss, "", "enough"}.check(t, err)
	_, err = c.EmptyCall(ctx, &pb.Empty{})
	want{codes.Unimplemented, "", "EmptyCall"}.check(t, err)
}
