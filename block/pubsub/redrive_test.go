package pubsub_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
)

// failing starts a subscription whose application cannot process anything, and
// returns what stops it.
func failing(t *testing.T, b *pubsub.Broker, topic string) (stop func()) {
	a := &app{answer: func(context.Context, int, *pubsub.Event) (pubsub.Status, error) {
		return 0, fault.New(fault.Internal, "the database is down")
	}}
	return start(t, b, pubsub.SubscriptionSpec{Topic: topic, DeadLetterTopic: "dead"}, a)
}

func TestDeadLettersAreShownAndSentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMemory(t)
		b := newBroker(t, d, pubsub.Options{})
		stop, stopOther := failing(t, b, "orders"), failing(t, b, "mail")
		for i := range 3 {
			publish(t, b, "orders", fmt.Sprint(i), map[string]string{"cloudevent.id": fmt.Sprint("o", i), "m": "x"})
		}
		publish(t, b, "mail", `"hello"`, map[string]string{"cloudevent.id": "m0"})
		began := time.Now()
		time.Sleep(time.Minute)
		stop()
		stopOther()
		letters, next, err := b.DeadLetters(t.Context(), "dead", "", 3)
		if err != nil || len(letters) != 3 || next == "" {
			t.Fatalf("%d letters, next %q, %v", len(letters), next, err)
		}
		rest, next, err := b.DeadLetters(t.Context(), "dead", next, 3)
		if err != nil || len(rest) != 1 || next != "" {
			t.Fatalf("%d letters on the second page, next %q, %v", len(rest), next, err)
		}
		letters = append(letters, rest...)
		slices.SortFunc(letters, func(a, b pubsub.DeadLetter) int { return strings.Compare(a.ID, b.ID) })
		m := letters[0]
		if m.ID != "m0" || m.Topic != "mail" || m.Cause != "the application did not process the event: the database is down" || m.Attempts != 1 ||
			m.First.Before(began.Add(-time.Second)) || m.Last.Before(m.First) || m.Last.After(time.Now()) {
			t.Errorf("the letter is %+v", m)
		}
		back := always(pubsub.Success)
		start(t, b, pubsub.SubscriptionSpec{Topic: "orders", Metadata: map[string]string{}}, back)
		res, err := b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead", IDs: []string{"o1", "nobody"}})
		if err != nil || len(res.Redriven) != 1 || len(res.Failed) != 1 || res.Failed[0].ID != "nobody" || !fault.Is(res.Failed[0].Err, fault.NotFound) {
			t.Fatalf("%+v, %v", res, err)
		}
		synctest.Wait()
		if got := back.payloads(); !slices.Equal(got, []string{"1"}) {
			t.Errorf("delivered %q, want 1", got)
		}
		e := back.calls()[0]
		if e.ID() != "o1" || e.Metadata["m"] != "x" || strings.Contains(string(e.JSON), "deadletter") || len(e.Metadata) != 2 {
			t.Errorf("the event is %s with %v: not as it was", e.JSON, e.Metadata)
		}
		res, err = b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead", Limit: 2})
		if err != nil || len(res.Redriven) != 2 || !res.More {
			t.Fatalf("%+v, %v", res, err)
		}
		if res, err = b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead"}); err != nil || len(res.Redriven) != 1 || res.More {
			t.Fatalf("%+v, %v", res, err)
		}
		if letters, _, err := b.DeadLetters(t.Context(), "dead", "", 10); err != nil || len(letters) != 0 {
			t.Errorf("%v, %v are left", letters, err)
		}
		synctest.Wait()
		if got := back.payloads(); len(got) != 3 {
			t.Errorf("delivered %q, want three", got)
		}
	})
}

func TestABarePayloadGoesBackAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMemory(t)
		b := newBroker(t, d, pubsub.Options{})
		stop := start(t, b, pubsub.SubscriptionSpec{Topic: "raw", RawPayload: true, DeadLetterTopic: "dead"}, always(pubsub.Drop))
		publish(t, b, "raw", "\x00\x01", map[string]string{"rawPayload": "true", "k": "v"})
		time.Sleep(time.Minute)
		stop()
		letters, _, err := b.DeadLetters(t.Context(), "dead", "", 0)
		if err != nil || len(letters) != 1 || letters[0].Topic != "raw" || letters[0].ID != "" || letters[0].Cause != "the application dropped it" {
			t.Fatalf("%+v, %v", letters, err)
		}
		if _, err := b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead", IDs: []string{letters[0].MessageID}, To: "elsewhere"}); err != nil {
			t.Fatal(err)
		}
		list, err := d.Browse(t.Context(), "elsewhere", "", 10)
		if err != nil || len(list) != 1 || string(list[0].Data) != "\x00\x01" || len(list[0].Metadata) != 2 || list[0].Metadata["k"] != "v" {
			t.Errorf("%v, %v", list, err)
		}
	})
}

func TestWhatIsNoDeadLetterStaysUnlessToldWhereToGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, openMemory(t), pubsub.Options{})
		publish(t, b, "dead", "1", nil)
		res, err := b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead"})
		if err != nil || len(res.Failed) != 1 || !fault.Is(res.Failed[0].Err, fault.FailedPrecondition) {
			t.Fatalf("%+v, %v", res, err)
		}
		if res, err = b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead", To: "orders"}); err != nil || len(res.Redriven) != 1 {
			t.Errorf("%+v, %v", res, err)
		}
	})
}

func TestALetterThatComesBackDuringARedriveIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &echoing{PubSub: openMemory(t)}
		b := newBroker(t, d, pubsub.Options{})
		for i := range 5 {
			publish(t, b, "dead", fmt.Sprint(i), nil)
			time.Sleep(time.Millisecond)
		}
		res, err := b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead", To: "orders"})
		if err != nil || len(res.Redriven) != 5 || res.More {
			t.Errorf("%d sent back, %v, %v", len(res.Redriven), res.More, err)
		}
	})
}

// echoing puts what is published to "orders" at once into the dead letter
// topic too.
type echoing struct{ *memory.PubSub }

func (e *echoing) Publish(ctx context.Context, m *pubsub.Message) error {
	if m.Topic == "orders" {
		again := *m
		again.Topic = "dead"
		time.Sleep(time.Millisecond)
		if err := e.PubSub.Publish(ctx, &again); err != nil {
			return err
		}
	}
	return e.PubSub.Publish(ctx, m)
}

func TestAMessageIsRemovedOnlyWhenItHasGoneBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &brittle{PubSub: openMemory(t)}
		b := newBroker(t, d, pubsub.Options{})
		for i := range 3 {
			publish(t, b, "dead", fmt.Sprint(i), nil)
		}
		time.Sleep(time.Second)
		d.publish = fault.New(fault.Unavailable, "the broker is down")
		if res, err := b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead", To: "orders"}); err != nil || len(res.Failed) != 3 {
			t.Errorf("%+v, %v", res, err)
		}
		d.publish, d.remove = nil, fault.New(fault.Unavailable, "the broker is down")
		if res, err := b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead", To: "orders"}); err != nil || len(res.Failed) != 3 ||
			!strings.Contains(fault.Message(res.Failed[0].Err), `is still in "dead"`) {
			t.Errorf("%+v, %v", res, err)
		}
		if letters, _, err := b.DeadLetters(t.Context(), "dead", "", 10); err != nil || len(letters) != 3 {
			t.Errorf("%d letters are left, %v; want all", len(letters), err)
		}
	})
}

// brittle fails on demand.
type brittle struct {
	*memory.PubSub
	publish, remove error
}

func (d *brittle) Publish(ctx context.Context, m *pubsub.Message) error {
	if d.publish != nil {
		return d.publish
	}
	return d.PubSub.Publish(ctx, m)
}

func (d *brittle) Remove(ctx context.Context, topic string, ids []string) error {
	if d.remove != nil {
		return d.remove
	}
	return d.PubSub.Remove(ctx, topic, ids)
}

func TestDeadLettersAreUnderTheScopes(t *testing.T) {
	b := newBroker(t, openMemory(t), pubsub.Options{Config: pubsub.Config{SubscriptionScopes: "shop=dead", PublishingScopes: "shop=orders"}})
	if _, _, err := b.DeadLetters(t.Context(), "other", "", 1); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("listing a topic that is not in scope: %v", err)
	}
	if _, err := b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead", To: "secrets"}); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("redriving to a topic that is not in scope: %v", err)
	}
	if _, _, err := b.DeadLetters(t.Context(), "dead", "", 1); err != nil {
		t.Error(err)
	}
}

func TestABrokerThatShowsNothingSaysSo(t *testing.T) {
	b := newBroker(t, &wrapped{Driver: openMemory(t)}, pubsub.Options{})
	_, _, err := b.DeadLetters(t.Context(), "dead", "", 1)
	if !fault.Is(err, fault.Unimplemented) || fault.ReasonOf(err) != pubsub.ReasonBrowseNotSupported {
		t.Errorf("%v", err)
	}
	if _, err = b.Redrive(t.Context(), &pubsub.RedriveRequest{Topic: "dead"}); !fault.Is(err, fault.Unimplemented) {
		t.Errorf("%v", err)
	}
}
