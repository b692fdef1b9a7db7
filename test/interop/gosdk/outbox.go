package main

import (
	"context"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
)

// outbox is the store whose transactions are published, and the topic too.
const outbox = "outbox"

func (a *app) checkOutbox() {
	order := func(key, value string, projection bool) *client.StateOperation {
		metadata := map[string]string{"datacontenttype": "application/json"}
		if projection {
			metadata["outbox.projection"] = "true"
		}
		return &client.StateOperation{
			Type: client.StateOperationTypeUpsert,
			Item: &client.SetStateItem{Key: key, Value: []byte(value), Metadata: metadata},
		}
	}
	transact := func(ctx context.Context, operations ...*client.StateOperation) error {
		return a.client.ExecuteStateTransaction(ctx, outbox, nil, operations)
	}
	published := func(ctx context.Context, t *t) any { return take[*common.TopicEvent](ctx, t, a.inboxes[outbox]).Data }

	a.check("outbox: what a transaction writes is published, and what it deletes is not", func(ctx context.Context, t *t) {
		t.ok(a.client.SaveState(ctx, outbox, "old", []byte("x"), nil))
		t.ok(transact(ctx, order("order-1", `{"n":1}`, false),
			&client.StateOperation{Type: client.StateOperationTypeDelete, Item: &client.SetStateItem{Key: "old"}}))
		t.equal(published(ctx, t), map[string]any{"n": 1.0}, "event")
		item, err := a.client.GetState(ctx, outbox, "order-1", nil)
		t.ok(err)
		t.equal(string(item.Value), `{"n":1}`, "stored")
	})
	a.check("outbox: a projection is published in place of what is stored", func(ctx context.Context, t *t) {
		t.ok(transact(ctx, order("order-2", `{"n":2,"private":true}`, false), order("order-2", `{"n":2}`, true)))
		t.equal(published(ctx, t), map[string]any{"n": 2.0}, "event")
		item, err := a.client.GetState(ctx, outbox, "order-2", nil)
		t.ok(err)
		t.equal(string(item.Value), `{"n":2,"private":true}`, "stored")
	})
	a.check("outbox: a transaction that fails publishes nothing", func(ctx context.Context, t *t) {
		t.ok(a.client.SaveState(ctx, outbox, "order-3", []byte(`{}`), nil))
		old, err := a.client.GetState(ctx, outbox, "order-3", nil)
		t.ok(err)
		t.ok(a.client.SaveState(ctx, outbox, "order-3", []byte(`{}`), nil))
		stale := order("order-3", `{"n":3}`, false)
		stale.Item.Etag = &client.ETag{Value: old.Etag}
		t.refused(transact(ctx, order("order-4", `{"n":4}`, false), stale))
		t.ok(transact(ctx, order("order-5", `{"n":5}`, false)))
		t.equal(published(ctx, t), map[string]any{"n": 5.0}, "next event")
		t.equal(len(a.inboxes[outbox]), 0, "more events")
	})
}
