package rabbitmq

import (
	"context"
	"testing"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/pubsub/pubsubtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

var server = testserver.Share(func(tb testserver.TB) *testserver.RabbitMQServer {
	return testserver.RabbitMQ(tb, testserver.RabbitMQOptions{
		Plugins: []string{"rabbitmq_consistent_hash_exchange"},
		Config:  []string{"max_message_size = 2000000"},
	})
})

func TestMain(m *testing.M) { testserver.Main(m, server) }

// lasting are settings that keep queues when nobody consumes.
func lasting(c *PubSubConfig) { c.DeletedWhenUnused = false }

func openPubSub(ctx context.Context, addr string, change func(*PubSubConfig)) (*PubSub, error) {
	cfg := pubSubDefaults()
	cfg.ConnectionString = component.NewSecret("amqp://guest:guest@" + addr)
	change(&cfg)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return OpenPubSub(ctx, cfg, component.Env{AppID: "app"})
}

func mustOpenPubSub(t testing.TB, addr string, change func(*PubSubConfig)) *PubSub {
	t.Helper()
	p, err := openPubSub(t.Context(), addr, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return p
}

func TestPubSub(t *testing.T) {
	t.Parallel()
	addr := server.Get(t).Addr()
	pubsubtest.Run(t, pubsubtest.Broker{
		Open: func(t *testing.T) pubsub.Driver { return mustOpenPubSub(t, addr, lasting) },
		OpenDoomed: func(t *testing.T) (pubsub.Driver, func()) {
			net := faultnet.New(t, addr)
			return mustOpenPubSub(t, net.Addr(), lasting), net.Refuse
		},
	})
}

func TestPubSubOnABadNetwork(t *testing.T) {
	t.Parallel()
	pubsubtest.RunBadNetwork(t, server.Get(t).Addr(), func(ctx context.Context, _ *testing.T, addr string) (pubsub.Driver, error) {
		p, err := openPubSub(ctx, addr, lasting)
		if err != nil {
			return nil, err
		}
		return p, nil
	})
}
