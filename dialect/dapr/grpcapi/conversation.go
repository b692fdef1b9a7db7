package grpcapi

import (
	"context"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/dialect/dapr"
)

// ConverseAlpha1 says something to a language model.
func (s *service) ConverseAlpha1(ctx context.Context, in *rtv1.ConversationRequest) (*rtv1.ConversationResponse, error) {
	return converse(ctx, s, in, dapr.ConverseAlpha1)
}

// ConverseAlpha2 says something to a language model, which may use tools.
func (s *service) ConverseAlpha2(ctx context.Context, in *rtv1.ConversationRequestAlpha2) (*rtv1.ConversationResponseAlpha2, error) {
	return converse(ctx, s, in, dapr.ConverseAlpha2)
}

func converse[I interface{ GetName() string }, O any](ctx context.Context, s *service, in I,
	do func(context.Context, *conversation.Model, I) (*O, error)) (*O, error) {
	about := dapr.Subject{Component: in.GetName()}
	m, err := s.opts.Blocks.Conversation(about.Component)
	if err != nil {
		return nil, s.failed(dapr.Converse, about, err)
	}
	out, err := do(ctx, m, in)
	if err != nil {
		return nil, s.failed(dapr.Converse, about, err)
	}
	return out, nil
}
