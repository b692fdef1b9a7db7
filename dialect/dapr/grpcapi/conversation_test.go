package grpcapi

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/internal/leak"
)

func userSays(text string) []*rtv1.ConversationInputAlpha2 {
	return []*rtv1.ConversationInputAlpha2{{Messages: []*rtv1.ConversationMessage{{
		MessageTypes: &rtv1.ConversationMessage_OfUser{OfUser: &rtv1.ConversationMessageOfUser{
			Content: []*rtv1.ConversationMessageContent{{Text: text}},
		}},
	}}}}
}

func TestModelsAnswer(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	parameters := map[string]*anypb.Any{}
	for name, m := range map[string]proto.Message{
		"n": wrapperspb.Int64(3), "s": wrapperspb.String("x"), "v": structpb.NewBoolValue(true), "o": &structpb.Struct{},
	} {
		parameters[name] = must[*anypb.Any](t)(anypb.New(m))
	}
	older := must[*rtv1.ConversationResponse](t)(c.ConverseAlpha1(ctx, &rtv1.ConversationRequest{
		Name: "llm", ContextID: proto.String("c1"), Parameters: parameters,
		Inputs: []*rtv1.ConversationInput{{Content: "hello"}, {Content: "there", Role: proto.String("assistant")}},
	}))
	if len(older.GetOutputs()) != 2 || older.GetOutputs()[1].GetResult() != "there" || older.GetContextID() != "c1" ||
		len(older.GetOutputs()[0].GetParameters()) != 4 {
		t.Errorf("the answer is %v", older)
	}
	newer := must[*rtv1.ConversationResponseAlpha2](t)(c.ConverseAlpha2(ctx, &rtv1.ConversationRequestAlpha2{
		Name: "llm", ContextId: proto.String("c2"), Inputs: userSays("hello there"), Parameters: parameters,
	}))
	o := newer.GetOutputs()
	if len(o) != 1 || len(o[0].GetChoices()) != 1 || newer.GetContextId() != "c2" || o[0].GetModel() != "parrot" || o[0].GetUsage().GetTotalTokens() != 4 {
		t.Fatalf("the answer is %v", newer)
	}
	if choice := o[0].GetChoices()[0]; choice.GetMessage().GetContent() != "hello there" || choice.GetFinishReason() != "stop" {
		t.Errorf("the choice is %v", choice)
	}
}

func TestRequestsToModelsThatCannotBeMetSayWhy(t *testing.T) {
	leak.Check(t)
	c, none, ctx := connect(t, newWorld(t)), connect(t, &world{}), timeout(t)
	for _, client := range []rtv1.DaprClient{c, none} {
		_, err := client.ConverseAlpha1(ctx, &rtv1.ConversationRequest{Name: "nosuch"})
		want{codes.InvalidArgument, "ERR_CONVERSATION_NOT_FOUND", "failed finding conversation component nosuch"}.check(t, err)
		_, err = client.ConverseAlpha2(ctx, &rtv1.ConversationRequestAlpha2{Name: "nosuch"})
		want{codes.InvalidArgument, "ERR_CONVERSATION_NOT_FOUND", "failed finding conversation component nosuch"}.check(t, err)
	}
	_, err := c.ConverseAlpha1(ctx, &rtv1.ConversationRequest{Name: "llm"})
	want{codes.InvalidArgument, "ERR_CONVERSATION_MISSING_INPUTS", "missing inputs in request"}.check(t, err)
	_, err = c.ConverseAlpha2(ctx, &rtv1.ConversationRequestAlpha2{Name: "llm", Inputs: userSays("x"), ToolChoice: proto.String("required")})
	want{codes.InvalidArgument, "ERR_CONVERSATION_INVALID_PARMS", "tool choice must be"}.check(t, err)
}
