package appchannel

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
)

// topicEvent returns an event as OnTopicEvent takes it.
func topicEvent(route string, e *pubsub.Event) *rtv1.TopicEventRequest {
	return &rtv1.TopicEventRequest{
		Id: valid(e.ID()), Source: valid(e.Source()), Type: valid(e.Type()), SpecVersion: valid(e.SpecVersion()),
		DataContentType: valid(e.DataContentType()), Data: payload(e), Extensions: extensions(e),
		Topic: valid(e.Topic), PubsubName: valid(e.Component), Path: valid(route),
	}
}

// payload returns the data of an event, which for a bare one is what came from
// the broker.
func payload(e *pubsub.Event) []byte {
	if e.Raw != nil {
		return e.Raw
	}
	return e.Data()
}

// bulkTopicEvent returns several events as OnBulkTopicEvent takes them.
func bulkTopicEvent(route string, b *pubsub.BulkEvent) *rtv1.TopicEventBulkRequest {
	out := &rtv1.TopicEventBulkRequest{
		Id: valid(b.ID), Topic: valid(b.Topic), PubsubName: valid(b.Component), Type: pubsub.TypeBulk, Path: valid(route),
		Metadata: map[string]string{"pubsubName": valid(b.Component)},
		Entries:  make([]*rtv1.TopicEventBulkRequestEntry, len(b.Entries)),
	}
	for i := range b.Entries {
		en := &b.Entries[i]
		e := en.Event
		entry := &rtv1.TopicEventBulkRequestEntry{
			EntryId: valid(en.EntryID), ContentType: valid(en.ContentType), Metadata: validMap(e.Metadata),
		}
		if e.Raw != nil {
			entry.Event = &rtv1.TopicEventBulkRequestEntry_Bytes{Bytes: e.Raw}
		} else {
			entry.Event = &rtv1.TopicEventBulkRequestEntry_CloudEvent{CloudEvent: &rtv1.TopicEventCERequest{
				Id: valid(e.ID()), Source: valid(e.Source()), Type: valid(e.Type()), SpecVersion: valid(e.SpecVersion()),
				DataContentType: valid(e.DataContentType()), Data: e.Data(), Extensions: extensions(e),
			}}
		}
		out.Entries[i] = entry
	}
	return out
}

// extensions returns the attributes of an event that have no field of their
// own.
func extensions(e *pubsub.Event) *structpb.Struct {
	out := &structpb.Struct{Fields: make(map[string]*structpb.Value, 8)}
	for name, value := range e.Attributes() {
		switch name {
		case "id", "source", "type", "specversion", "datacontenttype", "data", "data_base64":
			continue
		}
		if v := structValue(value); v != nil {
			out.Fields[valid(name)] = v
		}
	}
	return out
}

// structValue returns a JSON value as a message; nil for what is not JSON.
func structValue(text []byte) *structpb.Value {
	if s, ok := simpleText(text); ok {
		return structpb.NewStringValue(s)
	}
	var v any
	if json.Unmarshal(text, &v) != nil { // makes valid UTF-8
		return nil
	}
	out, err := structpb.NewValue(v)
	if err != nil {
		return nil
	}
	return out
}

// simpleText returns the text of a JSON string that has no escapes, as nearly
// all are.
func simpleText(text []byte) (string, bool) {
	if len(text) < 2 || text[0] != '"' || !utf8.Valid(text) {
		return "", false
	}
	body := text[1 : len(text)-1]
	for _, c := range body {
		if c == '\\' {
			return "", false
		}
	}
	return string(body), true
}

// bindingAnswer returns what the answer to an event of a binding asks for; nil
// when that is nothing.
func bindingAnswer(r *rtv1.BindingEventResponse) *binding.AppResponse {
	if len(r.GetStates()) == 0 && len(r.GetTo()) == 0 {
		return nil
	}
	out := &binding.AppResponse{
		StoreName: r.GetStoreName(), To: r.GetTo(), Data: r.GetData(),
		Parallel: r.GetConcurrency() == rtv1.BindingEventResponse_PARALLEL,
	}
	for _, s := range r.GetStates() {
		item := binding.StateItem{Key: s.GetKey(), Value: s.GetValue(), Metadata: s.GetMetadata()}
		if s.GetEtag() != nil {
			etag := s.GetEtag().GetValue()
			item.ETag = &etag
		}
		switch s.GetOptions().GetConcurrency() {
		case commonv1.StateOptions_CONCURRENCY_FIRST_WRITE:
			item.Concurrency = "first-write"
		case commonv1.StateOptions_CONCURRENCY_LAST_WRITE:
			item.Concurrency = "last-write"
		}
		switch s.GetOptions().GetConsistency() {
		case commonv1.StateOptions_CONSISTENCY_EVENTUAL:
			item.Consistency = "eventual"
		case commonv1.StateOptions_CONSISTENCY_STRONG:
			item.Consistency = "strong"
		}
		out.State = append(out.State, item)
	}
	return out
}

// valid replaces what is not UTF-8, which messages cannot carry.
func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func validMap(m map[string]string) map[string]string {
	for k, v := range m {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			out := make(map[string]string, len(m))
			for k, v := range m {
				out[valid(k)] = valid(v)
			}
			return out
		}
	}
	return m
}
