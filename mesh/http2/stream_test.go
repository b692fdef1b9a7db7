package http2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// pair returns a client of a server with the handler.
func pair(tb testing.TB, h proxy.Handler) *http2.Client {
	tb.Helper()
	return dial(tb, serve(tb, &http2.Server{Handler: h}))
}

func postRequest(body io.Reader, length int64) *proxy.Request {
	return &proxy.Request{Method: "POST", Authority: "test", Target: "/", Body: body, ContentLength: length}
}

func TestAResponseMayBeginBeforeTheRequestEnds(t *testing.T) {
	leak.Check(t)
	cl := pair(t, func(x proxy.Exchange) {
		_ = x.Respond(200, nil, proxy.UnknownLength)
		_ = x.Flush()
		buf := make([]byte, 100)
		for {
			n, err := x.Request().Body.Read(buf)
			if err != nil {
				return
			}
			_, _ = x.Write(bytes.ToUpper(buf[:n]))
			_ = x.Flush()
		}
	})
	body, send := io.Pipe()
	res, err := cl.RoundTrip(t.Context(), postRequest(body, proxy.UnknownLength), proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for n := range 50 {
		word := fmt.Sprintf("word %d", n)
		_, _ = io.WriteString(send, word)
		k, err := io.ReadFull(res.Body, buf[:len(word)])
		if err != nil || string(buf[:k]) != strings.ToUpper(word) {
			t.Fatalf("%q, %v", buf[:k], err)
		}
	}
	_ = send.Close()
	if _, err := res.Body.Read(buf); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	_ = res.Body.Close()
}

func TestAResponseMayEndBeforeTheRequestDoes(t *testing.T) {
	leak.Check(t)
	cl := pair(t, func(x proxy.Exchange) { _ = x.Respond(413, nil, 0) })
	body, send := io.Pipe()
	res, err := cl.RoundTrip(t.Context(), postRequest(body, proxy.UnknownLength), proxy.RoundTripOptions{})
	if err != nil || res.Status != 413 {
		t.Fatalf("%v, %v", res, err)
	}
	_ = res.Body.Close()
	// Close has closed the body of the request.
	if _, err := io.WriteString(send, "x"); err == nil {
		t.Error("the body is still read after Close")
	}
	if res, _ := get(t, cl, "/"); res.Status != 413 {
		t.Error("the connection does not work any more")
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	leak.Check(t)
	cl := pair(t, func(x proxy.Exchange) {
		r := x.Request()
		body, _ := io.ReadAll(r.Body)
		_ = x.Respond(200, nil, proxy.UnknownLength)
		_, _ = x.Write(body)
		_ = x.Trailer(proxy.Header{{Name: "X-Got", Value: r.Trailer.Get("x-sent")}, {Name: "Grpc-Status", Value: "0"}})
	})
	for _, body := range []io.Reader{strings.NewReader("now"), io.MultiReader(strings.NewReader("later"))} {
		sent := proxy.Header{{Name: "X-Sent", Value: "sum"}}
		r := postRequest(body, proxy.UnknownLength)
		r.Trailer = &sent
		res, _ := do(t, cl, r)
		if got := res.Trailer.Get("x-got"); got != "sum" || res.Trailer.Get("grpc-status") != "0" {
			t.Errorf("trailers %v", *res.Trailer)
		}
	}
}

func TestAHeadMayBeAllOfAGRPCResponse(t *testing.T) {
	leak.Check(t)
	for name, flush := range map[string]bool{"flushed": true, "not flushed": false} {
		t.Run(name, func(t *testing.T) {
			addr := serve(t, &http2.Server{Handler: func(x proxy.Exchange) {
				_ = x.Respond(200, proxy.Header{{Name: "content-type", Value: "application/grpc"}, {Name: "grpc-status", Value: "5"}}, 0)
				if flush {
					_ = x.Flush()
				}
			}})
			r := rawClient(t, addr)
			r.headers(1, true, getFields...)
			for {
				f, err := r.fr.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if h, ok := f.(*xhttp2.HeadersFrame); ok {
					if !h.StreamEnded() {
						t.Error("the head does not end the stream")
					}
					fields, _ := r.dec.DecodeFull(h.HeaderBlockFragment())
					for _, f := range fields {
						if f.Name == "content-length" {
							t.Error("the head has a content-length")
						}
					}
					return
				}
			}
		})
	}
}

func TestInterimResponsesArePassedOn(t *testing.T) {
	leak.Check(t)
	cl := pair(t, func(x proxy.Exchange) {
		_ = x.Interim(103, proxy.Header{{Name: "link", Value: "</a>"}})
		_ = x.Interim(103, proxy.Header{{Name: "link", Value: "</b>"}})
		if err := x.Interim(101, nil); err == nil {
			t.Error("an interim 101 was sent")
		}
		_ = x.Respond(200, nil, 0)
		if err := x.Interim(103, nil); err == nil {
			t.Error("an interim response was sent after the final one")
		}
	})
	var got []string
	opts := proxy.RoundTripOptions{Interim: func(status int, h proxy.Header) {
		got = append(got, fmt.Sprint(status, h.Get("link")))
	}}
	res, err := cl.RoundTrip(t.Context(), getRequest(), opts)
	if err != nil || res.Status != 200 {
		t.Fatalf("%v, %v", res, err)
	}
	_ = res.Body.Close()
	if !slices.Equal(got, []string{"103</a>", "103</b>"}) {
		t.Errorf("interim responses %v", got)
	}
}

func TestInterimResponsesWithoutEndResetTheStream(t *testing.T) {
	leak.Check(t)
	l := listen(t)
	defer l.Close()
	cl := dial(t, l.Addr().String())
	wait := make(chan struct{})
	out := make(chan error, 1)
	go func() {
		_, err := cl.RoundTrip(t.Context(), getRequest(), proxy.RoundTripOptions{Interim: func(int, proxy.Header) { <-wait }})
		out <- err
	}()
	r := rawServer(t, l)
	r.awaitRequest()
	for range 60 {
		r.headers(1, false, ":status", "103", "link", "x")
	}
	if v := r.next(); v.String() != reset(1, calm) {
		t.Errorf("got %v", v)
	}
	close(wait)
	if err := <-out; fault.CodeOf(err) != fault.ResourceExhausted {
		t.Errorf("%v", err)
	}
}

func TestExpectContinueIsAnsweredWhenTheBodyIsRead(t *testing.T) {
	leak.Check(t)
	r := rawClient(t, serve(t, &http2.Server{Handler: hold}))
	r.headers(1, false, with(postFields, "expect", "100-continue")...)
	if v := r.next(); v.String() != response(1, "100") {
		t.Errorf("got %v", v)
	}
	r.frame(xhttp2.FrameData, 1, 1, []byte("body"))
	if v := r.next(); v.String() != response(1, "200") {
		t.Errorf("got %v", v)
	}
}

func TestResponsesWithoutContent(t *testing.T) {
	leak.Check(t)
	cl := pair(t, func(x proxy.Exchange) {
		switch x.Request().Target {
		case "/204":
			_ = x.Respond(204, nil, 0)
		case "/304":
			_ = x.Respond(304, nil, 1234)
		default:
			_ = x.Respond(200, nil, 4)
			_, _ = io.WriteString(x, "body")
		}
	})
	for _, c := range []struct {
		method, target string
		status         int
		length         int64
		body           string
	}{
		{"GET", "/", 200, 4, "body"},
		{"HEAD", "/", 200, 4, ""},
		{"GET", "/204", 204, 0, ""},
		{"GET", "/304", 304, 1234, ""},
	} {
		res, body := do(t, cl, &proxy.Request{Method: c.method, Authority: "a", Target: c.target})
		if res.Status != c.status || res.ContentLength != c.length || body != c.body {
			t.Errorf("%s %s: %d, length %d, %q", c.method, c.target, res.Status, res.ContentLength, body)
		}
	}
}

func TestHandlersThatDoNotAnswerWell(t *testing.T) {
	leak.Check(t)
	var logged bytes.Buffer
	cl := dial(t, serve(t, &http2.Server{
		Log: slog.New(slog.NewTextHandler(&logged, nil)),
		Handler: func(x proxy.Exchange) {
			switch x.Request().Target {
			case "/nothing":
			case "/panic":
				panic("the handler is broken")
			case "/short":
				_ = x.Respond(200, nil, 10)
				_, _ = io.WriteString(x, "short")
			case "/long":
				_ = x.Respond(200, nil, 2)
				if _, err := io.WriteString(x, "long"); fault.CodeOf(err) != fault.InvalidArgument {
					t.Errorf("writing more than the length: %v", err)
				}
				_, _ = io.WriteString(x, "ok")
			case "/abort":
				_ = x.Respond(200, nil, proxy.UnknownLength)
				_, _ = io.WriteString(x, "half")
				_ = x.Flush()
				x.Abort()
			case "/twice":
				_ = x.Respond(200, nil, 0)
				if err := x.Respond(201, nil, 0); fault.CodeOf(err) != fault.FailedPrecondition {
					t.Errorf("a second Respond: %v", err)
				}
			case "/injection":
				if err := x.Respond(200, proxy.Header{{Name: "x", Value: "a\r\nb: c"}}, 0); fault.CodeOf(err) != fault.InvalidArgument {
					t.Errorf("a field with a line break: %v", err)
				}
				_ = x.Respond(200, proxy.Header{{Name: "Connection", Value: "close"}, {Name: "Transfer-Encoding", Value: "chunked"}}, 0)
			}
		},
	}))
	for target, want := range map[string]string{
		"/nothing": "500", "/panic": "error INTERNAL_ERROR", "/short": "error INTERNAL_ERROR", "/long": "200 ok",
		"/abort": "error INTERNAL_ERROR", "/twice": "200", "/injection": "200",
	} {
		o := <-start(t.Context(), cl, &proxy.Request{Method: "GET", Authority: "a", Target: target})
		got := strings.TrimSpace(fmt.Sprint(o.status, " ", o.body))
		if o.err != nil {
			got = "error " + o.err.Error()
			if r, ok := errors.AsType[*http2.ResetError](o.err); ok {
				got = "error " + r.Code.String()
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
	if !strings.Contains(logged.String(), "the handler is broken") {
		t.Errorf("the panic was not logged: %s", logged.String())
	}
}

func TestAnExchangeIsOfNoUseAfterItsHandler(t *testing.T) {
	leak.Check(t)
	kept := make(chan proxy.Exchange, 1)
	cl := pair(t, func(x proxy.Exchange) {
		if x.Request().Target == "/keep" {
			kept <- x
		}
		_ = x.Respond(200, nil, proxy.UnknownLength)
	})
	body, _ := io.Pipe()
	r := postRequest(body, proxy.UnknownLength)
	r.Target = "/keep"
	do(t, cl, r)
	x := <-kept
	get(t, cl, "/") // may have got the same stream
	for name, use := range map[string]func() error{
		"Write":   func() error { _, err := x.Write([]byte("x")); return err },
		"Flush":   x.Flush,
		"Trailer": func() error { return x.Trailer(nil) },
		"Respond": func() error { return x.Respond(200, nil, 0) },
		"Context": func() error { return x.Context().Err() },
	} {
		if err := use(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	x.Abort()
}

func TestContextsEndWithTheExchangeTheClientAndTheServer(t *testing.T) {
	leak.Check(t)
	ended := make(chan error, 1)
	begun := make(chan context.Context, 1)
	s := &http2.Server{Handler: func(x proxy.Exchange) {
		ctx := x.Context()
		begun <- ctx
		if x.Request().Target == "/wait" {
			<-ctx.Done()
			ended <- context.Cause(ctx)
		}
		_ = x.Respond(200, nil, 0)
	}}
	cl := dial(t, serve(t, s))

	get(t, cl, "/")
	<-(<-begun).Done() // the handler has returned

	ctx, cancel := context.WithCancel(t.Context())
	out := start(ctx, cl, &proxy.Request{Method: "GET", Authority: "a", Target: "/wait"})
	<-begun
	cancel()
	if o := <-out; fault.CodeOf(o.err) != fault.Canceled {
		t.Errorf("the client: %v", o.err)
	}
	err := <-ended
	if r, ok := errors.AsType[*http2.ResetError](err); !ok || r.Code != canceled || fault.CodeOf(err) != fault.Canceled {
		t.Errorf("the client reset the stream, the handler got: %v", err)
	}

	out = start(t.Context(), cl, &proxy.Request{Method: "GET", Authority: "a", Target: "/wait"})
	<-begun
	s.Close()
	if err := <-ended; fault.CodeOf(err) != fault.Unavailable {
		t.Errorf("the server was closed, the handler got: %v", err)
	}
	if o := <-out; fault.CodeOf(o.err) != fault.Unavailable {
		t.Errorf("the server was closed, the client got: %v", o.err)
	}
}

func TestTheHeadMustComeInTime(t *testing.T) {
	leak.Check(t)
	canceled := make(chan struct{})
	cl := pair(t, func(x proxy.Exchange) {
		<-x.Context().Done()
		close(canceled)
	})
	_, err := cl.RoundTrip(t.Context(), getRequest(), proxy.RoundTripOptions{HeadTimeout: 10 * time.Millisecond})
	if fault.CodeOf(err) != fault.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	<-canceled
}

func TestTheContextEndsReadingAndSending(t *testing.T) {
	leak.Check(t)
	cl := pair(t, func(x proxy.Exchange) {
		_ = x.Respond(200, nil, proxy.UnknownLength)
		_ = x.Flush()
		<-x.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	res, err := cl.RoundTrip(ctx, postRequest(endless{}, proxy.UnknownLength), proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := res.Body.Read(make([]byte, 1)); fault.CodeOf(err) != fault.Canceled {
		t.Errorf("%v", err)
	}
	_ = res.Body.Close()
}

// endless is a body without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestABodyThatCannotBeReadFailsTheRoundTrip(t *testing.T) {
	leak.Check(t)
	begun, got := make(chan struct{}), make(chan error)
	cl := pair(t, func(x proxy.Exchange) {
		begun <- struct{}{}
		_, err := io.Copy(io.Discard, x.Request().Body)
		got <- err
	})
	broken := errors.New("disk on fire")
	for name, c := range map[string]struct {
		last   io.Reader
		length int64
		cause  error
	}{
		"breaks off, of unknown length": {errReader{broken}, proxy.UnknownLength, broken},
		"breaks off":                    {errReader{broken}, 100, broken},
		"is too short":                  {strings.NewReader("x"), 100, nil},
		"is too long":                   {strings.NewReader("x"), 4, nil},
	} {
		body := io.MultiReader(strings.NewReader("some"), afterReader{begun}, c.last)
		_, err := cl.RoundTrip(t.Context(), postRequest(body, c.length), proxy.RoundTripOptions{})
		if _, ok := errors.AsType[*proxy.BodyError](err); !ok || c.cause != nil && !errors.Is(err, c.cause) || proxy.Unsent(err) {
			t.Errorf("a body that %s: %v", name, err)
		}
		if r, ok := errors.AsType[*http2.ResetError](<-got); !ok || r.Code != canceled {
			t.Errorf("a body that %s: the server did not see it", name)
		}
	}
}

// afterReader is an empty part of a body, whose end comes when something has
// happened.
type afterReader struct{ happened <-chan struct{} }

func (r afterReader) Read([]byte) (int, error) {
	<-r.happened
	return 0, io.EOF
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestRequestsThatCannotBeSent(t *testing.T) {
	leak.Check(t)
	cl := pair(t, hold)
	for name, r := range map[string]*proxy.Request{
		"no method":       {Authority: "a", Target: "/"},
		"method":          {Method: "GE T", Authority: "a", Target: "/"},
		"no target":       {Method: "GET", Authority: "a"},
		"target":          {Method: "GET", Authority: "a", Target: "a b"},
		"authority":       {Method: "GET", Authority: "a/b", Target: "/"},
		"scheme":          {Method: "GET", Scheme: "ht tp", Authority: "a", Target: "/"},
		"CONNECT":         {Method: "CONNECT", Target: "/"},
		"field name":      {Method: "GET", Authority: "a", Target: "/", Header: proxy.Header{{Name: "a b", Value: "c"}}},
		"field value":     {Method: "GET", Authority: "a", Target: "/", Header: proxy.Header{{Name: "a", Value: "b\nc: d"}}},
		"upgrade":         {Method: "GET", Authority: "a", Target: "/", Upgrade: "a b"},
		"empty name":      {Method: "GET", Authority: "a", Target: "/", Header: proxy.Header{{Name: "", Value: "c"}}},
		"target fragment": {Method: "GET", Authority: "a", Target: "/#x"},
	} {
		if _, err := cl.RoundTrip(t.Context(), r, proxy.RoundTripOptions{}); fault.CodeOf(err) != fault.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	get(t, cl, "/")
}

func TestHeadsOfManyFramesPass(t *testing.T) {
	leak.Check(t)
	cl := dial(t, serve(t, &http2.Server{
		Config: http2.Config{MaxHeaderBytes: 1 << 20, MaxHeaderFields: 1000},
		Handler: func(x proxy.Exchange) {
			r := x.Request()
			var h proxy.Header
			for _, f := range r.Header {
				h.Add(f.Name, f.Value)
			}
			_ = x.Respond(200, h, proxy.UnknownLength)
			_ = x.Trailer(h)
		},
	}))
	cl.Config = http2.Config{MaxHeaderBytes: 1 << 20, MaxHeaderFields: 1000}
	r := getRequest()
	for n := range 100 {
		r.Header.Add(fmt.Sprintf("x-%d", n), strings.Repeat(string(rune('a'+n%26)), n*40))
	}
	res, _ := do(t, cl, r)
	for _, f := range r.Header {
		if res.Header.Get(f.Name) != f.Value || res.Trailer.Get(f.Name) != f.Value {
			t.Errorf("%s: %q, %q", f.Name, res.Header.Get(f.Name), res.Trailer.Get(f.Name))
		}
	}
}

func TestHeadsAboveThePeersBoundAreNotSent(t *testing.T) {
	leak.Check(t)
	cl := dial(t, serve(t, &http2.Server{Handler: hold, Config: http2.Config{MaxHeaderBytes: 1 << 10}}))
	get(t, cl, "/") // the server's SETTINGS have arrived
	r := getRequest()
	r.Header.Add("x", strings.Repeat("v", 2<<10))
	if _, err := cl.RoundTrip(t.Context(), r, proxy.RoundTripOptions{}); fault.CodeOf(err) != fault.ResourceExhausted {
		t.Errorf("%v", err)
	}
	get(t, cl, "/")
}

func TestCookieCrumbsBecomeOneField(t *testing.T) {
	leak.Check(t)
	got := make(chan proxy.Header, 1)
	addr := serve(t, &http2.Server{Handler: func(x proxy.Exchange) { got <- slices.Clone(x.Request().Header) }})
	r := rawClient(t, addr)
	r.headers(1, true, with(getFields, "cookie", "a=1", "x", "y", "cookie", "b=2", "cookie", "c=3")...)
	h := <-got
	if len(h) != 2 || h.Get("cookie") != "a=1; b=2; c=3" {
		t.Errorf("%v", h)
	}
}

func TestTheBodyIsBounded(t *testing.T) {
	leak.Check(t)
	cl := dial(t, serve(t, &http2.Server{Config: http2.Config{MaxBodyBytes: 1000}, Handler: func(x proxy.Exchange) {
		if _, err := io.Copy(io.Discard, x.Request().Body); err == nil {
			_ = x.Respond(200, nil, 0)
		} else if fault.CodeOf(err) != fault.ResourceExhausted {
			t.Errorf("%v", err)
		}
	}}))
	for size, status := range map[int]int{999: 200, 1000: 200, 1001: 413, 100_000: 413} {
		r := postRequest(strings.NewReader(strings.Repeat("x", size)), int64(size))
		if res, _ := do(t, cl, r); res.Status != status {
			t.Errorf("%d bytes: %d", size, res.Status)
		}
	}
}

func TestABodyMayBeClosedWhileItIsRead(t *testing.T) {
	leak.Check(t)
	cl := pair(t, func(x proxy.Exchange) {
		body := x.Request().Body.(io.ReadCloser)
		_ = x.Respond(200, nil, proxy.UnknownLength)
		_ = x.Flush()
		read := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, body)
			read <- err
		}()
		_, _ = io.WriteString(x, "closing")
		_ = body.Close()
		if err := <-read; err == nil {
			t.Error("reading a closed body: no error")
		}
	})
	body, send := io.Pipe()
	defer send.Close()
	if _, got := do(t, cl, postRequest(body, proxy.UnknownLength)); got != "closing" {
		t.Errorf("%q", got)
	}
}

func TestAHundredStreamsAtATime(t *testing.T) {
	leak.Check(t)
	var arrived sync.WaitGroup
	arrived.Add(100)
	cl := pair(t, func(x proxy.Exchange) {
		arrived.Done()
		arrived.Wait() // all are there at the same time
		echo(x)
	})
	var wg sync.WaitGroup
	for n := range 100 {
		wg.Go(func() {
			body := strings.Repeat(string(rune('a'+n%26)), n*1000)
			if _, got := do(t, cl, postRequest(strings.NewReader(body), int64(len(body)))); got != body {
				t.Errorf("stream %d: %d bytes came back", n, len(got))
			}
		})
	}
	wg.Wait()
}

// pattern is a body of n bytes that is made as it is read, and a writer that
// checks it.
type pattern struct{ n, at int64 }

// patternPeriod has no common divisor with the sizes of buffers and frames.
const patternPeriod = 251

var patternBytes = func() []byte {
	b := make([]byte, 128*patternPeriod)
	for i := range b {
		b[i] = byte(i % patternPeriod)
	}
	return b
}()

// rest returns bytes of the pattern as they come next, at most n.
func (p *pattern) rest(n int) []byte {
	b := patternBytes[p.at%patternPeriod:]
	return b[:min(n, len(b))]
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.n {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.n-p.at)]
	n := copy(b, p.rest(len(b)))
	p.at += int64(n)
	return n, nil
}

func (p *pattern) Write(b []byte) (int, error) {
	for n := 0; n < len(b); {
		want := p.rest(len(b) - n)
		if !bytes.Equal(want, b[n:n+len(want)]) {
			return n, fmt.Errorf("one of the bytes from %d on is wrong", p.at)
		}
		n += len(want)
		p.at += int64(len(want))
	}
	return len(b), nil
}

func TestAHundredMegabytesTakeLittleMemory(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	leak.Check(t)
	const size = 100 << 20
	inner := pair(t, echo)
	cl := pair(t, forward(inner))
	var most uint64
	check := &pattern{}
	res, err := cl.RoundTrip(t.Context(), postRequest(&pattern{n: size}, size), proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	for n := 0; ; n++ {
		k, err := res.Body.Read(buf)
		if _, err := check.Write(buf[:k]); err != nil {
			t.Fatal(err)
		}
		if n%200 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = res.Body.Close()
	if check.at != size {
		t.Errorf("%d bytes came back", check.at)
	}
	if most > 64<<20 {
		t.Errorf("the heap grew to %d MiB", most>>20)
	}
}

func TestASlowReaderHoldsUpItsOwnStreamOnly(t *testing.T) {
	leak.Check(t)
	cl := pair(t, func(x proxy.Exchange) {
		if x.Request().Target == "/much" {
			_ = x.Respond(200, nil, proxy.UnknownLength)
			_, _ = io.CopyN(x, &pattern{n: 8 << 20}, 8<<20)
			return
		}
		echo(x)
	})
	// Responses that nobody reads...
	var slow []*proxy.Response
	for range 20 {
		r := getRequest()
		r.Target = "/much"
		res, err := cl.RoundTrip(t.Context(), r, proxy.RoundTripOptions{})
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, res)
	}
	// ... do not keep others from passing on the same connection.
	for range 50 {
		body := strings.Repeat("b", 100<<10)
		if _, got := do(t, cl, postRequest(strings.NewReader(body), int64(len(body)))); got != body {
			t.Fatalf("%d bytes came back", len(got))
		}
	}
	for _, res := range slow {
		p := &pattern{}
		if n, err := io.Copy(p, res.Body); err != nil || n != 8<<20 {
			t.Errorf("%d bytes, %v", n, err)
		}
		_ = res.Body.Close()
	}
}

func TestManyStreamsShareTheConnectionsWindow(t *testing.T) {
	leak.Check(t)
	addr := serve(t, &http2.Server{Handler: echo, Config: http2.Config{ConnWindow: 65535, ConnBuffer: 1 << 10, StreamWindow: 65535, MaxStreamWindow: 65535}})
	cl := &http2.Client{Addr: addr, Config: http2.Config{ConnWindow: 65535, ConnBuffer: 1 << 10, StreamWindow: 1 << 20}}
	t.Cleanup(cl.Close)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			const size = 1 << 20
			res, err := cl.RoundTrip(t.Context(), postRequest(&pattern{n: size}, size), proxy.RoundTripOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			if n, err := io.Copy(&pattern{}, res.Body); err != nil || n != size {
				t.Errorf("%d bytes, %v", n, err)
			}
			_ = res.Body.Close()
		})
	}
	wg.Wait()
}

func TestTinyWindowsAreRespected(t *testing.T) {
	leak.Check(t)
	const text = "a response that goes out in pieces"
	addr := serve(t, &http2.Server{Handler: func(x proxy.Exchange) {
		_ = x.Respond(200, nil, int64(len(text)))
		_, _ = io.WriteString(x, text)
	}})
	r := rawClient(t, addr, xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 20})
	r.headers(1, true, getFields...)
	if got := r.content(20); got != text[:20] {
		t.Errorf("%q", got)
	}
	r.setting(xhttp2.SettingInitialWindowSize, 0) // the window is -20 now
	r.do(r.fr.WriteWindowUpdate(1, 20))
	r.expectNoContent()
	r.do(r.fr.WriteWindowUpdate(1, 3))
	if got := r.content(3); got != text[20:23] {
		t.Errorf("%q", got)
	}
	r.expectNoContent()
	r.setting(xhttp2.SettingInitialWindowSize, 100)
	if got := r.content(len(text) - 23); got != text[23:] {
		t.Errorf("%q", got)
	}
}

// content reads DATA frames of n bytes in all.
func (r *raw) content(n int) string {
	r.tb.Helper()
	var got []byte
	for len(got) < n {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.tb.Fatal(err)
		}
		if d, ok := f.(*xhttp2.DataFrame); ok {
			got = append(got, d.Data()...)
		}
	}
	return string(got)
}

// expectNoContent checks that no DATA comes before a PING is answered.
func (r *raw) expectNoContent() {
	r.tb.Helper()
	r.do(r.fr.WritePing(false, [8]byte{'n', 'o', 'n', 'e'}))
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.tb.Fatal(err)
		}
		switch f := f.(type) {
		case *xhttp2.DataFrame:
			r.tb.Fatalf("%d bytes came beyond the window", len(f.Data()))
		case *xhttp2.PingFrame:
			return
		}
	}
}

func TestAChangeOfTheTableSizeBeginsTheNextBlock(t *testing.T) {
	leak.Check(t)
	changed := make(chan struct{})
	addr := serve(t, &http2.Server{Handler: func(x proxy.Exchange) {
		_ = x.Respond(200, proxy.Header{{Name: "x-indexed", Value: "1"}}, proxy.UnknownLength)
		_ = x.Flush()
		<-changed
		_ = x.Trailer(proxy.Header{{Name: "traceparent", Value: "00-1"}, {Name: "x-indexed", Value: "1"}})
	}})
	r := rawClient(t, addr)
	r.headers(1, true, getFields...)
	if v := r.next(); v.String() != response(1, "200") {
		t.Fatalf("got %v", v)
	}
	r.setting(xhttp2.SettingHeaderTableSize, 0)
	r.setting(xhttp2.SettingHeaderTableSize, 200)
	r.expectAlive()
	close(changed)
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := f.(*xhttp2.HeadersFrame); ok {
			b := h.HeaderBlockFragment()
			if len(b) == 0 || b[0]&0xe0 != 0x20 {
				t.Errorf("the block begins with %#x, not with a change of the size", b)
			}
			if fields, err := r.dec.DecodeFull(b); err != nil || len(fields) != 2 || fields[0].Value != "00-1" {
				t.Errorf("%v, %v", fields, err)
			}
			return
		}
	}
}
