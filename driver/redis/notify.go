package redis

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/fault"
)

// keyspace begins the names of the channels that carry notifications of the keys
// of a database.
func keyspace(db int) string { return "__keyspace@" + strconv.Itoa(db) + "__:" }

// notices are the keyspace notifications of a subscription: which keys may have
// changed since they were last taken.
type notices struct {
	prefix   string        // of the channels' names
	standing chan struct{} // closed when all subscriptions stand
	lost     chan error    // gets the error that ends the subscription
	wake     chan struct{} // holds one token when there is something to take

	mu    sync.Mutex
	dirty map[string]struct{} // the same keys as order
	order []string            // by their first change
}

// listen subscribes, with a command for that many channels, over a link of the
// caller's. The caller calls stop in the end.
func listen(ctx context.Context, l *link, db int, subscribe rueidis.Completed, channels int) (n *notices, stop func()) {
	n = &notices{
		prefix: keyspace(db), standing: make(chan struct{}), lost: make(chan error, 1),
		wake: make(chan struct{}, 1), dirty: map[string]struct{}{},
	}
	ctx, cancel := context.WithCancel(ctx)
	ctx = rueidis.WithOnSubscriptionHook(ctx, func(rueidis.PubSubSubscription) {
		if channels--; channels == 0 {
			close(n.standing)
		}
	})
	var receiving sync.WaitGroup
	receiving.Go(func() {
		err := l.redis.Receive(ctx, subscribe, func(m rueidis.PubSubMessage) { n.add(strings.TrimPrefix(m.Channel, n.prefix)) })
		n.lost <- classify(ctx, err)
	})
	return n, func() {
		cancel()
		receiving.Wait()
	}
}

func (n *notices) add(key string) {
	n.mu.Lock()
	if _, known := n.dirty[key]; !known {
		n.dirty[key] = struct{}{}
		n.order = append(n.order, key)
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// take returns the keys that may have changed since the last call.
func (n *notices) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	keys := n.order
	n.order = nil
	clear(n.dirty)
	return keys
}

// await waits until the subscription stands.
func (n *notices) await(ctx context.Context) error {
	select {
	case <-n.standing:
		return nil
	case err := <-n.lost:
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			err = errNotificationsLost(nil)
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errNotificationsLost ends a watch whose connection is lost.
func errNotificationsLost(err error) error {
	return fault.Wrap(err, fault.Unavailable, "the connection for notifications is lost")
}

// notifyParameter is the setting of the server that turns notifications on.
const notifyParameter = "notify-keyspace-events"

// notifications returns the flags of notify-keyspace-events; ok is false when
// this user may not ask.
func (c *client) notifications(ctx context.Context) (flags string, ok bool, err error) {
	res, err := c.do(ctx, c.build().ConfigGet().Parameter(notifyParameter).Build())
	if err != nil {
		return "", false, err
	}
	values, err := res.AsStrMap()
	if err != nil {
		return "", false, nil //nolint:nilerr // not permitted, or no such command
	}
	flags, ok = values[notifyParameter]
	return flags, ok, nil
}

// missingEvents returns the needed flags that are not among the set ones. "A"
// stands for all kinds of events.
func missingEvents(set, needed string) string {
	var missing strings.Builder
	for _, f := range needed {
		if !strings.ContainsRune(set, f) && (f == 'K' || !strings.ContainsRune(set, 'A')) {
			missing.WriteRune(f)
		}
	}
	return missing.String()
}
