// Package discoverytest checks that a way in which applications find each other
// keeps what mesh/discovery promises. Every Source and Registrar runs the same
// suite.
package discoverytest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/discovery"
)

// patience bounds everything that is waited for. It is long because it costs
// time only where something is broken.
const patience = 30 * time.Second

// Harness says what to test, and what can be done to it.
type Harness struct {
	// Source returns a source with connections of its own.
	Source func(t *testing.T) discovery.Source
	// Registrar returns a registrar with connections of its own. For a source
	// that learns of instances in another way, it is what the test does to have
	// them known there.
	Registrar func(t *testing.T) discovery.Registrar
	// Dying returns a registrar and what makes it die: nothing of it reaches the
	// registry any more from then on. nil where instances do not expire.
	Dying func(t *testing.T) (discovery.Registrar, func())
	// Stop and Start take the registry away, and bring it back with or without
	// what it knew; nil for one that cannot be away.
	Stop, Start func(t *testing.T)
	// Carried returns what gets through of an endpoint; nil for all of it.
	Carried func(discovery.Endpoint) discovery.Endpoint
	// Many is how many endpoints one service may have; 2000 when zero.
	Many int
	// Plain tells that application ids are limited to letters, digits and -,
	// and that namespaces are too.
	Plain bool
	// OneNamespace tells that all namespaces are one.
	OneNamespace bool
	// Ignore names functions whose goroutines are not ours; see leak.Check.
	Ignore []string
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	if h.Carried == nil {
		h.Carried = func(ep discovery.Endpoint) discovery.Endpoint { return ep }
	}
	if h.Many == 0 {
		h.Many = 2000
	}
	s := &suite{h: h}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"nobody is told as nobody", s.nobody},
		{"instances come and leave", s.comeAndLeave},
		{"a watch sees what was there before", s.before},
		{"what is said of an instance may change", s.change},
		{"an instance that dies is forgotten", s.die},
		{"many instances", s.many},
		{"odd names", s.oddNames},
		{"namespaces are apart", s.namespaces},
		{"the registry goes and comes back", s.outage},
		{"nothing is left behind", s.leaveNothing},
	} {
		t.Run(part.name, part.run)
	}
}

type suite struct {
	h  Harness
	mu sync.Mutex
	n  int
}

// service returns one that no other test uses.
func (s *suite) service() discovery.Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	return discovery.Service{Namespace: "default", AppID: fmt.Sprintf("app-%d-%d", time.Now().UnixNano()%1_000_000, s.n)}
}

// Address returns the address of the nth instance.
func Address(n int) string { return fmt.Sprintf("127.0.%d.%d:7001", n/250, n%250+1) }

// endpoint returns one that says something of everything.
func endpoint(n int) discovery.Endpoint {
	return discovery.Endpoint{
		Address: Address(n), ID: fmt.Sprintf("instance-%d", n), MTLS: true, Protocol: discovery.HTTP2, Weight: uint32(n + 2),
		Locality: discovery.Locality{Region: "eu", Zone: "eu-1", SubZone: "rack-7"}, Priority: 1,
		Labels: map[string]string{"version": "v1", "odd": `a "b", c=d; é/%`},
	}
}

// registration is an instance that is announced.
type registration struct {
	*discovery.Announcement
	t    *testing.T
	end  context.CancelFunc
	done chan error
}

func register(t *testing.T, r discovery.Registrar, svc discovery.Service, ep discovery.Endpoint) *registration {
	t.Helper()
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	out := &registration{discovery.Announce(svc, ep), t, end, make(chan error, 1)}
	go func() { out.done <- r.Register(ctx, out.Announcement) }()
	t.Cleanup(out.leave)
	return out
}

// leave withdraws the instance.
func (r *registration) leave() {
	r.end()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("Register(%s) = %v", r.Service, err)
		}
		r.done <- nil
	case <-time.After(patience):
		r.t.Fatal("Register has not returned after its context ended")
	}
}

// watching is a watch under way, which is begun anew when it fails, as a
// Directory does.
type watching struct {
	t       *testing.T
	end     context.CancelFunc
	done    chan struct{}
	mu      sync.Mutex
	list    []discovery.Endpoint
	updates int
	err     error
	changed chan struct{}
}

func watch(t *testing.T, src discovery.Source, svc discovery.Service) *watching {
	t.Helper()
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	w := &watching{t: t, end: end, done: make(chan struct{}), changed: make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			err := src.Watch(ctx, svc, w.update)
			if ctx.Err() != nil {
				if err != nil {
					t.Errorf("Watch returns %v after its context ended, want nil", err)
				}
				return
			}
			if err == nil {
				t.Error("Watch returned nil before its context ended")
				return
			}
			w.fail(err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(w.stop)
	return w
}

func (w *watching) update(list []discovery.Endpoint) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list, w.err = slices.Clone(list), nil
	w.updates++
	close(w.changed)
	w.changed = make(chan struct{})
	clear(list) // which it does not keep
}

func (w *watching) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

func (w *watching) stop() {
	w.end()
	select {
	case <-w.done:
	case <-time.After(patience):
		w.t.Fatal("Watch has not returned after its context ended")
	}
}

// until waits until the list is what is wanted.
func (w *watching) until(what string, good func([]discovery.Endpoint) bool) {
	w.t.Helper()
	limit := time.After(patience)
	for {
		w.mu.Lock()
		list, updates, err, changed := w.list, w.updates, w.err, w.changed
		w.mu.Unlock()
		if updates > 0 && good(list) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			w.t.Fatalf("no %s: after %d updates there are %d endpoints %.500v, last error %v", what, updates, len(list), list, err)
		}
	}
}

// addresses waits until these instances are known, and no others.
func (w *watching) addresses(want ...string) {
	w.t.Helper()
	slices.Sort(want)
	w.until(fmt.Sprintf("list of %v", want), func(list []discovery.Endpoint) bool {
		var got []string
		for _, ep := range list {
			got = append(got, ep.Address)
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

// sees waits until one instance is known, of which exactly this is said.
func (s *suite) sees(w *watching, want discovery.Endpoint) {
	w.t.Helper()
	want = s.h.Carried(want)
	w.until(fmt.Sprintf("endpoint %+v", want), func(list []discovery.Endpoint) bool {
		return len(list) == 1 && s.h.Carried(list[0]).Equal(want)
	})
}

func (s *suite) nobody(t *testing.T) {
	watch(t, s.h.Source(t), s.service()).addresses()
}

func (s *suite) comeAndLeave(t *testing.T) {
	svc := s.service()
	w := watch(t, s.h.Source(t), svc)
	w.addresses()
	first := register(t, s.h.Registrar(t), svc, endpoint(1))
	s.sees(w, endpoint(1))
	second := register(t, s.h.Registrar(t), svc, endpoint(2))
	w.addresses(Address(1), Address(2))
	first.leave()
	s.sees(w, endpoint(2))
	second.leave()
	w.addresses()
	register(t, s.h.Registrar(t), svc, endpoint(1)) // again
	s.sees(w, endpoint(1))
}

func (s *suite) before(t *testing.T) {
	svc := s.service()
	reg := register(t, s.h.Registrar(t), svc, discovery.Endpoint{Address: Address(1)})
	src := s.h.Source(t)
	one, two := watch(t, src, svc), watch(t, src, svc)
	one.addresses(Address(1))
	two.addresses(Address(1))
	other := watch(t, src, s.service())
	other.addresses()
	two.stop()
	reg.leave()
	one.addresses()
}

func (s *suite) change(t *testing.T) {
	svc := s.service()
	w := watch(t, s.h.Source(t), svc)
	want := endpoint(1)
	reg := register(t, s.h.Registrar(t), svc, want)
	s.sees(w, want)
	for _, change := range []func(*discovery.Endpoint){
		func(ep *discovery.Endpoint) { ep.Weight = 90 },
		func(ep *discovery.Endpoint) { ep.Labels = map[string]string{"version": "v2"} },
		func(ep *discovery.Endpoint) { ep.Locality.Zone = "eu-2" },
		func(ep *discovery.Endpoint) { ep.Health = discovery.Unhealthy },
		func(ep *discovery.Endpoint) { ep.Health = discovery.Healthy },
		func(ep *discovery.Endpoint) { ep.Health = discovery.Draining },
	} {
		change(&want)
		reg.Update(change)
		s.sees(w, want)
	}
	reg.leave()
	w.addresses()
}

func (s *suite) die(t *testing.T) {
	if s.h.Dying == nil {
		return
	}
	svc := s.service()
	w := watch(t, s.h.Source(t), svc)
	r, kill := s.h.Dying(t)
	register(t, r, svc, endpoint(1))
	register(t, s.h.Registrar(t), svc, endpoint(2))
	w.addresses(Address(1), Address(2))
	kill()
	w.addresses(Address(2))
}

func (s *suite) many(t *testing.T) {
	svc := s.service()
	w := watch(t, s.h.Source(t), svc)
	r := s.h.Registrar(t)
	regs := make([]*registration, s.h.Many)
	for i := range regs {
		regs[i] = register(t, r, svc, discovery.Endpoint{Address: Address(i), ID: fmt.Sprint(i)})
	}
	w.until("list of all", func(list []discovery.Endpoint) bool { return len(list) == s.h.Many })
	late := watch(t, s.h.Source(t), svc)
	late.until("list of all", func(list []discovery.Endpoint) bool { return len(list) == s.h.Many })
	for _, reg := range regs[1:] {
		reg.end()
	}
	w.addresses(Address(0))
	late.addresses(Address(0))
}

func (s *suite) oddNames(t *testing.T) {
	if s.h.Plain {
		return
	}
	for i, name := range []string{"a.b", "a_b", "A b/ü*", "x>y", "..", "%2F", "-", strings.Repeat("long", 30)} {
		svc := s.service()
		svc.AppID = name + svc.AppID
		if i == 0 {
			svc.Namespace = "team.one"
		}
		w := watch(t, s.h.Source(t), svc)
		reg := register(t, s.h.Registrar(t), svc, discovery.Endpoint{Address: Address(i), ID: name})
		w.addresses(Address(i))
		reg.leave()
		w.addresses()
		w.stop()
	}
}

func (s *suite) namespaces(t *testing.T) {
	if s.h.OneNamespace {
		return
	}
	here := s.service()
	there := here
	there.Namespace = "other"
	src, r := s.h.Source(t), s.h.Registrar(t)
	one, two := watch(t, src, here), watch(t, src, there)
	a := register(t, r, here, discovery.Endpoint{Address: Address(1)})
	register(t, r, there, discovery.Endpoint{Address: Address(2)})
	one.addresses(Address(1))
	two.addresses(Address(2))
	a.leave()
	one.addresses()
	two.addresses(Address(2))
}

func (s *suite) outage(t *testing.T) {
	if s.h.Stop == nil {
		return
	}
	svc := s.service()
	d := discovery.New(discovery.Options{Sources: []discovery.Source{s.h.Source(t)}, AppearWait: patience})
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	register(t, s.h.Registrar(t), svc, endpoint(1))
	second := s.h.Registrar(t)
	if _, err := d.Lookup(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	s.h.Stop(t)
	for until := time.Now().Add(time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if eps, err := d.Lookup(t.Context(), svc); err != nil || len(eps.List()) != 1 {
			t.Fatalf("Lookup while the registry is away = %v, %v", eps, err)
		}
	}
	register(t, second, svc, endpoint(2)) // which has to wait
	s.h.Start(t)
	limit := time.Now().Add(patience)
	for {
		eps, err := d.Lookup(t.Context(), svc)
		if err == nil && len(eps.List()) == 2 {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("Lookup after the registry is back = %v, %v", eps, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	watch(t, s.h.Source(t), svc).addresses(Address(1), Address(2))
}

func (s *suite) leaveNothing(t *testing.T) {
	leak.Check(t, s.h.Ignore...)
	t.Run("", func(t *testing.T) {
		svc := s.service()
		w := watch(t, s.h.Source(t), svc)
		reg := register(t, s.h.Registrar(t), svc, endpoint(1))
		w.addresses(Address(1))
		w.stop()
		reg.leave()
		done, end := context.WithCancel(t.Context())
		end()
		if err := s.h.Source(t).Watch(done, svc, func([]discovery.Endpoint) {}); err != nil {
			t.Errorf("Watch with a context that has ended = %v, want nil", err)
		}
		if err := s.h.Registrar(t).Register(done, discovery.Announce(svc, endpoint(1))); err != nil {
			t.Errorf("Register with a context that has ended = %v, want nil", err)
		}
	})
}
