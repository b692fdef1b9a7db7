package bell

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/fault"
)

// line is a connection that tests speak through.
type line struct {
	opened, open atomic.Int32
	news         chan string
	lost         chan error
}

func (l *line) listen(ctx context.Context, ready func(), rang func(string)) error {
	l.opened.Add(1)
	l.open.Add(1)
	defer l.open.Add(-1)
	ready()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-l.lost:
			return err
		case name := <-l.news:
			rang(name)
		}
	}
}

func newBell(t *testing.T) (*line, *Bell) {
	l := &line{news: make(chan string), lost: make(chan error)}
	b := New(t.Context(), l.listen)
	t.Cleanup(b.Close)
	return l, b
}

func join(t *testing.T, b *Bell, name string) *Waiter {
	t.Helper()
	w, err := b.Join(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func rung(w *Waiter) bool {
	synctest.Wait()
	select {
	case <-w.Rung():
		return true
	default:
		return false
	}
}

func TestThoseWhoWaitForANameAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, b := newBell(t)
		a, again, other := join(t, b, "a"), join(t, b, "a"), join(t, b, "other")
		l.news <- "a"
		if !rung(a) || !rung(again) || rung(other) {
			t.Error("want those told who wait for a, and nobody else")
		}
		l.news <- ""
		if !rung(a) || !rung(other) {
			t.Error("want everybody told")
		}
		if n := l.opened.Load(); n != 1 {
			t.Errorf("%d connections for three who wait", n)
		}
	})
}

func TestAConnectionStaysAMomentAfterTheLastHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, b := newBell(t)
		for range 3 {
			w := join(t, b, "a")
			time.Sleep(linger - time.Second)
			w.Leave()
		}
		if n := l.opened.Load(); n != 1 {
			t.Errorf("%d connections for waits that follow each other", n)
		}
		time.Sleep(linger + time.Second)
		if l.open.Load() != 0 {
			t.Error("the connection stays though nobody waits")
		}
		join(t, b, "a").Leave()
		if n := l.opened.Load(); n != 2 {
			t.Errorf("%d connections, want another one", n)
		}
	})
}

func TestALostConnectionIsToldAndReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, b := newBell(t)
		w := join(t, b, "a")
		cause := errors.New("cut")
		l.lost <- cause
		<-w.Lost()
		if w.Err() != cause {
			t.Errorf("lost because of %v", w.Err())
		}
		next := join(t, b, "a")
		w.Leave() // of the former connection
		l.news <- "a"
		if !rung(next) {
			t.Error("nobody is told on the new connection")
		}
	})
}

func TestCloseEndsEveryWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, b := newBell(t)
		w := join(t, b, "a")
		b.Close()
		<-w.Lost()
		if w.Err() == nil || l.open.Load() != 0 {
			t.Errorf("after Close: %v, %d connections", w.Err(), l.open.Load())
		}
		if _, err := b.Join(t.Context(), "a"); !fault.Is(err, fault.Unavailable) {
			t.Errorf("Join after Close: %v, want unavailable", err)
		}
	})
}

func TestJoinEndsWithItsContext(t *testing.T) {
	b := New(t.Context(), func(ctx context.Context, _ func(), _ func(string)) error {
		<-ctx.Done()
		return ctx.Err()
	})
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Join(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("Join: %v, want canceled", err)
	}
}
