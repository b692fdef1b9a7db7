package httpapi

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/proxy"
)

// store returns the state store that the path names, or answers.
func (c *call) store(op dapr.Operation) (*state.Store, bool) {
	s, err := c.api.opts.Blocks.State(c.params[0])
	if err != nil {
		c.failed(op, dapr.Subject{Component: c.params[0]}, err)
		return nil, false
	}
	return s, true
}

func (c *call) getState() {
	store, ok := c.store(dapr.StateGet)
	if !ok {
		return
	}
	q, ok := c.query()
	if !ok {
		return
	}
	r := state.GetRequest{Key: c.params[1]}
	var err error
	if q != "" {
		text, _ := q.get("consistency")
		if r.Consistency, err = state.ParseConsistency(text); err != nil {
			c.failed(dapr.StateGet, dapr.Subject{Component: store.Name(), Key: r.Key}, err)
			return
		}
		r.Metadata = q.metadata()
	}
	item, found, err := store.Get(c.context(), r)
	switch {
	case err != nil:
		c.failed(dapr.StateGet, dapr.Subject{Component: store.Name(), Key: r.Key}, err)
		return
	case !found:
		c.empty()
		return
	}
	if item.ETag != "" {
		c.header = append(c.header, proxy.Field{Name: "ETag", Value: item.ETag})
	}
	if text, ok := item.ExpireTime(); ok {
		c.header = append(c.header, proxy.Field{Name: metadataPrefix + state.MetadataExpires, Value: text})
	}
	c.json(200, item.Value)
}

func (c *call) saveState() {
	store, ok := c.store(dapr.StateSave)
	if !ok {
		return
	}
	q, ok := c.query()
	if !ok {
		return
	}
	body, ok := c.readBody()
	if !ok {
		return
	}
	items, err := parseItems(body, c.items[:0])
	c.items = items
	if err != nil {
		c.fail(describeBody(err, func(err error) *dapr.Error { return dapr.Invalid("%v", err) }))
		return
	}
	if len(items) == 0 {
		c.empty()
		return
	}
	if extra := q.metadata(); extra != nil {
		for i := range items {
			items[i].Metadata = merge(items[i].Metadata, extra)
		}
	}
	if err := store.Save(c.context(), items); err != nil {
		c.failed(dapr.StateSave, dapr.Subject{Component: store.Name(), Keys: keysOf(items)}, err)
		return
	}
	c.empty()
}

// keysOf returns the keys of items, for an error text.
func keysOf(items []state.SetRequest) []string {
	keys := make([]string, len(items))
	for i := range items {
		keys[i] = items[i].Key
	}
	return keys
}

// merge returns the entries of both; those of extra win. It may change base,
// not extra.
func merge(base, extra map[string]string) map[string]string {
	if len(base) == 0 {
		return extra
	}
	maps.Copy(base, extra)
	return base
}

func (c *call) deleteState() {
	store, ok := c.store(dapr.StateDelete)
	if !ok {
		return
	}
	q, ok := c.query()
	if !ok {
		return
	}
	about := dapr.Subject{Component: store.Name(), Key: c.params[1]}
	r := state.DeleteRequest{Key: c.params[1], ETag: c.fields.ifMatch}
	var err error
	if q != "" {
		concurrency, _ := q.get("concurrency")
		if _, err = state.ParseConcurrency(concurrency); err != nil {
			c.failed(dapr.StateDelete, about, err)
			return
		}
		consistency, _ := q.get("consistency")
		if r.Consistency, err = state.ParseConsistency(consistency); err != nil {
			c.failed(dapr.StateDelete, about, err)
			return
		}
		r.Metadata = q.metadata()
	}
	if err := store.Delete(c.context(), r); err != nil {
		c.failed(dapr.StateDelete, about, err)
		return
	}
	c.empty()
}

type bulkGetBody struct {
	Keys        []string          `json:"keys"`
	Parallelism int               `json:"parallelism"`
	Metadata    map[string]string `json:"metadata"`
}

func (c *call) bulkGetState() {
	store, ok := c.store(dapr.StateBulkGet)
	if !ok {
		return
	}
	q, ok := c.query()
	if !ok {
		return
	}
	body, ok := c.readBody()
	if !ok {
		return
	}
	var in bulkGetBody
	if err := decode(body, &in); err != nil {
		c.fail(dapr.Malformed(err))
		return
	}
	items, err := store.GetBulk(c.context(), state.BulkGetRequest{
		Keys: in.Keys, Parallelism: in.Parallelism, Metadata: merge(in.Metadata, q.metadata()),
	})
	if err != nil {
		c.failed(dapr.StateBulkGet, dapr.Subject{Component: store.Name(), Keys: in.Keys}, err)
		return
	}
	out := append(c.out[:0], '[')
	for i := range items {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendBulkItem(out, store.Name(), &items[i])
	}
	c.out = append(out, ']')
	c.json(200, c.out)
}

// appendBulkItem appends one answer of a bulk get.
func appendBulkItem(b []byte, store string, item *state.BulkItem) []byte {
	b = appendString(append(b, `{"key":`...), item.Key)
	if item.Err != nil {
		e := dapr.Describe(dapr.StateGet, dapr.Subject{Component: store, Key: item.Key}, item.Err)
		b = appendString(append(b, `,"error":`...), e.Message)
		return append(b, '}')
	}
	if !item.Found {
		return append(b, '}')
	}
	b = appendItem(b, &item.Item)
	if text, ok := item.Item.ExpireTime(); ok {
		b = appendString(append(b, `,"metadata":{"`+state.MetadataExpires+`":`...), text)
		b = append(b, '}')
	}
	return append(b, '}')
}

// appendItem appends the value and the etag of an item as members of an object.
// A value that is not JSON is shown as a string: as it is when it is text, else
// in base64.
func appendItem(b []byte, item *state.Item) []byte {
	value := item.Value
	switch b = append(b, `,"data":`...); {
	case utf8.Valid(value) && json.Valid(value):
		b = append(b, value...)
	case utf8.Valid(value):
		b = appendString(b, string(value))
	default:
		b = append(base64.StdEncoding.AppendEncode(append(b, '"'), value), '"')
	}
	if item.ETag != "" {
		b = appendString(append(b, `,"etag":`...), item.ETag)
	}
	return b
}

func (c *call) transact() {
	store, ok := c.store(dapr.StateTransaction)
	if !ok {
		return
	}
	q, ok := c.query()
	if !ok {
		return
	}
	body, ok := c.readBody()
	if !ok {
		return
	}
	r, err := parseTransaction(body)
	if err != nil {
		c.fail(describeBody(err, dapr.Malformed))
		return
	}
	if extra := q.metadata(); extra != nil {
		r.Metadata = merge(r.Metadata, extra)
		for i := range r.Operations {
			r.Operations[i].Metadata = merge(r.Operations[i].Metadata, extra)
		}
	}
	ctx := c.context()
	r.TraceParent, r.TraceState = c.fields.trace.Current(ctx)
	if err := store.Transact(ctx, r); err != nil {
		keys := make([]string, len(r.Operations))
		for i := range r.Operations {
			keys[i] = r.Operations[i].Key
		}
		c.failed(dapr.StateTransaction, dapr.Subject{Component: store.Name(), Keys: keys, AppID: c.api.opts.AppID}, err)
		return
	}
	c.empty()
}

// queryState answers with the items that a query selects.
func (c *call) queryState() {
	store, ok := c.store(dapr.StateQuery)
	if !ok {
		return
	}
	q, ok := c.query()
	if !ok {
		return
	}
	body, ok := c.readBody()
	if !ok {
		return
	}
	page, err := store.Query(c.context(), state.QueryRequest{Text: body, Metadata: q.metadata()})
	if err != nil {
		c.failed(dapr.StateQuery, dapr.Subject{Component: store.Name()}, err)
		return
	}
	if len(page.Items) == 0 {
		c.empty()
		return
	}
	out := append(c.out[:0], `{"results":[`...)
	for i := range page.Items {
		if i > 0 {
			out = append(out, ',')
		}
		item := &page.Items[i]
		out = appendString(append(out, `{"key":`...), item.Key)
		out = append(appendItem(out, &item.Item), '}')
	}
	out = append(out, ']')
	if page.Token != "" {
		out = appendString(append(out, `,"token":`...), page.Token)
	}
	if len(page.Metadata) > 0 {
		out = appendMap(append(out, `,"metadata":`...), page.Metadata)
	}
	c.out = append(out, '}')
	c.json(200, c.out)
}

// appendMap appends an object of strings, sorted by name.
func appendMap(b []byte, m map[string]string) []byte {
	b = append(b, '{')
	for i, name := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(appendString(b, name), ':'), m[name])
	}
	return append(b, '}')
}
