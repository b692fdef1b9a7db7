package http2_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
)

// service is a gRPC service with all four kinds of streams.
type service struct {
	pb.UnimplementedTestServiceServer
	canceled chan struct{} // told when a handler's context has ended
}

func (s *service) EmptyCall(ctx context.Context, _ *pb.Empty) (*pb.Empty, error) {
	<-ctx.Done()
	if s.canceled != nil {
		s.canceled <- struct{}{}
	}
	return nil, ctx.Err()
}

func (s *service) UnaryCall(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if st := r.GetResponseStatus(); st.GetCode() != 0 {
		return nil, status.Error(codes.Code(st.GetCode()), st.GetMessage())
	}
	if md, _ := metadata.FromIncomingContext(ctx); len(md["x-ask"]) > 0 {
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-head", md["x-ask"][0]))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trail-bin", md["x-ask"][0]))
	}
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: bytes.Repeat([]byte("r"), int(r.GetResponseSize()))}}, nil
}

func (s *service) StreamingInputCall(in pb.TestService_StreamingInputCallServer) error {
	total := 0
	for {
		m, err := in.Recv()
		if err == io.EOF {
			return in.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: int32(total)})
		}
		if err != nil {
			return err
		}
		total += len(m.GetPayload().GetBody())
	}
}

func (s *service) StreamingOutputCall(r *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
	for _, p := range r.GetResponseParameters() {
		m := &pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: make([]byte, p.GetSize())}}
		if err := out.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) FullDuplexCall(both pb.TestService_FullDuplexCallServer) error {
	for {
		m, err := both.Recv()
		if err == io.EOF {
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

const maxMessage = 64 << 20

// grpcServer serves s with grpc-go and returns its address.
func grpcServer(tb testing.TB, s *service) string {
	tb.Helper()
	l := listen(tb)
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	pb.RegisterTestServiceServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	tb.Cleanup(func() { g.Stop(); <-done })
	return l.Addr().String()
}

func grpcClient(tb testing.TB, addr string) pb.TestServiceClient {
	tb.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cc.Close() })
	return pb.NewTestServiceClient(cc)
}

// chain puts hops of this engine between a client and a server of grpc-go: the
// first hop's server faces the client, the last hop's client the server.
func chain(tb testing.TB, hops int, s *service) pb.TestServiceClient {
	tb.Helper()
	addr := grpcServer(tb, s)
	for range hops {
		addr = serve(tb, &http2.Server{Handler: forward(dial(tb, addr)), Inline: always})
	}
	return grpcClient(tb, addr)
}

// eachChain runs test through one hop and through two, as between sidecars.
func eachChain(t *testing.T, test func(t *testing.T, tc pb.TestServiceClient)) {
	for hops := 1; hops <= 2; hops++ {
		t.Run(fmt.Sprintf("%d hops", hops), func(t *testing.T) {
			leak.Check(t)
			test(t, chain(t, hops, &service{}))
		})
	}
}

func payload(n int) *pb.Payload { return &pb.Payload{Body: bytes.Repeat([]byte("m"), n)} }

func TestGRPCUnaryCallsPass(t *testing.T) {
	eachChain(t, func(t *testing.T, tc pb.TestServiceClient) {
		for _, n := range []int{0, 1, 1 << 10, 64 << 10, 1 << 20, 20 << 20} {
			res, err := tc.UnaryCall(t.Context(), &pb.SimpleRequest{Payload: payload(n), ResponseSize: int32(n)})
			if err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			if len(res.GetPayload().GetBody()) != n {
				t.Errorf("%d bytes: %d came back", n, len(res.GetPayload().GetBody()))
			}
		}
	})
}

func TestGRPCMetadataPassesInHeadersAndTrailers(t *testing.T) {
	eachChain(t, func(t *testing.T, tc pb.TestServiceClient) {
		var head, trail metadata.MD
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-ask", "v1")
		if _, err := tc.UnaryCall(ctx, &pb.SimpleRequest{}, grpc.Header(&head), grpc.Trailer(&trail)); err != nil {
			t.Fatal(err)
		}
		if head.Get("x-head")[0] != "v1" || trail.Get("x-trail-bin")[0] != "v1" {
			t.Errorf("head %v, trailer %v", head, trail)
		}
	})
}

func TestGRPCErrorsPassAsTrailersOnly(t *testing.T) {
	eachChain(t, func(t *testing.T, tc pb.TestServiceClient) {
		for _, text := range []string{"no such order", "ends in a space: ", "\tüñí\r\n%"} {
			_, err := tc.UnaryCall(t.Context(), &pb.SimpleRequest{
				ResponseStatus: &pb.EchoStatus{Code: int32(codes.NotFound), Message: text},
			})
			if s := status.Convert(err); s.Code() != codes.NotFound || trimEnd(s.Message()) != trimEnd(text) {
				t.Errorf("status %v %q", s.Code(), s.Message())
			}
		}
		if _, err := tc.UnimplementedCall(t.Context(), &pb.Empty{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("unimplemented: %v", err)
		}
	})
}

// trimEnd takes off the space that HTTP/2 fields cannot end in.
func trimEnd(s string) string { return string(bytes.TrimRight([]byte(s), " ")) }

func TestGRPCClientStreamsPass(t *testing.T) {
	eachChain(t, func(t *testing.T, tc pb.TestServiceClient) {
		in, err := tc.StreamingInputCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for n := range 200 {
			if err := in.Send(&pb.StreamingInputCallRequest{Payload: payload(n * 100)}); err != nil {
				t.Fatal(err)
			}
		}
		res, err := in.CloseAndRecv()
		if err != nil || res.GetAggregatedPayloadSize() != 199*200/2*100 {
			t.Errorf("%v, %v", res, err)
		}
	})
}

func TestGRPCServerStreamsPass(t *testing.T) {
	eachChain(t, func(t *testing.T, tc pb.TestServiceClient) {
		r := &pb.StreamingOutputCallRequest{}
		for n := range 200 {
			r.ResponseParameters = append(r.ResponseParameters, &pb.ResponseParameters{Size: int32(n * 100)})
		}
		out, err := tc.StreamingOutputCall(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 200 {
			m, err := out.Recv()
			if err != nil || len(m.GetPayload().GetBody()) != n*100 {
				t.Fatalf("message %d: %d bytes, %v", n, len(m.GetPayload().GetBody()), err)
			}
		}
		if _, err := out.Recv(); err != io.EOF {
			t.Errorf("after the last message: %v", err)
		}
	})
}

func TestGRPCDuplexStreamsPassMessageByMessage(t *testing.T) {
	eachChain(t, func(t *testing.T, tc pb.TestServiceClient) {
		both, err := tc.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for n := range 100 {
			// Each message is answered before the next is sent.
			if err := both.Send(&pb.StreamingOutputCallRequest{Payload: payload(n * 10)}); err != nil {
				t.Fatal(err)
			}
			m, err := both.Recv()
			if err != nil || len(m.GetPayload().GetBody()) != n*10 {
				t.Fatalf("message %d: %v", n, err)
			}
		}
		if err := both.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := both.Recv(); err != io.EOF {
			t.Errorf("after the last message: %v", err)
		}
	})
}

func TestGRPCCompressedMessagesPassUntouched(t *testing.T) {
	eachChain(t, func(t *testing.T, tc pb.TestServiceClient) {
		res, err := tc.UnaryCall(t.Context(), &pb.SimpleRequest{Payload: payload(100 << 10), ResponseSize: 1000}, grpc.UseCompressor(gzip.Name))
		if err != nil || len(res.GetPayload().GetBody()) != 1000 {
			t.Errorf("%v", err)
		}
	})
}

func TestGRPCDeadlinesReachTheServer(t *testing.T) {
	for hops := 1; hops <= 2; hops++ {
		s := &service{canceled: make(chan struct{}, 1)}
		tc := chain(t, hops, s)
		for left, reached := 50*time.Millisecond, false; !reached; left *= 2 {
			ctx, cancel := context.WithTimeout(t.Context(), left)
			if _, err := tc.EmptyCall(ctx, &pb.Empty{}); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("%d hops: %v", hops, err)
			}
			cancel()
			select {
			case <-s.canceled:
				reached = true
			case <-time.After(left): // the time was over before the call was there
			}
		}
	}
}

func TestGRPCCancellationReachesTheServer(t *testing.T) {
	for hops := 1; hops <= 2; hops++ {
		s := &service{canceled: make(chan struct{}, 1)}
		tc := chain(t, hops, s)
		ctx, cancel := context.WithCancel(t.Context())
		both, err := tc.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := both.Send(&pb.StreamingOutputCallRequest{Payload: payload(1)}); err != nil {
			t.Fatal(err)
		}
		if _, err := both.Recv(); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := both.Recv(); status.Code(err) != codes.Canceled {
			t.Errorf("%d hops: %v", hops, err)
		}

		ctx, cancel = context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := tc.EmptyCall(ctx, &pb.Empty{})
			done <- err
		}()
		cancel()
		if err := <-done; status.Code(err) != codes.Canceled {
			t.Errorf("%d hops: %v", hops, err)
		}
	}
}

func TestAHundredGRPCStreamsShareAConnection(t *testing.T) {
	eachChain(t, func(t *testing.T, tc pb.TestServiceClient) {
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for n := range 10 {
					res, err := tc.UnaryCall(t.Context(), &pb.SimpleRequest{Payload: payload(n * 1000), ResponseSize: int32(n * 1000)})
					if err != nil || len(res.GetPayload().GetBody()) != n*1000 {
						t.Errorf("%v", err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestGRPCClientsThatPingForEachAnswerAreNoFlood(t *testing.T) {
	leak.Check(t)
	inner := dial(t, grpcServer(t, &service{}))
	tc := grpcClient(t, serve(t, &http2.Server{Handler: forward(inner), Inline: always, Config: http2.Config{FrameBudget: 20}}))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 200 {
				if _, err := tc.UnaryCall(t.Context(), &pb.SimpleRequest{ResponseSize: 10}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	both, err := tc.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if err := both.Send(&pb.StreamingOutputCallRequest{Payload: payload(1)}); err != nil {
			t.Fatal(err)
		}
		if _, err := both.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	_ = both.CloseSend()
	_, _ = both.Recv()
	wg.Wait()
}
