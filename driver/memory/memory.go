// Package memory keeps everything in the memory of the process: for tests, for
// a first try, and for what may be lost at a restart. It is the reference that
// the other drivers are compared with.
package memory

import (
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		state.Spec(component.Description{
			Name: "in-memory", Aliases: []string{"memory"},
			Summary: "Keeps items in the memory of the process; they are gone when it stops.",
		}, StateConfig{MaxItems: 1_000_000, MaxBytes: 512 << 20}, OpenState),
		lock.Spec(component.Description{
			Name: "in-memory", Aliases: []string{"memory"},
			Summary: "Keeps locks in the memory of the process; they exclude its own callers only.",
		}, LockConfig{}, OpenLock),
		config.Spec(component.Description{
			Name: "in-memory", Aliases: []string{"memory"},
			Summary: "Keeps configuration items in the memory of the process; they are gone when it stops.",
		}, ConfigConfig{}, OpenConfig),
		job.Spec(component.Description{
			Name: "in-memory", Aliases: []string{"memory"},
			Summary: "Keeps jobs in the memory of the process; they are gone when it stops.",
		}, JobsConfig{MaxEntries: 1_000_000}, OpenJobs),
		ratelimit.Spec(component.Description{
			Name: "in-memory", Aliases: []string{"memory"},
			Summary: "Keeps the token buckets of rate limits in the memory of the process; they limit its own callers only.",
		}, RateLimitConfig{}, OpenRateLimit),
		pubsub.Spec(component.Description{
			Name: "in-memory", Aliases: []string{"memory"},
			Summary: "Keeps messages in the memory of the process; they are gone when it stops.",
		}, PubSubConfig{MaxMessages: 10_000, MaxBytes: 256 << 20, Concurrency: 100}, OpenPubSub),
	}
}
