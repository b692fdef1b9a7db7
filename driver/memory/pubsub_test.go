package memory

import (
	"context"
	"testing"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/pubsub/pubsubtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

func openPubSub(t testing.TB, cfg PubSubConfig) *PubSub {
	t.Helper()
	d, err := OpenPubSub(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPubSub(t *testing.T) {
	pubsubtest.RunInVirtualTime(t, pubsubtest.Broker{Open: func(t *testing.T) pubsub.Driver {
		return openPubSub(t, PubSubConfig{MaxMessages: 10_000, MaxBytes: 1 << 26, Concurrency: 100})
	}})
}

func TestAFullTopicDiscardsOnlyWhatItsSubscribersHaveProcessed(t *testing.T) {
	d := openPubSub(t, PubSubConfig{MaxMessages: 2, MaxBytes: 1 << 20, Concurrency: 1})
	publish := func(text string) error {
		return d.Publish(t.Context(), &pubsub.Message{Topic: "t", Data: []byte(text)})
	}
	for _, text := range []string{"1", "2", "3"} { // nobody has subscribed: 1 goes
		if err := publish(text); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	took, release, done := make(chan string), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- d.Subscribe(ctx, pubsub.Subscription{Topic: "t", Group: "g"}, func(_ context.Context, d *pubsub.Delivery) error {
			took <- string(d.Data)
			<-release
			return nil
		})
	}()
	if got := <-took; got != "2" {
		t.Errorf("the oldest message kept is %q, want 2", got)
	}
	if err := publish("4"); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("publish to a full topic while its oldest message is being processed: %v", err)
	}
	release <- struct{}{}
	if got := <-took; got != "3" {
		t.Errorf("then %q, want 3", got)
	}
	if err := publish("4"); err != nil {
		t.Errorf("publish once the oldest message is processed: %v", err)
	}
	cancel()
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := publish("5"); err != nil {
		t.Errorf("publish when nobody is subscribed any more: %v", err)
	}
}

func TestMaxBytesBoundsAllTopicsTogether(t *testing.T) {
	d := openPubSub(t, PubSubConfig{MaxMessages: 100, MaxBytes: 100, Concurrency: 1})
	for _, topic := range []string{"a", "b", "a", "c"} {
		if err := d.Publish(t.Context(), &pubsub.Message{Topic: topic, Data: make([]byte, 40)}); err != nil {
			t.Fatalf("publish to %s: %v", topic, err)
		}
	}
	if d.bytes > 100 {
		t.Errorf("the broker holds %d bytes, want 100 at most", d.bytes)
	}
	if n := len(d.topics["a"].log); n != 1 {
		t.Errorf("topic a holds %d messages; the oldest of all should have gone first", n)
	}
	err := d.Publish(t.Context(), &pubsub.Message{Topic: "a", Data: make([]byte, 101)})
	if !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("publish of more than all may hold: %v", err)
	}
}

func TestPubSubRefusesSettingsThatCannotWork(t *testing.T) {
	good := PubSubConfig{MaxMessages: 1, MaxBytes: 1, Concurrency: 1}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, cfg := range map[string]PubSubConfig{
		"maxMessages": {MaxBytes: 1, Concurrency: 1},
		"maxBytes":    {MaxMessages: 1, Concurrency: 1},
		"concurrency": {MaxMessages: 1, MaxBytes: 1, Concurrency: -1},
	} {
		if cfg.Validate() == nil {
			t.Errorf("a bad %s passes", name)
		}
	}
}
