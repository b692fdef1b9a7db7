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
	// PrimaryEncryptionKey encrypts all values before they reach the store,
	// with AES-GCM: 16, 24 or 32 bytes in hexadecimal, best from a secret
	// store. Keys, etags and times of expiry stay in clear. Each value has the
	// name of the secret that the key came from beside it. The format is that
	// of Dapr. A store whose values are encrypted cannot be queried.
	PrimaryEncryptionKey component.Secret `setting:"primaryEncryptionKey"`
	// SecondaryEncryptionKey decrypts values that were written with it as the
	// primary one, so that the key can be changed.
	SecondaryEncryptionKey component.Secret `setting:"secondaryEncryptionKey"`
	// EncryptionBindKeys ties each value that is written to the key of its
	// item, so that whoever can write to the store cannot pass one item's
	// value off as another's. Dapr cannot read such values, nor can they be
	// read under another keyPrefix or application id. Values of both kinds are
	// read, whatever this says; to have none accepted that is not tied, change
	// the primary key too, and drop the secondary one when all is rewritten.
	EncryptionBindKeys bool `setting:"encryptionBindKeys"`
}

// Validate reports settings that can never work.
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
	if c.PrimaryEncryptionKey.IsSet() {
		if _, err := parseKey(c.PrimaryEncryptionKey); err != nil {
			return component.Invalid(primaryKey, "%v", err)
		}
	}
	if !c.SecondaryEncryptionKey.IsSet() {
		return nil
	}
	if _, err := parseKey(c.SecondaryEncryptionKey); err != nil {
		return component.Invalid(secondaryKey, "%v", err)
	}
	if !c.PrimaryEncryptionKey.IsSet() {
		return component.Invalid(secondaryKey, "wants a %s beside it, which encrypts", primaryKey)
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
