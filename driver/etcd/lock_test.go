package etcd

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/lock/locktest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

func openLock(t testing.TB, cfg Config) *Lock {
	t.Helper()
	l, err := OpenLock(t.Context(), LockConfig{cfg}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestLock(t *testing.T) {
	t.Parallel()
	locktest.Run(t, func(t testing.TB) lock.Driver { return openLock(t, emptyPrefix(server.Get(t).Addr())) })
}

func TestLockOnABadNetwork(t *testing.T) {
	t.Parallel()
	addr := server.Get(t).Addr()
	locktest.RunNetwork(t, func(t testing.TB) (lock.Driver, *faultnet.Proxy) {
		proxy := faultnet.New(t, addr)
		return openLock(t, emptyPrefix(proxy.Addr())), proxy
	})
}

func TestLocksAndTokensOutliveTheServer(t *testing.T) {
	t.Parallel()
	own := testserver.Etcd(t)
	cfg := emptyPrefix(own.Addr())
	l := openLock(t, cfg)
	var last uint64
	for _, owner := range []string{"a", "b"} {
		lease, err := l.Acquire(t.Context(), "l", owner, time.Hour)
		if err != nil || lease.Token <= last {
			t.Fatalf("Acquire = %v, %v; want a token larger than %d", lease, err, last)
		}
		last = lease.Token
		own.Kill()
		own.Restart()
		l = openLock(t, cfg)
		if _, err := l.Acquire(t.Context(), "l", "other", time.Hour); err == nil {
			t.Fatal("a lock that is held was given away")
		}
		if renewed, err := l.Renew(t.Context(), "l", owner, time.Hour); err != nil || renewed.Token != last {
			t.Fatalf("Renew = %v, %v; want token %d", renewed, err, last)
		}
		if err := l.Release(t.Context(), "l", owner); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReleaseAndRenewLeaveNoLeaseBehind(t *testing.T) {
	own := testserver.Etcd(t)
	l := openLock(t, emptyPrefix(own.Addr()))
	leases := func() []clientv3.LeaseStatus {
		t.Helper()
		res, err := l.client.Leases(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return res.Leases
	}
	for range 3 {
		if _, err := l.Acquire(t.Context(), "l", "me", time.Hour); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Acquire(t.Context(), "l", "you", time.Hour); err == nil {
			t.Fatal("the lock was given away")
		}
		for range 3 {
			if _, err := l.Renew(t.Context(), "l", "me", time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(leases()); n != 1 {
			t.Errorf("%d leases for one lock", n)
		}
		if err := l.Release(t.Context(), "l", "me"); err != nil {
			t.Fatal(err)
		}
		if n := len(leases()); n != 0 {
			t.Errorf("%d leases for no lock", n)
		}
	}
}
