package grpcapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/internal/leak"
)

func publish(tb testing.TB, c rtv1.DaprClient, topic string, data ...string) {
	tb.Helper()
	for _, d := range data {
		must[*emptypb.Empty](tb)(c.PublishEvent(timeout(tb), &rtv1.PublishEventRequest{PubsubName: "pubsub", Topic: topic, Data: []byte(d)}))
	}
}

// subscription is a streaming subscription of a test.
type subscription struct {
	rtv1.Dapr_SubscribeTopicEventsAlpha1Client
	tb testing.TB
}

// subscribe opens a stream and waits until it stands.
func subscribe(tb testing.TB, ctx context.Context, c rtv1.DaprClient, in *rtv1.SubscribeTopicEventsRequestInitialAlpha1) subscription {
	tb.Helper()
	stream := must[rtv1.Dapr_SubscribeTopicEventsAlpha1Client](tb)(c.SubscribeTopicEventsAlpha1(ctx))
	s := subscription{stream, tb}
	s.send(&rtv1.SubscribeTopicEventsRequestAlpha1{
		SubscribeTopicEventsRequestType: &rtv1.SubscribeTopicEventsRequestAlpha1_InitialRequest{InitialRequest: in},
	})
	if m := must[*rtv1.SubscribeTopicEventsResponseAlpha1](tb)(stream.Recv()); m.GetInitialResponse() == nil {
		tb.Fatalf("the first message is %v", m)
	}
	return s
}

func to(topic string) *rtv1.SubscribeTopicEventsRequestInitialAlpha1 {
	return &rtv1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "pubsub", Topic: topic}
}

func (s subscription) send(m *rtv1.SubscribeTopicEventsRequestAlpha1) {
	s.tb.Helper()
	if err := s.Send(m); err != nil {
		s.tb.Fatal(err)
	}
}

// next returns the next event.
func (s subscription) next() *rtv1.TopicEventRequest {
	s.tb.Helper()
	m := must[*rtv1.SubscribeTopicEventsResponseAlpha1](s.tb)(s.Recv())
	if m.GetEventMessage() == nil {
		s.tb.Fatalf("got %v, want an event", m)
	}
	return m.GetEventMessage()
}

func (s subscription) settle(id string, st rtv1.TopicEventResponse_TopicEventResponseStatus) {
	s.tb.Helper()
	s.send(answer(id, st))
}

func answer(id string, st rtv1.TopicEventResponse_TopicEventResponseStatus) *rtv1.SubscribeTopicEventsRequestAlpha1 {
	return &rtv1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &rtv1.SubscribeTopicEventsRequestAlpha1_EventProcessed{
		EventProcessed: &rtv1.SubscribeTopicEventsRequestProcessedAlpha1{Id: id, Status: &rtv1.TopicEventResponse{Status: st}},
	}}
}

// leave ends the stream as an application does, and returns how it ended.
func (s subscription) leave() error {
	s.tb.Helper()
	if err := s.CloseSend(); err != nil {
		s.tb.Fatal(err)
	}
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
}

const (
	success = rtv1.TopicEventResponse_SUCCESS
	retry   = rtv1.TopicEventResponse_RETRY
	drop    = rtv1.TopicEventResponse_DROP
)

func TestEventsAreStreamed(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	s := subscribe(t, ctx, c, to("orders"))
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	must[*emptypb.Empty](t)(c.PublishEvent(with(ctx, "traceparent", parent, "tracestate", "a=b"), &rtv1.PublishEventRequest{
		PubsubName: "pubsub", Topic: "orders", Data: []byte(`{"n":1}`), DataContentType: "application/json",
		Metadata: map[string]string{"cloudevent.type": "order.placed"},
	}))
	e := s.next()
	if string(e.GetData()) != `{"n":1}` || e.GetType() != "order.placed" || e.GetSource() != "shop" || e.GetSpecVersion() != "1.0" ||
		e.GetDataContentType() != "application/json" || e.GetTopic() != "orders" || e.GetPubsubName() != "pubsub" || e.GetPath() != "/" {
		t.Errorf("the event is %v", e)
	}
	for name, value := range map[string]string{"traceparent": parent, "tracestate": "a=b", "pubsubname": "pubsub"} {
		if got := e.GetExtensions().GetFields()[name].GetStringValue(); got != value {
			t.Errorf("extension %s is %q", name, got)
		}
	}
	s.settle(e.GetId(), success)
	if err := s.leave(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestAnEnvelopeIsPassedThrough(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	s := subscribe(t, ctx, c, to("orders"))
	must[*emptypb.Empty](t)(c.PublishEvent(ctx, &rtv1.PublishEventRequest{
		PubsubName: "pubsub", Topic: "orders", DataContentType: "application/cloudevents+json",
		Data: []byte(`{"specversion":"1.0","id":"mine","source":"me","type":"t","data":12345678901234567890}`),
	}))
	e := s.next()
	if e.GetId() != "mine" || e.GetSource() != "me" || string(e.GetData()) != "12345678901234567890" {
		t.Errorf("the event is %v", e)
	}
	s.settle("mine", success)
	_ = s.leave() // the end is another test's
}

func TestManyEventsAreInFlightAtOnce(t *testing.T) {
	leak.Check(t)
	c := connect(t, newWorld(t))
	s := subscribe(t, timeout(t), c, to("orders"))
	const n = 20
	var ids []string
	for i := range n {
		publish(t, c, "orders", fmt.Sprint(i))
	}
	for range n { // nothing is settled yet
		ids = append(ids, s.next().GetId())
	}
	slices.Reverse(ids)
	for _, id := range ids {
		s.settle(id, success)
	}
	publish(t, c, "orders", "after")
	if e := s.next(); string(e.GetData()) != "after" {
		t.Errorf("what was settled came again: %v", e)
	}
	_ = s.leave()
}

func TestStreamsOfATopicShareItsEvents(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	a := New(Options{AppID: "shop", Blocks: w})
	c := rtv1.NewDaprClient(serve(t, a))
	ctx, leave := context.WithCancel(timeout(t))
	streams := []subscription{subscribe(t, ctx, c, to("orders")), subscribe(t, ctx, c, to("orders"))}
	other := subscribe(t, timeout(t), c, to("invoices"))
	if subs := a.Subscriptions(); len(subs) != 2 || subs[0].Topic != "invoices" || subs[1].Topic != "orders" || subs[1].Type != "STREAMING" {
		t.Errorf("the subscriptions are %+v", subs)
	}
	const n = 30
	seen := make(chan string, 2*n)
	var running sync.WaitGroup
	defer running.Wait()
	defer leave()
	for _, s := range streams {
		running.Go(func() {
			for {
				m, err := s.Recv()
				if err != nil {
					return
				}
				_ = s.Send(answer(m.GetEventMessage().GetId(), success)) // Recv tells when the stream is over
				seen <- string(m.GetEventMessage().GetData())
			}
		})
	}
	var want, got []string
	for i := range n {
		want = append(want, fmt.Sprintf("%02d", i))
		publish(t, c, "orders", want[i])
	}
	publish(t, c, "invoices", "other")
	for range n {
		got = append(got, <-seen)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("together they got %v", got)
	}
	if e := other.next(); string(e.GetData()) != "other" {
		t.Errorf("the stream of the other topic got %v", e)
	}
}

func TestWhatAStreamLeavesBehindIsDeliveredAgain(t *testing.T) {
	leak.Check(t)
	for _, end := range []string{"closes its side", "is gone"} {
		t.Run(end, func(t *testing.T) {
			c := connect(t, newWorld(t))
			ctx, cancel := context.WithCancel(timeout(t))
			defer cancel()
			s := subscribe(t, ctx, c, to("orders"))
			publish(t, c, "orders", "left")
			left := s.next()
			if end == "is gone" {
				cancel()
				if _, err := s.Recv(); status.Code(err) != codes.Canceled {
					t.Error(err)
				}
			} else if err := s.leave(); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			again := subscribe(t, timeout(t), c, to("orders"))
			e := again.next()
			if string(e.GetData()) != "left" || e.GetId() != left.GetId() {
				t.Errorf("got %v, want %v again", e, left)
			}
			again.settle(e.GetId(), success)
			_ = again.leave()
		})
	}
}

func TestAnswersOfAStreamDecide(t *testing.T) {
	leak.Check(t)
	c := connect(t, newWorld(t))
	in, topic := to("orders"), "poison"
	in.DeadLetterTopic = &topic
	s, dead := subscribe(t, timeout(t), c, in), subscribe(t, timeout(t), c, to("poison"))

	publish(t, c, "orders", "bad")
	s.settle(s.next().GetId(), drop)
	e := dead.next()
	if string(e.GetData()) != "bad" || e.GetExtensions().GetFields()["deadletterreason"].GetStringValue() == "" {
		t.Errorf("the dead letter is %v", e)
	}
	dead.settle(e.GetId(), success)

	publish(t, c, "orders", "worse")
	s.settle("an id that is not out", success)
	s.settle(s.next().GetId(), retry)
	if e = dead.next(); string(e.GetData()) != "worse" { // no retry policy: it is given up
		t.Errorf("the dead letter is %v", e)
	}
	dead.settle(e.GetId(), success)
	_, _ = s.leave(), dead.leave()
}

func TestSubscriptionsThatCannotWorkAreRefused(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	c := connect(t, w)
	first := func(c rtv1.DaprClient, m *rtv1.SubscribeTopicEventsRequestAlpha1) error {
		stream := must[rtv1.Dapr_SubscribeTopicEventsAlpha1Client](t)(c.SubscribeTopicEventsAlpha1(timeout(t)))
		if m == nil {
			_ = stream.CloseSend()
		} else if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
		_, err := stream.Recv()
		return err
	}
	initial := func(component, topic string) *rtv1.SubscribeTopicEventsRequestAlpha1 {
		return &rtv1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &rtv1.SubscribeTopicEventsRequestAlpha1_InitialRequest{
			InitialRequest: &rtv1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: component, Topic: topic}}}
	}
	processed := &rtv1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &rtv1.SubscribeTopicEventsRequestAlpha1_EventProcessed{}}
	for _, tc := range []struct {
		name string
		err  error
		want want
	}{
		{"nothing", first(c, nil), want{codes.InvalidArgument, "", "ended before its initial request"}},
		{"another message first", first(c, processed), want{codes.InvalidArgument, "", "must be its initial request"}},
		{"no component", first(c, initial("", "orders")), want{codes.InvalidArgument, "DAPR_PUBSUB_NAME_EMPTY", "pubsub name is empty"}},
		{"no topic", first(c, initial("pubsub", "")), want{codes.InvalidArgument, "DAPR_PUBSUB_TOPIC_NAME_EMPTY", "topic is empty in pubsub pubsub"}},
		{"another component", first(c, initial("pubsup", "orders")), want{codes.InvalidArgument, "DAPR_PUBSUB_NOT_FOUND", `did you mean "pubsub"?`}},
		{"a forbidden topic", first(c, initial("scoped", "secret")), want{codes.PermissionDenied, "DAPR_PUBSUB_FORBIDDEN", "topic secret is not allowed for app id shop"}},
		{"no component at all", first(connect(t, &world{}), initial("pubsub", "orders")), want{codes.FailedPrecondition, "DAPR_PUBSUB_NOT_CONFIGURED", ""}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.want.check(t, tc.err) })
	}
	s := subscribe(t, timeout(t), c, to("orders"))
	s.send(initial("pubsub", "orders"))
	_, err := s.Recv()
	want{codes.InvalidArgument, "", "events processed only"}.check(t, err)
}

func TestStopLetsAStreamSettleWhatItGot(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	a := New(Options{AppID: "shop", Blocks: w})
	c := rtv1.NewDaprClient(serve(t, a))
	s := subscribe(t, timeout(t), c, to("orders"))
	publish(t, c, "orders", "one")
	e := s.next()
	a.Stop()
	a.Stop() // twice does no harm
	s.settle(e.GetId(), success)
	_, err := s.Recv()
	want{codes.Unavailable, "", "shutting down"}.check(t, err)
	late := must[rtv1.Dapr_SubscribeTopicEventsAlpha1Client](t)(c.SubscribeTopicEventsAlpha1(timeout(t)))
	_ = late.Send(&rtv1.SubscribeTopicEventsRequestAlpha1{
		SubscribeTopicEventsRequestType: &rtv1.SubscribeTopicEventsRequestAlpha1_InitialRequest{InitialRequest: to("orders")},
	})
	_, err = late.Recv()
	want{codes.Unavailable, "", "shutting down"}.check(t, err)
	if subs := a.Subscriptions(); len(subs) != 0 {
		t.Errorf("there are still %v", subs)
	}
	publish(t, c, "orders", "two")
	next := subscribe(t, timeout(t), connect(t, w), to("orders")) // of the process that comes after
	if e := next.next(); string(e.GetData()) != "two" {
		t.Errorf("%q came, though it was settled", e.GetData())
	} else {
		next.settle(e.GetId(), success)
	}
	_ = next.leave()
}

func TestAStreamThatDoesNotReadEndsAllTheSame(t *testing.T) {
	leak.Check(t)
	c := connect(t, newWorld(t))
	s := subscribe(t, timeout(t), c, to("orders"))
	large := strings.Repeat("x", 1<<20)
	for range 10 { // more than all windows hold
		publish(t, c, "orders", large)
	}
	began := time.Now()
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	again := subscribe(t, timeout(t), c, to("orders"))
	for range 10 {
		again.settle(again.next().GetId(), success)
	}
	t.Logf("the others got the events after %v", time.Since(began))
	_ = again.leave()
}

func TestPublishErrorsAreThoseOfDapr(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	send := func(c rtv1.DaprClient, component, topic string, metadata map[string]string) error {
		_, err := c.PublishEvent(ctx, &rtv1.PublishEventRequest{PubsubName: component, Topic: topic, Metadata: metadata})
		return err
	}
	for _, tc := range []struct {
		name string
		err  error
		want want
	}{
		{"no component", send(c, "", "orders", nil), want{codes.InvalidArgument, "DAPR_PUBSUB_NAME_EMPTY", "pubsub name is empty"}},
		{"no topic", send(c, "pubsub", "", nil), want{codes.InvalidArgument, "DAPR_PUBSUB_TOPIC_NAME_EMPTY", "topic is empty in pubsub pubsub"}},
		{"another component", send(c, "nope", "orders", nil), want{codes.InvalidArgument, "DAPR_PUBSUB_NOT_FOUND", "pubsub nope is not found"}},
		{"no component at all", send(connect(t, &world{}), "pubsub", "orders", nil), want{codes.FailedPrecondition, "DAPR_PUBSUB_NOT_CONFIGURED", ""}},
		{"a forbidden topic", send(c, "scoped", "secret", nil), want{codes.PermissionDenied, "DAPR_PUBSUB_FORBIDDEN", "topic secret is not allowed for app id shop"}},
		{"strange metadata", send(c, "pubsub", "orders", map[string]string{"rawPayload": "perhaps"}), want{codes.InvalidArgument, "DAPR_PUBSUB_METADATA_DESERIALIZATION", ""}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.want.check(t, tc.err) })
	}
}

func TestManyEventsArePublishedAtOnce(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	s := subscribe(t, ctx, c, to("orders"))
	entry := func(id, event string) *rtv1.BulkPublishRequestEntry {
		return &rtv1.BulkPublishRequestEntry{EntryId: id, Event: []byte(event), ContentType: "application/json", Metadata: map[string]string{"cloudevent.type": "t" + id}}
	}
	request := &rtv1.BulkPublishRequest{PubsubName: "pubsub", Topic: "orders", Entries: []*rtv1.BulkPublishRequestEntry{entry("1", "1"), entry("2", "2")}}
	if out := must[*rtv1.BulkPublishResponse](t)(c.BulkPublishEvent(ctx, request)); len(out.GetFailedEntries()) != 0 {
		t.Errorf("failed: %v", out)
	}
	//lint:ignore SA1019 older SDKs call it by this name
	must[*rtv1.BulkPublishResponse](t)(c.BulkPublishEventAlpha1(ctx, request))
	var got []string
	for range 4 {
		e := s.next()
		got = append(got, e.GetType()+" "+string(e.GetData()))
		s.settle(e.GetId(), success)
	}
	if slices.Sort(got); strings.Join(got, ",") != "t1 1,t1 1,t2 2,t2 2" {
		t.Errorf("got %v", got)
	}
	bad := entry("3", "no envelope")
	bad.ContentType = "application/cloudevents+json"
	request.Entries = []*rtv1.BulkPublishRequestEntry{entry("4", "4"), bad}
	out := must[*rtv1.BulkPublishResponse](t)(c.BulkPublishEvent(ctx, request))
	if f := out.GetFailedEntries(); len(f) != 1 || f[0].GetEntryId() != "3" || f[0].GetError() == "" {
		b, _ := json.Marshal(out)
		t.Errorf("failed: %s", b)
	}
	request.Entries = []*rtv1.BulkPublishRequestEntry{entry("1", "1"), entry("1", "2")}
	_, err := c.BulkPublishEvent(ctx, request)
	want{codes.InvalidArgument, "DAPR_PUBSUB_MARSHAL_EVENTS", ""}.check(t, err)
	request.Topic = ""
	_, err = c.BulkPublishEvent(ctx, request)
	want{codes.InvalidArgument, "DAPR_PUBSUB_TOPIC_NAME_EMPTY", ""}.check(t, err)
	e := s.next() // entry 4
	s.settle(e.GetId(), success)
	_ = s.leave()
}
