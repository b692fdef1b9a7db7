package kafka

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/proa-io/proa/component"
)

// A network is how clients use the network.
type network struct {
	// dial replaces the usual way to connect; nil for that one.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// answer is how long a broker may owe an answer, beyond what it waits on
	// purpose, before the connection counts as broken.
	answer time.Duration
	// replicas is how long a broker may wait for the replicas of what is
	// published.
	replicas time.Duration
	// creation is how long brokers may take to create a topic.
	creation time.Duration
	// firstPartition is where messages without a key begin in a topic.
	firstPartition func() int
}

func usualNetwork() network {
	return network{
		answer: 5 * time.Second, replicas: 10 * time.Second, creation: creationTime,
		firstPartition: func() int { return rand.IntN(1 << 16) }, //nolint:gosec // chance needs no secrecy here
	}
}

// Behaviour of all clients.
const (
	dialTime = 5 * time.Second
	// firstBackOff and lastBackOff are between attempts of the client library
	// to reach a broker, or to find who leads a partition.
	firstBackOff = 100 * time.Millisecond
	lastBackOff  = time.Second
	// requestTime is for how long the client library tries a request again.
	requestTime = 8 * time.Second
	// metadataPause is the least time between two questions for metadata.
	metadataPause = 500 * time.Millisecond
	// idleTime is how long an idle connection is kept when nobody says
	// otherwise. Brokers close it after 10 minutes.
	idleTime = 8 * time.Minute
)

// options returns what all clients have in common.
func (c Config) options(net network, env component.Env) ([]kgo.Opt, error) {
	out := []kgo.Opt{
		kgo.SeedBrokers(c.brokers()...),
		kgo.ClientID(cmp.Or(c.ClientID, env.AppID, "proa")),
		kgo.SoftwareNameAndVersion("proa", "1"),
		kgo.RequestTimeoutOverhead(net.answer),
		kgo.ConnIdleTimeout(within(c.KeepAliveInterval.Std(), idleTime, 15*time.Minute)),
		kgo.MetadataMaxAge(within(c.MetadataRefreshInterval.Std(), defaults().MetadataRefreshInterval.Std(), time.Hour)),
		kgo.MetadataMinAge(metadataPause),
		kgo.RetryBackoffFn(backOff),
		kgo.RetryTimeoutFn(c.retryTime),
		kgo.BrokerMaxWriteBytes(c.largest()),
		kgo.BrokerMaxReadBytes(c.largest()),
		kgo.DisableClientMetrics(),
		// Connections also end this way when a broker stops. That they are not
		// wanted at all is found out when the component is opened.
		kgo.AlwaysRetryEOF(),
	}
	mechanism, err := c.mechanism()
	if err != nil {
		return nil, err
	}
	if mechanism != nil {
		out = append(out, kgo.SASL(mechanism))
	}
	encryption, err := c.tls()
	if err != nil {
		return nil, err
	}
	switch {
	case net.dial != nil:
		out = append(out, kgo.Dialer(net.dial))
	case encryption != nil:
		out = append(out, kgo.DialTLSConfig(encryption), kgo.DialTimeout(dialTime))
	default:
		out = append(out, kgo.DialTimeout(dialTime))
	}
	return out, nil
}

// retryTime returns for how long the client library tries a request again, by
// its key.
func (c Config) retryTime(key int16) time.Duration {
	switch kmsg.Key(key) {
	case kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat:
		return c.SessionTimeout.Std() // after which the brokers think that we are gone
	}
	return requestTime
}

// within returns a duration, or usual for 0, as far as the client library can
// have it.
func within(d, usual, most time.Duration) time.Duration {
	return min(max(cmp.Or(d, usual), metadataPause), most)
}

// largest bounds requests to brokers and answers of theirs, in bytes.
func (c Config) largest() int32 {
	const usual = 100 << 20
	return int32(max(usual, 2*c.MaxMessageBytes, 2*c.FetchDefault)) //nolint:gosec // Validate has seen to it
}

// backOff returns the wait after a number of failures.
func backOff(failures int) time.Duration {
	wait := lastBackOff
	if n := max(failures, 1) - 1; n < 10 {
		wait = min(firstBackOff<<n, lastBackOff)
	}
	return wait*3/4 + rand.N(wait/2) //nolint:gosec // jitter needs no secrecy
}

// codec returns the codec of compression.
func (c Config) codec() (kgo.CompressionCodec, error) {
	switch strings.ToLower(strings.TrimSpace(c.Compression)) {
	case "", "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.NoCompression(), component.Invalid("compression", "wants none, gzip, snappy, lz4 or zstd, not %q", c.Compression)
}

// balancer returns the way to share partitions.
func (c Consuming) balancer() (kgo.GroupBalancer, error) {
	switch strings.ToLower(strings.TrimSpace(c.RebalanceStrategy)) {
	case "", "range":
		return kgo.RangeBalancer(), nil
	case "roundrobin":
		return kgo.RoundRobinBalancer(), nil
	case "sticky":
		return kgo.StickyBalancer(), nil
	case "cooperative-sticky":
		return kgo.CooperativeStickyBalancer(), nil
	}
	return nil, component.Invalid("consumerGroupRebalanceStrategy", "wants range, roundrobin, sticky or cooperative-sticky, not %q", c.RebalanceStrategy)
}

// excluded returns which headers are no metadata; nil for none.
func (c Consuming) excluded() (*regexp.Regexp, error) {
	if c.ExcludeHeaders == "" {
		return nil, nil
	}
	re, err := regexp.Compile(c.ExcludeHeaders)
	if err != nil {
		return nil, component.Invalid("excludeHeaderMetaRegex", "is not a regular expression: %v", err)
	}
	return re, nil
}

// connect opens a client and returns it when a broker has answered. It fails
// when none can be reached, or lets us in, before ctx ends.
func connect(ctx context.Context, options []kgo.Opt) (*kgo.Client, error) {
	// The library's question ends with ctx only once there is a connection, so
	// that until there is one the whole client does.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	untie := context.AfterFunc(ctx, end)
	client, err := kgo.NewClient(append(options, kgo.WithContext(life))...)
	if err != nil {
		end()
		return nil, classify(ctx, err)
	}
	err = client.Ping(ctx)
	if !untie() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		end()
		client.Close()
		return nil, classify(ctx, err)
	}
	return client, nil
}

// logger returns the log of env, never nil.
func logger(env component.Env) *slog.Logger {
	if env.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return env.Log
}
