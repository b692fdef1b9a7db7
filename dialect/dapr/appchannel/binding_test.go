package appchannel_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/fault"
)

func TestAnHTTPApplicationGetsTheEventOfABinding(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	app.answer("POST /on-tick", 200, `{"storeName":"s","state":[{"key":"k","value":{"n":1}}],"to":["out"],"data":"x","concurrency":"parallel"}`)
	got, err := app.channel(t, nil).OnBindingEvent(t.Context(), "tick", "on-tick", binding.Event{
		Data: []byte("payload"), Metadata: map[string]string{"ReadTimeUTC": "now", "traceparent": parent},
	})
	want := &binding.AppResponse{
		StoreName: "s", State: []binding.StateItem{{Key: "k", Value: []byte(`{"n":1}`)}}, To: []string{"out"}, Data: []byte(`"x"`), Parallel: true,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("OnBindingEvent = %+v, %v", got, err)
	}
	r := app.last(t)
	if r.body != "payload" || r.header.Get("Readtimeutc") != "now" || r.header.Get("Traceparent") != parent ||
		r.header.Get("Content-Type") != "application/json" {
		t.Errorf("the application got %+v", r)
	}
}

func TestTheAnswerToAnEventOfABindingDecides(t *testing.T) {
	checkLeaks(t)
	for _, tc := range []struct {
		status int
		body   string
		err    fault.Code
	}{
		{200, "", 0}, {200, "thanks", 0}, {204, "", 0}, {404, "", fault.NotFound}, {500, "", fault.Internal}, {503, "", fault.Unavailable},
		{200, strings.Repeat("x", 100), fault.ResourceExhausted},
	} {
		app := newHTTPApp(t)
		app.answer("POST /tick", tc.status, tc.body)
		c := app.channel(t, func(o *appchannel.Options) { o.MaxAnswer = 80 })
		got, err := c.OnBindingEvent(t.Context(), "tick", "tick", binding.Event{})
		if got != nil || (err != nil) != (tc.err != 0) || err != nil && fault.CodeOf(err) != tc.err {
			t.Errorf("%d: OnBindingEvent = %v, %v", tc.status, got, err)
		}
	}
}

// bindingApp answers the events of bindings.
type bindingApp struct {
	rtv1.UnimplementedAppCallbackServer
	got    *rtv1.BindingEventRequest
	answer *rtv1.BindingEventResponse
	err    error
}

func (a *bindingApp) OnBindingEvent(_ context.Context, r *rtv1.BindingEventRequest) (*rtv1.BindingEventResponse, error) {
	a.got = r
	return a.answer, a.err
}

func TestAGRPCApplicationGetsTheEventOfABinding(t *testing.T) {
	checkLeaks(t)
	a := &bindingApp{answer: &rtv1.BindingEventResponse{
		StoreName: "s", To: []string{"out"}, Data: []byte("x"), Concurrency: rtv1.BindingEventResponse_PARALLEL,
		States: []*commonv1.StateItem{
			{Key: "k", Value: []byte("v"), Etag: &commonv1.Etag{Value: "7"}, Metadata: map[string]string{"ttlInSeconds": "1"}, Options: &commonv1.StateOptions{
				Concurrency: commonv1.StateOptions_CONCURRENCY_FIRST_WRITE, Consistency: commonv1.StateOptions_CONSISTENCY_STRONG,
			}},
			{Key: "l", Options: &commonv1.StateOptions{
				Concurrency: commonv1.StateOptions_CONCURRENCY_LAST_WRITE, Consistency: commonv1.StateOptions_CONSISTENCY_EVENTUAL,
			}},
		},
	}}
	app := serveGRPC(t, func(s grpc.ServiceRegistrar) { rtv1.RegisterAppCallbackServer(s, a) })
	c := app.channel(t, nil)
	etag := "7"
	e := binding.Event{Data: []byte("payload"), Metadata: map[string]string{"k": "v\xff", "traceparent": parent}}
	got, err := c.OnBindingEvent(t.Context(), "tick", "/ignored", e)
	want := &binding.AppResponse{StoreName: "s", To: []string{"out"}, Data: []byte("x"), Parallel: true, State: []binding.StateItem{
		{Key: "k", Value: []byte("v"), ETag: &etag, Metadata: map[string]string{"ttlInSeconds": "1"}, Concurrency: "first-write", Consistency: "strong"},
		{Key: "l", Concurrency: "last-write", Consistency: "eventual"},
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("OnBindingEvent = %+v, %v", got, err)
	}
	if a.got.GetName() != "tick" || string(a.got.GetData()) != "payload" || a.got.GetMetadata()["k"] != "v\ufffd" {
		t.Errorf("the application got %v", a.got)
	}
	if md := app.metadata(t); strings.Join(md.Get("traceparent"), "") != parent {
		t.Errorf("the metadata is %v", md)
	}
	a.answer = &rtv1.BindingEventResponse{Data: []byte("nobody asked")}
	if got, err := c.OnBindingEvent(t.Context(), "tick", "", binding.Event{}); got != nil || err != nil {
		t.Errorf("an answer that asks for nothing: %v, %v", got, err)
	}
	a.answer, a.err = nil, status.Error(codes.Aborted, "no")
	if got, err := c.OnBindingEvent(t.Context(), "tick", "", binding.Event{}); got != nil || !fault.Is(err, fault.Aborted) {
		t.Errorf("OnBindingEvent = %v, %v", got, err)
	}
}

func TestAnHTTPApplicationGetsEachChangeOfAConfigurationItem(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	app.answer("POST /configuration/conf/", 200, "")
	u := config.Update{ID: "sub1", Items: map[string]config.Change{
		"b/c": {Item: config.Item{Value: "2", Version: "7", Metadata: map[string]string{"m": "x"}}},
		"a":   {Deleted: true},
	}}
	if err := app.channel(t, nil).OnConfigurationUpdate(t.Context(), "conf", u); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range app.requests() {
		got = append(got, r.method+" "+r.target+" "+r.body)
	}
	want := []string{
		`POST /configuration/conf/a {"id":"sub1","items":{"a":{"value":""}}}`,
		`POST /configuration/conf/b%2Fc {"id":"sub1","items":{"b/c":{"value":"2","version":"7","metadata":{"m":"x"}}}}`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the application got %q", got)
	}
}

func TestAFailedChangeIsWorthARetryWhenOneOfItsItemsIs(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t) // answers 404
	app.answer("POST /configuration/conf/z", 503, "")
	u := config.Update{Items: map[string]config.Change{"a": {}, "z": {}}}
	err := app.channel(t, nil).OnConfigurationUpdate(t.Context(), "conf", u)
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "/configuration/conf/a with status 404") {
		t.Errorf("the error is %v", err)
	}
	if a, ok := errors.AsType[*appchannel.AnswerError](err); !ok || a.HTTPStatus() != 503 || a.GRPCStatusCode() != -1 {
		t.Errorf("the status is %+v", a)
	}
	delete(u.Items, "z")
	if err := app.channel(t, nil).OnConfigurationUpdate(t.Context(), "conf", u); !fault.Is(err, fault.NotFound) {
		t.Errorf("the error is %v", err)
	}
}

func TestAGRPCApplicationGetsChangesOnItsStreamOnly(t *testing.T) {
	g := appchannel.New(appchannel.Options{Protocol: "grpc", Address: "app:1"})
	if err := g.OnConfigurationUpdate(t.Context(), "conf", config.Update{}); !fault.Is(err, fault.Unimplemented) {
		t.Errorf("the error is %v", err)
	}
}
