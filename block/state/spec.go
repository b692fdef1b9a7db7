package state

import (
	"context"
	"strings"

	"github.com/proa-io/proa/component"
)

// Block is the first part of the type string of every state component.
const Block = "state"

// Config holds the settings that the block reads from a state component,
// whatever its driver.
type Config struct {
	// KeyPrefix chooses what is put before every key, followed by "||", so
	// that applications sharing a store do not meet: "appid" (the default)
	// the id of the application, "namespace" its namespace, a dot and its id,
	// "name" the name of the component, "none" nothing. Any other text is
	// itself the prefix, in lower case; applications that give the same one
	// share their items.
	KeyPrefix string `setting:"keyPrefix"`
	// TTLInSeconds is how long items live that are written without a
	// ttlInSeconds of their own; 0 or -1 for ever.
	TTLInSeconds int `setting:"ttlInSeconds"`
	// ActorStateStore marks the store that keeps the state of actors.
	ActorStateStore bool `setting:"actorStateStore"`
	// OutboxPublishPubsub names the pub/sub component that transactions are
	// published to: every item that a transaction writes is an event. The
	// events are written to the store in the transaction itself, and from
	// there to the broker, so they are published if and only if it happens.
	// With outboxPublishTopic this turns the outbox on. A store that is a
	// Redis cluster needs a keyPrefix with a {tag} in it for that.
	OutboxPublishPubsub string `setting:"outboxPublishPubsub"`
	// OutboxPublishTopic names the topic that transactions are published to.
	// An operation may name another one in its metadata outbox.topic, and
	// another component in outbox.pubsub; outbox.publish "false" keeps it from
	// being published. One with outbox.projection "true" is not stored: its
	// value is published in place of that of the operation with the same key
	// or, when it names a topic, as an event of its own.
	OutboxPublishTopic string `setting:"outboxPublishTopic"`
	// OutboxPubsub has no effect: the outbox needs no messages of its own.
	OutboxPubsub string `setting:"outboxPubsub"`
	// OutboxInternalTopic has no effect, like outboxPubsub.
	OutboxInternalTopic string `setting:"outboxInternalTopic"`
	// OutboxDiscardWhenMissingState has no effect: there is never an event of
	// a transaction that has not happened.
	OutboxDiscardWhenMissingState bool `setting:"outboxDiscardWhenMissingState"`
	// PrimaryEncryptionKey encrypts values before they reach the store. Not
	// supported yet by this version.
	PrimaryEncryptionKey component.Secret `setting:"primaryEncryptionKey"`
	// SecondaryEncryptionKey decrypts values written before the primary key
	// was changed. Not supported yet by this version.
	SecondaryEncryptionKey component.Secret `setting:"secondaryEncryptionKey"`
}

// Validate reports settings that can never work, and those that ask for what
// this version does not do: to go on without would be to store in clear what
// must be encrypted.
func (c Config) Validate() error {
	if strings.Contains(c.KeyPrefix, separator) {
		return component.Invalid("keyPrefix", "must not contain %q", separator)
	}
	if c.TTLInSeconds < -1 || c.TTLInSeconds > maxTTL {
		return component.Invalid("ttlInSeconds", "wants a number of seconds from 1 to %d, or -1 for no expiry", maxTTL)
	}
	if c.OutboxPublishPubsub != "" && c.OutboxPublishTopic == "" {
		return component.Invalid("outboxPublishPubsub", "wants an outboxPublishTopic beside it")
	}
	if c.OutboxPublishPubsub == "" && c.OutboxPublishTopic != "" {
		return component.Invalid("outboxPublishTopic", "wants an outboxPublishPubsub beside it")
	}
	for _, s := range []struct {
		name string
		set  bool
	}{
		{"primaryEncryptionKey", c.PrimaryEncryptionKey.IsSet()},
		{"secondaryEncryptionKey", c.SecondaryEncryptionKey.IsSet()},
	} {
		if s.set {
			return component.Invalid(s.name, "is not supported yet by this version of proa; remove it to use the store without")
		}
	}
	return nil
}

// Spec describes a state driver to the catalog. The capabilities have the names
// that the metadata API of Dapr shows, as far as it has one for them.
func Spec[C any, D Driver](d component.Description, defaults C,
	open func(ctx context.Context, cfg C, env component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, Config{}, []component.Capability{
		component.Can[Driver]("ETAG"),
		component.Can[Driver]("TTL"),
		component.Can[Transactor]("TRANSACTIONAL"),
		component.Can[BulkGetter]("BULK_GET"),
		component.Can[BulkPutter]("BULK_SET"),
		component.Can[BulkDeleter]("BULK_DELETE"),
		component.Can[Lister]("LIST"),
		component.Can[Querier]("QUERY_API"),
		component.Can[Watcher]("WATCH"),
	}, open)
}
