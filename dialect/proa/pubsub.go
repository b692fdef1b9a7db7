package proa

import (
	"context"
	"time"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/telemetry"
)

// pubsubService is proa.v1.PubSub.
type pubsubService struct {
	proav1.UnimplementedPubSubServer
	*API
}

// Publish publishes a message, now or later.
func (s *pubsubService) Publish(ctx context.Context, in *proav1.PubSubPublishRequest) (*proav1.PubSubPublishResponse, error) {
	broker, err := s.opts.Blocks.PubSub(in.GetPubsubName())
	if err != nil {
		return nil, err
	}
	at, err := deliveryTime(in)
	if err != nil {
		return nil, err
	}
	r := pubsub.PublishRequest{Topic: in.GetTopic(), Data: in.GetData(), ContentType: in.GetDataContentType(), Metadata: in.GetMetadata()}
	if tc, ok := telemetry.TraceFrom(ctx); ok {
		r.TraceParent, r.TraceState = tc.Traceparent(), tc.State
	}
	id, err := broker.PublishLater(ctx, &r, at)
	if err != nil {
		return nil, err
	}
	return &proav1.PubSubPublishResponse{Id: id}, nil
}

// deliveryTime returns when to deliver a message; zero for at once.
func deliveryTime(in *proav1.PubSubPublishRequest) (time.Time, error) {
	switch d := in.GetDelivery().(type) {
	case *proav1.PubSubPublishRequest_DeliverAt:
		if d.DeliverAt.CheckValid() != nil {
			return time.Time{}, badDelivery("deliver_at is no time")
		}
		return d.DeliverAt.AsTime(), nil
	case *proav1.PubSubPublishRequest_Delay:
		wait, err := duration("delay", d.Delay, pubsub.ReasonMetadata)
		switch {
		case err != nil:
			return time.Time{}, err
		case wait < 0:
			return time.Time{}, badDelivery("delay is negative")
		}
		return time.Now().Add(wait), nil
	}
	return time.Time{}, nil
}

func badDelivery(problem string) error {
	return fault.New(fault.InvalidArgument, "%s", problem).WithReason(pubsub.ReasonMetadata)
}

// CancelDelayed takes a message back.
func (s *pubsubService) CancelDelayed(ctx context.Context, in *proav1.PubSubCancelDelayedRequest) (*proav1.PubSubCancelDelayedResponse, error) {
	if in.GetId() == "" {
		return nil, fault.New(fault.InvalidArgument, "id is empty")
	}
	tries, ok, err := s.opts.Blocks.CancelDelayed(ctx, in.GetId())
	if err != nil {
		return nil, err
	}
	return &proav1.PubSubCancelDelayedResponse{Canceled: ok, FailedAttempts: tries}, nil
}
