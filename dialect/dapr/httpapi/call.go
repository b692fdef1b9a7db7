package httpapi

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/telemetry"
)

// call is one request under way, with room that is used again for the next.
type call struct {
	api    *API
	rules  *rules
	ex     proxy.Exchange
	req    *proxy.Request
	route  routeID
	path   string // cleaned, still escaped, without the query
	params params
	fields fields
	status int    // of the answer; 0 before
	sent   int64  // content of the answer, in bytes
	target string // of an invocation
	beside string // what another API calls the request

	failure string // the code of the error that was answered
	passed  proxy.Route
	span    telemetry.Span
	trace   telemetry.TraceContext // of span

	header  proxy.Header       // of the answer
	body    []byte             // of the request
	out     []byte             // of the answer
	items   []state.SetRequest // of a save
	publish pubsub.PublishRequest
}

// Room that is kept for the next request.
const (
	maxKeptBytes = 64 << 10
	maxKeptItems = 64
)

func (c *call) begin(a *API, ex proxy.Exchange) {
	c.api, c.rules, c.ex, c.req = a, a.rules.Load(), ex, ex.Request()
}

// end gives the call back. Nothing may refer to it, or to its room, any more.
func (c *call) end() {
	c.endSpan()
	a := c.api
	clear(c.header[:cap(c.header)])
	clear(c.items[:cap(c.items)])
	kept := call{header: c.header[:0], body: c.body[:0], out: c.out[:0], items: c.items[:0]}
	if cap(kept.body) > maxKeptBytes {
		kept.body = nil
	}
	if cap(kept.out) > maxKeptBytes {
		kept.out = nil
	}
	if cap(kept.items) > maxKeptItems {
		kept.items = nil
	}
	*c = kept
	a.calls.Put(c)
}

// fields are the header fields of a request that the API reads.
type fields struct {
	token, appID, contentType, origin, authorization string
	ifMatch                                          string
	trace                                            dapr.TraceFields
}

// scan reads them in one go.
func (f *fields) scan(h proxy.Header) {
	for i := range h {
		name, value := h[i].Name, h[i].Value
		switch len(name) {
		case len("origin"):
			take(&f.origin, name, "origin", value)
		case len("baggage"):
			if proxy.SameName(name, dapr.Baggage) {
				if f.trace.Baggage != "" {
					value = f.trace.Baggage + "," + value
				}
				f.trace.Baggage = value
			}
		case len("if-match"):
			take(&f.ifMatch, name, "if-match", value)
		case len("tracestate"):
			take(&f.trace.State, name, dapr.TraceState, value)
		case len("traceparent"):
			take(&f.trace.Parent, name, dapr.TraceParent, value)
			take(&f.appID, name, appIDField, value)
		case len("content-type"):
			take(&f.contentType, name, "content-type", value)
		case len("authorization"):
			take(&f.authorization, name, "authorization", value)
		case len("dapr-api-token"):
			take(&f.token, name, dapr.TokenHeader, value)
		}
	}
}

// take keeps the value of the first field of a name.
func take(dst *string, name, want, value string) {
	if *dst == "" && proxy.SameName(name, want) {
		*dst = value
	}
}

// unescapeParams decodes the variable parts of the path. It reports whether it
// could; if not it has answered.
func (c *call) unescapeParams() bool {
	for i, p := range c.params {
		v, err := unescape(p)
		if err != nil {
			c.fail(dapr.BadRequest(fmt.Errorf("path segment %q: %w", p, err)))
			return false
		}
		c.params[i] = v
	}
	return true
}

// readBody returns the body of the request, valid until the call ends. It
// reports whether it could; if not it has answered.
func (c *call) readBody() ([]byte, bool) {
	limit := c.api.opts.MaxBody
	if limit >= 0 && c.req.ContentLength > limit {
		c.fail(dapr.BodyTooLarge(limit))
		return nil, false
	}
	b := c.body[:0]
	if c.req.Body == nil {
		return b, true
	}
	for {
		if len(b) == cap(b) {
			b = grow(b, c.req.ContentLength)
		}
		n, err := c.req.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		c.body = b
		switch {
		case limit >= 0 && int64(len(b)) > limit:
			c.fail(dapr.BodyTooLarge(limit))
			return nil, false
		case err == io.EOF:
			return b, true
		case fault.Is(err, fault.ResourceExhausted):
			c.fail(dapr.BodyTooLarge(limit))
			return nil, false
		case err != nil:
			c.fail(dapr.BodyRead(fault.Message(err)))
			return nil, false
		}
	}
}

// grow makes room for more of a body. It believes a declared length only as far
// as a part of the body has come.
func grow(b []byte, declared int64) []byte {
	size := max(2*cap(b), 4<<10)
	if declared >= 0 && declared < int64(size) {
		size = max(int(declared)+1, cap(b)+1) // one more, so that the end is seen
	}
	out := make([]byte, len(b), size)
	copy(out, b)
	return out
}

// jsonType is the content type of nearly every answer.
const jsonType = "application/json"

// respond answers with a body, or with none.
func (c *call) respond(status int, body []byte) {
	c.status = status
	if err := c.ex.Respond(status, c.header, int64(len(body))); err != nil {
		if !fault.Is(err, fault.InvalidArgument) {
			return // the client has gone
		}
		// A field that a backend gave cannot be sent: the answer goes without
		// any but the content type.
		c.header = append(c.header[:0], proxy.Field{Name: "Content-Type", Value: jsonType})
		if c.ex.Respond(status, c.header, int64(len(body))) != nil {
			return
		}
	}
	if len(body) > 0 && c.req.Method != "HEAD" {
		c.sent = int64(len(body))
		_, _ = c.ex.Write(body) // an error means that the client has gone
	}
}

// json answers with JSON.
func (c *call) json(status int, body []byte) {
	c.header.Add("Content-Type", jsonType)
	c.respond(status, body)
}

// text answers with plain text.
func (c *call) text(status int, body string) {
	c.header.Add("Content-Type", "text/plain; charset=utf-8")
	c.respond(status, []byte(body))
}

// empty answers that all is well and there is nothing to say.
func (c *call) empty() { c.respond(204, nil) }

// fail answers with an error.
func (c *call) fail(e *dapr.Error) {
	c.failure = e.Tag
	if note := c.api.opts.OnError; note != nil {
		note(e)
	}
	if after := e.RetryAfterSeconds(); after != "" {
		c.header.Add("Retry-After", after)
	}
	c.json(e.HTTPStatus, e.JSON())
}

// failed answers with what became of an operation.
func (c *call) failed(op dapr.Operation, s dapr.Subject, err error) {
	s.AppID = c.api.opts.AppID
	c.fail(dapr.Describe(op, s, err))
}

// addMetadata adds response metadata as header fields. An entry whose name
// cannot be one is left out.
func (c *call) addMetadata(metadata map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(metadata)) {
		if dapr.IsToken(k) {
			c.header.Add("metadata."+k, strings.Map(visible, metadata[k]))
		}
	}
}

// visible maps what cannot stand in a field value to a space.
func visible(r rune) rune {
	if r < ' ' && r != '\t' || r == 0x7f {
		return ' '
	}
	return r
}
