package redis

import (
	"context"
	"strconv"
	"time"

	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// RateLimitConfig configures token buckets on Redis.
//
// Redis needs no persistence for it: a bucket that is forgotten is full again.
type RateLimitConfig struct {
	Config
	// KeyPrefix is what the keys of buckets begin with; sidecars that shall
	// share buckets have the same.
	KeyPrefix string `setting:"keyPrefix"`
}

// RateLimit is a ratelimit.Driver. A bucket is a hash with the field "until", and a
// field for each member; it expires when it is as one that is not known.
type RateLimit struct {
	prefix string
	client *client
	take   script
}

// KEYS: bucket. ARGV: microseconds per token, burst, tokens wanted, member,
// microseconds that the member counts. The time is that of the server. The
// answer is the tokens, the microseconds to wait, and the members. It is the
// algorithm of ratelimit.Level.
const luaTake = `
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local each, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local till = math.max(tonumber(redis.call('HGET', KEYS[1], 'until') or 0) or 0, now)
local there = math.floor((burst * each - (till - now)) / each + 0.0005)
local tokens, wait = 0, 0
if there < 1 then
  wait = math.max(1, math.ceil(till - now - (burst - 1) * each))
else
  tokens = math.min(want, there)
  till = till + tokens * each
end
local last, members, gone = now + tonumber(ARGV[5]), 1, {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 2) == 'm:' and all[i] ~= 'm:' .. ARGV[4] then
    local counts = tonumber(all[i + 1]) or 0
    if counts < now or members >= 1000 then
      gone[#gone + 1] = all[i]
    else
      members = members + 1
      last = math.max(last, counts)
    end
  end
end
for i = 1, #gone do redis.call('HDEL', KEYS[1], gone[i]) end
redis.call('HSET', KEYS[1], 'until', string.format('%.3f', till), 'm:' .. ARGV[4], string.format('%.0f', now + tonumber(ARGV[5])))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', (math.max(till, last) - now) / 1000 + 1000))
return {string.format('%.0f', tokens), string.format('%.0f', wait), members}`

// OpenRateLimit connects to Redis.
func OpenRateLimit(ctx context.Context, cfg RateLimitConfig, _ component.Env) (*RateLimit, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	l := &RateLimit{prefix: cfg.KeyPrefix, client: c}
	if l.take, err = newScript(ctx, c, luaTake); err != nil {
		c.close()
		return nil, err
	}
	return l, nil
}

// Take implements ratelimit.Driver.
func (l *RateLimit) Take(ctx context.Context, r ratelimit.Request) (ratelimit.Grant, error) {
	res, err := l.take.run(ctx, l.client, scriptCall{[]string{l.prefix + r.Name}, []string{
		strconv.FormatFloat(1e6/r.Rate, 'f', -1, 64), strconv.FormatInt(r.Burst, 10), strconv.FormatInt(r.Tokens, 10),
		r.Member, strconv.FormatInt(r.Remember.Microseconds(), 10),
	}})
	if err != nil {
		return ratelimit.Grant{}, err
	}
	answer, err := res.ToArray()
	if err != nil {
		return ratelimit.Grant{}, classify(ctx, err)
	}
	var n [3]int64
	for i := range n {
		if i < len(answer) {
			n[i], err = answer[i].AsInt64()
		}
		if err != nil || i >= len(answer) {
			return ratelimit.Grant{}, fault.New(fault.Internal, "redis answered something that is no number")
		}
	}
	return ratelimit.Grant{Tokens: n[0], Wait: time.Duration(n[1]) * time.Microsecond, Members: int(n[2])}, nil
}

// Close implements io.Closer.
func (l *RateLimit) Close() error {
	l.client.close()
	return nil
}
