// Package nats keeps the promises of the building blocks on NATS JetStream: on
// the engine of the process, embedded or not, or on a server that a component
// names.
package nats

import (
	"context"
	"net/url"
	"strings"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// Specs lists what this package offers to the building blocks. Components that
// name no server stand on shared, which may be nil to describe drivers only.
func Specs(shared *engine.Engine) []component.Spec {
	return []component.Spec{
		state.Spec(component.Description{
			Name: "nats", Aliases: []string{"jetstream"},
			Summary: "Keeps items on the engine, or in a key-value bucket of a NATS server.",
		}, StateConfig{}, func(ctx context.Context, cfg StateConfig, env component.Env) (*State, error) {
			return OpenState(ctx, shared, cfg, env)
		}),
		lock.Spec(component.Description{
			Name:    "nats",
			Summary: "Keeps locks on the engine, or in a key-value bucket of a NATS server.",
		}, LockConfig{}, func(ctx context.Context, cfg LockConfig, env component.Env) (*Lock, error) {
			return OpenLock(ctx, shared, cfg, env)
		}),
		config.Spec(component.Description{
			Name:    "nats",
			Summary: "Keeps configuration items on the engine, or in a key-value bucket of a NATS server.",
		}, ConfigConfig{}, func(ctx context.Context, cfg ConfigConfig, env component.Env) (*Config, error) {
			return OpenConfig(ctx, shared, cfg, env)
		}),
		job.Spec(component.Description{
			Name: "nats", Aliases: []string{"jetstream"},
			Summary: "Keeps jobs on the engine, or in a key-value bucket of a NATS server.",
		}, JobsConfig{}, func(ctx context.Context, cfg JobsConfig, env component.Env) (*Jobs, error) {
			return OpenJobs(ctx, shared, cfg, env)
		}),
		ratelimit.Spec(component.Description{
			Name: "nats", Aliases: []string{"jetstream"},
			Summary: "Keeps the token buckets of rate limits on the engine, or in a key-value bucket of a NATS server.",
		}, RateLimitConfig{}, func(ctx context.Context, cfg RateLimitConfig, env component.Env) (*RateLimit, error) {
			return OpenRateLimit(ctx, shared, cfg, env)
		}),
		pubSubSpec(shared, component.Description{
			Name:    "nats",
			Summary: "Keeps messages in streams of the engine, or of a NATS server with JetStream.",
		}, pubSubDefaults()),
		pubSubSpec(shared, component.Description{
			Name:    "jetstream",
			Summary: "Is pubsub.nats with the defaults of Dapr's component of this name: a message at a time.",
		}, jetStreamDefaults()),
	}
}

func pubSubSpec(shared *engine.Engine, d component.Description, defaults PubSubConfig) component.Spec {
	return pubsub.Spec(d, defaults, func(ctx context.Context, cfg PubSubConfig, env component.Env) (*PubSub, error) {
		return OpenPubSub(ctx, shared, cfg, env)
	})
}

// Server says which server a component uses. It is the same for all blocks.
type Server struct {
	// URL names a server or cluster, "nats://host:4222" or
	// "tls://a:4222,tls://b:4222". Empty stands for the engine of the process.
	URL string `setting:"url,natsURL"`
	// Credentials is the path of a .creds file.
	Credentials string `setting:"credentials"`
	// JWT is the user's JWT, as a .creds file holds it.
	JWT component.Secret `setting:"jwt"`
	// SeedKey is the nkey seed that goes with JWT.
	SeedKey component.Secret `setting:"seedKey"`
	// NKey is the path of a file with an nkey seed.
	NKey string `setting:"nkey"`
	// Token authenticates with the server.
	Token component.Secret `setting:"token"`
	// User of the server.
	User string `setting:"user"`
	// Password of User.
	Password component.Secret `setting:"password"`
	// CA is the path of a PEM file with the authorities that may sign the
	// server's certificate; the system's when empty.
	CA string `setting:"ca"`
	// Cert is the path of a PEM file with the client's certificate.
	Cert string `setting:"cert,tls_client_cert"`
	// Key is the path of a PEM file with the key of Cert.
	Key string `setting:"key,tls_client_key"`
	// Replicas is the number of copies on a cluster; 0 for 3 on a cluster of
	// three or more, and 1 otherwise.
	Replicas int `setting:"replicas"`
}

// Validate reports settings that can never work.
func (s Server) Validate() error {
	auth := s.auth()
	ways := 0
	for _, set := range []bool{auth.Credentials != "", auth.JWT.IsSet(), auth.NKey != "", auth.Token.IsSet(), auth.User != ""} {
		if set {
			ways++
		}
	}
	switch {
	case s.URL == "" && auth != engine.Auth{}:
		return component.Invalid("url", "is required with credentials: the server they are for")
	case ways > 1:
		return component.Invalid("credentials", "credentials, jwt, nkey, token and user are five ways of which at most one may be used")
	case s.JWT.IsSet() != s.SeedKey.IsSet():
		return component.Invalid("jwt", "and seedKey must be given together")
	case (s.Cert == "") != (s.Key == ""):
		return component.Invalid("cert", "and key must be given together")
	case s.Replicas < 0 || s.Replicas > 5:
		return component.Invalid("replicas", "must be 1, 3 or 5, or 0 to choose")
	}
	for raw := range strings.SplitSeq(s.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(raw))
		if s.URL != "" && (err != nil || u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls") {
			return component.Invalid("url", "wants nats://host:4222 or tls://host:4222")
		}
	}
	return nil
}

func (s Server) auth() engine.Auth {
	return engine.Auth{
		Credentials: s.Credentials, JWT: s.JWT, Seed: s.SeedKey, NKey: s.NKey, Token: s.Token, User: s.User, Password: s.Password,
		CA: s.CA, Cert: s.Cert, Key: s.Key,
	}
}

// A connection is an engine and how to let go of it.
type connection struct {
	engine *engine.Engine
	stop   func()
}

// connect returns shared, or an engine for the server that s names, which runs
// until stop. It waits for the engine to be ready.
func (s Server) connect(ctx context.Context, shared *engine.Engine, env component.Env) (connection, error) {
	c := connection{shared, func() {}}
	if s.URL != "" {
		own, err := engine.Open(ctx, engine.Options{
			URL: s.URL, Auth: s.auth(), Name: env.AppID, Replicas: s.Replicas, Log: env.Log,
		})
		if err != nil {
			return connection{}, err
		}
		c = started(ctx, own)
	}
	if c.engine == nil {
		return connection{}, fault.New(fault.FailedPrecondition, "the component names no url, and this process has no engine")
	}
	if _, err := c.engine.Conn(ctx); err != nil { // so that it knows what the server can do
		c.stop()
		return connection{}, err
	}
	return c, nil
}

// started runs e beyond the context that it is opened with.
func started(ctx context.Context, e *engine.Engine) connection {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(life) // fails only when it runs already
	}()
	return connection{e, func() {
		cancel()
		<-done
	}}
}
