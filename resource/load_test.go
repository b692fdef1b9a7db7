package resource

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/proa-io/proa/component"
)

// write puts each file into a fresh folder and returns the folder.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const good = `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: statestore
spec:
  type: state.redis
  version: v1
  initTimeout: 3s
  metadata:
  - name: redisHost
    value: localhost:6379
  - name: redisDB
    value: 2
  - name: enableTLS
    value: false
  - name: extra
    value: {a: [1, true]}
  - name: redisPassword
    secretKeyRef: {name: redis, key: password}
  - name: consumerID
    value: "{namespace}-{uuid}"
auth:
  secretStore: local
scopes: [shop]
---
# nothing here
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: orders}
spec:
  topic: orders
  pubsubname: pubsub
  routes:
    rules:
    - match: event.type == "big"
      path: /big
    default: /small
---
apiVersion: dapr.io/v1alpha1
kind: Subscription
metadata: {name: old}
spec: {topic: t, pubsubname: pubsub, route: /old, deadLetterTopic: dead}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: unrelated}
data: {a: b}
`

func TestEveryKindIsReadFromAFolder(t *testing.T) {
	dir := write(t, map[string]string{
		"a.yaml":        good,
		"sub/skip.yaml": "not: read",
		"notes.txt":     "kind: nonsense",
		"b.yml":         `{"apiVersion":"dapr.io/v1alpha1","kind":"HTTPEndpoint","metadata":{"name":"api"},"spec":{"baseUrl":"https://example.com"}}`,
	})
	set, err := Load(Options{Paths: []string{dir, filepath.Join(dir, "a.yaml")}, AppID: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Components) != 1 || len(set.Subscriptions) != 2 || len(set.HTTPEndpoints) != 1 || len(set.Ignored) != 1 {
		t.Fatalf("got %d components, %d subscriptions, %d endpoints, %d ignored",
			len(set.Components), len(set.Subscriptions), len(set.HTTPEndpoints), len(set.Ignored))
	}
	if got := set.Subscriptions[1].Spec.Routes.Default; got != "/old" {
		t.Errorf("route of v1alpha1 became default %q, want /old", got)
	}
	lookup := func(_ context.Context, store, name, key string) (string, error) {
		return store + "/" + name + "/" + key, nil
	}
	settings, err := set.Components[0].Settings(t.Context(), Identity{AppID: "shop", Namespace: "prod"}, lookup)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"redisHost": "localhost:6379", "redisDB": "2", "enableTLS": "false",
		"extra": `{"a":[1,true]}`, "redisPassword": "local/redis/password",
	} {
		if got, _ := settings.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if got, _ := settings.Get("consumerID"); !strings.HasPrefix(got, "prod.shop-") || len(got) != len("prod.shop-")+36 {
		t.Errorf("consumerID = %q, want prod.shop- and a uuid", got)
	}
	if p := settings[0].Pos; p.Line != 11 || filepath.Base(p.File) != "a.yaml" {
		t.Errorf("redisHost stands at %v, want a.yaml:11", p)
	}
}

func TestResourcesOfOtherApplicationsAreLeftOut(t *testing.T) {
	dir := write(t, map[string]string{"a.yaml": good})
	set, err := Load(Options{Paths: []string{dir}, AppID: "other"})
	if err != nil || len(set.Components) != 0 {
		t.Fatalf("Load = %d components, %v; want none", len(set.Components), err)
	}
}

func TestLaterConfigurationsWinFieldByField(t *testing.T) {
	dir := write(t, map[string]string{
		"1.yaml": "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: a}\nspec:\n  tracing: {samplingRate: \"0.5\"}\n  features: [{name: X, enabled: false}]\n",
		"2.yaml": "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: b}\nspec:\n  metrics: {enabled: false}\n  features: [{name: X, enabled: true}]\n",
	})
	set, err := Load(Options{ConfigPaths: []string{filepath.Join(dir, "1.yaml"), filepath.Join(dir, "2.yaml")}})
	if err != nil {
		t.Fatal(err)
	}
	c := set.Configuration
	if c.SamplingRate(1) != 0.5 || c.MetricSettings() == nil || *c.MetricSettings().Enabled || len(c.Spec.Features) != 1 || !c.Spec.Features[0].Enabled {
		t.Errorf("merged configuration is %+v", c.Spec)
	}
}

func TestAllProblemsOfAFolderAreReportedAtOnce(t *testing.T) {
	dir := write(t, map[string]string{
		"a.yaml": "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {nmae: x}\nspec: {type: state.redis}\n",
		"b.yaml": "apiVersion: dapr.io/v1alpha1\nkind: Componet\nmetadata: {name: x}\n",
		"c.yaml": "a: [\n",
	})
	_, err := Load(Options{Paths: []string{dir}})
	for _, want := range []string{
		`a.yaml:3: Component: metadata.nmae: there is no such field; did you mean "name"?`,
		`b.yaml:1: kind: "Componet" is not a kind of dapr.io; did you mean "Component"?`,
		`c.yaml:1: is not valid YAML`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is\n%v\nwithout %s", err, want)
		}
	}
}

func TestAliasBombsAreRefused(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: x}\nspec:\n  type: state.redis\n  metadata:\n  - name: a0\n    value: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		prev := "*a" + itoa(i-1)
		b.WriteString("  - name: a" + itoa(i) + "\n    value: &a" + itoa(i) + " [" + strings.Repeat(prev+",", 9) + prev + "]\n")
	}
	dir := write(t, map[string]string{"bomb.yaml": b.String()})
	_, err := Load(Options{Paths: []string{dir}})
	if err == nil || !strings.Contains(err.Error(), "nested too deeply or refers to too much") {
		t.Fatalf("Load = %v, want a refusal", err)
	}
}

func TestEveryProblemHasAPosition(t *testing.T) {
	dir := write(t, map[string]string{"a.yaml": "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\nspec:\n  policies:\n    retries:\n      slow: {policy: linear}\n  targets:\n    apps:\n      shop: {retry: slwo}\n"})
	_, err := Load(Options{Paths: []string{dir}})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatal(err)
	}
	var lines []int
	for _, e := range joined.Unwrap() {
		var re *Error
		if !errors.As(e, &re) {
			t.Fatalf("%v is a %T", e, e)
		}
		lines = append(lines, re.Pos.Line)
	}
	if !slices.Equal(lines, []int{7, 10}) {
		t.Errorf("problems stand in lines %v, want 7 and 10:\n%v", lines, err)
	}
}

func TestAPolicyMayStandInAnotherResiliency(t *testing.T) {
	const policies = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: policies}\nscopes: [%s]\nspec:\n  policies:\n    retries:\n      often: {maxRetries: 9}\n"
	const targets = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: targets}\nspec:\n  targets:\n    apps:\n      stock: {retry: often}\n"
	for scope, want := range map[string]string{"shop": "", "stock": `names the policy "often", which no Resiliency defines`} {
		dir := write(t, map[string]string{"a.yaml": targets, "b.yaml": strings.Replace(policies, "%s", scope, 1)})
		_, err := Load(Options{Paths: []string{dir}, AppID: "shop"})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("policies for %s: %v, want %q", scope, err, want)
		}
	}
}

func TestEnvRefRefusesTheSidecarsOwnVariables(t *testing.T) {
	for name, refused := range map[string]bool{"DAPR_API_TOKEN": true, "APP_API_TOKEN": true, "A B": true, "PROA_HOME": true, "MY_TOKEN": false} {
		if got := envRefProblem(name); (got != "") != refused {
			t.Errorf("envRef %q: %q", name, got)
		}
	}
	t.Setenv("DAPR_ENV_KEYS", "ONE TWO")
	if envRefProblem("ONE") != "" || envRefProblem("MY_TOKEN") == "" {
		t.Error("DAPR_ENV_KEYS is not an allow-list")
	}
}

func TestTemplatesNeedWhatTheyName(t *testing.T) {
	if _, err := (Identity{AppID: "a"}).Expand("{podName}"); err == nil {
		t.Error("{podName} without a pod was accepted")
	}
	got, err := (Identity{AppID: "a", Namespace: "n", PodName: "p"}).Expand("{podName}/{appID}/{namespace}/{other}")
	if err != nil || got != "p/a/n.a/{other}" {
		t.Errorf("Expand = %q, %v", got, err)
	}
}

func TestRunFileResolvesPathsAndCommonOptions(t *testing.T) {
	dir := write(t, map[string]string{
		"run.yaml": `
version: 1
common:
  resourcesPath: ./components
  env: {A: common, B: common}
  logLevel: debug
apps:
- appDirPath: ./one
  appPort: 3000
  command: ["node", "app.js"]
  env: {B: own}
- appDirPath: two
  appID: second
  logLevel: warn
`, "two/.dapr/resources/x.yaml": ""})
	rf, err := LoadRunFile(filepath.Join(dir, "run.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	one, two := rf.Apps[0], rf.Apps[1]
	if one.ID() != "one" || two.ID() != "second" || one.LogLevel != "debug" || two.LogLevel != "warn" {
		t.Errorf("apps are %+v and %+v", one, two)
	}
	if one.Env["A"] != "common" || one.Env["B"] != "own" {
		t.Errorf("env is %v", one.Env)
	}
	if one.AppDirPath != filepath.Join(dir, "one") || !slices.Equal(one.ResourcesPaths, []string{filepath.Join(dir, "components")}) {
		t.Errorf("paths are %q, %q", one.AppDirPath, one.ResourcesPaths)
	}
}

func TestRunFileProblemsHaveLines(t *testing.T) {
	dir := write(t, map[string]string{"run.yaml": "version: 1\napps:\n- appDirPath: x\n  appProt: 3\n"})
	_, err := LoadRunFile(filepath.Join(dir, "run.yaml"))
	want := `run.yaml:4: apps[0].appProt: there is no such field; did you mean "appPort"?`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %s", err, want)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(good)
	f.Add("a: &a [*a]")
	f.Add("? {a: b}\n: c")
	f.Fuzz(func(t *testing.T, text string) {
		l := &loader{set: &Set{}, names: map[string]component.Position{}}
		l.documents("fuzz.yaml", []byte(text)) // must not panic
	})
}
