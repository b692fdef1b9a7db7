//go:build !race

package grpcapi

import (
	"context"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/mesh/proxy"
)

// oneCall is an exchange that can be used again: a call that came as a whole,
// and whose answer is forgotten.
type oneCall struct {
	proxy.Exchange
	ctx     context.Context //nolint:containedctx // an exchange has one
	request proxy.Request
	message []byte
	off     int
	sent    int
	trailer proxy.Header
}

func newCall(tb testing.TB, method string, m proto.Message) *oneCall {
	b := must[[]byte](tb)(proto.Marshal(m))
	c := &oneCall{ctx: tb.Context(), message: append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)}
	c.request = proxy.Request{
		Method: "POST", Scheme: "http", Authority: "sidecar", Target: apiPrefix + method, ContentLength: proxy.UnknownLength, Body: c,
		Header: proxy.Header{{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}, {Name: "user-agent", Value: "bench"}},
	}
	return c
}

// on has h answer the call once more.
func (c *oneCall) on(h proxy.Handler) {
	c.off, c.sent = 0, 0
	h(c)
}

func (c *oneCall) Context() context.Context               { return c.ctx }
func (c *oneCall) Request() *proxy.Request                { return &c.request }
func (c *oneCall) Respond(int, proxy.Header, int64) error { return nil }
func (c *oneCall) Write(p []byte) (int, error)            { c.sent += len(p); return len(p), nil }
func (c *oneCall) Flush() error                           { return nil }

func (c *oneCall) Trailer(h proxy.Header) error {
	c.trailer = h
	return nil
}

func (c *oneCall) Read(p []byte) (int, error) {
	n := copy(p, c.message[c.off:])
	if c.off += n; c.off == len(c.message) {
		return n, io.EOF
	}
	return n, nil
}

// nullBroker takes messages and forgets them.
type nullBroker struct{ pubsub.Driver }

func (nullBroker) Publish(context.Context, *pubsub.Message) error { return nil }

// hotCalls are the calls of the hot paths, each with the most allocations it
// may cost, driver and all: what Protocol Buffers need for the message, the
// context of the call, the key in the store, and what the driver keeps.
func hotCalls(tb testing.TB) (proxy.Handler, map[string]*oneCall, map[string]float64) {
	w := newWorld(tb)
	w.brokers["null"] = pubsub.New(component.Opened[pubsub.Driver]("null", nullBroker{}), pubsub.Options{AppID: "shop"})
	h := New(Options{AppID: "shop", Blocks: w, Observe: func(Call) {}}).Handle // as a process does, for metrics
	value := []byte(strings.Repeat("x", 1024))
	return h, map[string]*oneCall{
			"set": newCall(tb, "SaveState", &rtv1.SaveStateRequest{
				StoreName: "statestore", States: []*commonv1.StateItem{{Key: "item", Value: value}},
			}),
			"get": newCall(tb, "GetState", &rtv1.GetStateRequest{StoreName: "statestore", Key: "item"}),
			"publish": newCall(tb, "PublishEvent", &rtv1.PublishEventRequest{
				PubsubName: "null", Topic: "orders", Data: value, DataContentType: "application/octet-stream",
			}),
		}, map[string]float64{
			"set": 10, "get": 6, "publish": 8,
		}
}

// The race detector makes pools forget, so that it is of no use then.
func TestHotPathsAllocateLittle(t *testing.T) {
	h, calls, most := hotCalls(t)
	for _, name := range []string{"set", "get", "publish"} {
		c := calls[name]
		got := testing.AllocsPerRun(200, func() { c.on(h) })
		if st := c.trailer.Get("grpc-status"); st != "0" || got > most[name] {
			t.Errorf("%s: %v allocations, the most is %v; status %s", name, got, most[name], st)
		}
	}
	if calls["get"].sent < 1024 {
		t.Errorf("get sent %d bytes", calls["get"].sent)
	}
}

// BenchmarkServer measures the dialect, the block and the driver in memory
// together, without a connection.
func BenchmarkServer(b *testing.B) {
	h, calls, _ := hotCalls(b)
	calls["set"].on(h)
	for name, c := range calls {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.on(h)
			}
		})
	}
}
