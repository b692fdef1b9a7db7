package runtime

import (
	"context"
	"log/slog"
	"strconv"

	"github.com/proa-io/proa/block/outbox"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// outbox makes the outbox of a state component: a function for
// state.Options, and the relay that publishes. Both are nil without one.
func (b *builder) outbox(cfg state.Config, log *slog.Logger) (func(*state.Rows) state.Outbox, func(context.Context) error) {
	if cfg.OutboxPublishPubsub == "" {
		return nil, nil
	}
	var box *outbox.Outbox
	begin := func(rows *state.Rows) state.Outbox {
		box = outbox.New(outbox.Options{
			Store: outboxRows{rows}, Publisher: outboxPublisher{appID: b.cfg.AppID, pinned: b.pinned},
			PubSub: cfg.OutboxPublishPubsub, Topic: cfg.OutboxPublishTopic, Grace: b.cfg.Grace / 2, Log: log,
		})
		return transactions{box}
	}
	return begin, func(ctx context.Context) error { return box.Run(ctx) }
}

// transactions shows an outbox the transactions of its store.
type transactions struct{ box *outbox.Outbox }

// Begin implements state.Outbox.
func (t transactions) Begin(ctx context.Context, r *state.TransactRequest) (*state.OutboxTransaction, error) {
	ops := make([]outbox.Operation, len(r.Operations))
	for i := range r.Operations {
		o := &r.Operations[i]
		ops[i] = outbox.Operation{
			Key: o.Key, Check: o.Check != state.NoCheck, Delete: o.Delete, Value: o.Value, JSON: o.JSON, Metadata: o.Metadata,
		}
	}
	tx, err := t.box.Begin(ctx, ops, r.Metadata, outbox.Trace{Parent: r.TraceParent, State: r.TraceState})
	if err != nil {
		return nil, err
	}
	return &state.OutboxTransaction{Keep: tx.Keep, Row: tx.Row, Value: tx.Value, End: func(ctx context.Context, o state.Outcome) {
		tx.End(ctx, [...]outbox.Outcome{state.Committed: outbox.Committed, state.Failed: outbox.Aborted, state.InDoubt: outbox.InDoubt}[o])
	}}, nil
}

// outboxRows shows an outbox the rows of its store.
type outboxRows struct{ rows *state.Rows }

// Read implements outbox.Store, as do the following.
func (r outboxRows) Read(ctx context.Context, names []string) ([]outbox.Row, error) {
	list, err := r.rows.Read(ctx, names)
	if err != nil {
		return nil, err
	}
	out := make([]outbox.Row, len(list))
	for i, row := range list {
		out[i] = outbox.Row(row)
	}
	return out, nil
}

// Write stores a row on a condition.
func (r outboxRows) Write(ctx context.Context, name string, value []byte, etag string) (string, error) {
	return r.rows.Write(ctx, name, value, etag)
}

// Put stores a row.
func (r outboxRows) Put(ctx context.Context, name string, value []byte) error {
	return r.rows.Put(ctx, name, value)
}

// Delete removes rows.
func (r outboxRows) Delete(ctx context.Context, rows []outbox.Row) error {
	list := make([]state.Row, len(rows))
	for i, row := range rows {
		list[i] = state.Row(row)
	}
	return r.rows.Delete(ctx, list)
}

// outboxPublisher shows an outbox the pub/sub components that there are.
type outboxPublisher struct {
	appID  string
	pinned func() *components
}

// Check implements outbox.Publisher, as do the following.
func (p outboxPublisher) Check(name, topic string) error {
	table := p.pinned()
	defer table.release()
	b, err := table.broker(name)
	if err != nil {
		return err
	}
	return b.MayPublish(topic)
}

// Envelope writes an event as the application would publish it.
func (p outboxPublisher) Envelope(e *outbox.Event, t outbox.Trace) []byte {
	n := pubsub.NewEnvelope{
		AppID: p.appID, Component: e.PubSub, Topic: e.Topic, ID: e.ID, Data: e.Data, ContentType: e.ContentType,
		TraceParent: t.Parent, TraceState: t.State,
	}
	if len(e.Attributes) > 0 {
		n.Attributes = make(map[string]string, len(e.Attributes))
		for _, a := range e.Attributes {
			n.Attributes[a.Name] = a.Value
		}
	}
	return n.Write()
}

// Publish publishes messages in bulk.
func (p outboxPublisher) Publish(ctx context.Context, name, topic string, messages []outbox.Message) []error {
	errs := make([]error, len(messages))
	table := p.pinned()
	defer table.release()
	b, err := table.broker(name)
	if err == nil {
		r := pubsub.BulkPublishRequest{Topic: topic, Entries: make([]pubsub.PublishEntry, len(messages))}
		for i := range messages {
			m := &messages[i]
			r.Entries[i] = pubsub.PublishEntry{
				ID: strconv.Itoa(i), Data: m.Envelope, ContentType: pubsub.ContentTypeCloudEvents, Key: m.Key,
			}
		}
		var failed []pubsub.FailedEntry
		failed, err = b.BulkPublish(ctx, &r)
		for _, f := range failed {
			i, _ := strconv.Atoi(f.ID) // as it was given
			errs[i] = f.Err
		}
	}
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
	}
	return errs
}

// broker returns the named broker of the table.
func (c *components) broker(name string) (*pubsub.Broker, error) {
	if b, ok := c.brokers[name]; ok {
		return b, nil
	}
	return nil, fault.New(fault.NotFound, "there is no pub/sub component %q", name)
}
