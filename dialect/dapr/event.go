package dapr

import (
	"encoding/json"
	"strconv"

	"google.golang.org/protobuf/types/known/structpb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/pubsub"
)

// TopicEvent returns an event as gRPC applications get it, for the path that
// its route names.
func TopicEvent(e *pubsub.Event, path string) *rtv1.TopicEventRequest {
	return &rtv1.TopicEventRequest{
		Id: valid(e.ID()), Source: valid(e.Source()), Type: valid(e.Type()), SpecVersion: valid(e.SpecVersion()),
		DataContentType: valid(e.DataContentType()), Data: e.Data(),
		Topic: valid(e.Topic), PubsubName: valid(e.Component), Path: valid(path), Extensions: extensions(e),
	}
}

// BulkTopicEvent returns an event as an entry of a batch has it.
func BulkTopicEvent(e *pubsub.Event) *rtv1.TopicEventCERequest {
	return &rtv1.TopicEventCERequest{
		Id: valid(e.ID()), Source: valid(e.Source()), Type: valid(e.Type()), SpecVersion: valid(e.SpecVersion()),
		DataContentType: valid(e.DataContentType()), Data: e.Data(), Extensions: extensions(e),
	}
}

// extensions returns the attributes that have no field of their own.
func extensions(e *pubsub.Event) *structpb.Struct {
	out := &structpb.Struct{Fields: make(map[string]*structpb.Value, 8)}
	for name, value := range e.Attributes() {
		switch name {
		case "id", "source", "type", "specversion", "datacontenttype", "data", "data_base64":
		default:
			out.Fields[valid(name)] = structValue(value)
		}
	}
	return out
}

// structValue returns what a JSON value says.
func structValue(b []byte) *structpb.Value {
	if len(b) > 0 && (b[0] == '-' || '0' <= b[0] && b[0] <= '9') {
		if n, err := strconv.ParseFloat(string(b), 64); err == nil {
			return structpb.NewNumberValue(n)
		}
	}
	var v any
	if json.Unmarshal(b, &v) != nil {
		return structpb.NewStringValue(valid(string(b))) // such as a number beyond all bounds
	}
	if text, ok := v.(string); ok {
		return structpb.NewStringValue(text)
	}
	out, err := structpb.NewValue(v)
	if err != nil { // what JSON decodes to always can be
		return structpb.NewNullValue()
	}
	return out
}
