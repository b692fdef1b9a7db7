package grpcapi

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/internal/leak"
)

// forgetful is a broker that keeps nothing for groups to come, and takes its
// time to get to know one.
type forgetful struct {
	pubsub.Driver
	called chan struct{} // has room for each call of Subscribe
	let    chan struct{} // closed to let groups be established
	knows  atomic.Bool
}

func (f *forgetful) Forgets() bool { return true }

func (f *forgetful) Subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	f.called <- struct{}{}
	select {
	case <-f.let:
	case <-ctx.Done():
		return nil
	}
	f.knows.Store(true)
	s.Established()
	return f.Driver.Subscribe(ctx, s, handle)
}

func forgetfulWorld(t *testing.T) (*forgetful, *world) {
	t.Helper()
	mem := must[*memory.PubSub](t)(memory.OpenPubSub(t.Context(), memory.PubSubConfig{MaxMessages: 100, MaxBytes: 1 << 20, Concurrency: 10}, component.Env{}))
	f := &forgetful{Driver: mem, called: make(chan struct{}, 10), let: make(chan struct{})}
	w := newWorld(t)
	w.brokers["pubsub"] = pubsub.New(component.Opened[pubsub.Driver]("pubsub", f), pubsub.Options{AppID: "shop"})
	return f, w
}

func TestTheInitialResponseComesOnceTheBrokerKnowsTheSubscription(t *testing.T) {
	leak.Check(t)
	f, w := forgetfulWorld(t)
	c := connect(t, w)
	go func() {
		<-f.called
		close(f.let)
	}()
	s := subscribe(t, timeout(t), c, to("orders"))
	if !f.knows.Load() {
		t.Error("the initial response came before the broker knew the subscription")
	}
	publish(t, c, "orders", "at once")
	e := s.next()
	if string(e.GetData()) != "at once" {
		t.Errorf("got %q", e.GetData())
	}
	s.settle(e.GetId(), success)
	_ = s.leave()
}

func TestAnApplicationMayLeaveBeforeItsSubscriptionStands(t *testing.T) {
	leak.Check(t)
	f, w := forgetfulWorld(t)
	c := connect(t, w)
	stream := must[rtv1.Dapr_SubscribeTopicEventsAlpha1Client](t)(c.SubscribeTopicEventsAlpha1(timeout(t)))
	s := subscription{stream, t}
	s.send(&rtv1.SubscribeTopicEventsRequestAlpha1{
		SubscribeTopicEventsRequestType: &rtv1.SubscribeTopicEventsRequestAlpha1_InitialRequest{InitialRequest: to("orders")},
	})
	<-f.called
	if err := s.leave(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}
