package rpc_test

import (
	"context"
	"io"
	"testing"

	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
)

// The three benchmarks call the same method with the same client, so that they
// differ in the server only; allocations are of both sides.
func BenchmarkUnaryEcho(b *testing.B) {
	for _, server := range []struct {
		name string
		addr func(testing.TB) string
	}{
		{"rpc", func(tb testing.TB) string { return serve(tb, newServer(&service{}, rpc.Options{}).Handle) }},
		{"grpc-go", func(tb testing.TB) string {
			return grpcServer(tb, &service{}, grpc.NumStreamWorkers(4))
		}},
	} {
		b.Run("server="+server.name, func(b *testing.B) {
			echo(b, &rpc.ClientConn{Transport: transport(b, server.addr(b)), Authority: "app"})
		})
	}
	b.Run("client=grpc-go", func(b *testing.B) {
		echo(b, dial(b, serve(b, newServer(&service{}, rpc.Options{}).Handle)))
	})
}

func echo(b *testing.B, cc grpc.ClientConnInterface) {
	c, in := pb.NewTestServiceClient(cc), &pb.SimpleRequest{Payload: payload(1 << 10)}
	if _, err := c.UnaryCall(b.Context(), in); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := c.UnaryCall(context.Background(), in); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkServerAlone measures what this package adds to the engine and to
// Protocol Buffers.
func BenchmarkServerAlone(b *testing.B) {
	s := newServer(&service{}, rpc.Options{})
	ex := &memoryExchange{request: request(nil)}
	content := frame(0, encoded(b, &pb.SimpleRequest{Payload: payload(1 << 10)}))
	body := &replayed{content: content}
	ex.request.Body = body
	b.ReportAllocs()
	for b.Loop() {
		body.off = 0
		s.Handle(ex)
	}
}

// memoryExchange takes an answer and forgets it.
type memoryExchange struct {
	proxy.Exchange
	request *proxy.Request
}

func (m *memoryExchange) Request() *proxy.Request                { return m.request }
func (m *memoryExchange) Respond(int, proxy.Header, int64) error { return nil }
func (m *memoryExchange) Write(p []byte) (int, error)            { return len(p), nil }
func (m *memoryExchange) Flush() error                           { return nil }
func (m *memoryExchange) Trailer(proxy.Header) error             { return nil }

// replayed gives its content in one piece, as the engine does when all of it
// has arrived.
type replayed struct {
	content []byte
	off     int
}

func (r *replayed) Read(p []byte) (int, error) {
	n := copy(p, r.content[r.off:])
	if r.off += n; r.off == len(r.content) {
		return n, io.EOF
	}
	return n, nil
}

// TestAUnaryCallAllocatesLittle guards the cost of a call: the context, the
// request and its fields, the answer, and what the runtime needs for them.
func TestAUnaryCallAllocatesLittle(t *testing.T) {
	s := newServer(&service{}, rpc.Options{})
	body := &replayed{content: frame(0, encoded(t, &pb.SimpleRequest{Payload: payload(100)}))}
	ex := &memoryExchange{request: request(body)}
	got := testing.AllocsPerRun(100, func() {
		body.off = 0
		s.Handle(ex)
	})
	if got > 8 {
		t.Errorf("a call allocates %.0f times", got)
	}
}
