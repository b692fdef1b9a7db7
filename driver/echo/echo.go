// Package echo is a language model that answers what it was told; for tests.
package echo

import (
	"context"
	"strings"

	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		conversation.Spec(component.Description{
			Name:    "echo",
			Summary: "Answers each message with itself; for tests.",
		}, Config{}, Open),
	}
}

// Config configures an echo.
//
// Each message of a request is one output, with one choice that holds the texts
// of the message. Messages that use tools come back with what they asked for or
// answered.
type Config struct {
	// Model is the name that answers carry.
	Model string `setting:"model"`
}

// Model is a conversation.Driver and a conversation.Streamer.
type Model struct{ name string }

// Open returns an echo.
func Open(_ context.Context, cfg Config, _ component.Env) (*Model, error) {
	return &Model{name: cfg.Model}, nil
}

// Converse implements conversation.Driver.
func (m *Model) Converse(ctx context.Context, r *conversation.Request) (*conversation.Reply, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out := &conversation.Reply{Model: m.name, Usage: &conversation.Usage{}}
	for i, msg := range r.Messages {
		c := conversation.Choice{
			FinishReason: conversation.FinishStop, Index: int64(i), Content: strings.Join(msg.Content, ""), ToolCalls: msg.ToolCalls,
		}
		if msg.Role == conversation.ToolRole {
			c.ToolCalls = []conversation.ToolCall{{ID: msg.ToolCallID, Name: msg.Name, Arguments: c.Content}}
		}
		out.Outputs = append(out.Outputs, conversation.Output{Choices: []conversation.Choice{c}})
		words := uint64(len(strings.Fields(c.Content)))
		out.Usage.PromptTokens += words
		out.Usage.CompletionTokens += words
	}
	out.Usage.TotalTokens = out.Usage.PromptTokens + out.Usage.CompletionTokens
	return out, nil
}

// Stream implements conversation.Streamer: a word at a time.
func (m *Model) Stream(ctx context.Context, r *conversation.Request, emit func(conversation.Delta) error) (*conversation.Reply, error) {
	out, err := m.Converse(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, o := range out.Outputs {
		for word := range strings.SplitAfterSeq(o.Choices[0].Content, " ") {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if word == "" {
				continue
			}
			if err := emit(conversation.Delta{Index: o.Choices[0].Index, Content: word}); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// Close implements io.Closer.
func (m *Model) Close() error { return nil }
