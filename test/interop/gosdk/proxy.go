package main

import (
	"context"
	"errors"
	"io"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// checkProxy calls a gRPC service of the other application through the sidecars,
// which know nothing of it.
func (a *app) checkProxy() {
	if a.protocol != "grpc" {
		return
	}
	// Not the connection of the SDK: with a token, that leaves all other metadata
	// out.
	conn, err := grpc.NewClient("127.0.0.1:"+os.Getenv("DAPR_GRPC_PORT"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err) // the address is well formed
	}
	defer conn.Close()
	service := grpc_testing.NewTestServiceClient(conn)
	token := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "dapr-api-token", os.Getenv("DAPR_API_TOKEN"))
	}
	to := func(ctx context.Context, app string) context.Context {
		return metadata.AppendToOutgoingContext(token(ctx), "dapr-app-id", app, "x-grpc-test-echo-initial", "there and back",
			"x-grpc-test-echo-trailing-bin", "\x00\xff")
	}
	payload := func(size int) *grpc_testing.Payload { return &grpc_testing.Payload{Body: make([]byte, size)} }

	a.check("proxy: a call, its headers and its trailers pass", func(ctx context.Context, t *t) {
		var header, trailer metadata.MD
		out, err := service.UnaryCall(to(ctx, a.peer), &grpc_testing.SimpleRequest{ResponseSize: 300_000, Payload: payload(200_000)},
			grpc.Header(&header), grpc.Trailer(&trailer))
		t.ok(err)
		t.equal(len(out.GetPayload().GetBody()), 300_000, "size of the response")
		t.equal(header.Get("x-grpc-test-echo-initial"), []string{"there and back"}, "header")
		t.equal(trailer.Get("x-grpc-test-echo-trailing-bin"), []string{"\x00\xff"}, "trailer")
	})
	a.check("proxy: a status passes", func(ctx context.Context, t *t) {
		_, err := service.UnaryCall(to(ctx, a.peer), &grpc_testing.SimpleRequest{
			ResponseStatus: &grpc_testing.EchoStatus{Code: int32(codes.DataLoss), Message: "lost: 漢字"},
		})
		t.equal([]any{status.Code(err), status.Convert(err).Message()}, []any{codes.DataLoss, "lost: 漢字"}, "status")
	})
	a.check("proxy: a stream of requests passes", func(ctx context.Context, t *t) {
		stream, err := service.StreamingInputCall(to(ctx, a.peer))
		t.ok(err)
		for size := range 50 {
			t.ok(stream.Send(&grpc_testing.StreamingInputCallRequest{Payload: payload(size * 100)}))
		}
		out, err := stream.CloseAndRecv()
		t.ok(err)
		t.equal(out.GetAggregatedPayloadSize(), int32(50*49/2*100), "sum of the sizes")
	})
	a.check("proxy: a stream of responses passes", func(ctx context.Context, t *t) {
		var want, got []int
		in := &grpc_testing.StreamingOutputCallRequest{}
		for size := range 50 {
			want = append(want, size*1000)
			in.ResponseParameters = append(in.ResponseParameters, &grpc_testing.ResponseParameters{Size: int32(size * 1000)})
		}
		stream, err := service.StreamingOutputCall(to(ctx, a.peer), in)
		t.ok(err)
		for {
			out, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			t.ok(err)
			got = append(got, len(out.GetPayload().GetBody()))
		}
		t.equal(got, want, "sizes")
	})
	a.check("proxy: messages go back and forth", func(ctx context.Context, t *t) {
		stream, err := service.FullDuplexCall(to(ctx, a.peer))
		t.ok(err)
		for _, size := range []int32{1, 100_000, 3} {
			t.ok(stream.Send(&grpc_testing.StreamingOutputCallRequest{ResponseParameters: []*grpc_testing.ResponseParameters{{Size: size}}}))
			out, err := stream.Recv()
			t.ok(err)
			t.equal(len(out.GetPayload().GetBody()), int(size), "size")
		}
		t.ok(stream.CloseSend())
		_, err = stream.Recv()
		t.equal(err, io.EOF, "end")
	})
	a.check("proxy: a call that is cancelled ends", func(ctx context.Context, t *t) {
		ctx, cancel := context.WithCancel(ctx)
		stream, err := service.FullDuplexCall(to(ctx, a.peer))
		t.ok(err)
		cancel()
		_, err = stream.Recv()
		t.equal(status.Code(err), codes.Canceled, "code")
	})
	a.check("proxy: a call to nobody is refused", func(ctx context.Context, t *t) {
		_, err := service.EmptyCall(token(ctx), &grpc_testing.Empty{})
		t.refused(err, "dapr-app-id")
		_, err = service.EmptyCall(to(ctx, "nobody"), &grpc_testing.Empty{})
		t.refused(err, "nobody")
	})
}
