package pubsub_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// keeper is a Scheduler that keeps what it is given.
type keeper struct {
	mu   sync.Mutex
	kept []pubsub.Kept
	err  error
}

func (k *keeper) Keep(_ context.Context, kept pubsub.Kept) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return "", k.err
	}
	k.kept = append(k.kept, kept)
	return fmt.Sprint("id", len(k.kept)), nil
}

func TestMetadataSayWhenToDeliver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		for _, tc := range []struct {
			metadata map[string]string
			due      time.Duration // 0 for at once
			problem  string
		}{
			{map[string]string{"delayInSeconds": "90"}, 90 * time.Second, ""},
			{map[string]string{"DELAYINSECONDS": "1h30m", "deliverAfter": "1s"}, 90 * time.Minute, ""},
			{map[string]string{"deliverAfter": "1.5s"}, 1500 * time.Millisecond, ""},
			{map[string]string{"deliverAt": start.Add(time.Hour).Format(time.RFC3339)}, time.Hour, ""},
			{map[string]string{"DeliverAT": start.Add(1500 * time.Millisecond).In(time.FixedZone("", 3600)).Format(time.RFC3339Nano)}, 1500 * time.Millisecond, ""},
			{map[string]string{"delayInSeconds": "999999999999999999"}, 200 * 365 * 24 * time.Hour, ""},
			{map[string]string{"delayInSeconds": "0"}, 0, ""},
			{map[string]string{"deliverAt": start.Add(-time.Hour).Format(time.RFC3339)}, 0, ""},
			{map[string]string{"deliverAt": "", "delayInSeconds": ""}, 0, ""},
			{map[string]string{"delayInSeconds": "-1"}, 0, `delayInSeconds wants a number of seconds, or a duration ("1h30m"), not "-1"`},
			{map[string]string{"delayInSeconds": "soon"}, 0, `delayInSeconds wants a number of seconds`},
			{map[string]string{"deliverAfter": "-1s"}, 0, `deliverAfter wants a number of seconds`},
			{map[string]string{"deliverAt": "tomorrow"}, 0, `deliverAt wants a time (RFC 3339, "2030-01-02T15:04:05Z"), not "tomorrow"`},
			{map[string]string{"deliverAt": start.Format(time.RFC3339), "delayInSeconds": "1"}, 0, "say twice when to deliver"},
		} {
			d, k := &wrapped{Driver: openMemory(t)}, &keeper{}
			published := 0
			d.publish = func(context.Context, *pubsub.Message) error { published++; return nil }
			b := newBroker(t, d, pubsub.Options{Scheduler: k})
			err := b.Publish(t.Context(), &pubsub.PublishRequest{Topic: "t", Metadata: tc.metadata})
			if tc.problem != "" {
				wantReason(t, err, fault.InvalidArgument, pubsub.ReasonMetadata)
				if !strings.Contains(fault.Message(err), tc.problem) {
					t.Errorf("%v: %v", tc.metadata, err)
				}
				continue
			}
			later := tc.due > 0
			if err != nil || published != map[bool]int{false: 1, true: 0}[later] || (len(k.kept) == 1) != later {
				t.Errorf("%v: %v, %d published, %d kept", tc.metadata, err, published, len(k.kept))
				continue
			}
			if later && (k.kept[0].Due.Sub(start) != tc.due || k.kept[0].Component != "bus") {
				t.Errorf("%v: kept for %v until %v", tc.metadata, k.kept[0].Component, k.kept[0].Due.Sub(start))
			}
		}
	})
}

func TestAMessageIsKeptAsItWillBePublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, d := &keeper{}, openMemory(t)
		b := newBroker(t, &wrapped{Driver: d}, pubsub.Options{Scheduler: k})
		metadata := map[string]string{"delayInSeconds": "60", "ttlInSeconds": "10", "partitionKey": "k", "Own": "x"}
		before := maps.Clone(metadata)
		r := &pubsub.PublishRequest{Topic: "t", Data: []byte("hello"), Metadata: metadata, TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
		id, err := b.PublishLater(t.Context(), r, time.Time{})
		if err != nil || id != "id1" || !maps.Equal(metadata, before) {
			t.Fatalf("PublishLater = %q, %v; the metadata are %v", id, err, metadata)
		}
		m := k.kept[0].Message
		if m.Topic != "t" || m.Key != "k" || m.TTL != 10*time.Second || m.ContentType != pubsub.ContentTypeCloudEvents ||
			!maps.Equal(m.Metadata, map[string]string{"ttlInSeconds": "10", "partitionKey": "k", "Own": "x"}) {
			t.Errorf("kept %+v", m)
		}
		for _, part := range []string{`"data":"hello"`, `"traceparent":"00-0af76519`, `"time":"2000-01-01T00:00:00Z"`, `"expiration":"2000-01-01T00:01:10.000Z"`} {
			if !strings.Contains(string(m.Data), part) {
				t.Errorf("%s is not in %s", part, m.Data)
			}
		}
		a := &app{}
		start(t, b, pubsub.SubscriptionSpec{Topic: "t"}, a)
		time.Sleep(time.Minute)
		if err := b.PublishKept(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if events := a.calls(); len(events) != 1 || events[0].Text("data") != "hello" || events[0].Metadata["Own"] != "x" {
			t.Errorf("the application got %v", events)
		}
	})
}

func TestATimeGivenWithTheCallCountsAsThatOfTheMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{}
		b := newBroker(t, openMemory(t), pubsub.Options{Scheduler: k})
		at := time.Now().Add(time.Hour)
		if _, err := b.PublishLater(t.Context(), &pubsub.PublishRequest{Topic: "t"}, at); err != nil || len(k.kept) != 1 || !k.kept[0].Due.Equal(at) {
			t.Errorf("%v, kept %v", err, k.kept)
		}
		id, err := b.PublishLater(t.Context(), &pubsub.PublishRequest{Topic: "t"}, time.Now())
		if err != nil || id != "" || len(k.kept) != 1 {
			t.Errorf("what is due now: %q, %v, kept %d", id, err, len(k.kept))
		}
		_, err = b.PublishLater(t.Context(), &pubsub.PublishRequest{Topic: "t", Metadata: map[string]string{"delayInSeconds": "1"}}, at)
		wantReason(t, err, fault.InvalidArgument, pubsub.ReasonMetadata)
	})
}

func TestWhatMayNotBePublishedIsNotKept(t *testing.T) {
	k := &keeper{}
	b := newBroker(t, openMemory(t), pubsub.Options{Scheduler: k, Config: pubsub.Config{PublishingScopes: "shop=orders"}})
	later := map[string]string{"delayInSeconds": "1"}
	wantReason(t, b.Publish(t.Context(), &pubsub.PublishRequest{Topic: "other", Metadata: later}), fault.PermissionDenied, pubsub.ReasonForbidden)
	wantReason(t, b.Publish(t.Context(), &pubsub.PublishRequest{Topic: "orders", Metadata: later, Data: []byte("x"),
		ContentType: pubsub.ContentTypeCloudEvents}), fault.InvalidArgument, pubsub.ReasonEnvelope)
	if len(k.kept) != 0 {
		t.Errorf("kept %v", k.kept)
	}
	k.err = fault.New(fault.Unavailable, "the store is away")
	if err := b.Publish(t.Context(), &pubsub.PublishRequest{Topic: "orders", Metadata: later}); fault.CodeOf(err) != fault.Unavailable ||
		!strings.Contains(fault.Message(err), "the store is away") {
		t.Errorf("a scheduler that fails: %v", err)
	}
	b = newBroker(t, openMemory(t), pubsub.Options{})
	wantReason(t, b.Publish(t.Context(), &pubsub.PublishRequest{Topic: "orders", Metadata: later}), fault.FailedPrecondition, pubsub.ReasonNoScheduler)
}

func TestEntriesOfABulkPublishAreKeptOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, k := &wrapped{Driver: openMemory(t)}, &keeper{}
		var mu sync.Mutex
		var published []string
		d.publish = func(_ context.Context, m *pubsub.Message) error {
			mu.Lock()
			defer mu.Unlock()
			published = append(published, string(m.Data))
			return nil
		}
		b := newBroker(t, d, pubsub.Options{Scheduler: k})
		entry := func(id string, metadata map[string]string) pubsub.PublishEntry {
			return pubsub.PublishEntry{ID: id, Data: []byte(id), Metadata: metadata}
		}
		failed, err := b.BulkPublish(t.Context(), &pubsub.BulkPublishRequest{
			Topic: "t", Metadata: map[string]string{"rawPayload": "true", "delayInSeconds": "60"},
			Entries: []pubsub.PublishEntry{
				entry("request's", nil), entry("own", map[string]string{"deliverAfter": "2h"}), entry("now", map[string]string{"DelayInSeconds": "0"}),
				entry("bad", map[string]string{"deliverAt": "never"}),
			},
		})
		if err != nil || len(failed) != 1 || failed[0].ID != "bad" || !slices.Equal(published, []string{"now"}) {
			t.Errorf("failed %v, %v; published %v", failed, err, published)
		}
		due := map[string]time.Duration{}
		for _, kept := range k.kept {
			due[string(kept.Message.Data)] = time.Until(kept.Due)
		}
		if !maps.Equal(due, map[string]time.Duration{"request's": time.Minute, "own": 2 * time.Hour}) {
			t.Errorf("kept %v", due)
		}
		k.err = fault.New(fault.Unavailable, "the store is away")
		failed, err = b.BulkPublish(t.Context(), &pubsub.BulkPublishRequest{Topic: "t", Entries: []pubsub.PublishEntry{
			entry("later", map[string]string{"delayInSeconds": "1"}), entry("now", nil),
		}})
		if err != nil || len(failed) != 1 || failed[0].ID != "later" || fault.CodeOf(failed[0].Err) != fault.Unavailable {
			t.Errorf("failed %v, %v", failed, err)
		}
	})
}
