package runtime

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/mesh/discovery"
)

// TestInvocationsGoOnWhileTheRegistryIsAway kills the engine's server under load:
// what is known keeps serving, and what comes afterwards is found.
func TestInvocationsGoOnWhileTheRegistryIsAway(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	var served atomic.Int32
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	t.Cleanup(app.Close)
	sidecar := func(id string, port int) *rig {
		return newRig(t, nil, func(c *Config) {
			c.AppID, c.AppPort, c.Engine, c.NoDefaultComponents = id, port, engine.Options{URL: server.URL(), Conns: 1}, true
		})
	}
	back := sidecar("back", app.Listener.Addr().(*net.TCPAddr).Port)
	front := sidecar("shop", 0)
	front.must("GET", "/v1.0/invoke/back/method/x", "", 200)

	stop, failed := make(chan struct{}), make(chan string, 100)
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if status, answer, err := front.call("GET", "/v1.0/invoke/back/method/x", ""); status != 200 {
					select {
					case failed <- strings.TrimSpace(answer) + " " + errorText(err):
					default:
					}
					return
				}
			}
		})
	}
	count := func(more int32) {
		t.Helper()
		want := served.Load() + more
		for limit := time.Now().Add(patience); served.Load() < want; time.Sleep(time.Millisecond) {
			select {
			case text := <-failed:
				t.Fatalf("an invocation failed: %s", text)
			default:
			}
			if time.Now().After(limit) {
				t.Fatalf("%d requests came through, want %d", served.Load(), want)
			}
		}
	}
	count(100)
	server.Kill()
	// Longer than an instance lives that is not heard of.
	for until := time.Now().Add(discovery.Expiry + 2*discovery.Heartbeat); time.Now().Before(until); {
		count(20)
	}
	server.Restart()
	late := sidecar("late", app.Listener.Addr().(*net.TCPAddr).Port)
	// It is found as soon as the registry has been found again.
	for limit := time.Now().Add(patience); ; {
		status, answer, err := front.call("GET", "/v1.0/invoke/late/method/x", "")
		if err == nil && status == 200 {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("an application that came after the registry is not found: %d %s %v", status, answer, err)
		}
	}
	count(100)
	close(stop)
	load.Wait()
	late.stop()
	back.stop()
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
