package redis

import (
	"context"
	"strconv"
	"time"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/internal/bell"
)

// LockConfig configures a lock store on Redis.
//
// It must be a single server: where another server can take over, it may not
// know yet of a lock that was granted, and grant it again.
type LockConfig struct {
	Config
}

// Validate reports settings that can never work.
func (c LockConfig) Validate() error {
	switch {
	case c.Type == typeCluster:
		return component.Invalid("redisType", "must be %q: a cluster can forget locks when a node fails", typeNode)
	case c.Failover:
		return component.Invalid("failover", "must be off: locks can be forgotten when another server takes over")
	}
	return c.Config.Validate()
}

// Lock is a lock.Driver, a lock.Renewer and a lock.Watcher.
//
// A lock is a string that holds its owner and expires, as Dapr's component of
// the same name keeps it, so that both exclude each other. Beside it stands a
// counter for the fencing token. Locks that Dapr takes have no token, and do
// not count.
type Lock struct {
	cfg                     Config
	client                  *client
	acquire, release, renew script
	freed                   *bell.Bell
}

// fencePrefix and the name of a lock make the key of its counter.
const fencePrefix = "proa||fence||"

// fenceLife is how long a counter is kept after its lock was last used, at
// least. Counters begin with the time in milliseconds, so that one which begins
// anew does not repeat tokens.
const fenceLife = 30 * 24 * time.Hour

// KEYS: lock, counter. ARGV: owner, milliseconds to live, least token,
// milliseconds that the counter lives. The answer is the token, or 0.
const luaAcquire = `
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local last = tonumber(redis.call('GET', KEYS[2]) or 0) or 0
local token = math.max(last + 1, tonumber(ARGV[3]))
redis.call('SET', KEYS[2], string.format('%.0f', token), 'PX', ARGV[4])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return token`

// luaOwned goes on only if ARGV[1] owns the lock KEYS[1].
const luaOwned = `
local owner = redis.call('GET', KEYS[1])
if not owner then return -1 end
if owner ~= ARGV[1] then return -2 end
`

// luaRelease tells those who wait on channel ARGV[2], if the user may.
const luaRelease = luaOwned + `
redis.call('DEL', KEYS[1])
redis.pcall('PUBLISH', ARGV[2], KEYS[1])
return 0`

// KEYS and ARGV as for luaAcquire. The counter has the token of the present
// holder, unless that is Dapr, which does not count.
const luaRenew = luaOwned + `
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local token = tonumber(redis.call('GET', KEYS[2]) or 0) or 0
if token == 0 then token = tonumber(ARGV[3]) end
redis.call('SET', KEYS[2], string.format('%.0f', token), 'PX', ARGV[4])
return token`

// Answers of the scripts that are no token.
const (
	answerHeld     = 0
	answerNotHeld  = -1
	answerNotOwner = -2
)

// OpenLock connects to Redis.
func OpenLock(ctx context.Context, cfg LockConfig, _ component.Env) (*Lock, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	l := &Lock{cfg: cfg.Config, client: c}
	for _, s := range []struct {
		to   *script
		text string
	}{{&l.acquire, luaAcquire}, {&l.release, luaRelease}, {&l.renew, luaRenew}} {
		if *s.to, err = newScript(ctx, c, s.text); err != nil {
			c.close()
			return nil, err
		}
	}
	l.freed = bell.New(ctx, l.listen)
	return l, nil
}

// Acquire implements lock.Driver.
func (l *Lock) Acquire(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	began := time.Now()
	token, err := l.run(ctx, l.acquire, scriptCall{[]string{name, fencePrefix + name}, lease(owner, ttl, began)})
	switch {
	case err != nil:
		return lock.Lease{}, err
	case token == answerHeld:
		return lock.Lease{}, lock.ErrHeld()
	}
	return lock.Lease{Token: uint64(token), Expires: began.Add(ttl)}, nil
}

// Release implements lock.Driver.
func (l *Lock) Release(ctx context.Context, name, owner string) error {
	answer, err := l.run(ctx, l.release, scriptCall{[]string{name}, []string{owner, freeChannel(l.cfg.DB)}})
	if err != nil {
		return err
	}
	return notOwned(answer)
}

// Renew implements lock.Renewer.
func (l *Lock) Renew(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	began := time.Now()
	token, err := l.run(ctx, l.renew, scriptCall{[]string{name, fencePrefix + name}, lease(owner, ttl, began)})
	if err != nil {
		return lock.Lease{}, err
	}
	if err := notOwned(token); err != nil {
		return lock.Lease{}, err
	}
	return lock.Lease{Token: uint64(token), Expires: began.Add(ttl)}, nil
}

func notOwned(answer int64) error {
	switch answer {
	case answerNotHeld:
		return lock.ErrNotHeld()
	case answerNotOwner:
		return lock.ErrNotOwner()
	}
	return nil
}

// Close implements io.Closer.
func (l *Lock) Close() error {
	l.freed.Close()
	l.client.close()
	return nil
}

// lease returns the arguments of luaAcquire and luaRenew.
func lease(owner string, ttl time.Duration, now time.Time) []string {
	millis := func(d time.Duration) string {
		return strconv.FormatInt(int64((d+time.Millisecond-1)/time.Millisecond), 10)
	}
	return []string{owner, millis(ttl), strconv.FormatInt(now.UnixMilli(), 10), millis(max(fenceLife, 2*ttl))}
}

func (l *Lock) run(ctx context.Context, s script, call scriptCall) (int64, error) {
	res, err := s.run(ctx, l.client, call)
	if err != nil {
		return 0, err
	}
	answer, err := res.AsInt64()
	return answer, classify(ctx, err)
}
