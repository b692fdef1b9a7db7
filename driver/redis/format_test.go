package redis

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// raw sends a command as another program would.
func raw(t *testing.T, s *State, args ...string) rueidis.RedisResult {
	t.Helper()
	res, err := s.client.do(t.Context(), s.client.build().Arbitrary(args...).Build())
	if err != nil {
		t.Fatalf("%s: %v", args[0], err)
	}
	if err := res.Error(); err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%s: %v", args[0], err)
	}
	return res
}

func fields(t *testing.T, s *State, key string) map[string]string {
	t.Helper()
	m, err := raw(t, s, "HGETALL", key).AsStrMap()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestItemsAreStoredAsDaprStoresThem(t *testing.T) {
	s := empty(t)
	defer s.Close()
	put := func(value string, opt state.PutOptions) {
		t.Helper()
		if _, err := s.Put(t.Context(), "app||k", []byte(value), opt); err != nil {
			t.Fatal(err)
		}
	}
	put("one", state.PutOptions{})
	if got, want := fields(t, s, "app||k"), map[string]string{"data": "one", "version": "1"}; !maps.Equal(got, want) {
		t.Errorf("after one write: %v, want %v", got, want)
	}
	put("two", state.PutOptions{FirstWrite: true, ETag: "1", TTL: time.Minute})
	if got, want := fields(t, s, "app||k"), map[string]string{"data": "two", "version": "2", "first-write": "0"}; !maps.Equal(got, want) {
		t.Errorf("after a first write: %v, want %v", got, want)
	}
	if ttl, err := raw(t, s, "TTL", "app||k").AsInt64(); err != nil || ttl < 50 || ttl > 60 {
		t.Errorf("TTL %d, %v, want a minute", ttl, err)
	}
}

func TestItemsThatDaprStoredAreRead(t *testing.T) {
	s := empty(t)
	defer s.Close()
	raw(t, s, "HSET", "app||k", "data", `{"a":1}`, "version", "41", "first-write", "0")
	item, found, err := s.Get(t.Context(), "app||k", state.GetOptions{})
	if err != nil || !found || string(item.Value) != `{"a":1}` || item.ETag != "41" {
		t.Fatalf("Get = %+v, %v, %v", item, found, err)
	}
	if etag, err := s.Put(t.Context(), "app||k", []byte("2"), state.PutOptions{ETag: "41"}); err != nil || etag != "42" {
		t.Errorf("Put = %q, %v, want version 42", etag, err)
	}
}

// Old versions of Dapr stored plain strings.
func TestPlainStringsAreItemsWithoutAnETag(t *testing.T) {
	s := empty(t)
	defer s.Close()
	raw(t, s, "SET", "old", "value", "EX", "60")
	item, found, err := s.Get(t.Context(), "old", state.GetOptions{})
	if err != nil || !found || string(item.Value) != "value" || item.ETag != "" || item.Expires.IsZero() {
		t.Fatalf("Get = %+v, %v, %v", item, found, err)
	}
	if got := s.BulkGet(t.Context(), []string{"none", "old"}, state.GetOptions{})[1]; got.Err != nil || string(got.Item.Value) != "value" {
		t.Errorf("BulkGet = %+v", got)
	}
	if _, err := s.Put(t.Context(), "old", []byte("x"), state.PutOptions{FirstWrite: true}); !fault.Is(err, fault.Aborted) {
		t.Errorf("a first write over a plain string: %v, want aborted", err)
	}
	if _, err := s.Put(t.Context(), "old", []byte("x"), state.PutOptions{ETag: "1"}); !fault.Is(err, fault.Aborted) {
		t.Errorf("a write with an etag over a plain string: %v, want aborted", err)
	}
	if _, err := s.Put(t.Context(), "old", []byte("new"), state.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, want := fields(t, s, "old"), map[string]string{"data": "new", "version": "1"}; !maps.Equal(got, want) {
		t.Errorf("after a write: %v, want %v", got, want)
	}
}

func TestForeignDataAreLeftAlone(t *testing.T) {
	s := empty(t)
	defer s.Close()
	raw(t, s, "RPUSH", "list", "a", "b")
	raw(t, s, "HSET", "hash", "version", "not a number", "data", "mine")
	ctx := t.Context()
	_, hashErr := s.Put(ctx, "hash", nil, state.PutOptions{})
	_, firstHashErr := s.Put(ctx, "hash", nil, state.PutOptions{FirstWrite: true})
	_, _, getErr := s.Get(ctx, "list", state.GetOptions{})
	_, putErr := s.Put(ctx, "list", nil, state.PutOptions{})
	_, firstErr := s.Put(ctx, "list", nil, state.PutOptions{FirstWrite: true})
	for name, err := range map[string]error{
		"Get": getErr, "Put": putErr, "first Put": firstErr, "Put to a hash": hashErr, "first Put to a hash": firstHashErr,
		"Transact on a hash":  s.Transact(ctx, []state.Op{{Key: "new"}, {Key: "hash"}}, state.TransactOptions{}),
		"Delete with an etag": s.Delete(ctx, "list", state.DeleteOptions{ETag: "1"}),
		"Transact":            s.Transact(ctx, []state.Op{{Key: "new"}, {Key: "list"}}, state.TransactOptions{}),
	} {
		if !fault.Is(err, fault.FailedPrecondition) {
			t.Errorf("%s: %v, want failed_precondition", name, err)
		}
	}
	if n, err := raw(t, s, "LLEN", "list").AsInt64(); err != nil || n != 2 {
		t.Errorf("the list has %d elements, %v", n, err)
	}
	if got := fields(t, s, "hash"); got["data"] != "mine" || got["version"] != "not a number" {
		t.Errorf("the hash became %v", got)
	}
	if n, err := raw(t, s, "EXISTS", "new").AsInt64(); err != nil || n != 0 {
		t.Errorf("a transaction that touches a list wrote something: %d, %v", n, err)
	}
}

func TestScriptsThatTheServerForgotAreSentAgain(t *testing.T) {
	s := empty(t)
	defer s.Close()
	ctx := t.Context()
	forget := func() { raw(t, s, "SCRIPT", "FLUSH") }
	forget()
	etag, err := s.Put(ctx, "k", []byte("v"), state.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	forget()
	if err := s.Delete(ctx, "k", state.DeleteOptions{ETag: etag}); err != nil {
		t.Error(err)
	}
	forget()
	if err := s.Transact(ctx, []state.Op{{Key: "a"}, {Key: "b"}}, state.TransactOptions{}); err != nil {
		t.Error(err)
	}
	forget()
	for i, r := range s.BulkPut(ctx, []state.PutOp{{Key: "c"}, {Key: "d"}, {Key: "e"}}) {
		if r.Err != nil || r.ETag != "1" {
			t.Errorf("item %d: etag %q, %v", i, r.ETag, r.Err)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*StateConfig)
		want string // in the error; "" for none
	}{
		{"a host", func(*StateConfig) {}, ""},
		{"a host without a port", func(c *StateConfig) { c.Host = "redis" }, ""},
		{"no host", func(c *StateConfig) { c.Host = " , " }, `"redisHost": wants host:port`},
		{"several hosts of no cluster", func(c *StateConfig) { c.Host = "a:1,b:2" }, `"redisHost": lists 2 servers`},
		{"several hosts of a cluster", func(c *StateConfig) { c.Host, c.Type = "a:1, b:2", "cluster" }, ""},
		{"an unknown type", func(c *StateConfig) { c.Type = "ring" }, `"redisType": wants "node" or "cluster"`},
		{"a database of a cluster", func(c *StateConfig) { c.Type, c.DB = "cluster", 1 }, `"redisDB": must be 0`},
		{"a port that is none", func(c *StateConfig) { c.Port = 70000 }, `"redisPort": wants a number`},
		{"a negative database", func(c *StateConfig) { c.DB = -1 }, `"redisDB": must not be negative`},
		{"failover without a name", func(c *StateConfig) { c.Failover = true }, `"sentinelMasterName": is required`},
		{"failover", func(c *StateConfig) { c.Failover, c.SentinelMasterName, c.Host = true, "m", "a:1,b:2" }, ""},
		{"failover of a cluster", func(c *StateConfig) { c.Failover, c.Type = true, "cluster" }, `"failover": is for a single node`},
		{"query indexes", func(c *StateConfig) { c.QueryIndexes = "[" }, `"queryIndexes": wants a JSON array of indexes`},
	} {
		cfg := StateConfig{Config: configOf("localhost:6379")}
		tc.set(&cfg)
		err := cfg.Validate()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestAddressesGetAPort(t *testing.T) {
	for _, tc := range []struct {
		host string
		port int
		want string
	}{
		{"redis", 0, "redis:6379"},
		{"redis", 7000, "redis:7000"},
		{"redis:1", 7000, "redis:1"},
		{" a:1 ,b,, c:3", 0, "a:1 b:6379 c:3"},
		{"::1", 0, "[::1]:6379"},
		{"[::1]:7", 0, "[::1]:7"},
		{"[::1]", 8, "[::1]:8"},
	} {
		if got := strings.Join(Config{Host: tc.host, Port: tc.port}.addresses(), " "); got != tc.want {
			t.Errorf("%q with port %d: %s, want %s", tc.host, tc.port, got, tc.want)
		}
	}
}

// The expected slots are those that redis-server's CLUSTER KEYSLOT returns.
func TestHashSlots(t *testing.T) {
	for key, want := range map[string]uint16{
		"123456789": 12739, "": 0, "foo": 12182, "{foo}bar": 12182, "bar{foo}": 12182, "a{}b": 13694, "{": 4092,
	} {
		if got := slot(key); got != want {
			t.Errorf("slot(%q) = %d, want %d", key, got, want)
		}
	}
}

// Component files written for Dapr must open as they are.
func TestEverySettingOfDaprsComponentIsAccepted(t *testing.T) {
	var all component.Settings
	for name, value := range map[string]string{
		"redisHost": "localhost:6379", "redisPort": "6379", "redisPassword": "", "redisUsername": "", "redisDB": "0", "redisType": "node",
		"sentinelPassword": "", "sentinelUsername": "", "sentinelMasterName": "", "failover": "false",
		"redisMaxRetries": "3", "redisMinRetryInterval": "8ms", "redisMaxRetryInterval": "512ms",
		"dialTimeout": "5s", "readTimeout": "3000", "writeTimeout": "3s", "poolSize": "20", "minIdleConns": "0", "maxConnAge": "10m",
		"poolTimeout": "4s", "idleTimeout": "-1", "idleCheckFrequency": "1m",
		"enableTLS": "false", "insecureSkipTLSVerify": "false", "clientCert": "", "clientKey": "",
		"ttlInSeconds": "-1", "queryIndexes": `[{"name":"orgs","indexes":[{"key":"person.org","type":"TEXT"}]}]`, "keyPrefix": "none", "actorStateStore": "true",
	} {
		all = append(all, component.Setting{Name: name, Value: value})
	}
	for _, s := range Specs() {
		if s.Block == state.Block {
			if err := s.Check(all); err != nil {
				t.Error(err)
			}
		}
	}
}
