package pubsubtest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

func contents() []property {
	return []property{
		{"DeliversWhatWasPublished", deliversData},
		{"DeliversMetadata", deliversMetadata},
		{"DeliversWhoAndWhen", deliversWhoAndWhen},
		{"TopicsHaveAnyName", oddTopics},
		{"PublishersMayComeInCrowds", crowd},
	}
}

func deliversData(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for _, data := range [][]byte{
		[]byte("text"), {}, nil, []byte(`{"n":12345678901234567890.0}`), every, []byte("\r\n\x00"), filled(b.MaxData-1, 'x'),
	} {
		publish(t, d, &pubsub.Message{Topic: topic, Data: bytes.Clone(data)})
		if got := c.next(); !bytes.Equal(got.Data, data) {
			t.Errorf("%d bytes %.40q arrived as %d bytes %.40q", len(data), data, len(got.Data), got.Data)
		}
	}
}

func deliversMetadata(t *testing.T, b Broker) {
	if b.NoMetadata {
		t.Skip("the protocol has no place for metadata")
	}
	d, topic := open(t, b), newTopic()
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	for _, want := range []map[string]string{
		nil,
		{"one": "1"},
		{"Mixed-Case": "Value", "empty": "", "ümlaut": "ö", "with blank": "a  b ", "colon:": ": ,", "nats-like": "Nats-TTL"},
		{"lines": "a\r\nb\nc", "quotes": `"{}\`, "long": string(filled(2000, 'v')), "rawPayload": "true", "ttlInSeconds": "60"},
	} {
		publish(t, d, &pubsub.Message{Topic: topic, Data: []byte("x"), Metadata: maps.Clone(want)})
		got := c.next().Metadata
		for k, v := range want {
			if got[k] != v {
				t.Errorf("metadata %q is %.40q, want %.40q", k, got[k], v)
			}
		}
		maps.DeleteFunc(got, func(k, _ string) bool { return strings.HasPrefix(k, "__") }) // what the broker says
		if len(want) == 0 && len(got) > 0 {
			t.Errorf("metadata %q out of nothing", got)
		}
	}
}

func deliversWhoAndWhen(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	before := time.Now()
	publish(t, d, &pubsub.Message{Topic: topic, Data: []byte("x"), ContentType: "text/x-odd", Key: "k"})
	got := c.next()
	if got.Topic != topic {
		t.Errorf("topic is %q, want %q", got.Topic, topic)
	}
	if got.ID == "" {
		t.Error("the message has no id")
	}
	if got.Attempt > 1 {
		t.Errorf("attempt %d of a new message", got.Attempt)
	}
	if got.ContentType != "" && got.ContentType != "text/x-odd" {
		t.Errorf("content type is %q", got.ContentType)
	}
	const skew = time.Minute // of the broker's clock
	if p := got.Published; !p.IsZero() && (p.Before(before.Add(-skew)) || p.After(time.Now().Add(skew))) {
		t.Errorf("published at %s, and it is %s", p, time.Now())
	}
}

func oddTopics(t *testing.T, b Broker) {
	d := open(t, b)
	suffix := newTopic()
	names := []string{
		"plain", "a.b", "a-b", "a_b", "a/b", "A.b", "a.*", "a.>", ">", "*", "a b", "a\tb", "a%2Eb", "ä.ö", "a\\b", "a:b", "{a}", "$a", "a..b", ".a", "a.",
		string(filled(300, 'n')),
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		if b.NoTopic == nil || !b.NoTopic(name) {
			return false
		}
		wantCode(t, "Publish", d.Publish(t.Context(), &pubsub.Message{Topic: name, Data: []byte("x")}), fault.InvalidArgument)
		err := d.Subscribe(t.Context(), pubsub.Subscription{Topic: name, Group: groupOf(name)}, nil)
		wantCode(t, "Subscribe", err, fault.InvalidArgument)
		return true
	})
	var consumers []*consumer
	for _, name := range names {
		consumers = append(consumers, consume(t, d, pubsub.Subscription{Topic: name + suffix}))
	}
	for _, name := range names {
		publishText(t, d, name+suffix, name)
	}
	for i, name := range names {
		if got := string(consumers[i].next().Data); got != name {
			t.Errorf("topic %.20q got a message of %.20q", name, got)
		}
		wantNothing(t, d, consumers[i], name+suffix)
	}
}

func crowd(t *testing.T, b Broker) {
	const publishers, each = 20, 25
	d, topic := open(t, b), newTopic()
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				if err := d.Publish(t.Context(), &pubsub.Message{Topic: topic, Data: fmt.Appendf(nil, "%d/%d", p, i)}); err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	got := slices.Compact(c.nextData(publishers * each))
	if len(got) != publishers*each {
		t.Errorf("%d different messages arrived, want %d", len(got), publishers*each)
	}
}

func options() []property {
	return []property{
		{"BulkPublishDeliversEverything", bulkPublish},
		{"BulkPublishReportsEachMessage", bulkPublishErrors},
		{"BulkPublishOfNothingDoesNothing", bulkPublishNothing},
		{"AMessagePastItsTimeIsNotDelivered", ttl},
		{"MessagesWithAKeyKeepTheirOrder", keyOrder},
		{"AMessageHoldsBackOnlyThoseWithItsKey", keysAreIndependent},
	}
}

func bulkPublisher(t *testing.T, b Broker) (pubsub.Driver, pubsub.BulkPublisher) {
	t.Helper()
	d := open(t, b)
	bp, ok := d.(pubsub.BulkPublisher)
	if !ok {
		t.Skip("the driver is not a pubsub.BulkPublisher")
	}
	return d, bp
}

func bulkPublish(t *testing.T, b Broker) {
	d, bp := bulkPublisher(t, b)
	topic, other := newTopic(), newTopic()
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	o := consume(t, d, pubsub.Subscription{Topic: other})
	texts := numbers(500)
	messages := []*pubsub.Message{{Topic: other, Data: []byte("other")}}
	for _, text := range texts {
		messages = append(messages, &pubsub.Message{Topic: topic, Data: []byte(text), Metadata: map[string]string{"m": text}})
	}
	for i, err := range bp.BulkPublish(t.Context(), messages) {
		if err != nil {
			t.Errorf("message %d: %v", i, err)
		}
	}
	var got []string
	for range texts {
		m := c.next()
		if m.Metadata["m"] != string(m.Data) && !b.NoMetadata {
			t.Errorf("message %q has the metadata of %q", m.Data, m.Metadata["m"])
		}
		got = append(got, string(m.Data))
	}
	slices.Sort(got)
	wantStrings(t, "messages", got, texts)
	wantStrings(t, "messages of the other topic", o.nextData(1), []string{"other"})
}

func bulkPublishErrors(t *testing.T, b Broker) {
	d, bp := bulkPublisher(t, b)
	topic := newTopic()
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	errs := bp.BulkPublish(ctx, []*pubsub.Message{{Topic: topic, Data: []byte("late")}, {Topic: topic, Data: []byte("later")}})
	if len(errs) != 2 {
		t.Fatalf("%d results for 2 messages", len(errs))
	}
	for _, err := range errs {
		wantCode(t, "BulkPublish with a context that has ended", err, fault.Canceled)
	}
	wantNothing(t, d, c, topic)
}

func bulkPublishNothing(t *testing.T, b Broker) {
	_, bp := bulkPublisher(t, b)
	if errs := bp.BulkPublish(t.Context(), nil); len(errs) != 0 {
		t.Errorf("results %v for no message", errs)
	}
}

func ttl(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	if x, ok := d.(pubsub.TTLer); !ok || !x.DiscardsExpired() {
		t.Skip("the broker does not discard messages whose time is over")
	}
	establish(t, d, topic, groupOf(topic))
	publish(t, d, &pubsub.Message{Topic: topic, Data: []byte("short"), TTL: time.Second})
	publish(t, d, &pubsub.Message{Topic: topic, Data: []byte("long"), TTL: time.Hour})
	time.Sleep(3 * time.Second) // nothing tells when the broker has discarded it
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	wantStrings(t, "messages", c.nextData(1), []string{"long"})
}

func orderer(t *testing.T, b Broker) pubsub.Driver {
	t.Helper()
	d := open(t, b)
	if x, ok := d.(pubsub.KeyOrderer); !ok || !x.OrdersByKey() {
		t.Skip("the broker does not keep the order of messages with the same key")
	}
	return d
}

func keyOrder(t *testing.T, b Broker) {
	const keys, each = 5, 40
	d, topic := orderer(t, b), newTopic()
	var mu sync.Mutex
	seen, failed := map[string][]string{}, map[string]bool{}
	finished := make(chan struct{}, keys*each)
	handle := func(_ context.Context, d *pubsub.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if n := string(d.Data); n == "007" && !failed[d.Key] {
			failed[d.Key] = true
			return fault.New(fault.Unavailable, "once").WithRetryAfter(100 * time.Millisecond)
		}
		seen[d.Key] = append(seen[d.Key], string(d.Data))
		finished <- struct{}{}
		return nil
	}
	c := subscribe(t, d, pubsub.Subscription{Topic: topic, MaxInFlight: 16}, handle)
	subscribe(t, d, pubsub.Subscription{Topic: topic, MaxInFlight: 16}, handle)
	for _, n := range numbers(each) {
		for k := range keys {
			publish(t, d, &pubsub.Message{Topic: topic, Key: fmt.Sprint("key", k), Data: []byte(n)})
		}
	}
	for range keys * each {
		receive(t, finished, c)
	}
	mu.Lock()
	defer mu.Unlock()
	for k, got := range seen {
		wantStrings(t, "messages with "+k, got, numbers(each))
	}
}

func keysAreIndependent(t *testing.T, b Broker) {
	d, topic := orderer(t, b), newTopic()
	release := make(chan struct{})
	arrived := make(chan string, 10)
	c := subscribe(t, d, pubsub.Subscription{Topic: topic, MaxInFlight: 4}, func(_ context.Context, d *pubsub.Delivery) error {
		arrived <- string(d.Data)
		if string(d.Data) == "slow" {
			<-release
		}
		return nil
	})
	publish(t, d, &pubsub.Message{Topic: topic, Key: "a", Data: []byte("slow")})
	publish(t, d, &pubsub.Message{Topic: topic, Key: "a", Data: []byte("behind")})
	publish(t, d, &pubsub.Message{Topic: topic, Key: "b", Data: []byte("beside")})
	publish(t, d, &pubsub.Message{Topic: topic, Data: []byte("no key")})
	got := []string{receive(t, arrived, c), receive(t, arrived, c), receive(t, arrived, c)}
	slices.Sort(got)
	wantStrings(t, "messages while one is slow", got, []string{"beside", "no key", "slow"})
	close(release)
	wantStrings(t, "the message behind it", []string{receive(t, arrived, c)}, []string{"behind"})
}
