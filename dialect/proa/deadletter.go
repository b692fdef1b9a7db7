package proa

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// deadLetterService is proa.v1.DeadLetters.
type deadLetterService struct {
	proav1.UnimplementedDeadLettersServer
	*API
}

// maxRedriven bounds how many messages one call sends back.
const maxRedriven = 1000

// List returns a page of the messages in a dead letter topic.
func (s *deadLetterService) List(ctx context.Context, in *proav1.DeadLettersListRequest) (*proav1.DeadLettersListResponse, error) {
	broker, err := s.opts.Blocks.PubSub(in.GetPubsubName())
	if err != nil {
		return nil, err
	}
	letters, next, err := broker.DeadLetters(ctx, in.GetTopic(), in.GetPageToken(), int(in.GetPageSize()))
	if err != nil {
		return nil, err
	}
	out := &proav1.DeadLettersListResponse{NextPageToken: next}
	for i := range letters {
		out.Letters = append(out.Letters, deadLetter(&letters[i], in.GetData()))
	}
	return out, nil
}

// deadLetter returns a message as the API shows it.
func deadLetter(l *pubsub.DeadLetter, withData bool) *proav1.DeadLetter {
	out := &proav1.DeadLetter{
		Id: valid(l.ID), MessageId: valid(l.MessageID), Topic: valid(l.Topic), Cause: valid(l.Cause), Attempts: int64(l.Attempts),
		FirstTime: timestamp(l.First), LastTime: timestamp(l.Last), ContentType: valid(l.ContentType),
	}
	if withData {
		out.Data = l.Data
		out.Metadata = make(map[string]string, len(l.Metadata))
		for k, v := range l.Metadata {
			out.Metadata[valid(k)] = valid(v)
		}
	}
	return out
}

// timestamp returns a time; nil for none.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// Redrive sends messages back.
func (s *deadLetterService) Redrive(ctx context.Context, in *proav1.DeadLettersRedriveRequest) (*proav1.DeadLettersRedriveResponse, error) {
	broker, err := s.opts.Blocks.PubSub(in.GetPubsubName())
	if err != nil {
		return nil, err
	}
	if n := len(in.GetIds()); n > maxRedriven {
		return nil, fault.New(fault.InvalidArgument, "ids has %d entries; %d is the most", n, maxRedriven)
	}
	res, err := broker.Redrive(ctx, &pubsub.RedriveRequest{
		Topic: in.GetTopic(), IDs: in.GetIds(), Limit: min(int(in.GetLimit()), maxRedriven), To: in.GetToTopic(),
	})
	if err != nil {
		return nil, err
	}
	out := &proav1.DeadLettersRedriveResponse{More: res.More}
	for i := range res.Redriven {
		out.Redriven = append(out.Redriven, deadLetter(&res.Redriven[i], false))
	}
	for _, f := range res.Failed {
		out.Failed = append(out.Failed, &proav1.DeadLettersRedriveFailure{Id: valid(f.ID), Error: valid(fault.Message(f.Err))})
	}
	return out, nil
}
