package httpapi

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/dialect/dapr"
)

type bindingBody struct {
	Operation string            `json:"operation"`
	Data      json.RawMessage   `json:"data"`
	Metadata  map[string]string `json:"metadata"`
}

func (c *call) invokeBinding() {
	body, ok := c.readBody()
	if !ok {
		return
	}
	var in bindingBody
	if err := decode(body, &in); err != nil {
		c.fail(dapr.Malformed(err))
		return
	}
	about := dapr.Subject{Component: c.params[0]}
	b, err := c.api.opts.Blocks.Binding(about.Component)
	if err != nil {
		c.failed(dapr.InvokeBinding, about, err)
		return
	}
	ctx := c.context()
	r := binding.Request{Operation: in.Operation, Data: in.Data, Metadata: in.Metadata}
	if r.Metadata == nil {
		r.Metadata = map[string]string{}
	}
	if parent, tracestate := c.fields.trace.Current(ctx); parent != "" {
		r.Metadata[dapr.TraceParent] = parent
		if tracestate != "" {
			r.Metadata[dapr.TraceState] = tracestate
		}
	}
	if c.fields.trace.Baggage != "" {
		r.Metadata[dapr.Baggage] = c.fields.trace.Baggage
	}
	answer, err := b.Invoke(ctx, r)
	c.addMetadata(answer.Metadata)
	switch {
	case err != nil:
		c.failed(dapr.InvokeBinding, about, err)
	case len(answer.Data) == 0:
		c.empty()
	default:
		c.json(200, answer.Data)
	}
}

func (c *call) getSecret() {
	q, ok := c.query()
	if !ok {
		return
	}
	about := dapr.Subject{Component: c.params[0], Key: c.params[1]}
	store, err := c.api.opts.Blocks.Secret(about.Component)
	if err != nil {
		c.failed(dapr.SecretGet, about, err)
		return
	}
	values, err := store.Get(c.context(), about.Key, q.metadata())
	if err != nil {
		c.failed(dapr.SecretGet, about, err)
		return
	}
	c.value(values, values == nil)
}

func (c *call) bulkGetSecret() {
	q, ok := c.query()
	if !ok {
		return
	}
	about := dapr.Subject{Component: c.params[0]}
	store, err := c.api.opts.Blocks.Secret(about.Component)
	if err != nil {
		c.failed(dapr.SecretBulkGet, about, err)
		return
	}
	all, err := store.List(c.context(), q.metadata())
	if err != nil {
		c.failed(dapr.SecretBulkGet, about, err)
		return
	}
	c.value(all, all == nil)
}

// value answers with v as JSON, or with nothing.
func (c *call) value(v any, nothing bool) {
	if nothing {
		c.empty()
		return
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // maps of strings always can be
		c.fail(&dapr.Error{HTTPStatus: 500, Tag: "ERR_INTERNAL", Message: "failed to encode response as JSON"})
		return
	}
	c.json(200, bytes.TrimSuffix(out.Bytes(), []byte("\n")))
}

// proto answers with a message as JSON; with whole, those of its fields that
// are not set too.
func (c *call) proto(m proto.Message, whole bool) {
	out, err := protojson.MarshalOptions{EmitUnpopulated: whole}.Marshal(m)
	if err != nil {
		c.fail(&dapr.Error{HTTPStatus: 500, Tag: "ERR_INTERNAL", Message: "failed to encode response as JSON"})
		return
	}
	var compact bytes.Buffer // the library puts spaces where it likes, and elsewhere next time
	if err := json.Compact(&compact, out); err != nil {
		c.fail(&dapr.Error{HTTPStatus: 500, Tag: "ERR_INTERNAL", Message: "failed to encode response as JSON"})
		return
	}
	c.json(200, compact.Bytes())
}

func (c *call) tryLock() {
	in := &rtv1.TryLockRequest{}
	store, about, ok := c.lockRequest(dapr.TryLock, in)
	if !ok {
		return
	}
	_, got, err := store.TryLock(c.context(), in.GetResourceId(), in.GetLockOwner(), time.Duration(in.GetExpiryInSeconds())*time.Second)
	switch {
	case err != nil:
		c.failed(dapr.TryLock, about, err)
	case got:
		c.json(200, []byte(`{"success":true}`))
	default:
		c.json(200, []byte(`{"success":false}`))
	}
}

func (c *call) unlock() {
	in := &rtv1.UnlockRequest{}
	store, about, ok := c.lockRequest(dapr.Unlock, in)
	if !ok {
		return
	}
	status, err := store.Unlock(c.context(), in.GetResourceId(), in.GetLockOwner())
	if err != nil {
		c.failed(dapr.Unlock, about, err)
		return
	}
	c.json(200, append(append([]byte(`{"status":`), byte('0'+status)), '}'))
}

// lockRequest reads the body of a request to a lock store into in and returns
// the store, or answers.
func (c *call) lockRequest(op dapr.Operation, in proto.Message) (*lock.Store, dapr.Subject, bool) {
	about := dapr.Subject{Component: c.params[0]}
	body, ok := c.readBody()
	if !ok {
		return nil, about, false
	}
	if len(body) > 0 {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, in); err != nil {
			c.fail(dapr.Malformed(protoError{err}))
			return nil, about, false
		}
	}
	store, err := c.api.opts.Blocks.Lock(about.Component)
	if err != nil {
		c.failed(op, about, err)
		return nil, about, false
	}
	return store, about, true
}

// protoError is an error of the Protocol Buffers library, less the beginning
// of its text, which varies on purpose.
type protoError struct{ err error }

func (e protoError) Error() string {
	text := strings.ReplaceAll(e.err.Error(), "\u00a0", " ")
	return strings.TrimSpace(strings.TrimPrefix(text, "proto:"))
}

func (e protoError) Unwrap() error { return e.err }
