package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
)

func TestUnaryCallsOfAllSizesAreAnswered(t *testing.T) {
	leak.Check(t)
	c := client(t, &service{}, rpc.Options{})
	for _, size := range []int{0, 1, 1 << 10, firstBuffer - 12, firstBuffer, 70 << 10, 3 << 20} {
		out, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{Payload: payload(size)})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(out.GetPayload().GetBody()); got != size {
			t.Errorf("sent %d bytes, got %d", size, got)
		}
	}
}

// firstBuffer is the size of the reader's first buffer.
const firstBuffer = 2 << 10

func TestStreamsOfAllKindsPassMessageByMessage(t *testing.T) {
	leak.Check(t)
	c, ctx := client(t, &service{}, rpc.Options{}), timeout(t)

	in, err := c.StreamingInputCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := in.Send(&pb.StreamingInputCallRequest{Payload: payload(1000)}); err != nil {
			t.Fatal(err)
		}
	}
	if sum, err := in.CloseAndRecv(); err != nil || sum.GetAggregatedPayloadSize() != 10_000 {
		t.Errorf("client stream: %v %v", sum, err)
	}

	sizes := []int32{0, 1, 5000, 300_000, 2}
	request := &pb.StreamingOutputCallRequest{}
	for _, n := range sizes {
		request.ResponseParameters = append(request.ResponseParameters, &pb.ResponseParameters{Size: n})
	}
	out, err := c.StreamingOutputCall(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range sizes {
		m, err := out.Recv()
		if err != nil || len(m.GetPayload().GetBody()) != int(n) {
			t.Fatalf("server stream: %d bytes, %v; want %d", len(m.GetPayload().GetBody()), err, n)
		}
	}
	if _, err := out.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the server stream ended with %v", err)
	}

	both, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{3, 0, 400_000, 7} { // each is answered before the next is sent
		if err := both.Send(&pb.StreamingOutputCallRequest{Payload: payload(n)}); err != nil {
			t.Fatal(err)
		}
		if m, err := both.Recv(); err != nil || len(m.GetPayload().GetBody()) != n {
			t.Fatalf("duplex stream: %v", err)
		}
	}
	if err := both.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := both.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the duplex stream ended with %v", err)
	}
}

func TestAStreamWithoutAMessageEndsWell(t *testing.T) {
	leak.Check(t)
	c := client(t, &service{}, rpc.Options{})
	out, err := c.StreamingOutputCall(timeout(t), &pb.StreamingOutputCallRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("it ended with %v", err)
	}
}

func TestErrorsArriveWithCodeTextAndDetails(t *testing.T) {
	leak.Check(t)
	for _, tc := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"a status", status.Error(codes.NotFound, "no such thing"), codes.NotFound, "no such thing"},
		{"without text", status.Error(codes.Aborted, ""), codes.Aborted, ""},
		{"any text", status.Error(codes.Internal, "100 % Ünïcode\r\n\x00 ☃"), codes.Internal, "100 % Ünïcode\r\n\x00 ☃"},
		{"text that is not UTF-8", status.Error(codes.Internal, "a\xffb"), codes.Internal, "a�b"},
		{"a fault", fault.Wrap(errors.New("secret"), fault.Unavailable, "for the caller"), codes.Unavailable, "for the caller"},
		{"a context's", context.DeadlineExceeded, codes.DeadlineExceeded, "the call ran out of time"},
		{"any error", errors.New("secret"), codes.Unknown, "internal error"},
		{"long text", status.Error(codes.Internal, strings.Repeat("é", 4000)), codes.Internal, strings.Repeat("é", 339) + " ..."},
		{"a code of the future", status.Error(77, "new"), 77, "new"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := client(t, &service{
				unary: func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) { return nil, tc.err },
				output: func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
					_ = out.Send(&pb.StreamingOutputCallResponse{}) // that it arrives is checked
					return tc.err
				},
			}, rpc.Options{})
			_, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{})
			if text := wantCode(t, err, tc.code); text != tc.text {
				t.Errorf("the text is %q, want %q", text, tc.text)
			}
			out, err := c.StreamingOutputCall(timeout(t), &pb.StreamingOutputCallRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := out.Recv(); err != nil {
				t.Fatal(err)
			}
			_, err = out.Recv()
			if text := wantCode(t, err, tc.code); text != tc.text {
				t.Errorf("after a message the text is %q, want %q", text, tc.text)
			}
		})
	}
}

func TestDetailsArriveWhateverTheLengthOfTheText(t *testing.T) {
	leak.Check(t)
	c := client(t, &service{unary: func(_ context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		return nil, richError(codes.InvalidArgument, strings.Repeat("t", int(r.GetResponseSize())))
	}}, rpc.Options{})
	for _, size := range []int32{0, 100, 100_000} {
		_, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{ResponseSize: size})
		wantCode(t, err, codes.InvalidArgument)
		wantDetails(t, err)
	}
}

func TestDetailsThatAreTooLongAreLeftOut(t *testing.T) {
	leak.Check(t)
	c := client(t, &service{unary: func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		st, err := status.New(codes.Aborted, "text").WithDetails(&errdetails.DebugInfo{Detail: strings.Repeat("d", 50_000)})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}}, rpc.Options{})
	_, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{})
	if text := wantCode(t, err, codes.Aborted); text != "text" {
		t.Errorf("the text is %q", text)
	}
	if d := status.Convert(err).Details(); len(d) != 0 {
		t.Errorf("there are details: %v", d)
	}
}

func TestMetadataGoesBothWays(t *testing.T) {
	leak.Check(t)
	c := client(t, &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		in := rpc.Metadata(rpc.IncomingHeader(ctx))
		head := metadata.Pairs("got", texts(in, "plain"), "got-bin", texts(in, "raw-bin"), "content-type", "text/html")
		if err := rpc.SetHeader(ctx, head); err != nil {
			return nil, err
		}
		return &pb.SimpleResponse{}, rpc.SetTrailer(ctx, metadata.Pairs("last", "1", "last", "2", "grpc-status", "9"))
	}}, rpc.Options{})
	ctx := metadata.AppendToOutgoingContext(timeout(t), "plain", "a", "plain", "b", "raw-bin", "\x00\xff", "raw-bin", "")
	var head, trailer metadata.MD
	if _, err := c.UnaryCall(ctx, &pb.SimpleRequest{}, grpc.Header(&head), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if got := texts(head, "got"); got != "a|b" {
		t.Errorf("plain metadata arrived as %q", got)
	}
	if got := texts(head, "got-bin"); got != "\x00\xff|" {
		t.Errorf("binary metadata arrived as %q", got)
	}
	if got := texts(head, "content-type"); got != "application/grpc" {
		t.Errorf("the content type is %q", got)
	}
	if got := texts(trailer, "last"); got != "1|2" {
		t.Errorf("the trailer arrived as %q", got)
	}
}

func TestMetadataOfAFailedCallArrives(t *testing.T) {
	leak.Check(t)
	c := client(t, &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		_ = rpc.SetHeader(ctx, metadata.Pairs("early", "1"))
		_ = rpc.SetTrailer(ctx, metadata.Pairs("late", "2"))
		return nil, status.Error(codes.Aborted, "no")
	}}, rpc.Options{})
	var head, trailer metadata.MD
	_, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{}, grpc.Header(&head), grpc.Trailer(&trailer))
	wantCode(t, err, codes.Aborted)
	if texts(head, "early") != "1" || texts(trailer, "early") != "" || texts(trailer, "late") != "2" {
		t.Errorf("head %v, trailer %v", head, trailer)
	}
}

func TestMetadataThatCannotBeSentDoesNotHideTheStatus(t *testing.T) {
	leak.Check(t)
	bad := metadata.Pairs("bad", "line\nbreak")
	for _, tc := range []struct {
		name  string
		unary func(ctx context.Context) error
		code  codes.Code
	}{
		{"in the head of an answer", func(ctx context.Context) error { return rpc.SetHeader(ctx, bad) }, codes.Internal},
		{"in the head of a failure", func(ctx context.Context) error {
			return errors.Join(rpc.SetHeader(ctx, bad), status.Error(codes.Aborted, ""))
		}, codes.Aborted},
		{"in the trailer of an answer", func(ctx context.Context) error { return rpc.SetTrailer(ctx, bad) }, codes.OK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := client(t, &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
				return &pb.SimpleResponse{}, tc.unary(ctx)
			}}, rpc.Options{})
			_, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{})
			wantCode(t, err, tc.code)
		})
	}
}

func TestOutsideOfACallThereIsNoMetadata(t *testing.T) {
	if err := rpc.SetHeader(t.Context(), metadata.Pairs("a", "b")); err == nil {
		t.Error("SetHeader succeeded")
	}
	if err := rpc.SetTrailer(t.Context(), metadata.Pairs("a", "b")); err == nil {
		t.Error("SetTrailer succeeded")
	}
	if h := rpc.IncomingHeader(t.Context()); h != nil {
		t.Errorf("IncomingHeader gave %v", h)
	}
}

func TestTheDeadlineOfTheClientIsThatOfTheHandler(t *testing.T) {
	leak.Check(t)
	got := make(chan error, 1)
	c := client(t, &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		if _, ok := ctx.Deadline(); !ok {
			got <- errors.New("there is no deadline")
			return nil, nil
		}
		<-ctx.Done()
		got <- context.Cause(ctx)
		return nil, ctx.Err()
	}}, rpc.Options{})
	ctx, cancel := context.WithTimeout(timeout(t), 50*time.Millisecond)
	defer cancel()
	_, err := c.UnaryCall(ctx, &pb.SimpleRequest{})
	wantCode(t, err, codes.DeadlineExceeded)
	if err := <-got; !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) && fault.CodeOf(err) != fault.Canceled {
		t.Errorf("the handler's context ended with %v", err)
	}
}

func TestCancellationReachesTheHandler(t *testing.T) {
	leak.Check(t)
	for _, tc := range []struct {
		name string
		wait func(ctx context.Context) error
	}{
		{"that waits", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
		{"that asks again and again", func(ctx context.Context) error {
			for ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			return ctx.Err()
		}},
		{"that waits with a deadline of its own", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			<-ctx.Done()
			return ctx.Err()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			started, got := make(chan struct{}), make(chan error, 1)
			c := client(t, &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
				close(started)
				err := tc.wait(ctx)
				got <- err
				return nil, err
			}}, rpc.Options{})
			ctx, cancel := context.WithCancel(timeout(t))
			go func() { <-started; cancel() }()
			_, err := c.UnaryCall(ctx, &pb.SimpleRequest{})
			wantCode(t, err, codes.Canceled)
			if err := <-got; !errors.Is(err, context.Canceled) {
				t.Errorf("the handler's context ended with %v", err)
			}
		})
	}
}

func TestAStreamThatReceivesEndsWhenTheClientGoes(t *testing.T) {
	leak.Check(t)
	started, got := make(chan struct{}), make(chan error, 1)
	c := client(t, &service{duplex: func(both pb.TestService_FullDuplexCallServer) error {
		close(started)
		for {
			if _, err := both.Recv(); err != nil {
				got <- err
				return err
			}
		}
	}}, rpc.Options{})
	ctx, cancel := context.WithCancel(timeout(t))
	defer cancel()
	both, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := both.Send(&pb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	<-started
	cancel()
	wantCode(t, <-got, codes.Canceled)
}

func TestCompressedMessagesAreRead(t *testing.T) {
	leak.Check(t)
	c := client(t, &service{}, rpc.Options{})
	for _, size := range []int{0, 10, 100_000} {
		out, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{Payload: payload(size)}, grpc.UseCompressor(gzip.Name))
		if err != nil {
			t.Fatal(err)
		}
		if got := len(out.GetPayload().GetBody()); got != size {
			t.Errorf("sent %d bytes, got %d", size, got)
		}
	}
}

func TestMessagesBeyondTheLimitAreRefused(t *testing.T) {
	leak.Check(t)
	c := client(t, &service{}, rpc.Options{MaxMessage: 1000})
	_, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{Payload: payload(1001)})
	if text := wantCode(t, err, codes.ResourceExhausted); !strings.Contains(text, "1000") {
		t.Errorf("%q does not name the limit", text)
	}
	_, err = c.UnaryCall(timeout(t), &pb.SimpleRequest{Payload: payload(1 << 20)}, grpc.UseCompressor(gzip.Name))
	wantCode(t, err, codes.ResourceExhausted)
	in, err := c.StreamingInputCall(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = in.Send(&pb.StreamingInputCallRequest{Payload: payload(1001)})
	_, err = in.CloseAndRecv()
	wantCode(t, err, codes.ResourceExhausted)
	if _, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{Payload: payload(900)}); err != nil {
		t.Errorf("a message within the limit: %v", err)
	}
}

func TestUnknownMethodsAndServicesAreUnimplemented(t *testing.T) {
	leak.Check(t)
	cc := dial(t, serve(t, newServer(&service{}, rpc.Options{}).Handle))
	for _, path := range []string{"/grpc.testing.TestService/Nope", "/no.Service/Method"} {
		err := cc.Invoke(timeout(t), path, &pb.Empty{}, &pb.Empty{})
		if text := wantCode(t, err, codes.Unimplemented); !strings.Contains(text, path) {
			t.Errorf("%q does not name the method", text)
		}
	}
	_, err := pb.NewTestServiceClient(cc).CacheableUnaryCall(timeout(t), &pb.SimpleRequest{})
	wantCode(t, err, codes.Unimplemented)
}

func TestUnknownServicesGoToTheirHandler(t *testing.T) {
	leak.Check(t)
	unknown := func(ex proxy.Exchange) { _ = rpc.Fail(ex, status.New(codes.DataLoss, "seen "+ex.Request().Target)) }
	cc := dial(t, serve(t, newServer(&service{}, rpc.Options{Unknown: unknown}).Handle))
	err := cc.Invoke(timeout(t), "/no.Service/Method", &pb.Empty{}, &pb.Empty{})
	if text := wantCode(t, err, codes.DataLoss); text != "seen /no.Service/Method" {
		t.Errorf("got %q", text)
	}
	err = cc.Invoke(timeout(t), "/grpc.testing.TestService/Nope", &pb.Empty{}, &pb.Empty{})
	wantCode(t, err, codes.Unimplemented)
}

func TestTheCheckStandsBeforeEveryMethod(t *testing.T) {
	leak.Check(t)
	check := func(method string, h proxy.Header) error {
		if h.Get("token") != "open" {
			return status.Error(codes.Unauthenticated, method)
		}
		return nil
	}
	c := client(t, &service{}, rpc.Options{Check: check})
	_, err := c.UnaryCall(timeout(t), &pb.SimpleRequest{Payload: payload(10)})
	if text := wantCode(t, err, codes.Unauthenticated); text != unaryPath {
		t.Errorf("got %q", text)
	}
	both, err := c.FullDuplexCall(timeout(t))
	if err == nil {
		_, err = both.Recv()
	}
	wantCode(t, err, codes.Unauthenticated)
	if _, err := c.UnaryCall(metadata.AppendToOutgoingContext(timeout(t), "token", "open"), &pb.SimpleRequest{}); err != nil {
		t.Error(err)
	}
}

type enriched struct{}

func TestTheContextOfACallCanBeEnriched(t *testing.T) {
	leak.Check(t)
	s := &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		name, _ := ctx.Value(enriched{}).(string)
		return &pb.SimpleResponse{Username: name}, nil
	}}
	w := &watcher{}
	c := client(t, s, rpc.Options{Enrich: func(ctx context.Context, method string, h proxy.Header) (context.Context, rpc.Watcher) {
		w.method = method
		return context.WithValue(ctx, enriched{}, h.Get("who")), w
	}})
	out, err := c.UnaryCall(metadata.AppendToOutgoingContext(timeout(t), "who", "ann"), &pb.SimpleRequest{ResponseSize: 7})
	if err != nil || out.GetUsername() != "ann" {
		t.Errorf("got %v, %v", out, err)
	}
	if r, ok := w.request.(*pb.SimpleRequest); !ok || r.GetResponseSize() != 7 || w.ended != 1 || w.err != nil || !strings.HasSuffix(w.method, "/UnaryCall") {
		t.Errorf("it watched %+v", w)
	}
}

// watcher notes what it is told.
type watcher struct {
	method  string
	request any
	ended   int
	err     error
}

func (w *watcher) Request(m any) { w.request = m }

func (w *watcher) End(err error) {
	w.ended++
	w.err = err
}

func TestCallsAreObservedWithTheirOutcome(t *testing.T) {
	leak.Check(t)
	seen := make(chan string, 3)
	s := &service{unary: func(_ context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		return &pb.SimpleResponse{}, status.FromProto(&spb.Status{Code: r.GetResponseSize()}).Err()
	}}
	c := client(t, s, rpc.Options{Observe: func(o rpc.Observed) {
		if o.Duration <= 0 {
			t.Errorf("%s took %v", o.Method, o.Duration)
		}
		seen <- fmt.Sprintln(o.Method, o.Code, o.Header.Get("who"))
	}})
	ctx := metadata.AppendToOutgoingContext(timeout(t), "who", "ann")
	for _, code := range []codes.Code{codes.OK, codes.Aborted} {
		_, err := c.UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: int32(code)})
		wantCode(t, err, code)
		if got, want := <-seen, fmt.Sprintln(unaryPath, code, "ann"); got != want {
			t.Errorf("seen %s, want %s", got, want)
		}
	}
}

func TestAHandlerCanEndWhatItReceives(t *testing.T) {
	leak.Check(t)
	c := client(t, &service{duplex: func(both pb.TestService_FullDuplexCallServer) error {
		go rpc.CloseReceive(both.Context())
		_, err := both.Recv()
		if err == nil || errors.Is(err, io.EOF) {
			return fmt.Errorf("Recv returned %w", err)
		}
		return errors.Join(both.Send(&pb.StreamingOutputCallResponse{}), status.Error(codes.Unavailable, "going away"))
	}}, rpc.Options{})
	both, err := c.FullDuplexCall(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := both.Recv(); err != nil {
		t.Fatalf("what was sent afterwards: %v", err)
	}
	_, err = both.Recv()
	wantCode(t, err, codes.Unavailable)
}

func TestAHandlerCanResetItsStream(t *testing.T) {
	leak.Check(t)
	c := client(t, &service{duplex: func(both pb.TestService_FullDuplexCallServer) error {
		rpc.Abort(both.Context())
		_, err := both.Recv()
		return err
	}}, rpc.Options{})
	both, err := c.FullDuplexCall(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = both.Recv()
	wantCode(t, err, codes.Internal)
	rpc.Abort(t.Context()) // no call: nothing happens
	rpc.CloseReceive(t.Context())
}

func TestReflectionDescribesTheServices(t *testing.T) {
	leak.Check(t)
	server := newServer(&service{}, rpc.Options{})
	reflection.Register(server)
	stream, err := reflectpb.NewServerReflectionClient(dial(t, serve(t, server.Handle))).ServerReflectionInfo(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*reflectpb.ServerReflectionRequest{
		{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}},
		{MessageRequest: &reflectpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "grpc.testing.TestService"}},
	} {
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		list := answer.GetListServicesResponse().GetService()
		files := answer.GetFileDescriptorResponse().GetFileDescriptorProto()
		if len(list) != 3 && len(files) == 0 {
			t.Errorf("%v was answered with %v", r, answer)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}
