package pubsubtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

func groups() []property {
	return []property{
		{"EveryGroupGetsEveryMessage", everyGroup},
		{"MembersOfAGroupShareItsMessages", competing},
		{"ANewGroupBeginsWithTheOldestMessageKept", newGroup},
		{"AGroupGetsWhatIsPublishedOnceItIsEstablished", establishedGroup},
		{"AGroupGoesOnWhereItStopped", groupGoesOn},
		{"AGroupOutlivesItsDriver", groupOutlivesDriver},
		{"AtMostMaxInFlightAreHandledAtOnce", maxInFlight},
	}
}

func everyGroup(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	one := consume(t, d, pubsub.Subscription{Topic: topic, Group: "one"})
	two := consume(t, d, pubsub.Subscription{Topic: topic, Group: "two"})
	odd := consume(t, d, pubsub.Subscription{Topic: topic, Group: "a.b *> ä"})
	want := numbers(50)
	publishText(t, d, topic, want...)
	for _, c := range []*consumer{one, two, odd} {
		wantStrings(t, "messages of a group", c.nextData(len(want)), want)
	}
}

// competing has two members that each keep one message until both have one:
// neither can have taken both.
func competing(t *testing.T, b Broker) {
	topic := newTopic()
	var both sync.WaitGroup
	both.Add(2)
	arrived := make(chan string, 1000)
	member := func(d pubsub.Driver) *consumer {
		var first sync.Once
		return subscribe(t, d, pubsub.Subscription{Topic: topic, MaxInFlight: 1}, func(_ context.Context, d *pubsub.Delivery) error {
			first.Do(func() { both.Done(); both.Wait() })
			arrived <- string(d.Data)
			return nil
		})
	}
	d := open(t, b)
	other := d
	if b.OpenDoomed != nil && !b.OneMember { // a broker with connections
		other = open(t, b)
	}
	c := member(d)
	member(other)
	if b.Joined != nil {
		b.Joined(t, topic, groupOf(topic), 2)
	}
	want := numbers(100)
	publishText(t, d, topic, want...)
	var got []string
	for range want {
		got = append(got, receive(t, arrived, c))
	}
	slices.Sort(got)
	wantStrings(t, "messages of the group", got, want)
	select {
	case extra := <-arrived:
		t.Errorf("%q was delivered to both members", extra)
	default:
	}
}

func newGroup(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	if forgets(d) {
		t.Skip("the broker keeps nothing for groups to come")
	}
	publishText(t, d, topic, "early")
	first := consume(t, d, pubsub.Subscription{Topic: topic, Group: "first"})
	wantStrings(t, "messages before the group", first.nextData(1), []string{"early"})
	second := consume(t, d, pubsub.Subscription{Topic: topic, Group: "second"})
	wantStrings(t, "messages that another group has processed", second.nextData(1), []string{"early"})
}

func establishedGroup(t *testing.T, b Broker) {
	d := open(t, b)
	if !forgets(d) {
		t.Skip("the broker keeps messages for groups to come")
	}
	for range 10 {
		topic := newTopic()
		publishText(t, d, topic, "to nobody")
		c := consume(t, d, pubsub.Subscription{Topic: topic})
		publishText(t, d, topic, "to somebody")
		wantStrings(t, "messages since the group is established", c.nextData(1), []string{"to somebody"})
		c.stop()
	}
}

func groupGoesOn(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	publishText(t, d, topic, "1")
	c.nextData(1)
	c.stop()
	publishText(t, d, topic, "2")
	again := consume(t, d, pubsub.Subscription{Topic: topic})
	wantStrings(t, "messages after a break", again.nextData(1), []string{"2"})
	wantNothing(t, d, again, topic)
}

func groupOutlivesDriver(t *testing.T, b Broker) {
	if b.OpenDoomed == nil {
		t.Skip("the broker lives in the driver")
	}
	topic := newTopic()
	first := b.Open(t)
	c := consume(t, first, pubsub.Subscription{Topic: topic})
	publishText(t, first, topic, "1")
	c.nextData(1)
	c.stop()
	publishText(t, first, topic, "2")
	if err := first.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	d := open(t, b)
	again := consume(t, d, pubsub.Subscription{Topic: topic})
	wantStrings(t, "messages after a restart", again.nextData(1), []string{"2"})
	wantNothing(t, d, again, topic)
}

func maxInFlight(t *testing.T, b Broker) {
	const limit = 3
	d, topic := open(t, b), newTopic()
	var calls tally
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	c := subscribe(t, d, pubsub.Subscription{Topic: topic, MaxInFlight: limit}, func(context.Context, *pubsub.Delivery) error {
		calls.add(1)
		defer calls.add(-1)
		arrived <- struct{}{}
		<-release
		return nil
	})
	publishText(t, d, topic, numbers(20)...)
	for range limit {
		receive(t, arrived, c)
	}
	close(release)
	for range 20 - limit {
		receive(t, arrived, c)
	}
	if _, most := calls.counts(); most != limit {
		t.Errorf("%d messages were handled at once, want %d", most, limit)
	}
}

func redeliveries() []property {
	return []property{
		{"AFailedMessageComesAgain", failedComesAgain},
		{"AFailedMessageWaitsForItsDelay", failedWaits},
		{"AFailedMessageHoldsNoOtherBack", failedHoldsNobody},
		{"AnAcknowledgedMessageDoesNotComeAgain", acknowledgedStays},
		{"UnacknowledgedMessagesComeAgainAfterTheConsumerDies", deadConsumer},
		{"AMessageHandledForLongIsNotDeliveredTwice", longHandling},
	}
}

func failedComesAgain(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	attempts := make(chan *pubsub.Delivery, 10)
	n := 0
	c := subscribe(t, d, pubsub.Subscription{Topic: topic, MaxInFlight: 1}, func(_ context.Context, d *pubsub.Delivery) error {
		attempts <- d
		if n++; n < 3 {
			return fault.New(fault.Unavailable, "not now").WithRetryAfter(10 * time.Millisecond)
		}
		return nil
	})
	publish(t, d, &pubsub.Message{Topic: topic, Data: []byte("x"), Metadata: map[string]string{"m": "v"}})
	for want := 1; want <= 3; want++ {
		got := receive(t, attempts, c)
		if string(got.Data) != "x" || got.Metadata["m"] != "v" && !b.NoMetadata {
			t.Errorf("attempt %d has data %q and metadata %q", want, got.Data, got.Metadata)
		}
		if got.Attempt != 0 && got.Attempt != want {
			t.Errorf("attempt %d is said to be %d", want, got.Attempt)
		}
	}
}

func failedWaits(t *testing.T, b Broker) {
	const delay = time.Second
	const slack = 50 * time.Millisecond // between two clocks
	d, topic := open(t, b), newTopic()
	var failed time.Time
	again := make(chan time.Duration, 10)
	c := subscribe(t, d, pubsub.Subscription{Topic: topic, MaxInFlight: 1}, func(context.Context, *pubsub.Delivery) error {
		if failed.IsZero() {
			failed = time.Now()
			return fault.New(fault.Unavailable, "later").WithRetryAfter(delay)
		}
		again <- time.Since(failed)
		return nil
	})
	publishText(t, d, topic, "x")
	if waited := receive(t, again, c); waited < delay-slack {
		t.Errorf("delivered again after %s, want %s at least", waited, delay)
	}
}

func failedHoldsNobody(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	arrived := make(chan string, 100)
	c := subscribe(t, d, pubsub.Subscription{Topic: topic, MaxInFlight: 1}, func(_ context.Context, d *pubsub.Delivery) error {
		if string(d.Data) == "bad" {
			return fault.New(fault.Unavailable, "never").WithRetryAfter(time.Hour)
		}
		arrived <- string(d.Data)
		return nil
	})
	publishText(t, d, topic, "bad", "good", "bad", "better")
	got := []string{receive(t, arrived, c), receive(t, arrived, c)}
	slices.Sort(got) // without a key they have no order
	wantStrings(t, "messages", got, []string{"better", "good"})
}

func acknowledgedStays(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	publishText(t, d, topic, numbers(20)...)
	c.nextData(20)
	c.stop()
	again := consume(t, d, pubsub.Subscription{Topic: topic})
	wantNothing(t, d, again, topic)
}

func deadConsumer(t *testing.T, b Broker) {
	if b.OpenDoomed == nil {
		t.Skip("the broker lives in the driver")
	}
	topic := newTopic()
	d := open(t, b)
	doomed, kill := b.OpenDoomed(t)
	establish(t, doomed, topic, groupOf(topic))
	want := numbers(5)
	publishText(t, d, topic, want...)
	release := make(chan struct{})
	took := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- doomed.Subscribe(ctx, pubsub.Subscription{Topic: topic, Group: groupOf(topic), MaxInFlight: len(want)},
			func(context.Context, *pubsub.Delivery) error {
				took <- struct{}{}
				<-release
				return nil
			})
	}()
	for range want {
		receive(t, took, nil)
	}
	kill()
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	wantStrings(t, "messages of a dead consumer", c.nextData(len(want)), want)
	close(release)
	cancel()
	receive(t, ended, nil)
	_ = doomed.Close() // its connection is gone
}

func longHandling(t *testing.T, b Broker) {
	if b.Patience == 0 {
		t.Skip("the broker does not guess whether a consumer is alive")
	}
	d, topic := open(t, b), newTopic()
	other := open(t, b)
	arrived := make(chan string, 100)
	handle := func(_ context.Context, d *pubsub.Delivery) error {
		arrived <- string(d.Data)
		if string(d.Data) == "slow" {
			time.Sleep(2*b.Patience + b.Patience/2) // long enough to be taken for dead
		}
		arrived <- "done with " + string(d.Data)
		return nil
	}
	c := subscribe(t, d, pubsub.Subscription{Topic: topic, MaxInFlight: 1}, handle)
	subscribe(t, other, pubsub.Subscription{Topic: topic, MaxInFlight: 1}, handle)
	publishText(t, d, topic, "slow")
	wantStrings(t, "what happened", []string{receive(t, arrived, c), receive(t, arrived, c)}, []string{"slow", "done with slow"})
}

func endings() []property {
	return []property{
		{"NothingIsHandledAfterSubscribeReturns", nothingAfterReturn},
		{"MessagesUnderWayAreSettledWhenTheContextEnds", settledAtTheEnd},
		{"TheHandlersContextOutlivesTheSubscription", handlerContext},
		{"AnEndedContextEndsSubscribe", endedContext},
		{"APublishWithAnEndedContextIsCanceled", canceledPublish},
		{"CloseEndsSubscriptions", closeEnds},
		{"AfterCloseEverythingIsUnavailable", afterClose},
	}
}

func nothingAfterReturn(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	for range 10 {
		var calls tally
		returned := false
		var mu sync.Mutex
		started := make(chan struct{}, 1000)
		c := subscribe(t, d, pubsub.Subscription{Topic: topic, MaxInFlight: 8}, func(context.Context, *pubsub.Delivery) error {
			mu.Lock()
			if returned {
				t.Error("a message is handled after Subscribe has returned")
			}
			mu.Unlock()
			calls.add(1)
			defer calls.add(-1)
			started <- struct{}{}
			return nil
		})
		publishText(t, d, topic, numbers(20)...)
		receive(t, started, c)
		c.stop()
		mu.Lock()
		returned = true
		mu.Unlock()
		if now, _ := calls.counts(); now != 0 {
			t.Fatalf("%d messages are being handled after Subscribe has returned", now)
		}
	}
}

func settledAtTheEnd(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	took, release := make(chan string, 10), make(chan struct{})
	c := subscribe(t, d, pubsub.Subscription{Topic: topic, MaxInFlight: 2}, func(_ context.Context, d *pubsub.Delivery) error {
		took <- string(d.Data)
		<-release
		if string(d.Data) == "fails" {
			return errors.New("no")
		}
		return nil
	})
	publishText(t, d, topic, "succeeds", "fails")
	receive(t, took, c)
	receive(t, took, c)
	c.cancel()
	select {
	case <-c.done:
		t.Fatal("Subscribe returned while messages were being handled")
	default:
	}
	close(release)
	c.stop()
	again := consume(t, d, pubsub.Subscription{Topic: topic})
	wantStrings(t, "messages given back", again.nextData(1), []string{"fails"})
	wantNothing(t, d, again, topic)
}

func handlerContext(t *testing.T, b Broker) {
	type key struct{}
	d, topic := open(t, b), newTopic()
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	establish(t, d, topic, groupOf(topic))
	took, release := make(chan struct{}), make(chan struct{})
	result, done := make(chan error, 1), make(chan error, 1)
	go func() {
		done <- d.Subscribe(ctx, pubsub.Subscription{Topic: topic, Group: groupOf(topic)}, func(ctx context.Context, _ *pubsub.Delivery) error {
			close(took)
			<-release
			if ctx.Value(key{}) != "value" {
				t.Error("the handler's context lacks the value of the subscription's")
			}
			result <- ctx.Err()
			return nil
		})
	}()
	publishText(t, d, topic, "x")
	receive(t, took, nil)
	cancel()
	close(release)
	if err := receive(t, result, nil); err != nil {
		t.Errorf("the handler's context ended with the subscription's: %v", err)
	}
	if err := receive(t, done, nil); err != nil {
		t.Errorf("Subscribe: %v", err)
	}
}

func endedContext(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := d.Subscribe(ctx, pubsub.Subscription{Topic: topic, Group: groupOf(topic)}, func(context.Context, *pubsub.Delivery) error { return nil })
	if err != nil {
		t.Errorf("Subscribe with an ended context: %v, want nil", err)
	}
	c := consume(t, d, pubsub.Subscription{Topic: topic})
	publishText(t, d, topic, "x")
	c.nextData(1)
	c.stop()
}

func canceledPublish(t *testing.T, b Broker) {
	d, topic := open(t, b), newTopic()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantCode(t, "Publish", d.Publish(ctx, &pubsub.Message{Topic: topic, Data: []byte("x")}), fault.Canceled)
}

func closeEnds(t *testing.T, b Broker) {
	d, topic := b.Open(t), newTopic()
	establish(t, d, topic, groupOf(topic))
	arrived := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		done <- d.Subscribe(t.Context(), pubsub.Subscription{Topic: topic, Group: groupOf(topic)}, func(context.Context, *pubsub.Delivery) error {
			arrived <- struct{}{}
			return nil
		})
	}()
	publishText(t, d, topic, "x")
	receive(t, arrived, nil)
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	wantCode(t, "Subscribe", receive(t, done, nil), fault.Unavailable)
}

func afterClose(t *testing.T, b Broker) {
	d, topic := b.Open(t), newTopic()
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	wantCode(t, "Publish", d.Publish(t.Context(), &pubsub.Message{Topic: topic, Data: []byte("x")}), fault.Unavailable)
	err := d.Subscribe(t.Context(), pubsub.Subscription{Topic: topic, Group: groupOf(topic)}, func(context.Context, *pubsub.Delivery) error { return nil })
	wantCode(t, "Subscribe", err, fault.Unavailable)
	if bp, ok := d.(pubsub.BulkPublisher); ok {
		for _, err := range bp.BulkPublish(t.Context(), []*pubsub.Message{{Topic: topic, Data: []byte("x")}}) {
			wantCode(t, "BulkPublish", err, fault.Unavailable)
		}
	}
	if err := d.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}
