package proa

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
)

func TestAnswersOfModelsComeInPieces(t *testing.T) {
	client := proav1.NewConversationClient(dial(t, serve(t, New(Options{Blocks: newWorld(t)}))))
	in := &rtv1.ConversationRequestAlpha2{Name: "llm", ContextId: proto.String("c1"), Inputs: []*rtv1.ConversationInputAlpha2{{
		Messages: []*rtv1.ConversationMessage{{MessageTypes: &rtv1.ConversationMessage_OfUser{OfUser: &rtv1.ConversationMessageOfUser{
			Content: []*rtv1.ConversationMessageContent{{Text: "one two three"}},
		}}}},
	}}}
	stream, err := client.Stream(t.Context(), &proav1.ConversationStreamRequest{Turn: in})
	if err != nil {
		t.Fatal(err)
	}
	var pieces []string
	var reply *rtv1.ConversationResponseAlpha2
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if reply != nil {
			t.Errorf("%v comes after the whole answer", m)
		}
		if d := m.GetDelta(); d != nil {
			pieces = append(pieces, d.GetContent())
		}
		reply = m.GetReply()
	}
	if want := []string{"one ", "two ", "three"}; !slices.Equal(pieces, want) {
		t.Errorf("the pieces are %q, want %q", pieces, want)
	}
	if reply.GetContextId() != "c1" || reply.GetOutputs()[0].GetChoices()[0].GetMessage().GetContent() != "one two three" {
		t.Errorf("the whole answer is %v", reply)
	}
}

func TestTurnsThatCannotBeMetSayWhy(t *testing.T) {
	client := proav1.NewConversationClient(dial(t, serve(t, New(Options{Blocks: newWorld(t)}))))
	for _, c := range []struct {
		in   *rtv1.ConversationRequestAlpha2
		code codes.Code
		want string
	}{
		{nil, codes.NotFound, "no conversation component"},
		{&rtv1.ConversationRequestAlpha2{Name: "nosuch"}, codes.NotFound, `"nosuch"`},
		{&rtv1.ConversationRequestAlpha2{Name: "llm"}, codes.InvalidArgument, "no message"},
		{&rtv1.ConversationRequestAlpha2{Name: "llm", Inputs: []*rtv1.ConversationInputAlpha2{{Messages: []*rtv1.ConversationMessage{{}}}}},
			codes.InvalidArgument, "message type cannot be nil"},
	} {
		stream, err := client.Stream(t.Context(), &proav1.ConversationStreamRequest{Turn: c.in})
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		if st := status.Convert(err); st.Code() != c.code || !strings.Contains(st.Message(), c.want) {
			t.Errorf("%v: %v; want %v with %q", c.in, err, c.code, c.want)
		}
	}
}

func TestAnswersOfModelsComeInLinesOverHTTP(t *testing.T) {
	addr := serve(t, New(Options{Blocks: newWorld(t)}))
	resp, err := http.Post("http://"+addr+"/proa.v1.Conversation/Stream", "application/json",
		strings.NewReader(`{"turn":{"name":"llm","inputs":[{"messages":[{"ofUser":{"content":[{"text":"hello there"}]}}]}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got []string
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		got = append(got, lines.Text())
	}
	want := []string{`{"delta":{"content":"hello "}}`, `{"delta":{"content":"there"}}`,
		`{"reply":{"outputs":[{"choices":[{"finishReason":"stop","message":{"content":"hello there"}}],` +
			`"usage":{"completionTokens":"2","promptTokens":"2","totalTokens":"4","completionTokensDetails":{},"promptTokensDetails":{}}}]}}`}
	if !slices.Equal(got, want) {
		t.Errorf("the lines are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
