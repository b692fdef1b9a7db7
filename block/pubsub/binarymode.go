package pubsub

import (
	"slices"
	"strings"
)

// headerPrefix marks the metadata entries that hold the attributes of an event
// in the binary content mode of the Kafka protocol binding of CloudEvents.
const headerPrefix = "ce_"

// isBinaryMode reports whether the attributes of the event are in the metadata
// and the data of the message is the bare payload.
func (d *Delivery) isBinaryMode() bool {
	if len(d.Metadata) == 0 || isType(d.contentType(), ContentTypeCloudEvents) {
		return false
	}
	_, version := lookup(d.Metadata, headerPrefix+attrSpecVersion)
	_, typ := lookup(d.Metadata, headerPrefix+attrType)
	if !version && !typ {
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
		if len(k) <= len(headerPrefix) || !strings.EqualFold(k[:len(headerPrefix)], headerPrefix) {
			continue
		}
		switch name := strings.ToLower(k[len(headerPrefix):]); name {
		case attrContentType, attrData, attrDataBase64:
		default:
			attrs = append(attrs, attribute{name, v})
		}
	}
	slices.SortFunc(attrs, func(a, b attribute) int { return strings.Compare(a.name, b.name) })
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
