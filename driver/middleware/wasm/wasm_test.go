package wasm_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/middleware/middlewaretest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/middleware/wasm"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/mesh/proxy"
)

// module is the path of the guest, which is built of testdata.
var module = testserver.Share(func(tb testserver.TB) string {
	fastloop.Skip(tb, "builds a program")
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "guest.wasm")
	build := exec.Command("go", "build", "-buildmode=c-shared", "-o", path, "main.go")
	build.Dir, build.Env = filepath.Join("testdata", "guest"), append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", build, err, out)
	}
	return path
})

// driver opens all guests of the tests, and keeper holds one of them open.
var (
	driver = wasm.New()
	keeper = testserver.Share(func(tb testserver.TB) *wasm.Middleware {
		cfg := defaults()
		cfg.URL = "file://" + module.Get(tb)
		m, err := driver.Open(context.Background(), cfg, component.Env{})
		if err != nil {
			tb.Fatalf("%v", err)
		}
		tb.Cleanup(func() { _ = m.Close() })
		return m
	})
)

func TestMain(m *testing.M) { testserver.Main(m, keeper, module) }

func defaults() wasm.Config { return wasm.Specs()[0].Config.(wasm.Config) }

// logged is a log that a test can read.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// open opens the guest with a configuration that names features.
func open(t *testing.T, features string, change ...func(*wasm.Config, *component.Env)) (*wasm.Middleware, *logged) {
	t.Helper()
	cfg, log := defaults(), &logged{}
	cfg.URL, cfg.GuestConfig = "file://"+module.Get(t), features
	cfg.GuestTimeout = component.Duration(30 * time.Second) // the machine may be slow
	env := component.Env{Log: slog.New(slog.NewTextHandler(log, nil))}
	for _, c := range change {
		c(&cfg, &env)
	}
	keeper.Get(t) // so that it is compiled once
	m, err := driver.Open(t.Context(), cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return m, log
}

// through takes a request with content through the middleware. What comes out is
// answered by answer.
func through(t *testing.T, m *wasm.Middleware, target, content string, answer func(proxy.Exchange), fields ...string) *middlewaretest.Exchange {
	t.Helper()
	x := middlewaretest.New(t, "POST", target, fields...)
	x.RemoteAddr = netip.MustParseAddrPort("127.0.0.1:4711")
	x.Req.Authority = "example.com"
	if content != "" {
		x.Req.Body, x.Req.ContentLength = strings.NewReader(content), int64(len(content))
	}
	m.Handle(x, func(ex proxy.Exchange) {
		x.Passed = true
		answer(ex)
	})
	return x
}

func ok(ex proxy.Exchange) { _ = ex.Respond(200, nil, 0) }

func TestRequests(t *testing.T) {
	m, log := open(t, "some configuration")
	t.Run("AGuestSeesAndChangesTheHeader", func(t *testing.T) {
		x := through(t, m, "/headers?q=1", "", ok, "X-Many", "one", "X-Secret", "s")
		for name, want := range map[string]string{
			"X-Guest": "some configuration", "X-Values": "one+two", "X-Names": "x-many+x-secret+x-guest+x-values",
			"X-Secret": "", "X-Seen": "POST /headers?q=1 HTTP/1.1 127.0.0.1:4711",
		} {
			if got := x.Req.Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if x.Status != 200 || x.Header.Get("X-Answered") != "by the guest" {
			t.Errorf("answered %d %v %s; log:\n%s", x.Status, x.Header, x.Content, log)
		}
	})
	t.Run("AFieldOfTheAnswerIsNotOverwritten", func(t *testing.T) {
		x := through(t, m, "/headers", "", func(ex proxy.Exchange) {
			_ = ex.Respond(201, proxy.Header{{Name: "x-answered", Value: "by the application"}}, 0)
		})
		if got := x.Header.Values("X-Answered"); x.Status != 201 || len(got) != 1 || got[0] != "by the application" {
			t.Errorf("answered %d %v %s; log:\n%s", x.Status, x.Header, x.Content, log)
		}
	})
	t.Run("AGuestRewrites", func(t *testing.T) {
		x := through(t, m, "/rewrite", "content", func(ex proxy.Exchange) {
			b, _ := io.ReadAll(ex.Request().Body)
			_ = ex.Respond(200, nil, int64(len(b)))
			_, _ = ex.Write(b)
		})
		if x.Req.Method != "PUT" || x.Req.Target != "/rewritten?by=guest" || string(x.Content) != "content" {
			t.Errorf("it went on as %s %s %q", x.Req.Method, x.Req.Target, x.Content)
		}
	})
	t.Run("AGuestAnswers", func(t *testing.T) {
		x := through(t, m, "/deny", "", ok)
		if x.Passed || x.Status != 403 || string(x.Content) != "denied by the guest" || x.Header.Get("Content-Type") != "text/plain" {
			t.Errorf("passed %v, answered %d %v %q", x.Passed, x.Status, x.Header, x.Content)
		}
	})
	t.Run("AGuestReplacesTheContent", func(t *testing.T) {
		x := through(t, m, "/replace", "content", func(ex proxy.Exchange) {
			b, _ := io.ReadAll(ex.Request().Body)
			if ex.Request().ContentLength != int64(len(b)) {
				t.Errorf("a length of %d for %q", ex.Request().ContentLength, b)
			}
			_ = ex.Respond(200, nil, int64(len(b)))
			_, _ = ex.Write(b)
		})
		if string(x.Content) != "another body" {
			t.Errorf("it went on with %q", x.Content)
		}
	})
	t.Run("WhatAGuestReadsIsGone", func(t *testing.T) {
		x := through(t, m, "/read", "content", func(ex proxy.Exchange) {
			b, err := io.ReadAll(ex.Request().Body)
			if len(b) > 0 || err != nil || ex.Request().ContentLength != proxy.UnknownLength {
				t.Errorf("it went on with %q, %v, a length of %d", b, err, ex.Request().ContentLength)
			}
			ok(ex)
		})
		if got := x.Req.Header.Get("X-Body"); got != "CONTENT" {
			t.Errorf("the guest read %q", got)
		}
	})
	t.Run("WhatAGuestSaysIsLogged", func(t *testing.T) {
		through(t, m, "/log", "", ok)
		for _, want := range []string{`level=INFO msg="the guest says" text="at info"`, `level=WARN msg="the guest says" text="at warn"`,
			`level=ERROR msg="the guest says" text="at error"`, `msg="the guest printed" text=printed`} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %s:\n%s", want, log)
			}
		}
	})
}

// A guest that does wrong is ended, and the next request finds another one.
func TestAGuestThatFailsHarmsOnlyItsRequest(t *testing.T) {
	m, log := open(t, "", func(c *wasm.Config, _ *component.Env) { c.MaxGuests = 1 })
	for target, want := range map[string]string{
		"/trap": "its guest was ended", "/exit": "its guest was ended", "/eat": "its guest was ended",
		"/bad": "its guest was ended", "/crlf": "its guest was ended",
	} {
		x := through(t, m, target, "", ok)
		if x.Passed || x.Status != 500 || !strings.Contains(string(x.Content), want) {
			t.Errorf("%s: passed %v, answered %d %q", target, x.Passed, x.Status, x.Content)
		}
		if x := through(t, m, "/headers", "", ok); x.Status != 200 {
			t.Errorf("after %s: answered %d %q", target, x.Status, x.Content)
		}
	}
	if !strings.Contains(log.String(), "are not in the memory") || !strings.Contains(log.String(), "exit_code(3)") {
		t.Errorf("the log does not say what went wrong:\n%s", log)
	}
}

func TestAGuestThatLoopsIsEnded(t *testing.T) {
	m, _ := open(t, "", func(c *wasm.Config, _ *component.Env) {
		c.MaxGuests, c.GuestTimeout = 1, component.Duration(2*time.Second)
	})
	if x := through(t, m, "/loop", "", ok); x.Status != 500 || !strings.Contains(string(x.Content), "the guest took too long") {
		t.Errorf("answered %d %q", x.Status, x.Content)
	}
	ctx, cancel := context.WithCancel(t.Context())
	x := middlewaretest.New(t, "GET", "/loop")
	x.Ctx = ctx
	time.AfterFunc(100*time.Millisecond, cancel)
	m.Handle(x, ok)
	if x.Passed || !x.Aborted {
		t.Errorf("a client that has gone: passed %v, aborted %v", x.Passed, x.Aborted)
	}
}

func TestClosingEndsAGuestAtWork(t *testing.T) {
	m, log := open(t, "")
	done := make(chan *middlewaretest.Exchange)
	go func() { done <- through(t, m, "/loop", "", ok) }() // it may or may not have begun
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if x := <-done; x.Status != 500 {
		t.Errorf("answered %d; log:\n%s", x.Status, log)
	}
	if x := through(t, m, "/headers", "", ok); x.Status != 500 || !strings.Contains(string(x.Content), "is closed") {
		t.Errorf("after Close: answered %d %q", x.Status, x.Content)
	}
}

func TestABufferedRequestGoesOnWhole(t *testing.T) {
	m, _ := open(t, "buffer_request", func(c *wasm.Config, _ *component.Env) { c.MaxBody = 5000 })
	content := strings.Repeat("content ", 500)
	x := through(t, m, "/read", content, func(ex proxy.Exchange) {
		b, err := io.ReadAll(ex.Request().Body)
		if string(b) != content || err != nil || ex.Request().ContentLength != int64(len(content)) {
			t.Errorf("it went on with %d bytes, %v, a length of %d", len(b), err, ex.Request().ContentLength)
		}
		ok(ex)
	})
	if got := x.Req.Header.Get("X-Body"); got != strings.ToUpper(content) {
		t.Errorf("the guest read %d bytes", len(got))
	}
	if x := through(t, m, "/read", content+content, ok); x.Passed || x.Status != 500 {
		t.Errorf("with too large a content: passed %v, answered %d", x.Passed, x.Status)
	}
}

func TestABufferedAnswerCanBeChanged(t *testing.T) {
	m, _ := open(t, "buffer_response", func(c *wasm.Config, _ *component.Env) { c.MaxBody = 5000 })
	answer := func(ex proxy.Exchange) {
		_ = ex.Respond(201, proxy.Header{{Name: "X-Gone", Value: "1"}, {Name: "X-Kept", Value: "2"}}, proxy.UnknownLength)
		_, _ = ex.Write([]byte("an "))
		_ = ex.Flush()
		_, _ = ex.Write([]byte("answer"))
		_ = ex.Trailer(proxy.Header{{Name: "X-Trailed", Value: "3"}})
	}
	x := through(t, m, "/", "", answer)
	if x.Status != 202 || string(x.Content) != "AN ANSWER" || x.Header.Has("X-Gone") || x.Header.Get("X-Kept") != "2" ||
		x.Header.Get("X-After") != "yes" || x.Trailed.Get("X-Trailed") != "3" {
		t.Errorf("answered %d %v %q %v", x.Status, x.Header, x.Content, x.Trailed)
	}
	if x := through(t, m, "/trap-after", "", answer); x.Status != 500 || !strings.Contains(string(x.Content), "its guest was ended") {
		t.Errorf("a guest that trapped: answered %d %q", x.Status, x.Content)
	}
	if x := through(t, m, "/", "", func(ex proxy.Exchange) { proxy.Abort(ex, fault.New(fault.Unavailable, "gone")) }); !x.Aborted || x.Status != 0 {
		t.Errorf("an answer that broke: aborted %v, answered %d", x.Aborted, x.Status)
	}
	x = through(t, m, "/", "", func(ex proxy.Exchange) {
		_ = ex.Respond(200, nil, proxy.UnknownLength)
		if _, err := ex.Write(make([]byte, 5001)); !fault.Is(err, fault.ResourceExhausted) {
			t.Errorf("too much content: %v", err)
		}
	})
	if !x.Aborted || x.Status != 0 {
		t.Errorf("too large an answer: aborted %v, answered %d", x.Aborted, x.Status)
	}
}

func TestManyRequestsShareFewGuests(t *testing.T) {
	m, _ := open(t, "c", func(c *wasm.Config, _ *component.Env) { c.MaxGuests = 2 })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if x := through(t, m, "/headers", "", ok); x.Status != 200 || x.Req.Header.Get("X-Guest") != "c" {
					t.Errorf("answered %d %v", x.Status, x.Req.Header)
				}
			}
		})
	}
	wg.Wait()
}

func TestAStrictSandboxHidesTheClock(t *testing.T) {
	year := strconv.Itoa(time.Now().Year())
	for name, strict := range map[string]func(*wasm.Config, *component.Env){
		"by the component":     func(c *wasm.Config, _ *component.Env) { c.StrictSandbox = true },
		"by the Configuration": func(_ *wasm.Config, e *component.Env) { e.StrictSandbox = true },
		"":                     func(*wasm.Config, *component.Env) {},
	} {
		m, _ := open(t, "", strict)
		x := through(t, m, "/clock", "", ok)
		if got := x.Req.Header.Get("X-Year"); (got == year) != (name == "") {
			t.Errorf("strict %s: the guest says that it is %q", name, got)
		}
	}
}

func TestModulesAreFetched(t *testing.T) {
	code, err := os.ReadFile(module.Get(t))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/guest.wasm" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(code)
	}))
	defer server.Close()
	m, _ := open(t, "", func(c *wasm.Config, _ *component.Env) { c.URL = server.URL + "/guest.wasm" })
	if x := through(t, m, "/deny", "", ok); x.Status != 403 {
		t.Errorf("answered %d", x.Status)
	}
	nonsense := filepath.Join(t.TempDir(), "nonsense.wasm")
	if err := os.WriteFile(nonsense, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.wasm")
	if err := os.WriteFile(empty, []byte("\x00asm\x01\x00\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		server.URL + "/none":  "the server answered 404",
		"file:///nowhere":     "cannot be read",
		"file://" + nonsense:  "cannot be compiled",
		"file://" + empty:     "it has to export the function handle_request",
		"http://127.0.0.1:1/": "cannot be fetched",
	} {
		cfg := defaults()
		cfg.URL = url
		if _, err := driver.Open(t.Context(), cfg, component.Env{}); err == nil || !strings.Contains(err.Error(), want) || fault.Is(err, fault.Unknown) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
}

func TestSettingsThatCanNeverWorkAreRefused(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{"url", "oci://ghcr.io/guest", "images"}, {"url", "guest.wasm", "wants file://"}, {"url", "ftp://x/y", "not ftp://"},
		{"guestTimeout", "0s", "greater than 0"}, {"guestMemory", "1", "from 64Ki"}, {"maxGuests", "0", "greater than 0"},
	} {
		settings := component.Settings{{Name: "url", Value: "file://x"}, {Name: test.name, Value: test.value}}
		if test.name == "url" {
			settings = settings[1:]
		}
		if err := wasm.Specs()[0].Check(settings); err == nil {
			t.Errorf("%s: %s is taken", test.name, test.value)
		}
	}
}
