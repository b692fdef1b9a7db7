package nats

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/pubsub/pubsubtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

// patience is the ack wait in tests.
const patience = time.Second

func openPubSub(ctx context.Context, e *engine.Engine, change func(*PubSubConfig)) (*PubSub, error) {
	cfg := pubSubDefaults()
	cfg.AckWait = component.Duration(patience)
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return OpenPubSub(ctx, e, cfg, component.Env{AppID: "app", Namespace: "test"})
}

func mustOpenPubSub(t testing.TB, e *engine.Engine, change func(*PubSubConfig)) *PubSub {
	t.Helper()
	p, err := openPubSub(t.Context(), e, change)
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

// at makes a component use the server at an address.
func at(addr string) func(*PubSubConfig) {
	return func(c *PubSubConfig) { c.URL = "nats://" + addr }
}

func TestPubSubOnTheEmbeddedEngine(t *testing.T) {
	dir := t.TempDir()
	e := runEngine(t, engine.Options{Dir: dir})
	pubsubtest.Run(t, pubsubtest.Broker{
		Open: func(t *testing.T) pubsub.Driver { return mustOpenPubSub(t, e, nil) },
		OpenDoomed: func(t *testing.T) (pubsub.Driver, func()) {
			// Another sidecar on the same engine, which stops.
			guest, err := engine.Open(t.Context(), engine.Options{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- guest.Run(ctx) }()
			return mustOpenPubSub(t, guest, nil), func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		},
		Patience: patience,
	})
}

func TestPubSubOnServers(t *testing.T) {
	for name, options := range map[string]testserver.NATSOptions{"New": {}, "Old": {Installed: true}} {
		t.Run(name, func(t *testing.T) {
			server := testserver.NATS(t, options)
			pubsubtest.Run(t, pubsubtest.Broker{
				Open: func(t *testing.T) pubsub.Driver { return mustOpenPubSub(t, nil, at(server.Addr())) },
				OpenDoomed: func(t *testing.T) (pubsub.Driver, func()) {
					net := faultnet.New(t, server.Addr())
					return mustOpenPubSub(t, nil, at(net.Addr())), net.Refuse
				},
				Patience: patience,
				MaxData:  1<<20 - 1<<10, // the server's limit includes headers
			})
		})
	}
}

func TestPubSubOnABadNetwork(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	pubsubtest.RunBadNetwork(t, server.Addr(), func(ctx context.Context, _ *testing.T, addr string) (pubsub.Driver, error) {
		p, err := openPubSub(ctx, nil, at(addr))
		if err != nil {
			return nil, err
		}
		return p, nil
	})
}

func TestPubSubSettingsAreChecked(t *testing.T) {
	for settings, want := range map[string]string{
		"maxAge=1ms":                             "wants 100ms at least",
		"maxMessages=-1":                         "must not be negative",
		"ackWait=0":                              "wants 100ms at least",
		"maxDeliver=-2":                          "must not be negative",
		"maxDeliver=2,backOff=1s;2s":             "has 2 waits",
		"backOff=soon":                           "wants durations",
		"maxAckPending=-2":                       "must not be negative",
		"domain=d,apiPrefix=p":                   "exclude each other",
		"deliverPolicy=sequence":                 "startSequence",
		"deliverPolicy=time":                     "startTime",
		"deliverPolicy=some":                     "wants all, last, new, sequence or time",
		"streamName=a.b":                         "must not have blanks",
		"durableName=a b":                        "must not have blanks",
		"concurrency=many":                       `wants "single", "parallel"`,
		"concurrency=0":                          `wants "single", "parallel"`,
		"natsURL=nats://h,flowControl=true":      "",
		"natsURL=nats://h,tls_client_cert=x":     `"cert": and key must be given together`,
		"natsURL=nats://h,jwt=a,seedKey=b":       "",
		"rateLimit=5":                            "is not supported",
		"rateLimit=0,heartbeat=1s,ackPolicy=all": "",
		"concurrency=7,backOff=[1s; 2s],name=n,queueGroupName=q,memoryStorage=true,startTime=5,deliverPolicy=time": "",
	} {
		var given component.Settings
		for kv := range strings.SplitSeq(settings, ",") {
			k, v, _ := strings.Cut(kv, "=")
			given = append(given, component.Setting{Name: k, Value: strings.ReplaceAll(v, ";", ",")})
		}
		err := specOf(t, pubsub.Block).Check(given)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error %v, want %q", settings, err, want)
		}
	}
}

func TestNamesOfTopicsDoNotMeet(t *testing.T) {
	names := []string{"", "a", "A", "a.b", "a=2Eb", "a b", "ä", strings.Repeat("a", 300), strings.Repeat("a", 301), strings.Repeat(".", 100), "aB", "ab", "Ab"}
	seen := map[string]string{}
	for _, name := range names {
		token := encodeToken(name)
		if other, dup := seen[strings.ToLower(token)]; dup {
			t.Errorf("%q and %q have the same token %q", name, other, token)
		}
		seen[strings.ToLower(token)] = name
		if token == "" || len(token) > maxToken+20 || strings.ContainsAny(token, " .*>/\\\t") {
			t.Errorf("%.20q has the token %q", name, token)
		}
	}
	if got := encodeToken("orders-new_2"); got != "orders-new_2" {
		t.Errorf("a plain name is %q", got)
	}
}

// received collects what a topic delivers until the test ends.
func received(t *testing.T, p *PubSub, topic, group string) <-chan *pubsub.Delivery {
	t.Helper()
	out := make(chan *pubsub.Delivery, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- p.Subscribe(ctx, pubsub.Subscription{Topic: topic, Group: group}, func(_ context.Context, d *pubsub.Delivery) error {
			out <- d
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Subscribe: %v", err)
		}
	})
	return out
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

func publish(t *testing.T, p *PubSub, m *pubsub.Message) {
	t.Helper()
	if err := p.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// client is another program's connection.
func client(t *testing.T, server *testserver.NATSServer) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect("nats://" + server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func TestAStreamThatOthersMadeForASubjectIsUsedAsItIs(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	_, js := client(t, server)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*PubSubConfig){
		"ByName": func(c *PubSubConfig) { c.StreamName = "ORDERS" }, "BySubject": func(*PubSubConfig) {},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustOpenPubSub(t, nil, func(c *PubSubConfig) { at(server.Addr())(c); change(c) })
			topic := "orders." + name
			publish(t, p, &pubsub.Message{Topic: topic, Data: []byte(`{"id":"` + name + `"}`), Metadata: map[string]string{"m": "v"}})
			publish(t, p, &pubsub.Message{Topic: topic, Data: []byte(`{"id":"` + name + `"}`)}) // the stream has had this event
			if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: topic, Data: []byte("foreign"), Header: nats.Header{"X-Other": {"y"}}}); err != nil {
				t.Fatal(err)
			}
			got := received(t, p, topic, "group")
			one, two := nextMessage(t, got), nextMessage(t, got)
			if string(one.Data) != `{"id":"`+name+`"}` {
				one, two = two, one
			}
			if one.Metadata["m"] != "v" || string(two.Data) != "foreign" || two.Metadata["X-Other"] != "y" {
				t.Errorf("messages %+v and %+v", one, two)
			}
			for s := range js.StreamNames(t.Context()).Name() {
				if s != "ORDERS" {
					t.Errorf("there is a stream %q", s)
				}
			}
		})
	}
}

func TestASubscriptionByWildcardsGetsTheSubjectsOfAStream(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	_, js := client(t, server)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	p := mustOpenPubSub(t, nil, at(server.Addr()))
	got := received(t, p, "orders.*.new", "group")
	for _, topic := range []string{"orders.eu.old", "orders.eu.new", "orders.us.new"} {
		publish(t, p, &pubsub.Message{Topic: topic, Data: []byte(topic)})
	}
	topics := map[string]bool{}
	for range 2 {
		d := nextMessage(t, got)
		if d.Topic != string(d.Data) {
			t.Errorf("a message of %q is said to be of %q", d.Data, d.Topic)
		}
		topics[d.Topic] = true
	}
	if !topics["orders.eu.new"] || !topics["orders.us.new"] {
		t.Errorf("messages of %v", topics)
	}
	named := mustOpenPubSub(t, nil, func(c *PubSubConfig) { at(server.Addr())(c); c.StreamName = "ORDERS" })
	wantInvalid := named.Publish(t.Context(), &pubsub.Message{Topic: "orders.*", Data: []byte("x")})
	if !fault.Is(wantInvalid, fault.InvalidArgument) {
		t.Errorf("Publish to a wildcard: %v, want invalid_argument", wantInvalid)
	}
}

// Every setting of Dapr's component is known.
func TestAComponentForDaprsJetStreamIsAccepted(t *testing.T) {
	var spec component.Spec
	for _, s := range Specs(nil) {
		if s.Type() == "pubsub.jetstream" {
			spec = s
		}
	}
	var settings component.Settings
	for name, value := range map[string]string{
		"natsURL": "nats://localhost:4222", "name": "shop", "streamName": "orders", "durableName": "shop", "queueGroupName": "shops",
		"startSequence": "1", "startTime": "1630349391", "flowControl": "false", "ackWait": "10s", "maxDeliver": "5", "backOff": "50ms, 1s, 10s",
		"maxAckPending": "5000", "replicas": "1", "memoryStorage": "false", "rateLimit": "0", "heartbeat": "15s", "ackPolicy": "explicit",
		"deliverPolicy": "all", "apiPrefix": "PREFIX", "concurrency": "single", "jwt": "j", "seedKey": "s",
		"tls_client_cert": "/c.pem", "tls_client_key": "/k.pem", "consumerID": "shop",
	} {
		settings = append(settings, component.Setting{Name: name, Value: value})
	}
	if err := spec.Check(settings); err != nil {
		t.Error(err)
	}
	if jetStreamDefaults().Concurrency != 1 {
		t.Error("messages are not delivered one at a time by default")
	}
}

func TestADeletedStreamIsMadeAgain(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	_, js := client(t, server)
	p := mustOpenPubSub(t, nil, at(server.Addr()))
	publish(t, p, &pubsub.Message{Topic: "t", Data: []byte("1")})
	for s := range js.StreamNames(t.Context()).Name() {
		if err := js.DeleteStream(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, p, &pubsub.Message{Topic: "t", Data: []byte("2")})
	if got := nextMessage(t, received(t, p, "t", "group")); string(got.Data) != "2" {
		t.Errorf("message %q, want 2", got.Data)
	}
}

func TestAConsumerThatIsDeletedBreaksTheSubscription(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	_, js := client(t, server)
	p := mustOpenPubSub(t, nil, at(server.Addr()))
	publish(t, p, &pubsub.Message{Topic: "t", Data: []byte("1")})
	took, done := make(chan struct{}, 10), make(chan error, 1)
	go func() {
		done <- p.Subscribe(t.Context(), pubsub.Subscription{Topic: "t", Group: "group"}, func(context.Context, *pubsub.Delivery) error {
			took <- struct{}{}
			return nil
		})
	}()
	<-took
	for s := range js.StreamNames(t.Context()).Name() {
		if err := js.DeleteStream(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		if !fault.Is(err, fault.Unavailable) {
			t.Errorf("Subscribe: %v, want unavailable", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Subscribe goes on without a stream")
	}
	publish(t, p, &pubsub.Message{Topic: "t", Data: []byte("2")})
	if got := nextMessage(t, received(t, p, "t", "group")); string(got.Data) != "2" {
		t.Errorf("message %q, want 2", got.Data)
	}
}

func TestStreamsAreBoundedAndGroupsBeginWhereTheyAreTold(t *testing.T) {
	e := runEngine(t, engine.Options{Dir: t.TempDir()})
	open := func(policy string) *PubSub {
		return mustOpenPubSub(t, e, func(c *PubSubConfig) {
			c.MaxMessages, c.Concurrency, c.DeliverPolicy, c.StartSequence = 3, 1, policy, 4
		})
	}
	p := open("all")
	for _, data := range []string{"1", "2", "3", "4", "5"} {
		publish(t, p, &pubsub.Message{Topic: "t", Data: []byte(data)})
	}
	for policy, want := range map[string]string{"all": "3", "last": "5", "sequence": "4"} {
		if d := nextMessage(t, received(t, open(policy), "t", policy)); string(d.Data) != want {
			t.Errorf("a group with policy %s begins with %q, want %q", policy, d.Data, want)
		}
	}
	got := received(t, open("new"), "t", "new")
	for deadline := time.Now().Add(20 * time.Second); !hasConsumer(t, e, "new"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("there is no consumer")
		}
	}
	publish(t, p, &pubsub.Message{Topic: "t", Data: []byte("6")})
	if d := nextMessage(t, got); string(d.Data) != "6" {
		t.Errorf("a group with policy new begins with %q, want 6", d.Data)
	}
}

func hasConsumer(t *testing.T, e *engine.Engine, name string) bool {
	t.Helper()
	js, err := e.JetStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.Consumer(t.Context(), "proa_pubsub_test_t", name)
	return err == nil
}
