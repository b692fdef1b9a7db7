package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/config/configtest"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/telemetry"
)

// do sends a request to a handler in memory.
func do(t testing.TB, h proxy.Handler, request, body string, header ...string) *fakeExchange {
	t.Helper()
	method, target, _ := strings.Cut(request, " ")
	ex := &fakeExchange{ctx: t.Context(), req: proxy.Request{Method: method, Target: target, ContentLength: int64(len(body))}}
	if body != "" {
		ex.req.Body = strings.NewReader(body)
	}
	for _, field := range header {
		name, value, _ := strings.Cut(field, ": ")
		ex.req.Header.Add(name, value)
	}
	h(ex)
	return ex
}

// want fails the test unless ex was answered so.
func (ex *fakeExchange) want(t testing.TB, status int, body string) {
	t.Helper()
	if ex.status != status || ex.body.String() != body {
		t.Errorf("%s %s: got %d %s, want %d %s", ex.req.Method, ex.req.Target, ex.status, ex.body.String(), status, body)
	}
}

func TestAPublishedPayloadArrivesInItsEnvelope(t *testing.T) {
	w := newWorld(t)
	h := New(Options{AppID: "shop", Blocks: w}).Handle
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	do(t, h, "POST /v1.0/publish/pubsub/a/b%2Fc?metadata.cloudevent.id=7&metadata.k=v", `{"n":1.0}`,
		"content-type: application/json", "traceparent: "+parent, "tracestate: x=y").want(t, 204, "")
	m := w.topics.last()
	var e map[string]any
	if err := json.Unmarshal(m.Data, &e); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"id": "7", "source": "shop", "topic": "a/b/c", "pubsubname": "pubsub", "datacontenttype": "application/json",
		"traceparent": parent, "tracestate": "x=y", "data": "map[n:1]",
	} {
		if got := fmt.Sprint(e[name]); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	if m.Topic != "a/b/c" || m.Metadata["k"] != "v" || !bytes.Contains(m.Data, []byte("1.0")) {
		t.Errorf("message %+v %s", m, m.Data)
	}
	do(t, h, "POST /v1.0/publish/pubsub/raw?metadata.rawPayload=true", "\x00\xff").want(t, 204, "")
	if m := w.topics.last(); string(m.Data) != "\x00\xff" {
		t.Errorf("raw message %q", m.Data)
	}
}

func TestATraceBeginsWithAPublishThatIsToBeRecorded(t *testing.T) {
	tracing, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{Stdout: io.Discard, SamplingRate: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tracing.Shutdown(t.Context()) })
	w := newWorld(t)
	do(t, New(Options{AppID: "shop", Blocks: w, Tracing: tracing}).Handle, "POST /v1.0/publish/pubsub/a", "x").want(t, 204, "")
	var e struct{ TraceParent string }
	if err := json.Unmarshal(w.topics.last().Data, &e); err != nil || len(e.TraceParent) != 55 || !strings.HasSuffix(e.TraceParent, "-01") {
		t.Errorf("traceparent %q (%v)", e.TraceParent, err)
	}
}

func TestEntriesOfABulkPublishKeepTheirForm(t *testing.T) {
	w := newWorld(t)
	h := New(Options{AppID: "shop", Blocks: w}).Handle
	for _, test := range []struct{ entry, data string }{
		{`{"entryId":"1","event":"a\"b","contentType":"text/plain; charset=utf-8"}`, `"data":"a\"b"`},
		{`{"entryId":"1","event":{"n":1.00},"contentType":"application/json"}`, `"data":{"n":1.00}`},
		{`{"entryId":"1","event":"AAE=","contentType":"application/octet-stream"}`, `"data_base64":"AAE="`},
		{`{"entryId":"1","event":{"id":"mine","specversion":"1.0","type":"t","source":"s","data":7},"contentType":"application/cloudevents+json"}`, `"id":"mine"`},
		{`{"entryId":"1","event":[1],"contentType":"application/vnd.shop+json"}`, `[1]`},
	} {
		do(t, h, "POST /v1.0/publish/bulk/pubsub/a", "["+test.entry+"]").want(t, 204, "")
		if got := string(w.topics.last().Data); !strings.Contains(got, test.data) {
			t.Errorf("%s: published %s", test.entry, got)
		}
	}
}

func TestValuesThatAreNoJSONAreShownInABulkGetAllTheSame(t *testing.T) {
	w := newWorld(t)
	h := New(Options{AppID: "shop", Blocks: w}).Handle
	for key, value := range map[string]string{"text": "plain <text>\n", "bytes": "\xff\x00", "empty": "", "latin": "\"\xe9\""} {
		if _, err := w.states["plain"].Set(t.Context(), state.SetRequest{Key: key, Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	ex := do(t, h, "POST /v1.0/state/plain/bulk", `{"keys":["text","bytes","empty","latin"]}`)
	var out []struct{ Key, Data string }
	if err := json.Unmarshal(ex.body.Bytes(), &out); err != nil {
		t.Fatalf("%s: %v", ex.body.Bytes(), err)
	}
	if got := fmt.Sprintf("%q", out); got != `[{"text" "plain <text>\n"} {"bytes" "/wA="} {"empty" ""} {"latin" "Iuki"}]` {
		t.Errorf("got %s", got)
	}
	do(t, h, "GET /v1.0/state/plain/empty", "").want(t, 200, "")
}

func TestABodyWithoutALengthIsBoundedToo(t *testing.T) {
	h := New(Options{Blocks: newWorld(t), MaxBody: 1000}).Handle
	send := func(size int) *fakeExchange {
		ex := &fakeExchange{ctx: t.Context(), req: proxy.Request{
			Method: "POST", Target: "/v1.0/publish/pubsub/a", ContentLength: proxy.UnknownLength,
			Body: iotest.OneByteReader(strings.NewReader(strings.Repeat("x", size))),
		}}
		h(ex)
		return ex
	}
	send(1000).want(t, 204, "")
	if ex := send(1001); ex.status != 413 || !strings.Contains(ex.body.String(), "more than 1000 bytes") {
		t.Errorf("%d %s", ex.status, ex.body.String())
	}
}

func TestABodyThatBreaksOffIsAnError(t *testing.T) {
	for _, test := range []struct {
		err    error
		status int
	}{
		{fault.New(fault.ResourceExhausted, "larger than the engine allows"), 413},
		{fault.New(fault.Unavailable, "the client went away"), 400},
		{io.ErrUnexpectedEOF, 400},
	} {
		ex := &fakeExchange{ctx: t.Context(), req: proxy.Request{
			Method: "POST", Target: "/v1.0/publish/pubsub/a", ContentLength: 10, Body: iotest.ErrReader(test.err),
		}}
		New(Options{Blocks: newWorld(t)}).Handle(ex)
		if ex.status != test.status || !strings.Contains(ex.body.String(), "ERR_BODY_READ") {
			t.Errorf("%v: %d %s", test.err, ex.status, ex.body.String())
		}
	}
}

func TestABodyMayBeUnbounded(t *testing.T) {
	h := New(Options{Blocks: newWorld(t), MaxBody: -1}).Handle
	do(t, h, "POST /v1.0/publish/pubsub/a", strings.Repeat("x", DefaultMaxBody+1)).want(t, 204, "")
}

func TestTextThatIsNotUTF8IsRefusedWhereItMustBeJSON(t *testing.T) {
	h := New(Options{Blocks: newWorld(t)}).Handle
	for _, request := range []string{"POST /v1.0/state/statestore", "POST /v1.0/state/statestore/bulk", "POST /v1.0/bindings/echo"} {
		ex := do(t, h, request, "[{\"key\":\"a\",\n\"value\":\"\xff\"}]")
		if ex.status != 400 || !strings.Contains(ex.body.String(), "invalid UTF-8, at line 2, column 10") {
			t.Errorf("%s: %d %s", request, ex.status, ex.body.String())
		}
	}
}

func TestChangesOfConfigurationReachTheApplication(t *testing.T) {
	app := fakeApp{make(chan config.Update, 10)}
	w := newWorld(t)
	h := New(Options{AppID: "shop", Blocks: w, ConfigurationApp: app}).Handle
	ex := do(t, h, "GET /v1.0/configuration/configstore/subscribe?key=color", "")
	var answer struct{ ID string }
	if err := json.Unmarshal(ex.body.Bytes(), &answer); err != nil || answer.ID == "" {
		t.Fatalf("%d %s", ex.status, ex.body.Bytes())
	}
	if _, err := configtest.Set(t.Context(), w.configs["configstore"], "color", "blue"); err != nil {
		t.Fatal(err)
	}
	select {
	case u := <-app.updates:
		if u.ID != answer.ID || u.Items["color"].Value != "blue" {
			t.Errorf("update %+v", u)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no update came")
	}
	do(t, h, "GET /v1.0/configuration/configstore/"+answer.ID+"/unsubscribe", "").want(t, 200, `{"ok":true}`)
	if ex := do(t, h, "GET /v1.0/configuration/configstore/"+answer.ID+"/unsubscribe", ""); ex.status != 500 {
		t.Errorf("unsubscribed twice: %d", ex.status)
	}
	none := New(Options{Blocks: w}).Handle
	do(t, none, "GET /v1.0/configuration/configstore/subscribe", "").want(t, 500,
		`{"errorCode":"ERR_APP_CHANNEL_NIL","message":"app channel is not initialized. cannot subscribe to configuration updates"}`)
}

func TestShutdownIsAnsweredBeforeItBegins(t *testing.T) {
	w := newWorld(t)
	h := New(Options{Blocks: w}).Handle
	do(t, h, "POST /v1.0/shutdown", "").want(t, 204, "")
	do(t, h, "POST /v1.0/shutdown", "", "Dapr-Force-Shutdown: TRUE").want(t, 204, "")
	if fmt.Sprint(w.stopped) != "[false true]" {
		t.Errorf("shutdowns %v", w.stopped)
	}
}

func TestAFieldThatCannotBeSentDoesNotCostTheAnswer(t *testing.T) {
	w := newWorld(t)
	w.addState("odd", oddState{w.rawState["plain"]})
	ex := do(t, New(Options{Blocks: w}).Handle, "GET /v1.0/state/odd/k", "")
	ex.want(t, 200, "1")
	if ex.header.Has("etag") || ex.header.Get("content-type") != jsonType {
		t.Errorf("header %v", ex.header)
	}
}

// oddState has an etag that cannot stand in a field.
type oddState struct{ state.Driver }

func (oddState) Get(context.Context, string, state.GetOptions) (state.Item, bool, error) {
	return state.Item{Value: []byte("1"), ETag: "a\r\nb"}, true, nil
}

func TestObserversSeeEveryRequest(t *testing.T) {
	var seen []string
	h := New(Options{Blocks: newWorld(t), Invoker: echoInvoker{}, Observe: func(c Call) {
		seen = append(seen, fmt.Sprintf("%s %s %s %s %d %v %v", c.Route, c.Method, c.Path, c.UserAgent, c.Status, c.Health, c.Duration >= 0))
	}}).Handle
	do(t, h, "GET /v1.0/state/statestore/k?x=1", "", "User-Agent: me")
	do(t, h, "GET /v1.0/healthz", "")
	do(t, h, "GET /items", "", "dapr-app-id: cart")
	do(t, h, "GET /items", "")
	want := `[GetState GET /v1.0/state/statestore/k me 204 false true Healthz GET /v1.0/healthz  204 true true ` +
		`InvokeService GET /items  201 false true InvokeService GET /items  404 false true]`
	if got := fmt.Sprint(seen); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRequestsAtTheSameTimeDoNotMix(t *testing.T) {
	address := listen(t, &http1.Server{Handler: New(Options{AppID: "shop", Blocks: newWorld(t)}).Handle})
	var clients sync.WaitGroup
	for n := range 8 {
		clients.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for i := range 50 {
				key := fmt.Sprintf("key-%d-%d", n, i)
				value := strings.Repeat(fmt.Sprint(n, i, " "), i*20)
				if err := saveAndRead(client, "http://"+address+"/v1.0/state/plain", key, value); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
}

func saveAndRead(client *http.Client, url, key, value string) error {
	resp, err := client.Post(url, jsonType, strings.NewReader(fmt.Sprintf(`[{"key":%q,"value":%q}]`, key, value)))
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp, err = client.Get(url + "/" + key); err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if want := fmt.Sprintf("%q", value); err != nil || string(got) != want {
		return fmt.Errorf("%s: got %.40s (%w)", key, got, err)
	}
	return nil
}

func TestAClientThatGoesAwayEndsItsCall(t *testing.T) {
	w := newWorld(t)
	slow := slowState{w.rawState["plain"], make(chan error, 1), make(chan struct{}, 1)}
	w.addState("slow", slow)
	address := listen(t, &http1.Server{Handler: New(Options{Blocks: w}).Handle})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /v1.0/state/slow/k HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-slow.began
	conn.Close()
	select {
	case err := <-slow.ended:
		if !fault.Is(err, fault.Canceled) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the call goes on")
	}
}

// slowState answers when its caller has given up.
type slowState struct {
	state.Driver
	ended chan error
	began chan struct{}
}

func (d slowState) Get(ctx context.Context, _ string, _ state.GetOptions) (state.Item, bool, error) {
	d.began <- struct{}{}
	<-ctx.Done()
	d.ended <- ctx.Err()
	return state.Item{}, false, ctx.Err()
}

func TestEveryRouteHasANameAndAGroup(t *testing.T) {
	for r := range numRoutes {
		info := r.info()
		if info.name == "" || info.group == "" || info.version == "" {
			t.Errorf("route %d: %+v", r, info)
		}
		if r != routeInvoke && info.name == "InvokeService" {
			t.Errorf("route %d is not described", r)
		}
	}
}

func TestRoutes(t *testing.T) {
	a := New(Options{})
	for request, want := range map[string]routeID{
		"GET /v1.0/state/s/k": routeGetState, "GET /v1.0/state/s/bulk": routeGetState, "DELETE /v1.0/state/s/transaction": routeDeleteState,
		"POST /v1.0/state/s": routeSaveState, "PUT /v1.0/state/s/": routeSaveState, "GET /v1.0/state/s": routeInvoke,
		"POST /v1.0/state/s/k": routeInvoke, "GET /v1.0/state/s/k/l": routeInvoke, "GET /v1.0/state": routeInvoke,
		"PUT /v1.0/state/s/bulk": routeBulkGetState, "POST /v1.0/state/s/transaction": routeTransaction,
		"POST /v1.0-alpha1/state/s/query": routeQueryState, "POST /v1.0/state/s/query": routeInvoke,
		"POST /v1.0/publish/p/t": routePublish, "POST /v1.0/publish/bulk/p/t": routeBulkPublish, "POST /v1.0/publish/bulk/t": routePublish,
		"PUT /v1.0-alpha1/publish/bulk/p/t/u": routeBulkPublishAlpha1, "POST /v1.0-alpha1/publish/p/t": routeInvoke,
		"POST /v1.0/bindings/b": routeBinding, "GET /v1.0/bindings/b": routeInvoke, "POST /v1.0/bindings/b/c": routeInvoke,
		"GET /v1.0/secrets/s/k": routeGetSecret, "GET /v1.0/secrets/s/bulk": routeBulkGetSecret, "GET /v1.0/secrets/s": routeInvoke,
		"GET /v1.0/configuration/c": routeGetConfiguration, "GET /v1.0/configuration/c/subscribe": routeSubscribeConfiguration,
		"GET /v1.0/configuration/c/i/unsubscribe": routeUnsubscribeConfiguration, "GET /v1.0/configuration/c/i": routeInvoke,
		"GET /v1.0-alpha1/configuration/c/subscribe": routeSubscribeConfigurationAlpha1,
		"POST /v1.0-alpha1/lock/l":                   routeTryLock, "POST /v1.0-alpha1/unlock/l": routeUnlock, "PUT /v1.0-alpha1/lock/l": routeInvoke,
		"GET /v1.0/metadata": routeGetMetadata, "PUT /v1.0/metadata/k": routePutMetadata, "POST /v1.0/metadata/k": routeInvoke,
		"GET /v1.0/healthz": routeHealthz, "HEAD /v1.0/healthz": routeHealthz, "GET /v1.0/healthz/outbound/": routeOutboundHealthz,
		"POST /v1.0/shutdown": routeShutdown, "GET /v1.0/shutdown": routeInvoke,
		"GET /v1.0/actors/t/i/state/k": routeActors, "POST /v1.0/actors/t/i/state": routeActors, "GET /v1.0/actors/t/i/method/m": routeActors,
		"DELETE /v1.0/actors/t/i/timers/n": routeActors, "GET /v1.0/actors/t/i/timers/n": routeInvoke, "GET /v1.0/actors/t/i": routeInvoke,
		"GET /v1.0/actors/t/i/method": routeInvoke, "POST /v1.0-alpha1/workflows/dapr/w/start": routeWorkflowsAlpha1,
		"POST /v1.0-beta1/workflows/dapr/i/raiseEvent/e": routeWorkflowsBeta1, "GET /v1.0/workflows/dapr/i": routeWorkflows,
		"GET /v1.0/workflows/dapr": routeInvoke, "POST /v1.0/workflows/dapr/i/raiseEvent": routeInvoke,
		"GET /v1.0/jobs/j": routeJobs, "DELETE /v1.0-alpha1/jobs/j": routeJobsAlpha1, "PUT /v1.0/jobs/j": routeInvoke,
		"PUT /v1.0-alpha1/crypto/c/decrypt": routeCrypto, "POST /v1.0-alpha1/subtlecrypto/c/verify": routeSubtleCrypto,
		"POST /v1.0-alpha1/conversation/c/converse": routeConversation, "POST /v1.0-alpha2/conversation/c/converse": routeConversationAlpha2,
		"GET /": routeInvoke, "GET": routeInvoke, "GET /v1.0": routeInvoke, "GET /v2/state/s/k": routeInvoke, "GET v1.0/state/s/k": routeInvoke,
		"GET /v1.0/invoke/app/method/v1.0/state/s/k": routeInvoke, "GET /v1.0/../v1.0/state/s/./k": routeGetState,
	} {
		method, target, _ := strings.Cut(request, " ")
		var p params
		if got, _ := a.find(&proxy.Request{Method: method, Target: target}, a.rules.Load(), &p); got != want {
			t.Errorf("%s: route %s, want %s", request, got.info().name, want.info().name)
		}
	}
}

func TestTheTokenIsNotAskedOfHealthChecksOnly(t *testing.T) {
	h := New(Options{Blocks: newWorld(t), Token: dapr.NewToken("t"), Invoker: echoInvoker{}}).Handle
	for request, status := range map[string]int{
		"GET /v1.0/healthz": 204, "GET //v1.0/healthz/outbound/": 204, "PUT /v1.0/healthz": 401, "GET /v1.0/metadata": 401,
		"GET /v1.0/state/statestore/k": 401, "POST /v1.0/shutdown": 401, "GET /v1.0/invoke/cart/method/healthz": 401,
	} {
		if ex := do(t, h, request, ""); ex.status != status {
			t.Errorf("%s: %d, want %d", request, ex.status, status)
		}
	}
}

// The bounds are what the dialect itself may allocate, with some room for the
// race detector, which empties pools now and then; what the blocks and the
// driver allocate for the same call is measured and left out.
func TestHotPathsAllocateLittle(t *testing.T) {
	w := newWorld(t)
	w.addNullBroker()
	h := New(Options{AppID: "shop", Blocks: w}).Handle
	value := []byte(strings.Repeat("1", 1024))
	store, broker := w.states["plain"], w.brokers["null"]
	for _, test := range []struct {
		name, method, target string
		body                 []byte
		most                 float64
		beneath              func()
	}{
		{"get", "GET", "/v1.0/state/plain/item", nil, 3, func() { _, _, _ = store.Get(t.Context(), state.GetRequest{Key: "item"}) }},
		{"set", "POST", "/v1.0/state/plain", []byte(`[{"key":"item","value":` + string(value) + `}]`), 5,
			func() { _, _ = store.Set(t.Context(), state.SetRequest{Key: "item", Value: value}) }},
		{"publish", "POST", "/v1.0/publish/null/orders", value, 3,
			func() { _ = broker.Publish(t.Context(), &pubsub.PublishRequest{Topic: "orders", Data: value}) }},
	} {
		ex, reset := newRequest(t, test.method, test.target, test.body)
		all := testing.AllocsPerRun(200, func() { reset(); h(ex) })
		beneath := testing.AllocsPerRun(200, test.beneath)
		if ex.status >= 400 || all-beneath > test.most {
			t.Errorf("%s: %v allocations, %v of them beneath; status %d", test.name, all, beneath, ex.status)
		}
	}
}

func TestMetadataIsBounded(t *testing.T) {
	w := newWorld(t)
	h := New(Options{Blocks: w}).Handle
	for _, test := range []struct {
		key, value string
		status     int
	}{
		{"k", strings.Repeat("v", 64<<10), 204}, {"k", strings.Repeat("v", 64<<10+1), 413}, {strings.Repeat("k", 257), "v", 400}, {"u", "\xff", 204},
	} {
		if ex := do(t, h, "PUT /v1.0/metadata/"+test.key, test.value); ex.status != test.status {
			t.Errorf("%.10s, %d bytes: %d %s", test.key, len(test.value), ex.status, ex.body.String())
		}
	}
	for i := range 998 {
		do(t, h, fmt.Sprintf("PUT /v1.0/metadata/key-%d", i), "v").want(t, 204, "")
	}
	if ex := do(t, h, "PUT /v1.0/metadata/more", "v"); ex.status != 429 {
		t.Errorf("one too many: %d %s", ex.status, ex.body.String())
	}
	do(t, h, "PUT /v1.0/metadata/key-7", "again").want(t, 204, "")
	if ex := do(t, h, "GET /v1.0/metadata", ""); !json.Valid(ex.body.Bytes()) || !strings.Contains(ex.body.String(), `"key-7":"again"`) {
		t.Errorf("metadata %d %.200s", ex.status, ex.body.String())
	}
}
