package interop_test

import (
	"testing"
	"time"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/nats"
	"github.com/proa-io/proa/driver/postgres"
	"github.com/proa-io/proa/driver/redis"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/testserver"
)

// A backend is what stands behind the components of the applications.
type backend struct {
	// resources are further resources.
	resources []string
	// env is further environment for the sidecars.
	env []string
	// components are the types of the components by name, as the sidecar has
	// to report them.
	components map[string]string
	// configuration opens the store behind configstore the way an operator
	// would.
	configuration func(*testing.T) config.Writer
	// recorded: which parts of the API the applications use is compared with
	// the record in testdata/calls. That is done on one backend only.
	recorded bool
}

// embedded is the engine in the sidecars themselves, which nothing configures.
func embedded(_ *testing.T, home string) backend {
	return backend{
		resources: []string{"testdata/engine"},
		recorded:  true,
		components: map[string]string{
			"statestore": "state.nats", "pubsub": "pubsub.nats", "lockstore": "lock.nats", "configstore": "configuration.nats",
			"secretstore": "secretstores.local.env",
		},
		configuration: func(t *testing.T) config.Writer {
			e, err := engine.Open(t.Context(), engine.Options{Dir: home, Name: "operator"})
			if err != nil {
				t.Fatal(err)
			}
			running := make(chan error, 1)
			go func() { running <- e.Run(t.Context()) }()
			t.Cleanup(func() {
				if err := <-running; err != nil {
					t.Errorf("the operator's engine: %v", err)
				}
			})
			c, err := nats.OpenConfig(t.Context(), e, nats.ConfigConfig{}, component.Env{})
			if err != nil {
				t.Fatal(err)
			}
			return c
		},
	}
}

// onServers is PostgreSQL and Redis behind the same names. The sidecars and the
// applications want tokens there.
func onServers(t *testing.T, _ string) backend {
	database := postgresServer.Get(t).Database(t)
	broker := testserver.Redis(t, testserver.RedisOptions{})
	return backend{
		resources: []string{"testdata/servers"},
		env: []string{
			"INTEROP_POSTGRES=" + database, "INTEROP_REDIS=" + broker.Addr(),
			"DAPR_API_TOKEN=for-the-sidecar", "APP_API_TOKEN=for-the-application",
		},
		components: map[string]string{
			"statestore": "state.postgresql", "pubsub": "pubsub.redis", "lockstore": "lock.postgresql", "configstore": "configuration.postgresql",
			"secretstore": "secretstores.local.env",
		},
		configuration: func(t *testing.T) config.Writer {
			c, err := postgres.OpenConfig(t.Context(), postgres.ConfigConfig{
				Config: postgres.Config{ConnectionString: component.NewSecret(database), Timeout: component.Duration(20 * time.Second)},
				Table:  "configuration", PollInterval: component.Duration(10 * time.Second),
			}, component.Env{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			return c
		},
	}
}

// onRabbitMQ is another broker behind the same name, beside the engine.
func onRabbitMQ(t *testing.T, home string) backend {
	b := embedded(t, home)
	b.recorded = false
	b.resources = append(b.resources, "testdata/rabbitmq")
	b.env = append(b.env, "INTEROP_RABBITMQ="+rabbitServer.Get(t).URL())
	b.components["pubsub"] = "pubsub.rabbitmq"
	return b
}

// onRedis is Redis alone behind the same names.
func onRedis(t *testing.T, _ string) backend {
	server := testserver.Redis(t, testserver.RedisOptions{Config: []string{"notify-keyspace-events KEA"}})
	return backend{
		resources: []string{"testdata/redis"},
		env:       []string{"INTEROP_REDIS=" + server.Addr()},
		components: map[string]string{
			"statestore": "state.redis", "pubsub": "pubsub.redis", "lockstore": "lock.redis", "configstore": "configuration.redis",
			"secretstore": "secretstores.local.env",
		},
		configuration: func(t *testing.T) config.Writer {
			within := component.Millis(10 * time.Second)
			c, err := redis.OpenConfig(t.Context(), redis.ConfigConfig{
				Config: redis.Config{Host: server.Addr(), DB: 1, DialTimeout: within, ReadTimeout: within},
			}, component.Env{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			return c
		},
	}
}
