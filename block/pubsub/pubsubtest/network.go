package pubsubtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/faultnet"
)

// OpenAt opens a driver on the server at addr ("127.0.0.1:port"), as
// component.Handle would: it returns what opening returned. The suite closes
// the driver.
type OpenAt func(ctx context.Context, t *testing.T, addr string) (pubsub.Driver, error)

// RunBadNetwork proves that a driver of the server at upstream survives a bad
// network: every call ends within its deadline with Unavailable or
// DeadlineExceeded, no message that was acknowledged is lost, a subscription
// goes on by itself when the network is well again, and what it had not
// acknowledged comes again.
func RunBadNetwork(t *testing.T, upstream string, open OpenAt) {
	fastloop.Skip(t, "waits for networks to fail and heal")
	for _, f := range []struct {
		name string
		set  func(*faultnet.Proxy)
	}{
		{"Refuse", (*faultnet.Proxy).Refuse},
		{"Reset", (*faultnet.Proxy).Reset},
		{"Stall", func(p *faultnet.Proxy) { p.Stall() }},
		{"StalledAnswers", func(p *faultnet.Proxy) { p.Stall(faultnet.Downstream) }},
		{"Blackhole", func(p *faultnet.Proxy) { p.Blackhole() }},
		{"LostAnswers", func(p *faultnet.Proxy) { p.Blackhole(faultnet.Downstream) }},
	} {
		n := badNetwork{open: open, upstream: upstream, set: f.set}
		t.Run(f.name+"/PublishFailsInTimeAndRecovers", inParallel(n.publishFails))
		t.Run(f.name+"/OpeningFailsInTime", inParallel(n.openingFails))
		t.Run(f.name+"/EndingTheContextEndsSubscribe", inParallel(n.subscribeEnds))
		t.Run(f.name+"/ASubscriptionSurvivesTheOutage", inParallel(n.survives))
	}
}

func inParallel(test func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) {
		t.Parallel()
		test(t)
	}
}

type badNetwork struct {
	open     OpenAt
	upstream string
	set      func(*faultnet.Proxy)
}

const (
	// deadline is that of calls that cannot succeed.
	deadline = 150 * time.Millisecond
	// hang is when a call counts as not coming back, so much later than its
	// deadline that no slow machine is to blame.
	hang = 20 * time.Second
)

// at opens a driver that is closed when the test ends.
func (n badNetwork) at(t *testing.T, addr string) pubsub.Driver {
	t.Helper()
	d, err := n.open(t.Context(), t, addr)
	if err != nil {
		t.Fatalf("opening through a network without fault: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

// bounded runs f with a deadline and fails the test if it does not come back.
func bounded(t *testing.T, what string, within time.Duration, f func(ctx context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(within + hang):
		t.Fatalf("%s hangs: it had %v and did not come back within %v more", what, within, hang)
		return nil
	}
}

func wantUnreachable(t *testing.T, what string, err error) {
	t.Helper()
	wantCode(t, what, err, fault.Unavailable, fault.DeadlineExceeded)
}

// publishes are the ways to publish.
func publishes(d pubsub.Driver) map[string]func(context.Context, *pubsub.Message) error {
	out := map[string]func(context.Context, *pubsub.Message) error{"Publish": d.Publish}
	if bp, ok := d.(pubsub.BulkPublisher); ok {
		out["BulkPublish"] = func(ctx context.Context, m *pubsub.Message) error {
			return bp.BulkPublish(ctx, []*pubsub.Message{m})[0]
		}
	}
	return out
}

func (n badNetwork) publishFails(t *testing.T) {
	net := faultnet.New(t, n.upstream)
	d, topic := n.at(t, net.Addr()), newTopic()
	establish(t, d, topic, groupOf(topic))
	publishText(t, d, topic, "before")
	n.set(net)
	for name, publish := range publishes(d) {
		err := bounded(t, name, deadline, func(ctx context.Context) error {
			return publish(ctx, &pubsub.Message{Topic: topic, Data: []byte("during")})
		})
		wantUnreachable(t, name, err)
	}
	net.Heal()
	for name, publish := range publishes(d) {
		for until := time.Now().Add(timeout); ; {
			err := bounded(t, name, 2*time.Second, func(ctx context.Context) error {
				return publish(ctx, &pubsub.Message{Topic: topic, Data: []byte("after")})
			})
			if err == nil {
				break
			}
			wantUnreachable(t, name+" after the fault", err)
			if time.Now().After(until) {
				t.Fatalf("%s has not recovered: %v", name, err)
			}
		}
	}
	c := consume(t, n.at(t, n.upstream), pubsub.Subscription{Topic: topic})
	missing := map[string]bool{"before": true, "after": true}
	for len(missing) > 0 {
		delete(missing, string(c.next().Data)) // "during" may have arrived, more than once
	}
}

func (n badNetwork) openingFails(t *testing.T) {
	net := faultnet.New(t, n.upstream)
	n.set(net)
	err := bounded(t, "opening", deadline, func(ctx context.Context) error {
		d, err := n.open(ctx, t, net.Addr())
		if err == nil {
			_ = d.Close()
		}
		return err
	})
	wantUnreachable(t, "opening", err)
}

// subscribeEnds has a subscription with one message under way and one idle.
func (n badNetwork) subscribeEnds(t *testing.T) {
	net := faultnet.New(t, n.upstream)
	d, topic := n.at(t, net.Addr()), newTopic()
	establish(t, d, topic, groupOf(topic))
	publishText(t, d, topic, "x")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	took, release := make(chan struct{}, 10), make(chan struct{})
	done := make(chan error, 2)
	for _, topic := range []string{topic, newTopic()} {
		go func() {
			done <- d.Subscribe(ctx, pubsub.Subscription{Topic: topic, Group: groupOf(topic)}, func(context.Context, *pubsub.Delivery) error {
				took <- struct{}{}
				<-release
				return nil
			})
		}()
	}
	receive(t, took, nil)
	n.set(net)
	close(release)
	cancel()
	for range 2 {
		if err := bounded(t, "Subscribe", 0, func(context.Context) error { return <-done }); err != nil {
			// It may have broken before its context ended.
			wantUnreachable(t, "Subscribe", err)
		}
	}
}

// seen is an application that records what it gets. It keeps the message
// "held" until it is released.
type seen struct {
	release chan struct{}
	held    chan struct{} // closed when "held" has arrived
	once    sync.Once

	mu    sync.Mutex
	texts []string
	more  chan struct{}
}

// Deliver implements pubsub.App.
func (a *seen) Deliver(_ context.Context, _ string, e *pubsub.Event) (pubsub.Status, error) {
	text := string(e.Data())
	if text == "held" {
		a.once.Do(func() { close(a.held) })
		<-a.release
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.texts = append(a.texts, text)
	select {
	case a.more <- struct{}{}:
	default:
	}
	return pubsub.Success, nil
}

// DeliverBulk implements pubsub.App.
func (a *seen) DeliverBulk(context.Context, string, *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
	return nil, fault.New(fault.Unimplemented, "not in bulk")
}

// lacks returns which of the texts have not arrived.
func (a *seen) lacks(texts []string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, text := range texts {
		if !slices.Contains(a.texts, text) {
			out = append(out, text)
		}
	}
	return out
}

// survives has a subscription live through an outage with one message under
// way, while others go on publishing. Nothing is lost; what could not be
// acknowledged may come twice.
func (n badNetwork) survives(t *testing.T) {
	net := faultnet.New(t, n.upstream)
	topic := newTopic()
	options := pubsub.Options{AppID: groupOf(topic), Grace: time.Second}
	driver := n.at(t, net.Addr())
	establish(t, driver, topic, options.AppID)
	through := pubsub.New(component.Opened("bus", driver), options)
	direct := pubsub.New(component.Opened("bus", n.at(t, n.upstream)), options)
	publish := func(b *pubsub.Broker, text string) {
		t.Helper()
		for until := time.Now().Add(timeout); ; {
			err := bounded(t, "Publish", 10*time.Second, func(ctx context.Context) error {
				return b.Publish(ctx, &pubsub.PublishRequest{Topic: topic, Data: []byte(text)})
			})
			if err == nil {
				return
			}
			wantUnreachable(t, "Publish", err)
			if time.Now().After(until) {
				t.Fatalf("Publish past the fault: %v", err)
			}
		}
	}
	a := &seen{release: make(chan struct{}), held: make(chan struct{}), more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- through.Subscribe(ctx, &pubsub.SubscriptionSpec{PubSub: "bus", Topic: topic}, a) }()
	want := []string{"held"}
	publish(through, "held")
	receive(t, a.held, nil)
	n.set(net)
	for i := range 20 {
		text := fmt.Sprint("during ", i)
		publish(direct, text)
		want = append(want, text)
	}
	err := bounded(t, "Publish", deadline, func(ctx context.Context) error {
		return through.Publish(ctx, &pubsub.PublishRequest{Topic: topic, Data: []byte("in doubt")})
	})
	wantUnreachable(t, "Publish", err)
	close(a.release)
	net.Heal()
	publish(direct, "after")
	want = append(want, "after")
	for until := time.After(2 * timeout); ; {
		lost := a.lacks(want)
		if len(lost) == 0 {
			break
		}
		select {
		case <-a.more:
		case err := <-ended:
			t.Fatalf("the subscription ended: %v", err)
		case <-until:
			t.Fatalf("these were published and have not arrived: %q", lost)
		}
	}
	cancel()
	if err := bounded(t, "Subscribe", 0, func(context.Context) error { return <-ended }); err != nil {
		t.Errorf("Subscribe: %v", err)
	}
}
