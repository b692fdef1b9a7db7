package echo

import (
	"testing"

	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/block/conversation/conversationtest"
	"github.com/proa-io/proa/component"
)

func open(t testing.TB) *Model {
	t.Helper()
	m, err := Open(t.Context(), Config{Model: "parrot"}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestConversation(t *testing.T) {
	conversationtest.Run(t, conversationtest.Harness{Open: func(t testing.TB) conversation.Driver { return open(t) }})
}

func TestEveryMessageIsAnOutput(t *testing.T) {
	r := &conversation.Request{Messages: []conversation.Message{
		{Role: conversation.System, Content: []string{"be ", "brief"}},
		{Role: conversation.Assistant, ToolCalls: []conversation.ToolCall{{ID: "1", Name: "add", Arguments: `{"a":1}`}}},
		{Role: conversation.ToolRole, Name: "add", ToolCallID: "1", Content: []string{"2"}},
	}}
	got, err := open(t).Converse(t.Context(), r)
	if err != nil || len(got.Outputs) != 3 || got.Model != "parrot" || got.Usage.TotalTokens != 6 {
		t.Fatalf("the answer is %+v, %v", got, err)
	}
	for i, want := range []conversation.Choice{
		{FinishReason: "stop", Content: "be brief"},
		{FinishReason: "stop", Index: 1, ToolCalls: r.Messages[1].ToolCalls},
		{FinishReason: "stop", Index: 2, Content: "2", ToolCalls: []conversation.ToolCall{{ID: "1", Name: "add", Arguments: "2"}}},
	} {
		c := got.Outputs[i].Choices[0]
		if c.Index != want.Index || c.Content != want.Content || len(c.ToolCalls) != len(want.ToolCalls) ||
			len(c.ToolCalls) > 0 && c.ToolCalls[0] != want.ToolCalls[0] {
			t.Errorf("output %d is %+v, want %+v", i, c, want)
		}
	}
}
