package nats

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// Headers of a message. Metadata is written as headers of its own names; what
// headers cannot hold is in headerOdd, as the JSON of an oddities.
const (
	headerContentType = "Content-Type"
	headerKey         = "Proa-Key"
	headerOdd         = "Proa-Metadata"
	headerReserved    = "Nats-" // what begins so belongs to the server
)

// oddities is what does not fit into headers of its own.
type oddities struct {
	ContentType string            `json:"contentType,omitempty"`
	Key         string            `json:"key,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
}

// encode turns a message into what is published at a place.
func encode(at *place, m *pubsub.Message) (*nats.Msg, error) {
	if !at.own && strings.ContainsAny(at.subject, "*> \t\r\n") {
		return nil, fault.New(fault.InvalidArgument, "%q is no subject to publish to", at.subject)
	}
	out := &nats.Msg{Subject: at.subject, Data: m.Data}
	if m.ContentType == "" && m.Key == "" && len(m.Metadata) == 0 && at.own {
		return out, nil
	}
	out.Header = make(nats.Header, len(m.Metadata)+2)
	var odd oddities
	set := func(name, value string) bool {
		if !isHeaderValue(value) {
			return false
		}
		out.Header[name] = []string{value}
		return true
	}
	if m.ContentType != "" && !set(headerContentType, m.ContentType) {
		odd.ContentType = m.ContentType
	}
	if m.Key != "" && !set(headerKey, m.Key) {
		odd.Key = m.Key
	}
	for k, v := range m.Metadata {
		if isHeaderName(k) && set(k, v) {
			continue
		}
		if odd.Metadata == nil {
			odd.Metadata = map[string]string{}
		}
		odd.Metadata[k] = v
	}
	if odd.ContentType != "" || odd.Key != "" || odd.Metadata != nil {
		text, err := json.Marshal(odd)
		if err != nil {
			return nil, fault.Wrap(err, fault.Internal, "encode metadata")
		}
		out.Header[headerOdd] = []string{string(text)}
	}
	if !at.own {
		setEventID(out)
	}
	return out, nil
}

// setEventID makes a stream that others look after drop a message that it has
// had: it goes by the id of the event, as with Dapr.
func setEventID(m *nats.Msg) {
	var event struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(m.Data, &event) == nil && event.ID != "" && isHeaderValue(event.ID) {
		m.Header[jetstream.MsgIDHeader] = []string{event.ID}
	}
}

// isHeaderName reports whether a metadata entry can be a header of its own
// name.
func isHeaderName(name string) bool {
	if name == "" || name == headerContentType || name == headerKey || name == headerOdd ||
		len(name) >= len(headerReserved) && strings.EqualFold(name[:len(headerReserved)], headerReserved) {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// isHeaderValue reports whether a value survives as a header's: it is printable
// ASCII and does not begin or end with a blank.
func isHeaderValue(v string) bool {
	for i := range len(v) {
		if v[i] < ' ' || v[i] > '~' {
			return false
		}
	}
	return v == "" || v[0] != ' ' && v[len(v)-1] != ' '
}

// decode turns what the server delivers into a delivery.
func (p *PubSub) decode(topic string, m *nats.Msg) (*pubsub.Delivery, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "the server delivered something that is no message of a stream")
	}
	d := p.content(topic, m)
	d.ID, d.Attempt, d.Published = strconv.FormatUint(meta.Sequence.Stream, 10), int(min(meta.NumDelivered, 1<<31)), meta.Timestamp
	return d, nil
}

// content returns the delivery of what a message holds.
func (p *PubSub) content(topic string, m *nats.Msg) *pubsub.Delivery {
	d := &pubsub.Delivery{}
	d.Topic, d.Data = topic, m.Data
	for k, values := range m.Header {
		switch {
		case len(values) == 0:
		case k == headerContentType:
			d.ContentType = values[0]
		case k == headerKey:
			d.Key = values[0]
		case k == headerOdd:
			p.decodeOdd(d, values[0])
		case !strings.HasPrefix(k, headerReserved):
			setMetadata(d, k, values[0])
		}
	}
	return d
}

func setMetadata(d *pubsub.Delivery, k, v string) {
	if d.Metadata == nil {
		d.Metadata = map[string]string{}
	}
	d.Metadata[k] = v
}

func (p *PubSub) decodeOdd(d *pubsub.Delivery, text string) {
	var odd oddities
	if err := json.Unmarshal([]byte(text), &odd); err != nil {
		p.log.Warn("the metadata of a message cannot be read and is left out", "topic", d.Topic, "message_id", d.ID)
		return
	}
	if odd.ContentType != "" {
		d.ContentType = odd.ContentType
	}
	if odd.Key != "" {
		d.Key = odd.Key
	}
	for k, v := range odd.Metadata {
		setMetadata(d, k, v)
	}
}
