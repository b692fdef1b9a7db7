package kafka

import (
	"context"
	"testing"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/pubsub/pubsubtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/faultnet"
)

// maxData is what a message may have for data so that the broker takes it
// along with what goes along.
const maxData = 1_000_000

func TestPubSubInTheOrderOfKeys(t *testing.T) {
	t.Parallel()
	cfg := testConfig(server.Get(t).Addr())
	cfg.Ordering, cfg.NumPartitions = orderByKey, 4
	runSuite(t, cfg)
}

func TestPubSubInTheOrderOfPartitions(t *testing.T) {
	t.Parallel()
	cfg := testConfig(server.Get(t).Addr())
	// Messages without a key, one after the other, are in different ones, and
	// so are the keys of the suite.
	cfg.NumPartitions = 8
	cfg.InitialOffset = offsetNewest
	runSuite(t, cfg)
}

func runSuite(t *testing.T, cfg Config) {
	addr := cfg.Brokers[0]
	pubsubtest.Run(t, pubsubtest.Broker{
		Open: func(t *testing.T) pubsub.Driver { return mustOpen(t, cfg, nearby()) },
		OpenDoomed: func(t *testing.T) (pubsub.Driver, func()) {
			net := faultnet.New(t, addr)
			return mustOpen(t, cfg, through(net.Addr())), net.Refuse
		},
		Joined: func(t *testing.T, topic, group string, members int) {
			awaitMembers(t, addr, nameOf(topic), group, members)
		},
		Patience: patience,
		MaxData:  maxData,
	})
}

func TestPubSubOnABadNetwork(t *testing.T) {
	t.Parallel()
	pubsubtest.RunBadNetwork(t, server.Get(t).Addr(), func(ctx context.Context, _ *testing.T, addr string) (pubsub.Driver, error) {
		cfg := testConfig(addr)
		cfg.Ordering = orderByKey
		p, err := openPubSub(ctx, cfg, through(addr), component.Env{})
		if err != nil {
			return nil, err
		}
		return p, nil
	})
}
