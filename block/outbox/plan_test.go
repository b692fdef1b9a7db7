package outbox

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/proa-io/proa/fault"
)

func TestOperationsSayWhatIsStoredAndPublished(t *testing.T) {
	type m = map[string]string
	upsert := func(key, value string, metadata m) Operation {
		return Operation{Key: key, Value: []byte(value), Metadata: metadata}
	}
	fromJSON := func(key, value string, metadata m) Operation {
		return Operation{Key: key, Value: []byte(value), JSON: true, Metadata: metadata}
	}
	for _, tt := range []struct {
		name string
		ops  []Operation
		meta m
		keep string
		want []string // pubsub/topic key type data [attributes]
	}{
		{name: "AnUpsertPublishesItsValue", ops: []Operation{upsert("a", "1", nil), upsert("b", "2", nil)},
			keep: "[0 1]", want: []string{"pubsub/orders a text/plain 1 []", "pubsub/orders b text/plain 2 []"}},
		{name: "ADeleteDoesNot", ops: []Operation{{Key: "a", Delete: true}}, keep: "[0]"},
		{name: "AProjectionIsPublishedInPlaceOfTheValueAndNotStored", ops: []Operation{
			upsert("a", "full", m{"type": "t"}), upsert("a", "short", m{"outbox.projection": "true", "type": "unused"}), upsert("b", "2", nil),
		}, keep: "[0 2]", want: []string{"pubsub/orders a text/plain short [type=t]", "pubsub/orders b text/plain 2 []"}},
		{name: "TheProjectionMayComeFirst", ops: []Operation{
			upsert("a", "short", m{"outbox.projection": "TRUE"}), upsert("a", "full", nil),
		}, keep: "[1]", want: []string{"pubsub/orders a text/plain short []"}},
		{name: "OfSeveralProjectionsTheLastCounts", ops: []Operation{
			upsert("a", "full", nil), upsert("a", "one", m{"outbox.projection": "1"}), upsert("a", "two", m{"outbox.projection": "yes"}),
			upsert("b", "x", m{"outbox.projection": "true"}),
		}, keep: "[0]", want: []string{"pubsub/orders a text/plain two []"}},
		{name: "AProjectionThatIsNoneIsStored", ops: []Operation{upsert("a", "1", m{"outbox.projection": "false"})},
			keep: "[0]", want: []string{"pubsub/orders a text/plain 1 []"}},
		{name: "AProjectionWithATopicIsAnEventOfItsOwn", ops: []Operation{
			upsert("a", "full", nil),
			upsert("a", "for billing", m{"outbox.projection": "true", "outbox.topic": "billing", "subject": "s"}),
			upsert("a", "for mail", m{"outbox.projection": "true", "outbox.topic": "mail", "outbox.pubsub": "other"}),
			upsert("c", "alone", m{"outbox.projection": "true", "outbox.topic": "billing"}),
		}, keep: "[0]", want: []string{
			"pubsub/orders a text/plain full []", "pubsub/billing a text/plain for billing [subject=s]",
			"other/mail a text/plain for mail []", "pubsub/billing c text/plain alone []",
		}},
		{name: "AnUpsertMayNameItsTopic", ops: []Operation{upsert("a", "1", m{"outbox.topic": "x"}), upsert("b", "2", m{"outbox.pubsub": "p"})},
			keep: "[0 1]", want: []string{"pubsub/x a text/plain 1 []", "p/orders b text/plain 2 []"}},
		{name: "ATransactionMayNameTheTopicOfAll", ops: []Operation{upsert("a", "1", nil), upsert("b", "2", m{"outbox.topic": "y"}), {Key: "c", Delete: true}},
			meta: m{"outbox.topic": "x"}, keep: "[0 1 2]", want: []string{"pubsub/x a text/plain 1 []", "pubsub/y b text/plain 2 []"}},
		{name: "AnUpsertMayKeepSilent", ops: []Operation{upsert("a", "1", m{"outbox.publish": "false"})}, keep: "[0]"},
		{name: "ADeleteWithATopicIsPublished", ops: []Operation{
			{Key: "a", Delete: true, Metadata: m{"outbox.topic": "gone"}},
			{Key: "b", Delete: true, Metadata: m{"outbox.topic": "gone"}}, upsert("b", "last words", m{"outbox.projection": "true"}),
		}, keep: "[0 1]", want: []string{"pubsub/gone a text/plain  []", "pubsub/gone b text/plain last words []"}},
		{name: "MetadataAreAttributesButForTheReservedOnes", ops: []Operation{upsert("a", "1", m{
			"cloudevent.type": "created", "source": "me", "outbox.cloudevent.myapp": "myapp1", "data": "no", "id": "no", "cloudevent.id": "no",
			"cloudevent.data": "no", "topic": "no", "pubsubname": "no", "specversion": "no", "data_base64": "no", "ttlInSeconds": "5",
			"cloudevent.": "no",
		})}, keep: "[0]", want: []string{"pubsub/orders a text/plain 1 [outbox.cloudevent.myapp=myapp1 source=me type=created]"}},
		{name: "TheContentTypeIsThatOfWhereTheValueIsFrom", ops: []Operation{
			upsert("a", "{}", m{"contentType": "text/html"}),
			upsert("a", "[]", m{"contentType": "application/json", "outbox.projection": "true"}),
			upsert("b", "{}", m{"datacontenttype": "application/json"}),
		}, keep: "[0 2]", want: []string{
			"pubsub/orders a application/json [] []", "pubsub/orders b application/json {} [datacontenttype=application/json]",
		}},
		{name: "TextInJSONLosesItsQuotesUnlessItIsToBeJSON", ops: []Operation{
			fromJSON("a", `"2"`, nil), fromJSON("b", `2`, nil), fromJSON("c", ` {"x":1}`, nil), fromJSON("d", `[1]`, nil), fromJSON("e", `null`, nil),
			fromJSON("f", `"2"`, m{"contentType": "application/json"}), fromJSON("g", `"<p>"`, m{"contentType": "text/html"}),
			fromJSON("h", `{"x":1}`, m{"contentType": "application/cloudevents+json; charset=utf-8"}),
		}, keep: "[0 1 2 3 4 5 6 7]", want: []string{
			"pubsub/orders a text/plain 2 []", "pubsub/orders b text/plain 2 []", `pubsub/orders c application/json {"x":1} []`,
			"pubsub/orders d application/json [1] []", "pubsub/orders e text/plain null []", `pubsub/orders f application/json "2" []`,
			"pubsub/orders g text/html <p> []", `pubsub/orders h application/cloudevents+json; charset=utf-8 {"x":1} []`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := newWorld().open().newPlan(tt.ops, tt.meta)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range p.events {
				var attributes []string
				for _, a := range e.Attributes {
					attributes = append(attributes, a.Name+"="+a.Value)
				}
				got = append(got, fmt.Sprintf("%s/%s %s %s %s %v", e.PubSub, e.Topic, e.Key, e.ContentType, e.Data, attributes))
				if !strings.HasPrefix(e.ID, "outbox-") || len(e.ID) != len("outbox-")+36 {
					t.Errorf("the event id is %q, want outbox- and a UUID", e.ID)
				}
			}
			if keep := fmt.Sprint(p.keep); keep != tt.keep && tt.keep != "" {
				t.Errorf("stored: %s, want %s", keep, tt.keep)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("published:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestATransactionThatCannotBePublishedIsRefused(t *testing.T) {
	p := newWorld().open()
	_, err := p.Begin(t.Context(), []Operation{{Key: "a", Metadata: map[string]string{"outbox.pubsub": "nowhere"}}}, nil, Trace{})
	if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), `"a"`) || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("%v", err)
	}
}

func TestATransactionWithoutEventsWritesNoRow(t *testing.T) {
	p := newWorld().open()
	tx, err := p.Begin(t.Context(), []Operation{{Key: "a", Delete: true}}, nil, Trace{})
	if err != nil || tx.Row != "" || len(tx.Keep) != 1 {
		t.Errorf("%+v, %v", tx, err)
	}
	tx.End(t.Context(), Committed)
}

func FuzzRowsAreReadAsTheyAreWritten(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{rowVersion})
	f.Add([]byte{rowVersion + 1, 0, 0})
	f.Add(encodeRow(-5, []Message{{"p", "t", "k", "i", []byte("{}")}, {}}))
	f.Add(append(encodeRow(1, nil), 0))
	f.Add([]byte{rowVersion, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		stamp, messages, err := decodeRow(data)
		if err != nil {
			return
		}
		again := encodeRow(stamp, messages)
		stamp2, messages2, err := decodeRow(again)
		if err != nil || stamp2 != stamp || fmt.Sprint(messages) != fmt.Sprint(messages2) {
			t.Errorf("%v, %v, %v; want %v, %v", stamp2, messages2, err, stamp, messages)
		}
	})
}

func FuzzBellsOfAnyKindAreRead(f *testing.F) {
	o := newWorld().open()
	tx := &Transaction{outbox: o.Outbox}
	o.slots = make([]slot, 3)
	for n := range o.slots {
		tx.slot, tx.stamp = n, int64(n+7)
		o.settle(tx, Committed)
	}
	f.Add(o.rung())
	f.Add([]byte{})
	f.Add([]byte{rowVersion, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, ok := hear(data, "w")
		if ok && (h.slots < 0 || h.slots > maxSlots) {
			t.Errorf("%d rows", h.slots)
		}
	})
}
