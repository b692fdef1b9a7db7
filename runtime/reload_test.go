package runtime

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/testserver"
)

// hammer calls f from several goroutines until the returned function is called,
// which wants no call to have failed.
func hammer(t *testing.T, f func(worker, i int) error) (stop func()) {
	t.Helper()
	var wg sync.WaitGroup
	var over atomic.Bool
	var calls atomic.Int64
	for w := range 2 {
		wg.Go(func() {
			for i := 0; !over.Load(); i++ {
				calls.Add(1)
				if err := f(w, i); err != nil {
					t.Errorf("call %d of worker %d: %v", i, w, err)
					return
				}
			}
		})
	}
	return func() {
		over.Store(true)
		wg.Wait()
		t.Logf("%d calls", calls.Load())
	}
}

// rounds is how often files change under load.
const rounds = 50

func TestStateCallsDoNotNoticeThatTheirStoreIsReplaced(t *testing.T) {
	store := func(n int) string {
		return componentYAML("store", "state.in-memory", fmt.Sprint("maxItems=", 10_000+n))
	}
	r := newRig(t, map[string]string{"store.yaml": store(0)}, nil)
	stop := hammer(t, func(w, i int) error {
		key := fmt.Sprintf("k-%d-%d", w, i%100)
		status, answer, err := r.call("POST", "/v1.0/state/store", fmt.Sprintf(`[{"key":%q,"value":"v"}]`, key))
		if err != nil || status != http.StatusNoContent {
			return fmt.Errorf("set: %d %s %w", status, answer, err)
		}
		if status, answer, err = r.call("GET", "/v1.0/state/store/"+key, ""); err != nil || status != 200 && status != 204 {
			return fmt.Errorf("get: %d %s %w", status, answer, err)
		}
		return nil
	})
	for n := range rounds {
		r.write("store.yaml", store(n+1))
		if got := r.applied(); got.Generation != n+1 || len(got.Changes.Changed) != 1 || got.Changes.Changed[0] != "Component store" {
			t.Fatalf("round %d: %+v", n, got)
		}
	}
	stop()
}

func TestABrokenFileLeavesEverythingAndSaysWhy(t *testing.T) {
	good := componentYAML("store", "state.in-memory")
	r := newRig(t, map[string]string{"store.yaml": good}, nil)
	r.must("POST", "/v1.0/state/store", `[{"key":"k","value":"v"}]`, 204)
	for name, c := range map[string]struct{ text, want string }{
		"syntax":       {"apiVersion: dapr.io/v1alpha1\nkind: [", "store.yaml:2: is not valid YAML"},
		"unknown type": {componentYAML("store", "state.redsi"), `store.yaml:6: Component store: spec.type: no driver for type "state.redsi"; did you mean "state.redis"?`},
		"bad setting":  {componentYAML("store", "state.in-memory", "maxItems=many"), `store.yaml:9: Component store: spec.metadata: "maxItems"`},
		"empty":        {"", "store.yaml: is empty, but declared something before"},
	} {
		t.Run(name, func(t *testing.T) {
			r.write("store.yaml", c.text)
			got := r.next()
			if got.Err == nil || !strings.Contains(got.Err.Error(), c.want) {
				t.Fatalf("the change is %s, want %q", &got, c.want)
			}
			if v := r.must("GET", "/v1.0/state/store/k", "", 200); v != `"v"` {
				t.Errorf("the store answers %s", v)
			}
			if m := r.must("GET", "/v1.0/metadata", "", 200); !strings.Contains(m, "refused, and what was there before keeps serving: ") {
				t.Errorf("metadata %s", m)
			}
			r.write("store.yaml", good)
			if got := r.applied(); !got.Changes.None() {
				t.Errorf("mending changed %+v", got.Changes)
			}
			if v := r.must("GET", "/v1.0/state/store/k", "", 200); v != `"v"` {
				t.Errorf("after mending the store answers %s", v)
			}
			if m := r.must("GET", "/v1.0/metadata", "", 200); !strings.Contains(m, `"proa.reload":"in use"`) {
				t.Errorf("metadata %s", m)
			}
		})
	}
	if text := r.log.String(); !strings.Contains(text, "what was there before keeps serving") {
		t.Error("the log does not say that the former keeps serving")
	}
}

func TestComponentsComeAndGo(t *testing.T) {
	r := newRig(t, nil, nil)
	r.must("GET", "/v1.0/state/other/k", "", 400)
	r.write("other.yaml", componentYAML("other", "state.in-memory"))
	if got := r.applied(); len(got.Changes.Added) != 1 {
		t.Errorf("%+v", got)
	}
	r.must("POST", "/v1.0/state/other", `[{"key":"k","value":"v"}]`, 204)
	r.remove("other.yaml")
	r.applied()
	if got := r.must("GET", "/v1.0/state/other/k", "", 400); !strings.Contains(got, "ERR_STATE_STORE_NOT_FOUND") {
		t.Errorf("after removal: %s", got)
	}
	if got := r.log.String(); strings.Contains(got, "level=ERROR") {
		t.Error("there are errors in the log")
	}
}

func TestADefaultComponentGivesWayAndComesBack(t *testing.T) {
	r := newRig(t, nil, nil)
	r.must("POST", "/v1.0/state/statestore", `[{"key":"k","value":"engine"}]`, 204)
	r.write("mine.yaml", componentYAML("statestore", "state.in-memory"))
	r.applied()
	r.must("GET", "/v1.0/state/statestore/k", "", 204)
	r.must("POST", "/v1.0/state/statestore", `[{"key":"k","value":"memory"}]`, 204)
	r.remove("mine.yaml")
	r.applied()
	if got := r.must("GET", "/v1.0/state/statestore/k", "", 200); got != `"engine"` {
		t.Errorf("the engine has %s", got)
	}
}

func TestTwoComponentsSwapTheirNames(t *testing.T) {
	both := func(a, b string) string {
		return componentYAML(a, "state.nats", "bucket=one", "keyPrefix=none") + "---\n" + componentYAML(b, "state.nats", "bucket=two", "keyPrefix=none")
	}
	r := newRig(t, map[string]string{"both.yaml": both("a", "b")}, nil)
	r.must("POST", "/v1.0/state/a", `[{"key":"k","value":"one"}]`, 204)
	r.must("POST", "/v1.0/state/b", `[{"key":"k","value":"two"}]`, 204)
	for range 5 {
		r.write("both.yaml", both("b", "a"))
		r.applied()
		if a, b := r.must("GET", "/v1.0/state/a/k", "", 200), r.must("GET", "/v1.0/state/b/k", "", 200); a != `"two"` || b != `"one"` {
			t.Fatalf("after the swap a has %s and b %s", a, b)
		}
		r.write("both.yaml", both("a", "b"))
		r.applied()
	}
}

func TestResiliencyTakesEffectOnCallsUnderLoad(t *testing.T) {
	policy := func(n int) string {
		return fmt.Sprintf("apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: r\nspec:\n  policies:\n    timeouts: {t: %dms}\n"+
			"  targets:\n    components:\n      out:\n        outbound: {timeout: t}\n", n)
	}
	outside := newServer(t, "outside")
	r := newRig(t, map[string]string{
		"out.yaml": componentYAML("out", "bindings.http", "url="+outside.URL), "policy.yaml": policy(60_000),
	}, nil)
	unit := r.table.Load().unit("bindings", "out")
	stop := hammer(t, func(_, _ int) error {
		if status, answer, err := r.call("POST", "/v1.0/bindings/out", `{"operation":"get"}`); err != nil || status != 200 {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		return nil
	})
	for n := range rounds {
		r.write("policy.yaml", policy(60_001+n))
		if got := r.applied(); len(got.Changes.Changed) != 1 || got.Changes.Changed[0] != "Resiliency r" {
			t.Fatalf("%+v", got)
		}
	}
	stop()
	r.write("policy.yaml", policy(1))
	r.applied()
	r.must("POST", "/v1.0/bindings/out", `{"operation":"get","metadata":{"path":"/hold"}}`, 504)
	if r.table.Load().unit("bindings", "out") != unit {
		t.Error("the component was replaced, although only its policies changed")
	}
	if m := r.must("GET", "/v1.0/metadata", "", 200); !strings.Contains(m, `"resiliencies":[{"name":"r"}]`) {
		t.Errorf("metadata %s", m)
	}
}

func TestAComponentThatCannotBeOpenedWaitsWhileTheFormerServes(t *testing.T) {
	redis := testserver.Redis(t, testserver.RedisOptions{})
	redis.Stop()
	file := func(host string, more ...string) string {
		return componentYAML("store", "state.redis", append([]string{"redisHost=" + host}, append(more, "initTimeout=300ms")...)...)
	}
	r := newRig(t, map[string]string{"store.yaml": componentYAML("store", "state.in-memory")}, nil)
	r.must("POST", "/v1.0/state/store", `[{"key":"k","value":"memory"}]`, 204)
	stop := hammer(t, func(_, _ int) error {
		status, answer, err := r.call("GET", "/v1.0/state/store/k", "")
		if err != nil || status != 200 && status != 204 {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		return nil
	})
	r.write("store.yaml", file(redis.Addr()))
	got := r.next()
	if got.Err != nil || len(got.Pending) != 1 || !strings.Contains(got.Pending[0], "Component store: ") || !strings.Contains(got.Pending[0], "refused") {
		t.Fatalf("%+v", got)
	}
	if m := r.must("GET", "/v1.0/metadata", "", 200); !strings.Contains(m, "partly in use; the former version keeps serving of Component store: ") ||
		!strings.Contains(m, `"type":"state.in-memory"`) {
		t.Errorf("metadata %s", m)
	}
	r.must("GET", "/v1.0/state/store/k", "", 200)
	// Another change meanwhile goes through, and leaves it waiting.
	r.write("other.yaml", componentYAML("other", "state.in-memory"))
	if got := r.next(); got.Err != nil || len(got.Pending) != 1 {
		t.Fatalf("%+v", got)
	}
	r.must("GET", "/v1.0/state/other/k", "", 204)
	redis.Restart()
	r.applied()
	r.must("GET", "/v1.0/state/store/k", "", 204)
	// A change that can never be opened is taken back.
	nobody := testserver.Redis(t, testserver.RedisOptions{})
	nobody.Stop()
	r.write("store.yaml", file(nobody.Addr()))
	if got := r.next(); len(got.Pending) != 1 {
		t.Fatalf("%+v", got)
	}
	r.write("store.yaml", file(redis.Addr()))
	r.applied()
	r.must("GET", "/v1.0/state/store/k", "", 204)
	stop()
}

func TestOnlyWhatIsForTheApplicationIsReloaded(t *testing.T) {
	t.Setenv("NAMESPACE", "prod")
	r := newRig(t, nil, nil)
	with := func(name, more, scopes string) string {
		text := componentYAML(name, "state.in-memory")
		return strings.Replace(text, "  name: "+name+"\n", "  name: "+name+"\n"+more, 1) + scopes
	}
	for _, c := range []struct {
		name, namespace, scopes string
		mine                    bool
	}{
		{"a", "", "", true},
		{"b", "  namespace: prod\n", "scopes: [shop, other]\n", true},
		{"c", "  namespace: test\n", "", false},
		{"d", "", "scopes: [other]\n", false},
	} {
		r.write(c.name+".yaml", with(c.name, c.namespace, c.scopes))
		r.Reload()
		r.applied()
		status := map[bool]int{true: 204, false: 400}[c.mine]
		// What was told may be of the file before, noticed and asked for.
		for limit := time.Now().Add(patience); time.Now().Before(limit); {
			if got, _, err := r.call("GET", "/v1.0/state/"+c.name+"/k", ""); err == nil && got == status {
				break
			}
		}
		r.must("GET", "/v1.0/state/"+c.name+"/k", "", status)
	}
	r.write("b.yaml", with("b", "  namespace: prod\n", "scopes: [other]\n")) // no longer
	for got := r.applied(); len(got.Changes.Removed) == 0; got = r.applied() {
	}
	r.must("GET", "/v1.0/state/b/k", "", 400)
	r.write("d.yaml", with("d", "", "scopes: [other, shop]\n")) // from now on
	for got := r.applied(); len(got.Changes.Added) == 0; got = r.applied() {
	}
	r.must("GET", "/v1.0/state/d/k", "", 204)
}
