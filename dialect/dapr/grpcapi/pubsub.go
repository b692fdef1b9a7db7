package grpcapi

import (
	"context"
	"strings"

	"google.golang.org/protobuf/types/known/emptypb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/rpc"
)

// broker returns the component that a request about a topic names.
func (s *service) broker(op dapr.Operation, about dapr.Subject) (*pubsub.Broker, error) {
	about.AppID = s.opts.AppID
	if about.Component == "" {
		return nil, dapr.PubSubNameEmpty(about)
	}
	b, err := s.opts.Blocks.PubSub(about.Component)
	if err != nil {
		return nil, s.failed(op, about, err)
	}
	if about.Topic == "" {
		return nil, dapr.TopicEmpty(about)
	}
	return b, nil
}

// PublishEvent publishes one event.
func (s *service) PublishEvent(ctx context.Context, in *rtv1.PublishEventRequest) (*emptypb.Empty, error) {
	about := dapr.Subject{Component: in.GetPubsubName(), Topic: in.GetTopic(), Request: in.GetMetadata()}
	broker, err := s.broker(dapr.Publish, about)
	if err != nil {
		return nil, err
	}
	r := pubsub.PublishRequest{Topic: in.GetTopic(), Data: in.GetData(), ContentType: in.GetDataContentType(), Metadata: in.GetMetadata()}
	r.TraceParent, r.TraceState = traceFields(rpc.IncomingHeader(ctx)).Current(ctx)
	if err := broker.Publish(ctx, &r); err != nil {
		return nil, s.failed(dapr.Publish, about, err)
	}
	return s.empty(), nil
}

// BulkPublishEvent publishes several events and tells which ones failed.
func (s *service) BulkPublishEvent(ctx context.Context, in *rtv1.BulkPublishRequest) (*rtv1.BulkPublishResponse, error) {
	about := dapr.Subject{Component: in.GetPubsubName(), Topic: in.GetTopic(), Request: in.GetMetadata()}
	broker, err := s.broker(dapr.BulkPublish, about)
	if err != nil {
		return nil, err
	}
	r := pubsub.BulkPublishRequest{Topic: in.GetTopic(), Metadata: in.GetMetadata(), Entries: make([]pubsub.PublishEntry, len(in.GetEntries()))}
	for i, e := range in.GetEntries() {
		r.Entries[i] = pubsub.PublishEntry{ID: e.GetEntryId(), Data: e.GetEvent(), ContentType: e.GetContentType(), Metadata: e.GetMetadata()}
	}
	r.TraceParent, r.TraceState = traceFields(rpc.IncomingHeader(ctx)).Current(ctx)
	failed, err := broker.BulkPublish(ctx, &r)
	if err != nil {
		return nil, s.failed(dapr.BulkPublish, about, err)
	}
	out := &rtv1.BulkPublishResponse{}
	for _, f := range failed {
		e := &rtv1.BulkPublishResponseFailedEntry{EntryId: f.ID, Error: text(dapr.Describe(dapr.BulkPublish, about, f.Err))}
		out.FailedEntries = append(out.FailedEntries, e)
	}
	return out, nil
}

// BulkPublishEventAlpha1 is BulkPublishEvent under its former name.
func (s *service) BulkPublishEventAlpha1(ctx context.Context, in *rtv1.BulkPublishRequest) (*rtv1.BulkPublishResponse, error) {
	return s.BulkPublishEvent(ctx, in)
}

// text returns the text of an error for a field of a message, which must be
// UTF-8.
func text(e *dapr.Error) string { return strings.ToValidUTF8(e.Message, "\uFFFD") }
