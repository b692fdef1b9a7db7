package appchannel_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/policy"
)

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

// subscribe runs a subscription beside the test and returns how to end it.
func subscribe(t *testing.T, b *pubsub.Broker, spec *pubsub.SubscriptionSpec, app pubsub.App) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Subscribe(ctx, spec, app) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Subscribe = %v", err)
		}
	}
}

// take returns n values of a channel, sorted.
func take(t *testing.T, from <-chan string, n int) []string {
	t.Helper()
	var out []string
	for range n {
		select {
		case s := <-from:
			out = append(out, s)
		case <-time.After(30 * time.Second):
			t.Fatalf("after %q nothing comes", out)
		}
	}
	slices.Sort(out)
	return out
}

// judge answers an event by its payload: "ok", "drop", "gone", "broken",
// "retry", or "twice", which is "retry" the first time.
type judge struct {
	mu   sync.Mutex
	seen map[string]int
	got  chan string
}

func newJudge() *judge { return &judge{seen: map[string]int{}, got: make(chan string, 100)} }

func (j *judge) verdict(data string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seen[data]++
	j.got <- fmt.Sprint(data, " ", j.seen[data])
	if data == "twice" && j.seen[data] == 1 {
		return "retry"
	}
	return data
}

func (j *judge) http(w http.ResponseWriter, r *http.Request) {
	var e struct{ Data string }
	_ = json.NewDecoder(r.Body).Decode(&e)
	switch j.verdict(e.Data) {
	case "drop":
		_, _ = io.WriteString(w, `{"status":"DROP"}`)
	case "gone":
		w.WriteHeader(404)
	case "broken":
		w.WriteHeader(500)
	case "retry":
		_, _ = io.WriteString(w, `{"status":"RETRY"}`)
	}
}

func (j *judge) grpc(r *rtv1.TopicEventRequest) (*rtv1.TopicEventResponse, error) {
	out := &rtv1.TopicEventResponse{}
	switch j.verdict(string(r.GetData())) {
	case "drop":
		out.Status = rtv1.TopicEventResponse_DROP
	case "gone":
		return nil, status.Error(codes.Unimplemented, "no handler")
	case "broken":
		return nil, status.Error(codes.Internal, "boom")
	case "retry":
		out.Status = rtv1.TopicEventResponse_RETRY
	}
	return out, nil
}

func TestEventsAreProcessedRetriedDroppedAndDeadLettered(t *testing.T) {
	for _, protocol := range []string{"http", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			checkLeaks(t)
			j := newJudge()
			var app pubsub.App
			if protocol == "http" {
				h := newHTTPApp(t)
				h.mux.HandleFunc("POST /orders", j.http)
				app = h.channel(t, nil)
			} else {
				app = serveGRPC(t, func(s grpc.ServiceRegistrar) {
					rtv1.RegisterAppCallbackServer(s, &topicApp{topic: j.grpc})
				}).channel(t, nil)
			}
			b, publish := broker(t, pubsub.Options{Chains: inbound{chain: policy.Chain{policy.Retry{Max: 1}.Policy}}})
			stop := subscribe(t, b, &pubsub.SubscriptionSpec{PubSub: "bus", Topic: "orders", DefaultRoute: "/orders", DeadLetterTopic: "dead"}, app)
			dead := make(sink, 10)
			stopDead := subscribe(t, b, &pubsub.SubscriptionSpec{PubSub: "bus", Topic: "dead"}, dead)
			for _, data := range []string{"ok", "drop", "gone", "broken", "retry", "twice"} {
				publish(data, "text/plain", nil)
			}
			want := []string{"broken 1", "broken 2", "drop 1", "gone 1", "ok 1", "retry 1", "retry 2", "twice 1", "twice 2"}
			if got := take(t, j.got, len(want)); !slices.Equal(got, want) {
				t.Errorf("the application got %q, want %q", got, want)
			}
			var letters []string
			for range 4 {
				letters = append(letters, string((<-dead).Data()))
			}
			slices.Sort(letters)
			if want := []string{"broken", "drop", "gone", "retry"}; !slices.Equal(letters, want) {
				t.Errorf("the dead letters are %q, want %q", letters, want)
			}
			stop()
			stopDead()
			if len(j.got) > 0 {
				t.Errorf("the application got %q besides", <-j.got)
			}
		})
	}
}

func TestBatchesAreSettledEntryByEntry(t *testing.T) {
	checkLeaks(t)
	j := newJudge()
	h := newHTTPApp(t)
	h.mux.HandleFunc("POST /bulk", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Entries []struct {
				EntryID string
				Event   struct{ Data string }
			}
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		var out []string
		for _, e := range in.Entries {
			st := map[string]string{"ok": "SUCCESS", "drop": "DROP", "retry": "RETRY", "twice": "SUCCESS"}[j.verdict(e.Event.Data)]
			out = append(out, fmt.Sprintf(`{"entryId":%q,"status":%q}`, e.EntryID, st))
		}
		_, _ = io.WriteString(w, `{"statuses":[`+strings.Join(out, ",")+`]}`)
	})
	b, publish := broker(t, pubsub.Options{Chains: inbound{chain: policy.Chain{policy.Retry{Max: 1}.Policy}}})
	stop := subscribe(t, b, &pubsub.SubscriptionSpec{
		PubSub: "bus", Topic: "orders", DefaultRoute: "/bulk", DeadLetterTopic: "dead",
		Bulk: pubsub.BulkSpec{Enabled: true, MaxMessages: 4, MaxAwait: time.Minute},
	}, h.channel(t, nil))
	dead := make(sink, 10)
	stopDead := subscribe(t, b, &pubsub.SubscriptionSpec{PubSub: "bus", Topic: "dead"}, dead)
	for _, data := range []string{"ok", "drop", "retry", "twice"} {
		publish(data, "text/plain", nil)
	}
	want := []string{"drop 1", "ok 1", "retry 1", "retry 2", "twice 1", "twice 2"}
	if got := take(t, j.got, len(want)); !slices.Equal(got, want) {
		t.Errorf("the application got %q, want %q", got, want)
	}
	letters := []string{string((<-dead).Data()), string((<-dead).Data())}
	slices.Sort(letters)
	if !slices.Equal(letters, []string{"drop", "retry"}) {
		t.Errorf("the dead letters are %q", letters)
	}
	stop()
	stopDead()
}

func TestARawSubscriptionGetsThePayloadInAnEnvelope(t *testing.T) {
	checkLeaks(t)
	h := newHTTPApp(t)
	got := make(chan string, 1)
	h.mux.HandleFunc("POST /orders", func(_ http.ResponseWriter, r *http.Request) {
		var e map[string]any
		_ = json.NewDecoder(r.Body).Decode(&e)
		got <- fmt.Sprint(e["data_base64"], " ", e["datacontenttype"], " ", e["topic"], " ", r.Header.Get("Content-Type"))
	})
	b, publish := broker(t, pubsub.Options{})
	stop := subscribe(t, b, &pubsub.SubscriptionSpec{PubSub: "bus", Topic: "orders", DefaultRoute: "orders", RawPayload: true}, h.channel(t, nil))
	publish("\x00\xff", "", map[string]string{"rawPayload": "true"})
	if s := <-got; s != "AP8= application/octet-stream orders application/cloudevents+json" {
		t.Errorf("the application got %s", s)
	}
	stop()
}
