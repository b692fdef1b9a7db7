package policy

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestADeadlineIsOneOfPackageContext(t *testing.T) {
	for _, c := range []struct {
		name   string
		waited bool // somebody asks for Done before
	}{{"that nobody waits for", false}, {"that somebody waits for", true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
				defer cancel()
				d := withTimeout(parent, time.Second, &sync.Pool{})
				defer d.end()
				if c.waited {
					_ = d.Done()
				}
				if by, ok := d.Deadline(); !ok || time.Until(by) != time.Second {
					t.Errorf("the deadline is in %v", time.Until(by))
				}
				if d.Err() != nil || d.Value(key{}) != "value" {
					t.Errorf("at first: %v, %v", d.Err(), d.Value(key{}))
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if !errors.Is(d.Err(), context.DeadlineExceeded) {
					t.Errorf("after the deadline: %v", d.Err())
				}
				<-d.Done()
			})
		})
	}
}

type key struct{}

func TestADeadlineEndsWithItsParentAndItsCall(t *testing.T) {
	cause := errors.New("the cause")
	parent, cancel := context.WithCancelCause(t.Context())
	d := withTimeout(parent, time.Hour, &sync.Pool{})
	child, stop := context.WithCancel(d)
	defer stop()
	cancel(cause)
	if <-child.Done(); !errors.Is(d.Err(), context.Canceled) || !errors.Is(context.Cause(d), cause) {
		t.Errorf("with its parent: %v, because of %v", d.Err(), context.Cause(d))
	}
	d = withTimeout(t.Context(), time.Hour, &sync.Pool{})
	d.end()
	if <-d.Done(); !errors.Is(d.Err(), context.Canceled) {
		t.Errorf("after its call: %v", d.Err())
	}
}

func TestADeadlineIsNoLaterThanThatOfItsParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if by, _ := withTimeout(parent, time.Hour, &sync.Pool{}).Deadline(); time.Until(by) != time.Second {
			t.Errorf("it is in %v", time.Until(by))
		}
	})
}
