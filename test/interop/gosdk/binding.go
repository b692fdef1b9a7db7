package main

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
)

func (a *app) listenToBindings() {
	ticks := a.inboxes.inbox("ticks")
	err := a.service.AddBindingInvocationHandler("ticks", func(_ context.Context, in *common.BindingEvent) ([]byte, error) {
		ticks <- in
		return nil, nil
	})
	if err != nil {
		panic(err)
	}
}

func (a *app) checkBinding() {
	call := func(ctx context.Context, name, operation, data string, metadata map[string]string) (string, error) {
		out, err := a.client.InvokeBinding(ctx, &client.InvokeBindingRequest{
			Name: name, Operation: operation, Data: []byte(data), Metadata: metadata,
		})
		if err != nil {
			return "", err
		}
		return string(out.Data), nil
	}
	a.check("binding: a schedule calls the application", func(ctx context.Context, t *t) {
		for range 2 {
			take[*common.BindingEvent](ctx, t, a.inboxes["ticks"])
		}
	})
	a.check("binding: a file is created, read, listed and deleted", func(ctx context.Context, t *t) {
		name := map[string]string{"fileName": "notes.txt"}
		_, err := call(ctx, "files", "create", "some notes", name)
		t.ok(err)
		got, err := call(ctx, "files", "get", "", name)
		t.ok(err)
		t.equal(got, "some notes", "content")
		got, err = call(ctx, "files", "list", "", nil)
		t.ok(err)
		t.equal(strings.Contains(got, "notes.txt"), true, "listed: "+got)
		_, err = call(ctx, "files", "delete", "", name)
		t.ok(err)
		_, err = call(ctx, "files", "get", "", name)
		t.refused(err, "notes.txt")
	})
	a.check("binding: an HTTP endpoint is called and answers", func(ctx context.Context, t *t) {
		out, err := a.client.InvokeBinding(ctx, &client.InvokeBindingRequest{
			Name: "web", Operation: "put", Data: []byte("to the web"), Metadata: map[string]string{"path": "/echo"},
		})
		t.ok(err)
		var got struct{ Method, Body string }
		t.ok(json.Unmarshal(out.Data, &got))
		t.equal([]string{got.Method, got.Body, out.Metadata["statusCode"]}, []string{"PUT", "to the web", "200"}, "echo")
	})
	a.check("binding: one is called whose answer is of no interest", func(ctx context.Context, t *t) {
		name := map[string]string{"fileName": "more.txt"}
		t.ok(a.client.InvokeOutputBinding(ctx, &client.InvokeBindingRequest{Name: "files", Operation: "create", Data: []byte("some more"), Metadata: name}))
		got, err := call(ctx, "files", "get", "", name)
		t.ok(err)
		t.equal(got, "some more", "content")
	})
	a.check("binding: one that does not exist is named in the error", func(ctx context.Context, t *t) {
		_, err := call(ctx, "nobinding", "create", "x", nil)
		t.refused(err, "nobinding")
	})
}
