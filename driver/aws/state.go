package aws

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/textkey"
)

// defaultPartitionKey is what Dapr calls the attribute of a table's key.
const defaultPartitionKey = "key"

// StateConfig configures a state store on DynamoDB.
type StateConfig struct {
	Config
	// Table is the table, which is there already: its partition key is a string
	// and it has no sort key.
	Table string `setting:"table,required"`
	// TTLAttributeName is the attribute of the table by which DynamoDB removes
	// expired items, as the table's settings say. Without it nothing can
	// expire.
	TTLAttributeName string `setting:"ttlAttributeName"`
	// PartitionKey is the attribute that is the table's key.
	PartitionKey string `setting:"partitionKey"`
}

// Validate reports settings that can never work.
func (c StateConfig) Validate() error {
	switch {
	case c.Table == "":
		return component.Invalid("table", "must not be empty")
	case c.PartitionKey == "" || c.PartitionKey == attrValue || c.PartitionKey == attrETag:
		return component.Invalid("partitionKey", "wants a name other than %q and %q", attrValue, attrETag)
	case c.TTLAttributeName == attrValue || c.TTLAttributeName == attrETag || c.TTLAttributeName == c.PartitionKey:
		return component.Invalid("ttlAttributeName", "wants a name that is not that of another attribute")
	}
	return c.Config.Validate()
}

// State is a state.Driver on a table of DynamoDB.
//
// Whether something has expired is judged by the clock of this machine, by the
// second. An item has at most 400 KB, its key 2,048 bytes. Reads are eventually
// consistent unless they ask for a strong one.
type State struct {
	client *client
	cfg    StateConfig
}

// OpenState opens a state store. It fails when there is no such table, or when
// its key is another one.
func OpenState(ctx context.Context, cfg StateConfig, _ component.Env) (*State, error) {
	c, err := newClient(ctx, service{"dynamodb", "DynamoDB_20120810.", "application/x-amz-json-1.0"}, cfg.Config)
	if err != nil {
		return nil, err
	}
	s := &State{c, cfg}
	// Credentials that may do no more than an application needs cannot describe
	// the table.
	if _, _, err := s.Get(ctx, "proa", state.GetOptions{}); err != nil {
		c.close()
		if is(err, "ValidationException") {
			return nil, component.Invalid("partitionKey", "is not the key of the table: it has another one, or a sort key too")
		}
		return nil, err
	}
	return s, nil
}

// Close implements io.Closer.
func (s *State) Close() error {
	s.client.close()
	return nil
}

// The attributes of an item beside those that the settings name.
const (
	attrValue = "value"
	attrETag  = "etag"
)

// attribute is a value as DynamoDB has it.
type attribute struct {
	S *string `json:",omitempty"`
	N *string `json:",omitempty"`
	B *[]byte `json:",omitempty"`
}

func text(s string) attribute { return attribute{S: &s} }

func number(n int64) attribute {
	s := strconv.FormatInt(n, 10)
	return attribute{N: &s}
}

// maxKey is how long keys may be, in bytes.
const maxKey = 2048

// key returns the key of an item.
func (s *State) key(key string) (map[string]attribute, error) {
	id := textkey.Encode(key)
	if len(id) > maxKey {
		return nil, fault.New(fault.InvalidArgument, "the key is too long: DynamoDB holds keys of %d bytes", maxKey)
	}
	return map[string]attribute{s.cfg.PartitionKey: text(id)}, nil
}

// item returns an item as it is stored: a value that is not UTF-8 as binary
// data, which Dapr does not read.
func (s *State) item(key string, value []byte, ttl time.Duration) (item map[string]attribute, etag string, err error) {
	if item, err = s.key(key); err != nil {
		return nil, "", err
	}
	etag = strconv.FormatUint(rand.Uint64(), 16)
	item[attrETag] = text(etag)
	if item[attrValue] = text(string(value)); !utf8.Valid(value) {
		item[attrValue] = attribute{B: &value}
	}
	if ttl > 0 {
		if s.cfg.TTLAttributeName == "" {
			return nil, "", fault.New(fault.FailedPrecondition, "items of this component cannot expire: it has no ttlAttributeName")
		}
		item[s.cfg.TTLAttributeName] = number(time.Now().Add(ttl).Unix())
	}
	return item, etag, nil
}

// read returns a stored item, unless it has expired.
func (s *State) read(stored map[string]attribute) (item state.Item, found bool) {
	if len(stored) == 0 {
		return state.Item{}, false
	}
	if n := stored[s.cfg.TTLAttributeName].N; n != nil {
		if at, err := strconv.ParseInt(*n, 10, 64); err == nil {
			if at <= time.Now().Unix() {
				return state.Item{}, false
			}
			item.Expires = time.Unix(at, 0)
		}
	}
	if e := stored[attrETag].S; e != nil {
		item.ETag = *e
	}
	item.Value = []byte{}
	switch v := stored[attrValue]; {
	case v.S != nil:
		item.Value = []byte(*v.S)
	case v.B != nil:
		item.Value = *v.B
	}
	return item, true
}

// Get implements state.Driver.
func (s *State) Get(ctx context.Context, key string, opt state.GetOptions) (state.Item, bool, error) {
	id, err := s.key(key)
	if err != nil {
		return state.Item{}, false, nil // nothing can be there
	}
	ask := map[string]any{"TableName": s.cfg.Table, "Key": id, "ConsistentRead": opt.Consistency == state.Strong}
	var out struct{ Item map[string]attribute }
	if err := s.client.call(ctx, "GetItem", ask, &out); err != nil {
		return state.Item{}, false, err
	}
	item, found := s.read(out.Item)
	return item, found, nil
}

// write is a write of one item as the service takes it.
type write struct {
	TableName                           string
	Item                                map[string]attribute `json:",omitempty"`
	Key                                 map[string]attribute `json:",omitempty"`
	ConditionExpression                 string               `json:",omitempty"`
	ExpressionAttributeNames            map[string]string    `json:",omitempty"`
	ExpressionAttributeValues           map[string]attribute `json:",omitempty"`
	ReturnValuesOnConditionCheckFailure string               `json:",omitempty"`
}

// demand adds a condition: that there is an item, with the etag unless that is
// "", or that there is none.
func (s *State) demand(w *write, there bool, etag string) {
	if w.ExpressionAttributeNames == nil {
		w.ExpressionAttributeNames, w.ExpressionAttributeValues = map[string]string{}, map[string]attribute{}
	}
	name := func(mark, attr string) string {
		w.ExpressionAttributeNames[mark] = attr
		return mark
	}
	value := func(mark string, v attribute) string {
		w.ExpressionAttributeValues[mark] = v
		return mark
	}
	key := name("#k", s.cfg.PartitionKey)
	cond := "attribute_exists(" + key + ")"
	if !there {
		cond = "attribute_not_exists(" + key + ")"
	}
	if s.cfg.TTLAttributeName != "" {
		ttl, now := name("#t", s.cfg.TTLAttributeName), value(":now", number(time.Now().Unix()))
		if there {
			cond += " AND (attribute_not_exists(" + ttl + ") OR " + ttl + " > " + now + ")"
		} else {
			cond = "(" + cond + " OR " + ttl + " <= " + now + ")"
		}
	}
	if etag != "" {
		mark := fmt.Sprint(":e", len(w.ExpressionAttributeValues))
		cond += " AND " + name("#e", attrETag) + " = " + value(mark, text(etag))
	}
	if w.ConditionExpression != "" {
		cond = w.ConditionExpression + " AND " + cond
	}
	w.ConditionExpression = cond
	if len(w.ExpressionAttributeValues) == 0 {
		w.ExpressionAttributeValues = nil // none is not an empty one
	}
}

const errConditionFailed = "ConditionalCheckFailedException"

// Put implements state.Driver.
func (s *State) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (string, error) {
	item, etag, err := s.item(key, value, opt.TTL)
	if err != nil {
		return "", err
	}
	w := &write{TableName: s.cfg.Table, Item: item}
	lost := state.ErrETagMismatch
	switch {
	case opt.ETag != "":
		s.demand(w, true, opt.ETag)
	case opt.FirstWrite:
		s.demand(w, false, "")
		lost = state.ErrExists
	}
	err = s.client.call(ctx, "PutItem", w, nil)
	if is(err, errConditionFailed) {
		return "", lost()
	}
	if err != nil {
		return "", err
	}
	return etag, nil
}

// Delete implements state.Driver.
func (s *State) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	id, err := s.key(key)
	if err != nil {
		return err
	}
	w := &write{TableName: s.cfg.Table, Key: id}
	if opt.ETag != "" {
		s.demand(w, true, opt.ETag)
	}
	err = s.client.call(ctx, "DeleteItem", w, nil)
	if is(err, errConditionFailed) {
		return state.ErrETagMismatch()
	}
	return err
}
