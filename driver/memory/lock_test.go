package memory

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/lock/locktest"
	"github.com/proa-io/proa/component"
)

func TestLock(t *testing.T) {
	locktest.Run(t, func(t testing.TB) lock.Driver { return openLock(t) })
}

func TestExpiredLocksAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLock(t)
		for i := range 100 * minSweep {
			if _, err := l.Acquire(t.Context(), fmt.Sprint(i), "me", time.Second); err != nil {
				t.Fatal(err)
			}
			if i%minSweep == 0 {
				time.Sleep(2 * time.Second)
			}
		}
		if n := len(l.held); n > 3*minSweep {
			t.Errorf("%d locks are remembered", n)
		}
	})
}

func openLock(t testing.TB) *Lock {
	t.Helper()
	l, err := OpenLock(t.Context(), LockConfig{}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}
