package pluggable

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"

	componentsv1 "github.com/proa-io/proa/api/gen/dapr/proto/components/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

const featureMessageTTL = "MESSAGE_TTL"

// Metadata of the protocol.
const (
	metadataConsumer     = "consumerID"
	metadataPartitionKey = "partitionKey"
)

func pubsubSpec(p place) component.Spec {
	return pubsub.Spec(describe(p, "Carries messages"), Config{},
		func(ctx context.Context, cfg Config, env component.Env) (*broker, error) {
			return openPubSub(ctx, linkAt(p, env), cfg, env)
		})
}

// broker is a pubsub.Driver.
type broker struct {
	*link
	client   componentsv1.PubSubClient
	features []string // as of the first connection
}

var (
	_ pubsub.BulkPublisher = (*broker)(nil)
	_ pubsub.TTLer         = (*broker)(nil)
)

func openPubSub(ctx context.Context, l *link, cfg Config, env component.Env) (*broker, error) {
	b := &broker{link: l, client: componentsv1.NewPubSubClient(l)}
	l.ping = componentsv1.PubSub_Ping_FullMethodName
	cfg.Properties = withConsumer(cfg.Properties, env.AppID)
	first := true
	l.setup = func(ctx context.Context, cc grpc.ClientConnInterface) error {
		if _, err := serves(ctx, cc, pubsub.Block, servicePubSub); err != nil {
			return err
		}
		client := componentsv1.NewPubSubClient(cc)
		if _, err := client.Init(ctx, &componentsv1.PubSubInitRequest{Metadata: properties(cfg)}); err != nil {
			return initError(err)
		}
		if !first {
			return nil
		}
		features, err := client.Features(ctx, &componentsv1.FeaturesRequest{})
		if err != nil {
			return err
		}
		b.features, first = namesIn(features.GetFeatures()), false
		return nil
	}
	if _, err := l.session(ctx); err != nil {
		_ = l.Close()
		return nil, err
	}
	return b, nil
}

// withConsumer adds the name of the consumer group where the settings do not say
// it: the id of the application.
func withConsumer(properties map[string]string, appID string) map[string]string {
	for name := range properties {
		if strings.EqualFold(name, metadataConsumer) {
			return properties
		}
	}
	out := map[string]string{metadataConsumer: appID}
	maps.Copy(out, properties)
	return out
}

// Capabilities implements component.Capable.
func (b *broker) Capabilities() []string { return b.features }

// DiscardsExpired implements pubsub.TTLer.
func (b *broker) DiscardsExpired() bool { return slices.Contains(b.features, featureMessageTTL) }

// Publish implements pubsub.Driver.
func (b *broker) Publish(ctx context.Context, m *pubsub.Message) error {
	if err := checkMessage(m); err != nil {
		return err
	}
	_, err := b.client.Publish(ctx, &componentsv1.PublishRequest{
		Data: m.Data, PubsubName: b.name, Topic: m.Topic, Metadata: b.metadata(m), ContentType: m.ContentType,
	})
	return b.quote(ctx, err)
}

func checkMessage(m *pubsub.Message) error {
	if !utf8.ValidString(m.ContentType) || !utf8.ValidString(m.Key) {
		return fault.New(fault.InvalidArgument, "the content type or the key of a message is not UTF-8")
	}
	return texts(m.Metadata)
}

// metadata returns what goes with a message: what the publisher sent along and,
// for a component that knows of them, its TTL and its key.
func (b *broker) metadata(m *pubsub.Message) map[string]string {
	ttl := m.TTL > 0 && b.DiscardsExpired() && m.Metadata[metadataTTL] == ""
	key := m.Key != "" && m.Metadata[metadataPartitionKey] == ""
	if !ttl && !key {
		return m.Metadata
	}
	out := make(map[string]string, len(m.Metadata)+2)
	maps.Copy(out, m.Metadata)
	if ttl {
		out[metadataTTL] = strconv.FormatInt(int64((m.TTL+time.Second-1)/time.Second), 10)
	}
	if key {
		out[metadataPartitionKey] = m.Key
	}
	return out
}

// BulkPublish implements pubsub.BulkPublisher. A component that has no such call
// is given the messages one by one.
func (b *broker) BulkPublish(ctx context.Context, messages []*pubsub.Message) []error {
	out := make([]error, len(messages))
	for start := 0; start < len(messages); {
		end := start + 1
		for end < len(messages) && messages[end].Topic == messages[start].Topic {
			end++
		}
		b.bulk(ctx, messages[start:end], out[start:end])
		start = end
	}
	return out
}

// bulk publishes messages of one topic and stores what becomes of each in out.
func (b *broker) bulk(ctx context.Context, messages []*pubsub.Message, out []error) {
	r := &componentsv1.BulkPublishRequest{PubsubName: b.name, Topic: messages[0].Topic}
	for i, m := range messages {
		if out[i] = checkMessage(m); out[i] == nil {
			r.Entries = append(r.Entries, &componentsv1.BulkMessageEntry{
				EntryId: strconv.Itoa(i), Event: m.Data, ContentType: m.ContentType, Metadata: b.metadata(m),
			})
		}
	}
	if len(r.Entries) == 0 {
		return
	}
	answer, err := b.client.BulkPublish(ctx, r)
	if lacks(err) {
		for i, m := range messages {
			if out[i] == nil {
				out[i] = b.Publish(ctx, m)
			}
		}
		return
	}
	if err = b.quote(ctx, err); err != nil {
		for _, e := range r.Entries {
			i, _ := strconv.Atoi(e.GetEntryId()) // our own
			out[i] = err
		}
		return
	}
	for _, failed := range answer.GetFailedEntries() {
		if i, err := strconv.Atoi(failed.GetEntryId()); err == nil && i >= 0 && i < len(out) {
			out[i] = fault.New(fault.Internal, "the component could not take the message: %s", failed.GetError())
		}
	}
}

// Subscribe implements pubsub.Driver. Messages are handled one at a time, in the
// order of the stream, unless the subscription asks for more.
func (b *broker) Subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	if ctx.Err() != nil {
		return nil
	}
	if err := texts(s.Metadata); err != nil {
		return err
	}
	on, err := b.session(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	md := make(map[string]string, len(s.Metadata)+1)
	maps.Copy(md, s.Metadata)
	md[metadataConsumer] = s.Group
	client := componentsv1.NewPubSubClient(on.conn)
	p := pull[componentsv1.PullMessagesRequest, componentsv1.PullMessagesResponse]{
		link: b.link, on: on, atOnce: max(s.MaxInFlight, s.Batch, 1),
		open: func(ctx context.Context) (grpc.BidiStreamingClient[componentsv1.PullMessagesRequest, componentsv1.PullMessagesResponse], error) {
			return client.PullMessages(ctx)
		},
		first: &componentsv1.PullMessagesRequest{Topic: &componentsv1.Topic{Name: s.Topic, Metadata: md}},
		handle: func(ctx context.Context, m *componentsv1.PullMessagesResponse) (*componentsv1.PullMessagesRequest, time.Duration) {
			answer := &componentsv1.PullMessagesRequest{AckMessageId: m.GetId()}
			err := handle(ctx, delivery(s.Topic, m))
			if err == nil {
				return answer, 0
			}
			answer.AckError = &componentsv1.AckMessageError{Message: strings.ToValidUTF8(fault.Message(err), "?")}
			return answer, fault.RetryAfterOf(err)
		},
	}
	return p.run(ctx)
}

func delivery(topic string, m *componentsv1.PullMessagesResponse) *pubsub.Delivery {
	if name := m.GetTopicName(); name != "" {
		topic = name
	}
	return &pubsub.Delivery{ID: m.GetId(), Message: pubsub.Message{
		Topic: topic, Data: m.GetData(), ContentType: m.GetContentType(), Metadata: m.GetMetadata(), Key: m.GetMetadata()[metadataPartitionKey],
	}}
}
