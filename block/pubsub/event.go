package pubsub

import (
	"cmp"
	"encoding/base64"
	"iter"
	"strings"
	"time"
)

// Names of the attributes of an event envelope, from the CloudEvents 1.0
// specification and, from traceid on, from the Dapr API.
const (
	attrID          = "id"
	attrSpecVersion = "specversion"
	attrType        = "type"
	attrSource      = "source"
	attrSubject     = "subject"
	attrTime        = "time"
	attrContentType = "datacontenttype"
	attrData        = "data"
	attrDataBase64  = "data_base64"
	attrTraceID     = "traceid"
	attrTraceParent = "traceparent"
	attrTraceState  = "tracestate"
	attrTopic       = "topic"
	attrPubSub      = "pubsubname"
	attrExpiration  = "expiration"
)

// Content types with a meaning of their own.
const (
	// ContentTypeCloudEvents marks a payload that is an envelope itself.
	ContentTypeCloudEvents = "application/cloudevents+json"
	contentTypeJSON        = "application/json"
	contentTypeText        = "text/plain"
	contentTypeBinary      = "application/octet-stream"
	contentTypeProtobuf    = "application/cloudevents+protobuf"
)

// isType reports whether a content type is the named one, with or without
// parameters. Case does not matter.
func isType(contentType, name string) bool {
	base, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(base), name)
}

// Event is one message as the application gets it: a CloudEvents envelope in
// JSON, scanned but not decoded. It is read-only and safe for concurrent use.
type Event struct {
	// JSON is the whole envelope. For a subscription to enveloped messages
	// these are the very bytes that came from the broker.
	JSON []byte
	// Raw is the payload of a message that came without an envelope, for a
	// subscription with rawPayload; nil otherwise.
	Raw []byte
	// Component is what was subscribed to, and Topic where the message came
	// from: with a subscription to several topics by a wildcard, the very one.
	// The envelope may say otherwise.
	Component, Topic string
	// Metadata is what the publisher sent along, as far as the broker keeps
	// it. May be nil.
	Metadata map[string]string
	// Attempt counts the deliveries by the broker, from 1; 0 when unknown.
	Attempt int

	contentType string // of the broker's message
	members     []member
	inline      [16]member
}

// parse scans e.JSON. It reports whether that is a JSON object.
func (e *Event) parse() bool {
	e.members = e.inline[:0]
	return scanObject(e.JSON, func(m member) { e.members = append(e.members, m) })
}

// entryType returns the content type of the event as an entry of a batch.
func (e *Event) entryType() string {
	if e.Raw == nil {
		return ContentTypeCloudEvents
	}
	return cmp.Or(e.contentType, contentTypeBinary)
}

func (e *Event) name(m member) string {
	name := e.JSON[m.nameStart:m.nameEnd]
	for _, c := range name {
		if c == '\\' {
			s, _ := unquote(e.JSON[m.nameStart-1 : m.nameEnd+1])
			return s
		}
	}
	return string(name)
}

// Value returns an attribute as JSON; nil when there is none.
func (e *Event) Value(name string) []byte {
	for i := len(e.members) - 1; i >= 0; i-- { // the last of equal names counts
		m := e.members[i]
		if string(e.JSON[m.nameStart:m.nameEnd]) == name {
			return e.JSON[m.start:m.end]
		}
	}
	return nil
}

// Text returns an attribute that is a string; "" when there is none or it is
// something else.
func (e *Event) Text(name string) string {
	s, _ := unquote(e.Value(name))
	return s
}

// ID returns the id attribute.
func (e *Event) ID() string { return e.Text(attrID) }

// Source returns the source attribute.
func (e *Event) Source() string { return e.Text(attrSource) }

// Type returns the type attribute.
func (e *Event) Type() string { return e.Text(attrType) }

// SpecVersion returns the specversion attribute.
func (e *Event) SpecVersion() string { return e.Text(attrSpecVersion) }

// DataContentType returns the datacontenttype attribute. Data in JSON without
// one are application/json (CloudEvents 1.0, JSON format, section 3.1).
func (e *Event) DataContentType() string {
	if s := e.Text(attrContentType); s != "" {
		return s
	}
	if value := e.Value(attrData); value != nil && string(value) != "null" {
		return contentTypeJSON
	}
	return ""
}

// TraceParent returns the W3C trace context that the event was published in:
// the traceparent attribute, else the older traceid, else what the broker's
// metadata says.
func (e *Event) TraceParent() string {
	for _, name := range [...]string{attrTraceParent, attrTraceID} {
		if s := e.Text(name); s != "" {
			return s
		}
	}
	if s := e.Metadata[attrTraceParent]; s != "" {
		return s
	}
	return e.Metadata[attrTraceID]
}

// TraceState returns the W3C trace state that belongs to TraceParent.
func (e *Event) TraceState() string {
	if s := e.Text(attrTraceState); s != "" {
		return s
	}
	return e.Metadata[attrTraceState]
}

// Data returns the payload: the JSON text for a JSON content type, the text of
// any other string, and the bytes behind data_base64. It may be a part of
// e.JSON and must not be changed.
func (e *Event) Data() []byte {
	value := e.Value(attrData)
	if value == nil || string(value) == "null" {
		return e.binaryData()
	}
	contentType := e.DataContentType()
	if isType(contentType, contentTypeJSON) || isType(contentType, ContentTypeCloudEvents) {
		return value
	}
	if text, ok := unquote(value); ok {
		return []byte(text)
	}
	return value
}

func (e *Event) binaryData() []byte {
	text, ok := unquote(e.Value(attrDataBase64))
	if !ok {
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	return data
}

// Attributes yields the name and JSON value of every attribute, the payload
// included, in the order of the envelope.
func (e *Event) Attributes() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, m := range e.members {
			if !yield(e.name(m), e.JSON[m.start:m.end]) {
				return
			}
		}
	}
}

// expired reports whether the envelope says that the event is not worth
// delivering any more. An expiration that is no RFC 3339 time means nothing.
func (e *Event) expired(now time.Time) bool {
	text := e.Text(attrExpiration)
	if text == "" {
		return false
	}
	at, err := time.Parse(time.RFC3339, text)
	return err == nil && at.Before(now)
}

// NewEvent returns the event of a topic with the given envelope, as deliveries
// make it. ok is false when the envelope is no JSON object. The event keeps
// envelope, which must not change any more.
func NewEvent(component, topic string, envelope []byte) (e *Event, ok bool) {
	e = &Event{JSON: envelope, Component: component, Topic: topic}
	return e, e.parse()
}
