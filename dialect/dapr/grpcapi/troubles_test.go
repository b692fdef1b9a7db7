package grpcapi

import (
	"context"
	"time"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// refused is how a driver names a server that is not there.
func refused() error { return fault.New(fault.Unavailable, "connection refused") }

// away is a store of any kind whose server is not there.
type away struct{}

func (away) Close() error { return nil }

type awaySecrets struct{ away }

func (awaySecrets) Get(context.Context, string, map[string]string) (map[string]string, error) {
	return nil, refused()
}

func (awaySecrets) List(context.Context, map[string]string, func(string) bool) (map[string]map[string]string, error) {
	return nil, refused()
}

type awayLocks struct{ away }

func (awayLocks) Acquire(context.Context, string, string, time.Duration) (lock.Lease, error) {
	return lock.Lease{}, refused()
}
func (awayLocks) Release(context.Context, string, string) error { return refused() }

type awayConfig struct{ away }

func (awayConfig) Get(context.Context, config.Query) (map[string]config.Item, error) {
	return nil, refused()
}
func (awayConfig) Watch(context.Context, config.Query, func(config.Event)) error { return refused() }

// binarySecrets holds a secret that is no text, and cannot list.
type binarySecrets struct{ away }

func (binarySecrets) Get(context.Context, string, map[string]string) (map[string]string, error) {
	return map[string]string{"text": "t", "store.jks": "\xfe\xed\xfe\xed"}, nil
}

// binaryConfig holds an item that is no text, and one that is.
type binaryConfig struct{ awayConfig }

func (binaryConfig) Get(context.Context, config.Query) (map[string]config.Item, error) {
	return map[string]config.Item{"logo": {Value: "\x89PNG"}, "color": {Value: "red"}}, nil
}

// addTroubles adds stores named "away" and "binary".
func (w *world) addTroubles() {
	secrets := func(name string, d secret.Driver) {
		w.secrets[name] = secret.New(component.Opened(name, d), secret.Options{Chains: policy.None{}})
	}
	secrets("away", awaySecrets{})
	secrets("binary", binarySecrets{})
	w.locks["away"] = lock.New(component.Opened[lock.Driver]("away", awayLocks{}), lock.Options{Chains: policy.None{}})
	configs := func(name string, d config.Driver) {
		w.configs[name] = config.New(component.Opened(name, d), config.Options{Chains: policy.None{}})
	}
	configs("away", awayConfig{})
	configs("binary", binaryConfig{})
}
