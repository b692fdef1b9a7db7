package pubsub_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

func openMemory(t testing.TB) *memory.PubSub {
	t.Helper()
	d, err := memory.OpenPubSub(t.Context(), memory.PubSubConfig{MaxMessages: 100_000, MaxBytes: 1 << 28, Concurrency: 100}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// newBroker returns a broker named "bus" for application "shop".
func newBroker(t testing.TB, d pubsub.Driver, o pubsub.Options) *pubsub.Broker {
	t.Helper()
	if o.AppID == "" {
		o.AppID = "shop"
	}
	return pubsub.New(component.Opened("bus", d), o)
}

// inbound is a Chains with policies around deliveries only.
type inbound struct {
	policy.None
	chain policy.Chain
}

func (c inbound) Component(_, _ string, inbound bool) policy.Chain {
	if inbound {
		return c.chain
	}
	return nil
}

func retries(n int, delay time.Duration) pubsub.Options {
	return pubsub.Options{Chains: inbound{chain: policy.Chain{policy.Retry{Max: n, Delay: delay}.Policy}}}
}

// app is an application that records what it gets and answers by a function.
type app struct {
	answer func(ctx context.Context, call int, e *pubsub.Event) (pubsub.Status, error)
	bulk   func(ctx context.Context, call int, b *pubsub.BulkEvent) ([]pubsub.EntryStatus, error)

	mu sync.Mutex
	record
}

// record is what an application got so far.
type record struct {
	events  []*pubsub.Event
	batches []*pubsub.BulkEvent
	routes  []string // of events and batches
	times   []time.Time
}

func (a *app) got() record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return record{slices.Clone(a.events), slices.Clone(a.batches), slices.Clone(a.routes), slices.Clone(a.times)}
}

func (a *app) Deliver(ctx context.Context, route string, e *pubsub.Event) (pubsub.Status, error) {
	a.mu.Lock()
	a.events, a.routes, a.times = append(a.events, e), append(a.routes, route), append(a.times, time.Now())
	call := len(a.events)
	a.mu.Unlock()
	if a.answer == nil {
		return pubsub.Success, nil
	}
	return a.answer(ctx, call, e)
}

func (a *app) DeliverBulk(ctx context.Context, route string, b *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
	a.mu.Lock()
	a.batches, a.routes, a.times = append(a.batches, b), append(a.routes, route), append(a.times, time.Now())
	call := len(a.batches)
	a.mu.Unlock()
	if a.bulk == nil {
		return all(b, pubsub.Success), nil
	}
	return a.bulk(ctx, call, b)
}

// all returns the same status for every entry.
func all(b *pubsub.BulkEvent, s pubsub.Status) []pubsub.EntryStatus {
	var out []pubsub.EntryStatus
	for _, e := range b.Entries {
		out = append(out, pubsub.EntryStatus{EntryID: e.EntryID, Status: s})
	}
	return out
}

func (a *app) calls() []*pubsub.Event { return a.got().events }

func (a *app) payloads() []string {
	var out []string
	for _, e := range a.calls() {
		out = append(out, string(e.Data()))
	}
	return out
}

// always answers every event the same.
func always(s pubsub.Status) *app {
	return &app{answer: func(context.Context, int, *pubsub.Event) (pubsub.Status, error) { return s, nil }}
}

// start subscribes in the background until the test ends. The returned
// function ends the subscription and waits.
func start(t *testing.T, b *pubsub.Broker, spec pubsub.SubscriptionSpec, a pubsub.App) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.Subscribe(ctx, &spec, a); err != nil {
			t.Errorf("Subscribe: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return stop
}

func publish(t *testing.T, b *pubsub.Broker, topic, data string, metadata map[string]string) {
	t.Helper()
	publishAs(t, b, &pubsub.PublishRequest{Topic: topic, Data: []byte(data), ContentType: "application/json", Metadata: metadata})
}

func publishAs(t *testing.T, b *pubsub.Broker, r *pubsub.PublishRequest) {
	t.Helper()
	if err := b.Publish(t.Context(), r); err != nil {
		t.Fatalf("Publish: %v", err)
	}
}

// letters returns the messages in a topic, as the driver has them, once d of
// virtual time is over.
func letters(t *testing.T, d pubsub.Driver, topic string, after time.Duration) []*pubsub.Delivery {
	t.Helper()
	time.Sleep(after)
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var out []*pubsub.Delivery
	done := make(chan error, 1)
	go func() {
		done <- d.Subscribe(ctx, pubsub.Subscription{Topic: topic, Group: "inspector", MaxInFlight: 1}, func(_ context.Context, m *pubsub.Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			out = append(out, m)
			return nil
		})
	}()
	synctest.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Subscribe: %v", err)
	}
	return out
}

// members decodes an envelope.
func members(t *testing.T, envelope []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(envelope, &m); err != nil {
		t.Fatalf("%q: %v", envelope, err)
	}
	return m
}

func wantReason(t *testing.T, err error, code fault.Code, reason fault.Reason) {
	t.Helper()
	if !fault.Is(err, code) || fault.ReasonOf(err) != reason {
		t.Errorf("error %v with reason %q, want %v with %q", err, fault.ReasonOf(err), code, reason)
	}
}

// wrapped is a driver with some methods replaced.
type wrapped struct {
	pubsub.Driver
	publish   func(ctx context.Context, m *pubsub.Message) error
	subscribe func(ctx context.Context, s pubsub.Subscription, h pubsub.Handler) error
}

func (d *wrapped) Publish(ctx context.Context, m *pubsub.Message) error {
	if d.publish != nil {
		return d.publish(ctx, m)
	}
	return d.Driver.Publish(ctx, m)
}

func (d *wrapped) Subscribe(ctx context.Context, s pubsub.Subscription, h pubsub.Handler) error {
	if d.subscribe != nil {
		return d.subscribe(ctx, s, h)
	}
	return d.Driver.Subscribe(ctx, s, h)
}
