package e2e_test

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

// eventStream is a streaming subscription to the topic "orders" of "pubsub".
type eventStream struct {
	rtv1.Dapr_SubscribeTopicEventsAlpha1Client
	t *testing.T
}

// openStream subscribes through a sidecar and waits until the subscription
// stands.
func openStream(t *testing.T, s *sidecar) eventStream {
	t.Helper()
	conn, err := grpc.NewClient("127.0.0.1:"+strconv.Itoa(s.grpc), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	stream, err := rtv1.NewDaprClient(conn).SubscribeTopicEventsAlpha1(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&rtv1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &rtv1.SubscribeTopicEventsRequestAlpha1_InitialRequest{
		InitialRequest: &rtv1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "pubsub", Topic: "orders"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetInitialResponse() == nil {
		t.Fatalf("the first message of the stream is %v, %v", m, err)
	}
	return eventStream{stream, t}
}

func (s eventStream) next() *rtv1.TopicEventRequest {
	s.t.Helper()
	m, err := s.Recv()
	if err != nil || m.GetEventMessage() == nil {
		s.t.Fatalf("got %v, %v, want an event", m, err)
	}
	return m.GetEventMessage()
}

func (s eventStream) settle(id string) {
	s.t.Helper()
	err := s.Send(&rtv1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &rtv1.SubscribeTopicEventsRequestAlpha1_EventProcessed{
		EventProcessed: &rtv1.SubscribeTopicEventsRequestProcessedAlpha1{Id: id, Status: &rtv1.TopicEventResponse{}},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestStreamsLoseNothingWhenTheSidecarGoes has an application that has settled
// some of the events of its stream and holds others when its sidecar is killed,
// or told to stop. What it has not settled, and what was published meanwhile,
// comes to the stream that it opens next.
func TestStreamsLoseNothingWhenTheSidecarGoes(t *testing.T) {
	long(t)
	for name, sig := range map[string]syscall.Signal{"Killed": syscall.SIGKILL, "Stopped": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options{name: "shop", home: t.TempDir()}
			s := startSidecar(t, o)
			stream := openStream(t, s)
			const events, settled = 20, 10
			want := map[string]bool{}
			for i := range events {
				s.must(t, "POST", "/v1.0/publish/pubsub/orders", strconv.Quote(fmt.Sprint("event ", i)), 204)
			}
			for i := range events {
				e := stream.next()
				if i < settled {
					stream.settle(e.GetId())
				} else {
					want[string(e.GetData())] = true
				}
			}
			s.signal(sig)
			<-s.exited
			gone := time.Now()
			s = startSidecar(t, o)
			s.must(t, "POST", "/v1.0/publish/pubsub/orders", `"afterwards"`, 204)
			want[`"afterwards"`] = true
			for stream = openStream(t, s); len(want) > 0; {
				e := stream.next()
				delete(want, string(e.GetData()))
				stream.settle(e.GetId())
			}
			t.Logf("everything has come %v after the sidecar was gone", time.Since(gone).Round(time.Millisecond))
			_ = stream.CloseSend()
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
