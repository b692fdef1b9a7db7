package appchannel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// bulk returns a bulk event with one enveloped and one bare entry.
func bulk(t testing.TB) *pubsub.BulkEvent {
	enveloped := event(t, `{"n":1}`, "application/json", nil, false)
	enveloped.Metadata = map[string]string{"Tenant": "acme"}
	return &pubsub.BulkEvent{ID: "b1", Component: "bus", Topic: "orders", Entries: []pubsub.BulkEntry{
		{EntryID: "1", Event: enveloped, ContentType: "application/cloudevents+json"},
		{EntryID: "2", Event: event(t, "\x00\xff", "", map[string]string{"rawPayload": "true"}, true), ContentType: "application/octet-stream"},
	}}
}

func TestAnHTTPApplicationGetsABatch(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	app.answer("POST /bulk", 200, `{"statuses":[{"entryId":"1","status":"SUCCESS"},{"entryId":"2","status":"DROP"}]}`)
	b := bulk(t)
	got, err := app.channel(t, nil).DeliverBulk(t.Context(), "/bulk", b)
	want := []pubsub.EntryStatus{{EntryID: "1", Status: pubsub.Success}, {EntryID: "2", Status: pubsub.Drop}}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("DeliverBulk = %v, %v", got, err)
	}
	r := app.last(t)
	var body struct {
		ID, PubSubName, Topic, Type string
		Metadata                    map[string]string
		Entries                     []struct {
			EntryID, ContentType string
			Event                json.RawMessage
			Metadata             map[string]string
		}
	}
	if err := json.Unmarshal([]byte(r.body), &body); err != nil {
		t.Fatal(err)
	}
	if body.ID != "b1" || body.PubSubName != "bus" || body.Topic != "orders" || body.Type != "com.dapr.event.sent.bulk" ||
		body.Metadata["pubsubName"] != "bus" || len(body.Entries) != 2 {
		t.Errorf("the application got %s", r.body)
	}
	var first bytes.Buffer
	_ = json.Compact(&first, b.Entries[0].Event.JSON)
	if e := body.Entries[0]; e.EntryID != "1" || e.ContentType != "application/cloudevents+json" || string(e.Event) != first.String() ||
		e.Metadata["Tenant"] != "acme" {
		t.Errorf("the first entry is %+v", e)
	}
	if e := body.Entries[1]; e.EntryID != "2" || e.ContentType != "application/octet-stream" || string(e.Event) != `"AP8="` {
		t.Errorf("the second entry is %+v", e)
	}
	if r.header.Get("Content-Type") != "application/json" || r.header.Get("Pubsubname") != "bus" {
		t.Errorf("the fields are %v", r.header)
	}
}

func TestTheAnswerOfAnHTTPApplicationToABatchDecides(t *testing.T) {
	checkLeaks(t)
	b := bulk(t)
	for _, tc := range []struct {
		status int
		body   string
		want   string // one letter per entry named
		err    fault.Code
	}{
		{200, `{"statuses":[{"entryId":"2","status":"RETRY"}]}`, "2RETRY", 0},
		{200, `{"statuses":[{"entryId":"1","status":""},{"entryId":"2"}]}`, "1RETRY 2RETRY", 0},
		{200, `{"statuses":[{"entryId":"1","status":"MAYBE"}]}`, "1RETRY", 0},
		{200, `{"statuses":[]}`, "", 0},
		{200, `{}`, "", 0},
		{404, "", "", fault.NotFound},
		{200, "", "", fault.Internal},
		{200, "OK", "", fault.Internal},
		{200, `{"statuses":"SUCCESS"}`, "", fault.Internal},
		{500, "", "", fault.Internal},
		{503, "", "", fault.Unavailable},
	} {
		app := newHTTPApp(t)
		app.answer("POST /bulk", tc.status, tc.body)
		got, err := app.channel(t, nil).DeliverBulk(t.Context(), "/bulk", b)
		var parts []string
		for _, s := range got {
			parts = append(parts, s.EntryID+s.Status.String())
		}
		if strings.Join(parts, " ") != tc.want || (err != nil) != (tc.err != 0) || err != nil && fault.CodeOf(err) != tc.err {
			t.Errorf("%d %q: DeliverBulk = %v, %v; want %q, %v", tc.status, tc.body, got, err, tc.want, tc.err)
		}
		if none := err != nil && fault.ReasonOf(err) == pubsub.ReasonNoHandler; none != (tc.status == 404) {
			t.Errorf("%d: %v says that there is no handler: %v", tc.status, err, none)
		}
	}
}

// bulkApp has the stable method, or the former one, or both, or none.
type bulkApp struct {
	rtv1.UnimplementedAppCallbackServer
	rtv1.UnimplementedAppCallbackAlphaServer

	mu            sync.Mutex
	stable, alpha bool
	fail          error
	calls         []string
	got           *rtv1.TopicEventBulkRequest
}

func (a *bulkApp) answer(name string, has bool, r *rtv1.TopicEventBulkRequest) (*rtv1.TopicEventBulkResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, name)
	if !has {
		return nil, status.Error(codes.Unimplemented, "no such method")
	}
	a.got = r
	out := &rtv1.TopicEventBulkResponse{}
	for i, e := range r.GetEntries() {
		out.Statuses = append(out.Statuses, &rtv1.TopicEventBulkResponseEntry{
			EntryId: e.GetEntryId(), Status: rtv1.TopicEventResponse_TopicEventResponseStatus(i), //nolint:gosec // two entries
		})
	}
	return out, a.fail
}

func (a *bulkApp) OnBulkTopicEvent(_ context.Context, r *rtv1.TopicEventBulkRequest) (*rtv1.TopicEventBulkResponse, error) {
	return a.answer("stable", a.stable, r)
}

func (a *bulkApp) OnBulkTopicEventAlpha1(_ context.Context, r *rtv1.TopicEventBulkRequest) (*rtv1.TopicEventBulkResponse, error) {
	return a.answer("alpha", a.alpha, r)
}

func (a *bulkApp) serve(t *testing.T) *grpcApp {
	return serveGRPC(t, func(s grpc.ServiceRegistrar) {
		rtv1.RegisterAppCallbackServer(s, a)
		rtv1.RegisterAppCallbackAlphaServer(s, a)
	})
}

func TestAGRPCApplicationGetsABatch(t *testing.T) {
	checkLeaks(t)
	a := &bulkApp{stable: true}
	got, err := a.serve(t).channel(t, nil).DeliverBulk(t.Context(), "/bulk", bulk(t))
	want := []pubsub.EntryStatus{{EntryID: "1", Status: pubsub.Success}, {EntryID: "2", Status: pubsub.Retry}}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("DeliverBulk = %v, %v", got, err)
	}
	r := a.got
	if r.GetId() != "b1" || r.GetTopic() != "orders" || r.GetPubsubName() != "bus" || r.GetType() != "com.dapr.event.sent.bulk" ||
		r.GetPath() != "/bulk" || len(r.GetEntries()) != 2 {
		t.Errorf("the application got %v", r)
	}
	ce := r.GetEntries()[0].GetCloudEvent()
	if string(ce.GetData()) != `{"n":1}` || ce.GetDataContentType() != "application/json" || ce.GetSource() != "shop" ||
		ce.GetExtensions().AsMap()["topic"] != "orders" || r.GetEntries()[0].GetMetadata()["Tenant"] != "acme" {
		t.Errorf("the first entry is %v", r.GetEntries()[0])
	}
	if e := r.GetEntries()[1]; string(e.GetBytes()) != "\x00\xff" || e.GetContentType() != "application/octet-stream" {
		t.Errorf("the second entry is %v", e)
	}
}

func TestWhichBulkMethodAnApplicationHasIsRemembered(t *testing.T) {
	checkLeaks(t)
	a := &bulkApp{alpha: true}
	c := a.serve(t).channel(t, nil)
	b := bulk(t)
	deliver := func(wantCalls string) {
		t.Helper()
		a.mu.Lock()
		a.calls = nil
		a.mu.Unlock()
		got, err := c.DeliverBulk(t.Context(), "/bulk", b)
		if err != nil || len(got) != 2 {
			t.Errorf("DeliverBulk = %v, %v", got, err)
		}
		if calls := strings.Join(a.calls, " "); calls != wantCalls {
			t.Errorf("calls were %q, want %q", calls, wantCalls)
		}
	}
	deliver("stable alpha")
	deliver("alpha")
	a.mu.Lock()
	a.alpha, a.stable = false, true // another version of the application
	a.mu.Unlock()
	deliver("alpha stable")
	deliver("stable")
	a.mu.Lock()
	a.stable = false
	a.mu.Unlock()
	got, err := c.DeliverBulk(t.Context(), "/bulk", b)
	if len(got) != 0 || err == nil || fault.ReasonOf(err) != pubsub.ReasonNoHandler {
		t.Errorf("with neither method: DeliverBulk = %v, %v; want that there is no handler", got, err)
	}
	a.mu.Lock()
	a.stable, a.fail = true, status.Error(codes.ResourceExhausted, "busy")
	a.mu.Unlock()
	if got, err := c.DeliverBulk(t.Context(), "/bulk", b); got != nil || !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("DeliverBulk = %v, %v", got, err)
	}
}
