package redis

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/config/configtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

func openConfig(t testing.TB, cfg Config) *ConfigStore {
	t.Helper()
	s, err := OpenConfig(t.Context(), ConfigConfig{Config: cfg, PollInterval: component.Duration(100 * time.Millisecond)}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConfig(t *testing.T) {
	configtest.Run(t, func(t testing.TB) configtest.Store { return openConfig(t, database(t, server.Get(t).Addr())) })
}

func TestConfigOnABadNetwork(t *testing.T) {
	addr := server.Get(t).Addr()
	configtest.RunNetwork(t, func(t testing.TB) (configtest.Store, configtest.Store, *faultnet.Proxy) {
		proxy := faultnet.New(t, addr)
		through := database(t, proxy.Addr())
		direct := through
		direct.Host = addr
		return openConfig(t, through), openConfig(t, direct), proxy
	})
}

// A user who may not see or change the server's settings learns of changes all
// the same, if later.
func TestConfigWithoutTheRightToTurnOnNotifications(t *testing.T) {
	for name, rule := range map[string]string{"NoConfig": "-config", "NoConfigSet": "-config|set"} {
		t.Run(name, func(t *testing.T) {
			s := testserver.Redis(t, testserver.RedisOptions{Config: []string{"user limited on >pw ~* &* +@all " + rule}})
			limited := configOf(s.Addr())
			limited.Username, limited.Password = "limited", component.NewSecret("pw")
			t.Run("Contract", func(t *testing.T) {
				var used atomic.Int32
				configtest.Run(t, func(t testing.TB) configtest.Store {
					cfg := limited
					cfg.DB = int(used.Add(1))
					return openConfig(t, cfg)
				})
			})
			if got := flags(t, configOf(s.Addr())); got != "" {
				t.Errorf("the flags are %q", got)
			}
		})
	}
}

func TestUserWhoMayOnlyReadCanRead(t *testing.T) {
	s := testserver.Redis(t, testserver.RedisOptions{Config: []string{"user reader on >pw ~* &* -@all +@read +@connection"}})
	all := configOf(s.Addr())
	command(t, all, "SET", "a", "1||7")
	reader := all
	reader.Username, reader.Password = "reader", component.NewSecret("pw")
	c := openConfig(t, reader)
	got, err := c.Get(t.Context(), config.Query{})
	if err != nil || got["a"].Value != "1" || got["a"].Version != "7" {
		t.Errorf("Get = %v, %v", got, err)
	}
	_, err = configtest.Set(t.Context(), c, "a", "2")
	if !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("Set: %v, want permission_denied", err)
	}
	err = c.Watch(t.Context(), config.Query{}, func(config.Event) {})
	if !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("Watch without the right to subscribe: %v, want permission_denied", err)
	}
}

func TestFlagsOfNotificationsAreOnlyAddedTo(t *testing.T) {
	for before, want := range map[string]string{"": "g$xeK", "Ex": "g$xeKE", "KEA": "AKE", "Kg$xe": "g$xeK", "Kl": "g$lxeK"} {
		s := testserver.Redis(t, testserver.RedisOptions{})
		cfg := configOf(s.Addr())
		command(t, cfg, "CONFIG", "SET", "notify-keyspace-events", before)
		if on, err := openConfig(t, cfg).enable(t.Context()); err != nil || !on {
			t.Errorf("flags %q: enable = %v, %v", before, on, err)
		}
		if got := flags(t, cfg); got != want {
			t.Errorf("flags %q became %q, want %q", before, got, want)
		}
		s.Stop()
	}
}

func flags(t *testing.T, cfg Config) string {
	t.Helper()
	answer := command(t, cfg, "CONFIG", "GET", "notify-keyspace-events")
	values, ok := answer.(map[string]any)
	if !ok {
		t.Fatalf("CONFIG GET = %v", answer)
	}
	text, _ := values["notify-keyspace-events"].(string)
	return text
}

func TestItemsAreReadAsDaprWritesThem(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	c := openConfig(t, cfg)
	command(t, cfg, "MSET", "orderId1", "101||1", "orderId2", "102||v2", "plain", "x", "empty", "", "noversion", "y||", "url", "a||b||3")
	command(t, cfg, "HSET", "hash", "data", "1")
	command(t, cfg, "RPUSH", "list", "1")
	want := map[string]config.Item{
		"orderId1": {Value: "101", Version: "1"}, "orderId2": {Value: "102", Version: "v2"}, "plain": {Value: "x"}, "empty": {},
		"noversion": {Value: "y"}, "url": {Value: "a||b", Version: "3"},
	}
	for _, keys := range [][]string{nil, {"orderId1", "orderId2", "plain", "empty", "noversion", "url", "hash", "list", "none"}} {
		got, err := c.Get(t.Context(), config.Query{Keys: keys})
		if err != nil || !maps.EqualFunc(got, want, sameItem) {
			t.Errorf("Get(%q) = %v, %v; want %v", keys, got, err, want)
		}
	}
}

func TestItemsAreWrittenAsDaprReadsThem(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	c := openConfig(t, cfg)
	for _, step := range []struct{ before, want string }{
		{"", "new||time"}, {"old||41", "new||42"}, {"old", "new||time"}, {"old||beta", "new||time"}, {"a||b||9", "new||10"},
		{"old||9007199254740992", "new||time"}, {"old||9007199254740991", "new||9007199254740992"},
	} {
		command(t, cfg, "DEL", "k")
		if step.before != "" {
			command(t, cfg, "SET", "k", step.before)
		}
		before := time.Now().UnixMicro()
		version, err := configtest.Set(t.Context(), c, "k", "new")
		if err != nil {
			t.Fatal(err)
		}
		if first, err := strconv.ParseInt(version, 10, 64); err == nil && before <= first && first <= time.Now().UnixMicro() {
			step.want = strings.Replace(step.want, "time", version, 1)
		}
		if got := command(t, cfg, "GET", "k"); got != step.want || !strings.HasSuffix(step.want, "||"+version) {
			t.Errorf("over %q: %v at version %q, want %q", step.before, got, version, step.want)
		}
	}
}

func TestKeysThatAreNoItemsAreLeftAlone(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	c := openConfig(t, cfg)
	command(t, cfg, "HSET", "h", "data", "1")
	_, err := configtest.Set(t.Context(), c, "h", "x")
	for op, err := range map[string]error{"Set": err, "Delete": configtest.Delete(t.Context(), c, "h")} {
		if !fault.Is(err, fault.FailedPrecondition) {
			t.Errorf("%s: %v, want failed_precondition", op, err)
		}
	}
	if got := command(t, cfg, "HGET", "h", "data"); got != "1" {
		t.Errorf("the hash holds %v", got)
	}
}

func TestExpiryAndRenamingAreReported(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	c := openConfig(t, cfg)
	command(t, cfg, "SET", "a", "1||1")
	command(t, cfg, "SET", "b", "2||1")
	ctx, cancel := context.WithCancel(t.Context())
	events, done := make(chan config.Event), make(chan error, 1)
	go func() {
		done <- c.Watch(ctx, config.Query{}, func(e config.Event) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		})
	}()
	next := func() config.Event {
		t.Helper()
		select {
		case e := <-events:
			return e
		case err := <-done:
			t.Fatalf("Watch = %v", err)
		case <-time.After(20 * time.Second):
			t.Fatal("no event within 20 s")
		}
		return config.Event{}
	}
	if e := next(); !e.Complete || len(e.Items) != 2 {
		t.Fatalf("first event %+v", e)
	}
	command(t, cfg, "PEXPIRE", "a", "50")
	if e := next(); len(e.Deleted) != 1 || e.Deleted[0] != "a" {
		t.Errorf("event after expiry %+v", e)
	}
	command(t, cfg, "RENAME", "b", "c")
	left := map[string]string{"b": "2"}
	for !maps.Equal(left, map[string]string{"c": "2"}) {
		e := next()
		for k, item := range e.Items {
			left[k] = item.Value
		}
		for _, k := range e.Deleted {
			delete(left, k)
		}
	}
	command(t, cfg, "DEL", "c")
	command(t, cfg, "RPUSH", "c", "now a list")
	if e := next(); len(e.Deleted) != 1 || e.Deleted[0] != "c" {
		t.Errorf("event after deletion %+v", e)
	}
	cancel()
	<-done
}

func TestConfigSettingsAreChecked(t *testing.T) {
	for _, spec := range Specs() {
		if spec.Block != config.Block {
			continue
		}
		for _, c := range []struct{ name, value, want string }{
			{"redisType", "cluster", "a cluster has no notifications"},
			{"pollInterval", "1ms", "must be 100ms at least"},
		} {
			err := spec.Check(component.Settings{
				{Name: "redisHost", Value: "h"}, {Name: c.name, Value: c.value, Pos: component.Position{File: "c.yaml", Line: 4}},
			})
			if err == nil || !strings.HasPrefix(err.Error(), "c.yaml:4: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s=%s: error %v", c.name, c.value, err)
			}
		}
	}
}
