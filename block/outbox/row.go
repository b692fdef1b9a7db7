package outbox

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"

	"github.com/proa-io/proa/fault"
)

// A row holds what one transaction publishes. It is written in that
// transaction, so it is there exactly when the transaction has happened, and is
// deleted once all of it is published.
//
// Its value is a version byte, the time stamp (varint, microseconds since 1970),
// the number of messages (uvarint) and, for each of them, five texts with their
// lengths before them (uvarint): component, topic, key, id and envelope. It is
// no JSON on purpose: stores that know JSON may write it anew in their own way.
const rowVersion = 1

// Bounds of what decodeRow accepts.
const maxMessages = 1 << 20

// Message is an event that is ready to be published.
type Message struct {
	PubSub, Topic string
	// Key is what the order of messages depends on.
	Key string
	// ID is the id of the event.
	ID string
	// Envelope is the whole event, a CloudEvent in JSON.
	Envelope []byte
}

func encodeRow(stamp int64, messages []Message) []byte {
	size := 1 + 2*binary.MaxVarintLen64
	for i := range messages {
		m := &messages[i]
		size += 5*binary.MaxVarintLen32 + len(m.PubSub) + len(m.Topic) + len(m.Key) + len(m.ID) + len(m.Envelope)
	}
	b := append(make([]byte, 0, size), rowVersion)
	b = binary.AppendVarint(b, stamp)
	b = binary.AppendUvarint(b, uint64(len(messages)))
	for i := range messages {
		m := &messages[i]
		for _, text := range [...]string{m.PubSub, m.Topic, m.Key, m.ID} {
			b = binary.AppendUvarint(b, uint64(len(text)))
			b = append(b, text...)
		}
		b = binary.AppendUvarint(b, uint64(len(m.Envelope)))
		b = append(b, m.Envelope...)
	}
	return b
}

// decodeRow reads what encodeRow writes. The envelopes are parts of b.
func decodeRow(b []byte) (stamp int64, messages []Message, err error) {
	d := decoder{rest: b}
	if v := d.byte(); v != rowVersion && !d.bad {
		return 0, nil, fault.New(fault.Internal, "a row of the outbox is of version %d, which this program does not know", v)
	}
	stamp = d.varint()
	n := d.uvarint()
	if n > maxMessages {
		d.bad = true
	}
	for ; n > 0 && !d.bad; n-- {
		m := Message{PubSub: string(d.text()), Topic: string(d.text()), Key: string(d.text()), ID: string(d.text())}
		m.Envelope = d.text()
		messages = append(messages, m)
	}
	if d.bad || len(d.rest) > 0 {
		return 0, nil, fault.New(fault.Internal, "a row of the outbox cannot be read")
	}
	return stamp, messages, nil
}

// decoder reads a row piece by piece. Once bad, it returns zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.bad = true
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	return took(d, v, n)
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	return took(d, v, n)
}

func took[T any](d *decoder, v T, n int) T {
	if n <= 0 || d.bad {
		d.bad = true
		var zero T
		return zero
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) text() []byte {
	n := d.uvarint()
	if d.bad || n > uint64(len(d.rest)) {
		d.bad = true
		return nil
	}
	text := d.rest[:n:n]
	d.rest = d.rest[n:]
	return text
}

// newUUID returns a version 4 UUID (RFC 9562).
func newUUID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	b := make([]byte, 0, 36)
	for i, part := range [...][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return string(b)
}

// newID returns a name that no other process has.
func newID() string {
	var u [8]byte
	_, _ = rand.Read(u[:]) // never fails
	return hex.EncodeToString(u[:])
}
