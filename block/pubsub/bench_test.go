package pubsub_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/policy"
)

// counting is an application that processes everything at once.
type counting struct {
	want int64
	got  atomic.Int64
	all  chan struct{}
}

func (c *counting) Deliver(context.Context, string, *pubsub.Event) (pubsub.Status, error) {
	if c.got.Add(1) == c.want {
		close(c.all)
	}
	return pubsub.Success, nil
}

func (c *counting) DeliverBulk(_ context.Context, _ string, b *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
	return all(b, pubsub.Success), nil
}

// idle is a Chains of six policies that do nothing.
type idle struct{}

func (idle) Component(string, string, bool) policy.Chain {
	pass := func(_ policy.Op, next policy.Handler) policy.Handler {
		return func(ctx context.Context, c *policy.Call) error { return next(ctx, c) }
	}
	return policy.Chain{pass, pass, pass, pass, pass, pass}
}

func (idle) App(string) policy.Chain { return nil }

// BenchmarkPublishAndDeliver publishes 1 KiB of JSON and delivers it, in memory:
// what is left is the price of the block.
func BenchmarkPublishAndDeliver(b *testing.B) {
	for name, spec := range map[string]pubsub.SubscriptionSpec{
		"Plain": {Topic: "t", DefaultRoute: "/t"},
		"Rules": {Topic: "t", DefaultRoute: "/t", Rules: []pubsub.Rule{{Match: `event.type == "other"`, Path: "/o"}, {Match: `event.source == "shop"`, Path: "/s"}}},
	} {
		b.Run(name, func(b *testing.B) {
			broker := newBroker(b, openMemory(b), pubsub.Options{Chains: idle{}})
			a := &counting{want: int64(b.N), all: make(chan struct{})}
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- broker.Subscribe(ctx, &spec, a) }()
			r := &pubsub.PublishRequest{Topic: "t", Data: append(append([]byte(`{"a":"`), bytes.Repeat([]byte("x"), 1000)...), `"}`...), ContentType: "application/json"}
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if err := broker.Publish(ctx, r); err != nil {
					b.Fatal(err)
				}
			}
			<-a.all
			b.StopTimer()
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}
