package outbox

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"github.com/proa-io/proa/fault"
)

// ReasonRefused: a transaction with an event that can never be published.
const ReasonRefused fault.Reason = "outbox.refused"

// Operation is one write of a transaction, as far as it matters to an outbox.
type Operation struct {
	Key string
	// Check tells that the operation writes nothing.
	Check  bool
	Delete bool
	Value  []byte
	// JSON tells that Value came as JSON whatever it stands for: a text is in
	// quotes then.
	JSON     bool
	Metadata map[string]string
}

// Names in the metadata of an operation that are instructions to the outbox.
// What else is there becomes an attribute of the event.
const (
	// metaProjection ("true") makes an upsert give its value to the event of
	// another operation with the same key, and not be stored. With a topic of
	// its own it is an event of its own.
	metaProjection = "outbox.projection"
	// metaTopic and metaPubSub say where the event goes.
	metaTopic  = "outbox.topic"
	metaPubSub = "outbox.pubsub"
	// metaPublish ("false") keeps an upsert from being published.
	metaPublish = "outbox.publish"

	metaContentType = "contentType"
	metaTTL         = "ttlInSeconds"
	// attributePrefix may stand before the name of an attribute.
	attributePrefix = "cloudevent."
	attrContentType = "datacontenttype"
)

// Content types of events whose operation names none.
const (
	typeText = "text/plain"
	typeJSON = "application/json"
)

// Event is one message that a transaction publishes.
type Event struct {
	// ID is the id of the event: the same however often it is published.
	ID            string
	PubSub, Topic string
	// Key is the key of the item: events with the same key stay in order.
	Key         string
	Data        []byte
	ContentType string
	// Attributes are set in the envelope, sorted by name. None is called id or
	// data.
	Attributes []Attribute
}

// Attribute is one attribute of an event.
type Attribute struct{ Name, Value string }

// plan is what a transaction comes to.
type plan struct {
	keep   []int // which operations are carried out
	events []Event
}

// newPlan says which operations are carried out and what they publish.
//
// Every upsert publishes its value, or the value of the last projection with
// its key, with its own metadata as attributes; the content type is that of the
// operation the value is from. A projection that names a topic or a component
// is an event of its own; there may be any number of those. A delete publishes
// only when it names a topic or a component.
func (o *Outbox) newPlan(ops []Operation, metadata map[string]string) (plan, error) {
	var p plan
	var projections map[string]int
	for i := range ops {
		op := &ops[i]
		if !op.projects() {
			p.keep = append(p.keep, i)
		} else if !op.directed() {
			if projections == nil {
				projections = map[string]int{}
			}
			projections[op.Key] = i
		}
	}
	for i := range ops {
		op := &ops[i]
		from := op
		switch {
		case op.Check, op.projects() && !op.directed(), op.Delete && !op.directed(), isFalse(op.Metadata[metaPublish]):
			continue
		case op.projects():
		default:
			if j, ok := projections[op.Key]; ok {
				from = &ops[j]
			}
		}
		e, err := o.event(op, from, metadata)
		if err != nil {
			return plan{}, err
		}
		p.events = append(p.events, e)
	}
	return p, nil
}

// projects reports whether an operation is not stored.
func (op *Operation) projects() bool {
	return !op.Delete && !op.Check && isTrue(op.Metadata[metaProjection])
}

// directed reports whether an operation says where its event goes.
func (op *Operation) directed() bool {
	return op.Metadata[metaTopic] != "" || op.Metadata[metaPubSub] != ""
}

// event is what op publishes, with the value of from. metadata is that of the
// transaction.
func (o *Outbox) event(op, from *Operation, metadata map[string]string) (Event, error) {
	e := Event{
		ID: "outbox-" + newUUID(), Key: op.Key,
		PubSub: cmp.Or(op.Metadata[metaPubSub], metadata[metaPubSub], o.opts.PubSub),
		Topic:  cmp.Or(op.Metadata[metaTopic], metadata[metaTopic], o.opts.Topic),
	}
	if err := o.opts.Publisher.Check(e.PubSub, e.Topic); err != nil {
		return e, fault.Wrap(err, fault.CodeOf(err), "the event of key %q cannot be published", op.Key).WithReason(ReasonRefused)
	}
	for name, value := range op.Metadata {
		if name, ok := attributeOf(name); ok {
			e.Attributes = append(e.Attributes, Attribute{name, value})
		}
	}
	slices.SortFunc(e.Attributes, func(a, b Attribute) int { return cmp.Compare(a.Name, b.Name) })
	given := cmp.Or(from.Metadata[metaContentType], e.attribute(attrContentType))
	e.Data, e.ContentType = payload(from, given)
	return e, nil
}

func (e *Event) attribute(name string) string {
	for _, a := range e.Attributes {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}

// attributeOf returns what attribute a metadata entry sets, and false for those
// that set none. The payload, the id and where the event goes are not open.
func attributeOf(name string) (string, bool) {
	switch name {
	case metaProjection, metaTopic, metaPubSub, metaPublish, metaContentType, metaTTL:
		return "", false
	}
	name, _ = strings.CutPrefix(name, attributePrefix)
	switch name {
	case "", "data", "data_base64", "id", "specversion", "topic", "pubsubname":
		return "", false
	}
	return name, true
}

// payload returns the data of an event and what it is. given is the content
// type that the caller names, or "". Without one, JSON that stands for a text
// is that text, an object or a list is JSON, and anything else is text as it is
// written.
func payload(op *Operation, given string) (data []byte, contentType string) {
	switch {
	case op.Delete:
		return nil, cmp.Or(given, typeText)
	case !op.JSON:
		return op.Value, cmp.Or(given, typeText)
	}
	media, _, _ := strings.Cut(given, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	if media == typeJSON || strings.HasSuffix(media, "+json") {
		return op.Value, given
	}
	switch value := bytes.TrimSpace(op.Value); {
	case len(value) == 0:
		return nil, cmp.Or(given, typeText)
	case value[0] == '"':
		var text string
		if json.Unmarshal(value, &text) == nil {
			return []byte(text), cmp.Or(given, typeText)
		}
	case value[0] == '{' || value[0] == '[':
		return value, cmp.Or(given, typeJSON)
	}
	return op.Value, cmp.Or(given, typeText)
}

// isTrue reads a flag the way Dapr does.
func isTrue(text string) bool {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "y", "yes", "true", "t", "on", "1":
		return true
	}
	return false
}

func isFalse(text string) bool {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "n", "no", "false", "f", "off", "0":
		return true
	}
	return false
}
