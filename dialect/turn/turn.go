// Package turn translates the turns of a conversation with a language model
// between the messages of the Dapr API, which proa.v1 uses as well, and the block.
package turn

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/wrapperspb" // parameters may be of these types

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/fault"
)

// Request returns a request in the words of the block, and where
// personal data are to be masked. The error is fault.InvalidArgument.
func Request(in *rtv1.ConversationRequestAlpha2) (*conversation.Request, conversation.Scrub, error) {
	r := &conversation.Request{
		Temperature: in.Temperature, Metadata: in.GetMetadata(), ToolChoice: in.GetToolChoice(),
		PromptCacheRetention: in.GetPromptCacheRetention().AsDuration(),
	}
	scrub := conversation.Scrub{Reply: in.GetScrubPii()}
	for _, input := range in.GetInputs() {
		for _, m := range input.GetMessages() {
			msg, err := turnMessage(m)
			if err != nil {
				return nil, scrub, err
			}
			if input.GetScrubPii() {
				scrub.Messages = append(scrub.Messages, len(r.Messages))
			}
			r.Messages = append(r.Messages, msg)
		}
	}
	for _, t := range in.GetTools() {
		f := t.GetFunction()
		if f == nil {
			return nil, scrub, badTurn("a tool is no function")
		}
		schema, err := schemaText(f.GetParameters())
		if err != nil {
			return nil, scrub, err
		}
		r.Tools = append(r.Tools, conversation.Tool{Name: f.GetName(), Description: f.GetDescription(), Parameters: schema})
	}
	var err error
	if r.ResponseFormat, err = schemaText(in.GetResponseFormat()); err != nil {
		return nil, scrub, err
	}
	r.Parameters, err = Parameters(in.GetParameters())
	return r, scrub, err
}

func turnMessage(m *rtv1.ConversationMessage) (conversation.Message, error) {
	out := conversation.Message{}
	var content []*rtv1.ConversationMessageContent
	switch m := m.GetMessageTypes().(type) {
	case *rtv1.ConversationMessage_OfDeveloper:
		out.Role, out.Name, content = conversation.Developer, m.OfDeveloper.GetName(), m.OfDeveloper.GetContent()
	case *rtv1.ConversationMessage_OfSystem:
		out.Role, out.Name, content = conversation.System, m.OfSystem.GetName(), m.OfSystem.GetContent()
	case *rtv1.ConversationMessage_OfUser:
		out.Role, out.Name, content = conversation.User, m.OfUser.GetName(), m.OfUser.GetContent()
	case *rtv1.ConversationMessage_OfAssistant:
		out.Role, out.Name, content = conversation.Assistant, m.OfAssistant.GetName(), m.OfAssistant.GetContent()
		for _, c := range m.OfAssistant.GetToolCalls() {
			if c.GetFunction() == nil {
				return out, badTurn("tool types cannot be nil")
			}
			out.ToolCalls = append(out.ToolCalls, conversation.ToolCall{ID: c.GetId(), Name: c.GetFunction().GetName(), Arguments: c.GetFunction().GetArguments()})
		}
	case *rtv1.ConversationMessage_OfTool:
		out.Role, out.Name, content = conversation.ToolRole, m.OfTool.GetName(), m.OfTool.GetContent()
		out.ToolCallID = m.OfTool.GetToolId()
	default:
		return out, badTurn("message type cannot be nil")
	}
	for _, c := range content {
		out.Content = append(out.Content, c.GetText())
	}
	return out, nil
}

func badTurn(problem string) error {
	return fault.New(fault.InvalidArgument, "%s", problem).WithReason(conversation.ReasonParameters)
}

// schemaText returns a JSON schema as text; nothing for none.
func schemaText(s *structpb.Struct) (json.RawMessage, error) {
	if s == nil {
		return nil, nil
	}
	text, err := json.Marshal(s.AsMap()) // which sorts the names, unlike protojson
	if err != nil {
		return nil, badTurn("a JSON schema cannot be written: " + err.Error())
	}
	return text, nil
}

// Parameters returns the values of parameters: those of the well-known types as
// what they stand for. The error is fault.InvalidArgument.
func Parameters(in map[string]*anypb.Any) (map[string]any, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make(map[string]any, len(in))
	for name, v := range in {
		value, err := parameterValue(v)
		if err != nil {
			return nil, badTurn(fmt.Sprintf("the parameter %q cannot be read: it is of the type %q; want one of google.protobuf, such as StringValue or Struct",
				name, v.GetTypeUrl()))
		}
		out[name] = value
	}
	return out, nil
}

func parameterValue(v *anypb.Any) (any, error) {
	m, err := v.UnmarshalNew()
	if err != nil {
		return nil, err
	}
	// A wrapper is written as its value, but 64-bit numbers as strings.
	if w, ok := m.(interface{ GetValue() int64 }); ok {
		return w.GetValue(), nil
	}
	if w, ok := m.(interface{ GetValue() uint64 }); ok {
		return w.GetValue(), nil
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out any
	err = json.Unmarshal(text, &out)
	return out, err
}

// Reply returns an answer in the words of the API.
func Reply(r *conversation.Reply) *rtv1.ConversationResponseAlpha2 {
	out := &rtv1.ConversationResponseAlpha2{}
	for _, o := range r.Outputs {
		result := &rtv1.ConversationResultAlpha2{Usage: completionUsage(r.Usage)}
		if r.Model != "" {
			result.Model = proto.String(r.Model)
		}
		for _, c := range o.Choices {
			message := &rtv1.ConversationResultMessage{Content: c.Content}
			for _, t := range c.ToolCalls {
				message.ToolCalls = append(message.ToolCalls, toolCall(t))
			}
			result.Choices = append(result.Choices, &rtv1.ConversationResultChoices{FinishReason: c.FinishReason, Index: c.Index, Message: message})
		}
		out.Outputs = append(out.Outputs, result)
	}
	return out
}

func toolCall(t conversation.ToolCall) *rtv1.ConversationToolCalls {
	out := &rtv1.ConversationToolCalls{ToolTypes: &rtv1.ConversationToolCalls_Function{
		Function: &rtv1.ConversationToolCallsOfFunction{Name: t.Name, Arguments: t.Arguments},
	}}
	if t.ID != "" {
		out.Id = proto.String(t.ID)
	}
	return out
}

func completionUsage(u *conversation.Usage) *rtv1.ConversationResultAlpha2CompletionUsage {
	if u == nil {
		return nil
	}
	return &rtv1.ConversationResultAlpha2CompletionUsage{
		CompletionTokens: u.CompletionTokens, PromptTokens: u.PromptTokens, TotalTokens: u.TotalTokens,
		CompletionTokensDetails: &rtv1.ConversationResultAlpha2CompletionUsageCompletionTokensDetails{
			AcceptedPredictionTokens: u.AcceptedPrediction, AudioTokens: u.CompletionAudio,
			ReasoningTokens: u.Reasoning, RejectedPredictionTokens: u.RejectedPrediction,
		},
		PromptTokensDetails: &rtv1.ConversationResultAlpha2CompletionUsagePromptTokensDetails{
			AudioTokens: u.PromptAudio, CachedTokens: u.Cached,
		},
	}
}
