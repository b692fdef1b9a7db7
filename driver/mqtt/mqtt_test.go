package mqtt

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"testing"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/pubsub/pubsubtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

var server = testserver.Share(func(tb testserver.TB) *testserver.MosquittoServer {
	return testserver.Mosquitto(tb, testserver.MosquittoOptions{})
})

func TestMain(m *testing.M) { testserver.Main(m, server) }

func openPubSub(ctx context.Context, addr string, change func(*PubSubConfig)) (*PubSub, error) {
	cfg := pubSubDefaults()
	cfg.URL = component.NewSecret("tcp://" + addr)
	if change != nil {
		change(&cfg)
	}
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

// apart keeps the sessions of a test apart from those of others: a broker
// remembers what they have not processed.
type apart struct {
	*PubSub
	prefix string
}

func (a apart) Subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	s.Group = a.prefix + s.Group
	return a.PubSub.Subscribe(ctx, s, handle)
}

// apartFor returns the driver for a test.
func apartFor(prefixes *sync.Map, t *testing.T, p *PubSub) pubsub.Driver {
	prefix, _ := prefixes.LoadOrStore(t, rand.Text())
	return apart{p, prefix.(string)}
}

func TestPubSub(t *testing.T) {
	t.Parallel()
	for name, qos := range map[string]int{"QoS1": 1, "QoS2": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, prefixes := server.Get(t).Addr(), &sync.Map{}
			change := func(c *PubSubConfig) { c.QoS = qos }
			pubsubtest.Run(t, pubsubtest.Broker{
				Open: func(t *testing.T) pubsub.Driver { return apartFor(prefixes, t, mustOpenPubSub(t, addr, change)) },
				OpenDoomed: func(t *testing.T) (pubsub.Driver, func()) {
					net := faultnet.New(t, addr)
					return apartFor(prefixes, t, mustOpenPubSub(t, net.Addr(), change)), net.Refuse
				},
				NoTopic:    func(topic string) bool { return strings.Contains(topic, "\t") },
				NoMetadata: true,
				OneMember:  true,
			})
		})
	}
}

func TestPubSubOnABadNetwork(t *testing.T) {
	t.Parallel()
	prefixes := &sync.Map{}
	pubsubtest.RunBadNetwork(t, server.Get(t).Addr(), func(ctx context.Context, t *testing.T, addr string) (pubsub.Driver, error) {
		p, err := openPubSub(ctx, addr, nil)
		if err != nil {
			return nil, err
		}
		return apartFor(prefixes, t, p), nil
	})
}
