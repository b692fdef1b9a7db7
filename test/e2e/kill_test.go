package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// TestNothingAcknowledgedIsLostWhenTheSidecarIsKilled kills the only sidecar in
// the middle of a load, again and again, and starts it on the same home. The
// death of a process is survived with either durability; strict is about power.
func TestNothingAcknowledgedIsLostWhenTheSidecarIsKilled(t *testing.T) {
	long(t)
	for _, durability := range []string{"strict", "relaxed"} {
		t.Run(durability, func(t *testing.T) {
			t.Parallel()
			killUnderLoad(t, durability)
		})
	}
}

func killUnderLoad(t *testing.T, durability string) {
	home, app := t.TempDir(), newSubscriber(t)
	o := options{name: "shop", home: home, app: app.addr, flags: []string{"--durability", durability, "--resources-path", ackQuickly(t)}}
	var l load
	s := startSidecar(t, o)
	for round := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(ctx, fmt.Sprint(round), s)
		}()
		l.until(t, 300)
		s.signal(syscall.SIGKILL)
		<-s.exited
		cancel()
		<-done
		s = startSidecar(t, o)
	}
	l.check(t, s, app)
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

// TestTheOthersTakeOverWhenTheHolderOfTheEngineIsKilled runs three sidecars on
// one embedded engine under load and kills the one that holds it, twice.
func TestTheOthersTakeOverWhenTheHolderOfTheEngineIsKilled(t *testing.T) {
	long(t)
	t.Parallel()
	home, app, resources := t.TempDir(), newSubscriber(t), ackQuickly(t)
	open := func(name string) *sidecar {
		return startSidecar(t, options{name: name, home: home, app: app.addr,
			flags: []string{"--durability", "strict", "--resources-path", resources}})
	}
	sidecars := []*sidecar{open("first")}
	if err := sidecars[0].await("mode=embedded-holder"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"second", "third"} {
		s := open(name)
		if err := s.await("mode=embedded-client"); err != nil {
			t.Fatal(err)
		}
		sidecars = append(sidecars, s)
	}
	var l load
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, "run", sidecars...)
	}()
	defer func() { cancel(); <-done }()
	l.until(t, 300)
	sidecars[0].signal(syscall.SIGKILL)
	<-sidecars[0].exited
	l.until(t, 300) // through the other two
	next, last := sidecars[1], sidecars[2]
	if err := eventually(func() error {
		if holds(last) {
			next, last = last, next
		}
		if !holds(next) {
			return fmt.Errorf("nobody has taken over")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	next.signal(syscall.SIGKILL)
	<-next.exited
	l.until(t, 300) // through the last one
	cancel()
	<-done
	l.check(t, last, app)
	if err := last.stop(); err != nil {
		t.Error(err)
	}
}

// holds reports whether a sidecar has said that it holds the engine.
func holds(s *sidecar) bool { return strings.Contains(s.output(), "mode=embedded-holder") }

// TestNothingAcknowledgedIsLostWhenASidecarStopsUnderLoad stops one of two
// sidecars of an application while events are published through it and while
// its own instance of the application is busy with some: those finish, the
// others go to the other instance.
func TestNothingAcknowledgedIsLostWhenASidecarStopsUnderLoad(t *testing.T) {
	long(t)
	t.Parallel()
	home, slow, quick := t.TempDir(), newSubscriber(t), newSubscriber(t)
	slow.hold = make(chan struct{})
	first := startSidecar(t, options{name: "first", home: home, app: slow.addr, flags: []string{"--durability", "strict"}})
	if err := first.await("mode=embedded-holder"); err != nil {
		t.Fatal(err)
	}
	second := startSidecar(t, options{name: "second", home: home, app: quick.addr, flags: []string{"--durability", "strict"}})
	if err := second.await("msg=subscription .*topic=orders"); err != nil {
		t.Fatal(err)
	}
	var l load
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, "run", first, second)
	}()
	defer func() { cancel(); <-done }()
	l.until(t, 300)
	if err := eventually(func() error {
		slow.mu.Lock()
		defer slow.mu.Unlock()
		if slow.held < 3 {
			return fmt.Errorf("%d events are with the slow instance", slow.held)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	first.signal(syscall.SIGTERM)
	slow.mu.Lock()
	close(slow.hold) // those under way finish
	slow.mu.Unlock()
	if code, err := first.code(); err != nil || code != 0 {
		t.Fatalf("the sidecar ended with %d, %v\n%s", code, err, first.output())
	}
	l.until(t, 300) // through the other one, which has the engine now
	cancel()
	<-done
	slow.mu.Lock()
	if len(slow.seen) < slow.held {
		t.Errorf("%d events were with the slow instance and %d were dealt with", slow.held, len(slow.seen))
	}
	quick.mu.Lock()
	for e, n := range slow.seen { // what one has dealt with and the other has not
		quick.seen[e] += n
	}
	quick.mu.Unlock()
	slow.mu.Unlock()
	l.check(t, second, quick)
	second.must(t, http.MethodGet, "/v1.0/healthz", "", http.StatusNoContent)
	if err := second.stop(); err != nil {
		t.Error(err)
	}
}
