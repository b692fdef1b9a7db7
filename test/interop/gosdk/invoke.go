package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/dapr/go-sdk/client"
)

func (a *app) checkInvoke() {
	decode := func(t *t, out []byte, err error) (e echo) {
		t.ok(err)
		t.ok(json.Unmarshal(out, &e))
		return e
	}
	a.check("invoke: a method without content", func(ctx context.Context, t *t) {
		out, err := a.client.InvokeMethod(ctx, a.peer, "echo", "get")
		e := decode(t, out, err)
		t.equal([]string{e.By, e.Method, string(e.Body)}, []string{a.peer, "get", ""}, "echo")
	})
	for _, verb := range []string{"post", "put", "delete", "patch"} {
		a.check("invoke: "+strings.ToUpper(verb)+" with content", func(ctx context.Context, t *t) {
			content := &client.DataContent{ContentType: "application/json", Data: []byte(`{"text":"漢字 🛶"}`)}
			out, err := a.client.InvokeMethodWithContent(ctx, a.peer, "echo", verb, content)
			e := decode(t, out, err)
			t.equal([]string{e.By, e.Method, string(e.Body), e.ContentType},
				[]string{a.peer, verb, string(content.Data), "application/json"}, "echo")
		})
	}
	a.check("invoke: custom content and a query", func(ctx context.Context, t *t) {
		out, err := a.client.InvokeMethodWithCustomContent(ctx, a.peer, "echo?x=1&y=a%20b", "post", "application/vnd.boat+json", map[string]int{"n": 1})
		e := decode(t, out, err)
		t.equal([]string{e.Query, e.ContentType, string(e.Body)}, []string{"x=1&y=a%20b", "application/vnd.boat+json", `{"n":1}`}, "echo")
	})
	a.check("invoke: content that is no JSON", func(ctx context.Context, t *t) {
		out, err := a.client.InvokeMethodWithContent(ctx, a.peer, "echo", "post", &client.DataContent{ContentType: "text/plain", Data: []byte("just a text")})
		e := decode(t, out, err)
		t.equal([]string{string(e.Body), e.ContentType}, []string{`"just a text"`, "text/plain"}, "echo")
	})
	a.check("invoke: the other application learns who calls, and the trace", func(ctx context.Context, t *t) {
		const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
		out, err := a.client.InvokeMethod(a.client.WithTraceID(ctx, "00-"+trace+"-00f067aa0ba902b7-01"), a.peer, "echo", "get")
		e := decode(t, out, err)
		t.equal(e.Caller, a.id, "caller")
		// With a token, the SDK sends that and leaves all other metadata out.
		if os.Getenv("DAPR_API_TOKEN") == "" && !strings.Contains(e.Trace, trace) {
			t.fail("the trace is %q, want one with %s", e.Trace, trace)
		}
	})
	a.check("invoke: two megabytes go there and back", func(ctx context.Context, t *t) {
		text := strings.Repeat("y", 2<<20)
		out, err := a.client.InvokeMethodWithContent(ctx, a.peer, "echo", "post", &client.DataContent{ContentType: "text/plain", Data: []byte(text)})
		e := decode(t, out, err)
		t.equal(string(e.Body) == `"`+text+`"`, true, "same text")
	})
	a.check("invoke: the failure of the other application is passed on", func(ctx context.Context, t *t) {
		_, err := a.client.InvokeMethod(ctx, a.peer, "fail", "get")
		if a.protocol == "grpc" {
			t.refused(err, "code = Unknown", "deliberately")
			return
		}
		t.refused(err, "Internal Server Error")
		for _, detail := range status.Convert(err).Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok {
				m := info.GetMetadata()
				t.equal([]string{m["http.code"], strings.TrimSpace(m["http.error_message"])}, []string{"500", "deliberately"}, "details")
				return
			}
		}
		t.fail("the status has no details: %v", err)
	})
	a.check("invoke: an application that does not exist is named in the error", func(ctx context.Context, t *t) {
		_, err := a.client.InvokeMethod(ctx, "nobody", "echo", "get")
		t.refused(err, "code = Internal", "nobody")
	})
}
