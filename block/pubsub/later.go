package pubsub

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
)

// ReasonNoScheduler: a message that is to be delivered later, and nobody to
// keep it.
const ReasonNoScheduler fault.Reason = "pubsub.no_scheduler"

// Scheduler keeps messages that are not to be delivered yet. It hands them back
// to the broker, by PublishKept, when they are due: at least once, again and
// again until the broker has taken them. It is safe for concurrent use.
//
// Messages that are due at the same time come in no particular order.
type Scheduler interface {
	// Keep returns once k will be published even if this process ends now, and
	// the id that k has from then on.
	Keep(ctx context.Context, k Kept) (id string, err error)
}

// Kept is a message that is kept: an envelope already, if it is to be one, and
// one that the application may publish.
type Kept struct {
	// Component is the name of the broker.
	Component string
	Message   *Message
	// Due is when to publish it, at the earliest.
	Due time.Time
}

// keep hands a message to the scheduler.
func (b *Broker) keep(ctx context.Context, m *Message, due time.Time) (id string, err error) {
	if b.opts.Scheduler == nil {
		return "", fault.New(fault.FailedPrecondition, "nothing is configured that keeps messages until they are due").
			WithReason(ReasonNoScheduler)
	}
	if id, err = b.opts.Scheduler.Keep(ctx, Kept{Component: b.name, Message: m, Due: due}); err != nil {
		return "", fault.Wrap(err, fault.CodeOf(err), "keep the message until it is due")
	}
	return id, nil
}

// PublishKept publishes a message that a Scheduler has kept.
func (b *Broker) PublishKept(ctx context.Context, m *Message) error {
	return b.explain(b.publishMessage(ctx, m), "publish to", m.Topic)
}

// keepAll hands entries of a bulk publish to the scheduler, several at a time.
func (p *bulkCall) keepAll(ctx context.Context, later []int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(later), bulkParallelism) {
		wg.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(later) {
					return
				}
				e := &p.entries[later[n]]
				_, e.err = p.broker.keep(ctx, e.message, e.due)
			}
		})
	}
	wg.Wait()
}

// due says when a message is to be delivered: at the given time, if that is not
// zero, or when its metadata say. It returns zero for now.
func (o *publishOptions) due(now, at time.Time) (time.Time, error) {
	given := 0
	for _, is := range [...]bool{!at.IsZero(), !o.at.IsZero(), o.in != nil} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		return time.Time{}, nil
	case given > 1:
		return at, badMetadata("%s and %s say twice when to deliver; one is enough", metaDeliverAt, metaDelay)
	case o.in != nil:
		at = now.Add(*o.in)
	case !o.at.IsZero():
		at = o.at
	}
	if !at.After(now) {
		return time.Time{}, nil
	}
	return at, nil
}

// withoutDelay returns metadata less what says when to deliver, which is settled
// when the message goes to the broker.
func withoutDelay(metadata map[string]string) map[string]string {
	out := make(map[string]string, len(metadata))
	for k, v := range metadata {
		if !isDelay(k) {
			out[k] = v
		}
	}
	return out
}

// isDelay reports whether a metadata entry says when to deliver.
func isDelay(name string) bool {
	return strings.EqualFold(name, metaDeliverAt) || strings.EqualFold(name, metaDelay) || strings.EqualFold(name, metaDelayAlias)
}

func saysWhen(metadata map[string]string) bool {
	for k := range metadata {
		if isDelay(k) {
			return true
		}
	}
	return false
}
