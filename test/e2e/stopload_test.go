package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/testserver"
)

// TestNothingIsLostOrDoneTwiceWhenTheSidecarStopsUnderLoad tells a sidecar to
// stop in the middle of a load of publishing and receiving, again and again, and
// starts the next one, on each kind of broker. Every event that was acknowledged
// arrives; and as nothing was killed, none that was settled comes once more.
func TestNothingIsLostOrDoneTwiceWhenTheSidecarStopsUnderLoad(t *testing.T) {
	long(t)
	for name, component := range map[string]func(*testing.T) string{
		"engine": func(*testing.T) string { return brokerYAML("pubsub.nats") },
		"redis": func(t *testing.T) string {
			return brokerYAML("pubsub.redis", "redisHost", testserver.Redis(t, testserver.RedisOptions{}).Addr())
		},
		"kafka": func(t *testing.T) string {
			return brokerYAML("pubsub.kafka", "brokers", testserver.Kafka(t, testserver.KafkaOptions{}).Addr(), "authType", "none", "consumerGroup", "shop",
				"initialOffset", "oldest")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "pubsub.yaml"), []byte(component(t)), 0o600); err != nil {
				t.Fatal(err)
			}
			stopUnderLoad(t, dir)
		})
	}
}

// brokerYAML is the component "pubsub" with settings, names and values.
func brokerYAML(typ string, settings ...string) string {
	text := "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: pubsub\nspec:\n  type: " + typ + "\n  version: v1\n  metadata:\n"
	for i := 0; i < len(settings); i += 2 {
		text += fmt.Sprintf("  - {name: %s, value: %q}\n", settings[i], settings[i+1])
	}
	return text + "  - {name: concurrency, value: \"8\"}\n"
}

func stopUnderLoad(t *testing.T, resources string) {
	app := newSubscriber(t)
	o := options{name: "shop", home: t.TempDir(), app: app.addr, flags: []string{"--resources-path", resources, "--dapr-graceful-shutdown-seconds", "20"}}
	publish := func(s *sidecar, round int, stop <-chan struct{}) (acked []string) {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return acked
			default:
			}
			id := fmt.Sprintf("%d-%d", round, i)
			status, _, err := s.call("POST", "/v1.0/publish/pubsub/orders", fmt.Appendf(nil, "%q", id))
			if err == nil && status == http.StatusNoContent {
				acked = append(acked, id)
			}
		}
	}
	var acked []string
	for round := range 3 {
		s := startSidecar(t, o)
		if err := s.await("msg=subscription .*topic=orders"); err != nil {
			t.Fatal(err)
		}
		stop, done := make(chan struct{}), make(chan []string)
		go func() { done <- publish(s, round, stop) }()
		before := app.count()
		if err := eventually(func() error {
			if n := app.count(); n < before+50 {
				return fmt.Errorf("%d events have come", n-before)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		s.signal(syscall.SIGTERM)
		code, err := s.code()
		close(stop)
		acked = append(acked, <-done...)
		if err != nil || code != 0 {
			t.Fatalf("the sidecar ended with %d, %v", code, err)
		}
	}
	last := startSidecar(t, o)
	if err := eventually(func() error {
		if left := app.missing(acked); len(left) > 0 {
			return fmt.Errorf("%d of %d events acknowledged did not arrive, such as %s", len(left), len(acked), left[0])
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := last.stop(); err != nil {
		t.Error(err)
	}
	app.mu.Lock()
	defer app.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(app.seen)) {
		if n := app.seen[id]; n > 1 {
			t.Errorf("event %s was settled %d times", id, n)
		}
	}
	t.Logf("%d events were acknowledged, and %d came", len(acked), len(app.seen))
}

// count returns how many events have been dealt with.
func (s *subscriber) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// TestEventsWaitForAnApplicationThatIsWellAndIllInTurns makes the health of an
// application change again and again under a load: while it is ill it gets
// nothing new, and in the end it has got everything.
func TestEventsWaitForAnApplicationThatIsWellAndIllInTurns(t *testing.T) {
	long(t)
	t.Parallel()
	app := newSubscriber(t)
	s := startSidecar(t, options{name: "shop", home: t.TempDir(), app: app.addr, flags: []string{
		"--resources-path", ackQuickly(t), "--enable-app-health-check", "--app-health-check-path", "/health",
		"--app-health-probe-interval", "1", "--app-health-threshold", "1",
	}})
	if err := s.await("msg=subscription .*topic=orders"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	var acked []string
	for i := 0; ctx.Err() == nil; i++ {
		if i%100 == 0 {
			app.ill.Store(!app.ill.Load())
		}
		id := fmt.Sprint("e", i)
		if status, answer, err := s.call("POST", "/v1.0/publish/pubsub/orders", fmt.Appendf(nil, "%q", id)); err != nil || status != http.StatusNoContent {
			t.Fatalf("publish: %d %s %v", status, answer, err)
		}
		acked = append(acked, id)
		time.Sleep(5 * time.Millisecond) // the load, not a wait
	}
	app.ill.Store(false)
	if err := eventually(func() error {
		if left := app.missing(acked); len(left) > 0 {
			return fmt.Errorf("%d of %d events did not arrive, such as %s", len(left), len(acked), left[0])
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	app.mu.Lock()
	defer app.mu.Unlock()
	for id, n := range app.seen {
		if n > 1 {
			t.Errorf("event %s was settled %d times", id, n)
		}
	}
}
