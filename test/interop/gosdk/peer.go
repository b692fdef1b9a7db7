package main

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/metadata"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
)

// An echo is what the peer says that it was asked.
type echo struct {
	By          string          `json:"by"`
	Method      string          `json:"method"`
	Body        json.RawMessage `json:"body,omitempty"`
	Query       string          `json:"query"`
	ContentType string          `json:"contentType"`
	Caller      string          `json:"caller"`
	Trace       string          `json:"trace"`
}

// listenAsPeer adds what the other application offers: it echoes what it is
// asked, calls a third one, fails, and keeps the events of a subscription that
// is declared in a file.
func (a *app) listenAsPeer() {
	var mu sync.Mutex
	received := []json.RawMessage{}
	add := func(name string, handle common.ServiceInvocationHandler) {
		if err := a.service.AddServiceInvocationHandler("/"+name, handle); err != nil {
			panic(err)
		}
	}
	err := a.service.AddTopicEventHandler(
		&common.Subscription{PubsubName: pubsub, Topic: "declared", Route: "/declared"},
		func(_ context.Context, e *common.TopicEvent) (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			received = append(received, slices.Clone(e.RawData))
			return false, nil
		})
	if err != nil {
		panic(err)
	}
	add("received", func(context.Context, *common.InvocationEvent) (*common.Content, error) {
		mu.Lock()
		defer mu.Unlock()
		return asJSON(received)
	})
	add("echo", a.echo)
	add("fail", func(context.Context, *common.InvocationEvent) (*common.Content, error) {
		return nil, errors.New("deliberately")
	})
	add("call", func(ctx context.Context, in *common.InvocationEvent) (*common.Content, error) {
		var to struct{ Target string }
		if err := json.Unmarshal(in.Data, &to); err != nil {
			return nil, err
		}
		answer, err := a.client.InvokeMethodWithContent(ctx, to.Target, "echo", "post",
			&client.DataContent{ContentType: "application/json", Data: []byte(`{"from":"` + a.id + `"}`)})
		if err != nil {
			return nil, err
		}
		return asJSON(map[string]any{"by": a.id, "answer": json.RawMessage(answer)})
	})
}

func (a *app) echo(ctx context.Context, in *common.InvocationEvent) (*common.Content, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	first := func(name string) string { return strings.Join(md.Get(name), ",") }
	out := echo{
		By: a.id, Method: strings.ToLower(in.Verb), Query: in.QueryString, ContentType: in.ContentType,
		Caller: first("dapr-caller-app-id"), Trace: first("traceparent"),
	}
	if json.Valid(in.Data) {
		out.Body = in.Data
	} else if len(in.Data) > 0 {
		out.Body = quoted(string(in.Data))
	}
	return asJSON(out)
}

func asJSON(v any) (*common.Content, error) {
	data, err := json.Marshal(v)
	return &common.Content{Data: data, ContentType: "application/json"}, err
}
