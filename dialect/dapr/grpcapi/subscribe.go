package grpcapi

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/rpc"
)

type topicEvents = rtv1.Dapr_SubscribeTopicEventsAlpha1Server

// pubsubStream is a subscription that an application has opened.
type pubsubStream struct{ spec pubsub.SubscriptionSpec }

// Subscriptions returns the subscriptions by streams that are open, as the
// metadata API shows them: sorted, and streams that ask for the same once.
func (a *API) Subscriptions() []dapr.Subscription {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []dapr.Subscription
	for s := range a.streams {
		out = append(out, dapr.Subscription{
			PubSub: s.spec.PubSub, Topic: s.spec.Topic, Metadata: s.spec.Metadata, DeadLetterTopic: s.spec.DeadLetterTopic,
			Rules: []dapr.Rule{{Path: pubsub.StreamRoute}}, Type: pubsub.Streaming.String(),
		})
	}
	slices.SortFunc(out, func(x, y dapr.Subscription) int {
		return cmp.Or(cmp.Compare(x.PubSub, y.PubSub), cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.DeadLetterTopic, y.DeadLetterTopic))
	})
	return slices.CompactFunc(out, func(x, y dapr.Subscription) bool {
		return x.PubSub == y.PubSub && x.Topic == y.Topic && x.DeadLetterTopic == y.DeadLetterTopic
	})
}

func (a *API) track(s *pubsubStream) (untrack func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.streams[s] = struct{}{}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.streams, s)
	}
}

// SubscribeTopicEventsAlpha1 sends the events of a topic to an application that
// connects, and takes what it makes of them, any number at a time. The stream
// ends with the subscription: what is not settled then is delivered again.
func (s *service) SubscribeTopicEventsAlpha1(stream topicEvents) error {
	spec, err := initial(stream)
	if err != nil {
		return err
	}
	about := dapr.Subject{Component: spec.PubSub, Topic: spec.Topic, Request: spec.Metadata}
	broker, err := s.broker(dapr.Subscribe, about)
	if err != nil {
		return err
	}
	if err := broker.Check(&spec); err != nil {
		return s.failed(dapr.Subscribe, about, err)
	}
	select {
	case <-s.stop:
		return errStopping()
	default:
	}
	defer s.track(&pubsubStream{spec})()
	subErr, err := s.deliver(stream, broker, &spec)
	if subErr != nil {
		return s.failed(dapr.Subscribe, about, subErr)
	}
	return err
}

// initial reads the message that says what to subscribe to.
func initial(stream topicEvents) (pubsub.SubscriptionSpec, error) {
	m, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return pubsub.SubscriptionSpec{}, dapr.Invalid("the stream ended before its initial request")
	}
	if err != nil {
		return pubsub.SubscriptionSpec{}, err
	}
	in := m.GetInitialRequest()
	if in == nil {
		return pubsub.SubscriptionSpec{}, dapr.Invalid("the first message of the stream must be its initial request")
	}
	return pubsub.SubscriptionSpec{
		Type: pubsub.Streaming, PubSub: in.GetPubsubName(), Topic: in.GetTopic(),
		Metadata: in.GetMetadata(), DeadLetterTopic: in.GetDeadLetterTopic(),
	}, nil
}

// lastWrite is how long a message may wait for the application to take it once
// the subscription is over.
const lastWrite = 2 * time.Second

// deliver carries a subscription until the application ends it, breaks it, or
// the API is stopped. The first error is why the subscription cannot work, the
// other one why the stream ends.
func (s *service) deliver(stream topicEvents, broker *pubsub.Broker, spec *pubsub.SubscriptionSpec) (subErr, err error) {
	ctx, cancel := s.whileRunning(stream.Context())
	defer cancel()
	hello := greeting{done: make(chan struct{})}
	out := pubsub.NewStream(func(e *pubsub.Event) error {
		if err := hello.wait(); err != nil {
			return err
		}
		_, span := dapr.BeginDelivery(stream.Context(), s.opts.Tracing, e)
		err := stream.Send(message(e))
		span.End(err)
		return err
	})
	var running sync.WaitGroup
	running.Go(func() { hello.send(ctx, stream, out) })
	running.Go(func() {
		// When the API stops, the application may still settle what it has got.
		subErr = broker.Stream(ctx, spec, out)
		rpc.CloseReceive(stream.Context())
	})
	err = settle(stream, out)
	if ctx.Err() != nil && stream.Context().Err() == nil { // not the application's doing
		err = errStopping()
	}
	out.End()
	cancel()
	late := time.AfterFunc(lastWrite, func() { rpc.Abort(stream.Context()) })
	defer late.Stop()
	running.Wait()
	return subErr, err
}

// greeting is the initial response of a stream, which goes out before any event
// and not before the subscription is established: what the application publishes
// when it has the response comes to it.
type greeting struct {
	done chan struct{} // closed by send
	err  error         // why nothing can follow; valid once done is closed
}

func (g *greeting) send(ctx context.Context, stream topicEvents, out *pubsub.Stream) {
	defer close(g.done)
	select {
	case <-out.Established():
	case <-ctx.Done():
		g.err = ctx.Err()
		return
	}
	initial := &rtv1.SubscribeTopicEventsResponseInitialAlpha1{}
	if g.err = stream.Send(&rtv1.SubscribeTopicEventsResponseAlpha1{
		SubscribeTopicEventsResponseType: &rtv1.SubscribeTopicEventsResponseAlpha1_InitialResponse{InitialResponse: initial},
	}); g.err != nil {
		out.End()
	}
}

// wait waits for the response to have gone out.
func (g *greeting) wait() error {
	<-g.done
	return g.err
}

// settle takes the answers of the application until it sends no more.
func settle(stream topicEvents, out *pubsub.Stream) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		processed := m.GetEventProcessed()
		if processed == nil {
			return dapr.Invalid("after the initial request a stream has events processed only")
		}
		out.Settle(processed.GetId(), eventStatus(processed.GetStatus().GetStatus()))
	}
}

// eventStatus returns what an application answers to an event. An answer that
// does not exist is taken for one that asks to try again.
func eventStatus(st rtv1.TopicEventResponse_TopicEventResponseStatus) pubsub.Status {
	switch st {
	case rtv1.TopicEventResponse_SUCCESS:
		return pubsub.Success
	case rtv1.TopicEventResponse_DROP:
		return pubsub.Drop
	}
	return pubsub.Retry
}

func message(e *pubsub.Event) *rtv1.SubscribeTopicEventsResponseAlpha1 {
	return &rtv1.SubscribeTopicEventsResponseAlpha1{
		SubscribeTopicEventsResponseType: &rtv1.SubscribeTopicEventsResponseAlpha1_EventMessage{
			EventMessage: dapr.TopicEvent(e, pubsub.StreamRoute),
		},
	}
}
