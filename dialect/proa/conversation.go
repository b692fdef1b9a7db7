package proa

import (
	"google.golang.org/grpc"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/dialect/turn"
)

// conversationService is proa.v1.Conversation.
type conversationService struct {
	proav1.UnimplementedConversationServer
	*API
}

// Stream answers one turn while the answer comes.
func (s *conversationService) Stream(in *proav1.ConversationStreamRequest, stream grpc.ServerStreamingServer[proav1.ConversationStreamResponse]) error {
	m, err := s.opts.Blocks.Conversation(in.GetTurn().GetName())
	if err != nil {
		return err
	}
	r, scrub, err := turn.Request(in.GetTurn())
	if err != nil {
		return err
	}
	reply, err := m.Stream(stream.Context(), r, scrub, func(d conversation.Delta) error {
		return stream.Send(&proav1.ConversationStreamResponse{Event: &proav1.ConversationStreamResponse_Delta{
			Delta: &proav1.ConversationDelta{Index: d.Index, Content: d.Content},
		}})
	})
	if err != nil {
		return err
	}
	out := turn.Reply(reply)
	out.ContextId = in.GetTurn().ContextId
	return stream.Send(&proav1.ConversationStreamResponse{Event: &proav1.ConversationStreamResponse_Reply{Reply: out}})
}
