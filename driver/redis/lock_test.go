package redis

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/lock/locktest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

var databases atomic.Int32

// database returns how to reach a database of the shared server at addr, which
// nobody else has.
func database(t testing.TB, addr string) Config {
	t.Helper()
	cfg := configOf(server.Get(t).Addr())
	cfg.DB = int(databases.Add(1))
	if cfg.DB >= testserver.RedisDatabases {
		t.Fatalf("there are %d databases, too few for all tests", testserver.RedisDatabases)
	}
	cfg.Host = addr
	return cfg
}

// command carries out a command as a program that knows nothing of us would.
func command(t testing.TB, cfg Config, args ...string) any {
	t.Helper()
	c, err := connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	res, err := c.do(t.Context(), c.build().Arbitrary(args...).Build())
	if err != nil {
		t.Fatal(err)
	}
	v, err := res.ToAny()
	if err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%q: %v", args, err)
	}
	return v
}

func openLock(t testing.TB, cfg Config) *Lock {
	t.Helper()
	l, err := OpenLock(t.Context(), LockConfig{Config: cfg}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestLock(t *testing.T) {
	locktest.Run(t, func(t testing.TB) lock.Driver { return openLock(t, database(t, server.Get(t).Addr())) })
}

func TestLockOnABadNetwork(t *testing.T) {
	addr := server.Get(t).Addr()
	locktest.RunNetwork(t, func(t testing.TB) (lock.Driver, *faultnet.Proxy) {
		proxy := faultnet.New(t, addr)
		return openLock(t, database(t, proxy.Addr())), proxy
	})
}

// What follows are the commands of Dapr's component lock.redis.

const daprUnlock = `local v = redis.call("get",KEYS[1]); if v==false then return -1 end; ` +
	`if v~=ARGV[1] then return -2 else return redis.call("del",KEYS[1]) end`

func TestLocksThatDaprTookAreHeld(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	l := openLock(t, cfg)
	const name = "lock||shop||order"
	if got := command(t, cfg, "SET", name, "dapr", "EX", "100", "NX"); got != "OK" {
		t.Fatalf("SET = %v", got)
	}
	if _, err := l.Acquire(t.Context(), name, "me", time.Hour); fault.ReasonOf(err) != lock.ReasonHeld {
		t.Errorf("Acquire: %v, want that it is held", err)
	}
	if err := l.Release(t.Context(), name, "me"); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("Release by another: %v", err)
	}
	lease, err := l.Renew(t.Context(), name, "dapr", time.Hour)
	if err != nil || lease.Token == 0 {
		t.Errorf("Renew = %v, %v", lease, err)
	}
	if err := l.Release(t.Context(), name, "dapr"); err != nil {
		t.Errorf("Release by the owner: %v", err)
	}
	next, err := l.Acquire(t.Context(), name, "me", time.Hour)
	if err != nil || next.Token <= lease.Token {
		t.Errorf("Acquire = %v, %v; want a token larger than %d", next, err, lease.Token)
	}
}

func TestDaprSeesTheLocksThatAreHeld(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	l := openLock(t, cfg)
	const name = "lock||shop||order"
	if _, err := l.Acquire(t.Context(), name, "me", 100*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := command(t, cfg, "SET", name, "dapr", "EX", "100", "NX"); got != nil {
		t.Errorf("SET = %v, want nil", got)
	}
	if got := command(t, cfg, "GET", name); got != "me" {
		t.Errorf("GET = %v, want the owner", got)
	}
	if got, ok := command(t, cfg, "PTTL", name).(int64); !ok || got < 90_000 || got > 100_000 {
		t.Errorf("PTTL = %v", got)
	}
	for _, c := range []struct {
		owner string
		want  int64
	}{{"dapr", -2}, {"me", 1}, {"me", -1}} {
		if got := command(t, cfg, "EVAL", daprUnlock, "1", name, c.owner); got != c.want {
			t.Errorf("unlock by %q = %v, want %d", c.owner, got, c.want)
		}
	}
	if _, err := l.Acquire(t.Context(), name, "you", time.Hour); err != nil {
		t.Errorf("Acquire: %v", err)
	}
}

func TestCountersOfTokensDoNotStayForEver(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	if _, err := openLock(t, cfg).Acquire(t.Context(), "l", "me", time.Second); err != nil {
		t.Fatal(err)
	}
	got, ok := command(t, cfg, "PTTL", fencePrefix+"l").(int64)
	if left := time.Duration(got) * time.Millisecond; !ok || left <= 0 || left > fenceLife {
		t.Errorf("the counter has %v left, want %v at most", left, fenceLife)
	}
}

func TestKeyThatIsNoLockIsLeftAlone(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	l := openLock(t, cfg)
	command(t, cfg, "HSET", "h", "data", "1")
	if _, err := l.Acquire(t.Context(), "h", "me", time.Hour); fault.ReasonOf(err) != lock.ReasonHeld {
		t.Errorf("Acquire: %v", err)
	}
	if err := l.Release(t.Context(), "h", "me"); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("Release: %v, want failed_precondition", err)
	}
	if got := command(t, cfg, "HGET", "h", "data"); got != "1" {
		t.Errorf("the hash holds %v", got)
	}
}

func TestLocksWantASingleServer(t *testing.T) {
	for _, spec := range Specs() {
		if spec.Block != lock.Block {
			continue
		}
		for _, c := range []struct{ name, value, want string }{
			{"redisType", "cluster", "a cluster can forget locks"},
			{"failover", "true", "locks can be forgotten"},
		} {
			err := spec.Check(component.Settings{
				{Name: "redisHost", Value: "h"}, {Name: c.name, Value: c.value, Pos: component.Position{File: "l.yaml", Line: 4}},
			})
			if err == nil || !strings.HasPrefix(err.Error(), "l.yaml:4: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s=%s: error %v", c.name, c.value, err)
			}
		}
	}
}
