package pubsubtest

import (
	"context"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

func browsing() []property {
	return []property{
		{"BrowseShowsWhatThereIsInOrder", browseShows},
		{"BrowsePagesShowEveryMessageOnce", browsePages},
		{"BrowsingChangesNothingForAGroup", browseLeaves},
		{"ATopicThatThereIsNotHasNoMessages", browseNothing},
		{"RemovedMessagesAreNotShownAndNotDelivered", removed},
	}
}

func browser(t *testing.T, b Broker) (pubsub.Driver, pubsub.Browser) {
	t.Helper()
	d := open(t, b)
	w, ok := d.(pubsub.Browser)
	if !ok {
		t.Skip("the driver is not a pubsub.Browser")
	}
	return d, w
}

// publishInTurn publishes messages each of which is older than the next by any
// clock: a broker that keeps a topic in several places tells by one.
func publishInTurn(t *testing.T, d pubsub.Driver, topic string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		time.Sleep(2 * time.Millisecond)
		publishText(t, d, topic, text)
	}
}

func wantBrowsed(t *testing.T, w pubsub.Browser, topic, after string, limit int, want ...string) []*pubsub.Delivery {
	t.Helper()
	list, err := w.Browse(t.Context(), topic, after, limit)
	if err != nil {
		t.Fatalf("Browse(%q, %d): %v", after, limit, err)
	}
	var got []string
	for _, m := range list {
		got = append(got, string(m.Data))
		if m.ID == "" || m.Topic != topic {
			t.Errorf("message %q has the id %q and is of topic %q", m.Data, m.ID, m.Topic)
		}
	}
	wantStrings(t, "messages shown", got, want)
	return list
}

func browseShows(t *testing.T, b Broker) {
	d, w := browser(t, b)
	topic := newTopic()
	establish(t, d, topic, groupOf(topic))
	publish(t, d, &pubsub.Message{Topic: topic, Data: []byte("a"), ContentType: "text/plain", Metadata: map[string]string{"m": "1"}})
	publishInTurn(t, d, topic, "b", "c")
	list := wantBrowsed(t, w, topic, "", 10, "a", "b", "c")
	if !b.NoMetadata && list[0].Metadata["m"] != "1" {
		t.Errorf("metadata %v", list[0].Metadata)
	}
}

func browsePages(t *testing.T, b Broker) {
	d, w := browser(t, b)
	topic := newTopic()
	establish(t, d, topic, groupOf(topic))
	publishInTurn(t, d, topic, "a", "b", "c", "d", "e")
	list := wantBrowsed(t, w, topic, "", 2, "a", "b")
	list = wantBrowsed(t, w, topic, list[1].ID, 2, "c", "d")
	list = wantBrowsed(t, w, topic, list[1].ID, 2, "e")
	wantBrowsed(t, w, topic, list[0].ID, 2)
	if _, err := w.Browse(t.Context(), topic, "not an id of this broker", 1); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("Browse after nonsense: %v, want invalid_argument", err)
	}
}

func browseLeaves(t *testing.T, b Broker) {
	d, w := browser(t, b)
	topic := newTopic()
	establish(t, d, topic, groupOf(topic))
	publishInTurn(t, d, topic, "a", "b")
	wantBrowsed(t, w, topic, "", 10, "a", "b")
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	wantStrings(t, "delivered after browsing", c.nextData(2), []string{"a", "b"})
	publishText(t, d, topic, "c")
	wantStrings(t, "delivered later", c.nextData(1), []string{"c"})
}

func browseNothing(t *testing.T, b Broker) {
	_, w := browser(t, b)
	wantBrowsed(t, w, newTopic(), "", 10)
	if err := w.Remove(t.Context(), newTopic(), []string{"1", "nonsense"}); err != nil {
		t.Errorf("Remove from a topic that there is not: %v", err)
	}
}

func removed(t *testing.T, b Broker) {
	d, w := browser(t, b)
	topic := newTopic()
	establish(t, d, topic, groupOf(topic))
	publishInTurn(t, d, topic, "a", "b", "c", "d")
	list := wantBrowsed(t, w, topic, "", 10, "a", "b", "c", "d")
	ids := []string{list[0].ID, list[2].ID, list[2].ID}
	if err := w.Remove(t.Context(), topic, ids); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	if err := w.Remove(t.Context(), topic, ids); err != nil {
		t.Errorf("Remove again: %v", err)
	}
	wantBrowsed(t, w, topic, "", 10, "b", "d")
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	wantStrings(t, "delivered", c.nextData(2), []string{"b", "d"})
	wantNothing(t, d, c, topic)
	// Removing what waits for another delivery ends it too.
	other := newTopic()
	handed := make(chan struct{}, 1)
	again := make(chan struct{}, 10)
	c = subscribe(t, d, pubsub.Subscription{Topic: other}, func(_ context.Context, m *pubsub.Delivery) error {
		if string(m.Data) == "fence" {
			again <- struct{}{}
			return nil
		}
		select {
		case handed <- struct{}{}:
		default:
		}
		return fault.New(fault.Unavailable, "not now").WithRetryAfter(b.Patience)
	})
	publishText(t, d, other, "unwanted")
	receive(t, handed, c)
	list, err := w.Browse(t.Context(), other, "", 10)
	if err != nil || len(list) == 0 {
		t.Fatalf("Browse: %v, %v", list, err)
	}
	if err := w.Remove(t.Context(), other, []string{list[0].ID}); err != nil {
		t.Errorf("Remove: %v", err)
	}
	publishText(t, d, other, "fence")
	receive(t, again, c)
	wantBrowsed(t, w, other, "", 1, "fence")
}
