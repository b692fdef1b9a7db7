package kafka

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/testserver"
)

// server is the broker that the tests of this package share.
var server = testserver.Share(func(tb testserver.TB) *testserver.KafkaServer {
	return testserver.Kafka(tb, testserver.KafkaOptions{})
})

func TestMain(m *testing.M) { testserver.Main(m, server) }

// patience is the session timeout in tests.
const patience = 3 * time.Second

// testConfig returns settings for a quick test on the broker at addr.
func testConfig(addr string) Config {
	cfg := defaults()
	cfg.Brokers, cfg.AuthType, cfg.InitialOffset = []string{addr}, "none", offsetOldest
	cfg.SessionTimeout, cfg.HeartbeatInterval = component.Duration(patience), component.Duration(patience/30)
	return cfg
}

// through returns a network on which every connection goes to addr, whatever
// the brokers say of themselves, and that has little patience.
func through(addr string) network {
	return network{
		dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: time.Second}
			return d.DialContext(ctx, network, addr)
		},
		answer: time.Second, replicas: time.Second, creation: creationTime, firstPartition: firstPartition,
	}
}

// nearby is the usual network, without chance.
func nearby() network {
	n := usualNetwork()
	n.firstPartition = firstPartition
	return n
}

func firstPartition() int { return 0 }

func mustOpen(t testing.TB, cfg Config, n network) *PubSub {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	p, err := openPubSub(t.Context(), cfg, n, component.Env{AppID: "app"})
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

// admin returns a client that asks the broker about itself.
func admin(t testing.TB, addr string) *kadm.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// awaitMembers waits until a group has so many members with partitions of the
// topic, and no more.
func awaitMembers(t testing.TB, addr, topic, group string, want int) {
	t.Helper()
	a := admin(t, addr)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		groups, err := a.DescribeGroups(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		have := 0
		for _, m := range groups[group].Members {
			if assigned, ok := m.Assigned.AsConsumer(); ok {
				for _, at := range assigned.Topics {
					if at.Topic == topic && len(at.Partitions) > 0 {
						have++
					}
				}
			}
		}
		if have == want && groups[group].State == "Stable" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("group %q is %s and has %d members with partitions of %q, want %d", group, groups[group].State, have, topic, want)
		}
	}
}
