package appchannel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/freeport"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/proxy"
)

// port stands for the port of an application: it accepts, refuses or says
// nothing.
type port struct {
	closed, silent atomic.Bool
	dials          atomic.Int32
}

func (p *port) dial(ctx context.Context) (net.Conn, error) {
	p.dials.Add(1)
	switch {
	case p.silent.Load():
		<-ctx.Done()
		return nil, ctx.Err()
	case p.closed.Load():
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	here, there := net.Pipe()
	_ = there.Close()
	return here, nil
}

func TestTheApplicationIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := &port{}, &logged{}
		p.closed.Store(true)
		c := appchannel.New(appchannel.Options{Address: "app:80", Dial: p.dial, Log: log.logger()})
		time.AfterFunc(3*time.Second, func() { p.closed.Store(false) })
		began := time.Now()
		if err := c.AwaitApp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 3*time.Second || d > 3500*time.Millisecond {
			t.Errorf("that took %v", d)
		}
		if n := p.dials.Load(); n > 15 {
			t.Errorf("it was tried %d times", n)
		}
		if n := strings.Count(log.String(), "waiting for the application"); n != 1 {
			t.Errorf("the log says %d times that it waits: %s", n, log)
		}
	})
}

func TestWaitingForTheApplicationEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &port{}
		p.silent.Store(true)
		c := appchannel.New(appchannel.Options{Address: "app:80", Dial: p.dial})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := c.AwaitApp(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("AwaitApp = %v", err)
		}
	})
}

// watch runs Watch beside the test; events get "gone" and "back".
func watch(t *testing.T, c *appchannel.Channel) (events <-chan string, stop func()) {
	if err := c.AwaitApp(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(chan string, 10), make(chan error, 1)
	go func() { done <- c.Watch(ctx, func() { out <- "gone" }, func() { out <- "back" }) }()
	return out, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch = %v", err)
		}
		close(out)
		for e := range out {
			t.Errorf("nobody expected %q", e)
		}
	}
}

func expect(t *testing.T, events <-chan string, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-events:
			if got != w {
				t.Fatalf("the application is %q, want %q", got, w)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("the application is not %q", w)
		}
	}
}

func TestAnApplicationElsewhereIsWatchedByConnecting(t *testing.T) {
	for _, protocol := range []string{"http", "grpcs"} {
		synctest.Test(t, func(t *testing.T) {
			p := &port{}
			c := appchannel.New(appchannel.Options{Protocol: protocol, Address: "app:80", Dial: p.dial})
			events, stop := watch(t, c)
			before := p.dials.Load()
			time.Sleep(10*time.Minute + time.Second)
			if n, most := p.dials.Load()-before, map[string]int32{"http": 300, "grpcs": 10}[protocol]; n != most {
				t.Errorf("%s: in ten minutes it was connected to %d times, want %d", protocol, n, most)
			}
			p.closed.Store(true)
			time.Sleep(2 * time.Minute)
			expect(t, events, "gone")
			p.closed.Store(false)
			expect(t, events, "back")
			p.silent.Store(true) // a host that is gone does not refuse
			time.Sleep(2 * time.Minute)
			expect(t, events, "gone")
			p.silent.Store(false)
			expect(t, events, "back")
			stop()
		})
	}
}

func TestAHiccupIsNotTakenForTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &port{}
		c := appchannel.New(appchannel.Options{Address: "app:80", Dial: p.dial})
		_, stop := watch(t, c)
		p.silent.Store(true)
		time.Sleep(4 * time.Second) // one attempt has failed, or two
		p.silent.Store(false)
		time.Sleep(time.Minute)
		stop()
	})
}

func TestACallThatFindsNobodyMakesWatchLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &port{}
		c := appchannel.New(appchannel.Options{
			Protocol: "https", Address: "app:80", Dial: p.dial,
			Transport: transport(func(context.Context, *proxy.Request) (*proxy.Response, error) {
				return nil, fault.New(fault.Unavailable, "refused")
			}),
		})
		events, stop := watch(t, c)
		synctest.Wait()
		p.closed.Store(true)
		began := time.Now()
		if _, err := c.TakesBinding(t.Context(), "x", "x"); err == nil {
			t.Fatal("the call succeeded")
		}
		expect(t, events, "gone")
		if d := time.Since(began); d > time.Second {
			t.Errorf("that took %v", d)
		}
		before := p.dials.Load()
		p.closed.Store(false)
		expect(t, events, "back")
		for range 1000 { // many failures do not mean many looks
			_, _ = c.TakesBinding(t.Context(), "x", "x")
			time.Sleep(time.Millisecond)
		}
		if n := p.dials.Load() - before; n > 10 {
			t.Errorf("%d connections were made", n)
		}
		stop()
	})
}

// listen opens a port of this host: the same one again where again is not "".
func listen(t *testing.T, again string) (l net.Listener) {
	t.Helper()
	var err error
	if again == "" {
		l, err = freeport.Listen()
	} else {
		l, err = net.Listen("tcp", again)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestARestartOfALocalApplicationIsNoticed(t *testing.T) {
	checkLeaks(t)
	l := listen(t, "")
	addr := l.Addr().String()
	c := appchannel.New(appchannel.Options{Address: addr})
	events, stop := watch(t, c)
	_ = l.Close()
	expect(t, events, "gone")
	l = listen(t, addr)
	expect(t, events, "back")
	// A restart that is over before anybody has looked.
	_ = l.Close()
	l = listen(t, addr)
	expect(t, events, "gone", "back")
	_ = l.Close()
	expect(t, events, "gone")
	stop()
}

func TestARestartBeforeWatchIsNoticed(t *testing.T) {
	checkLeaks(t)
	l := listen(t, "")
	addr := l.Addr().String()
	c := appchannel.New(appchannel.Options{Address: addr})
	if err := c.AwaitApp(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	listen(t, addr)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen []string
	if err := c.Watch(ctx, func() { seen = append(seen, "gone") }, func() { seen = append(seen, "back"); cancel() }); err != nil {
		t.Error(err)
	}
	if fmt.Sprint(seen) != "[gone back]" {
		t.Errorf("Watch saw %v", seen)
	}
}

func TestAnApplicationThatComesBackIsAskedAnew(t *testing.T) {
	checkLeaks(t)
	serve := func(l net.Listener, topic string) (stop func()) {
		srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `[{"pubsubname":"bus","topic":"`+topic+`","route":"/x"}]`)
		})}
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(l) }()
		return func() { _ = srv.Close(); <-done }
	}
	l := listen(t, "")
	addr := l.Addr().String()
	stopApp := serve(l, "old")
	client := &http1.Client{Address: addr}
	t.Cleanup(func() { _ = client.Close() })
	c := appchannel.New(appchannel.Options{Address: addr, Transport: client})
	events, stop := watch(t, c)
	for _, topic := range []string{"old", "new", "newer"} {
		specs, err := c.Subscriptions(t.Context())
		if err != nil || len(specs) != 1 || specs[0].Topic != topic {
			t.Errorf("Subscriptions = %+v, %v; want the topic %q", specs, err, topic)
		}
		stopApp()
		stopApp = serve(listen(t, addr), map[string]string{"old": "new", "new": "newer"}[topic])
		expect(t, events, "gone", "back")
	}
	stop()
	stopApp()
}
