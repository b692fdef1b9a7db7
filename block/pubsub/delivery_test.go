package pubsub_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

func TestAnEventReachesTheApplicationAsItWasPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
		start(t, b, pubsub.SubscriptionSpec{Topic: "orders", DefaultRoute: "/orders"}, a)
		publishAs(t, b, &pubsub.PublishRequest{
			Topic: "orders", Data: []byte(`{"id":12345678901234567890}`), ContentType: "application/json",
			Metadata: map[string]string{"m": "v"}, TraceParent: "00-a-b-01", TraceState: "k=v",
		})
		synctest.Wait()
		if len(a.got().events) != 1 {
			t.Fatalf("%d deliveries, want 1", len(a.got().events))
		}
		e := a.got().events[0]
		if a.got().routes[0] != "/orders" || string(e.Data()) != `{"id":12345678901234567890}` || e.Source() != "shop" ||
			e.Type() != "com.dapr.event.sent" || e.SpecVersion() != "1.0" || e.DataContentType() != "application/json" ||
			e.Text("topic") != "orders" || e.Text("pubsubname") != "bus" || e.TraceParent() != "00-a-b-01" || e.TraceState() != "k=v" ||
			e.Metadata["m"] != "v" || e.Component != "bus" || e.Topic != "orders" || e.Attempt != 1 || e.Raw != nil || e.ID() == "" {
			t.Errorf("route %q, event %s, metadata %v", a.got().routes[0], e.JSON, e.Metadata)
		}
	})
}

func TestARetriedEventIsDeliveredAgainByTheInboundPolicy(t *testing.T) {
	for name, answer := range map[string]func() (pubsub.Status, error){
		"status": func() (pubsub.Status, error) { return pubsub.Retry, nil },
		"error":  func() (pubsub.Status, error) { return 0, fault.New(fault.InvalidArgument, "status 400") },
		"plain":  func() (pubsub.Status, error) { return 0, errors.New("connection refused") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &app{answer: func(_ context.Context, call int, _ *pubsub.Event) (pubsub.Status, error) {
					if call < 3 {
						return answer()
					}
					return pubsub.Success, nil
				}}
				b := newBroker(t, openMemory(t), retries(2, time.Minute))
				start(t, b, pubsub.SubscriptionSpec{Topic: "t"}, a)
				publish(t, b, "t", "1", nil)
				time.Sleep(time.Hour)
				if len(a.got().times) != 3 || a.got().times[2].Sub(a.got().times[0]) != 2*time.Minute {
					t.Errorf("delivered at %v, want three times a minute apart", a.got().times)
				}
			})
		})
	}
}

func TestWithoutAPolicyTheBrokerDeliversAgainWithGrowingDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := always(pubsub.Retry)
		b := newBroker(t, openMemory(t), pubsub.Options{})
		start(t, b, pubsub.SubscriptionSpec{Topic: "t"}, a)
		publish(t, b, "t", "1", nil)
		time.Sleep(10 * time.Minute)
		if n := len(a.got().times); n < 15 || n > 30 {
			t.Errorf("%d deliveries in ten minutes", n)
		}
		for i := 1; i < len(a.got().times); i++ {
			least := min(500*time.Millisecond<<(i-1), 30*time.Second)
			if got := a.got().times[i].Sub(a.got().times[i-1]); got < least || got > least*5/4 {
				t.Errorf("wait %d was %s, want %s and up to a quarter more", i, got, least)
			}
			if a.got().events[i].Attempt != i+1 {
				t.Errorf("delivery %d says it is attempt %d", i+1, a.got().events[i].Attempt)
			}
		}
	})
}

func TestADelayThatTheApplicationAsksForIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &app{answer: func(_ context.Context, call int, _ *pubsub.Event) (pubsub.Status, error) {
			if call == 1 {
				return 0, fault.New(fault.ResourceExhausted, "busy").WithRetryAfter(time.Hour)
			}
			return pubsub.Success, nil
		}}
		b := newBroker(t, openMemory(t), pubsub.Options{})
		start(t, b, pubsub.SubscriptionSpec{Topic: "t"}, a)
		publish(t, b, "t", "1", nil)
		time.Sleep(2 * time.Hour)
		if len(a.got().times) != 2 || a.got().times[1].Sub(a.got().times[0]) < time.Hour {
			t.Errorf("delivered at %v, want an hour apart", a.got().times)
		}
	})
}

func TestADeadLetterSaysWhatHappened(t *testing.T) {
	for _, tc := range []struct {
		name     string
		spec     pubsub.SubscriptionSpec
		answer   pubsub.Status
		err      error
		metadata map[string]string
		calls    int
		reason   string
	}{
		{name: "retries are exhausted", answer: pubsub.Retry, calls: 3, reason: "the application asked for another delivery"},
		{name: "the application fails", err: fault.New(fault.Unavailable, "status 500\nboom"), calls: 3,
			reason: "the application did not process the event: status 500 boom"},
		{name: "it is dropped", answer: pubsub.Drop, calls: 1, reason: "the application dropped it"},
		{name: "no rule matches", spec: pubsub.SubscriptionSpec{Rules: []pubsub.Rule{{Match: "false", Path: "/x"}}},
			reason: "no routing rule matches and there is no default route"},
		{name: "it has expired", metadata: map[string]string{"cloudevent.expiration": "1999-12-31T23:59:59Z", "ttlInSeconds": "1"},
			reason: "the message has expired"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &app{answer: func(context.Context, int, *pubsub.Event) (pubsub.Status, error) { return tc.answer, tc.err }}
				d := openMemory(t)
				b := newBroker(t, d, retries(2, time.Minute))
				tc.spec.Topic, tc.spec.DeadLetterTopic = "t", "dead"
				start(t, b, tc.spec, a)
				before := time.Now().UTC().Format(time.RFC3339)
				publish(t, b, "t", `{"n":1.50}`, tc.metadata)
				got := letters(t, d, "dead", time.Hour)
				if len(a.got().events) != tc.calls || len(got) != 1 {
					t.Fatalf("%d calls and %d dead letters, want %d and 1", len(a.got().events), len(got), tc.calls)
				}
				checkLetter(t, got[0], tc.calls, tc.reason, before)
				m := members(t, got[0].Data)
				if m["topic"] != "t" || m["source"] != "shop" || m["expiration"] != nil || !bytes.Contains(got[0].Data, []byte(`"data":{"n":1.50}`)) {
					t.Errorf("the event was changed: %s", got[0].Data)
				}
				if got[0].Metadata["ttlInSeconds"] != "" {
					t.Error("the dead letter has a time to live")
				}
			})
		})
	}
}

// checkLetter checks what was added to a dead letter.
func checkLetter(t *testing.T, got *pubsub.Delivery, calls int, reason, before string) {
	t.Helper()
	m, meta := members(t, got.Data), got.Metadata
	if m[pubsub.DeadLetterReason] != reason || meta[pubsub.DeadLetterReason] != reason {
		t.Errorf("reason %q and %q, want %q", m[pubsub.DeadLetterReason], meta[pubsub.DeadLetterReason], reason)
	}
	if m[pubsub.DeadLetterAttempts] != float64(calls) || meta[pubsub.DeadLetterAttempts] != string(rune('0'+calls)) {
		t.Errorf("attempts %v and %q, want %d", m[pubsub.DeadLetterAttempts], meta[pubsub.DeadLetterAttempts], calls)
	}
	if m[pubsub.DeadLetterTopic] != "t" || meta[pubsub.DeadLetterTopic] != "t" {
		t.Errorf("topic %v and %q, want t", m[pubsub.DeadLetterTopic], meta[pubsub.DeadLetterTopic])
	}
	first, last := meta[pubsub.DeadLetterFirstTime], meta[pubsub.DeadLetterLastTime]
	if first != before || last < first || m[pubsub.DeadLetterFirstTime] != first || m[pubsub.DeadLetterLastTime] != last {
		t.Errorf("times %q and %q, want from %q on", first, last, before)
	}
}

func TestADeadLetterThatFailsAgainKeepsOneSetOfNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMemory(t)
		b := newBroker(t, d, pubsub.Options{})
		start(t, b, pubsub.SubscriptionSpec{Topic: "t", DeadLetterTopic: "dead"}, always(pubsub.Drop))
		start(t, b, pubsub.SubscriptionSpec{Topic: "dead", DeadLetterTopic: "deader"}, always(pubsub.Retry))
		publish(t, b, "t", "1", nil)
		got := letters(t, d, "deader", time.Minute)
		if len(got) != 1 || bytes.Count(got[0].Data, []byte("deadletterreason")) != 1 {
			t.Fatalf("letters %v", got)
		}
		if m := members(t, got[0].Data); m[pubsub.DeadLetterTopic] != "dead" || m[pubsub.DeadLetterReason] != "the application asked for another delivery" {
			t.Errorf("notes of the first time: %s", got[0].Data)
		}
	})
}

func TestAMessageIsAcknowledgedOnlyOnceItsDeadLetterIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := openMemory(t)
		failures := 3
		d := &wrapped{Driver: inner, publish: func(ctx context.Context, m *pubsub.Message) error {
			if m.Topic == "dead" && failures > 0 {
				failures--
				return fault.New(fault.Unavailable, "the broker is down")
			}
			return inner.Publish(ctx, m)
		}}
		b, a := newBroker(t, d, pubsub.Options{}), always(pubsub.Drop)
		start(t, b, pubsub.SubscriptionSpec{Topic: "t", DeadLetterTopic: "dead"}, a)
		publish(t, b, "t", "1", nil)
		got := letters(t, inner, "dead", time.Minute)
		if len(got) != 1 || len(a.calls()) != 4 {
			t.Fatalf("%d dead letters after %d deliveries, want 1 after 4", len(got), len(a.calls()))
		}
		if m := members(t, got[0].Data); m[pubsub.DeadLetterAttempts] != 4.0 {
			t.Errorf("attempts %v, want those of earlier deliveries too", m[pubsub.DeadLetterAttempts])
		}
	})
}

func TestScopesHoldForTheDeadLetterTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMemory(t)
		b := newBroker(t, d, pubsub.Options{Config: pubsub.Config{PublishingScopes: "shop=t"}})
		a := always(pubsub.Drop)
		start(t, b, pubsub.SubscriptionSpec{Topic: "t", DeadLetterTopic: "dead"}, a)
		publish(t, b, "t", "1", nil)
		if got := letters(t, d, "dead", time.Minute); len(got) != 0 || len(a.calls()) < 2 {
			t.Errorf("%d letters in a forbidden topic, %d deliveries", len(got), len(a.calls()))
		}
	})
}

func TestADroppedEventIsNotDeliveredAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), retries(5, time.Second)), always(pubsub.Drop)
		start(t, b, pubsub.SubscriptionSpec{Topic: "t"}, a)
		publish(t, b, "t", "1", nil)
		time.Sleep(time.Hour)
		if n := len(a.calls()); n != 1 {
			t.Errorf("%d deliveries, want 1", n)
		}
	})
}

func TestAnEventThatAPolicyRefusesIsNotADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refusals := 3
		refuse := func(_ policy.Op, next policy.Handler) policy.Handler {
			return func(ctx context.Context, c *policy.Call) error {
				if refusals > 0 {
					refusals--
					return fault.New(fault.Unavailable, "the circuit breaker is open")
				}
				return next(ctx, c)
			}
		}
		d, a := openMemory(t), &app{}
		b := newBroker(t, d, pubsub.Options{Chains: inbound{chain: policy.Chain{refuse}}})
		start(t, b, pubsub.SubscriptionSpec{Topic: "t", DeadLetterTopic: "dead"}, a)
		publish(t, b, "t", "1", nil)
		if got := letters(t, d, "dead", time.Hour); len(got) != 0 || len(a.calls()) != 1 {
			t.Errorf("%d dead letters, %d deliveries, want 0 and 1", len(got), len(a.calls()))
		}
	})
}

func TestExpiredEventsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
		for ttl, data := range map[string]string{"1": `"short"`, "3600": `"long"`} {
			publish(t, b, "t", data, map[string]string{"ttlInSeconds": ttl})
			publish(t, b, "raw", data, map[string]string{"ttlInSeconds": ttl, "rawPayload": "true"})
		}
		time.Sleep(2 * time.Second)
		start(t, b, pubsub.SubscriptionSpec{Topic: "t"}, a)
		start(t, b, pubsub.SubscriptionSpec{Topic: "raw", RawPayload: true}, a)
		synctest.Wait()
		if got := a.payloads(); !slices.Equal(got, []string{`"long"`, `"long"`}) {
			t.Errorf("delivered %q", got)
		}
	})
}

func TestADriverThatDiscardsExpiredMessagesGetsTheTTLAndNoExpiration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := openMemory(t)
		b := newBroker(t, ttlDriver{inner}, pubsub.Options{})
		publish(t, b, "t", "1", map[string]string{"ttlInSeconds": "60"})
		got := letters(t, inner, "t", 0)
		if len(got) != 1 || got[0].TTL != time.Minute || members(t, got[0].Data)["expiration"] != nil {
			t.Errorf("messages %v", got)
		}
	})
}

type ttlDriver struct{ pubsub.Driver }

func (ttlDriver) DiscardsExpired() bool { return true }

func TestAMessageThatIsNoEnvelopeComesAgainRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		inner := openMemory(t)
		b := newBroker(t, inner, pubsub.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		a := &app{}
		for _, data := range []string{"not json", "[1]", `"text"`, "", `{"a":`} {
			if err := inner.Publish(t.Context(), &pubsub.Message{Topic: "t", Data: []byte(data)}); err != nil {
				t.Fatal(err)
			}
		}
		stop := start(t, b, pubsub.SubscriptionSpec{Topic: "t"}, a)
		publish(t, b, "t", `"good"`, nil)
		time.Sleep(time.Hour)
		stop()
		if got := a.payloads(); !slices.Equal(got, []string{`"good"`}) {
			t.Errorf("delivered %q", got)
		}
		n := strings.Count(log.String(), "is not a CloudEvent")
		if n < 5*10 || n > 5*20 {
			t.Errorf("five messages came %d times in an hour", n)
		}
		// What is left is still there for a subscription that can read it.
		start(t, b, pubsub.SubscriptionSpec{Topic: "t", RawPayload: true}, a)
		time.Sleep(10 * time.Minute)
		if n := len(a.calls()); n != 6 {
			t.Errorf("%d deliveries after the subscription was changed, want 5 more", n-1)
		}
	})
}

func TestAMessageThatIsNoEnvelopeBecomesADeadLetterToTheByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := openMemory(t), &app{}
		b := newBroker(t, d, pubsub.Options{})
		start(t, b, pubsub.SubscriptionSpec{Topic: "t", DeadLetterTopic: "dead"}, a)
		publish(t, b, "t", "\x00 not json", map[string]string{"rawPayload": "true", "m": "v"})
		got := letters(t, d, "dead", time.Minute)
		if len(got) != 1 || string(got[0].Data) != "\x00 not json" || got[0].Metadata["m"] != "v" ||
			got[0].Metadata[pubsub.DeadLetterReason] != "the message is not a CloudEvent in JSON" ||
			got[0].Metadata[pubsub.DeadLetterAttempts] != "0" || len(a.calls()) != 0 {
			t.Errorf("dead letters %v, deliveries %d", got, len(a.calls()))
		}
	})
}

func TestRawPayloadsAreWrappedForTheApplicationOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := openMemory(t), always(pubsub.Drop)
		b := newBroker(t, d, pubsub.Options{})
		start(t, b, pubsub.SubscriptionSpec{
			Topic: "t", Metadata: map[string]string{"rawPayload": "true"}, DeadLetterTopic: "dead",
			Rules: []pubsub.Rule{{Match: `event.datacontenttype == "application/octet-stream"`, Path: "/raw"}},
		}, a)
		publish(t, b, "t", "\x00{}", map[string]string{"rawPayload": "true"})
		got := letters(t, d, "dead", time.Minute)
		if len(a.got().events) != 1 || a.got().routes[0] != "/raw" {
			t.Fatalf("%d deliveries on %v", len(a.got().events), a.got().routes)
		}
		e := a.got().events[0]
		if string(e.Data()) != "\x00{}" || string(e.Raw) != "\x00{}" || e.Text("data_base64") != "AHt9" || e.Text("pubsubname") != "bus" {
			t.Errorf("event %s", e.JSON)
		}
		if len(got) != 1 || string(got[0].Data) != "\x00{}" || got[0].Metadata[pubsub.DeadLetterReason] == "" {
			t.Errorf("dead letters %v", got)
		}
	})
}

func TestAnEventOfAWildcardSaysWhichTopicItCameFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := &wrapped{Driver: openMemory(t)}, always(pubsub.Drop)
		d.subscribe = func(ctx context.Context, s pubsub.Subscription, h pubsub.Handler) error {
			for _, topic := range []string{"a/b", ""} {
				m := &pubsub.Delivery{Message: pubsub.Message{Topic: topic, Data: []byte("1")}}
				if err := h(ctx, m); err != nil {
					t.Error(err)
				}
			}
			<-ctx.Done()
			return nil
		}
		start(t, newBroker(t, d, pubsub.Options{}), pubsub.SubscriptionSpec{Topic: "a/+", RawPayload: true, DeadLetterTopic: "dead"}, a)
		got := letters(t, d.Driver, "dead", time.Minute)
		events := a.calls()
		if len(events) != 2 || len(got) != 2 {
			t.Fatalf("%d events and %d dead letters", len(events), len(got))
		}
		slices.SortFunc(got, func(x, y *pubsub.Delivery) int { // they are delivered at the same time
			return strings.Compare(y.Metadata[pubsub.DeadLetterTopic], x.Metadata[pubsub.DeadLetterTopic])
		})
		for i, want := range []string{"a/b", "a/+"} {
			if events[i].Topic != want || events[i].Text("topic") != want || got[i].Metadata[pubsub.DeadLetterTopic] != want {
				t.Errorf("event %s of topic %q, dead letter %v, want %q", events[i].JSON, events[i].Topic, got[i].Metadata, want)
			}
		}
	})
}

func TestRawSubscribersSeeEnvelopesAsPayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
		start(t, b, pubsub.SubscriptionSpec{Topic: "t", RawPayload: true}, a)
		publish(t, b, "t", "1", nil)
		synctest.Wait()
		if len(a.got().events) != 1 || members(t, a.got().events[0].Data())["source"] != "shop" {
			t.Errorf("events %v", a.got().events)
		}
	})
}

func TestWhenTheSubscriptionEndsDeliveriesUnderWayAreFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := openMemory(t), &app{}
		a.answer = func(ctx context.Context, _ int, e *pubsub.Event) (pubsub.Status, error) {
			time.Sleep(3 * time.Second)
			return pubsub.Success, ctx.Err()
		}
		b := newBroker(t, d, pubsub.Options{})
		stop := start(t, b, pubsub.SubscriptionSpec{Topic: "t", DeadLetterTopic: "dead"}, a)
		publish(t, b, "t", "1", nil)
		synctest.Wait()
		began := time.Now()
		stop()
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("Subscribe returned after %s, want the 3s that the delivery takes", took)
		}
		start(t, b, pubsub.SubscriptionSpec{Topic: "t"}, a)
		time.Sleep(time.Hour)
		if n := len(a.calls()); n != 1 {
			t.Errorf("%d deliveries, want 1: it was acknowledged", n)
		}
	})
}

func TestWhenTheSubscriptionEndsNothingIsTriedAgainOrDeadLettered(t *testing.T) {
	for name, answer := range map[string]func(context.Context, int, *pubsub.Event) (pubsub.Status, error){
		// Waiting for the next try, failing just then, and not ending in time.
		"between tries": func(context.Context, int, *pubsub.Event) (pubsub.Status, error) { return pubsub.Retry, nil },
		"during a call": func(context.Context, int, *pubsub.Event) (pubsub.Status, error) {
			time.Sleep(time.Second)
			return 0, errors.New("failed")
		},
		"hanging": func(ctx context.Context, _ int, _ *pubsub.Event) (pubsub.Status, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, a := openMemory(t), &app{answer: answer}
				o := retries(-1, time.Hour)
				o.Grace = 10 * time.Second
				b := newBroker(t, d, o)
				stop := start(t, b, pubsub.SubscriptionSpec{Topic: "t", DeadLetterTopic: "dead"}, a)
				publish(t, b, "t", "1", nil)
				synctest.Wait()
				began := time.Now()
				stop()
				most := time.Second
				if name == "hanging" {
					most = o.Grace
				}
				if took := time.Since(began); took > most {
					t.Errorf("Subscribe returned after %s, want %s at most", took, most)
				}
				if got := letters(t, d, "dead", 0); len(got) != 0 {
					t.Errorf("%d dead letters", len(got))
				}
				again := &app{}
				start(t, b, pubsub.SubscriptionSpec{Topic: "t"}, again)
				time.Sleep(time.Minute)
				if len(a.calls()) != 1 || len(again.calls()) != 1 {
					t.Errorf("%d deliveries before and %d after, want 1 and 1", len(a.calls()), len(again.calls()))
				}
			})
		})
	}
}
