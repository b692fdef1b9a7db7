package rabbitmq

import (
	"fmt"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// Properties of a message that the metadata of a publish sets, and under which
// names they show in the metadata of a delivery.
const (
	metaMessageID     = "messageId"
	metaCorrelationID = "correlationId"
	metaContentType   = "contentType"
	metaType          = "type"
	metaPriority      = "priority"

	propMessageID     = "messageid"
	propCorrelationID = "correlationid"
	propContentType   = "contenttype"
	propType          = "type"
)

// headerDeliveries is how often a quorum queue has delivered a message without
// success.
const headerDeliveries = "x-delivery-count"

// routingKey returns the key that a message is routed by.
func (c *PubSubConfig) routingKey(m *pubsub.Message) string {
	key := lookup(m.Metadata, metaRoutingKey)
	if key == "" && c.ExchangeKind == kindConsistentHash {
		return m.Key
	}
	return key
}

// parcel turns a message into what is published.
func (c *PubSubConfig) parcel(m *pubsub.Message) (parcel, error) {
	message, err := c.encode(m)
	return parcel{nameOf(m.Topic), c.routingKey(m), message}, err
}

func (c *PubSubConfig) encode(m *pubsub.Message) (amqp.Publishing, error) {
	out := amqp.Publishing{
		ContentType: m.ContentType, Body: m.Data, DeliveryMode: c.deliveryMode(), Expiration: expiration(m.TTL),
	}
	if m.TTL <= 0 && c.TTL > 0 {
		out.Expiration = expiration(c.TTL.Std())
	}
	if err := setProperties(&out, m.Metadata); err != nil {
		return out, err
	}
	if len(m.Metadata) > 0 {
		out.Headers = make(amqp.Table, len(m.Metadata))
		for k, v := range m.Metadata {
			out.Headers[k] = v
		}
	}
	return out, nil
}

// expiration writes a time to live as the server wants it: whole milliseconds.
func expiration(ttl time.Duration) string {
	if ttl <= 0 {
		return ""
	}
	return strconv.FormatInt(max(1, ttl.Milliseconds()), 10)
}

// setProperties sets what the metadata says of a message.
func setProperties(out *amqp.Publishing, metadata map[string]string) error {
	if len(metadata) == 0 {
		return nil
	}
	for _, p := range []struct {
		name string
		to   *string
	}{
		{metaMessageID, &out.MessageId}, {metaCorrelationID, &out.CorrelationId}, {metaType, &out.Type}, {metaContentType, &out.ContentType},
	} {
		if v := lookup(metadata, p.name); v != "" {
			*p.to = v
		}
	}
	var err error
	out.Priority, err = priorityOf(metadata)
	return err
}

func priorityOf(metadata map[string]string) (uint8, error) {
	text := lookup(metadata, metaPriority)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, invalid(metaPriority, "wants a number from 0 to 255, not %q", text)
	}
	return uint8(min(n, 255)), nil //nolint:gosec // it is not more
}

// check refuses a message that the protocol has no room for, which would cost
// the connection: frame is the size of the connection's frames, and all
// properties must be in one.
func check(p *parcel, frame int) error {
	m := &p.message
	for _, s := range []struct{ name, text string }{
		{metaRoutingKey, p.key}, {metaMessageID, m.MessageId}, {metaCorrelationID, m.CorrelationId}, {metaType, m.Type},
		{"content type", m.ContentType},
	} {
		if len(s.text) > maxName {
			return invalid(s.name, "has %d bytes; rabbitmq takes %d at most", len(s.text), maxName)
		}
	}
	const rest = 64 // of the frame: lengths, flags and numbers
	size := rest + len(m.MessageId) + len(m.CorrelationId) + len(m.Type) + len(m.ContentType) + len(m.Expiration)
	for k, v := range m.Headers {
		if len(k) > maxName {
			return invalid(fmt.Sprintf("%.20q...", k), "has a name of %d bytes; rabbitmq takes %d at most", len(k), maxName)
		}
		text, _ := v.(string)
		size += len(k) + len(text) + 6
	}
	if frame > 0 && size > frame {
		return fault.New(fault.InvalidArgument, "the metadata of the message has %d bytes; rabbitmq takes %d at most", size, frame-rest)
	}
	return nil
}

// decode turns what the server delivers into a delivery.
func (c *PubSubConfig) decode(topic string, d *amqp.Delivery) *pubsub.Delivery {
	out := &pubsub.Delivery{ID: d.MessageId, Attempt: attemptOf(d), Published: d.Timestamp}
	if out.ID == "" {
		out.ID = d.ConsumerTag + "/" + strconv.FormatUint(d.DeliveryTag, 10)
	}
	out.Topic, out.Data, out.ContentType = topic, d.Body, d.ContentType
	out.Metadata = metadataOf(d.Headers)
	if c.PublishMessagePropertiesToMetadata {
		for name, v := range map[string]string{
			propMessageID: d.MessageId, propCorrelationID: d.CorrelationId, propType: d.Type, propContentType: d.ContentType,
		} {
			if v == "" {
				continue
			}
			if out.Metadata == nil {
				out.Metadata = map[string]string{}
			}
			out.Metadata[name] = v
		}
	}
	return out
}

// attemptOf returns which delivery of a message this is, as far as the server
// tells: a classic queue tells only that it is not the first.
func attemptOf(d *amqp.Delivery) int {
	if n, ok := number(d.Headers[headerDeliveries]); ok && n >= 0 && n < 1<<30 {
		return int(n) + 1
	}
	if d.Redelivered {
		return 2
	}
	return 1
}

func number(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case int32:
		return int64(n), true
	case int16:
		return int64(n), true
	case int8:
		return int64(n), true
	case byte:
		return int64(n), true
	case int:
		return int64(n), true
	}
	return 0, false
}

// metadataOf returns headers as metadata. Those that are tables and lists, as
// servers add them, have no form as text and are left out.
func metadataOf(headers amqp.Table) map[string]string {
	if len(headers) == 0 {
		return nil
	}
	out := make(map[string]string, len(headers))
	for k, v := range headers {
		switch v := v.(type) {
		case string:
			out[k] = v
		case []byte:
			out[k] = string(v)
		case time.Time:
			out[k] = v.UTC().Format(time.RFC3339)
		case nil, amqp.Table, []any, amqp.Decimal:
		default:
			if k != headerDeliveries {
				out[k] = fmt.Sprint(v)
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
