package appchannel_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/telemetry"
)

// value returns data as the HTTP API stores it.
func value(t *testing.T, v any) *job.Data {
	t.Helper()
	m, err := structpb.NewValue(v)
	if err != nil {
		t.Fatal(err)
	}
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return &job.Data{TypeURL: a.GetTypeUrl(), Value: a.GetValue()}
}

func TestAnHTTPApplicationGetsTheTriggerOfAJob(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	app.answer("POST /", 204, "")
	c := app.channel(t, nil)
	tc, _ := telemetry.ParseTraceparent(parent)
	ctx := telemetry.WithTrace(t.Context(), tc)
	for _, test := range []struct {
		name, target, body string
		data               *job.Data
	}{
		{"prune", "/job/prune", "", nil},
		{"a b|ü", "/job/a%20b%7C%C3%BC", `{"a":[1,2.5,"<x>",null,true]}`, value(t, map[string]any{"a": []any{1, 2.5, "<x>", nil, true}})},
		{"text", "/job/text", `"x"`, value(t, "x")},
		{"null", "/job/null", "null", value(t, nil)},
		{"unset", "/job/unset", "", &job.Data{TypeURL: "type.googleapis.com/google.protobuf.Value"}},
		{"bytes", "/job/bytes", "{bytes}", &job.Data{TypeURL: "example.com/own", Value: []byte(" {bytes}\n")}},
		{"broken", "/job/broken", "\xff", &job.Data{TypeURL: "type.googleapis.com/google.protobuf.Value", Value: []byte("\xff")}},
		{"untyped", "/job/untyped", "x", &job.Data{Value: []byte("x")}},
	} {
		if err := c.OnJobEvent(ctx, job.Event{Name: test.name, Data: test.data}); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		r := app.last(t)
		if r.method != "POST" || r.target != test.target || r.body != test.body || r.header.Get("Content-Type") != "application/json" ||
			r.header.Get("Traceparent") == "" {
			t.Errorf("%s: the application got %+v", test.name, r)
		}
	}
}

func TestTheAnswerToATriggerDecides(t *testing.T) {
	checkLeaks(t)
	for _, test := range []struct {
		status int
		code   fault.Code
		reason fault.Reason
	}{
		{200, 0, ""}, {299, 0, ""}, {404, fault.NotFound, job.ReasonNoHandler}, {400, fault.InvalidArgument, ""},
		{500, fault.Internal, ""}, {503, fault.Unavailable, ""},
	} {
		app := newHTTPApp(t)
		app.answer("POST /job/j", test.status, "because")
		err := app.channel(t, nil).OnJobEvent(t.Context(), job.Event{Name: "j"})
		if (err != nil) != (test.code != 0) || err != nil && (fault.CodeOf(err) != test.code || fault.ReasonOf(err) != test.reason) {
			t.Errorf("%d: %v", test.status, err)
		}
	}
}

func TestAnApplicationThatIsAwayHasNotFailedAtATrigger(t *testing.T) {
	checkLeaks(t)
	const nobody = "127.0.0.1:1"
	client := &http1.Client{Address: nobody}
	t.Cleanup(func() { _ = client.Close() })
	c := appchannel.New(appchannel.Options{AppID: "shop", Transport: client, Address: nobody})
	if err := c.OnJobEvent(t.Context(), job.Event{Name: "j"}); fault.ReasonOf(err) != job.ReasonNotDelivered {
		t.Errorf("HTTP: %v", err)
	}
	app := serveGRPC(t, func(grpc.ServiceRegistrar) {})
	g := app.channel(t, nil)
	app.stop()
	if err := g.OnJobEvent(t.Context(), job.Event{Name: "j"}); fault.ReasonOf(err) != job.ReasonNotDelivered {
		t.Errorf("gRPC: %v", err)
	}
}

func TestAnApplicationThatDiesAtATriggerHasFailed(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	app.mux.HandleFunc("POST /job/j", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	err := app.channel(t, nil).OnJobEvent(t.Context(), job.Event{Name: "j"})
	if err == nil || fault.ReasonOf(err) == job.ReasonNotDelivered || fault.CodeOf(err) != fault.Unavailable {
		t.Errorf("OnJobEvent = %v", err)
	}
}

func TestATriggerThatWaitedForItsTurnInVainWasNotDelivered(t *testing.T) {
	checkLeaks(t)
	app := newHTTPApp(t)
	inside, leave := make(chan bool), make(chan bool)
	app.mux.HandleFunc("POST /job/first", func(http.ResponseWriter, *http.Request) { inside <- true; <-leave })
	c := app.channel(t, func(o *appchannel.Options) { o.Limit = policy.NewBulkhead(1, -1) })
	first := make(chan error, 1)
	go func() { first <- c.OnJobEvent(t.Context(), job.Event{Name: "first"}) }()
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.OnJobEvent(ctx, job.Event{Name: "second"}); fault.ReasonOf(err) != job.ReasonNotDelivered {
		t.Errorf("OnJobEvent = %v", err)
	}
	leave <- true
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// jobApp answers triggers.
type jobApp struct {
	rtv1.UnimplementedAppCallbackServer
	rtv1.UnimplementedAppCallbackAlphaServer
	onlyAlpha bool
	calls     int
	got       *rtv1.JobEventRequest
	err       error
}

func (a *jobApp) OnJobEvent(ctx context.Context, r *rtv1.JobEventRequest) (*rtv1.JobEventResponse, error) {
	a.calls++
	if a.onlyAlpha {
		return a.UnimplementedAppCallbackServer.OnJobEvent(ctx, r)
	}
	a.got = r
	return &rtv1.JobEventResponse{}, a.err
}

func (a *jobApp) OnJobEventAlpha1(ctx context.Context, r *rtv1.JobEventRequest) (*rtv1.JobEventResponse, error) {
	a.calls++
	if !a.onlyAlpha {
		return a.UnimplementedAppCallbackAlphaServer.OnJobEventAlpha1(ctx, r)
	}
	a.got = r
	return &rtv1.JobEventResponse{}, a.err
}

func TestAGRPCApplicationGetsTheTriggerOfAJob(t *testing.T) {
	checkLeaks(t)
	for _, onlyAlpha := range []bool{false, true} {
		a := &jobApp{onlyAlpha: onlyAlpha}
		app := serveGRPC(t, func(s grpc.ServiceRegistrar) {
			rtv1.RegisterAppCallbackServer(s, a)
			rtv1.RegisterAppCallbackAlphaServer(s, a)
		})
		c := app.channel(t, nil)
		data := value(t, map[string]any{"n": 1})
		for range 2 {
			if err := c.OnJobEvent(t.Context(), job.Event{Name: "prune", Data: data}); err != nil {
				t.Fatal(err)
			}
		}
		r := a.got
		if r.GetName() != "prune" || r.GetMethod() != "job/prune" || r.GetContentType() != data.TypeURL || r.GetData().GetTypeUrl() != data.TypeURL ||
			string(r.GetData().GetValue()) != string(data.Value) || r.GetHttpExtension().GetVerb() != commonv1.HTTPExtension_POST {
			t.Errorf("only alpha %v: the application got %v", onlyAlpha, r)
		}
		if want := map[bool]int{false: 2, true: 3}[onlyAlpha]; a.calls != want {
			t.Errorf("only alpha %v: %d calls for two triggers, want %d", onlyAlpha, a.calls, want)
		}
		for code, reason := range map[codes.Code]fault.Reason{
			codes.NotFound: job.ReasonNoHandler, codes.Unimplemented: job.ReasonNoHandler, codes.Internal: "", codes.Unavailable: "",
		} {
			a.err = status.Error(code, "because")
			if err := c.OnJobEvent(t.Context(), job.Event{Name: "prune"}); err == nil || fault.ReasonOf(err) != reason {
				t.Errorf("only alpha %v: %s: %v", onlyAlpha, code, err)
			}
		}
		if a.got.GetData() != nil || a.got.GetContentType() != "" {
			t.Errorf("only alpha %v: a job without data came as %v", onlyAlpha, a.got)
		}
	}
}
