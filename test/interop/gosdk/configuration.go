package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/dapr/go-sdk/client"
)

const configStore = "configstore"

// control changes the configuration, as an operator would do it.
func control(ctx context.Context, t *t, method, key, value string) {
	req, err := http.NewRequestWithContext(ctx, method, os.Getenv("INTEROP_CONTROL")+"/configuration/"+key, strings.NewReader(value))
	t.ok(err)
	resp, err := http.DefaultClient.Do(req)
	t.ok(err)
	_ = resp.Body.Close()
	t.equal(resp.StatusCode, http.StatusNoContent, "status of the control")
}

func values(items map[string]*client.ConfigurationItem) map[string]string {
	out := map[string]string{}
	for key, item := range items {
		out[key] = item.Value
	}
	return out
}

func (a *app) checkConfiguration() {
	a.check("configuration: items are read", func(ctx context.Context, t *t) {
		control(ctx, t, http.MethodPut, "colour", "red")
		control(ctx, t, http.MethodPut, "size", "10")
		item, err := a.client.GetConfigurationItem(ctx, configStore, "colour")
		t.ok(err)
		t.equal(item.Value, "red", "value")
		if item.Version == "" {
			t.fail("the item has no version")
		}
		items, err := a.client.GetConfigurationItems(ctx, configStore, []string{"colour", "size", "nothing"})
		t.ok(err)
		t.equal(values(items), map[string]string{"colour": "red", "size": "10"}, "some")
		items, err = a.client.GetConfigurationItems(ctx, configStore, nil)
		t.ok(err)
		t.equal(values(items), map[string]string{"colour": "red", "size": "10"}, "all")
	})
	a.check("configuration: changes are sent until the subscription ends", func(ctx context.Context, t *t) {
		type change struct {
			id     string
			values map[string]string
		}
		changes := make(chan any, 100)
		id, err := a.client.SubscribeConfigurationItems(ctx, configStore, []string{"colour"},
			func(id string, items map[string]*client.ConfigurationItem) { changes <- change{id, values(items)} })
		t.ok(err)
		for n := range 3 {
			control(ctx, t, http.MethodPut, "size", fmt.Sprint(n)) // which is not asked for
			want := fmt.Sprintf("colour-%d", n)
			control(ctx, t, http.MethodPut, "colour", want)
			t.equal(take[change](ctx, t, changes), change{id, map[string]string{"colour": want}}, "change")
		}
		t.ok(a.client.UnsubscribeConfigurationItems(ctx, configStore, id))
		control(ctx, t, http.MethodPut, "colour", "blue")
		item, err := a.client.GetConfigurationItem(ctx, configStore, "colour")
		t.ok(err)
		t.equal(item.Value, "blue", "value")
		t.equal(len(changes), 0, "changes after the end")
	})
	a.check("configuration: a subscription that does not exist cannot be ended", func(ctx context.Context, t *t) {
		t.refused(a.client.UnsubscribeConfigurationItems(ctx, configStore, "no-such-id"), "no-such-id")
	})
}
