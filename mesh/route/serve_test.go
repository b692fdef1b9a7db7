package route

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// senderFunc is a Sender.
type senderFunc func(ex proxy.Exchange, to *Backend, target string) (proxy.Progress, error)

func (f senderFunc) Forward(ex proxy.Exchange, to *Backend, target string) (proxy.Progress, error) {
	return f(ex, to, target)
}

// answerWith is what a backend does that answers.
func answerWith(ex proxy.Exchange, status int, h proxy.Header, content string) (proxy.Progress, error) {
	if err := ex.Respond(status, h, int64(len(content))); err != nil {
		return proxy.Progress{}, err
	}
	if _, err := ex.Write([]byte(content)); err != nil {
		return proxy.Progress{HeadSent: true, Status: status}, err
	}
	return proxy.Progress{HeadSent: true, Status: status, Bytes: int64(len(content))}, nil
}

// ask lets one request meet one rule.
func ask(t *testing.T, ru *Rule, send Sender, r proxy.Request) (*Message, error) {
	t.Helper()
	if ru.Backends == nil && ru.Filters.Redirect == nil && ru.Filters.Direct == nil {
		ru.Backends = []Backend{{Name: "b", Weight: 1}}
	}
	table := compile(t, &Route{Kind: "HTTPRoute", Name: "r", Rules: []*Rule{ru}})
	router := &Router{Sender: send}
	if r.Method == "" {
		r.Method = "GET"
	}
	return router.Call(t.Context(), table, Arrival{Host: "x", Target: r.Target, Scheme: "http"}, r, 1<<20)
}

func mustAsk(t *testing.T, ru *Rule, send Sender, r proxy.Request) *Message {
	t.Helper()
	m, err := ask(t, ru, send, r)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func header(fields ...string) (h proxy.Header) {
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return h
}

// echo answers with what it was asked for.
func echo(ex proxy.Exchange, to *Backend, target string) (proxy.Progress, error) {
	content := ""
	if b := ex.Request().Body; b != nil {
		all, err := io.ReadAll(b)
		if err != nil {
			return proxy.Progress{}, &proxy.BodyError{Err: err}
		}
		content = string(all)
	}
	host := ""
	if a, ok := ex.(interface{ Authority() string }); ok {
		host = a.Authority()
	}
	h := header("x-target", target, "x-host", host, "x-backend", to.Name, "x-a", strings.Join(ex.Request().Header.Values("a"), "|"), "content-type", "text/plain")
	return answerWith(ex, 200, h, content)
}

func TestFiltersChangeRequestsAndAnswers(t *testing.T) {
	prefix := []Match{{Path: PathMatch{Prefix, "/old"}}}
	for _, tt := range []struct {
		name    string
		rule    Rule
		request proxy.Request
		want    []string // fields and values of the answer
	}{
		{"headers", Rule{Filters: Filters{Request: &HeaderChange{Set: header("a", "1"), Add: header("A", "2"), Remove: []string{"b"}}, Response: &HeaderChange{Set: header("x-new", "n"), Remove: []string{"x-host"}}}},
			proxy.Request{Target: "/", Header: header("a", "0", "a", "00")}, []string{"x-a", "1|2", "x-new", "n", "x-host", ""}},
		{"prefix", Rule{Matches: prefix, Filters: Filters{Rewrite: &Rewrite{Path: &PathChange{Value: "/new"}, Host: "h"}}}, proxy.Request{Target: "/old/x?q=1"}, []string{"x-target", "/new/x?q=1", "x-host", "h"}},
		{"prefix alone", Rule{Matches: prefix, Filters: Filters{Rewrite: &Rewrite{Path: &PathChange{Value: "/new/"}}}}, proxy.Request{Target: "/old"}, []string{"x-target", "/new/"}},
		{"prefix away", Rule{Matches: prefix, Filters: Filters{Rewrite: &Rewrite{Path: &PathChange{Value: ""}}}}, proxy.Request{Target: "/old"}, []string{"x-target", "/"}},
		{"prefix to root", Rule{Matches: prefix, Filters: Filters{Rewrite: &Rewrite{Path: &PathChange{Value: "/"}}}}, proxy.Request{Target: "/old/a"}, []string{"x-target", "/a"}},
		{"full", Rule{Filters: Filters{Rewrite: &Rewrite{Path: &PathChange{Full: true, Value: "/all"}}}}, proxy.Request{Target: "/x/y?z"}, []string{"x-target", "/all?z"}},
		{"of a backend", Rule{Backends: []Backend{{Name: "b", Weight: 1, Filters: Filters{Request: &HeaderChange{Set: header("a", "9")}, Rewrite: &Rewrite{Host: "bh"}}}}}, proxy.Request{Target: "/"}, []string{"x-a", "9", "x-host", "bh"}},
		{"CORS", Rule{Filters: Filters{CORS: &CORS{Origins: []string{"https://*.a.com"}, Expose: []string{"x-a"}}}}, proxy.Request{Target: "/", Header: header("origin", "https://b.a.com")},
			[]string{"access-control-allow-origin", "https://b.a.com", "access-control-expose-headers", "x-a", "vary", "origin"}},
		{"CORS of others", Rule{Filters: Filters{CORS: &CORS{Origins: []string{"https://*.a.com"}}}}, proxy.Request{Target: "/", Header: header("origin", "https://a.com")}, []string{"access-control-allow-origin", ""}},
		{"preflight", Rule{Filters: Filters{CORS: &CORS{Origins: []string{"*"}, Methods: []string{"GET", "PUT"}, Headers: []string{"*"}, MaxAge: time.Minute}}},
			proxy.Request{Method: "OPTIONS", Target: "/", Header: header("origin", "https://a", "access-control-request-method", "PUT")},
			[]string{"access-control-allow-origin", "*", "access-control-allow-methods", "GET, PUT", "access-control-allow-headers", "*", "access-control-max-age", "60", "x-target", ""}},
		{"preflight with credentials", Rule{Filters: Filters{CORS: &CORS{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}, Credentials: true}}},
			proxy.Request{Method: "OPTIONS", Target: "/", Header: header("origin", "https://a", "access-control-request-method", "PUT", "access-control-request-headers", "x-y")},
			[]string{"access-control-allow-origin", "https://a", "access-control-allow-methods", "PUT", "access-control-allow-headers", "x-y", "access-control-allow-credentials", "true"}},
		{"redirect", Rule{Filters: Filters{Redirect: &Redirect{Scheme: "https", Host: "new.com", Status: 301}}}, proxy.Request{Authority: "old.com:80", Target: "/x?y"}, []string{"location", "https://new.com/x?y"}},
		{"redirect to a port", Rule{Matches: prefix, Filters: Filters{Redirect: &Redirect{Port: 8443, Status: 302, Path: &PathChange{Value: "/n"}}}}, proxy.Request{Authority: "old.com", Target: "/old/a"}, []string{"location", "http://old.com:8443/n/a"}},
		{"direct", Rule{Filters: Filters{Direct: &Direct{Status: 200, Header: header("x-d", "1"), Body: "hi"}}}, proxy.Request{Target: "/"}, []string{"x-d", "1"}},
	} {
		m := mustAsk(t, &tt.rule, senderFunc(echo), tt.request)
		for i := 0; i < len(tt.want); i += 2 {
			if got := m.Header.Get(tt.want[i]); got != tt.want[i+1] {
				t.Errorf("%s: %s is %q, want %q", tt.name, tt.want[i], got, tt.want[i+1])
			}
		}
	}
}

func TestRefusalsSayWhichRuleAndWhy(t *testing.T) {
	two := Rule{Name: "two", Backends: []Backend{{Name: "b", Weight: 0}}}
	broken := Rule{Backends: []Backend{{Name: "b", Weight: 1, Problem: "it is gone"}}}
	small := Rule{Filters: Filters{MaxRequestBytes: 3}}
	late := Rule{Filters: Filters{Fault: &Fault{Status: 599, AbortShare: 1}}}
	elsewhere := Rule{Matches: []Match{{Path: PathMatch{Exact, "/x"}}}}
	for _, tt := range []struct {
		rule   *Rule
		r      proxy.Request
		status int
		want   string
	}{
		{&elsewhere, proxy.Request{Target: "/y"}, 404, `{"errorCode":"ERR_ROUTE_NOT_FOUND","message":"no route for GET x/y: none of 1 rules matches"}`},
		{&two, proxy.Request{Target: "/"}, 500, "HTTPRoute r rule two: it has no backend with a weight"},
		{&broken, proxy.Request{Target: "/"}, 500, "HTTPRoute r rule 0: backend b: it is gone"},
		{&small, proxy.Request{Method: "POST", Target: "/", Body: strings.NewReader("four"), ContentLength: 4}, 413, "larger than 3 bytes"},
		{&small, proxy.Request{Method: "POST", Target: "/", Body: strings.NewReader("four"), ContentLength: proxy.UnknownLength}, 413, "larger than 3 bytes"},
		{&late, proxy.Request{Target: "/"}, 599, "fault injection"},
	} {
		m := mustAsk(t, tt.rule, senderFunc(echo), tt.r)
		if m.Status != tt.status || !strings.Contains(string(m.Body), tt.want) {
			t.Errorf("%d %s, want %d %s", m.Status, m.Body, tt.status, tt.want)
		}
	}
	m := mustAsk(t, &two, senderFunc(echo), proxy.Request{Method: "POST", Target: "/s/m", Header: header("content-type", "application/grpc")})
	if m.Header.Get("grpc-status") != "14" || !strings.Contains(m.Header.Get("grpc-message"), "no backend") {
		t.Errorf("a gRPC call gets %v", m.Header)
	}
	if m := mustAsk(t, &small, senderFunc(echo), proxy.Request{Method: "POST", Target: "/", Body: strings.NewReader("abc"), ContentLength: proxy.UnknownLength}); string(m.Body) != "abc" {
		t.Errorf("content that is small enough gets %d %s", m.Status, m.Body)
	}
	_, err := ask(t, &Rule{Name: "n"}, senderFunc(func(proxy.Exchange, *Backend, string) (proxy.Progress, error) {
		return proxy.Progress{}, fault.New(fault.Unavailable, "nobody listens").WithReason("test.reason")
	}), proxy.Request{Target: "/"})
	if err == nil || !strings.Contains(err.Error(), "HTTPRoute r rule n, backend b: nobody listens") || fault.ReasonOf(err) != "test.reason" {
		t.Errorf("a failure is %v", err)
	}
}

func TestRequestsAreSentAgainAsTheRuleSays(t *testing.T) {
	retry := func(attempts, reserve int) *Retry {
		return &Retry{Codes: []int{503}, GRPCCodes: []int{14}, Attempts: attempts, Backoff: time.Second, Budget: Share{0, reserve}}
	}
	unavailable := fault.New(fault.Unavailable, "the connection broke")
	for _, tt := range []struct {
		name    string
		retry   *Retry
		request proxy.Request
		answers []any // a status or an error, by attempt; the last one is for all others
		sent    int
		status  int // 0 for an error
	}{
		{"until it works", retry(2, 10), proxy.Request{}, []any{503, 503, 200}, 3, 200},
		{"no more often than is allowed", retry(1, 10), proxy.Request{}, []any{503}, 2, 503},
		{"not for other codes", retry(2, 10), proxy.Request{}, []any{500, 200}, 1, 500},
		{"within the budget", retry(9, 2), proxy.Request{}, []any{503}, 3, 503},
		{"after a failure", retry(2, 10), proxy.Request{}, []any{unavailable, 200}, 2, 200},
		{"not what may have been done", retry(2, 10), proxy.Request{Method: "POST"}, []any{unavailable, 200}, 1, 0},
		{"what was not sent", retry(2, 10), proxy.Request{Method: "POST"}, []any{proxy.MarkUnsent(unavailable), 200}, 2, 200},
		{"with its content", retry(2, 10), proxy.Request{Method: "POST", Body: strings.NewReader("content"), ContentLength: 7}, []any{503, 200}, 2, 200},
		{"with content of unknown length", retry(2, 10), proxy.Request{Method: "POST", Body: strings.NewReader("content"), ContentLength: -1}, []any{503, 200}, 2, 200},
		{"not with content that is too long", retry(2, 10), proxy.Request{Method: "POST", Body: bytes.NewReader(make([]byte, maxKept+1)), ContentLength: -1}, []any{503, 200}, 1, 503},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sent, began := 0, time.Now()
				m, err := ask(t, &Rule{Filters: Filters{Retry: tt.retry}}, senderFunc(func(ex proxy.Exchange, _ *Backend, _ string) (proxy.Progress, error) {
					answer := tt.answers[min(sent, len(tt.answers)-1)]
					sent++
					content := ""
					if b := ex.Request().Body; b != nil {
						all, err := io.ReadAll(b)
						if err != nil {
							t.Error(err)
						}
						content = string(all)
						if tt.request.ContentLength == 7 && content != "content" {
							t.Errorf("attempt %d has %q", sent, content)
						}
					}
					if err, ok := answer.(error); ok {
						return proxy.Progress{}, err
					}
					return answerWith(ex, answer.(int), nil, "answer")
				}), tt.request)
				if sent != tt.sent || (err != nil) != (tt.status == 0) || err == nil && (m.Status != tt.status || string(m.Body) != "answer") {
					t.Errorf("sent %d times, want %d: %+v %v", sent, tt.sent, m, err)
				}
				if waited := time.Since(began); waited < time.Duration(tt.sent-1)*time.Second {
					t.Errorf("waited %v", waited)
				}
			})
		})
	}
}

func TestTimeoutsEndRequests(t *testing.T) {
	hang := senderFunc(func(ex proxy.Exchange, _ *Backend, _ string) (proxy.Progress, error) {
		<-ex.Context().Done()
		return proxy.Progress{}, ex.Context().Err()
	})
	for _, tt := range []struct {
		name  string
		f     Filters
		lasts time.Duration
	}{
		{"the whole", Filters{Timeouts: Timeouts{Request: time.Second}}, time.Second},
		{"one try", Filters{Timeouts: Timeouts{Backend: time.Second}}, time.Second},
		{"tries", Filters{Timeouts: Timeouts{Backend: time.Second}, Retry: &Retry{Attempts: 2, Budget: Share{0, 9}}}, 3 * time.Second},
		{"tries within the whole", Filters{Timeouts: Timeouts{Request: 1500 * time.Millisecond, Backend: time.Second}, Retry: &Retry{Attempts: 2, Budget: Share{0, 9}}}, 1500 * time.Millisecond},
		{"while waiting for the next try", Filters{Timeouts: Timeouts{Request: 1500 * time.Millisecond, Backend: time.Second}, Retry: &Retry{Attempts: 2, Backoff: time.Hour, Budget: Share{0, 9}}}, 1500 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			m, err := ask(t, &Rule{Filters: tt.f}, hang, proxy.Request{Target: "/"})
			if err != nil || m.Status != 504 || time.Since(began) != tt.lasts {
				t.Errorf("%s: %+v %v after %v, want 504 after %v", tt.name, m, err, time.Since(began), tt.lasts)
			}
		})
	}
}

func TestALateAnswerIsHedged(t *testing.T) {
	hedge := func(reserve int) *Rule {
		return &Rule{Filters: Filters{Hedge: &Hedge{Delay: 100 * time.Millisecond, Budget: Share{0, reserve}}}}
	}
	for _, tt := range []struct {
		name   string
		rule   *Rule
		lasts  []time.Duration // by request
		fails  []bool
		method string
		want   string
		after  time.Duration
	}{
		{"the second is first", hedge(1), []time.Duration{time.Second, 50 * time.Millisecond}, nil, "GET", "answer 2", 150 * time.Millisecond},
		{"the first is first", hedge(1), []time.Duration{120 * time.Millisecond, time.Second}, nil, "GET", "answer 1", 120 * time.Millisecond},
		{"in time", hedge(1), []time.Duration{50 * time.Millisecond}, nil, "GET", "answer 1", 50 * time.Millisecond},
		{"not what changes something", hedge(1), []time.Duration{time.Second}, nil, "POST", "answer 1", time.Second},
		{"one fails", hedge(1), []time.Duration{150 * time.Millisecond, 400 * time.Millisecond}, []bool{true, false}, "GET", "answer 2", 500 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			n, began := 0, time.Now()
			m, err := ask(t, tt.rule, senderFunc(func(ex proxy.Exchange, _ *Backend, _ string) (proxy.Progress, error) {
				mu.Lock()
				mine := n
				n++
				mu.Unlock()
				select {
				case <-ex.Context().Done():
					return proxy.Progress{}, ex.Context().Err()
				case <-time.After(tt.lasts[mine]):
				}
				if tt.fails != nil && tt.fails[mine] {
					return proxy.Progress{}, errors.New("no")
				}
				return answerWith(ex, 200, nil, "answer "+string(rune('1'+mine)))
			}), proxy.Request{Method: tt.method, Target: "/"})
			if err != nil || string(m.Body) != tt.want || time.Since(began) != tt.after || n != len(tt.lasts) {
				t.Errorf("%s: %+v %v after %v and %d requests, want %s after %v", tt.name, m, err, time.Since(began), n, tt.want, tt.after)
			}
		})
	}
}

func TestCopiesOfRequestsDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		got := map[string]string{}
		slow := make(chan struct{})
		send := senderFunc(func(ex proxy.Exchange, to *Backend, target string) (proxy.Progress, error) {
			if to.Name == "b" {
				return echo(ex, to, target)
			}
			if to.Name == "slow" {
				select {
				case <-slow:
				case <-ex.Context().Done():
				}
			}
			all, err := io.ReadAll(ex.Request().Body)
			mu.Lock()
			defer mu.Unlock()
			if got[to.Name] = target + " " + string(all); err != nil {
				got[to.Name] = err.Error()
			}
			return answerWith(ex, 500, nil, "")
		})
		mirror := func(name string, share float64) Mirror {
			return Mirror{Backend: Backend{Name: name, Weight: 1}, Share: share}
		}
		ru := &Rule{Backends: []Backend{{Name: "b", Weight: 1}}, Filters: Filters{Mirrors: []Mirror{mirror("all", 1), mirror("none", 0), mirror("slow", 1)}}}
		table := compile(t, &Route{Kind: "HTTPRoute", Name: "r", Rules: []*Rule{ru}})
		mirrors := NewMirrors(send, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- mirrors.Run(ctx) }()
		synctest.Wait()
		router := &Router{Sender: send, Mirrors: mirrors}
		content := strings.Repeat("x", maxTap+1)
		began := time.Now()
		for _, c := range []string{"content", content} {
			m, err := router.Call(t.Context(), table, Arrival{Target: "/p"}, proxy.Request{Method: "POST", Body: strings.NewReader(c), ContentLength: int64(len(c))}, 1<<20)
			if err != nil || string(m.Body) != c || time.Since(began) != 0 {
				t.Errorf("%v %v after %v", m.Status, err, time.Since(began))
			}
			synctest.Wait()
			mu.Lock()
			if c == "content" && got["all"] != "/p content" {
				t.Errorf("the mirror got %q", got["all"])
			}
			mu.Unlock()
		}
		close(slow)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, ok := got["none"]; ok || len(got) != 2 {
			t.Errorf("%d mirrors got something", len(got))
		}
		if mirrors.send(&Backend{}, proxy.Request{}, "/", newTap()) || mirrors.Dropped() != 1 {
			t.Error("something is mirrored after the end")
		}
	})
}

func TestAnswersAreCompressedForWhoTakesThat(t *testing.T) {
	content := strings.Repeat("to be or not to be ", 200)
	rules := &Compression{Algorithms: []string{"zstd", "br", "gzip"}, MinSize: 100, ContentTypes: DefaultCompressed()}
	for _, tt := range []struct {
		accept, contentType, content string
		more                         proxy.Header
		want                         string
	}{
		{"gzip", "text/plain; charset=utf-8", content, nil, "gzip"}, {"gzip, br", "text/plain", content, nil, "br"},
		{"gzip, br;q=0.5", "application/json", content, nil, "gzip"}, {"*", "text/plain", content, nil, "zstd"},
		{"gzip;q=0", "text/plain", content, nil, ""}, {"", "text/plain", content, nil, ""}, {"identity, gzip;q=0.5", "text/plain", content, nil, ""},
		{"gzip", "image/png", content, nil, ""}, {"gzip", "text/plain", "short", nil, ""}, {"gzip", "text/plain", content, header("content-encoding", "br"), "br"},
		{"gzip", "text/plain", content, header("cache-control", "no-transform"), ""},
	} {
		m := mustAsk(t, &Rule{Filters: Filters{Compression: rules}}, senderFunc(func(ex proxy.Exchange, _ *Backend, _ string) (proxy.Progress, error) {
			return answerWith(ex, 200, append(header("content-type", tt.contentType, "etag", `"1"`), tt.more...), tt.content)
		}), proxy.Request{Target: "/", Header: header("accept-encoding", tt.accept)})
		if got := m.Header.Get("content-encoding"); got != tt.want {
			t.Errorf("%+v is encoded as %q", tt.accept, got)
			continue
		}
		if tt.want == "" || tt.more != nil {
			if string(m.Body) != tt.content {
				t.Errorf("%s: the content is another", tt.accept)
			}
			continue
		}
		if got := expand(t, tt.want, m.Body); got != tt.content || len(m.Body) >= len(content) || m.Header.Get("etag") != `W/"1"` || m.Header.Get("vary") != "accept-encoding" {
			t.Errorf("%s: %d bytes, %v", tt.accept, len(m.Body), m.Header)
		}
	}
}

func expand(t *testing.T, algorithm string, p []byte) string {
	t.Helper()
	var r io.Reader
	var err error
	switch algorithm {
	case "br":
		r = brotli.NewReader(bytes.NewReader(p))
	case "zstd":
		r, err = zstd.NewReader(bytes.NewReader(p))
	default:
		r, err = gzip.NewReader(bytes.NewReader(p))
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	return string(out)
}

func TestACompressedStreamIsNotHeldBack(t *testing.T) {
	for _, algorithm := range []string{"gzip", "br", "zstd"} {
		var sofar string
		mustAsk(t, &Rule{Filters: Filters{Compression: &Compression{Algorithms: []string{algorithm}, ContentTypes: []string{"text/*"}}}},
			senderFunc(func(ex proxy.Exchange, _ *Backend, _ string) (proxy.Progress, error) {
				ex.Respond(200, header("content-type", "text/event-stream"), proxy.UnknownLength)
				io.WriteString(ex, "event 1\n\n")
				ex.Flush()
				client := ex.(*routed).Exchange.(*detached)
				sofar = expand(t, algorithm, bytes.Clone(client.body.Bytes()))
				io.WriteString(ex, "event 2\n\n")
				return proxy.Progress{HeadSent: true, Status: 200}, nil
			}), proxy.Request{Target: "/", Header: header("accept-encoding", algorithm)})
		if sofar != "event 1\n\n" {
			t.Errorf("%s: %q has come", algorithm, sofar)
		}
	}
}

func TestADelayIsInjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		m := mustAsk(t, &Rule{Filters: Filters{Fault: &Fault{Delay: time.Second, DelayShare: 1}}}, senderFunc(echo), proxy.Request{Target: "/"})
		if m.Status != 200 || time.Since(began) != time.Second {
			t.Errorf("%d after %v", m.Status, time.Since(began))
		}
	})
}

func TestARuleWithoutFiltersTakesNoMemory(t *testing.T) {
	table := compile(t, &Route{Kind: "HTTPRoute", Name: "r", Rules: []*Rule{{Backends: []Backend{{Name: "a", Weight: 1}, {Name: "b", Weight: 1}}}}})
	router := &Router{Sender: senderFunc(func(proxy.Exchange, *Backend, string) (proxy.Progress, error) { return proxy.Progress{}, nil })}
	ex := &detached{request: proxy.Request{Method: "GET", Header: header("accept", "*/*")}, ctx: t.Context()}
	a := Arrival{Host: "r", Target: "/x?y=z"}
	if n := testing.AllocsPerRun(1000, func() { router.Serve(ex, table, a) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
