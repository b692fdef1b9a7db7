package grpcapi

import (
	"bytes"
	"context"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
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
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
)

var (
	_ Invoker     = (*invoke.Service)(nil)
	_ dapr.Blocks = (*world)(nil)
)

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
	jobs     *job.Store     // nil for none
	items    *memory.Config // beneath configs

	mu       sync.Mutex
	notReady []string
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
	return dapr.Metadata{AppID: "shop", Version: "1.18.0", Extended: maps.Clone(w.extended)}
}

func (w *world) SetMetadata(key, value string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.extended[key] = value
}

func (w *world) NotReady(bool) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.notReady
}

func (w *world) Shutdown(force bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = append(w.stopped, force)
}

// must returns v when there is no error.
func must[T any](tb testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

// newWorld returns a world with one component of each kind in order, and state
// stores with troubles of several kinds.
func newWorld(tb testing.TB) *world {
	tb.Helper()
	ctx, env := tb.Context(), component.Env{}
	w := &world{states: map[string]*state.Store{}, extended: map[string]string{}}
	mem := must[*memory.State](tb)(memory.OpenState(ctx, memory.StateConfig{MaxItems: 10_000, MaxBytes: 64 << 20}, env))
	for name, d := range map[string]state.Driver{
		"statestore": strictState{mem}, "plain": plainState{mem}, "small": smallState{mem},
		"busy":  brokenState{mem, fault.New(fault.ResourceExhausted, "100 calls per second are the most allowed").WithRetryAfter(1500 * time.Millisecond)},
		"away":  brokenState{mem, fault.New(fault.Unavailable, "connection refused")},
		"wrong": brokenState{mem, errUnclassified{}},
	} {
		w.states[name] = state.New(component.Opened(name, d), state.Options{AppID: "shop", Chains: policy.None{}})
	}
	const key = "00112233445566778899aabbccddeeff"
	sealed := must[state.Driver](tb)(state.Encrypted(mem, state.Config{PrimaryEncryptionKey: component.NewSecret(key)},
		component.Settings{{Name: "primaryEncryptionKey", Value: key, SecretName: "mysecret"}}))
	w.states["encrypted"] = state.New(component.Opened("encrypted", sealed), state.Options{AppID: "shop", Chains: policy.None{}})
	topics := must[*memory.PubSub](tb)(memory.OpenPubSub(ctx, memory.PubSubConfig{MaxMessages: 10_000, MaxBytes: 64 << 20, Concurrency: 50}, env))
	w.brokers = map[string]*pubsub.Broker{}
	w.brokers["picky"] = pubsub.New(component.Opened[pubsub.Driver]("picky", pickyBroker{topics}), pubsub.Options{AppID: "shop", Chains: policy.None{}})
	for name, cfg := range map[string]pubsub.Config{"pubsub": {}, "scoped": {PublishingScopes: "shop=orders", SubscriptionScopes: "shop=orders"}} {
		w.brokers[name] = pubsub.New(component.Opened[pubsub.Driver](name, topics), pubsub.Options{
			AppID: "shop", Config: cfg, Chains: policy.None{}, Grace: 5 * time.Second,
		})
	}
	w.secrets = map[string]*secret.Store{"vault": secret.New(component.Opened[secret.Driver]("vault", fakeSecrets{}),
		secret.Options{Chains: policy.None{}, Scope: secret.Scope{Denied: []string{"root"}}})}
	locks := must[*memory.Lock](tb)(memory.OpenLock(ctx, memory.LockConfig{}, env))
	w.locks = map[string]*lock.Store{"lockstore": lock.New(component.Opened[lock.Driver]("lockstore", locks),
		lock.Options{Chains: policy.None{}, AppID: "shop"})}
	w.items = must[*memory.Config](tb)(memory.OpenConfig(ctx, memory.ConfigConfig{Items: map[string]string{"color": "red", "size": "big"}}, env))
	w.configs = map[string]*config.Store{"configstore": config.New(component.Opened[config.Driver]("configstore", w.items),
		config.Options{Chains: policy.None{}})}
	w.addTroubles()
	w.models = map[string]*conversation.Model{"llm": newModel(tb)}
	w.jobs = newJobs(tb)
	w.cryptos = map[string]*crypto.Provider{"keys": newKeys(tb)}
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

// strictState knows an etag that cannot be one: "bad".
type strictState struct{ *memory.State }

func (d strictState) Put(ctx context.Context, key string, value []byte, o state.PutOptions) (string, error) {
	if o.ETag == "bad" {
		return "", state.ErrETagInvalid("a number")
	}
	return d.State.Put(ctx, key, value, o)
}

func (d strictState) Delete(ctx context.Context, key string, o state.DeleteOptions) error {
	if o.ETag == "bad" {
		return state.ErrETagInvalid("a number")
	}
	return d.State.Delete(ctx, key, o)
}

func (d strictState) Transact(ctx context.Context, ops []state.Op, o state.TransactOptions) error {
	for _, op := range ops {
		if op.ETag == "bad" {
			return state.ErrETagInvalid("a number")
		}
	}
	return d.State.Transact(ctx, ops, o)
}

// plainState has no transactions.
type plainState struct{ state.Driver }

// smallState has transactions of two operations.
type smallState struct{ *memory.State }

func (smallState) MaxTransaction() int { return 2 }

// errUnclassified is a bug of a driver.
type errUnclassified struct{}

func (errUnclassified) Error() string { return "the password hunter2 of shop||k1 is wrong" }

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

// pickyBroker refuses what has poison in it.
type pickyBroker struct{ pubsub.Driver }

func (b pickyBroker) Publish(ctx context.Context, m *pubsub.Message) error {
	if bytes.Contains(m.Data, []byte("poison")) {
		return fault.New(fault.Internal, "the broker refused it")
	}
	return b.Driver.Publish(ctx, m)
}

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
	return nil, fault.New(fault.NotFound, "no such secret").WithReason(secret.ReasonNotFound)
}

func (s fakeSecrets) List(_ context.Context, _ map[string]string, want func(string) bool) (map[string]map[string]string, error) {
	out := s.all()
	maps.DeleteFunc(out, func(name string, _ map[string]string) bool { return !want(name) })
	return out, nil
}

func (fakeSecrets) Close() error { return nil }

// fakeBinding gives back what it is given.
type fakeBinding struct{}

func (fakeBinding) Operations() []string { return []string{"create", "fail"} }

func (fakeBinding) Invoke(_ context.Context, r binding.Request) (binding.Response, error) {
	out := binding.Response{Data: r.Data, Metadata: maps.Clone(r.Metadata)}
	out.Metadata["Bad Name"], out.Metadata["lines"] = "x", "one\ntwo ü"
	if r.Operation == "fail" {
		return out, fault.New(fault.Internal, "the other side said 500")
	}
	return out, nil
}

func (fakeBinding) Close() error { return nil }

// fakeInvoker answers invocations by a function.
type fakeInvoker struct {
	forward func(ex proxy.Exchange, id, path string) error
	call    func(id string, r invoke.Request) (*invoke.Reply, error)
}

func (f fakeInvoker) Forward(ex proxy.Exchange, id, path string) (proxy.Progress, error) {
	return proxy.Progress{}, f.forward(ex, id, path)
}

func (f fakeInvoker) Call(_ context.Context, id string, r invoke.Request, maxBody int64) (*invoke.Reply, error) {
	reply, err := f.call(id, r)
	if err == nil && int64(len(reply.Body)) > maxBody {
		return nil, fault.New(fault.ResourceExhausted, "the answer is larger than %d bytes, the most allowed", maxBody)
	}
	return reply, err
}

// serve serves the API until the test ends and returns a connection to it.
func serve(tb testing.TB, a *API) *grpc.ClientConn {
	tb.Helper()
	l := must[net.Listener](tb)(net.Listen("tcp", "127.0.0.1:0"))
	s, done := &http2.Server{Handler: a.Handle}, make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	tb.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	cc := must[*grpc.ClientConn](tb)(grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())))
	tb.Cleanup(func() { _ = cc.Close() })
	return cc
}

// connect returns a client of an API for w.
func connect(tb testing.TB, w *world) rtv1.DaprClient {
	tb.Helper()
	return rtv1.NewDaprClient(serve(tb, New(Options{AppID: "shop", Blocks: w})))
}

// timeout bounds a test that would hang if it failed.
func timeout(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// want is how a call must fail. An empty reason or text is not looked at.
type want struct {
	code   codes.Code
	reason string
	text   string // in the message
}

func (w want) check(tb testing.TB, err error) {
	tb.Helper()
	st := status.Convert(err)
	if st.Code() != w.code {
		tb.Errorf("got %v, want the code %v", err, w.code)
		return
	}
	if !strings.Contains(st.Message(), w.text) {
		tb.Errorf("got %q, want %q in it", st.Message(), w.text)
	}
	if info := errorInfo(st); info.GetReason() != w.reason && w.reason != "" {
		tb.Errorf("the reason is %v, want %s", info, w.reason)
	}
}

func errorInfo(st *status.Status) *errdetails.ErrorInfo {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// with returns a context that sends metadata.
func with(ctx context.Context, pairs ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}
