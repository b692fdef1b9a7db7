package runtime

import (
	"context"
	"crypto/tls"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/resource"
)

// application is the application beside, as far as the sidecar calls it: it is
// awaited, asked what it subscribes to, fed with events while it is well, and
// asked anew when it comes back after it was gone.
type application struct {
	rt        *Runtime
	channel   *appchannel.Channel
	transport proxy.RoundTripper
	closer    func()
	limit     *policy.Bulkhead // nil for no bound
	runner    *pubsub.Runner
	ready     atomic.Bool // it answers, and has been asked

	inputs inputs

	switching sync.Mutex // held while deliveries begin or end

	mu           sync.Mutex // guards the fields below
	present      bool       // it listens
	healthy      bool
	unfed        chan struct{} // closed while it gets nothing
	asked        bool          // it has said what it subscribes to
	declared     []pubsub.SubscriptionSpec
	programmatic []pubsub.SubscriptionSpec
}

// newApplication returns nil when there is no application to call.
func newApplication(rt *Runtime) *application {
	c := &rt.cfg
	if c.AppPort == 0 {
		return nil
	}
	a := &application{rt: rt, healthy: !c.AppHealth.Enabled, unfed: make(chan struct{})}
	close(a.unfed)
	a.inputs = inputs{rt: rt, app: a}
	address := net.JoinHostPort(c.AppAddress, strconv.Itoa(c.AppPort))
	var tc *tls.Config
	if strings.HasSuffix(c.AppProtocol, "s") {
		// The application is on this host or in this pod and shows a
		// certificate of its own making, as Dapr allows.
		tc = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, ServerName: c.AppAddress} //nolint:gosec // see above
	}
	switch c.AppProtocol {
	case "http", "https":
		client := &http1.Client{Address: address, Name: "application " + c.AppID, TLS: tc, MaxHead: c.maxHead()}
		a.transport, a.closer = client, func() { _ = client.Close() }
	default:
		if tc != nil {
			tc.NextProtos = []string{"h2"}
		}
		client := &http2.Client{Addr: address, TLS: tc, Log: c.Log, Config: http2.Config{MaxHeaderBytes: c.maxHead()}}
		a.transport, a.closer = client, client.Close
	}
	a.transport = rt.wrapApp(&measuredApp{rt: rt, to: a.transport})
	if c.AppMaxConcurrency > 0 {
		a.limit = policy.NewBulkhead(c.AppMaxConcurrency, -1)
	}
	a.channel = appchannel.New(appchannel.Options{
		AppID: c.AppID, Protocol: c.AppProtocol, Transport: a.transport, Address: address, Token: c.AppAPIToken, Limit: a.limit,
		Health: appchannel.Health{
			Path: c.AppHealth.Path, Interval: c.AppHealth.Interval, Timeout: c.AppHealth.Timeout, Threshold: c.AppHealth.Threshold,
		},
		BindingProbeTimeout: c.BindingProbeTimeout, Ask: rt.resiliency.retry(initializationRetries), Tracing: rt.signals.tracing, Metrics: rt.metrics, Log: c.Log,
	})
	a.runner = pubsub.NewRunner(pubsub.RunnerOptions{
		Broker: func(name string) (*pubsub.Broker, bool) { b, ok := rt.table.Load().brokers[name]; return b, ok },
		App:    a.channel, Log: c.Log,
	})
	a.declared = declaredSubscriptions(rt.table.Load().set)
	return a
}

func declaredSubscriptions(set *resource.Set) []pubsub.SubscriptionSpec {
	var out []pubsub.SubscriptionSpec
	for i := range set.Subscriptions {
		out = append(out, subscriptionSpec(&set.Subscriptions[i]))
	}
	return out
}

// follow takes the subscriptions and input bindings of a table instead of those
// there were. It returns the listeners that end.
func (a *application) follow(table *components) []*listener {
	a.mu.Lock()
	a.declared = declaredSubscriptions(table.set)
	asked := a.asked
	a.mu.Unlock()
	if asked {
		a.subscribe()
	}
	return a.inputs.follow(table)
}

// invocable is the application as other applications invoke it.
func (a *application) invocable() *invoke.App {
	out := &invoke.App{Token: a.rt.cfg.AppAPIToken.Reveal(), Host: a.rt.cfg.AppAddress}
	out.Address = net.JoinHostPort(a.rt.cfg.AppAddress, strconv.Itoa(a.rt.cfg.AppPort))
	if a.limit != nil {
		out.Limit = a.limit.Policy
	}
	switch a.rt.cfg.AppProtocol {
	case "grpc", "grpcs":
		out.HTTP, out.GRPC = a.channel.HTTPAdapter(), a.transport
	case "h2c":
		out.HTTP, out.GRPC = a.transport, a.transport
	default:
		out.HTTP = a.transport
	}
	return out
}

// services feed the application.
func (a *application) services() []service {
	return []service{{"subscriptions", a.runner.Run}, {"application", a.run}}
}

// run follows the application until ctx ends.
func (a *application) run(ctx context.Context) error {
	defer a.closer()
	defer a.inputs.stop()
	a.runner.Pause()
	if err := a.channel.AwaitApp(ctx); err != nil {
		return nil //nolint:nilerr // ctx has ended
	}
	a.came(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	if a.rt.cfg.AppHealth.Enabled {
		wg.Go(func() {
			_ = a.channel.RunHealth(ctx, func(healthy bool) { // ends with ctx
				a.set(ctx, func() { a.healthy = healthy })
			})
		})
	}
	return a.channel.Watch(ctx, a.went, func() { a.came(ctx) })
}

// came asks the application what it wants, and feeds it.
func (a *application) came(ctx context.Context) {
	a.discover(ctx)
	a.ready.Store(true)
	a.set(ctx, func() { a.present = true })
}

// newcomer is how much sooner than it is noticed that the application is gone its
// successor may have subscribed to configuration items already.
const newcomer = 2 * time.Second

// went stops feeding an application that is gone. Its subscriptions to
// configuration items end: it cannot do that any more, and its successor
// subscribes anew.
func (a *application) went() {
	a.ready.Store(false)
	for name, store := range a.rt.table.Load().configs {
		if n := store.EndSubscriptions(time.Now().Add(-newcomer)); n > 0 {
			a.rt.cfg.Log.Info("subscriptions to configuration items end, for the application is gone", "component", name, "subscriptions", n)
		}
	}
	a.set(context.Background(), func() { a.present = false }) //nolint:contextcheck // nothing is started
}

// set changes what is known of the application, and begins or ends deliveries
// as that demands.
func (a *application) set(ctx context.Context, change func()) {
	a.switching.Lock()
	defer a.switching.Unlock()
	a.mu.Lock()
	before := a.present && a.healthy
	change()
	now := a.present && a.healthy
	switch {
	case now && !before:
		a.unfed = make(chan struct{})
	case before && !now:
		close(a.unfed)
	}
	a.mu.Unlock()
	switch {
	case now && !before:
		a.inputs.start(ctx)
		a.runner.Resume()
	case before && !now:
		a.runner.Pause()
		a.inputs.stop()
	}
}

// idle returns what is closed while the application takes nothing: it is not
// there, or not well.
func (a *application) idle() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unfed
}

// discover asks the application for its subscriptions and merges them with the
// declared ones.
func (a *application) discover(ctx context.Context) {
	var programmatic []pubsub.SubscriptionSpec
	if !slices.Contains(a.rt.cfg.DisableInitEndpoints, "subscribe") {
		var err error
		if programmatic, err = a.channel.Subscriptions(ctx); err != nil && ctx.Err() == nil {
			a.rt.cfg.Log.Warn("the application did not say what it subscribes to", "error", err)
		}
	}
	a.mu.Lock()
	a.programmatic, a.asked = programmatic, true
	a.mu.Unlock()
	a.subscribe()
}

// subscribe subscribes to what is declared and what the application has asked
// for.
func (a *application) subscribe() {
	a.mu.Lock()
	defer a.mu.Unlock()
	merged, warnings := pubsub.Merge(a.rt.cfg.AppID, a.declared, a.programmatic)
	for _, w := range warnings {
		a.rt.cfg.Log.Info(w) //nolint:sloglint // the block writes the text
	}
	before := a.runner.Subscriptions()
	a.runner.Set(merged)
	for _, s := range merged {
		if slices.ContainsFunc(before, func(b pubsub.SubscriptionStatus) bool { return reflect.DeepEqual(b.Spec, s) }) {
			continue
		}
		a.rt.cfg.Log.Info("subscription", "pubsub", s.PubSub, "topic", s.Topic, "type", s.Type.String())
	}
}

func (a *application) listen(ctx context.Context, name string, b *binding.Binding) {
	if !b.ListensAlways() {
		takes, err := a.channel.TakesBinding(ctx, name, b.Route())
		if err != nil && ctx.Err() == nil {
			a.rt.cfg.Log.Warn("the application did not say whether it takes the events of a binding; it gets none", "binding", name, "error", err)
		}
		if err != nil || !takes {
			return
		}
	}
	a.rt.cfg.Log.Info("input binding", "binding", name, "route", b.Route())
	if err := b.Listen(ctx, a.channel, outlet{a.rt}); err != nil && ctx.Err() == nil {
		a.rt.cfg.Log.Warn("an input binding ended", "binding", name, "error", err)
	}
}

// subscriptions lists them for the metadata API.
func (a *application) subscriptions() []dapr.Subscription {
	var out []dapr.Subscription
	for _, s := range a.runner.Subscriptions() {
		sub := dapr.Subscription{
			PubSub: s.Spec.PubSub, Topic: s.Spec.Topic, Metadata: s.Spec.Metadata,
			DeadLetterTopic: s.Spec.DeadLetterTopic, Type: s.Spec.Type.String(),
		}
		for _, r := range s.Spec.Rules {
			sub.Rules = append(sub.Rules, dapr.Rule{Match: r.Match, Path: r.Path})
		}
		if s.Spec.DefaultRoute != "" {
			sub.Rules = append(sub.Rules, dapr.Rule{Path: s.Spec.DefaultRoute})
		}
		out = append(out, sub)
	}
	return out
}

// outlet carries out what an application answers to the event of a binding.
type outlet struct{ rt *Runtime }

// SaveState implements binding.Outlet.
func (o outlet) SaveState(ctx context.Context, store string, items []binding.StateItem) error {
	defer o.rt.pinned().release()
	s, err := o.rt.State(store)
	if err != nil {
		return err
	}
	requests := make([]state.SetRequest, len(items))
	for i, it := range items {
		r := state.SetRequest{Key: it.Key, Value: it.Value, Metadata: it.Metadata}
		if it.ETag != nil {
			r.ETag = *it.ETag
		}
		if r.Concurrency, err = state.ParseConcurrency(it.Concurrency); err != nil {
			return err
		}
		if r.Consistency, err = state.ParseConsistency(it.Consistency); err != nil {
			return err
		}
		requests[i] = r
	}
	return s.Save(ctx, requests)
}

// InvokeBinding implements binding.Outlet.
func (o outlet) InvokeBinding(ctx context.Context, name string, r binding.Request) error {
	defer o.rt.pinned().release()
	b, err := o.rt.Binding(name)
	if err != nil {
		return fault.Wrap(err, fault.CodeOf(err), "send the answer to binding %q", name)
	}
	_, err = b.Invoke(ctx, r)
	return err
}
