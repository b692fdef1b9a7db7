package runtime

import (
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr"
)

var _ dapr.Blocks = (*Runtime)(nil)

// State implements dapr.Blocks, as do the following.
func (rt *Runtime) State(name string) (*state.Store, error) {
	return dapr.Lookup(state.Block, rt.table.Load().states, name)
}

// PubSub returns the named broker.
func (rt *Runtime) PubSub(name string) (*pubsub.Broker, error) {
	return dapr.Lookup(pubsub.Block, rt.table.Load().brokers, name)
}

// Secret returns the named secret store.
func (rt *Runtime) Secret(name string) (*secret.Store, error) {
	return dapr.Lookup(secret.Block, rt.table.Load().secrets, name)
}

// Lock returns the named lock store.
func (rt *Runtime) Lock(name string) (*lock.Store, error) {
	return dapr.Lookup(lock.Block, rt.table.Load().locks, name)
}

// Config returns the named configuration store.
func (rt *Runtime) Config(name string) (*config.Store, error) {
	return dapr.Lookup(config.Block, rt.table.Load().configs, name)
}

// Binding returns the named binding.
func (rt *Runtime) Binding(name string) (*binding.Binding, error) {
	return dapr.Lookup(binding.Block, rt.table.Load().bindings, name)
}

// Crypto returns the named provider of keys.
func (rt *Runtime) Crypto(name string) (*crypto.Provider, error) {
	return dapr.Lookup(crypto.Block, rt.table.Load().cryptos, name)
}

// Conversation returns the named language model.
func (rt *Runtime) Conversation(name string) (*conversation.Model, error) {
	return dapr.Lookup(conversation.Block, rt.table.Load().models, name)
}

// Jobs returns the jobs of the application.
func (rt *Runtime) Jobs() (*job.Store, error) {
	if s := rt.table.Load().jobs; s != nil {
		return s, nil
	}
	return dapr.Lookup[*job.Store](job.Block, nil, "")
}

// SetMetadata keeps an entry that the application says of itself.
func (rt *Runtime) SetMetadata(key, value string) {
	if key == "" {
		return
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.extended[key] = value
}

// Metadata returns what the process says of itself.
func (rt *Runtime) Metadata() dapr.Metadata {
	rt.mu.Lock()
	extended := maps.Clone(rt.extended)
	rt.mu.Unlock()
	extended["proa.pid"] = strconv.Itoa(os.Getpid())
	if r := rt.reloaded.Load(); r != nil {
		extended["proa.reload"] = r.String()
		extended["proa.reload.generation"] = strconv.Itoa(r.Generation)
	}
	if doc := rt.security.Current(); doc != nil {
		extended["proa.identity"] = doc.ID.String()
		extended["proa.identity.expires"] = doc.Expiry().UTC().Format(time.RFC3339)
	}
	table := rt.table.Load()
	set := table.set
	m := dapr.Metadata{
		AppID: rt.cfg.AppID, Version: rt.cfg.Version, Components: table.describe(), Extended: extended,
	}
	for _, f := range set.Configuration.Spec.Features {
		if f.Enabled {
			m.Features = append(m.Features, f.Name)
		}
	}
	for i := range set.HTTPEndpoints {
		m.HTTPEndpoints = append(m.HTTPEndpoints, set.HTTPEndpoints[i].Name())
	}
	for i := range set.Resiliencies {
		m.Resiliencies = append(m.Resiliencies, set.Resiliencies[i].Name())
	}
	m.App = dapr.AppConnection{
		Port: rt.cfg.AppPort, Protocol: rt.cfg.AppProtocol, ChannelAddress: rt.cfg.AppAddress,
		MaxConcurrency: max(0, rt.cfg.AppMaxConcurrency),
	}
	if h := rt.cfg.AppHealth; h.Enabled {
		path := h.Path
		if strings.HasPrefix(rt.cfg.AppProtocol, "grpc") {
			path = "" // it is asked by a call
		}
		m.App.Health = &dapr.AppHealth{Path: path, Interval: h.Interval.String(), Timeout: h.Timeout.String(), Threshold: h.Threshold}
	}
	if rt.app != nil {
		m.Subscriptions = rt.app.subscriptions()
	}
	m.Schedulers = rt.schedulers(table)
	m.Subscriptions = append(m.Subscriptions, rt.grpc.Subscriptions()...)
	return m
}

// schedulers tells where the jobs of a table are kept, if that can be reached.
func (rt *Runtime) schedulers(table *components) []string {
	if table.jobs == nil {
		return nil
	}
	u := table.unit(job.Block, table.jobs.Name())
	switch engine := rt.engine.Status(); {
	case u.status().State != component.Ready:
		return nil
	case !strings.HasPrefix(u.spec.Type(), job.Block+".nats"):
		return []string{u.spec.Type()}
	case engine.Ready:
		return []string{engine.Location}
	}
	return nil
}

// NotReady names what keeps the process from being ready.
func (rt *Runtime) NotReady(outbound bool) []string {
	missing := rt.table.Load().notReady()
	if !outbound && rt.app != nil && !rt.app.ready.Load() {
		missing = append(missing, "application")
	}
	if rt.security.expired() {
		missing = append(missing, "identity (its certificate has ended)")
	}
	return missing
}

// Shutdown begins to stop the process.
func (rt *Runtime) Shutdown(force bool) {
	if force {
		rt.cfg.Log.Warn("the process is stopped by force, as was asked for")
		os.Exit(1)
	}
	rt.stop()
}
