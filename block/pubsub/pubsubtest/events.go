package pubsubtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
)

// events are what applications are promised, through the block and the driver
// together.
func events() []property {
	return []property{
		{"AnExpiredEventIsNotDelivered", expired},
		{"AnEventInBinaryModeBecomesAnEnvelope", binaryMode},
		{"ABarePayloadIsLeftAlone", barePayload},
		{"BatchesSettleEachEntry", batches},
		{"AStreamGetsWhatIsPublishedOnceItIsEstablished", streams},
	}
}

// inbox is an application that keeps what it gets.
type inbox struct {
	events chan *pubsub.Event
	mu     sync.Mutex
	failed map[string]bool // entries that were sent back once
}

func newInbox() *inbox {
	return &inbox{events: make(chan *pubsub.Event, 1000), failed: map[string]bool{}}
}

// Deliver implements pubsub.App.
func (a *inbox) Deliver(_ context.Context, _ string, e *pubsub.Event) (pubsub.Status, error) {
	a.events <- e
	return pubsub.Success, nil
}

// DeliverBulk implements pubsub.App: every second event must come twice, and
// every third is not answered for the first time.
func (a *inbox) DeliverBulk(_ context.Context, _ string, b *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []pubsub.EntryStatus
	for _, en := range b.Entries {
		var n int
		_, _ = fmt.Sscan(string(en.Event.Data()), &n)
		first := !a.failed[en.Event.ID()]
		a.failed[en.Event.ID()] = true
		switch {
		case first && n%2 == 0:
			out = append(out, pubsub.EntryStatus{EntryID: en.EntryID, Status: pubsub.Retry})
		case first && n%3 == 0:
		default:
			a.events <- en.Event
			out = append(out, pubsub.EntryStatus{EntryID: en.EntryID, Status: pubsub.Success})
		}
	}
	return out, nil
}

// brokerOf returns the block on a driver, for an application that no other test
// has.
func brokerOf(d pubsub.Driver, topic string) *pubsub.Broker {
	return pubsub.New(component.Opened("bus", d), pubsub.Options{AppID: groupOf(topic), Grace: time.Second})
}

// deliver subscribes in the background until the test ends. Call it when the
// broker knows the group, see establish.
func deliver(t *testing.T, b *pubsub.Broker, spec pubsub.SubscriptionSpec, app pubsub.App) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Subscribe(ctx, &spec, app) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Subscribe: %v", err)
		}
	})
}

func publishEvent(t *testing.T, b *pubsub.Broker, topic, data string, metadata map[string]string) {
	t.Helper()
	if err := b.Publish(t.Context(), &pubsub.PublishRequest{Topic: topic, Data: []byte(data), Metadata: metadata}); err != nil {
		t.Fatalf("Publish: %v", err)
	}
}

// expired has one event expire before anybody subscribes. Where the broker does
// not throw it away by itself it becomes a dead letter.
func expired(t *testing.T, b Broker) {
	d, topic, dead := open(t, b), newTopic(), newTopic()
	bus := brokerOf(d, topic)
	establish(t, d, topic, groupOf(topic))
	letters := consume(t, d, pubsub.Subscription{Topic: dead})
	publishEvent(t, bus, topic, "short", map[string]string{"ttlInSeconds": "1"})
	publishEvent(t, bus, topic, "long", map[string]string{"ttlInSeconds": "3600"})
	time.Sleep(1500 * time.Millisecond) // nothing tells when it has expired
	app := newInbox()
	deliver(t, bus, pubsub.SubscriptionSpec{PubSub: "bus", Topic: topic, DeadLetterTopic: dead}, app)
	wantStrings(t, "events", []string{string(receive(t, app.events, nil).Data())}, []string{"long"})
	if x, ok := d.(pubsub.TTLer); ok && x.DiscardsExpired() {
		return
	}
	letter, ok := pubsub.NewEvent("bus", dead, letters.next().Data)
	if !ok || string(letter.Data()) != "short" || letter.Text(pubsub.DeadLetterReason) == "" {
		t.Errorf("the dead letter is %q", letter.JSON)
	}
}

// binaryMode has an event as the CloudEvents SDKs send it to brokers with
// headers.
func binaryMode(t *testing.T, b Broker) {
	if b.NoMetadata {
		t.Skip("the protocol has no place for metadata")
	}
	for _, prefix := range []string{"ce_", "ce-", "cloudEvents:"} {
		d, topic := open(t, b), newTopic()
		establish(t, d, topic, groupOf(topic))
		publish(t, d, &pubsub.Message{Topic: topic, Data: []byte(`{"n":12345678901234567890}`), ContentType: "application/json", Metadata: map[string]string{
			prefix + "specversion": "1.0", prefix + "id": "an id", prefix + "type": "a.type", prefix + "source": "/source", prefix + "ext": "x",
			"content-type": "application/json",
		}})
		app := newInbox()
		deliver(t, brokerOf(d, topic), pubsub.SubscriptionSpec{PubSub: "bus", Topic: topic}, app)
		e := receive(t, app.events, nil)
		if e.ID() != "an id" || e.Type() != "a.type" || e.Source() != "/source" || e.Text("ext") != "x" ||
			string(e.Data()) != `{"n":12345678901234567890}` || e.DataContentType() != "application/json" {
			t.Errorf("with headers of %q the envelope is %s", prefix, e.JSON)
		}
	}
}

func barePayload(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	bus := brokerOf(d, topic)
	establish(t, d, topic, groupOf(topic))
	const payload = "\x00\xff{bare"
	publishEvent(t, bus, topic, payload, map[string]string{"rawPayload": "true"})
	app := newInbox()
	deliver(t, bus, pubsub.SubscriptionSpec{PubSub: "bus", Topic: topic, Metadata: map[string]string{"rawPayload": "true"}}, app)
	e := receive(t, app.events, nil)
	if string(e.Raw) != payload || string(e.Data()) != payload || e.DataContentType() != "application/octet-stream" {
		t.Errorf("the payload is %q, the envelope %s", e.Raw, e.JSON)
	}
}

// batches publishes and subscribes in bulk. What the application asks for again,
// or says nothing of, comes again, and nothing else does.
func batches(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	bus := brokerOf(d, topic)
	establish(t, d, topic, groupOf(topic))
	r := &pubsub.BulkPublishRequest{Topic: topic}
	want := numbers(20)
	for _, n := range want {
		r.Entries = append(r.Entries, pubsub.PublishEntry{ID: n, Data: []byte(n)})
	}
	if failed, err := bus.BulkPublish(t.Context(), r); err != nil || len(failed) > 0 {
		t.Fatalf("BulkPublish: %v, %v", failed, err)
	}
	app := newInbox()
	deliver(t, bus, pubsub.SubscriptionSpec{
		PubSub: "bus", Topic: topic, Bulk: pubsub.BulkSpec{Enabled: true, MaxMessages: 5, MaxAwait: 200 * time.Millisecond},
	}, app)
	var got []string
	for range want {
		got = append(got, string(receive(t, app.events, nil).Data()))
	}
	slices.Sort(got)
	wantStrings(t, "events", got, want)
}

// streams publishes as soon as a stream is established, and ends the stream
// with the event unsettled: it comes on the next one.
func streams(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	bus := brokerOf(d, topic)
	begin := func() (*pubsub.Stream, chan *pubsub.Event, func()) {
		sent := make(chan *pubsub.Event, 10)
		s := pubsub.NewStream(func(e *pubsub.Event) error {
			sent <- e
			return nil
		})
		done := make(chan error, 1)
		go func() { done <- bus.Stream(t.Context(), &pubsub.SubscriptionSpec{PubSub: "bus", Topic: topic}, s) }()
		end := sync.OnceFunc(func() {
			s.End()
			if err := <-done; err != nil {
				t.Errorf("Stream: %v", err)
			}
		})
		t.Cleanup(end)
		receive(t, s.Established(), nil)
		return s, sent, end
	}
	_, sent, end := begin()
	publishEvent(t, bus, topic, "at once", nil)
	first := receive(t, sent, nil)
	if string(first.Data()) != "at once" {
		t.Errorf("the stream got %q", first.Data())
	}
	end()
	s, sent, _ := begin()
	again := receive(t, sent, nil)
	if again.ID() != first.ID() {
		t.Errorf("the next stream got %s, want %s", again.ID(), first.ID())
	}
	if !s.Settle(again.ID(), pubsub.Success) {
		t.Error("the event cannot be settled")
	}
}
