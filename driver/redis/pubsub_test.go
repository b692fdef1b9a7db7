package redis

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/pubsub/pubsubtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

// patience is the processing timeout in tests.
const patience = time.Second

func openPubSub(ctx context.Context, addr string, change func(*PubSubConfig)) (*PubSub, error) {
	cfg := pubSubDefaults()
	cfg.Host = addr
	cfg.ProcessingTimeout, cfg.RedeliverInterval = component.Millis(patience), component.Millis(patience/4)
	if change != nil {
		change(&cfg)
	}
	return OpenPubSub(ctx, cfg, component.Env{})
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
	addr := server.Get(t).Addr()
	pubsubtest.Run(t, pubsubtest.Broker{
		Open: func(t *testing.T) pubsub.Driver { return mustOpenPubSub(t, addr, nil) },
		OpenDoomed: func(t *testing.T) (pubsub.Driver, func()) {
			net := faultnet.New(t, addr)
			return mustOpenPubSub(t, net.Addr(), nil), net.Refuse
		},
		Patience: patience,
	})
}

// ask sends a command as another program would.
func ask(t *testing.T, p *PubSub, args ...string) any {
	t.Helper()
	res, err := p.client.do(t.Context(), p.client.build().Arbitrary(args...).Build())
	if err != nil {
		t.Fatalf("%s: %v", args[0], err)
	}
	out, err := res.ToAny()
	if err != nil {
		t.Fatalf("%s: %v", args[0], err)
	}
	return out
}

// gather subscribes until the test ends.
func gather(t *testing.T, p *PubSub, topic string, handle pubsub.Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Subscribe(ctx, pubsub.Subscription{Topic: topic, Group: "group"}, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Subscribe: %v", err)
		}
	})
}

func nextMessage(t *testing.T, from <-chan *pubsub.Delivery) *pubsub.Delivery {
	t.Helper()
	select {
	case d := <-from:
		return d
	case <-time.After(20 * time.Second):
		t.Fatal("no message")
		return nil
	}
}

func toChannel(to chan<- *pubsub.Delivery) pubsub.Handler {
	return func(_ context.Context, d *pubsub.Delivery) error {
		to <- d
		return nil
	}
}

func TestMessagesAreStoredAsDaprStoresThem(t *testing.T) {
	p, topic := mustOpenPubSub(t, server.Get(t).Addr(), nil), rand.Text()
	publish := func(m *pubsub.Message) {
		t.Helper()
		if err := p.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	publish(&pubsub.Message{Topic: topic, Data: []byte(`{"a":1}`), ContentType: "application/json", Key: "k"})
	publish(&pubsub.Message{Topic: topic, Data: []byte("\x00\xff"), Metadata: map[string]string{"rawPayload": "true", "m": "v"}})
	entries, ok := ask(t, p, "XRANGE", topic, "-", "+").([]any)
	if !ok || len(entries) != 2 {
		t.Fatalf("entries %v", entries)
	}
	fields := func(i int) []any { return entries[i].([]any)[1].([]any) }
	if f := fields(0); len(f) != 2 || f[0] != "data" || f[1] != `{"a":1}` {
		t.Errorf("entry without metadata has the fields %q", f)
	}
	f := fields(1)
	if len(f) != 4 || f[0] != "data" || f[1] != "\x00\xff" || f[2] != "metadata" {
		t.Fatalf("entry with metadata has the fields %q", f)
	}
	var metadata map[string]string
	if err := json.Unmarshal([]byte(f[3].(string)), &metadata); err != nil || len(metadata) != 2 || metadata["m"] != "v" {
		t.Errorf("metadata %q: %v", f[3], err)
	}
	arrived := make(chan *pubsub.Delivery, 10)
	gather(t, p, topic, toChannel(arrived))
	nextMessage(t, arrived)
	nextMessage(t, arrived)
	info := ask(t, p, "XINFO", "CONSUMERS", topic, "group").([]any)
	if len(info) != 1 || info[0].(map[string]any)["name"] != "group" {
		t.Errorf("consumers %v, want one with the name of the group", info)
	}
}

func TestMessagesThatDaprStoredAreDelivered(t *testing.T) {
	p, topic := mustOpenPubSub(t, server.Get(t).Addr(), nil), rand.Text()
	ask(t, p, "XADD", topic, "1526919030474-7", "metadata", `{"m":"v"}`, "data", `{"id":"1"}`)
	ask(t, p, "XADD", topic, "*", "data", "x", "metadata", `["not an object"]`)
	ask(t, p, "XADD", topic, "*", "other", "y")
	arrived := make(chan *pubsub.Delivery, 10)
	gather(t, p, topic, toChannel(arrived))
	byData := map[string]*pubsub.Delivery{}
	for range 3 {
		d := nextMessage(t, arrived)
		byData[string(d.Data)] = d
	}
	if d := byData[`{"id":"1"}`]; d == nil || d.Metadata["m"] != "v" || d.ID != "1526919030474-7" || d.Published.UnixMilli() != 1526919030474 {
		t.Errorf("message %+v", d)
	}
	if d := byData["x"]; d == nil || d.Metadata != nil {
		t.Errorf("message with other metadata %+v", d)
	}
	if d := byData[""]; d == nil {
		t.Error("the entry without data is missing")
	}
}

func TestADeletedStreamIsMadeAgain(t *testing.T) {
	p, topic := mustOpenPubSub(t, server.Get(t).Addr(), nil), rand.Text()
	arrived := make(chan *pubsub.Delivery, 10)
	gather(t, p, topic, toChannel(arrived))
	for range 3 {
		if err := p.Publish(t.Context(), &pubsub.Message{Topic: topic, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		nextMessage(t, arrived)
		ask(t, p, "DEL", topic)
	}
}

func TestMessagesTrimmedOffTheStreamAreForgotten(t *testing.T) {
	p, topic := mustOpenPubSub(t, server.Get(t).Addr(), nil), rand.Text()
	arrived, failed := make(chan *pubsub.Delivery, 10), make(chan struct{}, 10)
	gather(t, p, topic, func(_ context.Context, d *pubsub.Delivery) error {
		if string(d.Data) == "trimmed" {
			failed <- struct{}{}
			return fault.New(fault.Unavailable, "no").WithRetryAfter(500 * time.Millisecond)
		}
		arrived <- d
		return nil
	})
	publish := func(data string) {
		t.Helper()
		if err := p.Publish(t.Context(), &pubsub.Message{Topic: topic, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	publish("trimmed")
	<-failed
	ask(t, p, "XTRIM", topic, "MAXLEN", "0")
	publish("next")
	nextMessage(t, arrived)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		pending := ask(t, p, "XPENDING", topic, "group").([]any)
		if pending[0] == int64(0) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("pending %v, want none", pending)
		}
	}
}

func TestStreamsAreBoundedIfAskedFor(t *testing.T) {
	length := func(t *testing.T, p *PubSub, topic string) int64 {
		t.Helper()
		for i := range 500 {
			if err := p.Publish(t.Context(), &pubsub.Message{Topic: topic, Data: []byte(strconv.Itoa(i))}); err != nil {
				t.Fatal(err)
			}
		}
		return ask(t, p, "XLEN", topic).(int64)
	}
	for name, tc := range map[string]struct {
		change func(*PubSubConfig)
		most   int64
	}{
		"unbounded": {nil, 500},
		"maxlen":    {func(c *PubSubConfig) { c.MaxLenApprox = 100 }, 300}, // Redis trims whole nodes
		"ttl":       {func(c *PubSubConfig) { c.StreamTTL = component.Duration(time.Millisecond) }, 300},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustOpenPubSub(t, server.Get(t).Addr(), tc.change)
			if n := length(t, p, rand.Text()); n > tc.most {
				t.Errorf("the stream has %d entries, want %d at most", n, tc.most)
			}
		})
	}
}

func TestAckOnErrorLeavesRetriesToThePolicies(t *testing.T) {
	p, topic := mustOpenPubSub(t, server.Get(t).Addr(), func(c *PubSubConfig) { c.AckOnError = true }), rand.Text()
	arrived := make(chan *pubsub.Delivery, 10)
	gather(t, p, topic, func(_ context.Context, d *pubsub.Delivery) error {
		arrived <- d
		if string(d.Data) == "fails" {
			return fault.New(fault.Unavailable, "no")
		}
		return nil
	})
	for _, data := range []string{"fails", "next"} {
		if err := p.Publish(t.Context(), &pubsub.Message{Topic: topic, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	nextMessage(t, arrived)
	nextMessage(t, arrived)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if pending := ask(t, p, "XPENDING", topic, "group").([]any); pending[0] == int64(0) {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("pending %v, want none", pending)
		}
	}
	if len(arrived) > 0 {
		t.Error("the failed message came again")
	}
}

func TestPubSubRefusesSettingsThatCannotWork(t *testing.T) {
	for want, change := range map[string]func(*PubSubConfig){
		"processingTimeout": func(c *PubSubConfig) { c.ProcessingTimeout = 1 },
		"redeliverInterval": func(c *PubSubConfig) { c.RedeliverInterval = -1 },
		"queueDepth":        func(c *PubSubConfig) { c.QueueDepth = 0 },
		"concurrency":       func(c *PubSubConfig) { c.Concurrency = -1 },
		"maxLenApprox":      func(c *PubSubConfig) { c.MaxLenApprox = -1 },
		"streamTTL":         func(c *PubSubConfig) { c.MaxLenApprox, c.StreamTTL = 1, component.Duration(time.Second) },
		"redisHost":         func(c *PubSubConfig) { c.Host = "" },
	} {
		cfg := pubSubDefaults()
		cfg.Host = "localhost"
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one about %s", err, want)
		}
	}
}

func TestPubSubOnABadNetwork(t *testing.T) {
	pubsubtest.RunBadNetwork(t, server.Get(t).Addr(), func(ctx context.Context, _ *testing.T, addr string) (pubsub.Driver, error) {
		p, err := openPubSub(ctx, addr, nil)
		if err != nil {
			return nil, err
		}
		return p, nil
	})
}
