// Package outbox_test tests the outbox over real stores and real brokers: whole
// sidecars, each a process of its own that can be killed, and what arrives at
// the broker, read by the test itself.
package outbox_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/all"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/runtime"
)

// childVariable makes the test binary a sidecar; it holds the resources folder.
const childVariable = "OUTBOX_SIDECAR"

// Servers that the tests share.
var (
	redis    = testserver.Share(func(tb testserver.TB) *testserver.RedisServer { return testserver.Redis(tb, testserver.RedisOptions{}) })
	nats     = testserver.Share(func(tb testserver.TB) *testserver.NATSServer { return testserver.NATS(tb, testserver.NATSOptions{}) })
	postgres = testserver.Share(func(tb testserver.TB) *testserver.PostgresServer {
		return testserver.Postgres(tb, testserver.PostgresOptions{Config: []string{"max_connections = 200"}})
	})
	etcd = testserver.Share(func(tb testserver.TB) *testserver.EtcdServer { return testserver.Etcd(tb) })
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		if err := sidecarMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testserver.Main(m, redis, nats, postgres, etcd)
}

// sidecarMain runs a sidecar until SIGTERM. It prints the port of the API.
func sidecarMain(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	rt, err := runtime.New(ctx, sidecarConfig(dir, func(a runtime.Addresses) { fmt.Println("port", a.HTTPPort) }))
	if err != nil {
		return err
	}
	return rt.Run(ctx)
}

func sidecarConfig(dir string, listening func(runtime.Addresses)) runtime.Config {
	return runtime.Config{
		AppID: "shop", NoDefaultComponents: true, ResourcesPaths: []string{dir}, MetricsPort: -1, OnListening: listening,
		Engine: engine.Options{Dir: filepath.Join(dir, "home")}, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
}

// part is a component of a sidecar.
type part struct {
	typ      string
	settings map[string]string
}

// pair is a store and a broker.
type pair struct {
	store, broker func(tb testing.TB) part
}

func redisStore(tb testing.TB) part {
	return part{"state.redis", map[string]string{"redisHost": redis.Get(tb).Addr(), "redisDB": "1"}}
}

func redisBroker(tb testing.TB) part {
	return part{"pubsub.redis", map[string]string{"redisHost": redis.Get(tb).Addr()}}
}

func natsStore(tb testing.TB) part {
	return part{"state.nats", map[string]string{"url": nats.Get(tb).URL()}}
}

func natsBroker(tb testing.TB) part {
	return part{"pubsub.nats", map[string]string{"url": nats.Get(tb).URL()}}
}

func postgresStore(tb testing.TB) part {
	return part{"state.postgresql", map[string]string{"connectionString": postgres.Get(tb).URL("postgres"), "maxConns": "4"}}
}

func etcdStore(tb testing.TB) part {
	return part{"state.etcd", map[string]string{"endpoints": etcd.Get(tb).Addr()}}
}

// pairs are what the tests run on.
func pairs() map[string]pair {
	return map[string]pair{
		"RedisAndRedis":   {redisStore, redisBroker},
		"NATSAndNATS":     {natsStore, natsBroker},
		"EtcdAndRedis":    {etcdStore, redisBroker},
		"PostgresAndNATS": {postgresStore, natsBroker},
	}
}

// rig is a pair with resources of its own: nothing in it meets another test.
type rig struct {
	dir, topic string
	broker     part
}

// newRig writes the resources of a sidecar. Settings go to the store, beside
// those of the outbox.
func newRig(t *testing.T, p pair, settings map[string]string) *rig {
	t.Helper()
	fastloop.Skip(t, "starts a sidecar")
	r := &rig{dir: t.TempDir(), broker: p.broker(t)}
	unique := strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()) + "-" + rand.Text()
	r.topic = "orders-" + unique
	store := p.store(t)
	merged := map[string]string{"outboxPublishPubsub": "broker", "outboxPublishTopic": r.topic, "keyPrefix": strings.ToLower(unique)}
	for _, m := range []map[string]string{store.settings, settings} {
		for k, v := range m {
			merged[k] = v
		}
	}
	r.write(t, "store", part{store.typ, merged})
	r.write(t, "broker", r.broker)
	return r
}

func (r *rig) write(t *testing.T, name string, p part) {
	t.Helper()
	text := "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: " + name + "\nspec:\n  type: " + p.typ + "\n  version: v1\n  metadata:\n"
	for k, v := range p.settings {
		text += fmt.Sprintf("    - name: %s\n      value: %q\n", k, v)
	}
	if err := os.WriteFile(filepath.Join(r.dir, name+".yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sidecar is a sidecar in a process of its own.
type sidecar struct {
	cmd    *exec.Cmd
	exited chan struct{}
	port   int
	log    *logBuffer
}

// start starts a sidecar and waits until it listens.
func (r *rig) start(t *testing.T) *sidecar {
	t.Helper()
	s := &sidecar{cmd: exec.Command(os.Args[0]), exited: make(chan struct{}), log: &logBuffer{}}
	s.cmd.Env = append(os.Environ(), childVariable+"="+r.dir)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	port := make(chan int, 1)
	go func() {
		defer close(s.exited)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.Atoi(strings.TrimPrefix(lines.Text(), "port ")); err == nil {
				port <- n
			}
		}
		_ = s.cmd.Wait()
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("a sidecar said:\n%s", s.log)
		}
	})
	select {
	case s.port = <-port:
	case <-s.exited:
		t.Fatalf("the sidecar did not start:\n%s", s.log)
	}
	return s
}

// kill ends the sidecar as a crash does.
func (s *sidecar) kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// stop ends the sidecar in good order.
func (s *sidecar) stop(t *testing.T) {
	t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	<-s.exited
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the sidecar ended with code %d", code)
	}
}

// logBuffer keeps what was written last.
type logBuffer struct {
	mu   sync.Mutex
	text []byte
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	if most := 32 << 10; len(b.text) > most {
		b.text = b.text[len(b.text)-most:]
	}
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// client has a timeout that only what hangs runs into.
var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}

// call makes a request. The answer is empty when there is none.
func (s *sidecar) call(method, path string, body any) (status int, answer string) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, err.Error()
	}
	url := fmt.Sprintf("http://127.0.0.1:%d%s", s.port, path)
	req, err := http.NewRequest(method, url, bytes.NewReader(text)) //nolint:noctx // the client has a timeout
	if err != nil {
		return 0, err.Error()
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	content, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(content)
}

type (
	request struct {
		Key      string            `json:"key"`
		Value    any               `json:"value,omitempty"`
		ETag     string            `json:"etag,omitempty"`
		Metadata map[string]string `json:"metadata,omitempty"`
	}
	operation struct {
		Operation string  `json:"operation"`
		Request   request `json:"request"`
	}
)

func upsert(key string, value any, metadata map[string]string) operation {
	return operation{"upsert", request{Key: key, Value: value, Metadata: metadata}}
}

// transact carries out a transaction and returns the status.
func (s *sidecar) transact(ops ...operation) (int, string) {
	return s.call(http.MethodPost, "/v1.0/state/store/transaction", map[string]any{"operations": ops})
}

// event is what arrives at the broker.
type event struct {
	ID         string
	Attributes map[string]any
	Data       any
	Attempt    int
}

// events are what has arrived, in the order of the broker.
type events struct {
	mu   sync.Mutex
	list []event
}

// follow reads a topic from its beginning, by itself, one message at a time.
func (r *rig) follow(t *testing.T, topic string) *events {
	t.Helper()
	catalog, err := all.Catalog(all.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := catalog.Lookup(r.broker.typ, "")
	if err != nil {
		t.Fatal(err)
	}
	var settings component.Settings
	for k, v := range r.broker.settings {
		settings = append(settings, component.Setting{Name: k, Value: v})
	}
	d, err := component.Opener[pubsub.Driver](spec, settings, component.Env{Name: "broker", AppID: "reader", Namespace: "default"})(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := &events{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- d.Subscribe(ctx, pubsub.Subscription{Topic: topic, Group: "reader", MaxInFlight: 1}, e.take)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("reading topic %s: %v", topic, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *events) take(_ context.Context, d *pubsub.Delivery) error {
	var attributes map[string]any
	if err := json.Unmarshal(d.Data, &attributes); err != nil {
		return err
	}
	id, _ := attributes["id"].(string)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event{id, attributes, attributes["data"], d.Attempt})
	return nil
}

func (e *events) all() []event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]event(nil), e.list...)
}

// within bounds everything that is waited for.
const within = 30 * time.Second

// await waits until f is satisfied with what has arrived.
func (e *events) await(t *testing.T, f func([]event) error) []event {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		list := e.all()
		err := f(list)
		if err == nil {
			return list
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", within, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// awaitCount waits until so many different events are there.
func (e *events) awaitCount(t *testing.T, n int) []event {
	t.Helper()
	return e.await(t, func(list []event) error {
		ids := map[string]bool{}
		for _, ev := range list {
			ids[ev.ID] = true
		}
		if len(ids) < n {
			return fmt.Errorf("%d of %d events have arrived", len(ids), n)
		}
		return nil
	})
}
