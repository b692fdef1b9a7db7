package httpapi

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/proxy"
)

// The files in testdata are what goes over the wire, request by request: they
// pin the API. Lines of a request begin with "> ", lines of the answer with
// "< "; "# " begins a comment, a line of dashes ends an exchange. With
// PROA_UPDATE=1 the answers are written instead of compared.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { replay(t, file, newWorld(t)) })
	}
}

// Whatever is written, in whatever way, an encrypted store answers as any other.
func TestAnEncryptedStoreAnswersAsAnyOther(t *testing.T) {
	w := newWorld(t)
	w.encrypt(t, "statestore")
	replay(t, "testdata/state.txt", w)
	keys, err := w.rawState["statestore"].(state.Lister).List(t.Context(), "", "", 100)
	if err != nil || len(keys) == 0 {
		t.Fatalf("%d items are left, %v", len(keys), err)
	}
	for _, k := range keys {
		item, _, err := w.rawState["statestore"].Get(t.Context(), k, state.GetOptions{})
		if err != nil || !bytes.HasSuffix(item.Value, []byte("||mysecret")) {
			t.Errorf("%s is stored as %q, %v", k, item.Value, err)
		}
	}
}

// apiFor returns the API that a transcript is about, named by its first line.
func apiFor(t *testing.T, options string, w *world) proxy.Handler {
	t.Helper()
	o := Options{
		AppID: "shop", Blocks: w, Invoker: echoInvoker{},
		ConfigurationApp: fakeApp{make(chan config.Update, 10)},
	}
	for option := range strings.FieldsSeq(options) {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "token":
			o.Token = dapr.NewToken(value)
		case "origins":
			o.AllowedOrigins = value
		case "maxbody":
			fmt.Sscan(value, &o.MaxBody)
		case "deny":
			o.Allows = func(group, version string) bool { return group+"."+version != value }
		case "allow":
			o.Allows = func(group, version string) bool { return group+"."+version == value }
		case "noapp":
			o.ConfigurationApp = nil
		case "nothing":
			o.Invoker, o.ConfigurationApp = nil, nil
			o.Blocks = &world{notReady: map[bool][]string{false: {"app", "component statestore"}, true: {"component statestore"}}}
		case "public":
			return New(o).HandlePublic
		default:
			t.Fatalf("option %q is not known", option)
		}
	}
	return New(o).Handle
}

func replay(t *testing.T, file string, w *world) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	_, options, _ := strings.Cut(first, "options:")
	address := listen(t, &http1.Server{Handler: apiFor(t, options, w)})
	var out strings.Builder
	request, varies := "", varying{}
	exchange := func() {
		if request != "" {
			answer := roundTrip(t, address, varies.named(request))
			varies.keep(answer)
			out.WriteString(quoteLines("< ", varies.mask(answer)))
			request = ""
		}
	}
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "> "), line == ">\n":
			request += strings.TrimPrefix(line[1:], " ")
		case strings.HasPrefix(line, "<"):
			continue
		default:
			exchange()
		}
		out.WriteString(line)
	}
	exchange()
	if os.Getenv("PROA_UPDATE") == "1" {
		if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if out.String() != string(text) {
		t.Errorf("the transcript differs (PROA_UPDATE=1 writes it anew):\n%s", firstDifference(string(text), out.String()))
	}
}

// firstDifference shows where two texts part.
func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s", i+1, w[i], g[i])
		}
	}
	return fmt.Sprintf("want %d lines, got %d", len(w), len(g))
}

func quoteLines(prefix, text string) string {
	var out strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		out.WriteString(strings.TrimRight(prefix+line, " ") + "\n")
	}
	return out.String()
}

// listen serves until the test ends.
func listen(t testing.TB, s *http1.Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return ln.Addr().String()
}

// roundTrip sends a request as it is written, with what HTTP asks for added,
// and returns the answer, with what differs from run to run masked.
func roundTrip(t *testing.T, address, request string) string {
	t.Helper()
	head, body, _ := strings.Cut(request, "\n\n")
	body = strings.TrimSuffix(body, "\n")
	lines := strings.Split(strings.TrimSuffix(head, "\n"), "\n")
	raw := lines[0] + " HTTP/1.1\r\nHost: localhost:3500\r\nConnection: close\r\n"
	for _, line := range lines[1:] {
		raw += line + "\r\n"
	}
	if body != "" && !strings.Contains(strings.ToLower(head), "content-length:") {
		raw += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, raw+"\r\n"+body); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", lines[0], err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", lines[0], err)
	}
	return describe(resp, content)
}

func describe(resp *http.Response, content []byte) string {
	var out strings.Builder
	fmt.Fprint(&out, resp.Status)
	var fields []string
	for name, values := range resp.Header {
		for _, v := range values {
			if name != "Date" && name != "Content-Length" && name != "Connection" {
				fields = append(fields, name+": "+v)
			}
		}
	}
	slices.Sort(fields)
	for _, f := range fields {
		fmt.Fprintf(&out, "\n%s", f)
	}
	if resp.Header.Get("Content-Type") != "application/octet-stream" { // of which every byte counts
		content = bytes.TrimRight(content, "\n")
	}
	if len(content) > 0 {
		fmt.Fprintf(&out, "\n\n%s", content)
	}
	return out.String()
}

// varying holds what differs from run to run, by what stands for it, so that a
// later request can use it: "<id>" of a subscription and what was "<sealed>".
type varying map[string]string

func (v varying) keep(answer string) {
	for name, pattern := range map[string]string{"<id>": `"id":"([A-Z2-7]{26})"`, "<sealed>": `(?s)(dapr\.io/enc/v1\n.*)`} {
		if found := regexp.MustCompile(pattern).FindStringSubmatch(answer); found != nil {
			v[name] = found[1]
		}
	}
}

func (v varying) named(request string) string {
	for name, value := range v {
		request = strings.ReplaceAll(request, name, value)
	}
	return request
}

// mask hides times and what else differs.
func (v varying) mask(text string) string {
	for name, value := range v {
		text = strings.ReplaceAll(text, value, name)
	}
	return regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`).ReplaceAllString(text, "<time>")
}
