package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/config"
)

// server is somebody outside: it answers with its name, and to /hold only when
// it is told to.
type server struct {
	*httptest.Server
	name    string
	held    chan struct{}
	release func()
}

func newServer(t *testing.T, name string) *server {
	released := make(chan struct{})
	s := &server{name: name, held: make(chan struct{}, 100), release: sync.OnceFunc(func() { close(released) })}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/hold") {
			s.held <- struct{}{}
			<-released
		}
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, name, " ", r.Header.Get("X-Key"))
	}))
	t.Cleanup(s.Close)
	t.Cleanup(s.release)
	return s
}

func TestOutputBindingsAreReplacedUnderLoad(t *testing.T) {
	a, b := newServer(t, "a"), newServer(t, "b")
	out := func(url string) string { return componentYAML("out", "bindings.http", "url="+url) }
	r := newRig(t, map[string]string{"out.yaml": out(a.URL)}, nil)
	stop := hammer(t, func(_, _ int) error {
		status, answer, err := r.call("POST", "/v1.0/bindings/out", `{"operation":"get"}`)
		if err != nil || status != 200 || answer != "a " && answer != "b " {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		return nil
	})
	for n := range rounds {
		to := []*server{b, a}[n%2]
		r.write("out.yaml", out(to.URL))
		r.applied()
		if got := r.must("POST", "/v1.0/bindings/out", `{"operation":"get"}`, 200); got != to.name+" " {
			t.Fatalf("after the change to %s the answer is %s", to.name, got)
		}
	}
	stop()
}

func TestACallUnderWayOutlivesItsComponent(t *testing.T) {
	a, b := newServer(t, "a"), newServer(t, "b")
	r := newRig(t, map[string]string{"out.yaml": componentYAML("out", "bindings.http", "url="+a.URL)}, func(c *Config) { c.Grace = time.Minute })
	type result struct {
		answer string
		err    error
	}
	done := make(chan result, 1)
	go func() {
		_, answer, err := r.call("POST", "/v1.0/bindings/out", `{"operation":"get","metadata":{"path":"/hold"}}`)
		done <- result{answer, err}
	}()
	<-a.held
	old := r.table.Load().units[0]
	r.write("out.yaml", componentYAML("out", "bindings.http", "url="+b.URL))
	r.applied()
	if got := r.must("POST", "/v1.0/bindings/out", `{"operation":"get"}`, 200); got != "b " {
		t.Errorf("the answer is %s", got)
	}
	select {
	case <-old.done:
		t.Error("the old component is closed while a call is under way")
	case got := <-done:
		t.Errorf("the call under way has ended: %+v", got)
	default:
	}
	a.release()
	if got := <-done; got.err != nil || got.answer != "a " {
		t.Errorf("the call under way ended with %+v", got)
	}
	select {
	case <-old.done:
	case <-time.After(patience):
		t.Error("the old component is not closed after the call")
	}
}

func TestInputBindingsAreRestarted(t *testing.T) {
	app := newTestApp(t)
	tick := func(name, route string) string {
		return componentYAML(name, "bindings.cron", "schedule=@every 1s", "route="+route, "direction=input")
	}
	r := newRig(t, map[string]string{"tick.yaml": tick("tick", "/one"), "steady.yaml": tick("steady", "/steady")}, func(c *Config) { c.AppPort = app.port })
	arrives := func(route string) {
		t.Helper()
		before := app.times(route + " ")
		eventually(t, func() error {
			if app.times(route+" ") == before {
				return fmt.Errorf("nothing comes at %s", route)
			}
			return nil
		})
	}
	arrives("/one")
	listener := func(name string) *listener {
		r.app.inputs.mu.Lock()
		defer r.app.inputs.mu.Unlock()
		return r.app.inputs.running[name]
	}
	steady := listener("steady")
	r.write("tick.yaml", tick("tick", "/two"))
	r.applied()
	old := app.times("/one ")
	arrives("/two")
	arrives("/two")
	if n := app.times("/one "); n > old+1 {
		t.Errorf("%d events came by the old binding afterwards", n-old)
	}
	r.remove("tick.yaml")
	r.applied()
	r.write("more.yaml", tick("more", "/more"))
	r.applied()
	two := app.times("/two ")
	arrives("/more")
	arrives("/more")
	if n := app.times("/two "); n > two+1 {
		t.Errorf("%d events came by the binding that was removed", n-two)
	}
	if listener("steady") != steady {
		t.Error("a binding that did not change was restarted")
	}
	arrives("/steady")
}

// dial connects to the gRPC API.
func (r *rig) dial() rtv1.DaprClient { return rtv1.NewDaprClient(r.conn()) }

// conn is a connection to the gRPC API.
func (r *rig) conn() *grpc.ClientConn {
	r.t.Helper()
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", r.Addresses().GRPCPort), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestStreamsOfEventsStayOpenWhenTheirBrokerIsReplaced(t *testing.T) {
	bus := func(n int) string { return componentYAML("bus", "pubsub.in-memory", fmt.Sprint("concurrency=", 10+n)) }
	r := newRig(t, map[string]string{"bus.yaml": bus(0)}, nil)
	stream, err := r.dial().SubscribeTopicEventsAlpha1(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	must(t, stream.Send(&rtv1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &rtv1.SubscribeTopicEventsRequestAlpha1_InitialRequest{
		InitialRequest: &rtv1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "bus", Topic: "t"},
	}}))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	app := &testApp{seen: map[string]int{}}
	received := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			e := m.GetEventMessage()
			var id string
			_ = json.Unmarshal(e.GetData(), &id)
			app.mu.Lock()
			app.seen[id]++
			app.mu.Unlock()
			if err := stream.Send(&rtv1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &rtv1.SubscribeTopicEventsRequestAlpha1_EventProcessed{
				EventProcessed: &rtv1.SubscribeTopicEventsRequestProcessedAlpha1{Id: e.GetId(), Status: &rtv1.TopicEventResponse{}},
			}}); err != nil {
				received <- err
				return
			}
		}
	}()
	var sent notes
	stop := hammer(t, func(w, i int) error {
		id := fmt.Sprintf("%d-%d", w, i)
		if status, answer, err := r.call("POST", "/v1.0/publish/bus/t", fmt.Sprintf("%q", id)); err != nil || status != 204 {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		sent.add(id)
		return nil
	})
	for n := range rounds {
		r.write("bus.yaml", bus(n+1))
		r.applied()
	}
	stop()
	app.once(t, sent.all)
	// When the component is removed, the stream says so.
	r.remove("bus.yaml")
	r.applied()
	select {
	case err := <-received:
		if !strings.Contains(err.Error(), "removed") {
			t.Errorf("the stream ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("the stream does not end when the component is gone")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestConfigurationSubscriptionsFollowTheirStore(t *testing.T) {
	app := newTestApp(t)
	store := func(bucket string, n int) string {
		return componentYAML("settings", "configuration.nats", "bucket="+bucket, fmt.Sprintf("initTimeout=%dms", 5000+n))
	}
	r := newRig(t, map[string]string{"settings.yaml": store("one", 0)}, func(c *Config) { c.AppPort = app.port })
	set := func(value string) error {
		defer r.pinned().release()
		s, err := r.Config("settings")
		if err == nil {
			_, err = s.Write(t.Context(), []config.Write{{Key: "k", Value: value}})
		}
		return err
	}
	must(t, set("0"))
	var id struct{ ID string }
	must(t, json.Unmarshal([]byte(r.must("GET", "/v1.0/configuration/settings/subscribe?key=k", "", 200)), &id))
	stream, err := r.dial().SubscribeConfiguration(t.Context(), &rtv1.SubscribeConfigurationRequest{StoreName: "settings", Keys: []string{"k"}})
	must(t, err)
	_, err = stream.Recv()
	must(t, err)
	streamed := make(chan string, 10_000)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				close(streamed)
				return
			}
			streamed <- m.GetItems()["k"].GetValue()
		}
	}()
	arrives := func(value string) {
		t.Helper()
		for got := range streamed {
			if got == value {
				break
			}
		}
		eventually(t, func() error {
			app.mu.Lock()
			defer app.mu.Unlock()
			if n := len(app.config); n == 0 || app.config[n-1] != "k="+value {
				return fmt.Errorf("the application was told %q, want %s in the end", app.config, value)
			}
			return nil
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	last, writing := 0, make(chan struct{})
	go func() { // on the store, whatever the component is
		defer close(writing)
		for ctx.Err() == nil {
			last++
			if err := set(fmt.Sprint(last)); err != nil {
				t.Errorf("set: %v", err)
				return
			}
		}
	}()
	for n := range rounds {
		r.write("settings.yaml", store("one", n+1))
		r.applied()
	}
	cancel()
	<-writing
	arrives(fmt.Sprint(last))
	// Another store: what is different there is told.
	r.write("settings.yaml", store("two", 0))
	r.applied()
	must(t, set("elsewhere"))
	arrives("elsewhere")
	r.must("GET", "/v1.0/configuration/settings/"+id.ID+"/unsubscribe", "", 200)
}

func TestLocksAreKeptWhenTheirStoreIsReplaced(t *testing.T) {
	locks := func(n int) string {
		return componentYAML("locks", "lock.nats", "bucket=l", fmt.Sprintf("initTimeout=%dms", 5000+n))
	}
	r := newRig(t, map[string]string{"locks.yaml": locks(0)}, nil)
	try := func(owner string, want string) {
		t.Helper()
		body := fmt.Sprintf(`{"resourceId":"r","lockOwner":%q,"expiryInSeconds":60}`, owner)
		if got := r.must("POST", "/v1.0-alpha1/lock/locks", body, 200); !strings.Contains(got, want) {
			t.Fatalf("%s: %s, want %s", owner, got, want)
		}
	}
	try("me", `true`)
	stop := hammer(t, func(w, i int) error {
		body := fmt.Sprintf(`{"resourceId":"r-%d","lockOwner":"w","expiryInSeconds":60}`, w)
		if status, answer, err := r.call("POST", "/v1.0-alpha1/lock/locks", body); err != nil || status != 200 || !strings.Contains(answer, "true") {
			return fmt.Errorf("lock: %d %s %w", status, answer, err)
		}
		if status, answer, err := r.call("POST", "/v1.0-alpha1/unlock/locks", body); err != nil || status != 200 || !strings.Contains(answer, `"status":0`) {
			return fmt.Errorf("unlock: %d %s %w", status, answer, err)
		}
		return nil
	})
	for n := range rounds {
		r.write("locks.yaml", locks(n+1))
		r.applied()
		try("you", `false`)
	}
	stop()
	if got := r.must("POST", "/v1.0-alpha1/unlock/locks", `{"resourceId":"r","lockOwner":"me"}`, 200); !strings.Contains(got, `"status":0`) {
		t.Errorf("unlock: %s", got)
	}
}

func TestWhatReadsASecretFollowsItsStore(t *testing.T) {
	dir := t.TempDir()
	secrets := func(n int, bucket string) string {
		path := filepath.Join(dir, fmt.Sprintf("secrets-%d.json", n))
		must(t, os.WriteFile(path, []byte(fmt.Sprintf(`{"bucket":%q,"n":"%d","key":"key-%d"}`, bucket, n, n)), 0o600))
		return componentYAML("vault", "secretstores.local.file", "secretsFile="+path)
	}
	outside := newServer(t, "outside")
	r := newRig(t, map[string]string{
		"a-store.yaml": "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: store\nspec:\n  type: state.nats\n  version: v1\n  metadata:\n" +
			"  - name: bucket\n    secretKeyRef: {name: bucket, key: bucket}\nauth:\n  secretStore: vault\n",
		"b-api.yaml": "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata:\n  name: api\nspec:\n  baseUrl: " + outside.URL + "\n  headers:\n" +
			"  - name: X-Key\n    secretKeyRef: {name: key, key: key}\nauth:\n  secretStore: vault\n",
		"vault.yaml": secrets(0, "even"),
	}, nil)
	r.must("POST", "/v1.0/state/store", `[{"key":"k","value":"even"}]`, 204)
	stop := hammer(t, func(_, _ int) error {
		if status, answer, err := r.call("GET", "/v1.0/secrets/vault/n", ""); err != nil || status != 200 {
			return fmt.Errorf("secret: %d %s %w", status, answer, err)
		}
		if status, answer, err := r.call("GET", "/v1.0/state/store/k", ""); err != nil || status != 200 && status != 204 {
			return fmt.Errorf("state: %d %s %w", status, answer, err)
		}
		if status, answer, err := r.call("GET", "/v1.0/invoke/api/method/x", ""); err != nil || status != 200 || !strings.HasPrefix(answer, "outside key-") {
			return fmt.Errorf("invoke: %d %s %w", status, answer, err)
		}
		return nil
	})
	for n := 1; n <= rounds; n++ {
		r.write("vault.yaml", secrets(n, []string{"even", "odd"}[n%2]))
		r.applied()
		if got := r.must("GET", "/v1.0/secrets/vault/n", "", 200); got != fmt.Sprintf(`{"n":"%d"}`, n) {
			t.Fatalf("round %d: the secret is %s", n, got)
		}
		if got := r.must("GET", "/v1.0/invoke/api/method/x", "", 200); got != fmt.Sprintf("outside key-%d", n) {
			t.Fatalf("round %d: the endpoint got %s", n, got)
		}
		r.must("GET", "/v1.0/state/store/k", "", []int{200, 204}[n%2])
	}
	stop()
}

func TestHTTPEndpointsAreReplacedUnderLoad(t *testing.T) {
	a, b := newServer(t, "a"), newServer(t, "b")
	api := func(url string) string {
		return "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata:\n  name: api\nspec:\n  baseUrl: " + url + "\n"
	}
	r := newRig(t, map[string]string{"api.yaml": api(a.URL)}, nil)
	held := make(chan string, 1)
	go func() {
		_, answer, err := r.call("GET", "/v1.0/invoke/api/method/hold", "")
		held <- fmt.Sprint(answer, err)
	}()
	<-a.held
	stop := hammer(t, func(_, _ int) error {
		status, answer, err := r.call("POST", "/v1.0/invoke/api/method/x", "body")
		if err != nil || status != 200 || answer != "a " && answer != "b " {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		return nil
	})
	for n := range rounds {
		to := []*server{b, a}[n%2]
		r.write("api.yaml", api(to.URL))
		r.applied()
		if got := r.must("GET", "/v1.0/invoke/api/method/x", "", 200); got != to.name+" " {
			t.Fatalf("after the change to %s the answer is %s", to.name, got)
		}
	}
	stop()
	a.release()
	if got := <-held; got != "a <nil>" {
		t.Errorf("the request under way ended with %s", got)
	}
	r.remove("api.yaml")
	r.applied()
	if status, answer, err := r.call("GET", "/v1.0/invoke/api/method/x", ""); err != nil || status < 400 {
		t.Errorf("an endpoint that was removed answers: %d %s %v", status, answer, err)
	}
}

func TestAnEndpointWhoseSecretIsMissingWaitsWhileTheFormerServes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secrets.json")
	must(t, os.WriteFile(path, []byte(`{"old":"1"}`), 0o600))
	outside := newServer(t, "outside")
	api := func(key string) string {
		return "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata:\n  name: api\nspec:\n  baseUrl: " + outside.URL + "\n  headers:\n" +
			"  - name: X-Key\n    secretKeyRef: {name: " + key + ", key: " + key + "}\nauth:\n  secretStore: vault\n"
	}
	vault := func(n int) string {
		return componentYAML("vault", "secretstores.local.file", "secretsFile="+path, fmt.Sprintf("initTimeout=%dms", 5000+n))
	}
	r := newRig(t, map[string]string{"api.yaml": api("old"), "vault.yaml": vault(0)}, nil)
	answers := func(want string) {
		t.Helper()
		if got := r.must("GET", "/v1.0/invoke/api/method/x", "", 200); got != want {
			t.Fatalf("the endpoint got %q, want %q", got, want)
		}
	}
	answers("outside 1")
	r.write("api.yaml", api("new"))
	got := r.next()
	if got.Err != nil || len(got.Pending) != 1 || !strings.Contains(got.Pending[0], `HTTPEndpoint api: `) || !strings.Contains(got.Pending[0], `"new"`) {
		t.Fatalf("%+v", got)
	}
	answers("outside 1")
	must(t, os.WriteFile(path, []byte(`{"new":"2"}`), 0o600))
	r.applied()
	answers("outside 2")
	r.write("api.yaml", api("missing"))
	if got := r.next(); len(got.Pending) != 1 {
		t.Fatalf("%+v", got)
	}
	r.write("api.yaml", api("new")) // taken back
	r.applied()
	answers("outside 2")
}
