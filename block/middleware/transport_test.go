package middleware_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/proxy"
)

// driver is a middleware made of a function.
type driver func(ex proxy.Exchange, next proxy.Handler)

func (d driver) Handle(ex proxy.Exchange, next proxy.Handler) { d(ex, next) }
func (driver) Close() error                                   { return nil }

func pipeline(drivers ...driver) middleware.Pipeline {
	p := middleware.Pipeline{}
	all := map[string]*middleware.Middleware{}
	for i, d := range drivers {
		name := string(rune('a' + i))
		p.Names = append(p.Names, name)
		all[name] = middleware.New(component.Opened[middleware.Driver](name, d), middleware.Options{})
	}
	p.Find = func(name string) (*middleware.Middleware, error) { return all[name], nil }
	return p
}

// server answers round trips.
type server func(ctx context.Context, r *proxy.Request) (*proxy.Response, error)

func (s server) RoundTrip(ctx context.Context, r *proxy.Request, _ proxy.RoundTripOptions) (*proxy.Response, error) {
	return s(ctx, r)
}

// body is content that tells whether it was closed.
type body struct {
	io.Reader
	once   sync.Once
	closed chan struct{}
}

func newBody(r io.Reader) *body { return &body{Reader: r, closed: make(chan struct{})} }

func (b *body) Close() error { b.once.Do(func() { close(b.closed) }); return nil }

func mark(name string) driver {
	return func(ex proxy.Exchange, next proxy.Handler) {
		ex.Request().Header.Add("passed", name)
		next(ex)
	}
}

func TestRequestsPassInOrderAndAnswersComeBackWhole(t *testing.T) {
	leak.Check(t)
	answer := newBody(strings.NewReader("content"))
	next := server(func(_ context.Context, r *proxy.Request) (*proxy.Response, error) {
		if got := strings.Join(r.Header.Values("passed"), " "); got != "a b" || r.Target != "/x" {
			t.Errorf("%s arrives having passed %q", r.Target, got)
		}
		return &proxy.Response{
			Status: 201, Header: proxy.Header{{Name: "K", Value: "v"}}, ContentLength: proxy.UnknownLength, Body: answer,
			Trailer: &proxy.Header{{Name: "T", Value: "t"}},
		}, nil
	})
	r := &proxy.Request{Method: "GET", Target: "/x"}
	resp, err := middleware.NewTransport(pipeline(mark("a"), mark("b")), next).RoundTrip(t.Context(), r, proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(resp.Body)
	if err != nil || string(content) != "content" || resp.Status != 201 || resp.Header.Get("k") != "v" || resp.Trailer.Get("t") != "t" {
		t.Errorf("the answer is %d %v %q %v, %v", resp.Status, resp.Header, content, resp.Trailer, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if len(r.Header) != 0 {
		t.Errorf("the request of the caller has got %v", r.Header)
	}
}

func TestWhatAMiddlewareAnswersGoesNoFurther(t *testing.T) {
	leak.Check(t)
	refuse := driver(func(ex proxy.Exchange, _ proxy.Handler) { middleware.Refuse(ex, 403, "ERR", "no") })
	next := server(func(context.Context, *proxy.Request) (*proxy.Response, error) {
		t.Error("the request went on")
		return nil, errors.New("no")
	})
	resp, err := middleware.NewTransport(pipeline(refuse), next).RoundTrip(t.Context(), &proxy.Request{Method: "GET", Target: "/"}, proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil || resp.Status != 403 || string(content) != `{"errorCode":"ERR","message":"no"}` {
		t.Errorf("the answer is %d %q, %v", resp.Status, content, err)
	}
}

func TestErrorsOfTheTransportComeBackAsTheyAre(t *testing.T) {
	leak.Check(t)
	gone := proxy.MarkUnsent(fault.New(fault.Unavailable, "connection refused"))
	next := server(func(context.Context, *proxy.Request) (*proxy.Response, error) { return nil, gone })
	_, err := middleware.NewTransport(pipeline(mark("a")), next).RoundTrip(t.Context(), &proxy.Request{Method: "GET", Target: "/"}, proxy.RoundTripOptions{})
	if !proxy.Unsent(err) || !fault.Is(err, fault.Unavailable) {
		t.Errorf("the error is %v", err)
	}
}

func TestAMiddlewareThatDoesNothingIsAnError(t *testing.T) {
	leak.Check(t)
	nothing := driver(func(proxy.Exchange, proxy.Handler) {})
	_, err := middleware.NewTransport(pipeline(nothing), nil).RoundTrip(t.Context(), &proxy.Request{}, proxy.RoundTripOptions{})
	if !fault.Is(err, fault.Internal) {
		t.Errorf("the error is %v", err)
	}
}

func TestAnAnswerThatIsNotWantedAnyMoreIsGivenUp(t *testing.T) {
	leak.Check(t)
	endless := newBody(endlessReader{})
	next := server(func(context.Context, *proxy.Request) (*proxy.Response, error) {
		return &proxy.Response{Status: 200, ContentLength: proxy.UnknownLength, Body: endless}, nil
	})
	resp, err := middleware.NewTransport(pipeline(mark("a")), next).RoundTrip(t.Context(), &proxy.Request{Method: "GET"}, proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	<-endless.closed
}

type endlessReader struct{}

func (endlessReader) Read(b []byte) (int, error) { return len(b), nil }

func TestACallerThatLeavesEndsTheRequest(t *testing.T) {
	leak.Check(t)
	ctx, cancel := context.WithCancel(t.Context())
	next := server(func(ctx context.Context, _ *proxy.Request) (*proxy.Response, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	})
	_, err := middleware.NewTransport(pipeline(mark("a")), next).RoundTrip(ctx, &proxy.Request{Method: "GET"}, proxy.RoundTripOptions{})
	if !fault.Is(err, fault.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

func TestUpgradesPassThrough(t *testing.T) {
	leak.Check(t)
	ours, theirs := connected()
	next := server(func(context.Context, *proxy.Request) (*proxy.Response, error) {
		return &proxy.Response{Status: 101, Body: proxy.NoBody{}, Upgraded: theirs}, nil
	})
	resp, err := middleware.NewTransport(pipeline(mark("a")), next).RoundTrip(t.Context(),
		&proxy.Request{Method: "GET", Upgrade: "websocket"}, proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resp.Upgraded.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(ours, got); err != nil || string(got) != "ping" {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := ours.Write([]byte("pong")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Upgraded, got); err != nil || string(got) != "pong" {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := resp.Upgraded.Close(); err != nil {
		t.Error(err)
	}
	if _, err := ours.Read(got); err == nil {
		t.Error("the other end is open still")
	}
}

// end is one end of a connection in memory.
type end struct {
	*io.PipeReader
	w *io.PipeWriter
}

func (e end) Write(b []byte) (int, error) { return e.w.Write(b) }
func (e end) CloseWrite() error           { return e.w.Close() }
func (e end) Close() error                { _ = e.w.Close(); return e.PipeReader.Close() }

func connected() (a, b end) {
	ar, bw := io.Pipe()
	br, aw := io.Pipe()
	return end{ar, aw}, end{br, bw}
}

func TestAMiddlewareThatIsNotOpenLetsNothingPass(t *testing.T) {
	leak.Check(t)
	missing := middleware.Pipeline{Names: []string{"a"}, Find: func(string) (*middleware.Middleware, error) {
		return nil, fault.New(fault.NotFound, "there is no middleware component \"a\"")
	}}
	resp, err := middleware.NewTransport(missing, nil).RoundTrip(t.Context(), &proxy.Request{Method: "GET"}, proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if content, _ := io.ReadAll(resp.Body); resp.Status != 500 || !strings.Contains(string(content), "no middleware component") {
		t.Errorf("the answer is %d %q", resp.Status, content)
	}
}
