package proa_test

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
)

// module is the import path of the repository's root.
const module = "github.com/proa-io/proa"

// A layer is one row of the layer table: a folder, what the packages in it and
// below may import of ours, and why. The longest matching row counts. A package
// may always import its own folder's packages.
type layer struct {
	folder string
	// apart: the folders below do not know each other.
	apart bool
	// may lists folders; each stands for all below it. Packages made for tests
	// are never meant: see testSupport.
	may []string
	why string
}

// layers is the architecture: dialect over block over driver, and what they
// share. Nothing imports upward or sideways.
var layers = []layer{
	{folder: "fault",
		why: "the error vocabulary is shared by all and stands on nothing"},
	{folder: "telemetry", may: []string{"fault"},
		why: "telemetry is below what it measures"},
	{folder: "component", may: []string{"fault"},
		why: "a component's description knows neither blocks nor drivers"},
	{folder: "policy", may: []string{"fault", "component", "telemetry", "internal/coroutine"},
		why: "a policy sees calls, never what they carry or who serves them; one that waits tells who runs it"},
	{folder: "block", apart: true, may: []string{"fault", "component", "policy"},
		why: "a block knows its driver interface, not drivers, dialects or other blocks"},
	{folder: "block/ratelimit", may: []string{"fault", "component", "policy", "telemetry", "internal/coroutine"},
		why: "a limit is a policy with a store: it counts what it refuses, and tells who runs it when it waits"},
	{folder: "block/invoke", may: []string{"fault", "component", "policy", "telemetry", "mesh/balance", "mesh/discovery", "mesh/proxy", "mesh/rpc", "mesh/tcp"},
		why: "invocation decides who is called and how; connections are the mesh's, behind mesh/proxy, and joined by mesh/tcp; mesh/rpc reads what gRPC says of time"},
	{folder: "block/middleware", may: []string{"fault", "component", "mesh/proxy"},
		why: "middleware sees requests, which are the mesh's, behind mesh/proxy"},
	{folder: "driver/middleware", may: []string{"fault", "component", "block", "mesh/proxy"},
		why: "middleware sees requests, which are the mesh's, behind mesh/proxy"},
	{folder: "driver", apart: true, may: []string{"fault", "component", "block", "engine", "internal", "driver/internal", "mesh/discovery"},
		why: "a driver does I/O for blocks, and finds applications for the mesh; policies, dialects and other drivers are not its business"},
	{folder: "driver/internal", apart: true, may: []string{"fault", "block", "internal"},
		why: "what drivers of one kind of technology have in common is no driver itself"},
	{folder: "driver/pluggable", may: []string{"api", "fault", "component", "block", "internal"},
		why: "a pluggable component is reached through a part of the API, which is its driver's technology"},
	{folder: "driver/all", may: []string{"component", "driver", "engine", "mesh/discovery"},
		why: "driver/all is the list of drivers and nothing else"},
	{folder: "engine", may: []string{"fault", "component", "internal"},
		why: "the engine is infrastructure: blocks reach it through drivers"},
	{folder: "mesh", may: []string{"fault", "component", "policy", "engine", "internal", "resource"},
		why: "the mesh stands beside the waist, not on it"},
	{folder: "dialect/turn", may: []string{"fault", "block", "api"},
		why: "two dialects speak to language models with the same messages"},
	{folder: "dialect", apart: true, may: []string{"fault", "component", "policy", "telemetry", "block", "mesh/proxy", "mesh/rpc", "api", "internal", "dialect/turn"},
		why: "a dialect translates for blocks; it knows no driver and no other dialect"},
	{folder: "resource", may: []string{"fault", "component"},
		why: "resources are data: what they configure is the runtime's business"},
	{folder: "runtime", may: []string{"api", "block", "component", "dialect", "driver", "engine", "fault", "internal", "mesh",
		"policy", "resource", "telemetry"},
		why: "the composition root knows everything but the commands"},
	{folder: "docs",
		why: "the reference is text; the program shows it"},
	{folder: "cmd", may: []string{"api", "component", "docs", "driver/all", "engine", "fault", "internal", "mesh/identity", "mesh/route", "resource", "runtime", "telemetry"},
		why: "commands turn flags into a runtime and let it work"},
	{folder: "api",
		why: "the API is a specification and depends on nothing behind it"},
	{folder: "internal", apart: true, may: []string{"fault"},
		why: "wire codecs and the like know bytes, not the program"},
	{folder: "internal/gendoc", may: []string{"api", "component", "driver/all", "fault", "internal/surface", "telemetry"},
		why: "the reference is generated from the catalog of components, the list of metrics, and the API with what tests show of it"},
	{folder: "internal/testserver", may: []string{"internal/fastloop", "internal/freeport"},
		why: "test servers know nothing of what is tested on them"},
	{folder: "internal/faultnet", may: []string{"internal/freeport"},
		why: "the bad network knows nothing of what is tested on it"},
	{folder: "test", may: []string{"api", "block", "cmd", "component", "dialect", "driver", "engine", "fault", "internal", "mesh",
		"policy", "resource", "runtime", "telemetry"},
		why: "tests may look at everything"},
	{folder: "examples", apart: true,
		why: "an example is an application as users write it: it knows the API, not the program"},
}

// testSupport are folders made for tests, as are the conformance suites (see
// isTestSupport): only tests and each other import them.
var testSupport = []string{
	"internal/fastloop",
	"internal/faultnet",
	"internal/freeport",
	"internal/leak",
	"internal/testserver",
	"test",
}

// A fence is one row of the table of heavy dependencies: who may import them,
// and why nobody else. Tests and packages made for tests may import anything.
type fence struct {
	// imports is an import path; with a trailing "/...", also all below it.
	imports string
	only    []string
	why     string
}

var fences = []fence{
	{"github.com/redis/rueidis/...", []string{"driver/redis"},
		"one technology, one package"},
	{"github.com/bradfitz/gomemcache/...", []string{"driver/memcached"},
		"one technology, one package"},
	{"github.com/andybalholm/...", []string{"mesh/route"},
		"answers are compressed by routes"},
	{"github.com/klauspost/...", []string{"mesh/route"},
		"answers are compressed by routes"},
	{"github.com/eclipse/...", []string{"driver/mqtt"},
		"one technology, one package"},
	{"github.com/nats-io/...", []string{"engine", "driver/nats"},
		"one technology: the engine embeds it, driver/nats speaks to it"},
	{"go.etcd.io/...", []string{"driver/etcd"},
		"one technology, one package"},
	{"go.uber.org/zap/...", []string{"driver/etcd"},
		"a *slog.Logger is passed in; only the client of etcd wants another, to be told to keep silent"},
	{"github.com/go-sql-driver/mysql/...", []string{"driver/mysql"},
		"one technology, one package"},
	{"github.com/jackc/pgx/...", []string{"driver/postgres"},
		"one technology, one package"},
	{"github.com/aws/...", []string{"driver/aws"},
		"one technology, one package"},
	{"go.mongodb.org/...", []string{"driver/mongodb"},
		"one technology, one package"},
	{"github.com/twmb/franz-go/...", []string{"driver/kafka"},
		"one technology, one package"},
	{"github.com/minio/...", []string{"driver/s3"},
		"one technology, one package"},
	{"github.com/rabbitmq/...", []string{"driver/rabbitmq"},
		"one technology, one package"},
	{"github.com/spiffe/...", []string{"mesh/identity"},
		"one technology, one package"},
	{"google.golang.org/grpc/...", []string{"api", "cmd", "dialect", "driver/etcd", "driver/pluggable", "mesh", "runtime", "telemetry"},
		"blocks, policies and drivers do not know how they are called; etcd and pluggable components are reached by gRPC"},
	{"google.golang.org/protobuf/...", []string{"api", "cmd", "dialect", "driver/pluggable", "internal/gendoc", "mesh", "runtime"},
		"messages of the API end at the dialect, and at the components that plug in; the reference is made from their descriptors"},
	{"go.opentelemetry.io/...", []string{"policy", "telemetry"},
		"spans are begun by telemetry and described by policies"},
	{"go.opentelemetry.io/contrib/...", []string{"telemetry"},
		"there is one place that knows how metrics and log lines leave the process"},
	{"go.opentelemetry.io/proto/...", nil,
		"messages of OTLP are the exporters' business; tests have a collector"},
	{"go.opentelemetry.io/otel/sdk/...", []string{"telemetry"},
		"there is one place that knows how spans and metrics leave the process"},
	{"go.opentelemetry.io/otel/exporters/...", []string{"telemetry"},
		"there is one place that knows how spans and metrics leave the process"},
	{"github.com/prometheus/...", []string{"telemetry"},
		"there is one place that knows how spans and metrics leave the process"},
	{"cel.dev/cel-go/...", []string{"block/pubsub", "mesh", "policy"},
		"expressions are for routing and access rules"},
	{"github.com/fsnotify/fsnotify", []string{"resource"},
		"files are watched where they are read"},
	{"go.yaml.in/yaml/...", []string{"cmd", "driver/kubernetes", "driver/middleware", "resource"},
		"configuration is read in one place, which knows lines and columns; a kubeconfig is another's"},
	{"github.com/spf13/...", []string{"cmd"},
		"only commands have flags"},
	{"github.com/hashicorp/mdns", []string{"mesh"},
		"names are resolved by the mesh"},
	{"github.com/miekg/dns", []string{"mesh"},
		"names are resolved by the mesh"},
	{"github.com/coreos/go-oidc/...", []string{"driver/middleware"},
		"tokens are read by the middleware that demands them"},
	{"golang.org/x/oauth2/...", []string{"driver"},
		"tokens are asked for by drivers"},
	{"golang.org/x/time/...", []string{"driver/middleware", "policy"},
		"rates are limited by middleware and policies"},
	{"github.com/lestrrat-go/jwx/...", []string{"block/crypto", "driver"},
		"keys are read by the block that uses them, and tokens by drivers"},
	{"golang.org/x/crypto/...", []string{"block", "driver", "mesh"},
		"what the standard library has not"},
	{"github.com/robfig/cron/...", []string{"block/job", "driver/cron", "engine"},
		"schedules are for jobs and the cron binding"},
	{"github.com/coder/websocket/...", nil,
		"WebSocket passes through as bytes; only tests speak it"},
	{"golang.org/x/net/http2/...", []string{"mesh"},
		"connections have one engine, behind mesh/proxy"},
	{"github.com/tetratelabs/wazero/...", []string{"driver/middleware/wasm"},
		"WebAssembly runs where it is a driver"},
	{"modernc.org/sqlite", []string{"driver/sqlite"},
		"one technology, one package"},
	{"net/http", []string{"cmd", "dialect", "driver", "examples", "mesh", "runtime", "telemetry"},
		"the waist does not know HTTP"},
	{"net/http/httputil", nil,
		"its ReverseProxy costs two to three times what mesh/proxy does"},
	{"log", []string{"mesh/discovery"}, // what hashicorp/mdns wants, to be told to keep silent
		"a *slog.Logger is passed in"},
	{"testing/...", nil,
		"only tests and packages made for tests know that they are tests"},
}

func TestImportsFollowTheLayerTable(t *testing.T) {
	fail(t, importViolations(sources(t)))
}

func TestHeavyDependenciesStayBehindTheirFences(t *testing.T) {
	fail(t, fenceViolations(sources(t)))
}

func TestEveryRowOfTheTablesHasAReason(t *testing.T) {
	for _, l := range layers {
		if l.why == "" {
			t.Errorf("layer %s has no reason", l.folder)
		}
		for _, m := range append(l.may, l.folder) {
			if rowOf(m) == nil {
				t.Errorf("layer %s may import %s, which is in no layer", l.folder, m)
			}
		}
	}
	for _, f := range fences {
		if f.why == "" {
			t.Errorf("the fence around %s has no reason", f.imports)
		}
		for _, o := range f.only {
			if rowOf(o) == nil {
				t.Errorf("%s is for %s, which is in no layer", f.imports, o)
			}
		}
	}
}

// importViolations checks the imports of our own packages.
func importViolations(files []source) []string {
	var bad []string
	for _, f := range files {
		if f.test || f.dir == "." {
			continue
		}
		row := rowOf(f.dir)
		if row == nil {
			bad = append(bad, fmt.Sprintf("%s:1: the folder %s is in no layer; give it a row in arch_test.go", f.path, f.dir))
			continue
		}
		for _, imp := range f.imports() {
			to, ours := strings.CutPrefix(imp.path, module+"/")
			if !ours {
				continue
			}
			if why := forbidden(f.dir, to, row); why != "" {
				bad = append(bad, fmt.Sprintf("%s:%d: %s may not import %s: %s", f.path, imp.line, f.dir, to, why))
			}
		}
	}
	return bad
}

// forbidden says why a package in the folder from, which row speaks for, may
// not import the one in the folder to; "" when it may.
func forbidden(from, to string, row *layer) string {
	switch {
	case isTestSupport(to) && !isTestSupport(from):
		return "it is made for tests"
	case isTestSupport(to) || family(from) == family(to):
		return ""
	case slices.ContainsFunc(row.may, func(folder string) bool { return within(to, folder) }):
		return ""
	}
	return row.why
}

// fenceViolations checks the imports of others' packages.
func fenceViolations(files []source) []string {
	var bad []string
	for _, f := range files {
		if f.test || isTestSupport(f.dir) {
			continue
		}
		for _, imp := range f.imports() {
			for _, fence := range fences {
				folder, tree := strings.CutSuffix(fence.imports, "/...")
				fenced := imp.path == folder || tree && within(imp.path, folder)
				if !fenced || slices.ContainsFunc(fence.only, func(o string) bool { return within(f.dir, o) }) {
					continue
				}
				who := "only tests import it"
				if len(fence.only) > 0 {
					who = "it is for " + strings.Join(fence.only, ", ")
				}
				bad = append(bad, fmt.Sprintf("%s:%d: %s may not import %s: %s (%s)", f.path, imp.line, f.dir, imp.path, fence.why, who))
			}
		}
	}
	return bad
}

// rowOf returns the row that speaks for a folder, or nil.
func rowOf(folder string) *layer {
	var best *layer
	for i, l := range layers {
		if within(folder, l.folder) && (best == nil || len(l.folder) > len(best.folder)) {
			best = &layers[i]
		}
	}
	return best
}

// family returns the folder within which packages may import each other.
func family(folder string) string {
	row := rowOf(folder)
	if row == nil {
		return folder
	}
	if !row.apart {
		return row.folder
	}
	rest := strings.TrimPrefix(strings.TrimPrefix(folder, row.folder), "/")
	first, _, _ := strings.Cut(rest, "/")
	return path.Join(row.folder, first)
}

// isTestSupport reports whether a folder holds packages made for tests. A
// conformance suite is named after what it tests: block/state/statetest.
func isTestSupport(folder string) bool {
	parent, name := path.Split(folder)
	if parent != "" && name == path.Base(parent)+"test" {
		return true
	}
	return slices.ContainsFunc(testSupport, func(s string) bool { return within(folder, s) })
}

// within reports whether folder is above or is path.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

// fail reports violations in the order of files and lines.
func fail(t *testing.T, violations []string) {
	t.Helper()
	slices.SortStableFunc(violations, cmp.Compare[string])
	for _, v := range violations {
		t.Error(v)
	}
}
