package redis

import (
	"context"
	"crypto/sha1" //nolint:gosec // the name that Redis gives to scripts
	"encoding/hex"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// ConfigConfig configures a configuration store on Redis.
//
// Changes are learned from keyspace notifications, which are turned on if they
// are off and the user may do so. Otherwise have an administrator add "Kg$xe"
// to the server's notify-keyspace-events; until then changes are looked for
// every PollInterval.
type ConfigConfig struct {
	Config
	// PollInterval is how often to look for changes when the server may not
	// notify of them.
	PollInterval component.Duration `setting:"pollInterval"`
}

const defaultPollInterval = component.Duration(10 * time.Second)

// Validate reports settings that can never work.
func (c ConfigConfig) Validate() error {
	switch {
	case c.Type == typeCluster:
		return component.Invalid("redisType", "must be %q: a cluster has no notifications for all its keys", typeNode)
	case c.PollInterval < component.Duration(100*time.Millisecond):
		return component.Invalid("pollInterval", "must be 100ms at least")
	}
	return c.Config.Validate()
}

// ConfigStore is a config.Driver and a config.Writer.
//
// Items are strings of the form value||version, as for Dapr's component of the
// same name; "||version" may be missing. Keys of other types are no items.
type ConfigStore struct {
	client *client
	cfg    ConfigConfig
	log    *slog.Logger
	write  script
	warn   sync.Once
}

// luaWrite changes KEYS. ARGV[1] is the time in microseconds. Then follow four
// values for each key: "set" or "delete", the value, "absent" or "version" or ""
// for what is expected, and the version expected. The answer is a version for
// each key; when something else was expected of one, that one's number comes
// behind as many empty ones, and nothing is changed.
//
// A version is the number that follows the item's present one. The first of an
// item is the time, so that an item that was deleted and set again does not
// have a version that it had before.
const luaWrite = `
local olds, out = {}, {}
for i, key in ipairs(KEYS) do
  local a = 1 + (i - 1) * 4
  local old = redis.call('GET', key)
  local version = old and string.match(old, '.*||(.*)$')
  local want = ARGV[a + 3]
  if want == 'absent' and old or want == 'version' and version ~= ARGV[a + 4] then
    for n = 1, #KEYS do out[n] = '' end
    out[#KEYS + 1] = tostring(i)
    return out
  end
  olds[i] = version or ''
end
for i, key in ipairs(KEYS) do
  local a = 1 + (i - 1) * 4
  if ARGV[a + 1] == 'delete' then
    redis.call('DEL', key)
    out[i] = ''
  else
    local version = tonumber(ARGV[1])
    local last = string.match(olds[i], '^%d+$') and tonumber(olds[i])
    if last and last < 2^53 then version = last + 1 end
    out[i] = string.format('%.0f', version)
    redis.call('SET', key, ARGV[a + 2] .. '||' .. out[i])
  end
end
return out`

// OpenConfig connects to Redis. It takes no rights but to read.
func OpenConfig(ctx context.Context, cfg ConfigConfig, env component.Env) (*ConfigStore, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	s := &ConfigStore{client: c, cfg: cfg, log: env.Log, write: namedScript(luaWrite)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// namedScript returns a script that the server learns when it is first called.
func namedScript(text string) script {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // the name that Redis gives to scripts
	return script{text, hex.EncodeToString(sum[:])}
}

// Close implements io.Closer.
func (s *ConfigStore) Close() error {
	s.client.close()
	return nil
}

// Get implements config.Driver.
func (s *ConfigStore) Get(ctx context.Context, q config.Query) (map[string]config.Item, error) {
	keys := q.Keys
	if len(keys) == 0 {
		var err error
		if keys, err = s.keys(ctx); err != nil {
			return nil, err
		}
	}
	return s.read(ctx, keys)
}

// keys returns all keys of the database, be they items or not.
func (s *ConfigStore) keys(ctx context.Context) ([]string, error) {
	var all []string
	for cursor := uint64(0); ; {
		res, err := s.client.do(ctx, s.client.build().Scan().Cursor(cursor).Count(1000).Build())
		if err != nil {
			return nil, err
		}
		page, err := res.AsScanEntry()
		if err != nil {
			return nil, classify(ctx, err)
		}
		all = append(all, page.Elements...)
		if cursor = page.Cursor; cursor == 0 {
			slices.Sort(all) // a scan may return a key twice
			return slices.Compact(all), nil
		}
	}
}

// read returns the items at keys.
func (s *ConfigStore) read(ctx context.Context, keys []string) (map[string]config.Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out := make(map[string]config.Item, len(keys))
	for some := range slices.Chunk(keys, batch) {
		// MGET answers nil for what is no string, where GET has an error.
		res, err := s.client.do(ctx, s.client.build().Mget().Key(some...).Build())
		if err != nil {
			return nil, err
		}
		values, err := res.ToArray()
		if err != nil {
			return nil, classify(ctx, err)
		}
		if len(values) != len(some) {
			return nil, fault.New(fault.Internal, "redis answered %d values for %d keys", len(values), len(some))
		}
		for i, key := range some {
			if values[i].IsNil() || strings.HasPrefix(key, fencePrefix) {
				continue
			}
			text, err := values[i].ToString()
			if err != nil {
				return nil, classify(ctx, err)
			}
			out[key] = parseItem(text)
		}
	}
	return out, nil
}

// parseItem splits value||version at the last bars. (Dapr splits at the first,
// and so cuts off a value that holds some.)
func parseItem(text string) config.Item {
	if i := strings.LastIndex(text, "||"); i >= 0 {
		return config.Item{Value: text[:i], Version: text[i+2:]}
	}
	return config.Item{Value: text}
}

// Write implements config.Writer.
func (s *ConfigStore) Write(ctx context.Context, writes []config.Write) ([]string, error) {
	call := scriptCall{keys: make([]string, len(writes)), args: make([]string, 1, 1+4*len(writes))}
	call.args[0] = strconv.FormatInt(time.Now().UnixMicro(), 10)
	for i, w := range writes {
		op, expect := "set", ""
		if w.Delete {
			op = "delete"
		}
		if w.Expect.Absent {
			expect = "absent"
		} else if w.Expect.Version != "" {
			expect = "version"
		}
		call.keys[i] = w.Key
		call.args = append(call.args, op, w.Value, expect, w.Expect.Version)
	}
	res, err := s.write.run(ctx, s.client, call)
	if err != nil {
		return nil, err
	}
	versions, err := res.AsStrSlice()
	switch {
	case err != nil:
		return nil, classifyForeign(ctx, err)
	case len(versions) == len(writes)+1:
		at, err := strconv.Atoi(versions[len(writes)])
		if err == nil && at >= 1 && at <= len(writes) {
			return nil, config.ErrConflict(writes[at-1].Key)
		}
	case len(versions) == len(writes):
		return versions, nil
	}
	return nil, fault.New(fault.Internal, "redis answered %d versions for %d writes", len(versions), len(writes))
}

// classifyForeign is classify for a script that stops at a key of another type.
// The reply may name the script before it names the kind of the error.
func classifyForeign(ctx context.Context, err error) error {
	if re, ok := rueidis.IsRedisErr(err); ok && strings.Contains(re.Error(), "WRONGTYPE") {
		return errForeign()
	}
	return classify(ctx, err)
}

// neededEvents are the flags of notify-keyspace-events that Watch needs:
// keyspace channels, and commands on all types, on strings, expiry, eviction.
const neededEvents = "Kg$xe"

// enable turns on the notifications that Watch needs, and reports whether they
// are on. Flags that are set already stay.
func (s *ConfigStore) enable(ctx context.Context) (bool, error) {
	flags, ok, err := s.client.notifications(ctx)
	if err != nil || !ok {
		return false, err
	}
	missing := missingEvents(flags, neededEvents)
	if missing == "" {
		return true, nil
	}
	set := s.client.build().ConfigSet().ParameterValue().ParameterValue(notifyParameter, flags+missing).Build()
	res, err := s.client.do(ctx, set)
	if err != nil {
		return false, err
	}
	return res.Error() == nil, nil
}
