package rpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
)

// service is what the tests call, on this package's server and on grpc-go's.
type service struct {
	pb.UnimplementedTestServiceServer
	unary  func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) // nil: echo
	output func(*pb.StreamingOutputCallRequest, pb.TestService_StreamingOutputCallServer) error
	duplex func(pb.TestService_FullDuplexCallServer) error // nil: echo
}

func (s *service) UnaryCall(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if s.unary != nil {
		return s.unary(ctx, r)
	}
	return &pb.SimpleResponse{Payload: r.GetPayload()}, nil
}

func (s *service) StreamingInputCall(in pb.TestService_StreamingInputCallServer) error {
	var total int32
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: total})
		}
		if err != nil {
			return err
		}
		total += int32(len(m.GetPayload().GetBody()))
	}
}

func (s *service) StreamingOutputCall(r *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
	if s.output != nil {
		return s.output(r, out)
	}
	for _, p := range r.GetResponseParameters() {
		if err := out.Send(&pb.StreamingOutputCallResponse{Payload: payload(int(p.GetSize()))}); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) FullDuplexCall(both pb.TestService_FullDuplexCallServer) error {
	if s.duplex != nil {
		return s.duplex(both)
	}
	for {
		m, err := both.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := both.Send(&pb.StreamingOutputCallResponse{Payload: m.GetPayload()}); err != nil {
			return err
		}
	}
}

func payload(n int) *pb.Payload { return &pb.Payload{Body: []byte(strings.Repeat("m", n))} }

const unaryPath = "/grpc.testing.TestService/UnaryCall"

// newServer returns a server of s.
func newServer(s *service, o rpc.Options) *rpc.Server {
	server := rpc.NewServer(o)
	pb.RegisterTestServiceServer(server, s)
	return server
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// serve serves h over HTTP/2 until the test ends and returns its address.
func serve(tb testing.TB, h proxy.Handler) string {
	tb.Helper()
	s := &http2.Server{Handler: h}
	l, done := listen(tb), make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	tb.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// dial returns a client of grpc-go.
func dial(tb testing.TB, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	cc, err := grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cc.Close() })
	return cc
}

// client serves s by this package and returns a client of grpc-go.
func client(tb testing.TB, s *service, o rpc.Options) pb.TestServiceClient {
	tb.Helper()
	return pb.NewTestServiceClient(dial(tb, serve(tb, newServer(s, o).Handle)))
}

// grpcServer serves s with grpc-go and returns its address.
func grpcServer(tb testing.TB, s *service, opts ...grpc.ServerOption) string {
	tb.Helper()
	l, done := listen(tb), make(chan struct{})
	g := grpc.NewServer(opts...)
	pb.RegisterTestServiceServer(g, s)
	go func() { defer close(done); _ = g.Serve(l) }()
	tb.Cleanup(func() { g.Stop(); <-done })
	return l.Addr().String()
}

// transport returns a client of the engine.
func transport(tb testing.TB, addr string) *http2.Client {
	tb.Helper()
	cl := &http2.Client{Addr: addr}
	tb.Cleanup(cl.Close)
	return cl
}

// timeout bounds a test that would hang if it failed.
func timeout(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// wantCode fails the test unless err has the code, and returns its text.
func wantCode(tb testing.TB, err error, code codes.Code) string {
	tb.Helper()
	if status.Code(err) != code {
		tb.Fatalf("got %v, want code %v", err, code)
	}
	return status.Convert(err).Message()
}

// richError is an error with details.
func richError(code codes.Code, text string) error {
	st, err := status.New(code, text).WithDetails(
		&errdetails.ErrorInfo{Reason: "WHY", Domain: "test", Metadata: map[string]string{"key": "value"}},
		&errdetails.ResourceInfo{ResourceType: "state", ResourceName: "store"})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

// wantDetails fails the test unless err has the details of richError.
func wantDetails(tb testing.TB, err error) {
	tb.Helper()
	details := status.Convert(err).Details()
	if len(details) != 2 {
		tb.Fatalf("%v has %d details, want 2", err, len(details))
	}
	info, ok := details[0].(*errdetails.ErrorInfo)
	if !ok || info.GetReason() != "WHY" || info.GetMetadata()["key"] != "value" {
		tb.Errorf("the first detail is %v", details[0])
	}
}

// texts returns the values of a metadata entry, joined.
func texts(md metadata.MD, key string) string { return strings.Join(md.Get(key), "|") }
