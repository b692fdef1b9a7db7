package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// tally collects what a consumer got, in order.
type tally struct {
	mu   sync.Mutex
	got  []string
	news chan struct{}
}

func newTally() *tally { return &tally{news: make(chan struct{}, 1)} }

func (y *tally) add(s string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.got = append(y.got, s)
	select {
	case y.news <- struct{}{}:
	default:
	}
}

// await waits until s was got, and returns how often each was.
func (y *tally) await(t *testing.T, ctx context.Context, what, s string) map[string]int {
	t.Helper()
	for {
		y.mu.Lock()
		count := make(map[string]int)
		for _, g := range y.got {
			count[g]++
		}
		y.mu.Unlock()
		if count[s] > 0 {
			return count
		}
		select {
		case <-y.news:
		case <-ctx.Done():
			t.Fatalf("%s did not get %s; it got %v", what, s, count)
		}
	}
}

// What the package comment promises of a take-over, on the connections of a
// sidecar that becomes the holder and of one that stays a client.
func TestConsumersGoOnOverATakeOver(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	first, stopFirst := run(t, Options{Dir: dir, Name: "first"})
	if _, err := first.Stream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	engines := make([]*Engine, 2)
	tallies := map[string]*tally{}
	for i := range engines {
		engines[i], _ = run(t, Options{Dir: dir, Name: fmt.Sprint("e", i)})
		consumeAll(t, ctx, engines[i], fmt.Sprint("e", i), tallies)
	}
	publish := func(e *Engine, text string) {
		t.Helper()
		_, err := insist(ctx, func() (*jetstream.PubAck, error) {
			c, err := e.ConnFor(ctx, "p")
			if err != nil {
				return nil, err
			}
			return c.Publish(ctx, &nats.Msg{Subject: "s.x", Data: []byte(text)})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	publish(first, "before")
	for what, y := range tallies {
		y.await(t, ctx, what, "before")
	}
	stopFirst()
	publish(engines[0], "between")
	publish(engines[1], "after")
	for what, y := range tallies {
		count := y.await(t, ctx, what, "after")
		if count["between"] == 0 {
			t.Errorf("%s missed a message: %v", what, count)
		}
	}
}

// consumeAll starts a consumer of each kind.
func consumeAll(t *testing.T, ctx context.Context, e *Engine, name string, tallies map[string]*tally) {
	t.Helper()
	js, err := e.JetStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	start := func(kind string, begin func(y *tally) (stop func(), err error)) {
		y := newTally()
		tallies[name+" "+kind] = y
		stop, err := begin(y)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		t.Cleanup(stop)
	}
	durable, err := js.CreateOrUpdateConsumer(ctx, "S", jetstream.ConsumerConfig{Durable: "d-" + name, AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	start("durable consume", func(y *tally) (func(), error) {
		cc, err := durable.Consume(func(m jetstream.Msg) { y.add(string(m.Data())); _ = m.Ack() })
		if err != nil {
			return nil, err
		}
		return cc.Stop, nil
	})
	iterated, err := js.CreateOrUpdateConsumer(ctx, "S", jetstream.ConsumerConfig{Durable: "i-" + name, AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	start("durable messages", func(y *tally) (func(), error) {
		it, err := iterated.Messages()
		if err != nil {
			return nil, err
		}
		var work sync.WaitGroup
		work.Go(func() {
			for {
				m, err := it.Next()
				if err != nil {
					return
				}
				y.add(string(m.Data()))
				_ = m.Ack()
			}
		})
		return func() { it.Stop(); work.Wait() }, nil
	})
	start("ordered consume", func(y *tally) (func(), error) {
		oc, err := js.OrderedConsumer(ctx, "S", jetstream.OrderedConsumerConfig{})
		if err != nil {
			return nil, err
		}
		cc, err := oc.Consume(func(m jetstream.Msg) { y.add(string(m.Data())) })
		if err != nil {
			return nil, err
		}
		return cc.Stop, nil
	})
}

func TestAPlainSubscriptionIsMadeAgainAfterATakeOver(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	first, stopFirst := run(t, Options{Dir: dir, Name: "first"})
	if _, err := first.Conn(ctx); err != nil {
		t.Fatal(err)
	}
	e, _ := run(t, Options{Dir: dir, Name: "second"})
	c, err := e.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := c.NATS().SubscribeSync("plain")
	if err != nil {
		t.Fatal(err)
	}
	stopFirst()
	for ctx.Err() == nil {
		other, err := e.Conn(ctx)
		if err != nil {
			continue
		}
		_ = other.NATS().Publish("plain", nil) // fails while there is no connection
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		_, err = sub.NextMsgWithContext(short)
		cancel()
		if err == nil {
			return
		}
	}
	t.Fatal("the subscription is dead")
}
