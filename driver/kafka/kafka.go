// Package kafka keeps the promises of the building blocks on Apache Kafka and
// on services that speak its protocol.
package kafka

import (
	"encoding/json"
	"net"
	"strings"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		pubsub.Spec(component.Description{
			Name:    "kafka",
			Summary: "Keeps messages in Kafka topics with consumer groups, in the format that Dapr's component of the same name reads and writes.",
		}, pubSubDefaults(), OpenPubSub),
		binding.OutputSpec(component.Description{
			Name:    "kafka",
			Summary: "Publishes to a topic of Kafka, and brings the messages of topics.",
		}, bindingDefaults(), OpenBinding),
	}
}

// Config says how to reach Kafka and how to write to it. It is the same for
// all blocks.
type Config struct {
	// Brokers are some brokers of the cluster, "host:port" each, separated by
	// commas. The port is 9092 unless given.
	Brokers []string `setting:"brokers,required"`
	// ClientID is what the brokers show the client as; the id of the
	// application when empty.
	ClientID string `setting:"clientID"`

	Auth

	// MaxMessageBytes bounds the size of a message, its key and headers
	// included. Brokers have a bound of their own, "max.message.bytes".
	MaxMessageBytes component.Size `setting:"maxMessageBytes"`
	// Compression of what is published: none, gzip, snappy, lz4 or zstd.
	Compression string `setting:"compression"`
	// NumPartitions makes the driver create topics that do not exist, with so
	// many partitions. By default brokers create them, if they are set up to.
	NumPartitions int32 `setting:"numPartitions"`
	// ReplicationFactor is how many replicas topics have that numPartitions
	// makes the driver create; 0 for the default of the brokers.
	ReplicationFactor int32 `setting:"replicationFactor"`

	// MetadataRefreshInterval is how often to ask the brokers which of them
	// have which partitions, when nothing calls for it earlier; an hour at
	// most.
	MetadataRefreshInterval component.Duration `setting:"clientConnectionTopicMetadataRefreshInterval"`
	// KeepAliveInterval is how long a connection that is not used is kept, 15
	// minutes at most; 0 for a little less than brokers usually allow.
	KeepAliveInterval component.Duration `setting:"clientConnectionKeepAliveInterval"`

	Consuming
	NotOffered
	Ignored
}

// Consuming says how to read from Kafka.
type Consuming struct {
	// ConsumerGroup names the consumer group, whatever consumerID says.
	ConsumerGroup string `setting:"consumerGroup"`
	// InitialOffset is where a new consumer group begins: with the "newest"
	// message, that is with those to come, or with the "oldest" one there is.
	InitialOffset string `setting:"initialOffset"`
	// Ordering says which messages wait for each other. With "partition" all
	// those of a partition do: one that fails holds back those behind it until
	// it is processed. With "key" those with the same key do, and nothing
	// waits for a message without a key: any number of a partition are
	// processed at a time, and after a crash or a rebalance some that were
	// processed behind one that was not may come again.
	Ordering string `setting:"ordering"`
	// Concurrency is how many messages of a subscription are processed at a
	// time, over all partitions.
	Concurrency int `setting:"concurrency"`
	// ConsumeRetryEnabled delivers messages again that could not be processed.
	// Without it a message that fails is passed over, so that only the
	// policies deliver it again.
	ConsumeRetryEnabled bool `setting:"consumeRetryEnabled"`
	// ConsumeRetryInterval is the least wait before a message is delivered
	// again.
	ConsumeRetryInterval component.Millis `setting:"consumeRetryInterval"`
	// HeartbeatInterval is how often a consumer tells the brokers that it is
	// alive; a third of sessionTimeout at most.
	HeartbeatInterval component.Duration `setting:"heartbeatInterval"`
	// SessionTimeout is how long a consumer may be silent before its
	// partitions go to others.
	SessionTimeout component.Duration `setting:"sessionTimeout"`
	// RebalanceStrategy says how the consumers of a group share the
	// partitions: range, roundrobin, sticky or cooperative-sticky. All
	// consumers of a group want the same.
	RebalanceStrategy string `setting:"consumerGroupRebalanceStrategy"`
	// FetchMin is for how many bytes of messages a broker waits before it
	// answers, half a second at most.
	FetchMin int32 `setting:"consumerFetchMin"`
	// FetchDefault bounds the bytes of a partition in one answer of a broker.
	// A message that is larger comes nevertheless.
	FetchDefault component.Size `setting:"consumerFetchDefault"`
	// ChannelBufferSize is how many messages of a subscription wait in this
	// process for their turn.
	ChannelBufferSize int `setting:"channelBufferSize"`
	// IsolationLevel is read_uncommitted, or read_committed to leave out
	// messages of transactions that are not committed.
	IsolationLevel string `setting:"consumerIsolationLevel"`
	// EscapeHeaders escapes the values of the headers of messages, and the
	// key, as in the query of a URL.
	EscapeHeaders bool `setting:"escapeHeaders"`
	// ExcludeHeaders is a regular expression for the names of headers that are
	// not to become metadata, nor metadata to become headers.
	ExcludeHeaders string `setting:"excludeHeaderMetaRegex"`
}

// NotOffered are settings that are known and refused.
type NotOffered struct {
	// SchemaRegistryURL is refused: there are no schemas.
	SchemaRegistryURL string `setting:"schemaRegistryURL"`
	// SchemaRegistryAPIKey is refused, like schemaRegistryURL.
	SchemaRegistryAPIKey component.Secret `setting:"schemaRegistryAPIKey"`
	// SchemaRegistryAPISecret is refused, like schemaRegistryURL.
	SchemaRegistryAPISecret component.Secret `setting:"schemaRegistryAPISecret"`
	// ProducerTransactions is refused: there are no transactions.
	ProducerTransactions bool `setting:"producerTransactionsEnabled"`
	// ConsumerTransactions is refused, like producerTransactionsEnabled.
	ConsumerTransactions bool `setting:"consumerTransactionsEnabled"`
}

// Ignored are settings accepted for compatibility.
type Ignored struct {
	// Version has no effect because the client asks the brokers.
	Version string `setting:"version"`
	// SchemaCachingEnabled has no effect because there are no schemas.
	SchemaCachingEnabled string `setting:"schemaCachingEnabled"`
	// SchemaLatestVersionCacheTTL has no effect, like schemaCachingEnabled.
	SchemaLatestVersionCacheTTL string `setting:"schemaLatestVersionCacheTTL"`
	// UseAvroJSON has no effect, like schemaCachingEnabled.
	UseAvroJSON string `setting:"useAvroJson"`
	// TransactionalIDPrefix has no effect because there are no transactions.
	TransactionalIDPrefix string `setting:"transactionalIdPrefix"`
	// TransactionTimeout has no effect, like transactionalIdPrefix.
	TransactionTimeout string `setting:"transactionTimeout"`
	// BackOffPolicy has no effect: a message is delivered again, less and less
	// often, until it is processed or moved to a dead letter topic.
	BackOffPolicy string `setting:"backOffPolicy"`
	// BackOffDuration has no effect, like backOffPolicy.
	BackOffDuration string `setting:"backOffDuration"`
	// BackOffInitialInterval has no effect, like backOffPolicy.
	BackOffInitialInterval string `setting:"backOffInitialInterval"`
	// BackOffMaxInterval has no effect, like backOffPolicy.
	BackOffMaxInterval string `setting:"backOffMaxInterval"`
	// BackOffMaxElapsedTime has no effect, like backOffPolicy.
	BackOffMaxElapsedTime string `setting:"backOffMaxElapsedTime"`
	// BackOffRandomizationFactor has no effect, like backOffPolicy.
	BackOffRandomizationFactor string `setting:"backOffRandomizationFactor"`
	// BackOffMultiplier has no effect, like backOffPolicy.
	BackOffMultiplier string `setting:"backOffMultiplier"`
	// BackOffMaxRetries has no effect, like backOffPolicy.
	BackOffMaxRetries string `setting:"backOffMaxRetries"`
}

// Values of settings.
const (
	offsetNewest = "newest"
	offsetOldest = "oldest"

	orderByPartition = "partition"
	orderByKey       = "key"

	readUncommitted = "read_uncommitted"
	readCommitted   = "read_committed"
)

const defaultPort = "9092"

func defaults() Config {
	return Config{
		Auth:                    authDefaults(),
		MaxMessageBytes:         1 << 20,
		Compression:             "none",
		MetadataRefreshInterval: component.Duration(8 * time.Minute),
		Consuming: Consuming{
			InitialOffset:        offsetNewest,
			Ordering:             orderByPartition,
			Concurrency:          100,
			ConsumeRetryEnabled:  true,
			ConsumeRetryInterval: component.Millis(100 * time.Millisecond),
			HeartbeatInterval:    component.Duration(3 * time.Second),
			SessionTimeout:       component.Duration(10 * time.Second),
			RebalanceStrategy:    "range",
			FetchMin:             1,
			FetchDefault:         1 << 20,
			ChannelBufferSize:    256,
			IsolationLevel:       readUncommitted,
		},
	}
}

// Bounds of settings.
const (
	maxMessage  = 1 << 29
	maxReplicas = 1<<15 - 1
	minMessage  = 512 // less does not even hold a batch of one with some headers
	minSession  = 100 * time.Millisecond
	maxSession  = 24 * time.Hour
	maxSettings = 1 << 16
)

// Validate reports settings that can never work.
func (c Config) Validate() error {
	if len(c.brokers()) == 0 {
		return component.Invalid("brokers", "wants host:port of some brokers")
	}
	for _, b := range c.brokers() {
		if host, port, err := net.SplitHostPort(b); err != nil || host == "" || port == "" {
			return component.Invalid("brokers", "wants host:port, not %q", b)
		}
	}
	switch {
	case c.MaxMessageBytes < minMessage || c.MaxMessageBytes > maxMessage:
		return component.Invalid("maxMessageBytes", "wants %d to %d bytes", minMessage, maxMessage)
	case c.NumPartitions < 0:
		return component.Invalid("numPartitions", "must not be negative")
	case c.ReplicationFactor < 0 || c.ReplicationFactor > maxReplicas:
		return component.Invalid("replicationFactor", "wants 0 to %d", maxReplicas)
	case c.MetadataRefreshInterval < 0:
		return component.Invalid("clientConnectionTopicMetadataRefreshInterval", "must not be negative")
	case c.KeepAliveInterval < 0:
		return component.Invalid("clientConnectionKeepAliveInterval", "must not be negative")
	}
	if _, err := c.codec(); err != nil {
		return err
	}
	for _, v := range []interface{ Validate() error }{c.Auth, c.Consuming, c.NotOffered} {
		if err := v.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// Validate reports settings that can never work.
func (c Consuming) Validate() error {
	switch {
	case c.InitialOffset != "" && !strings.EqualFold(c.InitialOffset, offsetNewest) && !c.fromOldest():
		return component.Invalid("initialOffset", "wants %q or %q, not %q", offsetNewest, offsetOldest, c.InitialOffset)
	case c.Ordering != orderByPartition && c.Ordering != orderByKey:
		return component.Invalid("ordering", "wants %q or %q, not %q", orderByPartition, orderByKey, c.Ordering)
	case c.Concurrency <= 0 || c.Concurrency > maxSettings:
		return component.Invalid("concurrency", "wants 1 to %d, not %d", maxSettings, c.Concurrency)
	case c.ConsumeRetryInterval < 0:
		return component.Invalid("consumeRetryInterval", "must not be negative")
	case c.SessionTimeout.Std() < minSession || c.SessionTimeout.Std() > maxSession:
		return component.Invalid("sessionTimeout", "wants %v to %v", minSession, maxSession)
	case c.HeartbeatInterval <= 0 || c.HeartbeatInterval > c.SessionTimeout:
		return component.Invalid("heartbeatInterval", "wants to be positive, and no longer than a sessionTimeout of %v", c.SessionTimeout)
	case c.FetchMin <= 0:
		return component.Invalid("consumerFetchMin", "must be positive, not %d", c.FetchMin)
	case c.FetchDefault <= 0 || c.FetchDefault > maxMessage:
		return component.Invalid("consumerFetchDefault", "wants 1 to %d bytes", maxMessage)
	case c.ChannelBufferSize < 0 || c.ChannelBufferSize > maxSettings:
		return component.Invalid("channelBufferSize", "wants 0 to %d, not %d", maxSettings, c.ChannelBufferSize)
	case c.IsolationLevel != readCommitted && c.IsolationLevel != readUncommitted:
		return component.Invalid("consumerIsolationLevel", "wants %q or %q, not %q", readUncommitted, readCommitted, c.IsolationLevel)
	}
	if _, err := c.balancer(); err != nil {
		return err
	}
	_, err := c.excluded()
	return err
}

// fromOldest reports whether a new group begins with the oldest message.
func (c Consuming) fromOldest() bool { return strings.EqualFold(c.InitialOffset, offsetOldest) }

// Validate refuses what is not offered.
func (c NotOffered) Validate() error {
	switch {
	case c.SchemaRegistryURL != "", c.SchemaRegistryAPIKey.IsSet(), c.SchemaRegistryAPISecret.IsSet():
		return component.Invalid("schemaRegistryURL", "is not supported: messages are not encoded with schemas; "+
			"leave out the schemaRegistry settings and encode in the application")
	case c.ProducerTransactions:
		return component.Invalid("producerTransactionsEnabled", "is not supported: there are no transactions; messages are delivered at least once")
	case c.ConsumerTransactions:
		return component.Invalid("consumerTransactionsEnabled", "is not supported: there are no transactions; messages are delivered at least once")
	}
	return nil
}

// brokers returns the brokers, each with a port.
func (c Config) brokers() []string {
	var out []string
	for _, b := range c.Brokers {
		b = strings.TrimSpace(b)
		if b == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(b); err != nil {
			b = net.JoinHostPort(strings.Trim(b, "[]"), defaultPort)
		}
		out = append(out, b)
	}
	return out
}

// jsonObject reads a JSON object of strings.
func jsonObject(text string) (map[string]string, bool) {
	var out map[string]string
	err := json.Unmarshal([]byte(text), &out)
	return out, err == nil && len(out) > 0
}
