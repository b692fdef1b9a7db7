package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
)

const pubsub = "pubsub"

// listenToTopics subscribes to the topics of the checks. Every handler keeps
// what it gets in the inbox of its route.
func (a *app) listenToTopics() {
	subscribe := func(s common.Subscription, handle common.TopicEventHandler) {
		s.PubsubName = pubsub
		if err := a.service.AddTopicEventHandler(&s, handle); err != nil {
			panic(err)
		}
	}
	into := func(name string) common.TopicEventHandler {
		inbox := a.inboxes.inbox(name)
		return func(_ context.Context, e *common.TopicEvent) (bool, error) {
			inbox <- e
			return false, nil
		}
	}
	for _, topic := range []string{"values", "bulk", "cloudevents", "grave", "streamed-grave", outbox} {
		subscribe(common.Subscription{Topic: topic, Route: "/" + topic}, into(topic))
	}
	subscribe(common.Subscription{Topic: "raw", Route: "/raw", Metadata: map[string]string{"rawPayload": "true"}}, into("raw"))

	subscribe(common.Subscription{Topic: "routed", Route: "/ordinary"}, into("ordinary"))
	subscribe(common.Subscription{Topic: "routed", Route: "/large", Match: `event.data.amount > 100`, Priority: 2}, into("large"))
	subscribe(common.Subscription{Topic: "routed", Route: "/important", Match: `event.type == "important"`, Priority: 1}, into("important"))

	attempts, flaky := 0, a.inboxes.inbox("flaky")
	subscribe(common.Subscription{Topic: "flaky", Route: "/flaky"}, func(context.Context, *common.TopicEvent) (bool, error) {
		attempts++
		flaky <- attempts
		if attempts < 3 {
			return true, errors.New("not yet")
		}
		return false, nil
	})
	dropped := a.inboxes.inbox("dropped")
	subscribe(common.Subscription{Topic: "dropped", Route: "/dropped"}, func(_ context.Context, e *common.TopicEvent) (bool, error) {
		dropped <- e
		return false, errors.New("not for me")
	})
}

func (a *app) checkPubSub() {
	roundTrip := func(ctx context.Context, t *t, topic string, data any, options ...client.PublishEventOption) *common.TopicEvent {
		t.ok(a.client.PublishEvent(ctx, pubsub, topic, data, options...))
		return take[*common.TopicEvent](ctx, t, a.inboxes[topic])
	}
	a.check("pubsub: a struct arrives as JSON in an envelope", func(ctx context.Context, t *t) {
		type order struct {
			Name   string  `json:"name"`
			Amount float64 `json:"amount"`
		}
		e := roundTrip(ctx, t, "values", order{"boat 🛶", 2.5})
		t.equal(e.Data, map[string]any{"name": "boat 🛶", "amount": 2.5}, "data")
		var got order
		t.ok(e.Struct(&got))
		t.equal(got, order{"boat 🛶", 2.5}, "struct")
		t.equal([]string{e.SpecVersion, e.Type, e.Source, e.DataContentType, e.Topic, e.PubsubName},
			[]string{"1.0", "com.dapr.event.sent", a.id, "application/json", "values", pubsub}, "envelope")
		if e.ID == "" {
			t.fail("the event has no id")
		}
	})
	a.check("pubsub: a text arrives", func(ctx context.Context, t *t) {
		e := roundTrip(ctx, t, "values", "just a text")
		t.equal([]any{e.Data, e.DataContentType}, []any{"just a text", "text/plain"}, "data")
	})
	a.check("pubsub: bytes arrive", func(ctx context.Context, t *t) {
		want := []byte{0, 1, 0xff, 0xfe}
		e := roundTrip(ctx, t, "values", want, client.PublishEventWithContentType("application/octet-stream"))
		t.equal([]any{e.RawData, e.DataContentType}, []any{want, "application/octet-stream"}, "data")
	})
	a.check("pubsub: two megabytes arrive", func(ctx context.Context, t *t) {
		want := bytes.Repeat([]byte("xyz\x00"), 2<<18)
		e := roundTrip(ctx, t, "values", want, client.PublishEventWithContentType("application/octet-stream"))
		t.equal(bytes.Equal(e.RawData, want), true, "same bytes")
	})
	a.check("pubsub: any content type that is JSON arrives", func(ctx context.Context, t *t) {
		e := roundTrip(ctx, t, "values", []byte(`{"n":1}`), client.PublishEventWithContentType("application/vnd.boat+json"))
		t.equal([]any{e.Data, e.DataContentType}, []any{map[string]any{"n": 1.0}, "application/vnd.boat+json"}, "data")
	})
	a.check("pubsub: metadata sets the envelope", func(ctx context.Context, t *t) {
		e := roundTrip(ctx, t, "values", map[string]int{"n": 1}, client.PublishEventWithMetadata(map[string]string{
			"cloudevent.id": "my-id", "cloudevent.type": "my.type", "cloudevent.source": "my-source",
		}))
		t.equal([]string{e.ID, e.Type, e.Source}, []string{"my-id", "my.type", "my-source"}, "envelope")
	})
	a.check("pubsub: a CloudEvent is passed on as it is", func(ctx context.Context, t *t) {
		event := `{"specversion":"1.0","id":"e-1","source":"interop","type":"a.type","datacontenttype":"application/json","data":{"n":9007199254740993}}`
		e := roundTrip(ctx, t, "cloudevents", []byte(event), client.PublishEventWithContentType("application/cloudevents+json"))
		t.equal([]string{e.ID, e.Source, e.Type, string(e.RawData)}, []string{"e-1", "interop", "a.type", `{"n":9007199254740993}`}, "event")
	})
	a.check("pubsub: a raw payload arrives", func(ctx context.Context, t *t) {
		e := roundTrip(ctx, t, "raw", []byte("as it is"), client.PublishEventWithRawPayload())
		t.equal([]any{string(e.RawData), e.DataContentType}, []any{"as it is", "application/octet-stream"}, "data")
	})
	a.check("pubsub: rules decide on the route, in the order of their priority", a.checkRoutes)
	a.check("pubsub: what is to be retried comes again", func(ctx context.Context, t *t) {
		t.ok(a.client.PublishEvent(ctx, pubsub, "flaky", "x"))
		for attempt := 1; attempt <= 3; attempt++ {
			t.equal(take[int](ctx, t, a.inboxes["flaky"]), attempt, "attempt")
		}
	})
	a.check("pubsub: what is dropped does not come again", func(ctx context.Context, t *t) {
		for _, text := range []string{"first", "second"} {
			t.ok(a.client.PublishEvent(ctx, pubsub, "dropped", text))
			t.equal(take[*common.TopicEvent](ctx, t, a.inboxes["dropped"]).Data, text, "data")
		}
	})
	a.check("pubsub: many are published at once", func(ctx context.Context, t *t) {
		r := a.client.PublishEvents(ctx, pubsub, "bulk", []any{
			map[string]int{"n": 1}, "two", client.PublishEventsEvent{EntryID: "own", Data: []byte(`[3]`), ContentType: "application/json"},
		})
		t.ok(r.Error)
		t.equal(len(r.FailedEvents), 0, "failed events")
		var got []string
		for range 3 {
			text, err := json.Marshal(take[*common.TopicEvent](ctx, t, a.inboxes["bulk"]).Data)
			t.ok(err)
			got = append(got, string(text))
		}
		slices.Sort(got)
		t.equal(got, []string{`"two"`, `[3]`, `{"n":1}`}, "data")
	})
	a.check("pubsub: a declared subscription delivers to another application", func(ctx context.Context, t *t) {
		t.ok(a.client.PublishEvent(ctx, pubsub, "declared", map[string]int{"n": 7}))
		t.eventually(ctx, `[{"n":7}]`, "what the peer has received", func() any {
			got, err := a.client.InvokeMethod(ctx, a.peer, "received", "get")
			t.ok(err)
			return string(got)
		})
	})
	a.check("pubsub: custom content arrives", func(ctx context.Context, t *t) {
		t.ok(a.client.PublishEventfromCustomContent(ctx, pubsub, "values", []string{"one", "two"}))
		t.equal(take[*common.TopicEvent](ctx, t, a.inboxes["values"]).Data, []any{"one", "two"}, "data")
	})
	a.check("pubsub: an event that has a time to live arrives", func(ctx context.Context, t *t) {
		e := roundTrip(ctx, t, "values", "in time", client.PublishEventWithMetadata(map[string]string{"ttlInSeconds": "60"}))
		t.equal(e.Data, "in time", "data")
	})
	a.check("pubsub: many for a component that does not exist fail", func(ctx context.Context, t *t) {
		r := a.client.PublishEvents(ctx, "nopubsub", "bulk", []any{"one", "two"})
		t.refused(r.Error, "nopubsub")
		t.equal(len(r.FailedEvents), 2, "failed events")
	})
	a.check("pubsub: a component that does not exist is named in the error", func(ctx context.Context, t *t) {
		t.refused(a.client.PublishEvent(ctx, "nopubsub", "topic", "x"), "code = InvalidArgument", "pubsub nopubsub is not found")
	})
}

func (a *app) checkRoutes(ctx context.Context, t *t) {
	for _, one := range []struct {
		route  string
		amount float64
		kind   string
	}{{"ordinary", 1, ""}, {"large", 1000, ""}, {"important", 1000, "important"}} {
		var options []client.PublishEventOption
		if one.kind != "" {
			options = append(options, client.PublishEventWithMetadata(map[string]string{"cloudevent.type": one.kind}))
		}
		t.ok(a.client.PublishEvent(ctx, pubsub, "routed", map[string]float64{"amount": one.amount}, options...))
		e := take[*common.TopicEvent](ctx, t, a.inboxes[one.route])
		t.equal(e.Data, map[string]any{"amount": one.amount}, one.route)
	}
	for _, route := range []string{"ordinary", "large", "important"} {
		t.equal(len(a.inboxes[route]), 0, "more on "+route)
	}
}

// checkStreaming subscribes without being called: the client pulls.
func (a *app) checkStreaming() {
	a.check("streaming: events are received and acknowledged one by one", func(ctx context.Context, t *t) {
		s, err := a.client.Subscribe(ctx, client.SubscriptionOptions{PubsubName: pubsub, Topic: "streamed"})
		t.ok(err)
		t.ok(a.client.PublishEvent(ctx, pubsub, "streamed", map[string]int{"n": 1}))
		e, err := s.Receive()
		t.ok(err)
		t.equal([]any{e.Data, e.Source, e.Topic, e.PubsubName, e.DataContentType},
			[]any{map[string]any{"n": 1.0}, a.id, "streamed", pubsub, "application/json"}, "event")
		t.ok(e.Retry())
		again, err := s.Receive()
		t.ok(err)
		t.equal([]any{again.ID, again.Data}, []any{e.ID, e.Data}, "event when it comes again")
		t.ok(again.Success())
		t.ok(a.client.PublishEvent(ctx, pubsub, "streamed", map[string]int{"n": 2}))
		next, err := s.Receive()
		t.ok(err)
		t.equal(next.Data, map[string]any{"n": 2.0}, "next event")
		t.ok(next.Success())
		t.ok(s.Close())
	})
	a.check("streaming: a handler answers for each event", func(ctx context.Context, t *t) {
		grave := "streamed-grave"
		got := make(chan any, 100)
		stop, err := a.client.SubscribeWithHandler(ctx,
			client.SubscriptionOptions{PubsubName: pubsub, Topic: "handled", DeadLetterTopic: &grave},
			func(e *common.TopicEvent) common.SubscriptionResponseStatus {
				got <- e
				if e.Data == "bad" {
					return common.SubscriptionResponseStatusDrop
				}
				return common.SubscriptionResponseStatusSuccess
			})
		t.ok(err)
		for _, text := range []string{"good", "bad"} {
			t.ok(a.client.PublishEvent(ctx, pubsub, "handled", text))
			t.equal(take[*common.TopicEvent](ctx, t, got).Data, text, "data")
		}
		t.equal(take[*common.TopicEvent](ctx, t, a.inboxes[grave]).Data, "bad", "dead letter")
		t.ok(stop())
	})
	a.check("streaming: a component that does not exist is named in the error", func(ctx context.Context, t *t) {
		_, err := a.client.Subscribe(ctx, client.SubscriptionOptions{PubsubName: "nopubsub", Topic: "x"})
		t.refused(err, "nopubsub")
	})
}
