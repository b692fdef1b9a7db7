package pubsub_test

import (
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// forbidding are settings each of which keeps application "shop" from the topic
// "t" in both directions.
var forbidding = map[string]pubsub.Config{
	"scopes":    {PublishingScopes: "shop=u", SubscriptionScopes: "shop=u"},
	"no topics": {PublishingScopes: "shop=", SubscriptionScopes: "shop="},
	"allowed":   {AllowedTopics: []string{"u"}},
	"protected": {ProtectedTopics: []string{"t"}},
}

func TestEveryScopeHoldsForEveryWayToSubscribe(t *testing.T) {
	for name, config := range forbidding {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t, openMemory(t), pubsub.Options{Config: config})
			for _, typ := range []pubsub.SubscriptionType{pubsub.Declarative, pubsub.Programmatic, pubsub.Streaming} {
				for _, bulk := range []bool{false, true} {
					spec := &pubsub.SubscriptionSpec{Type: typ, PubSub: "bus", Topic: "t", Bulk: pubsub.BulkSpec{Enabled: bulk}}
					wantReason(t, b.Check(spec), fault.PermissionDenied, pubsub.ReasonForbidden)
					wantReason(t, b.Subscribe(t.Context(), spec, &app{}), fault.PermissionDenied, pubsub.ReasonForbidden)
				}
			}
			err := b.Stream(t.Context(), &pubsub.SubscriptionSpec{PubSub: "bus", Topic: "t"}, newClient().Stream)
			wantReason(t, err, fault.PermissionDenied, pubsub.ReasonForbidden)
			_, _, err = b.DeadLetters(t.Context(), "t", "", 10)
			wantReason(t, err, fault.PermissionDenied, pubsub.ReasonForbidden)
			if config.SubscriptionScopes != "shop=" {
				other := &pubsub.SubscriptionSpec{PubSub: "bus", Topic: "u"}
				if err := b.Check(other); err != nil {
					t.Errorf("another topic: %v", err)
				}
			}
		})
	}
}

func TestEveryScopeHoldsForEveryWayToPublish(t *testing.T) {
	for name, config := range forbidding {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t, openMemory(t), pubsub.Options{Config: config})
			r := &pubsub.PublishRequest{Topic: "t", Data: []byte("x")}
			wantReason(t, b.Publish(t.Context(), r), fault.PermissionDenied, pubsub.ReasonForbidden)
			_, err := b.PublishLater(t.Context(), r, time.Now().Add(time.Hour))
			wantReason(t, err, fault.PermissionDenied, pubsub.ReasonForbidden)
			_, err = b.BulkPublish(t.Context(), &pubsub.BulkPublishRequest{Topic: "t", Entries: []pubsub.PublishEntry{{ID: "1"}}})
			wantReason(t, err, fault.PermissionDenied, pubsub.ReasonForbidden)
			_, err = b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead", To: "t"})
			wantReason(t, err, fault.PermissionDenied, pubsub.ReasonForbidden)
			wantReason(t, b.MayPublish("t"), fault.PermissionDenied, pubsub.ReasonForbidden)
		})
	}
}
