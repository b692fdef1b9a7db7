package httpapi

import (
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/dialect/dapr"
)

// converse reads the body into in and answers with what a language model says.
func (c *call) converse(in proto.Message) {
	about := dapr.Subject{Component: c.params[0]}
	m, err := c.api.opts.Blocks.Conversation(about.Component)
	if err != nil {
		c.failed(dapr.Converse, about, err)
		return
	}
	body, ok := c.readBody()
	if !ok {
		return
	}
	if len(body) > 0 {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, in); err != nil {
			c.fail(dapr.Malformed(protoError{err}))
			return
		}
	}
	var out proto.Message
	switch in := in.(type) {
	case *rtv1.ConversationRequest:
		out, err = dapr.ConverseAlpha1(c.context(), m, in)
	case *rtv1.ConversationRequestAlpha2:
		out, err = dapr.ConverseAlpha2(c.context(), m, in)
	}
	if err != nil {
		c.failed(dapr.Converse, about, err)
		return
	}
	c.proto(out, false)
}
