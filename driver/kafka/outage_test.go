package kafka

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

// ledger records what consumers of one group have processed, by key.
type ledger struct {
	t    *testing.T
	mu   sync.Mutex
	done map[string]int // the numbers below are processed
	sum  int            // over all keys
	more chan struct{}
}

func newLedger(t *testing.T) *ledger {
	return &ledger{t: t, done: map[string]int{}, more: make(chan struct{}, 1)}
}

// handle processes a message, which may have been before, and proves that those
// with its key that come before it have been.
func (l *ledger) handle(_ context.Context, d *pubsub.Delivery) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, _ := strconv.Atoi(string(d.Data))
	switch done := l.done[d.Key]; {
	case n > done:
		l.t.Errorf("message %d of %s is handed over before %d", n, d.Key, done)
	case n == done:
		l.done[d.Key]++
		l.sum++
		signal(l.more)
	}
	return nil
}

// await waits until so many different messages are processed.
func (l *ledger) await(want int) {
	l.t.Helper()
	for deadline := time.After(inTime); ; {
		l.mu.Lock()
		sum := l.sum
		l.mu.Unlock()
		if sum >= want {
			return
		}
		select {
		case <-l.more:
		case <-deadline:
			l.t.Fatalf("%d messages are processed, want %d", sum, want)
		}
	}
}

// publishNumbers publishes messages of some keys, n of each, counting from
// first.
func publishNumbers(t *testing.T, p *PubSub, topic string, first, n int) {
	t.Helper()
	var messages []*pubsub.Message
	for i := range n {
		for k := range 8 {
			messages = append(messages, &pubsub.Message{Topic: topic, Key: fmt.Sprint("key ", k), Data: []byte(strconv.Itoa(first + i))})
		}
	}
	for _, err := range p.BulkPublish(t.Context(), messages) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRebalancesLoseNothingAndKeepOrders(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ strategy, ordering string }{
		{"range", orderByPartition}, {"roundrobin", orderByKey}, {"cooperative-sticky", orderByKey},
	} {
		t.Run(tc.strategy, func(t *testing.T) {
			t.Parallel()
			const each = 50
			addr, topic, group := server.Get(t).Addr(), rand.Text(), rand.Text()
			cfg := testConfig(addr)
			cfg.NumPartitions, cfg.RebalanceStrategy, cfg.Ordering = 4, tc.strategy, tc.ordering
			l := newLedger(t)
			s := pubsub.Subscription{Topic: topic, Group: group}
			a := mustOpen(t, cfg, nearby())
			first := subscribe(t, a, s, l.handle)
			publishNumbers(t, a, topic, 0, each)

			// One that joins takes its share while messages flow.
			b := mustOpen(t, cfg, nearby())
			subscribe(t, b, s, l.handle)
			publishNumbers(t, a, topic, each, each)
			awaitMembers(t, addr, topic, group, 2)
			l.await(2 * each * 8)

			// One that dies, of which the brokers hear nothing any more.
			net := faultnet.New(t, addr)
			doomed := mustOpen(t, cfg, through(net.Addr()))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- doomed.Subscribe(ctx, s, l.handle) }()
			awaitMembers(t, addr, topic, group, 3)
			publishNumbers(t, a, topic, 2*each, each)
			net.Blackhole()
			publishNumbers(t, a, topic, 3*each, each)
			l.await(4 * each * 8)
			cancel()
			<-ended

			// One that leaves in good order.
			publishNumbers(t, a, topic, 4*each, each)
			first.stop()
			l.await(5 * each * 8)
		})
	}
}

// ledgerApp is an application that records what it gets.
type ledgerApp struct {
	mu   sync.Mutex
	seen map[string]bool
	more chan struct{}
}

// Deliver implements pubsub.App.
func (a *ledgerApp) Deliver(_ context.Context, _ string, e *pubsub.Event) (pubsub.Status, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[string(e.Data())] = true
	signal(a.more)
	return pubsub.Success, nil
}

// DeliverBulk implements pubsub.App.
func (a *ledgerApp) DeliverBulk(context.Context, string, *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
	return nil, fault.New(fault.Unimplemented, "not in bulk")
}

// lacks returns the first of n texts that has not come.
func (a *ledgerApp) lacks(n int) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range n {
		if text := strconv.Itoa(i); !a.seen[text] {
			return text
		}
	}
	return ""
}

// It kills the broker of all tests, and so comes before those that run in
// parallel.
func TestPublishingAndConsumingResumeAfterTheBrokerWasKilled(t *testing.T) {
	const n = 60
	srv := server.Get(t)
	b := pubsub.New(component.Opened("bus", pubsub.Driver(mustOpen(t, testConfig(srv.Addr()), nearby()))), pubsub.Options{AppID: rand.Text()})
	topic := rand.Text()
	publish := func(ctx context.Context, i int) error {
		return b.Publish(ctx, &pubsub.PublishRequest{Topic: topic, Data: []byte(strconv.Itoa(i))})
	}
	if err := publish(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	app := &ledgerApp{seen: map[string]bool{}, more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Subscribe(ctx, &pubsub.SubscriptionSpec{PubSub: "bus", Topic: topic}, app) }()
	published := make(chan struct{}) // closed when all are
	go func() {
		defer close(published)
		for i := 1; i < n; i++ {
			for {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				err := publish(ctx, i)
				cancel()
				if err == nil {
					break
				}
				if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.DeadlineExceeded) || t.Context().Err() != nil {
					t.Errorf("Publish: %v", err)
					return
				}
			}
			if i%(n/2) == n/4 { // twice, with messages on their way
				srv.Kill()
				srv.Restart()
			}
		}
	}()
	for deadline := time.After(3 * inTime); app.lacks(n) != ""; {
		select {
		case <-app.more:
		case err := <-ended:
			t.Fatalf("Subscribe: %v", err)
		case <-deadline:
			t.Fatalf("message %s has not come", app.lacks(n))
		}
	}
	<-published
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Subscribe: %v", err)
	}
}

func TestAnOutageIsNamed(t *testing.T) {
	t.Parallel()
	net := faultnet.New(t, server.Get(t).Addr())
	p := mustOpen(t, testConfig(net.Addr()), through(net.Addr()))
	net.Refuse()
	err := p.Publish(t.Context(), &pubsub.Message{Topic: rand.Text()})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), "kafka cannot be reached") {
		t.Errorf("Publish without a deadline: %v", err)
	}
}
