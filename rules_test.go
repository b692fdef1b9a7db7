package proa_test

import (
	"fmt"
	"go/token"
	"strings"
	"testing"
)

// written makes sources of files given as "path\ntext".
func written(t *testing.T, files ...string) []source {
	t.Helper()
	fset := token.NewFileSet()
	var all []source
	for _, f := range files {
		name, text, _ := strings.Cut(f, "\n")
		s, err := parse(fset, name, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// importing is a file that imports one package.
func importing(file, imp string) string {
	return fmt.Sprintf("%s\npackage p\n\nimport _ %q\n", file, imp)
}

func TestTheLayerTableAllowsAndForbids(t *testing.T) {
	ours := func(p string) string { return module + "/" + p }
	for _, c := range []struct {
		file, imports string
		want          string // part of the message; "" when allowed
	}{
		{"component/x.go", ours("fault"), ""},
		{"fault/x.go", ours("component"), "fault/x.go:3: fault may not import component: the error vocabulary"},
		{"policy/x.go", ours("block/state"), "policy may not import block/state"},
		{"block/state/x.go", ours("policy"), ""},
		{"block/state/x.go", ours("block/state/inner"), ""},
		{"block/state/x.go", ours("block/lock"), "block/state may not import block/lock"},
		{"block/state/x.go", ours("internal/resp"), "block/state may not import internal/resp"},
		{"block/state/x.go", ours("driver/memory"), "block/state may not import driver/memory"},
		{"driver/redis/x.go", ours("block/lock"), ""},
		{"driver/redis/x.go", ours("internal/resp"), ""},
		{"driver/redis/x.go", ours("policy"), "driver/redis may not import policy"},
		{"driver/redis/x.go", ours("driver/memory"), "driver/redis may not import driver/memory"},
		{"driver/all/x.go", ours("driver/memory"), ""},
		{"dialect/dapr/x.go", ours("mesh/proxy"), ""},
		{"dialect/dapr/x.go", ours("api/gen/dapr/proto/runtime/v1"), ""},
		{"dialect/dapr/x.go", ours("mesh/http1"), "dialect/dapr may not import mesh/http1"},
		{"dialect/dapr/x.go", ours("dialect/redis"), "dialect/dapr may not import dialect/redis"},
		{"dialect/dapr/inner/x.go", ours("dialect/dapr/other"), ""},
		{"block/state/x.go", ours("api/gen/dapr/proto/runtime/v1"), "may not import api/gen"},
		{"mesh/http1/x.go", ours("mesh/proxy"), ""},
		{"mesh/http1/x.go", ours("block/invoke"), "mesh/http1 may not import block/invoke"},
		{"runtime/x.go", ours("driver/memory"), ""},
		{"runtime/x.go", ours("cmd/proa"), "runtime may not import cmd/proa"},
		{"cmd/proa/x.go", ours("driver/all"), ""},
		{"cmd/proa/x.go", ours("driver/redis"), "cmd/proa may not import driver/redis"},
		{"internal/resp/x.go", ours("internal/memcache"), "internal/resp may not import internal/memcache"},
		{"internal/resp/x.go", ours("faultless"), "internal/resp may not import faultless"},
		{"examples/shop/x.go", ours("fault"), "examples/shop may not import fault"},
		{"novel/x.go", ours("fault"), "the folder novel is in no layer"},

		{"runtime/x.go", ours("internal/testserver"), "runtime may not import internal/testserver: it is made for tests"},
		{"runtime/x.go", ours("block/state/statetest"), "it is made for tests"},
		{"block/state/x.go", ours("block/state/statetest"), "it is made for tests"},
		{"driver/memory/x.go", ours("block/state/statetest"), "it is made for tests"},
		{"driver/memory/x_test.go", ours("block/state/statetest"), ""},
		{"block/state/statetest/x.go", ours("internal/faultnet"), ""},
		{"block/state/statetest/x.go", ours("driver/memory"), "block/state/statetest may not import driver/memory"},
		{"internal/testserver/x.go", ours("internal/freeport"), ""},
		{"test/bench/x.go", ours("internal/testserver"), ""},
		{"test/bench/x.go", ours("driver/memory"), ""},
	} {
		check(t, c.file+" importing "+c.imports, importViolations(written(t, importing(c.file, c.imports))), c.want)
	}
}

func TestTheFencesAllowAndForbid(t *testing.T) {
	for _, c := range []struct {
		file, imports string
		want          string
	}{
		{"driver/redis/x.go", "github.com/redis/rueidis", ""},
		{"driver/redis/x_test.go", "github.com/nats-io/nats.go", ""},
		{"driver/memory/x.go", "github.com/redis/rueidis/rueidiscompat", "driver/memory/x.go:3: driver/memory may not import github.com/redis/rueidis/rueidiscompat: one technology"},
		{"engine/x.go", "github.com/nats-io/nats-server/v2/server", ""},
		{"runtime/x.go", "github.com/nats-io/nats.go", "it is for engine, driver/nats"},
		{"block/state/x.go", "google.golang.org/grpc/codes", "block/state may not import google.golang.org/grpc/codes"},
		{"dialect/dapr/x.go", "google.golang.org/grpc", ""},
		{"policy/x.go", "go.opentelemetry.io/otel/attribute", ""},
		{"policy/x.go", "go.opentelemetry.io/otel/sdk/trace", "it is for telemetry"},
		{"block/state/x.go", "net/http", "the waist does not know HTTP"},
		{"block/state/x.go", "net/url", ""},
		{"mesh/x.go", "net/http/httputil", "only tests import it"},
		{"mesh/x.go", "log", "*slog.Logger"},
		{"mesh/x.go", "log/slog", ""},
		{"mesh/x.go", "testing", "only tests"},
		{"block/state/statetest/x.go", "testing", ""},
	} {
		check(t, c.file+" importing "+c.imports, fenceViolations(written(t, importing(c.file, c.imports))), c.want)
	}
}

// check compares violations with the one that is wanted, if any.
func check(t *testing.T, what string, got []string, want string) {
	t.Helper()
	text := strings.Join(got, "\n")
	if want == "" && text != "" || want != "" && !strings.Contains(text, want) {
		t.Errorf("%s: got %q, want %q", what, text, want)
	}
}

func TestPackageVariablesThatAreStateAreFound(t *testing.T) {
	for text, want := range map[string]string{
		`var errX = errors.New("x")`:                                                     "",
		`var ErrX = errors.New("x")`:                                                     "",
		`var x = fault.New(0, "x")`:                                                      "",
		`var _ io.Reader = (*T)(nil); type T struct{ io.Reader }`:                        "",
		`var table = map[string]int{"a": 1}`:                                             "",
		`var names = [...]string{"a"}; var first = names[0]`:                             "",
		`var re = regexp.MustCompile("a")`:                                               "",
		`var pool = sync.Pool{New: func() any { return new(int) }}`:                      "",
		`var computed = func() (t [4]int) { t[1] = 2; return }()`:                        "",
		`var computed = build(); func build() []int { return make([]int, 3) }`:           "",
		`var once = sync.OnceValue(func() map[string]int { return map[string]int{} })`:   "",
		`var typ = reflect.TypeFor[int]()`:                                               "",
		`var table = []int{1}; func f() int { table := []int{1}; table[0]++; return 0 }`: "",
		`var table = []int{1}; func f(table []int) { table[0] = 2 }`:                     "",
		`var table = []T{{}}; type T struct{ x int }; func f() *T { return &table[0] }`:  "",

		`var Table = []int{1}`:             "x/x.go:3: package variable Table: others could change it",
		`var mu sync.Mutex`:                "without a value it can only be state",
		`var mu = sync.Mutex{}`:            "it can only be state",
		`var n = atomic.Int64{}`:           "it can only be state",
		`var mu = &sync.RWMutex{}`:         "it can only be state",
		`var cache = make(map[string]int)`: "what is made empty is filled later",
		`var p = new(int)`:                 "what is made empty is filled later",
		`var log = slog.New(nil)`:          "log/slog.New is not known to make",
		`var client = http.DefaultClient; var c = http.NewFileTransport(nil)`:     "net/http.NewFileTransport is not known",
		`var n = 1; func f() { n = 2 }`:                                           "package variable n is assigned to",
		`var n = 1; func f() { n++ }`:                                             "package variable n is counted",
		`var m = map[int]int{}; func f() { m[1] = 2 }`:                            "package variable m is assigned to",
		`var m = map[int]int{1: 1}; func f() { delete(m, 1) }`:                    "package variable m is emptied",
		`var s = T{}; type T struct{ t struct{ x int } }; func f() { s.t.x = 1 }`: "package variable s is assigned to",
		`var n = 1; func f() *int { return &n }`:                                  "package variable n is handed out",
		`var n = 1; func f() { for n = range 3 { _ = http.MethodGet } }`:          "package variable n is assigned to",
		`var n = 1; func f() { var unknown http.Client; n, unknown = 1, n }`:      "package variable n is assigned to",
	} {
		body, imports := text, ""
		for name, imp := range map[string]string{
			"errors": "errors", "fault": module + "/fault", "io": "io", "regexp": "regexp", "sync": "sync",
			"reflect": "reflect", "atomic": "sync/atomic", "slog": "log/slog", "http": "net/http",
		} {
			if strings.Contains(text, name+".") {
				imports += fmt.Sprintf("import %q; ", imp)
			}
		}
		check(t, text, variableViolations(written(t, "x/x.go\npackage x\n"+imports+"\n"+body)), want)
	}
}

func TestAVariableChangedInAnotherFileIsFound(t *testing.T) {
	files := written(t, "x/a.go\npackage x\nvar n = 1", "x/b.go\npackage x\nfunc f() {\n\tn = 2\n}")
	check(t, "two files", variableViolations(files), "x/b.go:3: package variable n is assigned to")
}

func TestHouseRulesFindWhatTheyForbid(t *testing.T) {
	for _, c := range []struct {
		rule  func([]source) []string
		files string
		want  string
	}{
		{initViolations, "x/x.go\npackage x\nfunc init() {}", "x/x.go:2: func init"},
		{initViolations, "x/x.go\npackage x\ntype T int\nfunc (T) init() {}", ""},
		{contextViolations, "x/x.go\npackage x\nimport \"context\"\ntype T struct{\nctx context.Context }", "x/x.go:4: field ctx"},
		{contextViolations, "x/x.go\npackage x\nimport \"context\"\ntype T struct{\nctx context.Context //nolint:containedctx // it is a call\n}", ""},
		{contextViolations, "x/x.go\npackage x\nimport \"context\"\ntype T struct{\nctx context.Context //nolint:containedctx\n}", "field ctx"},
		{contextViolations, "x/x.go\npackage x\nimport \"context\"\ntype T struct{ context.Context }", ""},
		{constraintViolations, "x/x.go\n//go:build linux && !race\n\npackage x", ""},
		{constraintViolations, "x/x.go\n//go:build linux && allcomponents\n\npackage x", "x/x.go:1: build tag allcomponents"},
		{packageCommentViolations, "x/x.go\npackage x", "x/x.go:1: package x has no package comment"},
		{packageCommentViolations, "x/x.go\n// Package x is here.\npackage x", ""},
		{packageCommentViolations, "x/x_test.go\npackage x", ""},
		{packageCommentViolations, "x/x.go\n// Code generated by x. DO NOT EDIT.\n\npackage x", ""},
		{docViolations, "x/x.go\npackage x\nfunc F() {}", "x/x.go:2: F is exported"},
		{docViolations, "x/x.go\npackage x\n// F does.\nfunc F() {}", ""},
		{docViolations, "x/x.go\npackage x\ntype t int\nfunc (t) String() string { return \"\" }", ""},
		{docViolations, "x/x.go\npackage x\n// T is.\ntype T[K any] struct{}\nfunc (*T[K]) M() {}", "x/x.go:4: M is exported"},
		{docViolations, "x/x.go\npackage x\n// The colours.\nconst (\nRed = 1\nBlue = 2)", ""},
		{docViolations, "x/x.go\npackage x\n// The types.\ntype (\nT int\n)", "x/x.go:4: T is exported"},
		{docViolations, "x/x.go\npackage x\n// I is.\ntype I interface{\nA()\n// B does.\nB()\n}", ""},
		{docViolations, "x/x.go\npackage x\ntype I interface{\nA()\n}", "x/x.go:2: I is exported"},
		{docViolations, "x/x.go\npackage x\n// I does A.\ntype I interface{ A() }", ""},
		{docViolations, "x/x.go\npackage main\nfunc F() {}", ""},
		{docViolations, "internal/x/x.go\npackage x\nfunc F() {}", ""},
	} {
		check(t, c.files, c.rule(written(t, c.files)), c.want)
	}
}

func TestForeignWordsAreFound(t *testing.T) {
	for text, want := range map[string]string{
		"see /wo" + "rk/brief":               "x:1: \"/wo",
		"path=/ro" + "ot/go/bin":             "x:1",
		"a\nhttps://registry.npm" + "js.org": "x:2",
		"user/work/done":                     "",
		"https://x.example/root/file":        "",
		"GET /work":                          "",
	} {
		check(t, text, foreignWords("x", []byte(text)), want)
	}
}
