package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/redis/rueidis"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/testserver"
)

// examples is the folder with the programs of the examples.
var examples = testserver.Share(func(tb testserver.TB) string {
	fastloop.Skip(tb, "builds programs")
	dir, err := os.MkdirTemp("", "proa-examples-*")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "./examples/canary", "./examples/shop", "./examples/swap")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", build, err, out)
	}
	return dir
})

// root is the root of the repository.
var root = filepath.Join("..", "..")

// run runs a program from the root of the repository and returns what it
// printed. It must end with exit code 0.
func run(tb testing.TB, env []string, args ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// needs skips a test whose program is missing, or fails it where CI is set.
func needs(tb testing.TB, problem error) {
	tb.Helper()
	switch ci := strings.ToLower(os.Getenv("CI")); {
	case problem == nil:
	case ci == "" || ci == "0" || ci == "false" || ci == "no":
		tb.Skipf("%v; `make test-deps` installs what can be installed", problem)
	default:
		tb.Fatalf("%v; `make test-deps` installs what can be installed", problem)
	}
}

// nodeModules returns the folder with the JavaScript SDK, which the tests of
// interoperability install.
func nodeModules(tb testing.TB) string {
	tb.Helper()
	cmd := exec.Command(filepath.Join(root, "test", "interop", "deps.sh"), "where", "js")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // as Output returns it
			err = fmt.Errorf("%s: %w", strings.TrimSpace(string(exit.Stderr)), err)
		}
		needs(tb, err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "node_modules")
}

func TestTheShop(t *testing.T) {
	long(t)
	program := filepath.Join(examples.Get(t), "shop")
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T) (args, env []string, check func(*testing.T))
		prints  string
	}{
		{name: "InGo", prepare: func(*testing.T) ([]string, []string, func(*testing.T)) { return nil, nil, nil }},
		{name: "InThreeLanguages", prints: `(?s)catalog in Python.*shipping in Node is up|shipping in Node is up.*catalog in Python`,
			prepare: func(t *testing.T) ([]string, []string, func(*testing.T)) {
				_, err := exec.LookPath("python3")
				needs(t, err)
				modules := nodeModules(t)
				return []string{"--shipping", "node examples/shop/node/shipping.js", "--catalog", "python3 examples/shop/python/catalog.py"}, []string{"NODE_PATH=" + modules}, nil
			}},
		{name: "OnRedis", prepare: shopOnRedis},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			args, env, check := c.prepare(t)
			out := run(t, env, append([]string{program, "--proa", proa(t)}, args...)...)
			for _, pattern := range []string{
				`order 1: bicycle`, `order 2: lorry`, `order 3: dead`, `→ 3 placed, 1 sold out`,
				`total 120, signature [0-9a-f]{12}\.`, `▶ Done\.`, c.prints,
			} {
				if !regexp.MustCompile(pattern).MatchString(out) {
					t.Errorf("it did not print %s:\n%s", pattern, out)
				}
			}
			if check != nil {
				check(t)
			}
		})
	}
}

// shopOnRedis puts Redis behind the names that the shop uses.
func shopOnRedis(t *testing.T) (args, env []string, check func(*testing.T)) {
	srv := testserver.Redis(t, testserver.RedisOptions{})
	dir := t.TempDir()
	for name, typ := range map[string]string{"statestore": "state.redis", "pubsub": "pubsub.redis", "lockstore": "lock.redis"} {
		text := fmt.Sprintf("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: %s\nspec:\n  type: %s\n  version: v1\n"+
			"  metadata:\n  - name: redisHost\n    value: %s\n", name, typ, srv.Addr())
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"--resources", dir}, nil, func(t *testing.T) {
		redis := redisClient(t, srv)
		kept, err := redis.Do(t.Context(), redis.B().Hget().Key("orders||order-2").Field("data").Build()).ToString()
		if err != nil || !strings.Contains(kept, `"total":120`) {
			t.Errorf("order 2 is kept in Redis as %q, %v", kept, err)
		}
		events, err := redis.Do(t.Context(), redis.B().Xlen().Key("orders").Build()).ToInt64()
		if err != nil || events != 6 { // one for each order that was placed
			t.Errorf("%d events are on the stream in Redis, %v", events, err)
		}
	}
}

func redisClient(tb testing.TB, srv *testserver.RedisServer) rueidis.Client {
	tb.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{srv.Addr()}, DisableCache: true})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// TestCanary shifts requests from one version to another by editing a file, under
// load.
func TestCanary(t *testing.T) {
	long(t)
	t.Parallel()
	out := run(t, nil, filepath.Join(examples.Get(t), "canary"), "--proa", proa(t))
	for _, pattern := range []string{
		`version 2 answers \d\.\d % of`, `version 2 answers (?:[6-9]|1[0-6])\.\d % of`, `version 2 answers 100\.0 % of`, `requests, 0 failed\.`, `▶ Done\.`,
	} {
		if !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("it did not print %s:\n%s", pattern, out)
		}
	}
}

// TestSwap counts visits on Memcached, then on Redis, with the same program.
// What changes is the folder of resources.
func TestSwap(t *testing.T) {
	long(t)
	t.Parallel()
	cached, kept := testserver.Memcached(t), testserver.Redis(t, testserver.RedisOptions{})
	redis, cache := redisClient(t, kept), memcache.New(cached.Addr())
	program := filepath.Join(examples.Get(t), "swap")
	env := []string{"MEMCACHED=" + cached.Addr(), "REDIS=" + kept.Addr(), "PROA_HOME=" + t.TempDir()}
	visit := func(folder string, want int) {
		t.Helper()
		out := run(t, env, proa(t), "run", "--app-id", "swap", "--resources-path", "examples/swap/resources/"+folder, "--", program)
		if !strings.Contains(out, fmt.Sprintf("swap | visit %d\n", want)) {
			t.Errorf("on %s it printed, instead of visit %d:\n%s", folder, want, out)
		}
	}
	visit("memcached", 1)
	visit("memcached", 2)
	if n, err := redis.Do(t.Context(), redis.B().Dbsize().Build()).ToInt64(); err != nil || n != 0 {
		t.Errorf("Redis has %d keys before anybody counted there, %v", n, err)
	}
	visit("redis", 1)
	visit("redis", 2)
	visit("redis", 3)
	if item, err := cache.Get("swap||visits"); err != nil || string(item.Value) != "2" {
		t.Errorf("Memcached has %+v, %v, and 2 visits were counted there", item, err)
	}
	if data, err := redis.Do(t.Context(), redis.B().Hget().Key("swap||visits").Field("data").Build()).ToString(); err != nil || data != "3" {
		t.Errorf("Redis has %q, %v, and 3 visits were counted there", data, err)
	}
}
