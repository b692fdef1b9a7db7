package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// instance is one of several of the application "orders", with its sidecar.
type instance struct {
	*sidecar
	requests atomic.Int64
	delay    atomic.Int64 // before it answers, in nanoseconds
	ill      atomic.Bool  // it answers 503
}

// ServeHTTP implements http.Handler.
func (i *instance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/work" {
		http.NotFound(w, r) // what the sidecar asks by itself
		return
	}
	i.requests.Add(1)
	time.Sleep(time.Duration(i.delay.Load())) // what it takes to answer
	if i.ill.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// fleet is a sidecar that calls, and the instances that it calls.
type fleet struct {
	caller    *sidecar
	policy    string // the file
	instances []*instance
}

const ordersPolicy = `apiVersion: proa.io/v1alpha1
kind: TrafficPolicy
metadata: {name: orders}
spec:
  targetRefs: [{name: orders}]
`

// retryOrders has calls tried again that failed: which instance answers is then
// the policy's to see to.
const retryOrders = `apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: again}
spec:
  policies:
    retries:
      again: {policy: constant, duration: 10ms, maxRetries: 5}
  targets:
    apps:
      orders: {retry: again}
`

func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	home, resources := t.TempDir(), t.TempDir()
	f := &fleet{policy: filepath.Join(resources, "traffic.yaml")}
	replaceFile(t, f.policy, ordersPolicy)
	replaceFile(t, filepath.Join(resources, "retry.yaml"), retryOrders)
	f.caller = startSidecar(t, options{name: "caller", home: home, flags: []string{"--resources-path", resources}})
	for i := range n {
		one := &instance{}
		app := httptest.NewServer(one)
		t.Cleanup(app.Close)
		one.sidecar = startSidecar(t, options{
			name: fmt.Sprintf("orders-%d", i), home: home, app: app.Listener.Addr().String(), flags: []string{"--app-id", "orders"},
		})
		f.instances = append(f.instances, one)
	}
	// All are known when each was met.
	if err := eventually(func() error {
		f.caller.must(t, "GET", "/v1.0/invoke/orders/method/work", "", 200)
		for i, one := range f.instances {
			if one.requests.Load() == 0 {
				return fmt.Errorf("instance %d has not been met", i)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return f
}

// use puts another policy into use.
func (f *fleet) use(t *testing.T, spec string) {
	t.Helper()
	before := strings.Count(f.caller.output(), "resources reloaded")
	replaceFile(t, f.policy, ordersPolicy+spec)
	if err := eventually(func() error {
		if strings.Count(f.caller.output(), "resources reloaded") == before {
			return fmt.Errorf("the policy is not in use")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// share makes n calls, four at a time, none of which may fail, and returns how
// many of them an instance has met.
func (f *fleet) share(t *testing.T, n int, of *instance) int64 {
	t.Helper()
	before := of.requests.Load()
	var callers sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	for range 4 {
		callers.Go(func() {
			for left.Add(-1) >= 0 {
				if status, answer, err := f.caller.call("GET", "/v1.0/invoke/orders/method/work", nil); status != 200 || err != nil {
					t.Errorf("a call failed: %d %s %v", status, answer, err)
				}
			}
		})
	}
	callers.Wait()
	return of.requests.Load() - before
}

// TestTheBalancerSavesRequests has three instances of which one is slow, one
// fails for a while, and one dies.
func TestTheBalancerSavesRequests(t *testing.T) {
	long(t)
	f := newFleet(t, 3)
	t.Run("one is slow", func(t *testing.T) {
		slow := f.instances[2]
		slow.delay.Store(int64(200 * time.Millisecond))
		defer slow.delay.Store(0)
		const calls = 150
		f.use(t, "  loadBalancer: {type: RoundRobin}\n")
		inTurn := f.share(t, calls, slow)
		if inTurn < calls/3-2 || inTurn > calls/3+2 {
			t.Errorf("in turn it met %d of %d calls, want a third", inTurn, calls)
		}
		f.use(t, "  loadBalancer: {type: PeakEWMA}\n")
		byLatency := f.share(t, calls, slow)
		t.Logf("the slow instance met %d of %d calls in turn, %d by latency", inTurn, calls, byLatency)
		if byLatency > inTurn/3 {
			t.Errorf("by latency it met %d calls, want no more than a third of %d", byLatency, inTurn)
		}
	})
	t.Run("one answers 503", func(t *testing.T) {
		sick := f.instances[1]
		f.use(t, "  loadBalancer: {type: RoundRobin}\n  outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, baseEjectionTime: 2s}\n")
		sick.ill.Store(true)
		defer sick.ill.Store(false)
		met := f.share(t, 60, sick)
		if met < 3 || met > 6 {
			t.Errorf("it met %d of 60 calls, want the three that eject it, and those under way at the same time", met)
		}
		if err := f.caller.await("an endpoint is not used for a while.*3 answers in a row were 502, 503 or 504"); err != nil {
			t.Error(err)
		}
		sick.ill.Store(false)
		if err := eventually(func() error {
			if f.share(t, 12, sick) == 0 {
				return fmt.Errorf("it gets nothing")
			}
			return nil
		}); err != nil {
			t.Errorf("after it is well: %v", err)
		}
	})
	t.Run("one dies", func(t *testing.T) {
		f.use(t, "  loadBalancer: {type: RoundRobin}\n")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var killer sync.WaitGroup
		killer.Go(func() {
			for before := f.instances[0].requests.Load(); f.instances[0].requests.Load() < before+20 && ctx.Err() == nil; {
				time.Sleep(pollEvery)
			}
			f.instances[0].kill()
		})
		f.share(t, 600, f.instances[0])
		cancel()
		killer.Wait()
		if n := f.share(t, 60, f.instances[0]); n != 0 {
			t.Errorf("an instance that is dead met %d calls", n)
		}
	})
}
