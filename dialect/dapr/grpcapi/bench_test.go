package grpcapi

import (
	"net"
	"testing"

	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/rpc"
)

// BenchmarkState measures a call from client to driver and back; allocations
// are of both sides.
func BenchmarkState(b *testing.B) {
	l := must[net.Listener](b)(net.Listen("tcp", "127.0.0.1:0"))
	s := &http2.Server{Handler: New(Options{AppID: "shop", Blocks: newWorld(b)}).Handle}
	go func() { _ = s.Serve(l) }() // Close ends it
	defer s.Close()
	transport := &http2.Client{Addr: l.Addr().String()}
	defer transport.Close()
	c := rtv1.NewDaprClient(&rpc.ClientConn{Transport: transport, Authority: "sidecar"})
	save := &rtv1.SaveStateRequest{StoreName: "statestore", States: []*commonv1.StateItem{{Key: "k", Value: make([]byte, 1<<10)}}}
	get := &rtv1.GetStateRequest{StoreName: "statestore", Key: "k"}
	must[*emptypb.Empty](b)(c.SaveState(b.Context(), save))
	for name, call := range map[string]func() error{
		"get": func() error { _, err := c.GetState(b.Context(), get); return err },
		"set": func() error { _, err := c.SaveState(b.Context(), save); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if err := call(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
