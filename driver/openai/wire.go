package openai

import (
	"encoding/json"
	"maps"
	"strings"

	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/fault"
)

// The messages of the protocol, as far as they are used.
type (
	wireMessage struct {
		Role       string         `json:"role"`
		Name       string         `json:"name,omitempty"`
		Content    *string        `json:"content"`
		ToolCalls  []wireToolCall `json:"tool_calls,omitempty"`
		ToolCallID string         `json:"tool_call_id,omitempty"`
	}
	wireToolCall struct {
		Index    int          `json:"index"` // in a stream
		ID       string       `json:"id,omitempty"`
		Type     string       `json:"type,omitempty"`
		Function wireFunction `json:"function"`
	}
	wireFunction struct {
		Name      string `json:"name,omitempty"`
		Arguments string `json:"arguments"`
	}
	wireReply struct {
		Model   string       `json:"model"`
		Choices []wireChoice `json:"choices"`
		Usage   *wireUsage   `json:"usage"`
		Error   *wireError   `json:"error"`
	}
	wireChoice struct {
		Index        int64       `json:"index"`
		FinishReason string      `json:"finish_reason"`
		Message      wireMessage `json:"message"`
		Delta        wireMessage `json:"delta"` // in a stream
	}
	wireUsage struct {
		PromptTokens     uint64 `json:"prompt_tokens"`
		CompletionTokens uint64 `json:"completion_tokens"`
		TotalTokens      uint64 `json:"total_tokens"`
		PromptDetails    struct {
			Audio  uint64 `json:"audio_tokens"`
			Cached uint64 `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
		CompletionDetails struct {
			Accepted  uint64 `json:"accepted_prediction_tokens"`
			Audio     uint64 `json:"audio_tokens"`
			Reasoning uint64 `json:"reasoning_tokens"`
			Rejected  uint64 `json:"rejected_prediction_tokens"`
		} `json:"completion_tokens_details"`
	}
	wireError struct {
		Message string `json:"message"`
	}
)

// reserved are the members of a request that a caller's parameters must not
// replace.
func reserved(name string) bool {
	switch name {
	case "messages", "stream", "stream_options", "tools", "tool_choice", "response_format":
		return true
	}
	return false
}

// body returns a request in the words of the protocol.
func (m *Model) body(r *conversation.Request, stream bool) ([]byte, error) {
	out := map[string]any{"model": m.settings.model}
	if n := m.settings.maxTokens; n > 0 {
		field := m.provider.maxTokensField
		if m.settings.legacy {
			field = "max_tokens"
		}
		out[field] = n
	}
	if r.Temperature != nil {
		out["temperature"] = *r.Temperature
	}
	for name := range r.Parameters {
		if reserved(name) {
			return nil, fault.New(fault.InvalidArgument, "the parameter %q cannot be set: it is part of the request", name).
				WithReason(conversation.ReasonParameters)
		}
	}
	maps.Copy(out, r.Parameters)
	messages := make([]wireMessage, len(r.Messages))
	for i, msg := range r.Messages {
		messages[i] = m.message(msg)
	}
	out["messages"] = messages
	if len(r.Tools) > 0 {
		out["tools"] = tools(r.Tools)
		out["tool_choice"] = toolChoice(r.ToolChoice)
	}
	if len(r.ResponseFormat) > 0 {
		out["response_format"] = m.responseFormat(r.ResponseFormat)
	}
	if r.PromptCacheRetention > 0 && m.provider.name == "openai" {
		// The protocol knows two: in memory for minutes, and a day.
		if out["prompt_cache_retention"] = "in-memory"; r.PromptCacheRetention.Hours() >= 1 {
			out["prompt_cache_retention"] = "24h"
		}
	}
	if stream {
		out["stream"] = true
		out["stream_options"] = map[string]bool{"include_usage": true}
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "write the request")
	}
	return text, nil
}

func (m *Model) message(msg conversation.Message) wireMessage {
	out := wireMessage{Role: string(msg.Role), Name: msg.Name, ToolCallID: msg.ToolCallID}
	if msg.Role == conversation.Developer && m.provider.name != "openai" {
		out.Role = string(conversation.System) // which is what others call it
	}
	if msg.Role == conversation.ToolRole {
		out.Name = "" // the call says whose answer it is
	}
	text := strings.Join(msg.Content, "\n")
	if text != "" || len(msg.ToolCalls) == 0 {
		out.Content = &text
	}
	for _, c := range msg.ToolCalls {
		out.ToolCalls = append(out.ToolCalls, wireToolCall{ID: c.ID, Type: "function", Function: wireFunction{c.Name, c.Arguments}})
	}
	return out
}

func tools(list []conversation.Tool) []any {
	var out []any
	for _, t := range list {
		f := map[string]any{"name": t.Name}
		if t.Description != "" {
			f["description"] = t.Description
		}
		if len(t.Parameters) > 0 {
			f["parameters"] = t.Parameters
		}
		out = append(out, map[string]any{"type": "function", "function": f})
	}
	return out
}

func toolChoice(choice string) any {
	switch choice {
	case conversation.ChooseAuto, conversation.ChooseNone, conversation.ChooseRequired:
		return choice
	}
	return map[string]any{"type": "function", "function": map[string]string{"name": choice}}
}

// responseFormat asks for an answer that satisfies a schema; a provider that
// takes no schema is asked for JSON.
func (m *Model) responseFormat(schema json.RawMessage) any {
	if !m.provider.schema {
		return map[string]string{"type": "json_object"}
	}
	return map[string]any{
		"type":        "json_schema",
		"json_schema": map[string]any{"name": "response", "schema": schema},
	}
}

// reply returns an answer in the words of the block.
func (w *wireReply) reply() *conversation.Reply {
	out := &conversation.Reply{Model: w.Model, Outputs: []conversation.Output{{}}}
	for _, c := range w.Choices {
		choice := conversation.Choice{FinishReason: c.FinishReason, Index: c.Index}
		if c.Message.Content != nil {
			choice.Content = *c.Message.Content
		}
		for _, t := range c.Message.ToolCalls {
			choice.ToolCalls = append(choice.ToolCalls, conversation.ToolCall{ID: t.ID, Name: t.Function.Name, Arguments: t.Function.Arguments})
		}
		out.Outputs[0].Choices = append(out.Outputs[0].Choices, choice)
	}
	if u := w.Usage; u != nil {
		out.Usage = &conversation.Usage{
			PromptTokens: u.PromptTokens, CompletionTokens: u.CompletionTokens, TotalTokens: u.TotalTokens,
			PromptAudio: u.PromptDetails.Audio, Cached: u.PromptDetails.Cached,
			AcceptedPrediction: u.CompletionDetails.Accepted, CompletionAudio: u.CompletionDetails.Audio,
			Reasoning: u.CompletionDetails.Reasoning, RejectedPrediction: u.CompletionDetails.Rejected,
		}
	}
	return out
}
