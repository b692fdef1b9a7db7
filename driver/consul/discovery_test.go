package consul

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/discovery/discoverytest"
)

// open opens a driver with settings, given as name and value in turn.
func open(t *testing.T, settings ...string) *Names {
	t.Helper()
	var s component.Settings
	for i := 0; i < len(settings); i += 2 {
		s = append(s, component.Setting{Name: settings[i], Value: settings[i+1]})
	}
	d, err := Specs()[0].Open(t.Context(), s, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	n := d.(*Names)
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func TestConsulConforms(t *testing.T) {
	server := testserver.Consul(t)
	h := discoverytest.Harness{
		Source: func(t *testing.T) discovery.Source { return open(t, "client.address", server.Addr()) },
		Registrar: func(t *testing.T) discovery.Registrar {
			return open(t, "address", server.Addr(), "selfRegister", "true")
		},
		Dying: func(t *testing.T) (discovery.Registrar, func()) {
			link := faultnet.New(t, server.Addr())
			return open(t, "address", link.Addr(), "selfRegister", "true"), link.Refuse
		},
		Stop:  func(*testing.T) { server.Kill() },
		Start: func(*testing.T) { server.Restart() }, // which has forgotten everything
		Carried: func(ep discovery.Endpoint) discovery.Endpoint {
			ep.Weight = max(1, ep.Weight)
			return ep
		},
		Many: 300, Plain: true,
	}
	discoverytest.Run(t, h)
}

func TestDaprSettingsAreRead(t *testing.T) {
	for name, tc := range map[string]struct{ setting, value, want string }{
		"field of a check":  {"checks", `[{"nmae":"x"}]`, `has no field "nmae"; did you mean "Name"?`},
		"list of checks":    {"checks", `{}`, "wants a list of checks"},
		"field of advanced": {"advancedRegistration", `{"nam":"x"}`, `did you mean "Name"?`},
		"scheme":            {"client.scheme", "ftp", "wants http or https"},
		"wait":              {"client.waitTime", "10", "nanoseconds"},
		"connect":           {"queryOptions.connect", "true", "not supported"},
		"name":              {"selfRegistre", "true", `did you mean "selfRegister"?`},
	} {
		err := Specs()[0].Check(component.Settings{{Name: tc.setting, Value: tc.value}})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
	err := Specs()[0].Check(component.Settings{
		{Name: "client.waitTime", Value: "10000000000"}, {Name: "checks", Value: `[{"name":"n","http":"http://h","interval":"15s"}]`},
		{Name: "daprPortMetaKey", Value: "PORT"}, {Name: "meta", Value: `{"a":"b"}`}, {Name: "tags", Value: "dapr,v1"},
	})
	if err != nil {
		t.Error(err)
	}
}

// agent is an HTTP server that keeps what it is asked and answers with entries.
func agent(t *testing.T, entries string) (addr string, requests chan *http.Request, bodies chan map[string]any) {
	t.Helper()
	requests, bodies = make(chan *http.Request, 100), make(chan map[string]any, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		_ = json.NewDecoder(r.Body).Decode(&body)
		requests <- r
		bodies <- body
		if r.URL.Query().Get("index") != "" {
			<-r.Context().Done()
			return
		}
		w.Header().Set("X-Consul-Index", "7")
		_, _ = w.Write([]byte(entries))
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), requests, bodies
}

func TestQuestionsCarryWhatTheSettingsSay(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addr, requests, _ := agent(t, `[
		{"Node":{"Address":"10.0.0.1"},"Service":{"ID":"a","Meta":{"PORT":"7001","zone":"z"},"Tags":["v1","team=core"],"Weights":{"Passing":3}},"Checks":[{"Status":"passing"}]},
		{"Node":{"Address":"10.0.0.1"},"Service":{"ID":"b","Address":"10.0.0.2","Meta":{"PORT":"7001"}},"Checks":[{"Status":"passing"},{"Status":"warning"}]},
		{"Node":{"Address":"10.0.0.1"},"Service":{"ID":"c","Address":"10.0.0.3","Meta":{"PORT":"7001"}},"Checks":[{"Status":"critical"}]},
		{"Node":{"Address":"10.0.0.1"},"Service":{"ID":"d","Address":"10.0.0.4","Meta":{"DAPR_PORT":"7001"}}},
		{"Node":{"Address":"10.0.0.1"},"Service":{"ID":"e","Address":"10.0.0.5","Meta":{"PORT":"7001","PROA_NAMESPACE":"other"}}}]`)
	n := open(t, "client.address", addr, "client.tokenFile", token, "client.datacenter", "dc9", "daprPortMetaKey", "PORT", "useCache", "true",
		"queryOptions.maxAge", "5s", "queryOptions.allowStale", "true", "queryOptions.filter", "x == y", "queryOptions.nodeMeta", `{"rack":"1"}`,
		"queryOptions.waitTime", "30s")
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan []discovery.Endpoint, 1)
	done := make(chan error, 1)
	go func() {
		done <- n.Watch(ctx, discovery.Service{Namespace: "default", AppID: "shop"}, func(list []discovery.Endpoint) { got <- list })
	}()
	want := []discovery.Endpoint{
		{Address: "10.0.0.1:7001", Weight: 3, Labels: map[string]string{"zone": "z", "v1": "true", "team": "core"}},
		{Address: "10.0.0.2:7001", Health: discovery.Unhealthy},
	}
	list := <-got
	if len(list) != 2 || !list[0].Equal(want[0]) || !list[1].Equal(want[1]) {
		t.Errorf("found %+v", list)
	}
	first, second := <-requests, <-requests
	q := first.URL.Query()
	if first.URL.Path != "/v1/health/service/shop" || q.Get("dc") != "dc9" || !q.Has("stale") || !q.Has("cached") || q.Get("filter") != "x == y" ||
		q.Get("node-meta") != "rack:1" || first.Header.Get("X-Consul-Token") != "secret" || first.Header.Get("Cache-Control") != "max-age=5" {
		t.Errorf("the first question is %s with %v", first.URL, first.Header)
	}
	if q := second.URL.Query(); q.Get("index") != "7" || q.Get("wait") != "30000ms" {
		t.Errorf("the second question is %s", second.URL)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAnAdvancedRegistrationIsSentAsItIs(t *testing.T) {
	addr, requests, bodies := agent(t, `{}`)
	n := open(t, "address", addr, "advancedRegistration", `{"id":"mine","Name":"shop","Port":99,"Meta":{"a":"b"},"Check":{"HTTP":"http://h","Interval":"9s"}}`, "selfDeregister", "false")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- n.Register(ctx, discovery.Announce(discovery.Service{Namespace: "default", AppID: "shop"}, discovery.Endpoint{Address: "10.0.0.7:50002"}))
	}()
	r, body := <-requests, <-bodies
	meta, _ := body["Meta"].(map[string]any)
	check, _ := body["Check"].(map[string]any)
	if r.URL.Path != "/v1/agent/service/register" || body["ID"] != "mine" || body["Port"] != 99.0 || meta["a"] != "b" || meta["DAPR_PORT"] != "50002" ||
		check["HTTP"] != "http://h" || check["TTL"] != nil {
		t.Errorf("%s %v", r.URL, body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	select {
	case r := <-requests:
		t.Errorf("after its end: %s", r.URL)
	case <-time.After(10 * time.Millisecond):
	}
}
