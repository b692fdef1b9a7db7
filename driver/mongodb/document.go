package mongodb

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/textkey"
)

// The fields of a document. Dapr has all but the last two.
const (
	fieldID    = "_id"
	fieldValue = "value"
	fieldETag  = "_etag"
	fieldTTL   = "_ttl"
	fieldExact = "_exact" // see exact
	fieldCheck = "_check" // changes when a transaction depends on the item
)

// document is an item as it is stored. The value is a string of its bytes; when
// they are not UTF-8, binary data; and when a write says that they are JSON and
// they are an object, that as a document, which queries see into.
type document struct {
	ID    string        `bson:"_id"`
	Value bson.RawValue `bson:"value"`
	ETag  string        `bson:"_etag"`
	TTL   *time.Time    `bson:"_ttl"` // null for never, which Dapr wants there
	Exact *exact        `bson:"_exact,omitempty"`
}

// exact is the text of a value that is a document, when it is not what the
// document is read as. It counts for the version with the etag: Dapr does not
// know it and leaves it there when it overwrites the item.
type exact struct {
	ETag string `bson:"etag"`
	Text string `bson:"text"`
}

// newDocument returns an item as it is stored.
func newDocument(key string, value []byte, etag string, opt *state.PutOptions, now time.Time) (*document, error) {
	d := &document{ID: textkey.Encode(key), ETag: etag}
	if opt.TTL > 0 {
		at := now.Add(opt.TTL)
		d.TTL = &at
	}
	if isJSON(opt.Metadata) {
		if doc, ok := parseObject(value); ok {
			typ, data, err := bson.MarshalValue(doc)
			if err != nil {
				return nil, fault.Wrap(err, fault.InvalidArgument, "the value cannot be stored as a document")
			}
			d.Value = bson.RawValue{Type: typ, Value: data}
			if text, err := objectText(d.Value); err != nil || !bytes.Equal(text, value) {
				d.Exact = &exact{etag, string(value)}
			}
			return d, nil
		}
	}
	var v any = bson.Binary{Data: value}
	if utf8.Valid(value) {
		v = string(value)
	}
	typ, data, err := bson.MarshalValue(v)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "the value cannot be stored")
	}
	d.Value = bson.RawValue{Type: typ, Value: data}
	return d, nil
}

// isJSON reports whether the metadata of a write say that its value is JSON.
func isJSON(metadata map[string]string) bool {
	for name, value := range metadata {
		if strings.EqualFold(name, "contentType") {
			kind, _, _ := strings.Cut(value, ";")
			return strings.EqualFold(strings.TrimSpace(kind), "application/json")
		}
	}
	return false
}

// item returns a document as an item.
func (d *document) item() (state.Item, error) {
	item := state.Item{ETag: d.ETag}
	if d.TTL != nil {
		item.Expires = *d.TTL
	}
	var err error
	if d.Exact != nil && d.Exact.ETag == d.ETag {
		item.Value = []byte(d.Exact.Text)
	} else if item.Value, err = valueText(d.Value); err != nil {
		return state.Item{}, fault.Wrap(err, fault.FailedPrecondition, "the database holds a value that is not of a form that this component or Dapr writes")
	}
	return item, nil
}

// valueText returns the bytes of a value: as they are of strings and binary
// data, as JSON of what else Dapr may have stored.
func valueText(v bson.RawValue) ([]byte, error) {
	if text, ok := v.StringValueOK(); ok {
		return []byte(text), nil
	}
	if _, data, ok := v.BinaryOK(); ok {
		return bytes.Clone(data), nil
	}
	if v.Type == bson.TypeEmbeddedDocument {
		return objectText(v)
	}
	// Extended JSON has objects only.
	data, err := bson.Marshal(bson.D{{Key: "v", Value: v}})
	if err != nil {
		return nil, err
	}
	text, err := bson.MarshalExtJSON(bson.Raw(data), false, false)
	if err != nil {
		return nil, err
	}
	var outer struct {
		V json.RawMessage `json:"v"`
	}
	err = json.Unmarshal(text, &outer)
	return outer.V, err
}

// objectText returns a document as JSON.
func objectText(v bson.RawValue) ([]byte, error) {
	return bson.MarshalExtJSON(bson.Raw(v.Value), false, false)
}

// maxDepth is how deep what is stored as a document may be nested: a hundred
// levels is what MongoDB takes.
const maxDepth = 90

// parseObject returns a text as a document, if it is a JSON object that is one:
// names that mean something to MongoDB ($a, a.b) or come twice are not for it.
func parseObject(text []byte) (bson.D, bool) {
	if trimmed := bytes.TrimLeft(text, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' || !utf8.Valid(text) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, ok := parseValue(d, 0)
	if _, err := d.Token(); !ok || err != io.EOF {
		return nil, false
	}
	doc, ok := v.(bson.D)
	return doc, ok
}

func parseValue(d *json.Decoder, depth int) (any, bool) {
	token, err := d.Token()
	if err != nil || depth > maxDepth {
		return nil, false
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '{' {
			return parseMembers(d, depth)
		}
		list := bson.A{}
		for d.More() {
			v, ok := parseValue(d, depth+1)
			if !ok {
				return nil, false
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err == nil
	case json.Number:
		if n, err := strconv.ParseInt(string(t), 10, 64); err == nil {
			return n, true
		}
		f, err := strconv.ParseFloat(string(t), 64)
		return f, err == nil && !math.IsInf(f, 0)
	}
	return token, true // a string, a bool, nil
}

func parseMembers(d *json.Decoder, depth int) (any, bool) {
	doc := bson.D{}
	seen := map[string]struct{}{}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok || name == "" || name[0] == '$' || strings.ContainsAny(name, ".\x00") {
			return nil, false
		}
		if _, twice := seen[name]; twice {
			return nil, false
		}
		seen[name] = struct{}{}
		v, ok := parseValue(d, depth+1)
		if !ok {
			return nil, false
		}
		doc = append(doc, bson.E{Key: name, Value: v})
	}
	_, err := d.Token()
	return doc, err == nil
}
