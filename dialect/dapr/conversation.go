package dapr

import (
	"context"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/dialect/turn"
)

// ConverseAlpha1 answers a request of the older form. As ConverseAlpha2, it
// returns the block's errors as they are.
func ConverseAlpha1(ctx context.Context, m *conversation.Model, in *rtv1.ConversationRequest) (*rtv1.ConversationResponse, error) {
	r := &conversation.Request{Temperature: in.Temperature, Metadata: in.GetMetadata()}
	scrub := conversation.Scrub{Reply: in.GetScrubPII()}
	for i, input := range in.GetInputs() {
		r.Messages = append(r.Messages, conversation.Message{Role: roleOf(input.GetRole()), Content: []string{input.GetContent()}})
		if input.GetScrubPII() {
			scrub.Messages = append(scrub.Messages, i)
		}
	}
	var err error
	if r.Parameters, err = turn.Parameters(in.GetParameters()); err != nil {
		return nil, err
	}
	reply, err := m.Converse(ctx, r, scrub)
	if err != nil {
		return nil, err
	}
	out := &rtv1.ConversationResponse{ContextID: in.ContextID}
	for _, o := range reply.Outputs {
		result := &rtv1.ConversationResult{Parameters: in.GetParameters()}
		if len(o.Choices) > 0 {
			result.Result = o.Choices[0].Content
		}
		out.Outputs = append(out.Outputs, result)
	}
	return out, nil
}

// roleOf reads a role of the older form, which has several words for some.
func roleOf(role string) conversation.Role {
	switch role {
	case "system":
		return conversation.System
	case "assistant", "ai":
		return conversation.Assistant
	case "tool", "function":
		return conversation.ToolRole
	case "developer":
		return conversation.Developer
	}
	return conversation.User
}

// ConverseAlpha2 answers a request.
func ConverseAlpha2(ctx context.Context, m *conversation.Model, in *rtv1.ConversationRequestAlpha2) (*rtv1.ConversationResponseAlpha2, error) {
	r, scrub, err := turn.Request(in)
	if err != nil {
		return nil, err
	}
	reply, err := m.Converse(ctx, r, scrub)
	if err != nil {
		return nil, err
	}
	out := turn.Reply(reply)
	out.ContextId = in.ContextId
	return out, nil
}
