package pubsub

import (
	"net/url"
	"slices"
	"strings"
)

// headerPrefixes mark the metadata entries that hold the attributes of an event
// in the binary content mode of CloudEvents: as the protocol bindings for Kafka
// (section 3.2.3), for HTTP and NATS (3.1.3 of both) and for AMQP (3.1.3.1) have
// them. Their case does not matter.
func headerPrefixes() [4]string { return [...]string{"ce_", "ce-", "cloudEvents:", "cloudEvents_"} }

// headerAttribute returns the attribute that a metadata entry holds in binary
// mode; ok is false for an entry that is something else.
func headerAttribute(entry, value string) (a attribute, ok bool) {
	for _, prefix := range headerPrefixes() {
		if len(entry) <= len(prefix) || !strings.EqualFold(entry[:len(prefix)], prefix) {
			continue
		}
		a = attribute{strings.ToLower(entry[len(prefix):]), value}
		if prefix == "ce-" && strings.Contains(value, "%") { // what headers cannot hold is escaped there
			if plain, err := url.PathUnescape(value); err == nil {
				a.value = plain
			}
		}
		return a, true
	}
	return a, false
}

// header returns the value of an attribute that the metadata hold; "" when they
// do not.
func (d *Delivery) header(name string) string {
	for k, v := range d.Metadata {
		if a, ok := headerAttribute(k, v); ok && a.name == name {
			return a.value
		}
	}
	return ""
}

// isBinaryMode reports whether the attributes of the event are in the metadata
// and the data of the message is the bare payload.
func (d *Delivery) isBinaryMode() bool {
	if len(d.Metadata) == 0 || isType(d.contentType(), ContentTypeCloudEvents) {
		return false
	}
	if d.header(attrSpecVersion) == "" && d.header(attrType) == "" {
		return false
	}
	given := Event{JSON: d.Data}
	return !given.parse() || given.Value(attrSpecVersion) == nil
}

// structured returns the envelope of an event in binary mode.
func (d *Delivery) structured() []byte {
	contentType := d.contentType()
	var attrs []attribute
	for k, v := range d.Metadata {
		a, ok := headerAttribute(k, v)
		if !ok {
			continue
		}
		switch a.name {
		case attrContentType, attrData, attrDataBase64:
		default:
			attrs = append(attrs, a)
		}
	}
	slices.SortFunc(attrs, func(a, b attribute) int { return strings.Compare(a.name, b.name) })
	attrs = slices.CompactFunc(attrs, func(a, b attribute) bool { return a.name == b.name })
	b := append(make([]byte, 0, 400+len(d.Data)*4/3), '{')
	for _, a := range attrs {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = appendString(b, a.name)
		b = append(b, ':')
		b = appendString(b, a.value)
	}
	b = appendAttr(b, attrContentType, contentType)
	if contentType == "" {
		contentType = contentTypeBinary
	}
	return append(appendData(b, d.Data, contentType), '}')
}
