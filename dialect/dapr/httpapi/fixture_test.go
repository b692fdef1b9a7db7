package httpapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/driver/echo"
	"github.com/proa-io/proa/driver/localstorage"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
)

var _ Invoker = (*invoke.Service)(nil)

// world is what the API of a test reaches: components in memory, and fakes
// where memory has none.
type world struct {
	states   map[string]*state.Store
	brokers  map[string]*pubsub.Broker
	secrets  map[string]*secret.Store
	locks    map[string]*lock.Store
	configs  map[string]*config.Store
	bindings map[string]*binding.Binding
	cryptos  map[string]*crypto.Provider
	models   map[string]*conversation.Model
	jobs     *job.Store // nil for none

	rawState map[string]state.Driver // beneath states
	topics   *fakeBroker

	mu       sync.Mutex
	notReady map[bool][]string
	extended map[string]string
	stopped  []bool // the force of each Shutdown
}

func (w *world) State(name string) (*state.Store, error) {
	return dapr.Lookup(state.Block, w.states, name)
}

func (w *world) PubSub(name string) (*pubsub.Broker, error) {
	return dapr.Lookup(pubsub.Block, w.brokers, name)
}

func (w *world) Secret(name string) (*secret.Store, error) {
	return dapr.Lookup(secret.Block, w.secrets, name)
}

func (w *world) Lock(name string) (*lock.Store, error) {
	return dapr.Lookup(lock.Block, w.locks, name)
}

func (w *world) Config(name string) (*config.Store, error) {
	return dapr.Lookup(config.Block, w.configs, name)
}

func (w *world) Binding(name string) (*binding.Binding, error) {
	return dapr.Lookup(binding.Block, w.bindings, name)
}

func (w *world) Crypto(name string) (*crypto.Provider, error) {
	return dapr.Lookup(crypto.Block, w.cryptos, name)
}

func (w *world) Conversation(name string) (*conversation.Model, error) {
	return dapr.Lookup(conversation.Block, w.models, name)
}

func (w *world) Jobs() (*job.Store, error) {
	if w.jobs == nil {
		return dapr.Lookup[*job.Store](job.Block, nil, "")
	}
	return w.jobs, nil
}

func (w *world) Metadata() dapr.Metadata {
	w.mu.Lock()
	defer w.mu.Unlock()
	extended := map[string]string{}
	for k, v := range w.extended {
		extended[k] = v
	}
	return dapr.Metadata{
		AppID: "shop", Version: "1.18.0", Extended: extended,
		Components: []dapr.Component{{Name: "statestore", Type: "state.in-memory", Version: "v1", Capabilities: []string{"ETAG", "TTL"}}},
		App:        dapr.AppConnection{Port: 3000, Protocol: "http", ChannelAddress: "127.0.0.1"},
	}
}

func (w *world) SetMetadata(key, value string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.extended[key] = value
}

func (w *world) NotReady(outbound bool) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.notReady[outbound]
}

func (w *world) Shutdown(force bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = append(w.stopped, force)
}

// newWorld returns a world with one component of each kind in order, and state
// stores and brokers with every trouble that there is.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		states: map[string]*state.Store{}, rawState: map[string]state.Driver{}, topics: &fakeBroker{},
		notReady: map[bool][]string{}, extended: map[string]string{},
	}
	mem, err := memory.OpenState(t.Context(), memory.StateConfig{MaxItems: 10_000, MaxBytes: 1 << 20}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	w.addState("statestore", countingState{mem, &counter{}})
	w.addState("plain", plainState{mem})
	w.states["neighbour"] = state.New(component.Opened[state.Driver]("neighbour", mem), state.Options{AppID: "bank", Chains: policy.None{}})
	w.addState("small", smallState{mem})
	w.addState("encrypted", mem)
	w.encrypt(t, "encrypted")
	w.addState("busy", brokenState{mem, fault.New(fault.ResourceExhausted, "100 calls per second are the most allowed").WithRetryAfter(1500 * time.Millisecond)})
	w.addState("away", brokenState{mem, fault.New(fault.Unavailable, "connection refused")})
	w.addState("wrong", brokenState{mem, fmt.Errorf("the password hunter2 of shop||k1 is wrong")})
	opening := component.NewHandle(component.HandleOptions{Name: "opening", Type: "state.redis", Wait: time.Nanosecond},
		func(context.Context) (state.Driver, error) { return nil, fault.New(fault.Unavailable, "no") })
	w.states["opening"] = state.New(opening, state.Options{AppID: "shop", Chains: policy.None{}})

	w.brokers = map[string]*pubsub.Broker{}
	for name, cfg := range map[string]pubsub.Config{"pubsub": {}, "scoped": {PublishingScopes: "shop=orders"}} {
		w.brokers[name] = pubsub.New(component.Opened[pubsub.Driver](name, w.topics), pubsub.Options{AppID: "shop", Config: cfg})
	}
	w.secrets = map[string]*secret.Store{"vault": secret.New(component.Opened[secret.Driver]("vault", fakeSecrets{}),
		secret.Options{Chains: policy.None{}, Scope: secret.Scope{Denied: []string{"root"}}})}
	locks, err := memory.OpenLock(t.Context(), memory.LockConfig{}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	w.locks = map[string]*lock.Store{"lockstore": lock.New(component.Opened[lock.Driver]("lockstore", locks),
		lock.Options{Chains: policy.None{}, AppID: "shop"})}
	w.configs = map[string]*config.Store{"configstore": newConfig(t)}
	w.addTroubles()
	carry(t, w.configs["away"])
	w.models = map[string]*conversation.Model{"llm": newModel(t)}
	w.jobs = newJobs(t)
	w.cryptos = map[string]*crypto.Provider{"keys": newKeys(t)}
	w.bindings = map[string]*binding.Binding{"echo": binding.New(component.Opened[binding.Driver]("echo", fakeBinding{}),
		binding.Options{Chains: policy.None{}, Capabilities: []string{binding.CapabilityOutput}})}
	return w
}

// newModel returns a model that echoes.
func newModel(tb testing.TB) *conversation.Model {
	tb.Helper()
	d, err := echo.Open(tb.Context(), echo.Config{Model: "parrot"}, component.Env{})
	if err != nil {
		tb.Fatal(err)
	}
	return conversation.New(component.Opened[conversation.Driver]("llm", d), conversation.Options{Chains: policy.None{}})
}

// newJobs returns a store of jobs that nobody triggers.
func newJobs(tb testing.TB) *job.Store {
	tb.Helper()
	d, err := memory.OpenJobs(tb.Context(), memory.JobsConfig{MaxEntries: 1000}, component.Env{})
	if err != nil {
		tb.Fatal(err)
	}
	return job.New(component.Opened[job.Driver]("jobstore", d), job.Options{Namespace: "default", AppID: "shop", Chains: policy.None{}})
}

// newKeys returns a provider with a symmetric key of 32 bytes, "oct", and one on
// an elliptic curve, "ec".
func newKeys(tb testing.TB) *crypto.Provider {
	tb.Helper()
	dir := tb.TempDir()
	for name, text := range map[string]string{
		"oct": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
		"ec":  `{"kty":"EC","crv":"P-256","x":"rNKqxITZe5V2xzXCQ5RRPd-SbdpXe4l4Fs2Vi0GM7CY","y":"NCA4iQRz1IfzK_AIu3xLfSKhMO-Izu6Pufc_GCMwdDQ","d":"HGPUP5h38NuDXEWMKfSNxdLUapHVZBhW0jfmT2ccFuU"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	d, err := localstorage.OpenKeys(tb.Context(), localstorage.KeysConfig{Path: dir}, component.Env{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.Close() })
	return crypto.New(component.Opened[crypto.Driver]("keys", d), crypto.Options{Chains: policy.None{}})
}

func (w *world) addState(name string, d state.Driver) {
	w.rawState[name] = d
	w.states[name] = state.New(component.Opened(name, d), state.Options{AppID: "shop", Chains: policy.None{}})
}

// encrypt makes a store encrypt its values.
func (w *world) encrypt(t testing.TB, name string) {
	t.Helper()
	const key = "00112233445566778899aabbccddeeff"
	d, err := state.Encrypted(w.rawState[name], state.Config{PrimaryEncryptionKey: component.NewSecret(key)},
		component.Settings{{Name: "primaryEncryptionKey", Value: key, SecretName: "mysecret"}})
	if err != nil {
		t.Fatal(err)
	}
	w.states[name] = state.New(component.Opened(name, d), state.Options{AppID: "shop", Chains: policy.None{}})
}

// newConfig returns a configuration store that carries subscriptions until the
// test ends.
func newConfig(t testing.TB) *config.Store {
	t.Helper()
	d, err := memory.OpenConfig(t.Context(), memory.ConfigConfig{}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write(t.Context(), []config.Write{{Key: "color", Value: "red"}, {Key: "size", Value: "<big>"}}); err != nil {
		t.Fatal(err)
	}
	s := config.New(component.Opened[config.Driver]("configstore", d), config.Options{Chains: policy.None{}})
	carry(t, s)
	return s
}

// carry lets a store carry subscriptions until the test ends.
func carry(t testing.TB, s *config.Store) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("configuration store: %v", err)
		}
	})
}

// counter numbers etags, so that transcripts can name them.
type counter struct {
	mu    sync.Mutex
	byTag map[string]string
	byNum map[string]string
}

func (c *counter) number(etag string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if etag == "" {
		return ""
	}
	if c.byTag == nil {
		c.byTag, c.byNum = map[string]string{}, map[string]string{}
	}
	if _, ok := c.byTag[etag]; !ok {
		n := fmt.Sprint(len(c.byTag) + 1)
		c.byTag[etag], c.byNum[n] = n, etag
	}
	return c.byTag[etag]
}

func (c *counter) etag(number string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if etag, ok := c.byNum[number]; ok {
		return etag
	}
	return number
}

// countingState is a state driver whose etags are 1, 2, 3, ...
type countingState struct {
	*memory.State
	count *counter
}

func (d countingState) Get(ctx context.Context, key string, o state.GetOptions) (state.Item, bool, error) {
	item, found, err := d.State.Get(ctx, key, o)
	item.ETag = d.count.number(item.ETag)
	return item, found, err
}

func (d countingState) BulkGet(ctx context.Context, keys []string, o state.GetOptions) []state.GetResult {
	out := make([]state.GetResult, len(keys))
	for i, k := range keys {
		out[i].Item, out[i].Found, out[i].Err = d.Get(ctx, k, o)
	}
	return out
}

func (d countingState) Put(ctx context.Context, key string, value []byte, o state.PutOptions) (string, error) {
	if o.ETag == "bad" {
		return "", state.ErrETagInvalid("a number")
	}
	o.ETag = d.count.etag(o.ETag)
	etag, err := d.State.Put(ctx, key, value, o)
	return d.count.number(etag), err
}

func (d countingState) Delete(ctx context.Context, key string, o state.DeleteOptions) error {
	o.ETag = d.count.etag(o.ETag)
	return d.State.Delete(ctx, key, o)
}

func (d countingState) Query(ctx context.Context, scope state.Scope, q *state.Query, o state.QueryOptions) (state.QueryPage, error) {
	page, err := d.State.Query(ctx, scope, q, o)
	for i := range page.Items {
		page.Items[i].ETag = d.count.number(page.Items[i].ETag)
	}
	return page, err
}

// plainState has no transactions.
type plainState struct{ state.Driver }

// smallState has transactions of two operations.
type smallState struct{ *memory.State }

func (smallState) MaxTransaction() int { return 2 }

// brokenState fails.
type brokenState struct {
	state.Driver
	err error
}

func (d brokenState) Get(context.Context, string, state.GetOptions) (state.Item, bool, error) {
	return state.Item{}, false, d.err
}

func (d brokenState) Put(context.Context, string, []byte, state.PutOptions) (string, error) {
	return "", d.err
}

func (d brokenState) Delete(context.Context, string, state.DeleteOptions) error { return d.err }

func (d brokenState) Query(context.Context, state.Scope, *state.Query, state.QueryOptions) (state.QueryPage, error) {
	return state.QueryPage{}, d.err
}

// fakeBroker keeps the last message that is published to it, and refuses the topic "full".
type fakeBroker struct {
	mu        sync.Mutex
	published pubsub.Message
}

func (b *fakeBroker) Publish(_ context.Context, m *pubsub.Message) error {
	if m.Topic == "full" || bytes.Contains(m.Data, []byte("poison")) {
		return fault.New(fault.Internal, "the broker refused it")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := *m
	kept.Data = bytes.Clone(m.Data)
	b.published = kept
	return nil
}

func (b *fakeBroker) last() pubsub.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.published
}

func (b *fakeBroker) Subscribe(ctx context.Context, _ pubsub.Subscription, _ pubsub.Handler) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func (b *fakeBroker) Close() error { return nil }

// fakeSecrets holds two secrets, and one that the scope denies.
type fakeSecrets struct{}

func (fakeSecrets) all() map[string]map[string]string {
	return map[string]map[string]string{
		"db": {"password": "p&w", "user": "u"}, "key": {"key": "k"}, "root": {"root": "never shown"},
	}
}

func (s fakeSecrets) Get(_ context.Context, name string, _ map[string]string) (map[string]string, error) {
	if v, ok := s.all()[name]; ok {
		return v, nil
	}
	return nil, fault.New(fault.NotFound, "no such secret")
}

func (s fakeSecrets) List(_ context.Context, _ map[string]string, want func(string) bool) (map[string]map[string]string, error) {
	out := map[string]map[string]string{}
	for name, v := range s.all() {
		if want(name) {
			out[name] = v
		}
	}
	return out, nil
}

func (fakeSecrets) Close() error { return nil }

// fakeBinding gives back what it is given.
type fakeBinding struct{}

func (fakeBinding) Operations() []string { return []string{"create", "fail", "nothing"} }

func (fakeBinding) Invoke(_ context.Context, r binding.Request) (binding.Response, error) {
	meta := map[string]string{"statusCode": "200", "bad name": "x", "bad value": "y"}
	for _, k := range []string{"to", "traceparent", "baggage", "lines"} {
		if v, ok := r.Metadata[k]; ok {
			meta["got-"+k] = v
		}
	}
	switch r.Operation {
	case "fail":
		return binding.Response{Metadata: meta}, fault.New(fault.Internal, "the other side said 500")
	case "nothing":
		return binding.Response{Metadata: meta}, nil
	}
	if r.Data == nil {
		return binding.Response{Data: []byte(`"no data"`), Metadata: meta}, nil
	}
	return binding.Response{Data: r.Data, Metadata: meta}, nil
}

func (fakeBinding) Close() error { return nil }

// echoInvoker answers an invocation with what it would have sent.
type echoInvoker struct{}

func (e echoInvoker) Forward(ex proxy.Exchange, id, path string) (proxy.Progress, error) {
	if err := e.forward(ex, id, path); err != nil {
		return proxy.Progress{}, err
	}
	return proxy.Progress{HeadSent: true, Status: 201}, nil
}

func (echoInvoker) forward(ex proxy.Exchange, id, path string) error {
	switch id {
	case "nobody":
		return fault.New(fault.NotFound, "no application %q is known", id)
	case "forbidden":
		return fault.New(fault.PermissionDenied, "access denied")
	case "busy":
		return fault.New(fault.ResourceExhausted, "too many").WithRetryAfter(time.Second)
	}
	r := ex.Request()
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s of %s", r.Method, path, id)
	for _, f := range r.Header {
		if !slices.Contains([]string{"host", "content-length", "user-agent"}, strings.ToLower(f.Name)) {
			fmt.Fprintf(&out, "\n%s: %s", strings.ToLower(f.Name), f.Value)
		}
	}
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "\n%s", body)
	}
	h := proxy.Header{{Name: "Content-Type", Value: "text/plain"}, {Name: "X-App", Value: "yes"}}
	if err := ex.Respond(201, h, int64(out.Len())); err != nil {
		return nil
	}
	if r.Method != "HEAD" {
		_, _ = io.WriteString(ex, out.String())
	}
	return nil
}

// fakeApp collects configuration updates.
type fakeApp struct{ updates chan config.Update }

func (a fakeApp) OnConfigurationUpdate(_ context.Context, store string, u config.Update) error {
	if store == "configstore" {
		a.updates <- u
	}
	return nil
}

// fakeExchange is an exchange in memory.
type fakeExchange struct {
	req      proxy.Request
	ctx      context.Context //nolint:containedctx // an exchange has one
	answered int
	status   int
	header   proxy.Header
	length   int64
	body     bytes.Buffer
	problem  string // the first misuse
}

func (ex *fakeExchange) Request() *proxy.Request         { return &ex.req }
func (ex *fakeExchange) Context() context.Context        { return ex.ctx }
func (ex *fakeExchange) Interim(int, proxy.Header) error { return nil }
func (ex *fakeExchange) Flush() error                    { return nil }
func (ex *fakeExchange) Trailer(proxy.Header) error      { return nil }
func (ex *fakeExchange) Remote() netip.AddrPort          { return netip.AddrPort{} }
func (ex *fakeExchange) TLS() *tls.ConnectionState       { return nil }
func (ex *fakeExchange) Abort()                          { ex.problem = "aborted" }
func (ex *fakeExchange) Upgrade(proxy.Header) (io.ReadWriteCloser, error) {
	return nil, fault.New(fault.Unimplemented, "no upgrade")
}

func (ex *fakeExchange) Respond(status int, h proxy.Header, contentLength int64) error {
	for _, f := range h {
		if strings.ContainsAny(f.Value, "\r\n\x00") || !dapr.IsToken(f.Name) {
			return fault.New(fault.InvalidArgument, "field %q", f.Name)
		}
	}
	ex.answered++
	ex.status, ex.length = status, contentLength
	ex.header = append(ex.header[:0], h...)
	return nil
}

func (ex *fakeExchange) Write(p []byte) (int, error) {
	if ex.answered != 1 {
		ex.problem = "content without a head"
	}
	return ex.body.Write(p)
}

// nullBroker takes everything and keeps nothing.
type nullBroker struct{ *fakeBroker }

func (nullBroker) Publish(context.Context, *pubsub.Message) error { return nil }

func (w *world) addNullBroker() {
	w.brokers["null"] = pubsub.New(component.Opened[pubsub.Driver]("null", nullBroker{w.topics}), pubsub.Options{AppID: "shop"})
}
