package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/internal/surface"
)

const (
	compatPage = "docs/reference/dapr-compatibility.md"
	recordsDir = "test/interop/testdata/calls"
	grpcDir    = "dialect/dapr/grpcapi/testdata"
	httpDir    = "dialect/dapr/httpapi/testdata"
	appDir     = "dialect/dapr/appchannel/testdata"
	daprPrefix = "dapr.proto.runtime.v1.Dapr/"
	// absent begins the text with which this version refuses what it does not
	// have.
	absent = "this API is currently not implemented"
)

// evidence is what tests show of one part of the API.
type evidence struct {
	works, absent bool
	errors        []string // codes and reasons, in the order in which they were met
	transcripts   []string // paths
	suites        []string // of the SDKs
}

// note adds an entry to a list once.
func note(list []string, entry string) []string {
	if slices.Contains(list, entry) {
		return list
	}
	return append(list, entry)
}

// known is the evidence by the name of the part: "package.Service/Method",
// "GET /v1.0/metadata", "callback POST {route}: event".
type known map[string]*evidence

func (k known) of(name string) *evidence {
	if k[name] == nil {
		k[name] = &evidence{}
	}
	return k[name]
}

// compatibility returns the page that says of every part of the Dapr API
// whether it is there, and what shows it.
func compatibility() ([]byte, error) {
	k := known{}
	for dir, read := range map[string]func(known, string, string){grpcDir: readRPC, httpDir: readHTTP, appDir: readCallbacks} {
		if err := k.transcripts(dir, read); err != nil {
			return nil, err
		}
	}
	if err := k.records(); err != nil {
		return nil, err
	}
	for _, e := range k {
		slices.Sort(e.transcripts)
		slices.Sort(e.errors)
	}
	var b strings.Builder
	b.WriteString(preamble)
	for _, part := range sections() {
		if err := k.section(&b, part); err != nil {
			return nil, err
		}
	}
	return []byte(b.String()), nil
}

// transcripts reads the exchanges of a folder.
func (k known) transcripts(dir string, read func(k known, path, exchange string)) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("%s: no transcripts (%w)", dir, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for exchange := range strings.SplitSeq(string(text), "\n-----") {
			read(k, filepath.ToSlash(file), exchange)
		}
	}
	return nil
}

// first returns the first group of the first match of a pattern.
func first(pattern, text string) string {
	if found := regexp.MustCompile(pattern).FindStringSubmatch(text); found != nil {
		return found[1]
	}
	return ""
}

// readRPC reads one call over gRPC.
func readRPC(k known, path, exchange string) {
	name := first(`(?m)^> (\S+)$`, exchange)
	if name == "" {
		return
	}
	if strings.HasPrefix(name, "/") {
		name = surface.FindRPC(name)
	} else {
		name = daprPrefix + name
	}
	e := k.of("rpc " + name)
	e.transcripts = note(e.transcripts, path)
	code := first(`(?m)^< ([A-Z][A-Za-z]+)(?: [^{]|$)`, exchange)
	switch {
	case code == "OK":
		e.works = true
	case strings.Contains(exchange, absent):
		e.absent = true
	case code != "":
		reason := first(`(?m)^< ErrorInfo \{"reason":"([A-Z_]+)"`, exchange)
		e.errors = note(e.errors, strings.TrimSpace(code+" "+reason))
	}
}

// readHTTP reads one request.
func readHTTP(k known, path, exchange string) {
	found := regexp.MustCompile(`(?m)^> ([A-Z]+) (\S+)$`).FindStringSubmatch(exchange)
	code := first(`(?m)^< (\d\d\d) `, exchange)
	if found == nil || code == "" {
		return
	}
	e := k.of("route " + surface.Find(found[1], found[2]))
	e.transcripts = note(e.transcripts, path)
	switch {
	case code[0] == '2':
		e.works = true
	case strings.Contains(exchange, absent):
		e.absent = true
	default:
		e.errors = note(e.errors, strings.TrimSpace(code+" "+first(`"errorCode":"([A-Z_]+)"`, exchange)))
	}
}

// readCallbacks reads what an application was sent for one reason.
func readCallbacks(k known, path, exchange string) {
	for request := range strings.SplitSeq(exchange, "\n> --") {
		name := ""
		if rpc := first(`(?m)^> (dapr\.\S+)$`, request); rpc != "" {
			name = "callback rpc " + rpc
		} else if found := regexp.MustCompile(`(?m)^> ([A-Z]+) (\S+)$`).FindStringSubmatch(request); found != nil {
			name = "callback " + surface.FindCallback(found[1], found[2], func(field string) string {
				return first(`(?mi)^> `+regexp.QuoteMeta(field)+`: (.*)$`, request)
			})
		} else {
			continue
		}
		e := k.of(name)
		e.works = true
		e.transcripts = note(e.transcripts, path)
	}
}

// records reads what the applications of the SDKs use.
func (k known) records() error {
	files, err := filepath.Glob(filepath.Join(recordsDir, "*.txt"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("%s: no records (%w)", recordsDir, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			e := k.of(strings.TrimSpace(line))
			e.suites = append(e.suites, strings.TrimSuffix(filepath.Base(file), ".txt"))
		}
	}
	return nil
}

// part is a section of the page.
type part struct {
	title, about string
	prefix       string // of the names, in known
	names        []string
}

// isLater reports whether a part belongs to actors or workflows.
func isLater(name string) bool {
	for _, word := range []string{"Actor", "Workflow", surface.WorkerService, "/actors/", "/workflows/"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

func sections() []part {
	rpcs := methods(rtv1.File_dapr_proto_runtime_v1_dapr_proto)
	var workers, callbacks, routes []string
	for _, name := range surface.WorkerMethods() {
		workers = append(workers, surface.WorkerService+"/"+name)
	}
	for _, c := range surface.Callbacks() {
		callbacks = append(callbacks, c.Name)
	}
	for _, r := range surface.Routes() {
		routes = append(routes, r.Names()...)
	}
	return []part{
		{"gRPC", fmt.Sprintf("Service `dapr.proto.runtime.v1.Dapr`, all %d methods, and those of services of applications, which are passed on.", len(rpcs)),
			"rpc ", append(rpcs, surface.ForeignRPC)},
		{"gRPC, for workers of workflows", "Service `TaskHubSidecarService`.", "rpc ", workers},
		{"HTTP", "`{...}` stands for a part of the path, `{name...}` for any number of them. What no route is for is an invocation.", "route ", routes},
		{"Calls to the application, over HTTP", "", "callback ", callbacks},
		{"Calls to the application, over gRPC", "", "callback rpc ", methods(rtv1.File_dapr_proto_runtime_v1_appcallback_proto)},
	}
}

// methods lists the methods of the services in a file.
func methods(file protoreflect.FileDescriptor) []string {
	var names []string
	for i := range file.Services().Len() {
		s := file.Services().Get(i)
		for j := range s.Methods().Len() {
			names = append(names, string(s.FullName())+"/"+string(s.Methods().Get(j).Name()))
		}
	}
	return names
}

// section writes the table of a part. Something that nothing shows, or that is
// not what this version is expected to do with it, is an error.
func (k known) section(b *strings.Builder, p part) error {
	var rows strings.Builder
	works, later := 0, 0
	for _, name := range p.names {
		e := k.of(p.prefix + name)
		state := "works"
		switch {
		case e.works || e.suites != nil && !e.absent:
			works++
		case isLater(name):
			later++
			state = "comes later"
			if e.absent {
				state += ": refused as not implemented"
			}
		default:
			return fmt.Errorf("no test shows %s%s at work", p.prefix, name)
		}
		fmt.Fprintf(&rows, "| `%s` | %s | %s | %s | %s |\n", strings.TrimPrefix(name, daprPrefix), state,
			strings.Join(e.errors, ", "), links(e.transcripts), strings.Join(e.suites, ", "))
	}
	fmt.Fprintf(b, "\n## %s\n\n%s", p.title, p.about)
	if p.about != "" {
		b.WriteString(" ")
	}
	fmt.Fprintf(b, "%d work", works)
	if later > 0 {
		fmt.Fprintf(b, ", %d come later", later)
	}
	fmt.Fprintf(b, ".\n\n| what | state | errors shown | transcripts | SDK suites |\n|---|---|---|---|---|\n%s", rows.String())
	return nil
}

// links returns links to transcripts, from the folder of the page.
func links(files []string) string {
	out := make([]string, len(files))
	for i, f := range files {
		out[i] = fmt.Sprintf("[%s](../../%s)", strings.TrimSuffix(filepath.Base(f), ".txt"), f)
	}
	return strings.Join(out, ", ")
}

// preamble begins the page.
const preamble = `# Compatibility with Dapr v1

Generated by ` + "`make gen`" + ` from what the tests hold: the descriptors of the protos
and the list of documented routes and callbacks; the transcripts, which pin
what goes over the wire, answer by answer; and the records of which parts of the
API the suites of the real SDKs use, which are compared with what goes over the
wire while they run (test/interop). A part that no test shows is not on this page:
generating it fails.

"Errors shown" are the statuses and codes that transcripts pin, with the reason
of the ErrorInfo or the errorCode. A suite is named after its language and the
protocol over which its application is called; which one it calls the sidecar
with is the SDK's choice.

Where answers differ from those of Dapr, they do so on purpose:

- A failure that passes by itself is told apart from one that does not:
  ` + "`Unavailable`" + ` (503), ` + "`ResourceExhausted`" + ` (429, with how long to wait) and
  ` + "`DeadlineExceeded`" + ` (504), and so is a request that can never succeed,
  ` + "`InvalidArgument`" + ` (400), where Dapr has ` + "`Internal`" + ` (500). The errorCode, the
  reason and the beginning of the text are the same.
- What is missing is named, and what was probably meant: "did you mean".
- The methods and routes for single cryptographic operations (subtle crypto) are
  there; Dapr leaves them out of what it releases.
- An event that no handler of the application takes, by ` + "`404`" + ` or
  ` + "`Unimplemented`" + `, is dropped and dead-lettered over both protocols.
`
