package pubsub

import (
	"context"

	"github.com/proa-io/proa/component"
)

// Block is the first part of the type string of every pub/sub component.
const Block = "pubsub"

// Config holds the settings that the block reads from a pub/sub component,
// whatever its driver.
type Config struct {
	// ConsumerID names the consumer group of all subscriptions through this
	// component; the id of the application when empty.
	ConsumerID string `setting:"consumerID"`
	// PublishingScopes limits which topics applications may publish to:
	// "app1=topic1,topic2;app2=". An application that is not listed may
	// publish to every topic; one that is listed with no topic, to none.
	PublishingScopes string `setting:"publishingScopes"`
	// SubscriptionScopes limits which topics applications may subscribe to, in
	// the same form as PublishingScopes.
	SubscriptionScopes string `setting:"subscriptionScopes"`
	// AllowedTopics, when not empty, are the only topics of this component,
	// for all applications: "topic1,topic2".
	AllowedTopics []string `setting:"allowedTopics"`
	// ProtectedTopics may be used only by applications that PublishingScopes
	// or SubscriptionScopes name for them: "topic1,topic2".
	ProtectedTopics []string `setting:"protectedTopics"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	for _, s := range []struct{ name, text string }{
		{"publishingScopes", c.PublishingScopes}, {"subscriptionScopes", c.SubscriptionScopes},
	} {
		if problem := checkScopes(s.text); problem != "" {
			return component.Invalid(s.name, "%s", problem)
		}
	}
	return nil
}

// Spec describes a pub/sub driver to the catalog.
func Spec[C any, D Driver](d component.Description, defaults C,
	open func(ctx context.Context, cfg C, env component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, Config{}, []component.Capability{
		component.Can[BulkPublisher]("BULK_PUBSUB"),
		component.Can[TTLer]("MESSAGE_TTL"),
		component.Can[KeyOrderer]("ORDER_BY_KEY"),
		component.Can[Browser]("BROWSE"),
	}, open)
}
