package discovery_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
)

var shop = discovery.Service{Namespace: "default", AppID: "shop"}

// fake is a Source driven by the test.
type fake struct {
	mu     sync.Mutex
	update func([]discovery.Endpoint)
	fail   chan error
	starts int
}

func (f *fake) Watch(ctx context.Context, _ discovery.Service, update func([]discovery.Endpoint)) error {
	f.mu.Lock()
	f.update = update
	f.starts++
	f.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil
	case err := <-f.fail:
		return err
	}
}

func (f *fake) set(addrs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []discovery.Endpoint
	for _, a := range addrs {
		list = append(list, discovery.Endpoint{Address: a})
	}
	f.update(list)
}

// start runs a Directory over sources until the test ends.
func start(t *testing.T, o discovery.Options) *discovery.Directory {
	t.Helper()
	d := discovery.New(o)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}

func addresses(e *discovery.Endpoints) []string {
	var out []string
	for _, ep := range e.List() {
		out = append(out, ep.Address)
	}
	return out
}

func TestLookupWaitsForTheFirstInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{fail: make(chan error)}
		d := start(t, discovery.Options{Sources: []discovery.Source{f}})
		go func() {
			time.Sleep(time.Second)
			f.set("a:1")
		}()
		eps, err := d.Lookup(t.Context(), shop)
		if err != nil || !slices.Equal(addresses(eps), []string{"a:1"}) {
			t.Fatalf("Lookup = %v, %v", eps, err)
		}
	})
}

func TestLookupOfNobodyIsNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{fail: make(chan error)}
		d := start(t, discovery.Options{Sources: []discovery.Source{f}})
		_, err := d.Lookup(t.Context(), shop)
		if !fault.Is(err, fault.NotFound) || fault.ReasonOf(err) != discovery.ReasonNotFound {
			t.Fatalf("Lookup = %v", err)
		}
	})
}

func TestLastKnownEndpointsServeWhileTheSourceFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{fail: make(chan error)}
		d := start(t, discovery.Options{Sources: []discovery.Source{f}})
		go func() { time.Sleep(time.Millisecond); f.set("a:1", "b:1") }()
		if _, err := d.Lookup(t.Context(), shop); err != nil {
			t.Fatal(err)
		}
		f.fail <- errors.New("registry is gone")
		eps, err := d.Lookup(t.Context(), shop)
		if err != nil || len(eps.List()) != 2 {
			t.Fatalf("Lookup during an outage = %v, %v", eps, err)
		}
		time.Sleep(time.Minute)
		f.set("c:1")
		if eps, err = d.Lookup(t.Context(), shop); err != nil || !slices.Equal(addresses(eps), []string{"c:1"}) || f.starts != 2 {
			t.Fatalf("Lookup after recovery = %v, %v, %d watches", addresses(eps), err, f.starts)
		}
	})
}

func TestSourcesAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{fail: make(chan error)}
		static := discovery.Static{"shop": {{Address: "z:1"}, {Address: "a:1"}}, "shop.default": {{Address: "y:1"}}}
		d := start(t, discovery.Options{Sources: []discovery.Source{static, f}})
		if _, err := d.Lookup(t.Context(), shop); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until both sources are watched
		f.set("a:1", "b:1")
		eps, err := d.Lookup(t.Context(), shop)
		if err != nil || !slices.Equal(addresses(eps), []string{"a:1", "b:1", "y:1", "z:1"}) {
			t.Fatalf("Lookup = %v, %v", addresses(eps), err)
		}
		seen := map[string]int{}
		for range 8 {
			seen[eps.Next(1).Address]++
		}
		for addr, n := range seen {
			if n != 2 {
				t.Errorf("%s was chosen %d times of 8, want 2", addr, n)
			}
		}
		if first := eps.Next(1); eps.Next(2).Equal(first) {
			t.Error("a second attempt goes to the same endpoint")
		}
	})
}

func TestUnusedWatchesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{fail: make(chan error)}
		d := start(t, discovery.Options{Sources: []discovery.Source{f}, IdleAfter: time.Minute})
		go func() { time.Sleep(time.Millisecond); f.set("a:1") }()
		_, _ = d.Lookup(t.Context(), shop)
		time.Sleep(5 * time.Minute)
		go func() { time.Sleep(time.Millisecond); f.set("b:1") }()
		eps, err := d.Lookup(t.Context(), shop)
		if err != nil || addresses(eps)[0] != "b:1" || f.starts != 2 {
			t.Errorf("Lookup = %v, %v after %d watches", addresses(eps), err, f.starts)
		}
	})
}

func TestRegistryAnnouncesAndWithdraws(t *testing.T) {
	eng, err := engine.Open(t.Context(), engine.Options{Dir: t.TempDir(), Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ectx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ran := make(chan error, 1)
	go func() { ran <- eng.Run(ectx) }()
	t.Cleanup(func() { stop(); <-ran })

	reg := discovery.NewRegistry(eng)
	odd := discovery.Service{Namespace: "a.b", AppID: "shop ☕"}
	rctx, withdraw := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, svc := range []discovery.Service{shop, odd} {
		wg.Go(func() {
			if err := reg.Register(rctx, discovery.Announce(svc, discovery.Endpoint{Address: svc.AppID + ":1"})); err != nil {
				t.Error(err)
			}
		})
	}
	d := start(t, discovery.Options{Sources: []discovery.Source{reg}, AppearWait: 10 * time.Second})
	for _, svc := range []discovery.Service{shop, odd} {
		eps, err := d.Lookup(t.Context(), svc)
		if err != nil || !slices.Equal(addresses(eps), []string{svc.AppID + ":1"}) {
			t.Fatalf("Lookup(%v) = %v, %v", svc, eps, err)
		}
	}
	withdraw()
	wg.Wait()
	empty := make(chan struct{})
	wctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_ = reg.Watch(wctx, shop, func(list []discovery.Endpoint) {
			if len(list) == 0 {
				close(empty)
				cancel()
			}
		})
	}()
	<-empty
}

func TestSourcesCompleteEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := discovery.Static{"shop": {{Address: "a:1", Labels: map[string]string{"version": "v1"}}, {Address: "b:1", Weight: 7}}}
		two := discovery.Static{"shop": {
			{Address: "a:1", Weight: 3, Labels: map[string]string{"version": "v2", "zone": "z"}, Health: discovery.Unhealthy}, {Address: "b:1", Weight: 3},
		}}
		d := start(t, discovery.Options{Sources: []discovery.Source{one, two}})
		if _, err := d.Lookup(t.Context(), shop); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		eps, err := d.Lookup(t.Context(), shop)
		if err != nil {
			t.Fatal(err)
		}
		want := []discovery.Endpoint{
			{Address: "a:1", Weight: 3, Labels: map[string]string{"version": "v1", "zone": "z"}, Health: discovery.Unhealthy}, {Address: "b:1", Weight: 7},
		}
		if !slices.EqualFunc(eps.List(), want, discovery.Endpoint.Equal) {
			t.Errorf("Lookup = %+v", eps.List())
		}
		for attempt := range 4 {
			if ep := eps.Next(attempt + 1); ep.Address != "b:1" {
				t.Errorf("attempt %d goes to %s, which is not healthy", attempt+1, ep.Address)
			}
		}
	})
}
