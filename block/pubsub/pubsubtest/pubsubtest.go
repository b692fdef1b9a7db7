// Package pubsubtest is the contract of pubsub.Driver, as tests.
//
// [Run] proves what the comments of the interface say, one property per
// function. [RunBadNetwork] proves that a driver, and a subscription on it,
// behave when the network does not. A driver passes both against the real
// server.
package pubsubtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// Broker is what the tests need to know of the broker and the driver.
type Broker struct {
	// Open returns a driver. All drivers of one Broker speak to the same
	// broker; topics of other tests may be there. The tests close it, and run
	// in parallel.
	Open func(t *testing.T) pubsub.Driver
	// OpenDoomed returns a driver like Open and a function that breaks its
	// connection for good, as when its process dies. nil for a broker that
	// lives in the process.
	OpenDoomed func(t *testing.T) (pubsub.Driver, func())
	// Patience is how long at most the broker takes to deliver again what a
	// dead consumer had; the drivers should be set up so that it is a few
	// seconds. It is also the time after which the broker would take a
	// consumer for dead if the driver did not say that it is alive.
	Patience time.Duration
	// Joined waits until a group has so many members and each has its share of
	// the topic. nil for a broker that gives out messages, not shares: there a
	// member takes part as soon as it has subscribed.
	Joined func(t *testing.T, topic, group string, members int)
	// MaxData is how many bytes of data a message can have; 1 MiB when zero.
	MaxData int
	// NoTopic reports topics that the protocol cannot have; nil for none.
	NoTopic func(topic string) bool
	// NoMetadata tells that the protocol has no place for metadata.
	NoMetadata bool
	// OneMember tells that the members of a group must be in one process, on
	// one driver, because the broker knows a group by its connection.
	OneMember bool
}

// timeout bounds the wait for something that must happen.
const timeout = 30 * time.Second

// A property is one sentence of the contract.
type property struct {
	name string
	test func(*testing.T, Broker)
}

// Run proves that a driver keeps the contract. Properties of optional
// interfaces are skipped for drivers without them.
func Run(t *testing.T, b Broker) {
	run(t, b, func(t *testing.T, f func(*testing.T)) {
		t.Parallel()
		f(t)
	})
}

// RunInVirtualTime is Run for drivers that talk to nobody: no time passes while
// a test waits.
func RunInVirtualTime(t *testing.T, b Broker) { run(t, b, synctest.Test) }

func run(t *testing.T, b Broker, within func(*testing.T, func(*testing.T))) {
	if b.MaxData == 0 {
		b.MaxData = 1 << 20
	}
	for _, p := range slices.Concat(contents(), groups(), redeliveries(), endings(), options(), browsing(), events()) {
		t.Run(p.name, func(t *testing.T) { within(t, func(t *testing.T) { p.test(t, b) }) })
	}
}

// open returns a driver that is closed when the test ends.
func open(t *testing.T, b Broker) pubsub.Driver {
	t.Helper()
	d := b.Open(t)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

// newTopic returns a topic that no other test has.
func newTopic() string { return "topic-" + rand.Text()[:12] }

// groupOf returns the group of the tests that have a topic. Tests do not share
// groups: there are brokers that know one by its connection, and brokers that
// hold up all members of a group when one comes or goes.
func groupOf(topic string) string {
	h := fnv.New32a()
	h.Write([]byte(topic))
	return fmt.Sprintf("group-%08x", h.Sum32())
}

// publish publishes a message and fails the test if that fails.
func publish(t *testing.T, d pubsub.Driver, m *pubsub.Message) {
	t.Helper()
	if err := d.Publish(t.Context(), m); err != nil {
		t.Fatalf("Publish to %q: %v", m.Topic, err)
	}
}

func publishText(t *testing.T, d pubsub.Driver, topic string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		publish(t, d, &pubsub.Message{Topic: topic, Data: []byte(text)})
	}
}

// consumer is a Subscribe call in the background.
type consumer struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{} // closed when Subscribe has returned
	err    error

	deliveries chan *pubsub.Delivery
}

// forgets reports whether what is published before a group is established is
// lost to it.
func forgets(d pubsub.Driver) bool {
	f, ok := d.(pubsub.Forgetter)
	return ok && f.Forgets()
}

// awaitable makes the subscription tell when it is established, if that
// matters to the driver, and returns what waits for it.
func awaitable(t *testing.T, d pubsub.Driver, s *pubsub.Subscription) (wait func(c *consumer)) {
	t.Helper()
	if !forgets(d) {
		return func(*consumer) {}
	}
	established := make(chan struct{})
	s.Established = func() { close(established) }
	return func(c *consumer) {
		t.Helper()
		receive(t, established, c)
	}
}

// establish makes the broker know a group of the topic, if that matters to the
// driver.
func establish(t *testing.T, d pubsub.Driver, topic, group string) {
	t.Helper()
	if !forgets(d) {
		return
	}
	subscribe(t, d, pubsub.Subscription{Topic: topic, Group: group}, func(_ context.Context, d *pubsub.Delivery) error {
		t.Errorf("%.40q arrived before anything was published", d.Data)
		return nil
	}).stop()
}

// subscribe subscribes in the background, until the test ends at the latest.
// What is published afterwards reaches the group.
func subscribe(t *testing.T, d pubsub.Driver, s pubsub.Subscription, handle pubsub.Handler) *consumer {
	t.Helper()
	if s.Group == "" {
		s.Group = groupOf(s.Topic)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := &consumer{t: t, cancel: cancel, done: make(chan struct{})}
	wait := awaitable(t, d, &s)
	go func() {
		defer close(c.done)
		c.err = d.Subscribe(ctx, s, handle)
		if ctx.Err() == nil {
			t.Errorf("Subscribe returned %v before its context ended", c.err)
		}
	}()
	t.Cleanup(c.stop)
	wait(c)
	return c
}

// consume subscribes and passes what arrives, acknowledged, to next.
func consume(t *testing.T, d pubsub.Driver, s pubsub.Subscription) *consumer {
	t.Helper()
	arrived := make(chan *pubsub.Delivery, 10_000)
	c := subscribe(t, d, s, func(_ context.Context, d *pubsub.Delivery) error {
		arrived <- d
		return nil
	})
	c.deliveries = arrived
	return c
}

// next returns the next message.
func (c *consumer) next() *pubsub.Delivery {
	c.t.Helper()
	return receive(c.t, c.deliveries, c)
}

// nextData returns the data of the next n messages, sorted.
func (c *consumer) nextData(n int) []string {
	c.t.Helper()
	var out []string
	for range n {
		out = append(out, string(c.next().Data))
	}
	slices.Sort(out)
	return out
}

// stop ends the subscription and waits until Subscribe has returned.
func (c *consumer) stop() {
	c.t.Helper()
	broken := c.broken()
	c.cancel()
	c.wait()
	if c.err != nil && !broken {
		c.t.Errorf("Subscribe returned %v after its context ended, want nil", c.err)
	}
}

// broken reports whether Subscribe has returned already.
func (c *consumer) broken() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// wait waits until Subscribe has returned.
func (c *consumer) wait() {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(timeout):
		c.t.Fatalf("Subscribe has not returned after %s", timeout)
	}
}

// receive takes a value from a channel and fails the test if there is none in
// time, or the consumer ended.
func receive[T any](t *testing.T, from <-chan T, c *consumer) T {
	t.Helper()
	var ended <-chan struct{}
	if c != nil {
		ended = c.done
	}
	select {
	case v := <-from:
		return v
	case <-ended:
		t.Fatalf("the subscription ended: %v", c.err)
	case <-time.After(timeout):
		t.Fatalf("nothing has arrived after %s", timeout)
	}
	panic("unreachable")
}

// wantNothing fails the test if something arrives before fence, a message that
// is published after everything that must not arrive, and takes the fence.
func wantNothing(t *testing.T, d pubsub.Driver, c *consumer, topic string) {
	t.Helper()
	publishText(t, d, topic, "fence")
	if got := c.next(); string(got.Data) != "fence" {
		t.Errorf("%.40q has arrived again", got.Data)
	}
}

func wantStrings(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func wantCode(t *testing.T, what string, err error, codes ...fault.Code) {
	t.Helper()
	if err == nil || !slices.Contains(codes, fault.CodeOf(err)) {
		t.Errorf("%s: error %v, want one of %v", what, err, codes)
	}
}

// numbers returns the texts "000" to n-1.
func numbers(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%03d", i)
	}
	return out
}

// tally counts calls under way and remembers the most there were.
type tally struct {
	mu        sync.Mutex
	now, most int
}

func (c *tally) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += n
	c.most = max(c.most, c.now)
}

// counts returns how many calls are under way, and the most there were.
func (c *tally) counts() (now, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now, c.most
}

func filled(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }
