package pluggable

import (
	"context"
	"net"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
)

// linkTo is linkAt for a component that is behind a port: the bad network of the
// tests is one of ports.
func linkTo(addr string, env component.Env) *link {
	return newLink(func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", addr) }, env.Name)
}

func OpenStateAt(ctx context.Context, addr string, env component.Env) (state.Driver, error) {
	return openState(ctx, linkTo(addr, env), Config{})
}

func OpenPubSubAt(ctx context.Context, addr string, env component.Env) (pubsub.Driver, error) {
	return openPubSub(ctx, linkTo(addr, env), Config{}, env)
}

func OpenBindingAt(ctx context.Context, addr string, env component.Env) (binding.Driver, error) {
	return openBinding(ctx, linkTo(addr, env), Config{})
}

func OpenSecretsAt(ctx context.Context, addr string, cfg Config, env component.Env) (secret.Driver, error) {
	return openSecrets(ctx, linkTo(addr, env), cfg)
}
