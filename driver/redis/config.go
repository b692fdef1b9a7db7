package redis

import (
	"context"
	"crypto/sha1" //nolint:gosec // the name that Redis gives to scripts
	"encoding/hex"
	"log/slog"
	"slices"
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
	client      *client
	cfg         ConfigConfig
	log         *slog.Logger
	set, remove script
	warn        sync.Once
}

// luaSet stores ARGV[1] at KEYS[1] with the version that follows the present
// one's, and returns that.
const luaSet = `
local old = redis.call('GET', KEYS[1])
local version = tonumber(old and string.match(old, '.*||(%d+)$') or 0) + 1
version = string.format('%.0f', version)
redis.call('SET', KEYS[1], ARGV[1] .. '||' .. version)
return version`

// luaRemove removes KEYS[1] unless it is no item.
const luaRemove = `
redis.call('GET', KEYS[1])
return redis.call('DEL', KEYS[1])`

// OpenConfig connects to Redis. It takes no rights but to read.
func OpenConfig(ctx context.Context, cfg ConfigConfig, env component.Env) (*ConfigStore, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	s := &ConfigStore{client: c, cfg: cfg, log: env.Log, set: namedScript(luaSet), remove: namedScript(luaRemove)}
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

// Set implements config.Writer.
func (s *ConfigStore) Set(ctx context.Context, key, value string) (string, error) {
	res, err := s.set.run(ctx, s.client, scriptCall{[]string{key}, []string{value}})
	if err != nil {
		return "", err
	}
	version, err := res.ToString()
	return version, classifyForeign(ctx, err)
}

// Delete implements config.Writer.
func (s *ConfigStore) Delete(ctx context.Context, key string) error {
	res, err := s.remove.run(ctx, s.client, scriptCall{keys: []string{key}})
	if err != nil {
		return err
	}
	return classifyForeign(ctx, res.Error())
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
	const parameter = "notify-keyspace-events"
	res, err := s.client.do(ctx, s.client.build().ConfigGet().Parameter(parameter).Build())
	if err != nil {
		return false, err
	}
	values, err := res.AsStrMap()
	if err != nil {
		return false, nil //nolint:nilerr // not permitted, or no such command
	}
	flags, ok := values[parameter]
	if !ok {
		return false, nil
	}
	missing := missingEvents(flags)
	if missing == "" {
		return true, nil
	}
	set := s.client.build().ConfigSet().ParameterValue().ParameterValue(parameter, flags+missing).Build()
	if res, err = s.client.do(ctx, set); err != nil {
		return false, err
	}
	return res.Error() == nil, nil
}

// missingEvents returns the needed flags that are not set. "A" stands for all
// kinds of events.
func missingEvents(flags string) string {
	var missing strings.Builder
	for _, f := range neededEvents {
		if !strings.ContainsRune(flags, f) && (f == 'K' || !strings.ContainsRune(flags, 'A')) {
			missing.WriteRune(f)
		}
	}
	return missing.String()
}

// errNotificationsLost ends a watch whose connection is lost.
func errNotificationsLost(err error) error {
	return fault.Wrap(err, fault.Unavailable, "the connection for notifications is lost")
}
