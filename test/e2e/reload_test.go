package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/proa-io/proa/internal/testserver"
)

// replaceFile puts a file in the place of another one at once.
func replaceFile(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		tb.Fatal(err)
	}
}

// TestAStoreAndABrokerChangeUnderLoad moves an application from memory to Redis
// and back while it works: no call fails, and no event is lost or comes twice.
func TestAStoreAndABrokerChangeUnderLoad(t *testing.T) {
	long(t)
	redis := testserver.Redis(t, testserver.RedisOptions{})
	resources, home := t.TempDir(), t.TempDir()
	file := filepath.Join(resources, "components.yaml")
	in := func(kind string) string {
		var b strings.Builder
		for _, c := range [][2]string{{"statestore", "state"}, {"pubsub", "pubsub"}} {
			fmt.Fprintf(&b, "---\napiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: %s\nspec:\n  type: %s.%s\n  version: v1\n", c[0], c[1], kind)
			if kind == "redis" {
				fmt.Fprintf(&b, "  metadata:\n  - name: redisHost\n    value: %q\n", redis.Addr())
			}
		}
		return b.String()
	}
	replaceFile(t, file, in("in-memory"))
	app := newSubscriber(t)
	s := startSidecar(t, options{name: "shop", home: home, app: app.addr, flags: []string{"--resources-path", resources}})
	if err := s.await("subscription.*topic=orders"); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	var over atomic.Bool
	var writers sync.WaitGroup
	var mu sync.Mutex
	var events []string
	for w := range 4 {
		writers.Go(func() {
			for i := 0; !over.Load(); i++ {
				id := fmt.Sprintf("%d-%d", w, i)
				for _, c := range []struct {
					method, path, body string
				}{
					{"POST", "/v1.0/state/statestore", fmt.Sprintf(`[{"key":%q,"value":%q}]`, id, id)},
					{"GET", "/v1.0/state/statestore/" + id, ""},
					{"POST", "/v1.0/publish/pubsub/orders", fmt.Sprintf("%q", id)},
				} {
					status, answer, err := s.call(c.method, c.path, []byte(c.body))
					if err != nil || status >= 300 {
						t.Errorf("%s %s: %d %s %v", c.method, c.path, status, answer, err)
						return
					}
					calls.Add(1)
				}
				mu.Lock()
				events = append(events, id)
				mu.Unlock()
			}
		})
	}
	for n := range 10 {
		kind := []string{"redis", "in-memory"}[n%2]
		replaceFile(t, file, in(kind))
		if err := s.await(fmt.Sprintf(`msg="resources reloaded".* generation=%d `, n+1)); err != nil {
			t.Fatal(err)
		}
		if m := s.must(t, "GET", "/v1.0/metadata", "", http.StatusOK); !strings.Contains(m, `"state.`+kind+`"`) || !strings.Contains(m, `"proa.reload":"in use"`) {
			t.Fatalf("metadata %s", m)
		}
	}
	over.Store(true)
	writers.Wait()
	if err := eventually(func() error {
		if left := app.missing(events); len(left) > 0 {
			return fmt.Errorf("%d of %d events did not arrive, such as %s", len(left), len(events), left[0])
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	app.mu.Lock()
	defer app.mu.Unlock()
	for e, n := range app.seen {
		if n != 1 {
			t.Errorf("%s arrived %d times", e, n)
		}
	}
	t.Logf("%d calls and %d events over 10 changes", calls.Load(), len(events))
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}
