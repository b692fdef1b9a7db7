package etcd

import (
	"encoding/binary"
	"time"

	"github.com/proa-io/proa/fault"
)

// A format is how values are written.
type format interface {
	// encode returns what is stored for a value that is written now and lives
	// for ttl, 0 for ever.
	encode(value []byte, now time.Time, ttl time.Duration) []byte
	// decode returns the value and, where the format knows it, when its life
	// ends.
	decode(stored []byte) (value []byte, expires time.Time, err error)
	// knowsExpiry reports whether decode does.
	knowsExpiry() bool
}

// formatV1 stores values as they are. When an item ends only its lease knows.
type formatV1 struct{}

func (formatV1) encode(value []byte, _ time.Time, _ time.Duration) []byte { return value }
func (formatV1) decode(stored []byte) ([]byte, time.Time, error)          { return stored, time.Time{}, nil }
func (formatV1) knowsExpiry() bool                                        { return false }

// formatV2 stores values in a message of Protocol Buffers:
//
//	message Value {
//	  bytes data = 1;
//	  google.protobuf.Timestamp ts = 2;  // when it was written
//	  google.protobuf.Duration ttl = 3;  // how long it lives from then on
//	}
//
// Timestamp and Duration both have the seconds in field 1 and the nanoseconds
// in field 2. Dapr writes a ttl of nothing for what lives for ever.
type formatV2 struct{}

func (formatV2) knowsExpiry() bool { return true }

func (formatV2) encode(value []byte, now time.Time, ttl time.Duration) []byte {
	out := make([]byte, 0, len(value)+48)
	if len(value) > 0 {
		out = appendBytes(out, 1, value)
	}
	out = appendBytes(out, 2, appendTime(nil, now.Unix(), int64(now.Nanosecond())))
	if ttl > 0 {
		out = appendBytes(out, 3, appendTime(nil, int64(ttl/time.Second), int64(ttl%time.Second)))
	}
	return out
}

func (formatV2) decode(stored []byte) ([]byte, time.Time, error) {
	var value []byte
	var at, ttl moment
	err := eachField(stored, func(f field) (err error) {
		switch f.number {
		case 1:
			value, err = f.wantBytes()
		case 2:
			err = at.read(f)
		case 3:
			err = ttl.read(f)
		}
		return err
	})
	if err != nil {
		return nil, time.Time{}, err
	}
	if value == nil {
		value = []byte{}
	}
	if ttl.seconds <= 0 && ttl.nanos <= 0 {
		return value, time.Time{}, nil
	}
	return value, time.Unix(at.seconds+ttl.seconds, at.nanos+ttl.nanos), nil
}

// moment is a Timestamp or a Duration.
type moment struct{ seconds, nanos int64 }

func (m *moment) read(f field) error {
	message, err := f.wantBytes()
	if err != nil {
		return err
	}
	return eachField(message, func(f field) error {
		switch {
		case f.number > 2:
			return nil
		case f.bytes != nil:
			return errNoItem()
		case f.number == 1:
			m.seconds = int64(f.varint)
		case f.number == 2:
			m.nanos = int64(f.varint)
		}
		return nil
	})
}

func errNoItem() error {
	return fault.New(fault.FailedPrecondition, "etcd holds something at this key that is no item of format v2: was it written by version v1 of the component?")
}

// Wire types of Protocol Buffers.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

// field is one field of a message.
type field struct {
	number uint64
	varint uint64
	bytes  []byte // not nil for a field of wire type 2
}

func (f field) wantBytes() ([]byte, error) {
	if f.bytes == nil {
		return nil, errNoItem()
	}
	return f.bytes, nil
}

// eachField calls fn for every field of a message but those of fixed size,
// which no message here has.
func eachField(message []byte, fn func(field) error) error {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 || tag>>3 == 0 {
			return errNoItem()
		}
		message = message[n:]
		f := field{number: tag >> 3}
		switch tag & 7 {
		case wireVarint:
			if f.varint, n = binary.Uvarint(message); n <= 0 {
				return errNoItem()
			}
		case wireBytes:
			size, head := binary.Uvarint(message)
			if head <= 0 || size > uint64(len(message)-head) {
				return errNoItem()
			}
			n = head + int(size)
			f.bytes = message[head:n:n]
		case wire64, wire32:
			n = 4
			if tag&7 == wire64 {
				n = 8
			}
			if len(message) < n {
				return errNoItem()
			}
			message = message[n:]
			continue
		default:
			return errNoItem()
		}
		message = message[n:]
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

func appendBytes(to []byte, number uint64, value []byte) []byte {
	to = binary.AppendUvarint(to, number<<3|wireBytes)
	to = binary.AppendUvarint(to, uint64(len(value)))
	return append(to, value...)
}

// appendTime leaves out what is 0, as Protocol Buffers do.
func appendTime(to []byte, seconds, nanos int64) []byte {
	for i, v := range []int64{seconds, nanos} {
		if v != 0 {
			to = binary.AppendUvarint(to, uint64(i+1)<<3|wireVarint)
			to = binary.AppendUvarint(to, uint64(v))
		}
	}
	return to
}
