package kafka

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// Metadata that the broker, not the publisher, gives to a message, as Dapr
// names it. What a publisher says under these names is not kept.
const (
	metaKey       = "__key"
	metaTopic     = "__topic"
	metaPartition = "__partition"
	metaOffset    = "__offset"
	metaTimestamp = "__timestamp" // milliseconds since 1970
)

// Metadata of a publish that the driver reads.
const (
	metaPartitionNumber = "partitionNumber"
	metaSchemaType      = "valueSchemaType"
)

// null is the payload that stands for a record without a value, which marks a
// key as deleted in a compacted topic.
const null = "null"

// anyPartition lets the partitioner choose.
const anyPartition = -1

// format turns messages into records and back.
type format struct {
	excluded *regexp.Regexp // names of headers that are no metadata; nil for none
	escape   bool
}

// record returns the record of a message.
func (f format) record(name string, m *pubsub.Message) (*kgo.Record, error) {
	r := &kgo.Record{Topic: name, Value: m.Data, Partition: anyPartition}
	switch {
	case string(m.Data) == null:
		r.Value = nil
	case m.Data == nil:
		r.Value = []byte{}
	}
	if m.Key != "" {
		r.Key = []byte(m.Key)
	}
	for name, value := range m.Metadata {
		switch {
		case name == metaKey, name == metaTopic, name == metaPartition, name == metaOffset, name == metaTimestamp:
			continue
		case strings.EqualFold(name, metaPartitionNumber) && value != "":
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil || n < 0 {
				return nil, fault.New(fault.InvalidArgument, "metadata %s wants the number of a partition, not %q", metaPartitionNumber, value)
			}
			r.Partition = int32(n)
		case strings.EqualFold(name, metaSchemaType):
			if err := checkSchema(value); err != nil {
				return nil, err
			}
		}
		if f.excluded == nil || !f.excluded.MatchString(name) {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
		}
	}
	// A map has no order; what is stored should not depend on chance.
	slices.SortFunc(r.Headers, func(a, b kgo.RecordHeader) int { return strings.Compare(a.Key, b.Key) })
	return r, nil
}

// checkSchema refuses messages that are to be encoded with a schema.
func checkSchema(kind string) error {
	if kind == "" || strings.EqualFold(kind, "none") {
		return nil
	}
	return fault.New(fault.InvalidArgument, "metadata %s %q is not supported: messages are not encoded with schemas", metaSchemaType, kind)
}

// data returns the payload of a record.
func data(r *kgo.Record) []byte {
	if r.Value == nil {
		return []byte(null)
	}
	return r.Value
}

// metadata returns what goes along with a record: its headers, and what the
// broker says of it.
func (f format) metadata(r *kgo.Record) map[string]string {
	const ours = 5
	out := make(map[string]string, len(r.Headers)+ours)
	for _, h := range r.Headers {
		if f.excluded == nil || !f.excluded.MatchString(h.Key) {
			out[h.Key] = f.escaped(h.Value)
		}
	}
	if r.Key != nil {
		out[metaKey] = f.escaped(r.Key)
	}
	out[metaTopic] = r.Topic
	out[metaPartition] = strconv.Itoa(int(r.Partition))
	out[metaOffset] = strconv.FormatInt(r.Offset, 10)
	out[metaTimestamp] = strconv.FormatInt(r.Timestamp.UnixMilli(), 10)
	return out
}

func (f format) escaped(value []byte) string {
	if f.escape {
		return url.QueryEscape(string(value))
	}
	return string(value)
}

// recordID names a record for logs.
func recordID(r *kgo.Record) string {
	return strconv.Itoa(int(r.Partition)) + "-" + strconv.FormatInt(r.Offset, 10)
}
