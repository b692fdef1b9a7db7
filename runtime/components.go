package runtime

import (
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
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// components are the blocks of a process, by name, and the handles that open
// their drivers.
type components struct {
	states   map[string]*state.Store
	brokers  map[string]*pubsub.Broker
	secrets  map[string]*secret.Store
	locks    map[string]*lock.Store
	configs  map[string]*config.Store
	bindings map[string]*binding.Binding
	handles  []opening
}

// opening is one component on its way from a resource to an open driver.
type opening struct {
	name string
	spec component.Spec
	// run keeps it open until its context ends.
	run    func(context.Context) error
	status func() component.Status
}

// builder turns Component resources into blocks.
type builder struct {
	cfg     *Config
	set     *resource.Set
	catalog *component.Catalog
	chains  policy.Chains
	metrics *telemetry.Metrics
	out     *components
}

// defaultComponents are what exists without any resource: on the engine, but
// for secrets, which the engine is no place for.
func defaultComponents() []resource.Component {
	var out []resource.Component
	for _, c := range [][2]string{
		{"statestore", "state.nats"}, {"pubsub", "pubsub.nats"}, {"lockstore", "lock.nats"},
		{"configstore", "configuration.nats"}, {"secretstore", "secretstores.local.env"},
	} {
		var r resource.Component
		r.Metadata.Name, r.Spec.Type = c[0], c[1]
		out = append(out, r)
	}
	return out
}

// withDefaults appends the default components whose names are free.
func withDefaults(declared []resource.Component) []resource.Component {
	out := slices.Clone(declared)
	for _, d := range defaultComponents() {
		taken := slices.ContainsFunc(declared, func(c resource.Component) bool {
			return c.Name() == d.Name() && c.Block() == d.Block()
		})
		if !taken {
			out = append(out, d)
		}
	}
	return out
}

// build makes all blocks. The error joins what is wrong with each component.
func (b *builder) build(list []resource.Component) (*components, error) {
	b.out = &components{
		states: map[string]*state.Store{}, brokers: map[string]*pubsub.Broker{}, secrets: map[string]*secret.Store{},
		locks: map[string]*lock.Store{}, configs: map[string]*config.Store{}, bindings: map[string]*binding.Binding{},
	}
	var errs []error
	for i := range list {
		c := &list[i]
		spec, err := b.check(c)
		if err == nil {
			err = b.add(c, spec)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return b.out, errors.Join(errs...)
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
	return slices.ContainsFunc(withDefaults(b.set.Components), func(c resource.Component) bool {
		return c.Block() == secret.Block && c.Name() == name
	})
}

func (b *builder) add(c *resource.Component, spec component.Spec) error {
	name := c.Name()
	switch spec.Block {
	case state.Block:
		h := handle[state.Driver](b, c, spec)
		cfg, err := blockConfig[state.Config](b, c, spec)
		if err != nil {
			return err
		}
		b.out.states[name] = state.New(h, state.Options{AppID: b.cfg.AppID, Namespace: b.cfg.Namespace, Config: cfg, Chains: b.chains})
	case pubsub.Block:
		h := handle[pubsub.Driver](b, c, spec)
		cfg, err := blockConfig[pubsub.Config](b, c, spec)
		if err != nil {
			return err
		}
		b.out.brokers[name] = pubsub.New(h, pubsub.Options{
			AppID: b.cfg.AppID, Config: cfg, Chains: b.chains, Grace: b.cfg.deliveryGrace(), Log: b.log(c),
		})
	case secret.Block:
		h := handle[secret.Driver](b, c, spec)
		b.out.secrets[name] = secret.New(h, secret.Options{Chains: b.chains, Scope: b.scope(name)})
	case lock.Block:
		h := handle[lock.Driver](b, c, spec)
		cfg, err := blockConfig[lock.Config](b, c, spec)
		if err != nil {
			return err
		}
		b.out.locks[name] = lock.New(h, lock.Options{AppID: b.cfg.AppID, Config: cfg, Chains: b.chains})
	case config.Block:
		h := handle[config.Driver](b, c, spec)
		b.out.configs[name] = config.New(h, config.Options{Chains: b.chains, Log: b.log(c)})
	case binding.Block:
		h := handle[binding.Driver](b, c, spec)
		cfg, err := blockConfig[binding.Config](b, c, spec)
		if err != nil {
			return err
		}
		b.out.bindings[name] = binding.New(h, binding.Options{
			Chains: b.chains, Config: cfg, Capabilities: spec.Capabilities, Grace: b.cfg.deliveryGrace(), Log: b.log(c),
		})
	default:
		return c.TypeError("there is no building block %q", spec.Block)
	}
	return nil
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

// handle returns the handle that will open the component's driver.
func handle[D io.Closer](b *builder, c *resource.Component, spec component.Spec) *component.Handle[D] {
	log := b.log(c)
	env := component.Env{Name: c.Name(), AppID: b.cfg.AppID, Namespace: b.cfg.Namespace, Log: log}
	if file := c.Position().File; file != "" {
		env.Dir = filepath.Dir(file)
	}
	timeout := c.Spec.InitTimeout.Std()
	if timeout <= 0 {
		timeout = defaultInitTimeout
	}
	h := component.NewHandle(component.HandleOptions{Name: c.Name(), Type: spec.Type(), Log: log}, func(ctx context.Context) (D, error) {
		var none D
		sctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		settings, err := c.Settings(sctx, b.cfg.identity(), b.out.lookupSecret)
		if err != nil {
			return none, err
		}
		d, err := component.Opener[D](spec, settings, env)(sctx)
		if err == nil {
			b.metrics.ComponentReady(c.Name(), spec.Type(), true)
		}
		return d, err
	})
	b.metrics.ComponentReady(c.Name(), spec.Type(), false)
	b.out.handles = append(b.out.handles, opening{name: c.Name(), spec: spec, run: h.Run, status: h.Status})
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

// lookupSecret resolves the secretKeyRef of a component.
func (c *components) lookupSecret(ctx context.Context, store, name, key string) (string, error) {
	s, ok := c.secrets[store]
	if !ok {
		return "", fault.New(fault.FailedPrecondition, "there is no secret store %q", store)
	}
	value, err := s.Resolve(ctx, name, key)
	if err != nil {
		return "", err
	}
	return value.Reveal(), nil
}

// services are the services that keep the components open.
func (c *components) services() []service {
	var out []service
	for _, h := range c.handles {
		out = append(out, service{"component " + h.name, h.run})
	}
	for name, s := range c.configs {
		out = append(out, service{"configuration " + name, s.Run})
	}
	return out
}

// describe lists the components for the metadata API.
func (c *components) describe() []dapr.Component {
	var out []dapr.Component
	for _, h := range c.handles {
		out = append(out, dapr.Component{
			Name: h.name, Type: h.spec.Type(), Version: h.spec.VersionOrDefault(), Capabilities: h.spec.Capabilities,
		})
	}
	return out
}

// notReady names the components that have not been tried yet. One that failed
// does not count: it is tried again, and its calls say why.
func (c *components) notReady() []string {
	var out []string
	for _, h := range c.handles {
		if s := h.status(); s.State == component.Opening && s.Attempts == 0 {
			out = append(out, h.name)
		}
	}
	return out
}
