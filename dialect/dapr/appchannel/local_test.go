package appchannel

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// local is an application on this host, as far as Watch sees it.
type local struct {
	dials     atomic.Int32
	listeners atomic.Pointer[[]uint64] // nil: they cannot be known
	refused   atomic.Bool
}

func (l *local) dial(context.Context) (net.Conn, error) {
	l.dials.Add(1)
	if l.refused.Load() {
		return nil, syscall.ECONNREFUSED
	}
	here, there := net.Pipe()
	_ = there.Close()
	return here, nil
}

func (l *local) find() ([]uint64, error) {
	if p := l.listeners.Load(); p != nil {
		return *p, nil
	}
	return nil, errors.New("no such table")
}

func (l *local) listen(inodes ...uint64) { l.listeners.Store(&inodes) }

// watch runs do while the application is watched, in virtual time. seen gets
// what Watch reports: g for gone, b for back.
func (l *local) watch(t *testing.T, do func(c *Channel, seen func() string)) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Address: "127.0.0.1:80", Dial: l.dial})
		c.findListeners = l.find
		if err := c.AwaitApp(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		events, done := make(chan byte, 100), make(chan error, 1)
		go func() { done <- c.Watch(ctx, func() { events <- 'g' }, func() { events <- 'b' }) }()
		do(c, func() string {
			time.Sleep(5 * time.Second)
			var out []byte
			for len(events) > 0 {
				out = append(out, <-events)
			}
			return string(out)
		})
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch = %v", err)
		}
	})
}

func TestWatchingALocalApplicationDoesNotTouchIt(t *testing.T) {
	l := &local{}
	l.listen(7)
	l.watch(t, func(_ *Channel, seen func() string) {
		time.Sleep(time.Hour)
		if got := seen(); got != "" {
			t.Errorf("Watch reported %q", got)
		}
		if n := l.dials.Load(); n != 1 {
			t.Errorf("%d connections were made; AwaitApp needs one", n)
		}
	})
}

func TestANewSocketIsARestartUnlessAnOldOneRemains(t *testing.T) {
	l := &local{}
	l.listen(7)
	l.watch(t, func(_ *Channel, seen func() string) {
		for _, step := range []struct {
			listeners []uint64
			want      string
		}{{[]uint64{7, 8}, ""}, {[]uint64{8, 9}, ""}, {[]uint64{8}, ""}, {[]uint64{10}, "gb"}, {[]uint64{10}, ""}} {
			l.listen(step.listeners...)
			if got := seen(); got != step.want {
				t.Errorf("%v: Watch reported %q, want %q", step.listeners, got, step.want)
			}
		}
		l.listeners.Store(nil)
		if got := seen(); got != "" {
			t.Errorf("a list that cannot be read: Watch reported %q", got)
		}
		l.refused.Store(true)
		l.listen()
		if got := seen(); got != "g" {
			t.Errorf("nobody listens: Watch reported %q", got)
		}
		l.refused.Store(false)
		l.listen(11)
		if got := seen(); got != "b" {
			t.Errorf("somebody listens again: Watch reported %q", got)
		}
	})
}

func TestASocketThatIsNotTheApplicationsDoesNotHideItsEnd(t *testing.T) {
	l := &local{}
	l.listen(7, 8) // 8 listens on the same port of another family
	l.watch(t, func(c *Channel, seen func() string) {
		l.listen(8)
		l.refused.Store(true)
		if got := seen(); got != "" {
			t.Errorf("before any call: Watch reported %q", got)
		}
		c.link.trouble <- struct{}{} // as a callback does that finds nobody
		if got := seen(); got != "g" {
			t.Errorf("after a call: Watch reported %q", got)
		}
	})
}

func TestAListenerThatCannotBeSeenIsWatchedByConnecting(t *testing.T) {
	l := &local{}
	l.listen() // it accepts connections all the same: a port that is forwarded
	l.watch(t, func(_ *Channel, seen func() string) {
		if got := seen(); got != "" {
			t.Errorf("Watch reported %q", got)
		}
		l.refused.Store(true)
		if got := seen(); got != "g" {
			t.Errorf("nobody accepts: Watch reported %q", got)
		}
		l.refused.Store(false)
		if got := seen(); got != "b" {
			t.Errorf("somebody accepts again: Watch reported %q", got)
		}
	})
}
