package appchannel_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/fault"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestAnHTTPApplicationGetsTheEnvelope(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	app.answer("POST /orders", 200, "")
	c := app.channel(t, func(o *appchannel.Options) { o.Token = component.NewSecret("s3cret") })
	e := event(t, `{"n":1}`, "application/json", map[string]string{"cloudevent.traceparent": parent, "cloudevent.tracestate": "a=b"}, false)
	e.Metadata = map[string]string{
		"Tenant": "acme", "grpc-timeout": "1S", ":path": "/x", "Content-Length": "3", "content-type": "text/plain",
		"Content-Encoding": "gzip", "dapr-api-token": "forged", "broken name": "x", "line": "a\r\nb: c",
	}
	got, err := c.Deliver(t.Context(), "orders", e)
	if err != nil || got != pubsub.Success {
		t.Fatalf("Deliver = %v, %v", got, err)
	}
	r := app.last(t)
	if r.method != "POST" || r.target != "/orders" || r.body != string(e.JSON) {
		t.Errorf("the application got %s %s %s", r.method, r.target, r.body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/cloudevents+json", "Traceparent": parent, "Tracestate": "a=b", "Dapr-Api-Token": "s3cret",
		"Pubsubname": "bus", "Tenant": "acme", "Dapr-Grpc-Timeout": "1S", "Dapr-Path": "/x", "Content-Encoding": "", "Line": "a  b: c",
	} {
		if got := strings.Join(r.header.Values(name), ", "); got != want {
			t.Errorf("field %s is %q, want %q", name, got, want)
		}
	}
}

func TestTheAnswerOfAnHTTPApplicationDecides(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	var code int
	var body string
	app.mux.HandleFunc("/orders", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	})
	c := app.channel(t, nil)
	e := event(t, "x", "text/plain", nil, false)
	for _, tc := range []struct {
		status int
		body   string
		want   pubsub.Status
		err    fault.Code // Unknown for none
	}{
		{200, "", pubsub.Success, 0},
		{204, "", pubsub.Success, 0},
		{200, "OK", pubsub.Success, 0},
		{200, `"RETRY"`, pubsub.Success, 0},
		{200, `{`, pubsub.Success, 0},
		{200, `{"status":7}`, pubsub.Success, 0},
		{200, `null`, pubsub.Success, 0},
		{200, `{}`, pubsub.Success, 0},
		{200, `{"status":""}`, pubsub.Success, 0},
		{200, `{"status":"SUCCESS"}`, pubsub.Success, 0},
		{202, " \n{\"status\" : \"SUCCESS\"}\n", pubsub.Success, 0},
		{200, `{"status":"RETRY"}`, pubsub.Retry, 0},
		{200, `{"status":"LATER"}`, pubsub.Retry, 0},
		{200, `{"status":"DROP"}`, pubsub.Drop, 0},
		{200, `{"other":[1,{"status":"x"}],"status":"DROP"} trailing`, pubsub.Drop, 0},
		{404, "no such route", pubsub.Drop, fault.NotFound},
		{400, "bad", pubsub.Retry, fault.InvalidArgument},
		{401, "", pubsub.Retry, fault.Unauthenticated},
		{408, "", pubsub.Retry, fault.DeadlineExceeded},
		{429, "", pubsub.Retry, fault.ResourceExhausted},
		{500, "boom", pubsub.Retry, fault.Internal},
		{501, "", pubsub.Retry, fault.Unimplemented},
		{503, "", pubsub.Retry, fault.Unavailable},
		{307, "", pubsub.Retry, fault.FailedPrecondition},
	} {
		code, body = tc.status, tc.body
		got, err := c.Deliver(t.Context(), "/orders", e)
		if got != tc.want || (err != nil) != (tc.err != 0) || err != nil && fault.CodeOf(err) != tc.err {
			t.Errorf("%d %q: Deliver = %v, %v; want %v, %v", tc.status, tc.body, got, err, tc.want, tc.err)
		}
		if err != nil && (!strings.Contains(err.Error(), tc.body) || strings.Contains(fault.Message(err), "boom") ||
			!strings.Contains(fault.Message(err), "POST /orders with status ")) {
			t.Errorf("%d: the error is %q, its message %q", tc.status, err, fault.Message(err))
		}
		if err != nil && fault.RetryAfterOf(err).Seconds() != 7 {
			t.Errorf("%d: Retry-After is lost", tc.status)
		}
	}
}

func TestAnApplicationThatIsGoneIsUnavailable(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	c := app.channel(t, func(o *appchannel.Options) { o.Transport = nowhere(t) })
	got, err := c.Deliver(t.Context(), "/orders", event(t, "x", "text/plain", nil, false))
	if got != pubsub.Retry || !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "POST /orders") {
		t.Errorf("Deliver = %v, %v", got, err)
	}
	g := (&grpcApp{addr: "127.0.0.1:1"}).channel(t, nil)
	got, err = g.Deliver(t.Context(), "/orders", event(t, "x", "text/plain", nil, false))
	if got != pubsub.Retry || !fault.Is(err, fault.Unavailable) || strings.Contains(err.Error(), "answered") {
		t.Errorf("over gRPC: Deliver = %v, %v", got, err)
	}
}

// topicApp answers events by functions.
type topicApp struct {
	rtv1.UnimplementedAppCallbackServer
	topic func(*rtv1.TopicEventRequest) (*rtv1.TopicEventResponse, error)
}

func (a *topicApp) OnTopicEvent(_ context.Context, r *rtv1.TopicEventRequest) (*rtv1.TopicEventResponse, error) {
	return a.topic(r)
}

func TestAGRPCApplicationGetsTheAttributes(t *testing.T) {
	checkLeaks(t)
	var got *rtv1.TopicEventRequest
	app := serveGRPC(t, func(s grpc.ServiceRegistrar) {
		rtv1.RegisterAppCallbackServer(s, &topicApp{topic: func(r *rtv1.TopicEventRequest) (*rtv1.TopicEventResponse, error) {
			got = r
			return &rtv1.TopicEventResponse{}, nil
		}})
	})
	c := app.channel(t, func(o *appchannel.Options) { o.Token = component.NewSecret("s3cret") })
	e := event(t, `{"n": 1}`, "application/json", map[string]string{
		"cloudevent.id": "e1", "cloudevent.traceparent": parent, "cloudevent.tenant": "ac\"me",
	}, false)
	e.Metadata = map[string]string{"Tenant": "acmé", "blob-bin": "\x00\x01", "grpc-timeout": "1n", "content-type": "x", "bad name": "x"}
	if status, err := c.Deliver(t.Context(), "/on-order", e); err != nil || status != pubsub.Success {
		t.Fatalf("Deliver = %v, %v", status, err)
	}
	if got.GetId() != "e1" || got.GetSource() != "shop" || got.GetType() != "com.dapr.event.sent" || got.GetSpecVersion() != "1.0" ||
		got.GetDataContentType() != "application/json" || string(got.GetData()) != `{"n": 1}` || got.GetTopic() != "orders" ||
		got.GetPubsubName() != "bus" || got.GetPath() != "/on-order" {
		t.Errorf("the application got %v", got)
	}
	ext := got.GetExtensions().AsMap()
	for name, want := range map[string]any{"traceparent": parent, "topic": "orders", "pubsubname": "bus", "tenant": `ac"me`} {
		if ext[name] != want {
			t.Errorf("extension %s is %v, want %v", name, ext[name], want)
		}
	}
	for _, name := range []string{"id", "data", "source", "type", "specversion", "datacontenttype"} {
		if _, ok := ext[name]; ok {
			t.Errorf("%s is among the extensions", name)
		}
	}
	md := app.metadata(t)
	for name, want := range map[string]string{
		"dapr-api-token": "s3cret", "traceparent": parent, "pubsubname": "bus", "tenant": "acm?", "blob-bin": "\x00\x01",
		"dapr-grpc-timeout": "1n", "content-type": "application/grpc",
	} {
		if got := strings.Join(md.Get(name), ", "); got != want {
			t.Errorf("metadata %s is %q, want %q", name, got, want)
		}
	}
}

func TestTheDataOfAGRPCEventIsTheBytesPublished(t *testing.T) {
	checkLeaks(t)
	var got []byte
	app := serveGRPC(t, func(s grpc.ServiceRegistrar) {
		rtv1.RegisterAppCallbackServer(s, &topicApp{topic: func(r *rtv1.TopicEventRequest) (*rtv1.TopicEventResponse, error) {
			got = r.GetData()
			return &rtv1.TopicEventResponse{}, nil
		}})
	})
	c := app.channel(t, nil)
	for _, tc := range []struct {
		data, contentType string
		raw               bool
	}{
		{"hello \"you\"", "text/plain", false},
		{`{"big":12345678901234567890}`, "application/json", false},
		{"\x00\xff", "application/octet-stream", false},
		{"\x00\xff bare", "", true},
	} {
		meta := map[string]string{}
		if tc.raw {
			meta["rawPayload"] = "true"
		}
		if _, err := c.Deliver(t.Context(), "", event(t, tc.data, tc.contentType, meta, tc.raw)); err != nil {
			t.Fatal(err)
		}
		if string(got) != tc.data {
			t.Errorf("%s: the application got %q, want %q", tc.contentType, got, tc.data)
		}
	}
}

func TestAnEventThatIsNotUTF8ReachesAGRPCApplication(t *testing.T) {
	checkLeaks(t)
	var got *rtv1.TopicEventRequest
	app := serveGRPC(t, func(s grpc.ServiceRegistrar) {
		rtv1.RegisterAppCallbackServer(s, &topicApp{topic: func(r *rtv1.TopicEventRequest) (*rtv1.TopicEventResponse, error) {
			got = r
			return &rtv1.TopicEventResponse{}, nil
		}})
	})
	c := app.channel(t, nil)
	b, publish := broker(t, pubsub.Options{})
	publish("{\"id\":\"\xff\",\"ext\":\"\xfe\",\"n\xff\":{\"a\":[1.5,null,true,\"\xff\"]},\"data\":\"x\"}", "text/plain", map[string]string{"rawPayload": "true"})
	e := receive(t, b, false)
	if _, err := c.Deliver(t.Context(), "\xff", e); err != nil {
		t.Fatal(err)
	}
	if got.GetId() != "\ufffd" || got.GetExtensions().AsMap()["ext"] != "\ufffd" || len(got.GetExtensions().AsMap()) != 2 {
		t.Errorf("the application got %v", got)
	}
}

func TestTheAnswerOfAGRPCApplicationDecides(t *testing.T) {
	checkLeaks(t)
	var answer *rtv1.TopicEventResponse
	var failure error
	app := serveGRPC(t, func(s grpc.ServiceRegistrar) {
		rtv1.RegisterAppCallbackServer(s, &topicApp{topic: func(*rtv1.TopicEventRequest) (*rtv1.TopicEventResponse, error) {
			return answer, failure
		}})
	})
	c := app.channel(t, nil)
	e := event(t, "x", "text/plain", nil, false)
	for _, tc := range []struct {
		status rtv1.TopicEventResponse_TopicEventResponseStatus
		code   codes.Code
		want   pubsub.Status
		err    fault.Code // Unknown for none
	}{
		{rtv1.TopicEventResponse_SUCCESS, 0, pubsub.Success, 0},
		{rtv1.TopicEventResponse_RETRY, 0, pubsub.Retry, 0},
		{rtv1.TopicEventResponse_DROP, 0, pubsub.Drop, 0},
		{77, 0, pubsub.Retry, 0},
		{0, codes.Unimplemented, pubsub.Drop, fault.Unimplemented},
		{0, codes.Canceled, pubsub.Retry, fault.Unavailable},
		{0, codes.Unknown, pubsub.Retry, fault.Internal},
		{0, codes.InvalidArgument, pubsub.Retry, fault.InvalidArgument},
		{0, codes.DeadlineExceeded, pubsub.Retry, fault.DeadlineExceeded},
		{0, codes.NotFound, pubsub.Retry, fault.NotFound},
		{0, codes.AlreadyExists, pubsub.Retry, fault.AlreadyExists},
		{0, codes.PermissionDenied, pubsub.Retry, fault.PermissionDenied},
		{0, codes.ResourceExhausted, pubsub.Retry, fault.ResourceExhausted},
		{0, codes.FailedPrecondition, pubsub.Retry, fault.FailedPrecondition},
		{0, codes.Aborted, pubsub.Retry, fault.Aborted},
		{0, codes.OutOfRange, pubsub.Retry, fault.InvalidArgument},
		{0, codes.Internal, pubsub.Retry, fault.Internal},
		{0, codes.Unavailable, pubsub.Retry, fault.Unavailable},
		{0, codes.DataLoss, pubsub.Retry, fault.Internal},
		{0, codes.Unauthenticated, pubsub.Retry, fault.Unauthenticated},
		{0, codes.Code(99), pubsub.Retry, fault.Internal},
	} {
		answer, failure = &rtv1.TopicEventResponse{Status: tc.status}, nil
		if tc.code != 0 {
			answer, failure = nil, status.Error(tc.code, "why")
		}
		got, err := c.Deliver(t.Context(), "/orders", e)
		if got != tc.want || (err != nil) != (tc.err != 0) || err != nil && fault.CodeOf(err) != tc.err {
			t.Errorf("%v %v: Deliver = %v, %v; want %v, %v", tc.status, tc.code, got, err, tc.want, tc.err)
		}
		if err != nil && !strings.HasSuffix(err.Error(), "why") {
			t.Errorf("%v: the error is %q", tc.code, err)
		}
	}
}
