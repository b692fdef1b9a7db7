package nats

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/engine"
)

// BenchmarkPubSub publishes 1 KiB and delivers it on the embedded engine, from
// end to end, with one publisher, with sixteen, and in bulk.
func BenchmarkPubSub(b *testing.B) {
	for _, durability := range []engine.Durability{engine.Relaxed, engine.Strict} {
		e := runEngine(b, engine.Options{Dir: b.TempDir(), Durability: durability})
		for _, how := range []struct {
			name    string
			publish func(p *PubSub, topic string, n int) error
		}{
			{"1", func(p *PubSub, topic string, n int) error { return publishMany(b.Context(), p, topic, n, 1) }},
			{"16", func(p *PubSub, topic string, n int) error { return publishMany(b.Context(), p, topic, n, 16) }},
			{"bulk", func(p *PubSub, topic string, n int) error { return publishBulk(b.Context(), p, topic, n) }},
		} {
			b.Run(string(durability)+"/"+how.name, func(b *testing.B) {
				p := mustOpenPubSub(b, e, nil)
				endToEnd(b, p, how.publish)
			})
		}
	}
}

var benchTopics atomic.Int64

func endToEnd(b *testing.B, p *PubSub, publish func(p *PubSub, topic string, n int) error) {
	topic := "bench" + string(rune('a'+benchTopics.Add(1)%26)) + encodeToken(b.Name())
	ctx, cancel := context.WithCancel(b.Context())
	var got atomic.Int64
	all, done := make(chan struct{}), make(chan error, 1)
	want := int64(b.N)
	go func() {
		done <- p.Subscribe(ctx, pubsub.Subscription{Topic: topic, Group: "g"}, func(context.Context, *pubsub.Delivery) error {
			if got.Add(1) == want {
				close(all)
			}
			return nil
		})
	}()
	b.ReportAllocs()
	b.ResetTimer()
	if err := publish(p, topic, b.N); err != nil {
		b.Fatal(err)
	}
	<-all
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

func publishMany(ctx context.Context, p *PubSub, topic string, n, publishers int) error {
	data := make([]byte, 1<<10)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range publishers {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				if err := p.Publish(ctx, &pubsub.Message{Topic: topic, Data: data}); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func publishBulk(ctx context.Context, p *PubSub, topic string, n int) error {
	data := make([]byte, 1<<10)
	for n > 0 {
		batch := make([]*pubsub.Message, min(n, 100))
		for i := range batch {
			batch[i] = &pubsub.Message{Topic: topic, Data: data}
		}
		for _, err := range p.BulkPublish(ctx, batch) {
			if err != nil {
				return err
			}
		}
		n -= len(batch)
	}
	return nil
}
