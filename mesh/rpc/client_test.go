package rpc_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // the server compresses
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
)

// conn returns a connection of this package to a server of grpc-go.
func conn(tb testing.TB, s *service) *rpc.ClientConn {
	tb.Helper()
	return &rpc.ClientConn{Transport: transport(tb, grpcServer(tb, s)), Authority: "app"}
}

func TestCallsToGRPCGoAreAnswered(t *testing.T) {
	leak.Check(t)
	c := pb.NewTestServiceClient(conn(t, &service{}))
	for _, size := range []int{0, 1, 5000, 3 << 20} {
		out, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{Payload: payload(size)})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(out.GetPayload().GetBody()); got != size {
			t.Errorf("sent %d bytes, got %d", size, got)
		}
	}
}

func TestErrorsOfGRPCGoAreUnderstood(t *testing.T) {
	leak.Check(t)
	c := pb.NewTestServiceClient(conn(t, &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("after")) > 0 {
			_ = grpc.SendHeader(ctx, nil) // the status comes in a trailer of its own
		}
		return nil, richError(codes.NotFound, "100 % Ünïcode\n")
	}}))
	for _, ctx := range []context.Context{timeout(t), metadata.AppendToOutgoingContext(timeout(t), "after", "1")} {
		_, err := c.UnaryCall(ctx, &pb.SimpleRequest{})
		if text := wantCode(t, err, codes.NotFound); text != "100 % Ünïcode\n" {
			t.Errorf("the text is %q", text)
		}
		wantDetails(t, err)
	}
	_, err := c.EmptyCall(timeout(t), &pb.Empty{})
	wantCode(t, err, codes.Unimplemented)
}

func TestMetadataIsExchangedWithGRPCGo(t *testing.T) {
	leak.Check(t)
	cc := conn(t, &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		_ = grpc.SetHeader(ctx, metadata.Pairs("got", texts(md, "plain"), "got-bin", texts(md, "raw-bin"), "always", texts(md, "fixed")))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("last-bin", "\xfe"))
		if texts(md, ":authority") != "app" {
			return nil, status.Errorf(codes.Internal, "the authority is %q", texts(md, ":authority"))
		}
		return &pb.SimpleResponse{}, nil
	}})
	cc.Header = proxy.Header{{Name: "fixed", Value: "yes"}}
	var head, trailer metadata.MD
	ctx := metadata.AppendToOutgoingContext(timeout(t), "plain", "a", "raw-bin", "\x00\xff")
	if _, err := pb.NewTestServiceClient(cc).UnaryCall(ctx, &pb.SimpleRequest{}, grpc.Header(&head), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if texts(head, "got") != "a" || texts(head, "got-bin") != "\x00\xff" || texts(head, "always") != "yes" || texts(trailer, "last-bin") != "\xfe" {
		t.Errorf("head %v, trailer %v", head, trailer)
	}
}

func TestCompressedAnswersAreRead(t *testing.T) {
	leak.Check(t)
	c := pb.NewTestServiceClient(conn(t, &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		return &pb.SimpleResponse{Payload: payload(100_000)}, grpc.SetSendCompressor(ctx, "gzip")
	}}))
	out, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{})
	if err != nil || len(out.GetPayload().GetBody()) != 100_000 {
		t.Errorf("%d bytes, %v", len(out.GetPayload().GetBody()), err)
	}
}

func TestAnswersBeyondTheLimitAreRefused(t *testing.T) {
	leak.Check(t)
	cc := conn(t, &service{})
	cc.MaxMessage = 1000
	_, err := pb.NewTestServiceClient(cc).UnaryCall(timeout(t), &pb.SimpleRequest{Payload: payload(2000)})
	wantCode(t, err, codes.ResourceExhausted)
}

func TestTheDeadlineOfACallReachesGRPCGo(t *testing.T) {
	leak.Check(t)
	got := make(chan bool, 1)
	c := pb.NewTestServiceClient(conn(t, &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		_, ok := ctx.Deadline()
		got <- ok
		<-ctx.Done()
		return nil, ctx.Err()
	}}))
	ctx, cancel := context.WithTimeout(timeout(t), 100*time.Millisecond)
	defer cancel()
	_, err := c.UnaryCall(ctx, &pb.SimpleRequest{})
	wantCode(t, err, codes.DeadlineExceeded)
	if !<-got {
		t.Error("the server saw no deadline")
	}
}

func TestACallThatIsCanceledReturnsAtOnce(t *testing.T) {
	leak.Check(t)
	started, done := make(chan struct{}), make(chan struct{})
	c := pb.NewTestServiceClient(conn(t, &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		defer close(done)
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	}}))
	ctx, cancel := context.WithCancel(timeout(t))
	go func() { <-started; cancel() }()
	_, err := c.UnaryCall(ctx, &pb.SimpleRequest{})
	wantCode(t, err, codes.Canceled)
	<-done
}

func TestACallThatCannotBeMadeIsUnavailableAndUnsent(t *testing.T) {
	leak.Check(t)
	l := listen(t)
	_ = l.Close()
	c := pb.NewTestServiceClient(&rpc.ClientConn{Transport: transport(t, l.Addr().String())})
	_, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{})
	wantCode(t, err, codes.Unavailable)
	if fault.CodeOf(err) != fault.Unavailable || !proxy.Unsent(err) {
		t.Errorf("fault %v, unsent %t: %v", fault.CodeOf(err), proxy.Unsent(err), err)
	}
}

func TestAnswersThatAreNotGRPCAreNamed(t *testing.T) {
	leak.Check(t)
	one := string(frame(0, nil))
	grpcType, okStatus := proxy.Field{Name: "content-type", Value: "application/grpc"}, proxy.Field{Name: "grpc-status", Value: "0"}
	for _, tc := range []struct {
		name    string
		status  int
		head    proxy.Header
		body    string
		trailer proxy.Header
		abort   bool
		code    codes.Code
	}{
		{name: "404", status: 404, code: codes.Unimplemented},
		{name: "503", status: 503, code: codes.Unavailable},
		{name: "401", status: 401, code: codes.Unauthenticated},
		{name: "403", status: 403, code: codes.PermissionDenied},
		{name: "400", status: 400, code: codes.Internal},
		{name: "500", status: 500, code: codes.Unknown},
		{name: "HTML", status: 200, head: proxy.Header{{Name: "content-type", Value: "text/html"}}, body: "<p>", code: codes.Unknown},
		{name: "no status", status: 200, head: proxy.Header{grpcType}, body: one, code: codes.Internal},
		{name: "a status that is no number", status: 200, head: proxy.Header{grpcType, {Name: "grpc-status", Value: "x"}}, code: codes.Unknown},
		{name: "OK without a message", status: 200, head: proxy.Header{grpcType, okStatus}, code: codes.Internal},
		{name: "OK in the trailer without a message", status: 200, head: proxy.Header{grpcType, {Name: "x", Value: "y"}},
			trailer: proxy.Header{okStatus}, code: codes.Internal},
		{name: "two messages", status: 200, head: proxy.Header{grpcType}, body: one + one, trailer: proxy.Header{okStatus}, code: codes.Internal},
		{name: "half a message", status: 200, head: proxy.Header{grpcType}, body: one[:3], trailer: proxy.Header{okStatus}, code: codes.Internal},
		{name: "not the message", status: 200, head: proxy.Header{grpcType}, body: "\x00\x00\x00\x00\x01\xff",
			trailer: proxy.Header{okStatus}, code: codes.Internal},
		{name: "a stream that breaks", status: 200, head: proxy.Header{grpcType}, body: one, abort: true, code: codes.Unavailable},
		{name: "good", status: 200, head: proxy.Header{grpcType}, body: one, trailer: proxy.Header{okStatus}, code: codes.OK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cl := transport(t, serve(t, func(ex proxy.Exchange) {
				_, _ = io.Copy(io.Discard, ex.Request().Body)
				_ = ex.Respond(tc.status, tc.head, proxy.UnknownLength)
				_, _ = ex.Write([]byte(tc.body))
				_ = ex.Flush()
				if tc.abort {
					ex.Abort()
				} else if len(tc.trailer) > 0 {
					_ = ex.Trailer(tc.trailer)
				}
			}))
			_, err := pb.NewTestServiceClient(&rpc.ClientConn{Transport: cl, Authority: "app"}).UnaryCall(timeout(t), &pb.SimpleRequest{})
			wantCode(t, err, tc.code)
			if strings.Contains(tc.name, "breaks") && fault.CodeOf(err) != fault.Unavailable {
				t.Errorf("the fault is %v", fault.CodeOf(err))
			}
		})
	}
}

func TestStreamsAreRefused(t *testing.T) {
	c := pb.NewTestServiceClient(&rpc.ClientConn{})
	_, err := c.FullDuplexCall(t.Context())
	wantCode(t, err, codes.Unimplemented)
}

// broken is a transport that fails.
type broken struct{ err error }

func (b broken) RoundTrip(context.Context, *proxy.Request, proxy.RoundTripOptions) (*proxy.Response, error) {
	return nil, b.err
}

func TestFailuresOfTheTransportHaveACode(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code codes.Code
	}{
		{fault.New(fault.Unavailable, "x"), codes.Unavailable},
		{fault.New(fault.DeadlineExceeded, "x"), codes.DeadlineExceeded},
		{fault.New(fault.Canceled, "x"), codes.Canceled},
		{fault.New(fault.ResourceExhausted, "x"), codes.ResourceExhausted},
		{fault.New(fault.InvalidArgument, "x"), codes.InvalidArgument},
		{fault.New(fault.PermissionDenied, "x"), codes.Unavailable}, // that is about the connection, not the call
		{errors.New("x"), codes.Unavailable},
	} {
		_, err := pb.NewTestServiceClient(&rpc.ClientConn{Transport: broken{tc.err}}).UnaryCall(t.Context(), &pb.SimpleRequest{})
		wantCode(t, err, tc.code)
		if !errors.Is(err, tc.err) {
			t.Errorf("%v does not wrap its cause", err)
		}
	}
}
