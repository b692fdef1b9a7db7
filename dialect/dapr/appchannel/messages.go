package appchannel

import (
	"strings"
	"unicode/utf8"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/dialect/dapr"
)

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
			entry.Event = &rtv1.TopicEventBulkRequestEntry_CloudEvent{CloudEvent: dapr.BulkTopicEvent(e)}
		}
		out.Entries[i] = entry
	}
	return out
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
