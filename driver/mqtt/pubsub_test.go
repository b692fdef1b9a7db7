package mqtt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

const within = 20 * time.Second

// gather subscribes until the test ends, and returns once that is established.
func gather(t *testing.T, p *PubSub, s pubsub.Subscription, handle pubsub.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	established, done := make(chan struct{}), make(chan error, 1)
	s.Established = func() { close(established) }
	go func() { done <- p.Subscribe(ctx, s, handle) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Subscribe: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-established:
	case err := <-done:
		t.Fatalf("Subscribe: %v", err)
	case <-time.After(within):
		t.Fatal("the subscription is not established")
	}
	return stop
}

func next(t *testing.T, from <-chan *pubsub.Delivery) *pubsub.Delivery {
	t.Helper()
	select {
	case d := <-from:
		return d
	case <-time.After(within):
		t.Fatal("no message")
		return nil
	}
}

// nextData returns the data of the next n messages, sorted.
func nextData(t *testing.T, from <-chan *pubsub.Delivery, n int) string {
	t.Helper()
	var out []string
	for range n {
		out = append(out, string(next(t, from).Data))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func toChannel(to chan<- *pubsub.Delivery) pubsub.Handler {
	return func(_ context.Context, d *pubsub.Delivery) error {
		to <- d
		return nil
	}
}

// newChannel has room for all messages of a test.
func newChannel() chan *pubsub.Delivery { return make(chan *pubsub.Delivery, 10_000) }

func mustPublish(t *testing.T, p *PubSub, topic, data string, metadata map[string]string) {
	t.Helper()
	if err := p.Publish(t.Context(), &pubsub.Message{Topic: topic, Data: []byte(data), Metadata: metadata}); err != nil {
		t.Fatalf("Publish: %v", err)
	}
}

func TestWildcardsChooseTopics(t *testing.T) {
	t.Parallel()
	p, root := mustOpenPubSub(t, server.Get(t).Addr(), nil), rand.Text()
	all, one := newChannel(), newChannel()
	gather(t, p, pubsub.Subscription{Topic: root + "/#", Group: root}, toChannel(all))
	gather(t, p, pubsub.Subscription{Topic: root + "/+/temperature", Group: "other" + root}, toChannel(one))
	for _, topic := range []string{"", "/kitchen", "/kitchen/temperature", "/kitchen/temperature/max"} {
		mustPublish(t, p, root+topic, "x", nil)
	}
	var topics []string
	for range 4 {
		topics = append(topics, strings.TrimPrefix(next(t, all).Topic, root))
	}
	slices.Sort(topics)
	if got := strings.Join(topics, " "); got != " /kitchen /kitchen/temperature /kitchen/temperature/max" {
		t.Errorf("topics %q", got)
	}
	if d := next(t, one); d.Topic != root+"/kitchen/temperature" || len(one) > 0 {
		t.Errorf("message of topic %q, and %d more", d.Topic, len(one))
	}
}

func TestSubscriptionsThatOverlapAllGetAMessage(t *testing.T) {
	t.Parallel()
	p, root := mustOpenPubSub(t, server.Get(t).Addr(), nil), rand.Text()
	for _, topic := range []string{root + "/a", root + "/+", root + "/#"} {
		arrived := newChannel()
		gather(t, p, pubsub.Subscription{Topic: topic, Group: root}, toChannel(arrived))
		defer func() {
			if d := next(t, arrived); d.Topic != root+"/a" {
				t.Errorf("%s got a message of %s", topic, d.Topic)
			}
		}()
	}
	mustPublish(t, p, root+"/a", "x", nil)
}

func TestClientsOfASharedSubscriptionShareMessages(t *testing.T) {
	t.Parallel()
	addr, root := server.Get(t).Addr(), rand.Text()
	p, other := mustOpenPubSub(t, addr, nil), mustOpenPubSub(t, addr, nil)
	arrived := newChannel()
	var mu sync.Mutex
	by := map[string]int{}
	for client, p := range map[string]*PubSub{"one": p, "two": other} {
		gather(t, p, pubsub.Subscription{Topic: "$share/workers/" + root + "/#", Group: client + root}, func(_ context.Context, d *pubsub.Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			by[client]++
			arrived <- d
			return nil
		})
	}
	const count = 50
	for i := range count {
		mustPublish(t, p, root+"/a", fmt.Sprint(i), nil)
	}
	got := strings.Fields(nextData(t, arrived, count))
	if got = slices.Compact(got); len(got) != count {
		t.Errorf("%d different messages arrived, want %d", len(got), count)
	}
	mu.Lock()
	defer mu.Unlock()
	if by["one"] == 0 || by["two"] == 0 {
		t.Errorf("messages by client: %v", by)
	}
}

func TestRetainedMessagesWaitForSubscribers(t *testing.T) {
	t.Parallel()
	addr := server.Get(t).Addr()
	for name, tc := range map[string]struct {
		change   func(*PubSubConfig)
		metadata map[string]string
		retained bool
	}{
		"not by default": {nil, nil, false},
		"by setting":     {func(c *PubSubConfig) { c.Retain = true }, nil, true},
		"by message":     {nil, map[string]string{"retain": "true"}, true},
		"not by message": {func(c *PubSubConfig) { c.Retain = true }, map[string]string{"Retain": "false"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, topic := mustOpenPubSub(t, addr, tc.change), rand.Text()
			mustPublish(t, p, topic, "before", tc.metadata)
			arrived := newChannel()
			gather(t, p, pubsub.Subscription{Topic: topic, Group: topic, MaxInFlight: 1}, toChannel(arrived))
			mustPublish(t, p, topic, "after", map[string]string{"retain": "false"})
			d := next(t, arrived)
			if (string(d.Data) == "before") != tc.retained || (d.Metadata["retained"] == "true") != tc.retained {
				t.Errorf("first message %q with metadata %v", d.Data, d.Metadata)
			}
			mustPublish(t, p, topic, "", map[string]string{"retain": "true"}) // clears it
		})
	}
}

func TestTheBrokerKeepsMessagesForClientsThatAreAway(t *testing.T) {
	t.Parallel()
	addr := server.Get(t).Addr()
	for name, tc := range map[string]struct {
		change   func(*PubSubConfig)
		metadata map[string]string // of the subscription
		message  map[string]string
		kept     bool
	}{
		"by default":              {nil, nil, nil, true},
		"not with QoS 0":          {nil, nil, map[string]string{"qos": "0"}, false},
		"not in a clean session":  {func(c *PubSubConfig) { c.CleanSession = true }, nil, nil, false},
		"not after unsubscribing": {nil, map[string]string{"unsubscribeOnClose": "true"}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, topic := mustOpenPubSub(t, addr, tc.change), rand.Text()
			arrived := newChannel()
			s := pubsub.Subscription{Topic: topic, Group: topic, Metadata: tc.metadata, MaxInFlight: 1}
			gather(t, p, s, toChannel(arrived))()
			mustPublish(t, p, topic, "away", tc.message)
			gather(t, p, s, toChannel(arrived))
			mustPublish(t, p, topic, "back", nil)
			if d := next(t, arrived); (string(d.Data) == "away") != tc.kept {
				t.Errorf("first message %q", d.Data)
			}
		})
	}
}

func TestSubscriptionsOfAClientComeAndGo(t *testing.T) {
	t.Parallel()
	p, root := mustOpenPubSub(t, server.Get(t).Addr(), nil), rand.Text()
	stays, leaves := newChannel(), newChannel()
	gather(t, p, pubsub.Subscription{Topic: root + "/stays", Group: root}, toChannel(stays))
	for i := range 3 {
		stop := gather(t, p, pubsub.Subscription{Topic: root + "/leaves", Group: root}, toChannel(leaves))
		mustPublish(t, p, root+"/leaves", "there", nil)
		next(t, leaves)
		stop()
		mustPublish(t, p, root+"/leaves", "away", nil)
		mustPublish(t, p, root+"/stays", fmt.Sprint(i), nil)
		if d := next(t, stays); string(d.Data) != fmt.Sprint(i) {
			t.Errorf("message %q", d.Data)
		}
		stop = gather(t, p, pubsub.Subscription{Topic: root + "/leaves", Group: root}, toChannel(leaves))
		if d := next(t, leaves); string(d.Data) != "away" {
			t.Errorf("message %q", d.Data)
		}
		stop()
	}
}

func TestWhatNobodySubscribesToAnyMoreIsGivenUp(t *testing.T) {
	t.Parallel()
	p, root := mustOpenPubSub(t, server.Get(t).Addr(), nil), rand.Text()
	p.orphanWait = 200 * time.Millisecond
	stays, gone := newChannel(), newChannel()
	gather(t, p, pubsub.Subscription{Topic: root + "/stays", Group: root}, toChannel(stays))
	gather(t, p, pubsub.Subscription{Topic: root + "/gone/#", Group: root}, toChannel(gone))()
	// The broker sends 20 messages that are not acknowledged and no more.
	for i := range 30 {
		mustPublish(t, p, root+"/gone/by", fmt.Sprint(i), nil)
	}
	mustPublish(t, p, root+"/stays", "good", nil)
	next(t, stays)
	gather(t, p, pubsub.Subscription{Topic: root + "/gone/#", Group: root, MaxInFlight: 1}, toChannel(gone))
	mustPublish(t, p, root+"/gone/by", "last", nil)
	var left []string
	for d := next(t, gone); string(d.Data) != "last"; d = next(t, gone) {
		left = append(left, fmt.Sprintf("%s (%d)", d.Data, d.Attempt))
	}
	if len(left) < fewOrphans || len(left) > 15 { // what the broker had queued comes late
		t.Errorf("%d messages of 30 were kept, in so many deliveries: %v", len(left), left)
	}
}

func TestAFailedMessageIsTriedAgainByTheSameClient(t *testing.T) {
	t.Parallel()
	p, topic := mustOpenPubSub(t, server.Get(t).Addr(), nil), rand.Text()
	arrived := newChannel()
	s := pubsub.Subscription{Topic: topic, Group: topic, MaxInFlight: 1}
	stop := gather(t, p, s, func(_ context.Context, d *pubsub.Delivery) error {
		arrived <- d
		return errors.New("no")
	})
	mustPublish(t, p, topic, "x", nil)
	for want := 1; want <= 5; want++ {
		if d := next(t, arrived); d.Attempt != want {
			t.Errorf("attempt %d, want %d", d.Attempt, want)
		}
	}
	stop()
	gather(t, p, s, toChannel(arrived))
	for { // what was on its way
		if d := next(t, arrived); d.Attempt == 2 {
			break
		}
	}
}

func TestASecondClientOfTheSameIDTakesTheFirstOnesPlace(t *testing.T) {
	t.Parallel()
	addr, topic := server.Get(t).Addr(), rand.Text()
	p, other := mustOpenPubSub(t, addr, nil), mustOpenPubSub(t, addr, nil)
	done, established := make(chan error, 1), make(chan struct{})
	go func() {
		done <- p.Subscribe(t.Context(), pubsub.Subscription{Topic: topic, Group: topic, Established: func() { close(established) }}, nil)
	}()
	<-established
	arrived := newChannel()
	gather(t, other, pubsub.Subscription{Topic: topic, Group: topic}, toChannel(arrived))
	if err := <-done; !fault.Is(err, fault.Unavailable) {
		t.Errorf("Subscribe of the first one: %v", err)
	}
	mustPublish(t, p, topic, "x", nil)
	next(t, arrived)
}

func TestWhatCannotBePublishedOrSubscribedToIsRefused(t *testing.T) {
	t.Parallel()
	p := mustOpenPubSub(t, server.Get(t).Addr(), nil)
	for _, m := range []*pubsub.Message{
		{Topic: "a/+"}, {Topic: "#"}, {Topic: "a\x00b"}, {Topic: "a\nb"}, {Topic: strings.Repeat("x", 65536)}, {Topic: "\xff"},
		{Topic: "t", Metadata: map[string]string{"qos": "3"}}, {Topic: "t", Metadata: map[string]string{"retain": "maybe"}},
	} {
		if err := p.Publish(t.Context(), m); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("Publish to %.20q with %v: %v", m.Topic, m.Metadata, err)
		}
	}
	for _, s := range []pubsub.Subscription{
		{Topic: "a/#/b", Group: "g"}, {Topic: "a+", Group: "g"}, {Topic: "$share/g", Group: "g"}, {Topic: "$share//t", Group: "g"}, {Topic: "t", Group: "\n"},
		{Topic: "t", Group: "g", Metadata: map[string]string{"unsubscribeOnClose": "maybe"}},
	} {
		if err := p.Subscribe(t.Context(), s, nil); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("Subscribe to %q by %q: %v", s.Topic, s.Group, err)
		}
	}
	mustPublish(t, p, "t", "x", nil) // the connection is whole
}

// decode reads settings, "name=value" each, as a component's are read.
func decode(settings ...string) (PubSubConfig, error) {
	cfg := pubSubDefaults()
	var all component.Settings
	for _, s := range settings {
		name, v, _ := strings.Cut(s, "=")
		all = append(all, component.Setting{Name: name, Value: v})
	}
	err := all.Decode(&cfg, &pubsub.Config{})
	return cfg, err
}

func TestSettingsOfDaprAreUnderstood(t *testing.T) {
	for url, want := range map[string]string{
		"tcp://u:p%2F@h:1": "u p/ h:1", "mqtt://h": "  h:1883", "ssl://h": "  h:8883", "mqtts://[::1]": "  [::1]:8883", "tls://u@h": "u  h:8883",
	} {
		c, err := decode("url="+url, "retain=false", "cleanSession=false", "qos=1", "consumerID=channel1", "producerID=p", "backOffMaxRetries=0")
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		at, err := c.target()
		if got := at.user + " " + at.password + " " + at.addr; err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", url, got, err, want)
		}
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	for settings, want := range map[string]string{
		"qos=1":                                 "required",
		"url=http://u:hunter2@h":                "tcp:// or ssl://",
		"url=ws://u:hunter2@h":                  "WebSocket",
		"url=tcp://u:hunter2%ZZ@h":              "percent-encoded",
		"url=hunter2":                           "tcp://user:password@host:port",
		"url=tcp://h,consumerID=c,producerID=c": "differ",
		"url=tcp://h,qos=3":                     "0, 1 or 2",
		"url=tcp://h,concurrencyMode=both":      "single",
		"url=tcp://h,caCert=x":                  "ssl://",
		"url=ssl://h,caCert=hunter2":            "no certificate",
		"url=ssl://h,clientCert=x":              "go together",
		"url=ssl://h,clientCert=x,clientKey=y":  "not a PEM",
	} {
		_, err := decode(strings.Split(settings, ",")...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", settings, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error holds a secret: %v", settings, err)
		}
	}
}

func TestAMessageOfOverlappingSubscriptionsWaitsForTheOneThatWasAway(t *testing.T) {
	t.Parallel()
	p, root := mustOpenPubSub(t, server.Get(t).Addr(), nil), rand.Text()
	stays, fails, back := newChannel(), newChannel(), newChannel()
	gather(t, p, pubsub.Subscription{Topic: root + "/#", Group: root}, toChannel(stays))
	stop := gather(t, p, pubsub.Subscription{Topic: root + "/a", Group: root}, func(_ context.Context, d *pubsub.Delivery) error {
		fails <- d
		return fault.New(fault.Unavailable, "later").WithRetryAfter(time.Hour)
	})
	mustPublish(t, p, root+"/a", "x", nil)
	next(t, stays)
	next(t, fails)
	stop()
	gather(t, p, pubsub.Subscription{Topic: root + "/a", Group: root}, toChannel(back))
	next(t, back)
}
