package postgres

import (
	"testing"
	"time"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/lock/locktest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

func openLock(t testing.TB, url, table string) *LockStore {
	t.Helper()
	cfg := lockDefaults()
	cfg.Config, cfg.TableName = configOf(url), table
	l, err := OpenLock(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestLock(t *testing.T) {
	t.Parallel()
	url := database(t, english)
	var tables counter
	locktest.Run(t, func(t testing.TB) lock.Driver { return openLock(t, url, tables.next("locks_")) })
}

func TestLockOnABadNetwork(t *testing.T) {
	t.Parallel()
	srv := server.Get(t)
	var tables counter
	name := databaseName(t, "")
	locktest.RunNetwork(t, func(t testing.TB) (lock.Driver, *faultnet.Proxy) {
		proxy := faultnet.New(t, srv.Addr())
		return openLock(t, srv.URLAt(proxy.Addr(), name), tables.next("locks_bad_")), proxy
	})
}

func TestTokensGrowBeyondTheRowOfALock(t *testing.T) {
	t.Parallel()
	url := database(t, "")
	db, l := adminOf(t, url), openLock(t, url, "locks")
	first, err := l.Acquire(t.Context(), "a", "me", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openLock(t, url, "locks").Acquire(t.Context(), "a", "you", time.Minute); !fault.Is(err, fault.Aborted) {
		t.Errorf("another process: %v", err)
	}
	db.run(t, `UPDATE locks SET expires_at = now() - interval '31 days'`)
	_ = l.Close()
	again := openLock(t, url, "locks") // which removes it
	eventually(t, "removal of what nobody has used for long", func() bool { return db.text(t, `SELECT count(*) FROM locks`) == "0" })
	second, err := again.Acquire(t.Context(), "a", "you", time.Minute)
	if err != nil || second.Token <= first.Token {
		t.Errorf("the token after %d is %d, %v", first.Token, second.Token, err)
	}
}
