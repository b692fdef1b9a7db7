package rabbitmq

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// raw returns a channel of another program. A refused call closes it.
func raw(t *testing.T, addr string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial("amqp://guest:guest@" + addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// gather subscribes until the test ends, and returns once that is established.
func gather(t *testing.T, p *PubSub, s pubsub.Subscription, handle pubsub.Handler) (stop func()) {
	t.Helper()
	if s.Group == "" {
		s.Group = "group"
	}
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

const within = 20 * time.Second

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

func toChannel(to chan<- *pubsub.Delivery) pubsub.Handler {
	return func(_ context.Context, d *pubsub.Delivery) error {
		to <- d
		return nil
	}
}

func mustPublish(t *testing.T, p *PubSub, m *pubsub.Message) {
	t.Helper()
	if err := p.Publish(t.Context(), m); err != nil {
		t.Fatalf("Publish: %v", err)
	}
}

// take returns the next message of a queue, as another program sees it.
func take(t *testing.T, ch *amqp.Channel, queue string) amqp.Delivery {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		d, ok, err := ch.Get(queue, true)
		if err != nil {
			t.Fatalf("Get: %v", err)
		}
		if ok {
			return d
		}
		if time.Now().After(deadline) {
			t.Fatalf("queue %s is empty", queue)
		}
	}
}

func TestExchangesAndQueuesAreDeclaredAsDaprDeclaresThem(t *testing.T) {
	addr := server.Get(t).Addr()
	p, topic := mustOpenPubSub(t, addr, func(c *PubSubConfig) { c.EnableDeadLetter, c.MaxLen = true, 100 }), rand.Text()
	arrived := make(chan *pubsub.Delivery, 10)
	gather(t, p, pubsub.Subscription{Topic: topic, Metadata: map[string]string{"maxPriority": "3", "maxLenBytes": "4000"}}, toChannel(arrived))
	ch, queue := raw(t, addr), "group-"+topic
	// The server refuses a declaration that differs from what there is.
	for _, err := range []error{
		ch.ExchangeDeclare(topic, "fanout", true, true, false, false, nil),
		ch.ExchangeDeclare("dlx-"+queue, "fanout", true, true, false, false, nil),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ch.QueueDeclare(queue, true, true, false, false, amqp.Table{
		"x-dead-letter-exchange": "dlx-" + queue, "x-max-length": int64(100), "x-max-length-bytes": int64(4000),
		"x-max-priority": uint8(3), "x-queue-type": "classic",
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("dlq-"+queue, true, true, false, false, amqp.Table{"x-max-length": int64(100), "x-queue-mode": "lazy"}); err != nil {
		t.Fatal(err)
	}
	// What Dapr publishes arrives.
	if err := ch.PublishWithContext(t.Context(), topic, "", false, false, amqp.Publishing{
		ContentType: "text/plain", Body: []byte(`{"id":"1"}`), CorrelationId: "c", Headers: amqp.Table{"s": "v", "n": int32(7), "t": amqp.Table{}},
	}); err != nil {
		t.Fatal(err)
	}
	d := next(t, arrived)
	if string(d.Data) != `{"id":"1"}` || d.ContentType != "text/plain" || d.Attempt != 1 || len(d.Metadata) != 2 || d.Metadata["s"] != "v" || d.Metadata["n"] != "7" {
		t.Errorf("message %+v", d)
	}
}

func TestMessagesCarryWhatTheirMetadataSays(t *testing.T) {
	addr := server.Get(t).Addr()
	p, topic := mustOpenPubSub(t, addr, func(c *PubSubConfig) {
		c.TTL, c.PublishMessagePropertiesToMetadata = component.Duration(time.Hour), true
	}), rand.Text()
	arrived := make(chan *pubsub.Delivery, 10)
	gather(t, p, pubsub.Subscription{Topic: topic}, toChannel(arrived))
	ch := raw(t, addr)
	if _, err := ch.QueueDeclare("spy-"+topic, false, true, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind("spy-"+topic, "", topic, false, nil); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, p, &pubsub.Message{Topic: topic, ContentType: "application/cloudevents+json", Data: []byte("1"), Metadata: map[string]string{
		"messageId": "m", "CorrelationID": "c", "type": "t", "priority": "300", "other": "o",
	}})
	if d := take(t, ch, "spy-"+topic); d.MessageId != "m" || d.CorrelationId != "c" || d.Type != "t" || d.Priority != 255 || d.Headers["other"] != "o" ||
		d.ContentType != "application/cloudevents+json" || d.DeliveryMode != amqp.Persistent || d.Expiration != "3600000" {
		t.Errorf("message %+v", d)
	}
	if d := next(t, arrived); d.ID != "m" || d.Metadata["messageid"] != "m" || d.Metadata["correlationid"] != "c" || d.Metadata["type"] != "t" ||
		d.Metadata["contenttype"] != "application/cloudevents+json" || d.Metadata["other"] != "o" {
		t.Errorf("delivery %+v", d)
	}
	mustPublish(t, p, &pubsub.Message{Topic: topic, TTL: 90 * time.Second, Metadata: map[string]string{"contentType": "x/y"}})
	if d := take(t, ch, "spy-"+topic); d.Expiration != "90000" || d.ContentType != "x/y" {
		t.Errorf("message %+v", d)
	}
}

func TestAQueueIsDeletedWhenUnusedUnlessTheSettingSaysOtherwise(t *testing.T) {
	addr := server.Get(t).Addr()
	for name, tc := range map[string]struct {
		change func(*PubSubConfig)
		stays  bool
	}{"default": {func(*PubSubConfig) {}, false}, "lasting": {lasting, true}} {
		t.Run(name, func(t *testing.T) {
			p, topic := mustOpenPubSub(t, addr, tc.change), rand.Text()
			arrived := make(chan *pubsub.Delivery, 10)
			for range 2 {
				stop := gather(t, p, pubsub.Subscription{Topic: topic}, toChannel(arrived))
				mustPublish(t, p, &pubsub.Message{Topic: topic})
				next(t, arrived)
				stop()
				// The exchange goes with the queue, and publishing makes it again.
				mustPublish(t, p, &pubsub.Message{Topic: topic})
				if tc.stays {
					stop = gather(t, p, pubsub.Subscription{Topic: topic}, toChannel(arrived))
					next(t, arrived)
					stop()
				}
			}
			_, err := raw(t, addr).QueueDeclarePassive("group-"+topic, true, !tc.stays, false, false, nil)
			if (err == nil) != tc.stays {
				t.Errorf("the queue after its last consumer: %v", err)
			}
		})
	}
}

// attempts subscribes with a handler that fails, and returns which deliveries
// there were.
func attempts(t *testing.T, p *PubSub, s pubsub.Subscription, fail error) <-chan *pubsub.Delivery {
	t.Helper()
	arrived := make(chan *pubsub.Delivery, 1000)
	gather(t, p, s, func(_ context.Context, d *pubsub.Delivery) error {
		arrived <- d
		if string(d.Data) == "bad" {
			return fail
		}
		return nil
	})
	return arrived
}

// notProcessed is what the block says of a message that the application failed.
func notProcessed() error {
	return fault.New(fault.Unavailable, "no").WithReason(pubsub.ReasonNotProcessed).WithRetryAfter(10 * time.Millisecond)
}

func TestWhatBecomesOfMessagesThatFail(t *testing.T) {
	addr := server.Get(t).Addr()
	yes, no := true, false
	for name, tc := range map[string]struct {
		requeue    *bool
		deadLetter bool
		err        error
		again      bool
	}{
		"comes again by default":            {nil, false, notProcessed(), true},
		"comes again if asked for":          {&yes, true, notProcessed(), true},
		"is lost if asked for":              {&no, false, notProcessed(), false},
		"is moved with a dead letter queue": {nil, true, notProcessed(), false},
		"is moved if it is no envelope":     {&no, true, fault.New(fault.InvalidArgument, "no envelope"), false},
		"comes again if nobody was asked":   {&no, true, fault.New(fault.Unavailable, "a policy refused"), true},
		"comes again if it is canceled":     {nil, true, context.Canceled, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, topic := mustOpenPubSub(t, addr, func(c *PubSubConfig) {
				lasting(c)
				c.RequeueInFailure, c.EnableDeadLetter = tc.requeue, tc.deadLetter
			}), rand.Text()
			arrived := attempts(t, p, pubsub.Subscription{Topic: topic}, tc.err)
			mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte("bad"), Metadata: map[string]string{"m": "v"}})
			next(t, arrived)
			if tc.again {
				if d := next(t, arrived); d.Attempt != 2 || string(d.Data) != "bad" {
					t.Errorf("attempt %d of %q, want 2 of bad", d.Attempt, d.Data)
				}
				return
			}
			mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte("good")})
			if d := next(t, arrived); string(d.Data) != "good" {
				t.Errorf("%q came again", d.Data)
			}
			if tc.deadLetter {
				if d := take(t, raw(t, addr), "dlq-group-"+topic); string(d.Body) != "bad" || d.Headers["m"] != "v" {
					t.Errorf("dead letter %+v", d)
				}
			}
		})
	}
}

func TestAutoAckTakesMessagesOffTheQueueAtOnce(t *testing.T) {
	addr := server.Get(t).Addr()
	p, topic := mustOpenPubSub(t, addr, func(c *PubSubConfig) { lasting(c); c.AutoAck = true }), rand.Text()
	arrived := attempts(t, p, pubsub.Subscription{Topic: topic}, errors.New("no"))
	for _, data := range []string{"bad", "good"} {
		mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte(data)})
		if d := next(t, arrived); string(d.Data) != data {
			t.Errorf("%q came, want %q", d.Data, data)
		}
	}
}

func TestManyFailedMessagesHoldNobodyBack(t *testing.T) {
	addr := server.Get(t).Addr()
	for name, s := range map[string]pubsub.Subscription{
		"one at a time":  {MaxInFlight: 1},
		"several":        {MaxInFlight: 10},
		"a quorum queue": {MaxInFlight: 10, Metadata: map[string]string{"queueType": "quorum"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const bad = 100
			p := mustOpenPubSub(t, addr, lasting)
			s.Topic = rand.Text()
			failed, arrived := make(chan struct{}, bad), make(chan *pubsub.Delivery, bad)
			stop := gather(t, p, s, func(_ context.Context, d *pubsub.Delivery) error {
				if string(d.Data) == "good" {
					arrived <- d
					return nil
				}
				failed <- struct{}{}
				return fault.New(fault.Unavailable, "never").WithRetryAfter(time.Hour)
			})
			for range bad {
				mustPublish(t, p, &pubsub.Message{Topic: s.Topic, Data: []byte("bad")})
			}
			mustPublish(t, p, &pubsub.Message{Topic: s.Topic, Data: []byte("good")})
			next(t, arrived)
			for range bad {
				<-failed
			}
			stop() // gives them back
			ch := raw(t, addr)
			for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) { // a quorum queue counts late
				q, err := ch.QueueDeclarePassive("group-"+s.Topic, true, false, false, false, nil)
				if err == nil && q.Messages == bad {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d messages are in the queue, want %d: %v", q.Messages, bad, err)
				}
			}
		})
	}
}

func TestAMessageThatKeepsFailingGoesToAnotherMember(t *testing.T) {
	addr := server.Get(t).Addr()
	for name, metadata := range map[string]map[string]string{"classic": nil, "quorum": {"queueType": "quorum"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken, well, topic := mustOpenPubSub(t, addr, lasting), mustOpenPubSub(t, addr, lasting), rand.Text()
			broken.keepFor = 50 * time.Millisecond
			s := pubsub.Subscription{Topic: topic, MaxInFlight: 1, Metadata: metadata}
			tried := attempts(t, broken, s, notProcessed())
			mustPublish(t, broken, &pubsub.Message{Topic: topic, Data: []byte("bad")})
			for want := 1; want <= 3; want++ {
				if d := next(t, tried); d.Attempt != want {
					t.Errorf("attempt %d, want %d", d.Attempt, want)
				}
			}
			arrived := make(chan *pubsub.Delivery, 10)
			gather(t, well, s, toChannel(arrived))
			if d := next(t, arrived); d.Attempt < 2 {
				t.Errorf("attempt %d by another member, want 2 at least", d.Attempt)
			}
		})
	}
}

func TestRoutingKeysChooseMessages(t *testing.T) {
	addr := server.Get(t).Addr()
	for kind, tc := range map[string]struct{ bind, hit, miss string }{
		"topic":  {"a.*,b,", "a.x", "c"},
		"direct": {"a", "a", "b"},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p, topic := mustOpenPubSub(t, addr, func(c *PubSubConfig) { c.ExchangeKind = kind }), rand.Text()
			arrived := make(chan *pubsub.Delivery, 10)
			gather(t, p, pubsub.Subscription{Topic: topic, Metadata: map[string]string{"routingKey": tc.bind, "queueName": "q" + topic}}, toChannel(arrived))
			if _, err := raw(t, addr).QueueDeclarePassive("q"+topic, true, true, false, false, nil); err != nil {
				t.Error(err)
			}
			for _, key := range []string{tc.miss, tc.hit} {
				mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte(key), Metadata: map[string]string{"routingKey": key}})
			}
			if d := next(t, arrived); string(d.Data) != tc.hit {
				t.Errorf("message with key %q arrived", d.Data)
			}
		})
	}
}

func TestMessagesWithAKeyGoToOneQueueOfAConsistentHashExchange(t *testing.T) {
	addr := server.Get(t).Addr()
	p, topic := mustOpenPubSub(t, addr, func(c *PubSubConfig) { c.ExchangeKind = kindConsistentHash }), rand.Text()
	arrived := make(chan string, 1000)
	for _, queue := range []string{"a", "b"} {
		gather(t, p, pubsub.Subscription{Topic: topic, Metadata: map[string]string{"routingKey": "1", "queueName": queue + topic}},
			func(_ context.Context, d *pubsub.Delivery) error {
				arrived <- string(d.Data) + queue
				return nil
			})
	}
	const keys, each = 20, 5
	for i := range keys * each {
		key := string(rune('A' + i%keys))
		mustPublish(t, p, &pubsub.Message{Topic: topic, Key: key, Data: []byte(key)})
	}
	var got []string
	for range keys * each {
		got = append(got, <-arrived)
	}
	slices.Sort(got)
	if got = slices.Compact(got); len(got) != keys {
		t.Errorf("keys went to the queues %v, want one queue for each key", got)
	}
}

func TestPassiveExchangesMustBeThere(t *testing.T) {
	addr := server.Get(t).Addr()
	p, topic := mustOpenPubSub(t, addr, func(c *PubSubConfig) { c.ExchangeDeclareMode = "Passive"; c.ExchangeKind = "x-anything" }), rand.Text()
	err := p.Publish(t.Context(), &pubsub.Message{Topic: topic})
	if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), topic) {
		t.Errorf("Publish to an exchange that is not there: %v", err)
	}
	if err := p.Subscribe(t.Context(), pubsub.Subscription{Topic: topic, Group: "g"}, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("Subscribe to an exchange that is not there: %v", err)
	}
	if err := raw(t, addr).ExchangeDeclare(topic, "headers", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, p, &pubsub.Message{Topic: topic})
}

func TestADeletedQueueOrExchangeIsMadeAgain(t *testing.T) {
	addr := server.Get(t).Addr()
	p, topic := mustOpenPubSub(t, addr, lasting), rand.Text()
	done := make(chan error, 1)
	established := make(chan struct{})
	go func() {
		done <- p.Subscribe(t.Context(), pubsub.Subscription{Topic: topic, Group: "group", Established: func() { close(established) }}, nil)
	}()
	<-established
	mustPublish(t, p, &pubsub.Message{Topic: "other" + topic})
	ch := raw(t, addr)
	if _, err := ch.QueueDelete("group-"+topic, false, false, false); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "group-"+topic) {
		t.Errorf("Subscribe to a queue that was deleted: %v", err)
	}
	for range 3 {
		if err := ch.ExchangeDelete(topic, false, false); err != nil {
			t.Fatal(err)
		}
		mustPublish(t, p, &pubsub.Message{Topic: topic})
	}
	arrived := make(chan *pubsub.Delivery, 10)
	gather(t, p, pubsub.Subscription{Topic: topic}, toChannel(arrived))
	mustPublish(t, p, &pubsub.Message{Topic: topic})
	next(t, arrived)
}

func TestAMessageThatIsRefusedHurtsNoOther(t *testing.T) {
	addr := server.Get(t).Addr()
	p, topic := mustOpenPubSub(t, addr, lasting), rand.Text()
	gather(t, p, pubsub.Subscription{Topic: topic}, func(context.Context, *pubsub.Delivery) error { return nil })
	long := strings.Repeat("x", 256)
	var messages []*pubsub.Message
	for range 50 {
		messages = append(messages, &pubsub.Message{Topic: topic, Data: []byte("good")})
	}
	bad := map[int]*pubsub.Message{
		5:  {Topic: topic, Data: make([]byte, 2_100_000)}, // the server's limit
		10: {Topic: topic, Metadata: map[string]string{"m": strings.Repeat("x", 200_000)}},
		15: {Topic: topic, Metadata: map[string]string{long: "v"}},
		20: {Topic: topic, Metadata: map[string]string{"routingKey": long}},
		25: {Topic: topic, ContentType: long},
		30: {Topic: topic, Metadata: map[string]string{"priority": "high"}},
		35: {Topic: "amq." + topic},
	}
	for i, m := range bad {
		messages[i] = m
	}
	for i, err := range p.BulkPublish(t.Context(), messages) {
		switch {
		case bad[i] == nil && err != nil:
			t.Errorf("message %d: %v", i, err)
		case bad[i] != nil && (err == nil || fault.CodeOf(err).Retryable() || fault.Is(err, fault.Unknown) || fault.Is(err, fault.Internal)):
			t.Errorf("message %d, which cannot be published: %v", i, err)
		case bad[i] != nil:
			t.Log(err)
		}
	}
}

func TestWithoutConfirmsAPublishDoesNotWait(t *testing.T) {
	no := false
	p, topic := mustOpenPubSub(t, server.Get(t).Addr(), func(c *PubSubConfig) { c.PublisherConfirm = &no }), rand.Text()
	arrived := make(chan *pubsub.Delivery, 10)
	gather(t, p, pubsub.Subscription{Topic: topic}, toChannel(arrived))
	mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte("x")})
	next(t, arrived)
}

func TestDeclarationsThatDifferAreExplained(t *testing.T) {
	addr := server.Get(t).Addr()
	topic := rand.Text()
	gather(t, mustOpenPubSub(t, addr, lasting), pubsub.Subscription{Topic: topic}, nil)
	for name, tc := range map[string]struct {
		change   func(*PubSubConfig)
		metadata map[string]string
		want     []string
	}{
		"durable":      {func(c *PubSubConfig) { lasting(c); c.Durable = false }, nil, []string{"exchange", topic, "durable", "'true'", "'false'"}},
		"auto delete":  {func(*PubSubConfig) {}, nil, []string{"exchange", topic, "deletedWhenUnused", "'true'", "'false'"}},
		"kind":         {func(c *PubSubConfig) { lasting(c); c.ExchangeKind = "topic" }, nil, []string{"exchange", topic, "exchangeKind", "'fanout'", "'topic'"}},
		"length":       {func(c *PubSubConfig) { lasting(c); c.MaxLen = 7 }, nil, []string{"queue", "group-" + topic, "maxLen", "not set", "'7'"}},
		"dead letters": {func(c *PubSubConfig) { lasting(c); c.EnableDeadLetter = true }, nil, []string{"queue", "enableDeadLetter", "dlx-group-" + topic}},
		"queue type":   {lasting, map[string]string{"queueType": "quorum"}, []string{"queue", "queueType", "'quorum'", "'classic'"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustOpenPubSub(t, addr, tc.change)
			err := p.Subscribe(t.Context(), pubsub.Subscription{Topic: topic, Group: "group", Metadata: tc.metadata}, nil)
			if !fault.Is(err, fault.FailedPrecondition) {
				t.Fatalf("Subscribe: %v", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(fault.Message(err), want) {
					t.Errorf("%q does not name %s", fault.Message(err), want)
				}
			}
		})
	}
}

func TestOneConsumerIsActiveAndKeepsTheOrder(t *testing.T) {
	addr := server.Get(t).Addr()
	p, other, topic := mustOpenPubSub(t, addr, lasting), mustOpenPubSub(t, addr, lasting), rand.Text()
	s := pubsub.Subscription{Topic: topic, MaxInFlight: 1, Metadata: map[string]string{"singleActiveConsumer": "true"}}
	var mu sync.Mutex
	failed := map[string]bool{}
	arrived := make(chan *pubsub.Delivery, 100)
	gather(t, p, s, func(_ context.Context, d *pubsub.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if !failed[string(d.Data)] {
			failed[string(d.Data)] = true
			return notProcessed()
		}
		arrived <- d
		return nil
	})
	gather(t, other, s, func(_ context.Context, d *pubsub.Delivery) error {
		t.Errorf("%q went to the second consumer", d.Data)
		return nil
	})
	for _, data := range []string{"1", "2", "3", "4"} {
		mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte(data)})
	}
	for _, want := range []string{"1", "2", "3", "4"} {
		if d := next(t, arrived); string(d.Data) != want {
			t.Errorf("message %q, want %q", d.Data, want)
		}
	}
}
