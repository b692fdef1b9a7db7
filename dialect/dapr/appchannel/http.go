package appchannel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
)

// httpApp is an application that speaks HTTP.
type httpApp struct {
	opt       *Options
	link      *link
	ask       *policy.Operation
	exchanges exchangePool
}

var _ application = (*httpApp)(nil)

func newHTTPApp(o *Options, l *link) *httpApp { return &httpApp{opt: o, link: l, ask: asking(o.Ask)} }

// Deliver implements pubsub.App.
func (a *httpApp) Deliver(ctx context.Context, route string, ev *pubsub.Event) (pubsub.Status, error) {
	e := a.begin("POST", route)
	defer e.end()
	e.setContent(ev.JSON, pubsub.ContentTypeCloudEvents)
	e.header = append(e.header, proxy.Field{Name: fieldPubSubName, Value: oneLine(ev.Component)})
	e.header = appendTrace(ctx, e.header, ev.TraceParent(), ev.TraceState())
	e.header = appendMetadata(e.header, ev.Metadata, false)
	if err := e.deliver(ctx); err != nil {
		return pubsub.Retry, err
	}
	switch {
	case e.ok():
		return readStatus(e.answer.Bytes()), nil
	case e.status == 404:
		return pubsub.Drop, noHandler(e.refused())
	}
	return pubsub.Retry, e.refused()
}

// readStatus reads what an application that answered 2xx says of an event.
// What is not a JSON object with a status that is a text means success.
func readStatus(content []byte) pubsub.Status {
	content = bytes.TrimLeft(content, " \t\r\n")
	switch string(content) {
	case "", `{"status":"SUCCESS"}`, `{"status": "SUCCESS"}`, "{}":
		return pubsub.Success // without decoding: nearly every answer is one of these
	}
	if content[0] != '{' {
		return pubsub.Success
	}
	var answer struct {
		Status string `json:"status"`
	}
	// A decoder: what follows the object does not matter.
	if json.NewDecoder(bytes.NewReader(content)).Decode(&answer) != nil {
		return pubsub.Success
	}
	return pubsub.ParseStatus(answer.Status)
}

// DeliverBulk implements pubsub.App.
func (a *httpApp) DeliverBulk(ctx context.Context, route string, b *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
	content, err := bulkEnvelope(b)
	if err != nil {
		return nil, err
	}
	e := a.begin("POST", route)
	defer e.end()
	e.setContent(content, typeJSON)
	e.header = append(e.header, proxy.Field{Name: fieldPubSubName, Value: oneLine(b.Component)})
	e.header = appendTrace(ctx, e.header, "", "")
	if err := e.deliver(ctx); err != nil {
		return nil, err
	}
	switch {
	case e.ok() && e.cut:
		return nil, fault.New(fault.ResourceExhausted, "the application's answer to POST %s is longer than %d bytes",
			e.request.Target, a.opt.MaxAnswer)
	case e.ok():
		statuses, err := readStatuses(e.answer.Bytes())
		if err != nil {
			return nil, fault.Wrap(err, fault.Internal,
				`the application's answer to POST %s is not {"statuses":[{"entryId","status"}]}`, e.request.Target)
		}
		return statuses, nil
	case e.status == 404:
		return nil, noHandler(e.refused())
	}
	return nil, e.refused()
}

// bulkJSON is the envelope of several events.
type bulkJSON struct {
	ID        string            `json:"id"`
	Entries   []bulkEntryJSON   `json:"entries"`
	Metadata  map[string]string `json:"metadata"`
	PubSub    string            `json:"pubsubname"`
	Topic     string            `json:"topic"`
	EventType string            `json:"type"`
}

type bulkEntryJSON struct {
	EntryID string `json:"entryId"`
	// Event is an envelope as it stands, or the bytes of a bare payload, which
	// become base64.
	Event       any               `json:"event"`
	Metadata    map[string]string `json:"metadata"`
	ContentType string            `json:"contentType,omitempty"`
}

func bulkEnvelope(b *pubsub.BulkEvent) ([]byte, error) {
	out := bulkJSON{
		ID: b.ID, PubSub: b.Component, Topic: b.Topic, EventType: pubsub.TypeBulk,
		Metadata: map[string]string{"pubsubName": b.Component}, Entries: make([]bulkEntryJSON, len(b.Entries)),
	}
	for i := range b.Entries {
		en := &b.Entries[i]
		out.Entries[i] = bulkEntryJSON{EntryID: en.EntryID, Metadata: en.Event.Metadata, ContentType: en.ContentType}
		if en.Event.Raw != nil {
			out.Entries[i].Event = en.Event.Raw
		} else {
			out.Entries[i].Event = json.RawMessage(en.Event.JSON)
		}
	}
	content, err := json.Marshal(&out)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "encode a bulk event of topic %q", b.Topic)
	}
	return content, nil
}

// readStatuses reads what an application that answered 2xx says of the entries
// of a bulk event. An entry without a status is to be delivered again.
func readStatuses(content []byte) ([]pubsub.EntryStatus, error) {
	var answer struct {
		Statuses []struct {
			EntryID string `json:"entryId"`
			Status  string `json:"status"`
		} `json:"statuses"`
	}
	if err := json.NewDecoder(bytes.NewReader(content)).Decode(&answer); err != nil {
		return nil, err
	}
	out := make([]pubsub.EntryStatus, len(answer.Statuses))
	for i, s := range answer.Statuses {
		out[i] = pubsub.EntryStatus{EntryID: s.EntryID, Status: pubsub.Retry}
		if s.Status != "" {
			out[i].Status = pubsub.ParseStatus(s.Status)
		}
	}
	return out, nil
}

// noHandler marks an answer that says that the application has nobody for an
// event.
func noHandler(err error) error {
	return fault.Wrap(err, fault.CodeOf(err), "the application has no handler for it").WithReason(pubsub.ReasonNoHandler)
}

// OnBindingEvent implements binding.App.
func (a *httpApp) OnBindingEvent(ctx context.Context, _, route string, ev binding.Event) (*binding.AppResponse, error) {
	e := a.begin("POST", route)
	defer e.end()
	e.setContent(ev.Data, typeJSON)
	e.header = appendTrace(ctx, e.header, ev.Metadata[dapr.TraceParent], ev.Metadata[dapr.TraceState])
	e.header = appendMetadata(e.header, ev.Metadata, false)
	if err := e.deliver(ctx); err != nil {
		return nil, err
	}
	switch {
	case !e.ok():
		return nil, e.refused()
	case e.cut:
		return nil, fault.New(fault.ResourceExhausted, "the application's answer to POST %s is longer than %d bytes",
			e.request.Target, a.opt.MaxAnswer)
	}
	return binding.ParseAppResponse(e.answer.Bytes()), nil
}

// OnConfigurationUpdate implements dapr.ConfigurationApp.
func (a *httpApp) OnConfigurationUpdate(ctx context.Context, store string, u config.Update) error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(u.Items)) {
		err := a.updateItem(ctx, store, key, u)
		if err != nil && fault.CodeOf(err).Retryable() {
			errs = slices.Insert(errs, 0, err) // the first one gives the code of all
		} else if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

type updateJSON struct {
	ID    string              `json:"id"`
	Items map[string]itemJSON `json:"items"`
}

type itemJSON struct {
	Value    string            `json:"value"`
	Version  string            `json:"version,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

func (a *httpApp) updateItem(ctx context.Context, store, key string, u config.Update) error {
	item := u.Items[key]
	content, err := json.Marshal(updateJSON{ID: u.ID, Items: map[string]itemJSON{
		key: {Value: item.Value, Version: item.Version, Metadata: item.Metadata},
	}})
	if err != nil {
		return fault.Wrap(err, fault.Internal, "encode the change of configuration item %q", key)
	}
	e := a.begin("POST", "/configuration/"+url.PathEscape(store)+"/"+url.PathEscape(key))
	defer e.end()
	e.setContent(content, typeJSON)
	e.header = appendTrace(ctx, e.header, "", "")
	if err := e.deliver(ctx); err != nil {
		return err
	}
	if !e.ok() {
		return e.refused()
	}
	return nil
}

// probe asks the application whether it is well.
func (a *httpApp) probe(ctx context.Context) error {
	e := a.begin("GET", a.opt.Health.Path)
	defer e.end()
	if err := e.roundTrip(ctx); err != nil {
		return err
	}
	if !e.ok() {
		return e.refused()
	}
	return nil
}

func (a *httpApp) takesBinding(ctx context.Context, _, route string) (bool, error) {
	e := a.begin("OPTIONS", route)
	defer e.end()
	if err := e.roundTrip(ctx); err != nil {
		return false, err
	}
	return e.ok() || e.status == 405, nil
}
