package configtest

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/policy"
)

// OpenThrough returns two drivers on one store without items, and the proxy
// between the first of them and the store. Use t.Cleanup for what must be
// undone. The tests run in parallel.
type OpenThrough func(t testing.TB) (through, direct Store, proxy *faultnet.Proxy)

// RunNetwork proves that a driver that uses the network names its failures,
// ends when it is told to, and recovers; and that a subscriber is told all that
// changed while the store was out of reach.
func RunNetwork(t *testing.T, open OpenThrough) {
	fastloop.Skip(t, "waits for networks to fail and heal")
	for _, c := range []struct {
		name  string
		fault func(*faultnet.Proxy)
	}{
		{"Refused", (*faultnet.Proxy).Refuse},
		{"Reset", (*faultnet.Proxy).Reset},
		{"Stalled", func(p *faultnet.Proxy) { p.Stall() }},
		{"AnswersLost", func(p *faultnet.Proxy) { p.Blackhole(faultnet.Downstream) }},
		{"EverythingLost", func(p *faultnet.Proxy) { p.Blackhole() }},
		{"CutInAnAnswer", func(p *faultnet.Proxy) { p.CutAfter(faultnet.Downstream, 3) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			through, direct, proxy := open(t)
			set(t, direct, "kept", "1")
			set(t, direct, "deleted", "1")
			all, one := subscribe(t, through), subscribe(t, through, "changed")
			c.fault(proxy)
			failsInTime(t, "Get", func(ctx context.Context) error {
				_, err := through.Get(ctx, config.Query{})
				return err
			})
			failsInTime(t, "Write", func(ctx context.Context) error {
				_, err := Set(ctx, through, "kept", "1")
				return err
			})
			set(t, direct, "changed", "1")
			set(t, direct, "changed", "2")
			del(t, direct, "deleted")
			proxy.Heal()
			all.wait(map[string]string{"changed": "2", "deleted": "-"})
			one.wait(map[string]string{"changed": "2"})
			set(t, direct, "changed", "3")
			all.wait(map[string]string{"changed": "3", "deleted": "-"})
			one.wait(map[string]string{"changed": "3"})
			awaitRecovery(t, through)
		})
	}
}

// subscriber is a subscription and what it has been told, by key; "-" for what
// is gone. The key "kept" is passed over: it may have been written again.
type subscriber struct {
	t       *testing.T
	mu      sync.Mutex
	told    map[string]string
	changed chan struct{}
}

func subscribe(t *testing.T, d config.Driver, keys ...string) *subscriber {
	t.Helper()
	s := config.New(component.Opened("store", d), config.Options{
		Chains: policy.None{}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	sub := &subscriber{t: t, told: map[string]string{}, changed: make(chan struct{})}
	if _, err := s.Subscribe(t.Context(), config.Query{Keys: keys}, sub.take); err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
	return sub
}

func (s *subscriber) take(_ context.Context, u config.Update) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, c := range u.Items {
		switch {
		case k == "kept":
		case c.Deleted:
			s.told[k] = "-"
		default:
			s.told[k] = c.Value
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func (s *subscriber) wait(want map[string]string) {
	s.t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		s.mu.Lock()
		told, changed := maps.Clone(s.told), s.changed
		s.mu.Unlock()
		if maps.Equal(told, want) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			s.t.Fatalf("within 60 s the subscriber was told %v, want %v", told, want)
		}
	}
}

// failsInTime calls fn with a second to go.
func failsInTime(t *testing.T, what string, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begun := time.Now()
	err := fn(ctx)
	if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("%s during the fault: error %v, want unavailable or deadline_exceeded", what, err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("%s took %v with a deadline of 1 s", what, took)
	}
}

func awaitRecovery(t *testing.T, s Store) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := s.Get(ctx, config.Query{})
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("30 s after the fault: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
