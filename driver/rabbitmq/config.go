package rabbitmq

import (
	"cmp"
	"net/url"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/component"
)

// PubSubConfig configures a message broker on RabbitMQ.
//
// A topic is an exchange of that name, and a group's place in it is a queue
// named consumerID-topic that is bound to it, as with Dapr: applications on
// either share messages. What is published while nobody has subscribed is
// lost, and so is, by default, what waits in a queue that has lost its last
// consumer: see deletedWhenUnused.
type PubSubConfig struct {
	// ConnectionString names the server: "amqp://user:password@host:5672/vhost",
	// or "amqps://..." with TLS. Without it protocol, hostname, username and
	// password do.
	ConnectionString component.Secret `setting:"connectionString,host"`
	// Protocol is "amqp", or "amqps" with TLS. With a connectionString it must
	// be the same.
	Protocol string `setting:"protocol"`
	// Hostname is the server's name or address, with a port if it is not the
	// usual one.
	Hostname string `setting:"hostname"`
	// Username is the user to log in as; guest when empty.
	Username string `setting:"username"`
	// Password of the user.
	Password component.Secret `setting:"password"`
	// CACert holds the certificates (PEM) that the server's is verified with;
	// the system's when empty.
	CACert component.Secret `setting:"caCert"`
	// ClientCert is the certificate (PEM) that the client shows.
	ClientCert component.Secret `setting:"clientCert"`
	// ClientKey is the key (PEM) of clientCert.
	ClientKey component.Secret `setting:"clientKey"`
	// SaslExternal lets the server take the user from clientCert.
	SaslExternal bool `setting:"saslExternal"`
	// ClientName is what the server's operators see the connections as; the id
	// of the application when empty.
	ClientName string `setting:"clientName"`
	// HeartBeat is how often both sides show that they are alive. A connection
	// that is silent for one and a half times as long is dead.
	HeartBeat component.Duration `setting:"heartBeat"`

	// ExchangeKind is how exchanges route: fanout, topic, direct, headers or
	// x-consistent-hash. All but fanout heed the routingKey in the metadata of
	// messages and subscriptions.
	ExchangeKind string `setting:"exchangeKind"`
	// ExchangeDeclareMode is "declare" to make the exchanges that are missing,
	// or "passive" when somebody else looks after them: then they must be
	// there, and may be of any kind.
	ExchangeDeclareMode string `setting:"exchangeDeclareMode"`
	// Durable exchanges and queues survive a restart of the server.
	Durable bool `setting:"durable"`
	// DeletedWhenUnused deletes a queue, with the messages in it, when its last
	// consumer is gone, be it for a moment, and an exchange with its last
	// queue. Set it to false unless losing them is all right.
	DeletedWhenUnused bool `setting:"deletedWhenUnused"`
	// MaxLen bounds the number of messages in a queue, and in its dead letter
	// queue: the oldest go. 0 for no bound. The metadata of a subscription may
	// say otherwise.
	MaxLen int64 `setting:"maxLen"`
	// MaxLenBytes bounds the bytes of messages in a queue, like maxLen.
	MaxLenBytes int64 `setting:"maxLenBytes"`
	// EnableDeadLetter has the server move messages that are rejected, expired
	// or beyond maxLen to the queue dlq-consumerID-topic.
	EnableDeadLetter bool `setting:"enableDeadLetter"`

	// PublisherConfirm waits until the server has the message. When it is
	// false, a publish succeeds once the message is sent, and the message may
	// be lost with the connection. It is on unless it is set to false (with
	// Dapr: unless it is set to true).
	PublisherConfirm *bool `setting:"publisherConfirm"`
	// DeliveryMode is 2 for messages that survive a restart of the server, in
	// durable queues, and 0 or 1 for those that do not. When it is not set, it
	// is 2 if durable is true (with Dapr: 0).
	DeliveryMode *int `setting:"deliveryMode"`
	// TTL is how long messages live that have no ttlInSeconds themselves.
	TTL component.Duration `setting:"ttlInSeconds"`

	// Concurrency is "parallel" to process many messages of a subscription at
	// a time, prefetchCount of them or 100, or "single" for one after the
	// other.
	Concurrency string `setting:"concurrencyMode,concurrency"`
	// PrefetchCount bounds how many messages of a subscription are here,
	// processed or waiting; 0 for as many as are processed at a time.
	PrefetchCount int `setting:"prefetchCount"`
	// AutoAck takes messages off the queue before they are processed: they are
	// lost when that fails.
	AutoAck bool `setting:"autoAck"`
	// RequeueInFailure tells what becomes of a message that the application
	// has not processed. With false it is rejected: it is lost, unless
	// enableDeadLetter is true. With true it is delivered again, later and
	// later. When it is not set, messages are rejected if enableDeadLetter is
	// true and delivered again if not (with Dapr: always rejected).
	RequeueInFailure *bool `setting:"requeueInFailure"`
	// PublishMessagePropertiesToMetadata adds the properties messageid,
	// correlationid, type and contenttype to the metadata of messages.
	PublishMessagePropertiesToMetadata bool `setting:"publishMessagePropertiesToMetadata"`

	// ReconnectWait has no effect because connections are made again when they
	// are needed, and subscriptions wait longer and longer in between.
	ReconnectWait string `setting:"reconnectWait,reconnectWaitSeconds"`
	// BackOff has no effect because policies and requeueInFailure say how
	// messages are tried again.
	BackOff string `setting:"backOffPolicy,backOffDuration,backOffInitialInterval,backOffMaxInterval,backOffMaxRetries,backOffRandomizationFactor,backOffMultiplier,backOffMaxElapsedTime"`
}

// Values of settings.
const (
	declareExchanges = "declare"
	passiveExchanges = "passive"

	concurrencySingle   = "single"
	concurrencyParallel = "parallel"
	// parallelLimit is how many messages are processed at a time when nothing
	// else says so.
	parallelLimit = 100

	kindConsistentHash = "x-consistent-hash"
)

func pubSubDefaults() PubSubConfig {
	return PubSubConfig{
		Hostname: "localhost", HeartBeat: component.Duration(10 * time.Second),
		ExchangeKind: amqp.ExchangeFanout, ExchangeDeclareMode: declareExchanges,
		Durable: true, DeletedWhenUnused: true, Concurrency: concurrencyParallel,
	}
}

// Validate reports settings that can never work.
func (c PubSubConfig) Validate() error {
	mode := strings.ToLower(c.ExchangeDeclareMode)
	switch {
	case mode != declareExchanges && mode != passiveExchanges:
		return component.Invalid("exchangeDeclareMode", "wants %q or %q", declareExchanges, passiveExchanges)
	case c.ExchangeKind == "" || mode == declareExchanges && !isExchangeKind(c.ExchangeKind):
		return component.Invalid("exchangeKind", "wants fanout, topic, direct, headers or %s; exchanges of another kind "+
			"can be used with exchangeDeclareMode %q", kindConsistentHash, passiveExchanges)
	case c.MaxLen < 0:
		return component.Invalid("maxLen", "must not be negative")
	case c.MaxLenBytes < 0:
		return component.Invalid("maxLenBytes", "must not be negative")
	case c.DeliveryMode != nil && (*c.DeliveryMode < 0 || *c.DeliveryMode > 2):
		return component.Invalid("deliveryMode", "wants 0, 1 or 2, not %d", *c.DeliveryMode)
	case c.TTL < 0:
		return component.Invalid("ttlInSeconds", "must not be negative")
	case c.PrefetchCount < 0 || c.PrefetchCount > maxPrefetch:
		return component.Invalid("prefetchCount", "wants a number from 0 to %d", maxPrefetch)
	case !strings.EqualFold(c.Concurrency, concurrencySingle) && !strings.EqualFold(c.Concurrency, concurrencyParallel):
		return component.Invalid("concurrencyMode", "wants %q or %q", concurrencyParallel, concurrencySingle)
	}
	_, err := c.target("")
	return err
}

func isExchangeKind(kind string) bool {
	switch kind {
	case amqp.ExchangeFanout, amqp.ExchangeTopic, amqp.ExchangeDirect, amqp.ExchangeHeaders, kindConsistentHash:
		return true
	}
	return false
}

// target returns the server, for an application.
func (c PubSubConfig) target(appID string) (target, error) {
	uri := c.ConnectionString
	if !uri.IsSet() {
		u := url.URL{Scheme: cmp.Or(c.Protocol, "amqp"), Host: c.Hostname}
		if c.Username != "" {
			u.User = url.UserPassword(c.Username, c.Password.Reveal())
		}
		uri = component.NewSecret(u.String())
	}
	setting := "connectionString"
	if !c.ConnectionString.IsSet() {
		setting = "hostname"
	}
	parsed, err := parseURI(setting, uri)
	if err != nil {
		return target{}, err
	}
	if c.Protocol != "" && c.Protocol != parsed.Scheme {
		return target{}, component.Invalid("protocol", "is %q, and the connectionString begins with %s://", c.Protocol, parsed.Scheme)
	}
	tls, err := certificates{c.CACert, c.ClientCert, c.ClientKey, c.SaslExternal}.tls()
	if err != nil {
		return target{}, err
	}
	if tls != nil && parsed.Scheme != "amqps" {
		return target{}, component.Invalid("protocol", "must be amqps with caCert or clientCert")
	}
	if c.HeartBeat != 0 && c.HeartBeat.Std() < time.Second {
		return target{}, component.Invalid("heartBeat", "wants 1s at least")
	}
	return target{uri: uri, tls: tls, external: c.SaslExternal, name: cmp.Or(c.ClientName, appID), heartbeat: c.HeartBeat.Std()}, nil
}

// confirms reports whether a publish waits for the server.
func (c PubSubConfig) confirms() bool { return c.PublisherConfirm == nil || *c.PublisherConfirm }

// deliveryMode returns the mode of messages.
func (c PubSubConfig) deliveryMode() uint8 {
	switch {
	case c.DeliveryMode != nil:
		return uint8(*c.DeliveryMode) //nolint:gosec // Validate bounds it
	case c.Durable:
		return amqp.Persistent
	}
	return amqp.Transient
}

// rejects reports whether messages that are not processed are rejected.
func (c PubSubConfig) rejects() bool {
	if c.RequeueInFailure != nil {
		return !*c.RequeueInFailure
	}
	return c.EnableDeadLetter
}

// maxPrefetch is the most that the protocol can say.
const maxPrefetch = 65535

// limits returns how many messages a subscription processes at a time, and how
// many it may have; asked is what the subscription asks for.
func (c PubSubConfig) limits(asked int) (limit, prefetch int) {
	switch {
	case asked > 0:
		limit = min(asked, maxPrefetch)
	case strings.EqualFold(c.Concurrency, concurrencySingle):
		limit = 1
	case c.PrefetchCount > 0:
		limit = c.PrefetchCount
	default:
		limit = parallelLimit
	}
	prefetch = limit
	if c.PrefetchCount > 0 {
		prefetch = c.PrefetchCount
	}
	return min(limit, prefetch), prefetch
}
