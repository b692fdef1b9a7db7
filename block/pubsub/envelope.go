package pubsub

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/proa-io/proa/fault"
)

// What an envelope says when nobody says otherwise.
const (
	specVersion   = "1.0"
	defaultType   = "com.dapr.event.sent"
	defaultSource = "Dapr"
)

// Keys of publish and subscribe metadata that the block reads. Their case does
// not matter.
const (
	metaRawPayload = "rawPayload"
	metaTTL        = "ttlInSeconds"
	metaTTLAlias   = "ttl"
	metaDeliverAt  = "deliverAt"
	metaDelay      = "delayInSeconds"
	metaDelayAlias = "deliverAfter"
	metaAttribute  = "cloudevent." // a prefix; an attribute's name follows
)

// keyNames are the metadata entries that brokers of different kinds take for
// the key of a message. The first one set counts.
func keyNames() [3]string { return [...]string{"partitionKey", "orderingKey", "__key"} }

// publishOptions are what the metadata of a publish asks for.
type publishOptions struct {
	raw bool
	ttl time.Duration
	key string
	at  time.Time      // when to deliver; zero for not given
	in  *time.Duration // how long to wait; nil for not given

	id, source, typ, subject, time, contentType string
	traceParent, traceState, traceID            string
	expiration                                  string
	custom                                      []attribute // sorted by name
}

type attribute struct{ name, value string }

// readOptions reads the metadata of a publish. of is called for each entry.
func readOptions(metadata map[string]string) (o publishOptions, err error) {
	names := keyNames()
	keyRank := len(names)
	for k, v := range metadata {
		switch {
		case len(k) > len(metaAttribute) && strings.EqualFold(k[:len(metaAttribute)], metaAttribute):
			o.override(k[len(metaAttribute):], v)
		case v == "":
		case strings.EqualFold(k, metaRawPayload):
			if o.raw, err = strconv.ParseBool(v); err != nil {
				return o, badMetadata("%s wants true or false, not %q", metaRawPayload, v)
			}
		case strings.EqualFold(k, metaTTL) || o.ttl == 0 && strings.EqualFold(k, metaTTLAlias):
			if o.ttl, err = parseTTL(v); err != nil {
				return o, err
			}
		case strings.EqualFold(k, metaDeliverAt):
			if o.at, err = time.Parse(time.RFC3339, v); err != nil {
				return o, badMetadata("%s wants a time (RFC 3339, \"2030-01-02T15:04:05Z\"), not %q", metaDeliverAt, v)
			}
		case strings.EqualFold(k, metaDelay) || o.in == nil && strings.EqualFold(k, metaDelayAlias):
			if o.in, err = parseDelay(k, v); err != nil {
				return o, err
			}
		default:
			for rank, name := range names {
				if rank < keyRank && strings.EqualFold(k, name) {
					o.key, keyRank = v, rank
				}
			}
		}
	}
	o.sort()
	return o, nil
}

func (o *publishOptions) sort() {
	slices.SortFunc(o.custom, func(a, b attribute) int { return cmp.Compare(a.name, b.name) })
}

func badMetadata(format string, args ...any) error {
	return fault.New(fault.InvalidArgument, "metadata "+format, args...).WithReason(ReasonMetadata)
}

// maxTTL is as far ahead as an expiration can be written.
const maxTTL = 200 * 365 * 24 * time.Hour

func parseTTL(text string) (time.Duration, error) {
	ttl, err := parseSeconds(text)
	if err != nil || ttl <= 0 {
		return 0, badMetadata("%s wants a positive number of seconds, not %q", metaTTL, text)
	}
	return ttl, nil
}

// parseSeconds reads a number of seconds, or a duration as Go writes it; one
// that is too long becomes the longest.
func parseSeconds(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if n, nerr := strconv.ParseInt(strings.TrimSpace(text), 10, 64); nerr == nil {
		d, err = maxTTL, nil
		if n < int64(maxTTL/time.Second) {
			d = time.Duration(max(n, -1)) * time.Second
		}
	}
	return min(d, maxTTL), err
}

func parseDelay(name, text string) (*time.Duration, error) {
	d, err := parseSeconds(text)
	if err != nil || d < 0 {
		return nil, badMetadata("%s wants a number of seconds, or a duration (\"1h30m\"), not %q", name, text)
	}
	return &d, nil
}

// override takes the value of metadata "cloudevent.<name>". The payload, what
// the event is published to, and the version of the envelope are not open to
// it.
func (o *publishOptions) override(name, value string) {
	for _, a := range [...]struct {
		name string
		to   *string
	}{
		{attrID, &o.id}, {attrSource, &o.source}, {attrType, &o.typ}, {attrSubject, &o.subject}, {attrTime, &o.time},
		{attrContentType, &o.contentType}, {attrTraceParent, &o.traceParent}, {attrTraceState, &o.traceState},
		{attrTraceID, &o.traceID}, {attrExpiration, &o.expiration},
		{attrData, nil}, {attrDataBase64, nil}, {attrTopic, nil}, {attrPubSub, nil}, {attrSpecVersion, nil},
	} {
		if strings.EqualFold(name, a.name) {
			if a.to != nil {
				*a.to = value
			}
			return
		}
	}
	o.custom = append(o.custom, attribute{name, value})
}

// envelope writes a CloudEvents 1.0 event in JSON.
type envelope struct {
	appID, component, topic string
	now                     time.Time
	due                     time.Time // when it is delivered at the earliest; zero for now
	traceParent, traceState string    // of the request
	expires                 bool      // the driver does not keep TTLs
}

// NewEnvelope describes an event that is written down before it is published.
type NewEnvelope struct {
	AppID       string // of who publishes it
	Component   string
	Topic       string
	ID          string
	Data        []byte
	ContentType string // of Data
	// Attributes are set in the envelope in place of what it would have; data,
	// id and where it goes are not open to them.
	Attributes map[string]string
	// TraceParent and TraceState are the W3C trace context.
	TraceParent, TraceState string
}

// Write returns the envelope as Publish would write it now: the payload of a
// PublishRequest of type ContentTypeCloudEvents.
func (n *NewEnvelope) Write() []byte {
	o := publishOptions{id: n.ID}
	for name, value := range n.Attributes {
		if !strings.EqualFold(name, attrID) {
			o.override(name, value)
		}
	}
	o.sort()
	v := envelope{
		appID: n.AppID, component: n.Component, topic: n.Topic, now: time.Now(), traceParent: n.TraceParent, traceState: n.TraceState,
	}
	return v.wrap(n.Data, n.ContentType, &o)
}

// wrap returns data in an envelope.
//
// A payload of type application/json that is JSON becomes data as it stands,
// to the byte, so that numbers keep their digits. One that is not, and any
// other text, becomes a string. Bytes of type application/octet-stream or
// application/cloudevents+protobuf, and text that is not UTF-8 and would not
// survive as a string, become data_base64.
func (v *envelope) wrap(data []byte, contentType string, o *publishOptions) []byte {
	contentType = cmp.Or(contentType, contentTypeText)
	parent := cmp.Or(o.traceParent, o.traceID, v.traceParent)
	b := make([]byte, 0, v.sizeOf(data, contentType, o))
	b = append(b, `{"id":`...)
	b = appendID(b, o.id)
	b = appendAttr(b, attrSource, cmp.Or(o.source, v.appID, defaultSource))
	b = append(b, `,"specversion":"`+specVersion+`"`...)
	b = appendAttr(b, attrType, cmp.Or(o.typ, defaultType))
	b = appendAttr(b, attrContentType, cmp.Or(o.contentType, contentType))
	b = appendAttr(b, attrSubject, o.subject)
	b = v.appendTime(b, o.time)
	b = appendAttr(b, attrTopic, v.topic)
	b = appendAttr(b, attrPubSub, v.component)
	b = appendAttr(b, attrTraceID, parent)
	b = appendAttr(b, attrTraceParent, parent)
	b = appendAttr(b, attrTraceState, cmp.Or(o.traceState, v.traceState))
	b = v.appendExpiration(b, o)
	for _, a := range o.custom {
		b = append(b, ',')
		b = appendString(b, a.name)
		b = append(b, ':')
		b = appendString(b, a.value)
	}
	return append(appendData(b, data, contentType), '}')
}

// sizeOf bounds the length of what wrap writes, but for escapes.
func (v *envelope) sizeOf(data []byte, contentType string, o *publishOptions) int {
	const fixed = 400
	n := fixed + len(data) + len(contentType) + len(o.contentType) + len(o.id) + len(o.source) + len(v.appID) + len(o.typ) +
		len(o.subject) + len(o.time) + len(v.topic) + len(v.component) +
		2*max(len(o.traceParent), len(o.traceID), len(v.traceParent)) + max(len(o.traceState), len(v.traceState)) + len(o.expiration)
	for _, a := range o.custom {
		n += len(a.name) + len(a.value) + 6
	}
	if isBinary(contentType) {
		n += len(data)/3 + 4
	}
	return n
}

func isBinary(contentType string) bool {
	return isType(contentType, contentTypeBinary) || isType(contentType, contentTypeProtobuf)
}

// appendAttr appends a member of an object that has one already; nothing for
// an empty value.
func appendAttr(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return appendString(b, value)
}

// appendID appends the id attribute's value, a random UUID when it is empty.
func appendID(b []byte, id string) []byte {
	if id != "" {
		return appendString(b, id)
	}
	b = append(b, '"')
	b = appendUUID(b)
	return append(b, '"')
}

// appendUUID appends a version 4 UUID (RFC 9562).
func appendUUID(b []byte) []byte {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	for i, part := range [...][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b
}

func newUUID() string { return string(appendUUID(make([]byte, 0, 36))) }

func (v *envelope) appendTime(b []byte, given string) []byte {
	if given != "" {
		return appendAttr(b, attrTime, given)
	}
	b = append(b, `,"time":"`...)
	b = v.now.UTC().AppendFormat(b, time.RFC3339)
	return append(b, '"')
}

func (v *envelope) appendExpiration(b []byte, o *publishOptions) []byte {
	if o.expiration != "" {
		return appendAttr(b, attrExpiration, o.expiration)
	}
	if o.ttl == 0 || !v.expires {
		return b
	}
	from := v.now
	if v.due.After(from) {
		from = v.due
	}
	b = append(b, `,"expiration":"`...)
	b = from.UTC().Add(o.ttl).AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	return append(b, '"')
}

func appendData(b, data []byte, contentType string) []byte {
	json := isType(contentType, contentTypeJSON)
	switch {
	case isBinary(contentType), !json && !utf8.Valid(data):
		b = append(b, `,"data_base64":`...)
		return appendBytes(b, data)
	case json && isJSON(data):
		b = append(b, `,"data":`...)
		return append(b, trimSpace(data)...)
	case !utf8.Valid(data):
		b = append(b, `,"data_base64":`...)
		return appendBytes(b, data)
	}
	b = append(b, `,"data":`...)
	return appendString(b, string(data))
}

func trimSpace(data []byte) []byte {
	data = data[skipSpace(data, 0):]
	for len(data) > 0 && skipSpace(data, len(data)-1) == len(data) {
		data = data[:len(data)-1]
	}
	return data
}

// passThrough returns an envelope that the publisher made, with the topic and
// component it is published to and with what it lacks filled in. What else is
// in it stays as it is, to the byte.
func (v *envelope) passThrough(event []byte, o *publishOptions) ([]byte, error) {
	given := Event{JSON: event}
	if !utf8.Valid(event) || !given.parse() {
		return nil, fault.New(fault.InvalidArgument, "the payload is of type %s but is not a JSON object", ContentTypeCloudEvents).
			WithReason(ReasonEnvelope)
	}
	lacks := func(name string) bool {
		value := given.Value(name)
		return value == nil || string(value) == "null"
	}
	force := func(name string) bool {
		return name == attrTopic || name == attrPubSub || name == attrExpiration && o.ttl != 0 && v.expires
	}
	b := make([]byte, 0, len(event)+300+len(v.topic)+len(v.component))
	b = append(b, `{"pubsubname":`...)
	b = appendString(b, v.component)
	b = appendAttr(b, attrTopic, v.topic)
	b = given.appendMembers(b, func(name string) bool { return !force(name) && !(isFilled(name) && lacks(name)) })
	if lacks(attrID) {
		b = append(b, `,"id":`...)
		b = appendID(b, "")
	}
	for _, fill := range [...]attribute{
		{attrSource, cmp.Or(v.appID, defaultSource)}, {attrType, defaultType}, {attrSpecVersion, specVersion},
		{attrTraceID, v.traceParent}, {attrTraceParent, v.traceParent}, {attrTraceState, v.traceState},
	} {
		if lacks(fill.name) {
			b = appendAttr(b, fill.name, fill.value)
		}
	}
	if lacks(attrTime) {
		b = v.appendTime(b, "")
	}
	return append(v.appendExpiration(b, &publishOptions{ttl: o.ttl}), '}'), nil
}

// isFilled reports whether passThrough gives the attribute a value when it has
// none.
func isFilled(name string) bool {
	switch name {
	case attrID, attrSource, attrType, attrSpecVersion, attrTraceID, attrTraceParent, attrTraceState, attrTime:
		return true
	}
	return false
}

// appendMembers appends those members of the envelope that keep accepts.
func (e *Event) appendMembers(b []byte, keep func(name string) bool) []byte {
	for _, m := range e.members {
		if !keep(e.name(m)) {
			continue
		}
		b = append(b, ',', '"')
		b = append(b, e.JSON[m.nameStart:m.nameEnd]...)
		b = append(b, '"', ':')
		b = append(b, e.JSON[m.start:m.end]...)
	}
	return b
}

// wrapRaw returns a bare payload from the broker in an envelope for the
// application. Its id is new with every delivery.
func wrapRaw(component string, d *Delivery) []byte {
	b := make([]byte, 0, 300+len(d.Data)*4/3+len(component)+len(d.Topic))
	b = append(b, `{"id":`...)
	b = appendID(b, "")
	b = append(b, `,"source":"`+defaultSource+`","specversion":"`+specVersion+`","type":"`+defaultType+
		`","datacontenttype":"`+contentTypeBinary+`"`...)
	b = appendAttr(b, attrTopic, d.Topic)
	b = appendAttr(b, attrPubSub, component)
	parent := cmp.Or(d.Metadata[attrTraceParent], d.Metadata[attrTraceID])
	b = appendAttr(b, attrTraceID, parent)
	b = appendAttr(b, attrTraceParent, parent)
	b = appendAttr(b, attrTraceState, d.Metadata[attrTraceState])
	b = append(b, `,"data_base64":`...)
	return append(appendBytes(b, d.Data), '}')
}

// lookup finds a metadata entry without regard to the case of its name.
func lookup(metadata map[string]string, name string) (string, bool) {
	if v, ok := metadata[name]; ok {
		return v, true
	}
	for k, v := range metadata {
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return "", false
}
