package proa

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/echo"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
	"github.com/proa-io/proa/policy"
)

// world is what the API of a test reaches: components in memory.
type world struct {
	configs map[string]*config.Store
	jobs    *job.Store
	kept    keeper
	locks   map[string]*lock.Store
	states  map[string]*state.Store
	brokers map[string]*pubsub.Broker
}

func (w *world) Config(name string) (*config.Store, error) {
	return find(w.configs, "configuration", name)
}
func (w *world) Jobs() (*job.Store, error) {
	if w.jobs == nil {
		return nil, fault.New(fault.FailedPrecondition, "there is no jobs component").WithReason("dapr.not_configured")
	}
	return w.jobs, nil
}
func (w *world) CancelDelayed(_ context.Context, id string) (uint32, bool, error) {
	return w.kept.cancel(id)
}
func (w *world) Lock(name string) (*lock.Store, error) { return find(w.locks, "lock", name) }

// PubSub returns the named broker; "later" is one that keeps messages for later.
func (w *world) PubSub(name string) (*pubsub.Broker, error) {
	if name == "later" {
		return pubsub.New(component.Opened[pubsub.Driver](name, &w.kept), pubsub.Options{AppID: "shop", Chains: policy.None{}, Scheduler: &w.kept}), nil
	}
	return find(w.brokers, "pubsub", name)
}

func find[S any](stores map[string]*S, block, name string) (*S, error) {
	if s, ok := stores[name]; ok {
		return s, nil
	}
	return nil, fault.New(fault.NotFound, "there is no %s component %q", block, name).WithReason("dapr.not_found")
}

// Conversation returns a model that echoes, named llm.
func (w *world) Conversation(name string) (*conversation.Model, error) {
	if name != "llm" {
		return nil, fault.New(fault.NotFound, "there is no conversation component %q", name).WithReason("dapr.not_found")
	}
	return conversation.New(component.Opened[conversation.Driver](name, &echo.Model{}), conversation.Options{Chains: policy.None{}}), nil
}

func (w *world) State(name string) (*state.Store, error) { return find(w.states, "state", name) }

// plain hides the optional interfaces of a driver.
type plain struct{ state.Driver }

type plainBroker struct{ pubsub.Driver }

type plainConfig struct{ config.Driver }

type plainLock struct{ lock.Driver }

func newWorld(t *testing.T) *world {
	d, err := memory.OpenState(t.Context(), memory.StateConfig{MaxItems: 1000, MaxBytes: 1 << 24}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	store := func(name string, d state.Driver, appID string) *state.Store {
		return state.New(component.Opened(name, d), state.Options{AppID: appID, Chains: policy.None{}})
	}
	items, err := memory.OpenConfig(t.Context(), memory.ConfigConfig{}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	configStore := func(name string, d config.Driver) *config.Store {
		return config.New(component.Opened(name, d), config.Options{Chains: policy.None{}})
	}
	locks, err := memory.OpenLock(t.Context(), memory.LockConfig{}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	lockStore := func(name string, d lock.Driver) *lock.Store {
		return lock.New(component.Opened(name, d), lock.Options{Chains: policy.None{}})
	}
	jobs, err := memory.OpenJobs(t.Context(), memory.JobsConfig{MaxEntries: 100}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	bus, err := memory.OpenPubSub(t.Context(), memory.PubSubConfig{MaxMessages: 1000, MaxBytes: 1 << 20, Concurrency: 10}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	broker := func(name string, d pubsub.Driver) *pubsub.Broker {
		return pubsub.New(component.Opened(name, d), pubsub.Options{AppID: "shop"})
	}
	return &world{
		brokers: map[string]*pubsub.Broker{"bus": broker("bus", bus), "plain": broker("plain", plainBroker{bus})},
		jobs:    job.New(component.Opened[job.Driver]("jobs", jobs), job.Options{Namespace: "default", AppID: "shop", Chains: policy.None{}}),
		configs: map[string]*config.Store{"store": configStore("store", items), "plain": configStore("plain", plainConfig{items})},
		locks:   map[string]*lock.Store{"store": lockStore("store", locks), "plain": lockStore("plain", plainLock{locks})},
		states: map[string]*state.Store{
			"store": store("store", d, "shop"), "neighbour": store("neighbour", d, "bank"), "plain": store("plain", plain{d}, "shop"),
		},
	}
}

// serve serves an API over HTTP and gRPC on one port until the test ends.
func serve(t *testing.T, a *API) (addr string) {
	t.Helper()
	server := rpc.NewServer(rpc.Options{})
	a.Register(server)
	handle := func(ex proxy.Exchange) {
		r := ex.Request()
		if rpc.IsGRPC(r.Header) {
			server.Handle(ex)
			return
		}
		a.Handle(ex.Context(), ex, r.Path())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h2 := &http2.Server{Handler: handle}
	h1 := &http1.Server{Handler: handle, HandOver: func(c net.Conn, read []byte) { h2.ServeConn(c, read) }}
	var serving sync.WaitGroup
	serving.Go(func() { _ = h1.Serve(l) }) // ends with Close
	t.Cleanup(func() {
		_ = h1.Close()
		h2.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// post sends JSON and returns the status, the header and the body.
func post(t *testing.T, url, body string) (int, http.Header, string) {
	t.Helper()
	res := open(t, t.Context(), url, body)
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(text)
}

func open(t *testing.T, ctx context.Context, url, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// lines reads a stream of JSON lines.
type lines struct {
	t *testing.T
	r *bufio.Reader
}

func (l lines) next() string {
	l.t.Helper()
	line, err := l.r.ReadString('\n')
	if err != nil {
		l.t.Fatalf("the stream ended with %q, %v", line, err)
	}
	return strings.TrimSuffix(line, "\n")
}
