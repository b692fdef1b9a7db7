package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
)

// client is an application at the other end of a stream.
type client struct {
	*pubsub.Stream
	mu   sync.Mutex
	sent []*pubsub.Event
}

func newClient() *client {
	c := &client{}
	c.Stream = pubsub.NewStream(func(e *pubsub.Event) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sent = append(c.sent, e)
		return nil
	})
	return c
}

func (c *client) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, e := range c.sent {
		out = append(out, e.ID())
	}
	return out
}

// startStream streams in the background. The returned function ends it as a
// dialect does when the client is gone.
func startStream(t *testing.T, b *pubsub.Broker, spec pubsub.SubscriptionSpec, s *pubsub.Stream) (stop func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- b.Stream(t.Context(), &spec, s) }()
	stop = sync.OnceFunc(func() {
		s.End()
		if err := <-done; err != nil {
			t.Errorf("Stream: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func withID(id string) map[string]string { return map[string]string{"cloudevent.id": id} }

func TestAStreamHasManyEventsOutAndSettlesThemInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, c := openMemory(t), newClient()
		b := newBroker(t, d, pubsub.Options{})
		startStream(t, b, pubsub.SubscriptionSpec{Topic: "t", DeadLetterTopic: "dead"}, c.Stream)
		for i := range 3 {
			publish(t, b, "t", "1", withID(fmt.Sprint("id", i)))
		}
		synctest.Wait()
		if got := c.ids(); len(got) != 3 {
			t.Fatalf("%v are out, want three", got)
		}
		if !c.Settle("id2", pubsub.Drop) || !c.Settle("id0", pubsub.Success) || !c.Settle("id1", pubsub.Success) {
			t.Error("an event that is out could not be settled")
		}
		if c.Settle("id0", pubsub.Success) || c.Settle("unknown", pubsub.Success) {
			t.Error("an event that is not out could be settled")
		}
		if got := letters(t, d, "dead", time.Hour); len(got) != 1 || len(c.ids()) != 3 {
			t.Errorf("%d dead letters and %v sent, want the dropped one only", len(got), c.ids())
		}
	})
}

func TestEventsWithTheSameIDAreSettledOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := newBroker(t, openMemory(t), pubsub.Options{}), newClient()
		startStream(t, b, pubsub.SubscriptionSpec{Topic: "t"}, c.Stream)
		publish(t, b, "t", "1", withID("same"))
		publish(t, b, "t", "2", withID("same"))
		synctest.Wait()
		first, second, third := c.Settle("same", pubsub.Success), c.Settle("same", pubsub.Success), c.Settle("same", pubsub.Success)
		if !first || !second || third {
			t.Error("want two answers for the same id, no more")
		}
	})
}

func TestWhatAStreamHasNotSettledComesAgainOnAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, gone := openMemory(t), newClient()
		b := newBroker(t, d, pubsub.Options{})
		spec := pubsub.SubscriptionSpec{Topic: "t", DeadLetterTopic: "dead"}
		stop := startStream(t, b, spec, gone.Stream)
		publish(t, b, "t", "1", withID("settled"))
		publish(t, b, "t", "2", withID("open"))
		synctest.Wait()
		gone.Settle("settled", pubsub.Success)
		synctest.Wait()
		began := time.Now()
		stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("ending took %s, though nobody can settle any more", took)
		}
		c := newClient()
		startStream(t, b, spec, c.Stream)
		synctest.Wait()
		if got := c.ids(); len(got) != 1 || got[0] != "open" {
			t.Errorf("the next stream got %v, want open", got)
		}
		if got := letters(t, d, "dead", 0); len(got) != 0 {
			t.Errorf("%d dead letters", len(got))
		}
	})
}

func TestAStreamMayStillSettleWhileItDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := newBroker(t, openMemory(t), pubsub.Options{}), newClient()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Stream(ctx, &pubsub.SubscriptionSpec{Topic: "t"}, c.Stream) }()
		publish(t, b, "t", "1", withID("a"))
		synctest.Wait()
		cancel()
		time.Sleep(time.Second)
		if !c.Settle("a", pubsub.Success) {
			t.Error("the event is no longer out")
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		again := newClient()
		startStream(t, b, pubsub.SubscriptionSpec{Topic: "t"}, again.Stream)
		time.Sleep(time.Hour)
		if got := again.ids(); len(got) != 0 {
			t.Errorf("%v came again", got)
		}
	})
}

func TestStreamsOfOneTopicShareItsMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, one, two := newBroker(t, openMemory(t), pubsub.Options{}), newClient(), newClient()
		startStream(t, b, pubsub.SubscriptionSpec{Topic: "t"}, one.Stream)
		startStream(t, b, pubsub.SubscriptionSpec{Topic: "t"}, two.Stream)
		for i := range 20 {
			publish(t, b, "t", "1", withID(fmt.Sprint(i)))
		}
		synctest.Wait()
		if n := len(one.ids()) + len(two.ids()); n != 20 {
			t.Errorf("%d messages on two streams, want 20", n)
		}
	})
}

func TestAStreamThatBreaksLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMemory(t)
		b := newBroker(t, d, pubsub.Options{})
		broken := pubsub.NewStream(func(*pubsub.Event) error { return errors.New("transport is closing") })
		spec := pubsub.SubscriptionSpec{Topic: "t", DeadLetterTopic: "dead"}
		stop := startStream(t, b, spec, broken)
		publish(t, b, "t", "1", withID("a"))
		synctest.Wait()
		stop()
		c := newClient()
		startStream(t, b, spec, c.Stream)
		time.Sleep(time.Minute)
		if got := c.ids(); len(got) != 1 {
			t.Errorf("the next stream got %v, want a", got)
		}
		if got := letters(t, d, "dead", 0); len(got) != 0 {
			t.Errorf("%d dead letters", len(got))
		}
	})
}

func TestAForbiddenStreamFailsAtOnce(t *testing.T) {
	b := newBroker(t, openMemory(t), pubsub.Options{Config: pubsub.Config{SubscriptionScopes: "shop="}})
	err := b.Stream(t.Context(), &pubsub.SubscriptionSpec{PubSub: "bus", Topic: "t"}, newClient().Stream)
	wantReason(t, err, fault.PermissionDenied, pubsub.ReasonForbidden)
}

func TestASubscriptionOutlivesItsBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := openMemory(t)
		var breaks []time.Time
		d := &wrapped{Driver: inner, subscribe: func(ctx context.Context, s pubsub.Subscription, h pubsub.Handler) error {
			breaks = append(breaks, time.Now())
			if len(breaks) < 10 {
				return fault.New(fault.Unavailable, "connection refused")
			}
			return inner.Subscribe(ctx, s, h)
		}}
		b, c := newBroker(t, d, pubsub.Options{}), newClient()
		startStream(t, b, pubsub.SubscriptionSpec{Topic: "t"}, c.Stream)
		publish(t, b, "t", "1", nil)
		time.Sleep(10 * time.Minute)
		if got := c.ids(); len(got) != 1 {
			t.Errorf("%d events after the broker came back, want 1", len(got))
		}
		for i := 1; i < len(breaks); i++ {
			if wait := breaks[i].Sub(breaks[i-1]); wait < 50*time.Millisecond || wait > 15*time.Second {
				t.Errorf("attempt %d came after %s", i+1, wait)
			}
		}
	})
}

func TestASlowApplicationIsSentNoMoreThanMayBeUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, events = 7, 100
		d, err := memory.OpenPubSub(t.Context(), memory.PubSubConfig{MaxMessages: 1000, MaxBytes: 1 << 20, Concurrency: most}, component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		b, c := newBroker(t, d, pubsub.Options{}), newClient()
		startStream(t, b, pubsub.SubscriptionSpec{Topic: "t"}, c.Stream)
		for i := range events {
			publish(t, b, "t", "1", withID(fmt.Sprint("id", i)))
		}
		for settled := range events {
			synctest.Wait()
			out := c.ids()
			if len(out) > settled+most {
				t.Fatalf("%d events were sent and %d settled, though only %d may be under way", len(out), settled, most)
			}
			if !c.Settle(out[settled], pubsub.Success) {
				t.Fatalf("%s is not out", out[settled])
			}
		}
	})
}
