package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// builder turns Component resources into units.
type builder struct {
	cfg        *Config
	set        *resource.Set
	catalog    *component.Catalog
	resiliency *resiliency
	metrics    *telemetry.Metrics
	// reuse returns the unit there is that was made from the same; nil when
	// there is none.
	reuse func(block, name, print string) *unit
	// there are the endpoints to reuse in the same way.
	there []*endpoint
	// pinned returns the table in use, pinned.
	pinned func() *components

	out    *components
	stores map[string]string // fingerprints of the secret stores, by name
	fresh  []*unit           // that were made
}

// defaultComponents are what exists without any resource: on the engine, but
// for secrets, which the engine is no place for.
func defaultComponents() []resource.Component {
	var out []resource.Component
	for _, c := range [][2]string{
		{"statestore", "state.nats"}, {"pubsub", "pubsub.nats"}, {"lockstore", "lock.nats"},
		{"configstore", "configuration.nats"}, {"jobstore", "jobs.nats"}, {"secretstore", "secretstores.local.env"},
	} {
		out = append(out, defaultComponent(c[0], c[1]))
	}
	return out
}

func defaultComponent(name, typ string) (c resource.Component) {
	c.Metadata.Name, c.Spec.Type = name, typ
	return c
}

// withDefaults returns the components of a set and the default ones whose names
// are free. Of jobs components there is one, whatever it is called.
func withDefaults(set *resource.Set) []resource.Component {
	declared := set.Components
	out, defaults := slices.Clone(declared), defaultComponents()
	if needsEngineLimits(set.RateLimits) {
		defaults = append(defaults, defaultComponent(engineLimits, "ratelimit.nats"))
	}
	for _, d := range defaults {
		taken := slices.ContainsFunc(declared, func(c resource.Component) bool {
			return c.Block() == d.Block() && (c.Name() == d.Name() || d.Block() == job.Block)
		})
		if !taken {
			out = append(out, d)
		}
	}
	return out
}

// build makes a table of all components, of new units and of those there are.
// The error joins what is wrong with each; then the new units are discarded.
func (b *builder) build(list []resource.Component) (*components, error) {
	b.out, b.stores = newComponents(b.set), map[string]string{}
	for i := range list {
		if c := &list[i]; c.Block() == secret.Block {
			b.stores[c.Name()] = b.fingerprint(c)
		}
	}
	var errs []error
	for i := range list {
		c := &list[i]
		spec, err := b.check(c)
		if err == nil {
			err = b.add(c, spec, b.fingerprint(c))
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, b.endpoints(b.there))
	if err := errors.Join(errs...); err != nil {
		b.discard()
		return b.out, err
	}
	return b.out, nil
}

// fingerprint is equal for two resources that make the same component: what
// they say is the same, and so is what they refer to.
func (b *builder) fingerprint(c *resource.Component) string {
	print := c.Spec.Type + " " + c.Digest()
	if c.Block() == secret.Block {
		print += fmt.Sprintf(" %q", b.scope(c.Name()))
	}
	if c.UsesSecrets() {
		print += " " + b.stores[c.Auth.SecretStore]
	}
	return print
}

// check finds the driver and decodes the settings, as far as they are known
// before a secret store is open.
func (b *builder) check(c *resource.Component) (component.Spec, error) {
	spec, err := b.catalog.Lookup(c.Spec.Type, c.Spec.Version)
	if err != nil {
		return spec, c.TypeError("%s", err)
	}
	if deny := b.set.Configuration.Spec.Components; deny != nil {
		for _, d := range deny.Deny {
			if strings.EqualFold(d, spec.Type()) || strings.EqualFold(d, spec.Type()+"/"+spec.VersionOrDefault()) {
				return spec, c.TypeError("the Configuration denies components of type %q", d)
			}
		}
	}
	if c.UsesSecrets() && c.Auth.SecretStore != "" && !b.hasSecretStore(c.Auth.SecretStore) {
		return spec, &resource.Error{Pos: c.Position(), Resource: "Component " + c.Name(), Field: "auth.secretStore",
			Problem: fmt.Sprintf("there is no secret store %q", c.Auth.SecretStore)}
	}
	settings, err := c.Settings(context.Background(), b.cfg.identity(), nil) //nolint:contextcheck // no I/O without a lookup
	if err != nil {
		return spec, err
	}
	if err := spec.Check(settings); err != nil {
		return spec, locate(c, err)
	}
	return spec, nil
}

// locate says of each problem with a setting which component it is about, and
// where that stands.
func locate(c *resource.Component, err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range joined.Unwrap() {
			errs = append(errs, locate(c, e))
		}
		return errors.Join(errs...)
	}
	out := &resource.Error{Pos: c.Position(), Resource: "Component " + c.Name(), Problem: err.Error()}
	if fe, ok := errors.AsType[*component.FieldError](err); ok {
		out.Field, out.Problem = "spec.metadata", fmt.Sprintf("%q: %s", fe.Field, fe.Problem)
		if fe.Pos.Line > 0 {
			out.Pos = fe.Pos
		}
	}
	return out
}

func (b *builder) hasSecretStore(name string) bool {
	return slices.ContainsFunc(withDefaults(b.set), func(c resource.Component) bool {
		return c.Block() == secret.Block && c.Name() == name
	})
}

// add puts the component into b.out: the unit there is, or a new one. What a
// block needs is told to its unit: put makes it known by its name.
func (b *builder) add(c *resource.Component, spec component.Spec, print string) error {
	if spec.Block == job.Block && b.out.jobs != nil {
		return c.TypeError("there is a jobs component already, %q, and there can be one only", b.out.jobs.Name())
	}
	if b.reuse != nil {
		if u := b.reuse(spec.Block, c.Name(), print); u != nil {
			b.out.add(u)
			return nil
		}
	}
	u := &unit{
		name: c.Name(), spec: spec, print: print, timeout: cmp.Or(max(0, c.Spec.InitTimeout.Std()), defaultInitTimeout),
		chains: b.resiliency.owner(), quit: make(chan struct{}), relayed: make(chan struct{}), done: make(chan struct{}),
	}
	u.refs = newReferences(c.Auth.SecretStore, secretNames(c.Spec.Metadata), func(ctx context.Context, lookup resource.SecretLookup) error {
		_, err := c.Settings(ctx, b.cfg.identity(), lookup)
		return err
	})
	if err := b.block(u, c); err != nil {
		u.chains.end()
		return err
	}
	b.out.add(u)
	b.fresh = append(b.fresh, u)
	return nil
}

// discard gives up the units that were made.
func (b *builder) discard() {
	for _, u := range b.fresh {
		u.chains.end()
	}
}

// block makes the handle and the block of a unit.
func (b *builder) block(u *unit, c *resource.Component) error {
	switch u.spec.Block {
	case state.Block:
		h := handleWith(b, u, c, func(d state.Driver, settings component.Settings) (state.Driver, error) {
			cfg, err := component.BlockConfig[state.Config](u.spec, settings)
			if err != nil {
				return nil, err
			}
			return state.Encrypted(d, cfg, settings)
		})
		cfg, err := blockConfig[state.Config](b, c, u.spec)
		if err != nil {
			return err
		}
		o := state.Options{AppID: b.cfg.AppID, Namespace: b.cfg.Namespace, Config: cfg, Chains: u.chains}
		o.Outbox, u.relay = b.outbox(cfg, b.log(c))
		s := state.New(h, o)
		u.put = func(out *components) { out.states[u.name] = s }
	case pubsub.Block:
		h := handle[pubsub.Driver](b, u, c)
		cfg, err := blockConfig[pubsub.Config](b, c, u.spec)
		if err != nil {
			return err
		}
		s := pubsub.New(h, pubsub.Options{
			AppID: b.cfg.AppID, Config: cfg, Chains: u.chains, Scheduler: delayed{b.pinned}, Grace: b.cfg.deliveryGrace(), Log: b.log(c),
		})
		u.put = func(out *components) { out.brokers[u.name] = s }
		u.drain, u.replace = s.Drain, func(next *components) { s.Replace(next.brokers[u.name]) }
	case secret.Block:
		h := handle[secret.Driver](b, u, c)
		s := secret.New(h, secret.Options{Chains: u.chains, Scope: b.scope(u.name), Log: b.log(c)})
		u.put = func(out *components) { out.secrets[u.name] = s }
	case lock.Block:
		h := handle[lock.Driver](b, u, c)
		cfg, err := blockConfig[lock.Config](b, c, u.spec)
		if err != nil {
			return err
		}
		s := lock.New(h, lock.Options{AppID: b.cfg.AppID, Config: cfg, Chains: u.chains})
		u.put, u.replace = func(out *components) { out.locks[u.name] = s }, func(next *components) { s.Replace(next.locks[u.name]) }
	case ratelimit.Block:
		s := ratelimit.New(handle[ratelimit.Driver](b, u, c))
		u.put = func(out *components) { out.limits[u.name] = s }
	case config.Block:
		h := handle[config.Driver](b, u, c)
		s := config.New(h, config.Options{Chains: u.chains, Log: b.log(c)})
		u.put = func(out *components) { out.configs[u.name] = s }
		u.block, u.replace = s.Run, func(next *components) { s.Replace(next.configs[u.name]) }
	case binding.Block:
		h := handle[binding.Driver](b, u, c)
		cfg, err := blockConfig[binding.Config](b, c, u.spec)
		if err != nil {
			return err
		}
		s := binding.New(h, binding.Options{
			Chains: u.chains, Config: cfg, Capabilities: u.spec.Capabilities, Grace: b.cfg.deliveryGrace(), Log: b.log(c),
		})
		u.put = func(out *components) { out.bindings[u.name] = s }
	case conversation.Block:
		h := handle[conversation.Driver](b, u, c)
		cfg, err := blockConfig[conversation.Config](b, c, u.spec)
		if err != nil {
			return err
		}
		m := conversation.New(h, conversation.Options{Chains: u.chains, Config: cfg})
		u.put = func(out *components) { out.models[u.name] = m }
	case middleware.Block:
		calls := u.chains.calls
		m := middleware.New(handle[middleware.Driver](b, u, c), middleware.Options{Enter: calls.enter, Leave: calls.leave})
		u.put = func(out *components) { out.middlewares[u.name] = m }
	case crypto.Block:
		p := crypto.New(handle[crypto.Driver](b, u, c), crypto.Options{Chains: u.chains})
		u.put = func(out *components) { out.cryptos[u.name] = p }
	case job.Block:
		b.jobs(u, c)
	case discovery.Block:
		return c.TypeError("how applications are found is chosen with spec.nameResolution of a Configuration, not by a component")
	default:
		return c.TypeError("there is no building block %q", u.spec.Block)
	}
	return nil
}

// jobs makes the block of a jobs component, and what keeps messages in it until
// they are due.
func (b *builder) jobs(u *unit, c *resource.Component) {
	h := handle[job.Driver](b, u, c)
	o := job.Options{Namespace: b.cfg.Namespace, AppID: b.cfg.AppID, Chains: u.chains, Grace: b.cfg.deliveryGrace(), Log: b.log(c)}
	jobs := job.New(h, o)
	o.Kind, o.Grace = delayedKind, b.cfg.Grace/2
	messages := job.New(h, o)
	u.put = func(out *components) { out.jobs, out.delayed = jobs, messages }
	u.relay = func(ctx context.Context) error { return messages.Run(ctx, newDeliverer(b.pinned)) }
}

func (b *builder) log(c *resource.Component) *slog.Logger {
	return b.cfg.Log.With("component", c.Name(), "type", c.Spec.Type)
}

func (b *builder) scope(store string) secret.Scope {
	if s := b.set.Configuration.Spec.Secrets; s != nil {
		for _, scope := range s.Scopes {
			if scope.StoreName == store {
				return secret.Scope{DefaultAccess: scope.DefaultAccess, Allowed: scope.AllowedSecrets, Denied: scope.DeniedSecrets}
			}
		}
	}
	return secret.Scope{}
}

// defaultInitTimeout bounds one attempt to open a component that does not say
// otherwise.
const defaultInitTimeout = 5 * time.Second

// handle makes the handle that will open the driver of u.
func handle[D io.Closer](b *builder, u *unit, c *resource.Component) *component.Handle[D] {
	return handleWith(b, u, c, func(d D, _ component.Settings) (D, error) { return d, nil })
}

// handleWith is handle with something to do to the driver once it is open, for
// which the settings with all secrets are needed.
func handleWith[D io.Closer](b *builder, u *unit, c *resource.Component, opened func(D, component.Settings) (D, error)) *component.Handle[D] {
	log, typ := b.log(c), u.spec.Type()
	env := component.Env{Name: c.Name(), AppID: b.cfg.AppID, Namespace: b.cfg.Namespace, Log: log}
	if w := b.set.Configuration.Spec.Wasm; w != nil && w.StrictSandbox != nil {
		env.StrictSandbox = *w.StrictSandbox
	}
	if file := c.Position().File; file != "" {
		env.Dir = filepath.Dir(file)
	}
	lookup := b.out.lookupSecret // of the table that the unit is made for
	h := component.NewHandle(component.HandleOptions{Name: c.Name(), Type: typ, Log: log}, func(ctx context.Context) (_ D, err error) {
		var none D
		defer func() { b.metrics.ComponentOpened(c.Name(), typ, err) }()
		sctx, cancel := context.WithTimeout(ctx, u.timeout)
		defer cancel()
		lookup, sum := summing(lookup)
		settings, err := c.Settings(sctx, b.cfg.identity(), lookup)
		if err != nil {
			return none, err
		}
		d, err := component.Opener[D](u.spec, settings, env)(sctx)
		if err != nil {
			return none, err
		}
		if can, ok := any(d).(component.Capable); ok {
			u.capable.Store(&can)
		}
		out, err := opened(d, settings)
		if err != nil {
			_ = d.Close()
			return none, err
		}
		if u.refs != nil {
			u.refs.used.Store(sum())
		}
		b.metrics.ComponentReady(c.Name(), typ, true)
		return out, nil
	})
	u.open, u.status, u.await = h.Run, h.Status, h.Await
	return h
}

func blockConfig[C any](b *builder, c *resource.Component, spec component.Spec) (C, error) {
	settings, err := c.Settings(context.Background(), b.cfg.identity(), nil) //nolint:contextcheck // no I/O without a lookup
	if err != nil {
		var none C
		return none, err
	}
	return component.BlockConfig[C](spec, settings)
}
