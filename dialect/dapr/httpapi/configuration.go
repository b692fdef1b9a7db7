package httpapi

import (
	"context"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/dialect/dapr"
)

// itemJSON is a configuration item.
type itemJSON struct {
	Value    string            `json:"value,omitempty"`
	Version  string            `json:"version,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// configuration returns the configuration store that the path names and what
// the query asks for, or answers.
func (c *call) configuration(op dapr.Operation) (*config.Store, config.Query, dapr.Subject, bool) {
	about := dapr.Subject{Component: c.params[0], Key: c.params[1]}
	q, ok := c.query()
	if !ok {
		return nil, config.Query{}, about, false
	}
	want := config.Query{Keys: q.all("key"), Metadata: q.metadata()}
	about.Keys = want.Keys
	store, err := c.api.opts.Blocks.Config(about.Component)
	if err != nil {
		c.failed(op, about, err)
		return nil, want, about, false
	}
	return store, want, about, true
}

func (c *call) getConfiguration() {
	store, want, about, ok := c.configuration(dapr.ConfigurationGet)
	if !ok {
		return
	}
	items, err := store.Get(c.context(), want)
	if err != nil {
		c.failed(dapr.ConfigurationGet, about, err)
		return
	}
	out := make(map[string]itemJSON, len(items))
	for k, item := range items {
		out[k] = itemJSON(item)
	}
	c.value(out, len(out) == 0)
}

func (c *call) subscribeConfiguration() {
	store, want, about, ok := c.configuration(dapr.ConfigurationSubscribe)
	if !ok {
		return
	}
	app := c.api.opts.ConfigurationApp
	if app == nil {
		c.fail(dapr.AppChannelMissing("cannot subscribe to configuration updates"))
		return
	}
	name := store.Name() // the call is over when updates come
	id, err := store.Subscribe(c.context(), want, func(ctx context.Context, u config.Update) error {
		return app.OnConfigurationUpdate(ctx, name, u)
	})
	if err != nil {
		c.failed(dapr.ConfigurationSubscribe, about, err)
		return
	}
	c.value(struct {
		ID string `json:"id"`
	}{id}, false)
}

func (c *call) unsubscribeConfiguration() {
	store, _, about, ok := c.configuration(dapr.ConfigurationUnsubscribe)
	if !ok {
		return
	}
	if err := store.Unsubscribe(c.context(), about.Key); err != nil {
		e := dapr.Describe(dapr.ConfigurationUnsubscribe, about, err)
		c.out = appendString(append(c.out[:0], `{"ok":false,"message":`...), e.Message)
		c.out = append(c.out, '}')
		c.json(e.HTTPStatus, c.out)
		return
	}
	c.json(200, []byte(`{"ok":true}`))
}
