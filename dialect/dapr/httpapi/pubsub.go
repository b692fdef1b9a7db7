package httpapi

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/dialect/dapr"
)

// broker returns the pub/sub component and the topic that the path names, or
// answers.
func (c *call) broker(op dapr.Operation, metadata map[string]string) (*pubsub.Broker, dapr.Subject, bool) {
	about := dapr.Subject{Component: c.params[0], Topic: c.params[1], AppID: c.api.opts.AppID, Request: metadata}
	if about.Component == "" {
		c.fail(dapr.PubSubNameEmpty(about))
		return nil, about, false
	}
	b, err := c.api.opts.Blocks.PubSub(about.Component)
	if err != nil {
		c.failed(op, about, err)
		return nil, about, false
	}
	if about.Topic == "" {
		c.fail(dapr.TopicEmpty(about))
		return nil, about, false
	}
	return b, about, true
}

func (c *call) publishEvent() {
	q, ok := c.query()
	if !ok {
		return
	}
	metadata := q.metadata()
	broker, about, ok := c.broker(dapr.Publish, metadata)
	if !ok {
		return
	}
	body, ok := c.readBody()
	if !ok {
		return
	}
	ctx := c.context()
	parent, tracestate := c.fields.trace.Current(ctx)
	c.publish = pubsub.PublishRequest{
		Topic: about.Topic, Data: body, ContentType: c.fields.contentType, Metadata: metadata,
		TraceParent: parent, TraceState: tracestate,
	}
	if err := broker.Publish(ctx, &c.publish); err != nil {
		c.failed(dapr.Publish, about, err)
		return
	}
	c.empty()
}

// bulkEntry is one event of a bulk publish. Its names are those of the API.
type bulkEntry struct {
	EntryID     string            `json:"entryId"`
	Event       json.RawMessage   `json:"event"`
	ContentType string            `json:"contentType"`
	Metadata    map[string]string `json:"metadata"`
}

func (c *call) bulkPublish() {
	q, ok := c.query()
	if !ok {
		return
	}
	metadata := q.metadata()
	broker, about, ok := c.broker(dapr.BulkPublish, metadata)
	if !ok {
		return
	}
	body, ok := c.readBody()
	if !ok {
		return
	}
	var in []bulkEntry
	if err := decode(body, &in); err != nil {
		c.fail(dapr.UnmarshalEvents(about, err))
		return
	}
	r := pubsub.BulkPublishRequest{Topic: about.Topic, Metadata: metadata, Entries: make([]pubsub.PublishEntry, len(in))}
	for i := range in {
		e := &in[i]
		data, err := eventBytes(e.Event, e.ContentType)
		if err != nil {
			c.fail(dapr.MarshalEnvelope(about, fmt.Errorf("entry %d: %w", i+1, err)))
			return
		}
		r.Entries[i] = pubsub.PublishEntry{ID: e.EntryID, Data: data, ContentType: e.ContentType, Metadata: e.Metadata}
	}
	ctx := c.context()
	r.TraceParent, r.TraceState = c.fields.trace.Current(ctx)
	failed, err := broker.BulkPublish(ctx, &r)
	switch {
	case err != nil:
		c.failed(dapr.BulkPublish, about, err)
	case len(failed) > 0:
		c.bulkFailed(about, failed)
	default:
		c.empty()
	}
}

// bulkFailed tells which entries were not published. The status is that of
// the first, which stands for all.
func (c *call) bulkFailed(about dapr.Subject, failed []pubsub.FailedEntry) {
	worst := dapr.Describe(dapr.BulkPublish, about, failed[0].Err)
	out := append(c.out[:0], `{"failedEntries":[`...)
	for i, f := range failed {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendString(append(out, `{"entryId":`...), f.ID)
		out = appendString(append(out, `,"error":`...), dapr.Describe(dapr.BulkPublish, about, f.Err).Message)
		out = append(out, '}')
	}
	c.out = append(out, `],"errorCode":"ERR_PUBSUB_PUBLISH_MESSAGE"}`...)
	if after := worst.RetryAfterSeconds(); after != "" {
		c.header.Add("Retry-After", after)
	}
	c.json(bulkStatus(worst.HTTPStatus), c.out)
}

// bulkStatus returns the status of an answer that lists failed entries: 500
// but for what a client should do about all of them at once.
func bulkStatus(status int) int {
	if status == 429 || status == 503 || status == 504 {
		return status
	}
	return 500
}

// errMismatch tells of an event that is not what its content type says.
var errMismatch = errors.New("error: mismatch between contentType and event")

// eventBytes returns the payload of an entry: JSON as it is written, text
// without its quotes, and what is binary decoded from base64.
func eventBytes(event json.RawMessage, contentType string) ([]byte, error) {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	isText := strings.HasPrefix(media, "text/") || media == "application/xml"
	isBinary := media == "application/octet-stream"
	switch {
	case media == "application/json" || strings.HasSuffix(media, "+json"):
		if event == nil {
			return []byte(null), nil
		}
		return event, nil
	case !isText && !isBinary:
		return nil, fmt.Errorf("%w: contentType %q is not one of text/..., application/json, application/cloudevents+json, application/octet-stream",
			errMismatch, contentType)
	case kindOf(event) != kindString:
		return nil, fmt.Errorf("%w: contentType %q wants a JSON string, not %s", errMismatch, contentType, kindOf(event))
	case isText:
		return []byte(unquote(event)), nil
	}
	data, err := base64.StdEncoding.DecodeString(unquote(event))
	if err != nil {
		return nil, fmt.Errorf("contentType %q wants the event in base64: %w", contentType, err)
	}
	return data, nil
}
