package pubsubtest_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/pubsub/pubsubtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
)

// expiring is the in-memory broker with what it lacks: it discards messages
// whose time is over, and takes many at once.
type expiring struct{ *memory.PubSub }

func (expiring) DiscardsExpired() bool { return true }

func (d expiring) Subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	return d.PubSub.Subscribe(ctx, s, func(ctx context.Context, m *pubsub.Delivery) error {
		if m.TTL > 0 && time.Since(m.Published) > m.TTL {
			return nil
		}
		return handle(ctx, m)
	})
}

func (d expiring) BulkPublish(ctx context.Context, messages []*pubsub.Message) []error {
	errs := make([]error, len(messages))
	for i, m := range messages {
		errs[i] = d.Publish(ctx, m)
	}
	return errs
}

// forgetful is the in-memory broker as one that keeps nothing for groups that
// have not subscribed yet, on a protocol without metadata.
type forgetful struct {
	*memory.PubSub
	topics sync.Map // those that a group has subscribed to
}

func (*forgetful) Forgets() bool { return true }

func (d *forgetful) Publish(ctx context.Context, m *pubsub.Message) error {
	if _, known := d.topics.Load(m.Topic); !known && ctx.Err() == nil {
		return d.PubSub.Publish(ctx, &pubsub.Message{Topic: "nobody"})
	}
	bare := *m
	bare.Metadata = nil
	return d.PubSub.Publish(ctx, &bare)
}

func (d *forgetful) Subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	d.topics.Store(s.Topic, true)
	if s.Established != nil {
		s.Established()
	}
	return d.PubSub.Subscribe(ctx, s, handle)
}

func TestADriverWithEveryCapabilityPassesTheWholeSuite(t *testing.T) {
	pubsubtest.RunInVirtualTime(t, pubsubtest.Broker{Open: func(t *testing.T) pubsub.Driver { return expiring{openMemory(t)} }})
}

func TestADriverThatForgetsPassesTheSuite(t *testing.T) {
	pubsubtest.RunInVirtualTime(t, pubsubtest.Broker{
		Open:       func(t *testing.T) pubsub.Driver { return &forgetful{PubSub: openMemory(t)} },
		NoMetadata: true, OneMember: true,
	})
}

func openMemory(t *testing.T) *memory.PubSub {
	t.Helper()
	d, err := memory.OpenPubSub(t.Context(), memory.PubSubConfig{MaxMessages: 10_000, MaxBytes: 1 << 26, Concurrency: 100}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}
