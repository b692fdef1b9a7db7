package proa

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/pubsub"
)

// keeper is a broker and a scheduler that keep what they are given.
type keeper struct {
	pubsub.Driver

	mu        sync.Mutex
	published []*pubsub.Message
	kept      map[string]pubsub.Kept
}

func (k *keeper) Publish(_ context.Context, m *pubsub.Message) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.published = append(k.published, m)
	return nil
}

func (k *keeper) Keep(_ context.Context, m pubsub.Kept) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kept == nil {
		k.kept = map[string]pubsub.Kept{}
	}
	id := fmt.Sprint("id", len(k.kept))
	k.kept[id] = m
	return id, nil
}

func (k *keeper) cancel(id string) (uint32, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.kept[id]
	delete(k.kept, id)
	if ok {
		return 2, true, nil
	}
	return 0, false, nil
}

func TestMessagesArePublishedNowOrLater(t *testing.T) {
	w := newWorld(t)
	addr := serve(t, New(Options{Blocks: w}))
	client := proav1.NewPubSubClient(dial(t, addr))
	in := &proav1.PubSubPublishRequest{PubsubName: "later", Topic: "t", Data: []byte(`{"n":1}`), DataContentType: "application/json",
		Metadata: map[string]string{"partitionKey": "k"}}
	out, err := client.Publish(t.Context(), in)
	if err != nil || out.GetId() != "" || len(w.kept.published) != 1 || w.kept.published[0].Key != "k" ||
		!strings.Contains(string(w.kept.published[0].Data), `"data":{"n":1}`) {
		t.Fatalf("Publish = %v, %v; the broker has %v", out, err, w.kept.published)
	}
	in.Delivery = &proav1.PubSubPublishRequest_DeliverAt{DeliverAt: timestamppb.New(time.Unix(1, 0))}
	if out, err = client.Publish(t.Context(), in); err != nil || out.GetId() != "" || len(w.kept.published) != 2 {
		t.Errorf("what is due already: %v, %v", out, err)
	}
	at := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	in.Delivery = &proav1.PubSubPublishRequest_DeliverAt{DeliverAt: timestamppb.New(at)}
	if out, err = client.Publish(t.Context(), in); err != nil || out.GetId() != "id0" || !w.kept.kept["id0"].Due.Equal(at) {
		t.Errorf("Publish = %v, %v; kept %v", out, err, w.kept.kept)
	}
	before := time.Now()
	code, _, body := post(t, "http://"+addr+"/proa.v1.PubSub/Publish", `{"pubsubName":"later","topic":"t","data":"aGk=","delay":"90s"}`)
	if wait := w.kept.kept["id1"].Due.Sub(before); code != 200 || body != `{"id":"id1"}` || wait < 90*time.Second || wait > 5*time.Minute {
		t.Errorf("%d %s, due in %v", code, body, wait)
	}
	for _, want := range []string{`{"canceled":true,"failedAttempts":2}`, `{}`} {
		code, _, body = post(t, "http://"+addr+"/proa.v1.PubSub/CancelDelayed", `{"id":"id1"}`)
		if code != 200 || body != want {
			t.Errorf("%d %s, want %s", code, body, want)
		}
	}
}

func TestMessagesThatCannotBePublishedAreRefused(t *testing.T) {
	client := proav1.NewPubSubClient(dial(t, serve(t, New(Options{Blocks: newWorld(t)}))))
	for text, in := range map[string]*proav1.PubSubPublishRequest{
		`NotFound: there is no pubsub component "other"`:                  {PubsubName: "other", Topic: "t"},
		`InvalidArgument: pubsub "later": the name of the topic is empty`: {PubsubName: "later"},
		`InvalidArgument: deliver_at is no time`: {PubsubName: "later", Topic: "t",
			Delivery: &proav1.PubSubPublishRequest_DeliverAt{DeliverAt: &timestamppb.Timestamp{Nanos: -1}}},
		`InvalidArgument: delay is negative`: {PubsubName: "later", Topic: "t",
			Delivery: &proav1.PubSubPublishRequest_Delay{Delay: durationpb.New(-time.Second)}},
		`InvalidArgument: delay is no duration`: {PubsubName: "later", Topic: "t",
			Delivery: &proav1.PubSubPublishRequest_Delay{Delay: &durationpb.Duration{Seconds: 1, Nanos: -1}}},
		`InvalidArgument: pubsub "later": publish to topic "t": metadata deliverAt and delayInSeconds say twice`: {PubsubName: "later", Topic: "t",
			Metadata: map[string]string{"delayInSeconds": "1"}, Delivery: &proav1.PubSubPublishRequest_Delay{Delay: durationpb.New(time.Second)}},
	} {
		_, err := client.Publish(t.Context(), in)
		if got := status.Code(err).String() + ": " + status.Convert(err).Message(); !strings.HasPrefix(got, text) {
			t.Errorf("%q, want %q", got, text)
		}
	}
	if _, err := client.CancelDelayed(t.Context(), &proav1.PubSubCancelDelayedRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("CancelDelayed without an id: %v", err)
	}
}
