package kafka

import (
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// mustPublish publishes a message.
func mustPublish(t testing.TB, p *PubSub, m *pubsub.Message) {
	t.Helper()
	if err := p.Publish(t.Context(), m); err != nil {
		t.Fatalf("Publish to %q: %v", m.Topic, err)
	}
}

// stored returns the first n records of a topic as another program reads them.
func stored(t *testing.T, topic string, n int) []*kgo.Record {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(server.Get(t).Addr()), kgo.ConsumeTopics(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var out []*kgo.Record
	for len(out) < n {
		fetches := client.PollFetches(t.Context())
		if err := fetches.Err0(); err != nil {
			t.Fatal(err)
		}
		out = append(out, fetches.Records()...)
	}
	return out
}

// produce writes records as another program would.
func produce(t *testing.T, records ...*kgo.Record) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(server.Get(t).Addr()), kgo.AllowAutoTopicCreation(), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func headersOf(r *kgo.Record) string {
	var out []string
	for _, h := range r.Headers {
		out = append(out, h.Key+"="+string(h.Value))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestMessagesAreStoredAsDaprStoresThem(t *testing.T) {
	cfg := testConfig(server.Get(t).Addr())
	cfg.ExcludeHeaders = "^secret"
	p, topic := mustOpen(t, cfg, nearby()), rand.Text()
	for _, m := range []*pubsub.Message{
		{Data: []byte(`{"a":1}`), ContentType: "application/json", Key: "k", Metadata: map[string]string{"partitionKey": "k", "correlationId": "7"}},
		{Data: []byte("\x00\xff"), Metadata: map[string]string{
			"rawPayload": "true", "secretHeader": "s", "__key": "k", "__offset": "12", "__topic": "other", "__partition": "3", "__timestamp": "5",
		}},
		{Data: []byte("null"), Key: "gone"},
		{},
	} {
		m.Topic = topic
		mustPublish(t, p, m)
	}
	for i, want := range []struct {
		value      []byte
		key, heads string
	}{
		{[]byte(`{"a":1}`), "k", "correlationId=7 partitionKey=k"},
		{[]byte("\x00\xff"), "", "rawPayload=true"},
		{nil, "gone", ""},
		{[]byte{}, "", ""},
	} {
		r := stored(t, topic, 4)[i]
		if string(r.Value) != string(want.value) || (r.Value == nil) != (want.value == nil) {
			t.Errorf("message %d has the value %q (nil: %v), want %q", i, r.Value, r.Value == nil, want.value)
		}
		if string(r.Key) != want.key || (r.Key == nil) != (want.key == "") || headersOf(r) != want.heads {
			t.Errorf("message %d has the key %q and the headers %s, want %q and %s", i, r.Key, headersOf(r), want.key, want.heads)
		}
	}
}

func TestMessagesThatOthersStoredAreDelivered(t *testing.T) {
	topic, at := rand.Text(), time.UnixMilli(1526919030474)
	produce(t,
		&kgo.Record{Topic: topic, Key: []byte("k ö"), Value: []byte("v"), Timestamp: at, Headers: []kgo.RecordHeader{
			{Key: "content-type", Value: []byte("text/plain")}, {Key: "ce_id", Value: []byte("a b")}, {Key: "__offset", Value: []byte("99")},
		}},
		&kgo.Record{Topic: topic, Key: []byte("gone")},
		&kgo.Record{Topic: topic, Value: []byte{}},
	)
	for _, tc := range []struct {
		name    string
		change  func(*Config)
		key, id string
	}{
		{"as they are", func(*Config) {}, "k ö", "a b"},
		{"escaped", func(c *Config) { c.EscapeHeaders = true }, "k+%C3%B6", "a+b"},
		{"without some headers", func(c *Config) { c.ExcludeHeaders = "^ce_" }, "k ö", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := testConfig(server.Get(t).Addr())
			tc.change(&cfg)
			p := mustOpen(t, cfg, nearby())
			got := gather(t, p, topic, rand.Text())
			d := got.next()
			if d.Topic != topic || d.Key != "k ö" || string(d.Data) != "v" || d.ID != "0-0" || !d.Published.Equal(at) {
				t.Errorf("message %+v", d)
			}
			for name, want := range map[string]string{
				"__key": tc.key, "__topic": topic, "__partition": "0", "__offset": "0", "__timestamp": "1526919030474",
				"ce_id": tc.id, "content-type": map[bool]string{true: "text%2Fplain", false: "text/plain"}[cfg.EscapeHeaders],
			} {
				if d.Metadata[name] != want {
					t.Errorf("metadata %s is %q, want %q", name, d.Metadata[name], want)
				}
			}
			if d := got.next(); string(d.Data) != "null" {
				t.Errorf("a record without a value is delivered as %q", d.Data)
			}
			d = got.next()
			if _, ok := d.Metadata["__key"]; ok || len(d.Data) != 0 {
				t.Errorf("a record without a key is delivered with %q and metadata %v", d.Data, d.Metadata)
			}
		})
	}
}

func TestAMessageGoesToThePartitionOfItsKeyAsWithDapr(t *testing.T) {
	// Of the hash that the client library of Dapr's component uses by default.
	for key, want := range map[string][3]int{
		"a": {0, 4, 26}, "key": {1, 4, 28}, "order-17": {0, 2, 44}, "ümlaut": {0, 1, 21}, "customer:42": {0, 7, 47},
	} {
		for i, n := range []int{3, 8, 50} {
			got := partitioner{firstPartition}.ForTopic("t").Partition(&kgo.Record{Key: []byte(key), Partition: anyPartition}, n)
			if got != want[i] {
				t.Errorf("key %q of %d partitions goes to %d, want %d", key, n, got, want[i])
			}
		}
	}
}

func TestAMessageGoesToThePartitionThatItNames(t *testing.T) {
	cfg := testConfig(server.Get(t).Addr())
	cfg.NumPartitions = 3
	p, topic := mustOpen(t, cfg, nearby()), rand.Text()
	got := gather(t, p, topic, "group")
	for _, want := range []string{"2", "0", "2"} {
		mustPublish(t, p, &pubsub.Message{Topic: topic, Key: "k", Metadata: map[string]string{"partitionNumber": want}})
		if d := got.next(); d.Metadata["__partition"] != want {
			t.Errorf("the message for partition %s is in %s", want, d.Metadata["__partition"])
		}
	}
	for _, bad := range []string{"3", "-1", "x", "99999999999"} {
		err := p.Publish(t.Context(), &pubsub.Message{Topic: topic, Metadata: map[string]string{"partitionNumber": bad}})
		if !fault.Is(err, fault.InvalidArgument) || !strings.Contains(err.Error(), "partitionNumber") {
			t.Errorf("publish to partition %s: %v", bad, err)
		}
	}
}

func TestMessagesThatAreTooLargeAreRefused(t *testing.T) {
	p, topic := mustOpen(t, testConfig(server.Get(t).Addr()), nearby()), rand.Text()
	got := gather(t, p, topic, "group")
	large := make([]byte, 2<<20)
	if err := p.Publish(t.Context(), &pubsub.Message{Topic: topic, Data: large}); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("publish of 2 MiB: %v, want invalid_argument", err)
	}
	errs := p.BulkPublish(t.Context(), []*pubsub.Message{
		{Topic: topic, Data: []byte("before")}, {Topic: topic, Data: large}, {Topic: topic, Data: []byte("after")},
	})
	if errs[0] != nil || !fault.Is(errs[1], fault.InvalidArgument) || errs[2] != nil {
		t.Errorf("bulk publish with one of 2 MiB: %v", errs)
	}
	for _, want := range []string{"before", "after"} {
		if d := got.next(); string(d.Data) != want {
			t.Errorf("%q has arrived, want %q", d.Data, want)
		}
	}
}

func TestATopicMayTakeLessThanOthers(t *testing.T) {
	addr, topic := server.Get(t).Addr(), rand.Text()
	limit := "1000"
	if _, err := admin(t, addr).CreateTopic(t.Context(), 1, 1, map[string]*string{"max.message.bytes": &limit}, topic); err != nil {
		t.Fatal(err)
	}
	p := mustOpen(t, testConfig(addr), nearby())
	var messages []*pubsub.Message
	for range 20 { // together they are too large, each by itself is not
		messages = append(messages, &pubsub.Message{Topic: topic, Data: make([]byte, 500)})
	}
	messages = append(messages, &pubsub.Message{Topic: topic, Data: make([]byte, 1500)})
	for i, err := range p.BulkPublish(t.Context(), messages) {
		if i < 20 && err != nil || i == 20 && !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("message %d of %d bytes: %v", i, len(messages[i].Data), err)
		}
	}
}

func TestWhatNeedsASchemaIsRefused(t *testing.T) {
	p, topic := mustOpen(t, testConfig(server.Get(t).Addr()), nearby()), rand.Text()
	avro := map[string]string{"valueSchemaType": "Avro"}
	if err := p.Publish(t.Context(), &pubsub.Message{Topic: topic, Metadata: avro}); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("Publish: %v", err)
	}
	if err := p.Subscribe(t.Context(), pubsub.Subscription{Topic: topic, Group: "g", Metadata: avro}, nil); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("Subscribe: %v", err)
	}
	none := map[string]string{"valueSchemaType": "none"}
	mustPublish(t, p, &pubsub.Message{Topic: topic, Metadata: none})
}

func TestEveryCompressionIsRead(t *testing.T) {
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			cfg := testConfig(server.Get(t).Addr())
			cfg.Compression = codec
			p, topic := mustOpen(t, cfg, nearby()), rand.Text()
			text := strings.Repeat("compressible ", 1000)
			mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte(text)})
			if r := stored(t, topic, 1)[0]; string(r.Value) != text || (r.Attrs.CompressionType() == 0) != (codec == "none") {
				t.Errorf("stored with compression %d and %d bytes", r.Attrs.CompressionType(), len(r.Value))
			}
		})
	}
}

func TestNamesThatKafkaCannotHaveDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, topic := range []string{"plain", "a.b", "a_b", "a-b", ".", "..", "a/b", "a:b", "a b", "ä", strings.Repeat("n", 249), strings.Repeat("n", 250), strings.Repeat("ä", 300)} {
		name := nameOf(topic)
		if !isName(name) {
			t.Errorf("%.20q goes by %q, which Kafka cannot have", topic, name)
		}
		if isName(topic) != (name == topic) {
			t.Errorf("%.20q goes by %q", topic, name)
		}
		if other, dup := seen[name]; dup {
			t.Errorf("%.20q and %.20q both go by %q", topic, other, name)
		}
		seen[name] = topic
	}
}
