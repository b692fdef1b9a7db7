package http1

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// start runs a server and returns its address and what Serve will return.
func start(t testing.TB, s *Server) (string, <-chan error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() { s.Close() })
	return ln.Addr().String(), served
}

// wait returns what the channel delivers, in time.
func wait[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

func TestShutdownLetsExchangesEndAndClosesIdleConnections(t *testing.T) {
	bothWays(t, testShutdownLetsExchangesEndAndClosesIdleConnections)
}

func testShutdownLetsExchangesEndAndClosesIdleConnections(t *testing.T, by way) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := by(&Server{Handler: func(ex proxy.Exchange) {
		coroutine.Detach(ex.Context())
		if ex.Request().Target == "/slow" {
			close(entered)
			<-release
		}
		respond(t, ex, 200, nil, "ok")
	}})
	addr, served := start(t, s)
	idle, fresh, busy := dial(t, addr), dial(t, addr), dial(t, addr)
	io.WriteString(idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	readResponses(t, idle, 1)
	io.WriteString(busy, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
	<-entered
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(t.Context()) }()
	for _, nc := range []net.Conn{idle, fresh} {
		if got, err := io.ReadAll(nc); len(got) > 0 || err != nil {
			t.Errorf("an idle connection ended with %q, %v", got, err)
		}
	}
	if nc, err := net.Dial("tcp", addr); err == nil {
		nc.SetDeadline(time.Now().Add(patience))
		if _, err := nc.Read(make([]byte, 1)); err == nil {
			t.Error("a connection is served after Shutdown")
		}
		nc.Close()
	}
	select {
	case err := <-down:
		t.Fatalf("Shutdown returned %v with a request under way", err)
	default:
	}
	close(release)
	if got, err := io.ReadAll(busy); err != nil || !strings.Contains(string(got), "Connection: close\r\n\r\nok") {
		t.Errorf("the request under way got %q, %v", got, err)
	}
	if err := wait(t, down, "end of Shutdown"); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := wait(t, served, "end of Serve"); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("a second Shutdown: %v", err)
	}
}

func TestShutdownGivesUpWhenItsContextEndsAndCloseEndsTheRest(t *testing.T) {
	bothWays(t, testShutdownGivesUpWhenItsContextEndsAndCloseEndsTheRest)
}

func testShutdownGivesUpWhenItsContextEndsAndCloseEndsTheRest(t *testing.T, by way) {
	entered := make(chan struct{})
	s := by(&Server{Handler: func(ex proxy.Exchange) {
		coroutine.Detach(ex.Context())
		close(entered)
		<-ex.Context().Done()
	}})
	addr, served := start(t, s)
	nc := dial(t, addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !fault.Is(err, fault.DeadlineExceeded) || !strings.Contains(err.Error(), "1 connections in use") {
		t.Errorf("Shutdown: %v", err)
	}
	s.Close()
	if err := wait(t, served, "end of Serve"); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestRequestsNeverFailWhileAServerShutsDown(t *testing.T) {
	bothWays(t, testRequestsNeverFailWhileAServerShutsDown)
}

func testRequestsNeverFailWhileAServerShutsDown(t *testing.T, by way) {
	for range 20 {
		s := by(&Server{Handler: func(ex proxy.Exchange) { respond(t, ex, 200, nil, "ok") }})
		addr, _ := start(t, s)
		var wg sync.WaitGroup
		for range 4 {
			nc := dial(t, addr)
			wg.Go(func() {
				br := bufio.NewReader(nc)
				for {
					if _, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
						return
					}
					resp, err := http.ReadResponse(br, nil)
					if err != nil {
						return // closed when idle: the client may send again
					}
					if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" {
						t.Errorf("half of a response: %q, %v", body, err)
					}
					if resp.Close {
						return
					}
				}
			})
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		wg.Wait()
	}
}

func TestTheContextEndsWhenTheClientGoesAway(t *testing.T) {
	bothWays(t, testTheContextEndsWhenTheClientGoesAway)
}

func testTheContextEndsWhenTheClientGoesAway(t *testing.T, by way) {
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nabc",
	} {
		entered, ended := make(chan struct{}), make(chan error, 2)
		addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
			coroutine.Detach(ex.Context())
			ctx := ex.Context()
			context.AfterFunc(ctx, func() { ended <- ctx.Err() })
			close(entered)
			if b := ex.Request().Body; b != nil {
				io.ReadAll(b)
			}
			<-ctx.Done()
			ended <- ctx.Err()
		}}))
		nc := dial(t, addr)
		io.WriteString(nc, request)
		<-entered
		nc.Close()
		for range 2 {
			if err := wait(t, ended, "end of the context"); err != context.Canceled {
				t.Errorf("the context ended with %v", err)
			}
		}
	}
}

func TestTheContextEndsWithTheExchange(t *testing.T) { bothWays(t, testTheContextEndsWithTheExchange) }

func testTheContextEndsWithTheExchange(t *testing.T, by way) {
	contexts := make(chan context.Context, 2)
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
		coroutine.Detach(ex.Context())
		ctx, cancel := context.WithTimeout(ex.Context(), time.Hour)
		defer cancel()
		if ctx.Err() != nil || ex.Context() != ex.Context() {
			t.Error("the context is not right")
		}
		// Longer than what makes the engine watch the connection.
		time.Sleep(2 * watchDelay)
		contexts <- ex.Context()
		respond(t, ex, 200, nil, "ok")
	}}))
	nc := dial(t, addr)
	for range 3 {
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if got := readResponses(t, nc, 1)[0]; got != "200 ok" {
			t.Errorf("got %q", got)
		}
		ctx := wait(t, contexts, "context")
		select {
		case <-ctx.Done():
		case <-time.After(patience):
			t.Error("the context did not end with its exchange")
		}
		called := make(chan struct{})
		context.AfterFunc(ctx, func() { close(called) })
		wait(t, called, "call after the end")
	}
}

func TestAPipelinedRequestIsNotLostToTheWatch(t *testing.T) {
	bothWays(t, testAPipelinedRequestIsNotLostToTheWatch)
}

func testAPipelinedRequestIsNotLostToTheWatch(t *testing.T, by way) {
	watching := make(chan struct{}, 1)
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
		coroutine.Detach(ex.Context())
		if ex.Request().Target == "/first" {
			done := ex.Context().Done()
			select {
			case <-done:
				t.Error("the context ended though the client is there")
			case <-time.After(3 * watchDelay):
			}
			watching <- struct{}{}
			time.Sleep(watchDelay) // for the second request to be read ahead
		}
		respond(t, ex, 200, nil, ex.Request().Target)
	}}))
	nc := dial(t, addr)
	io.WriteString(nc, "GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
	wait(t, watching, "watch")
	io.WriteString(nc, "GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
	if got := readResponses(t, nc, 2); got[0] != "200 /first" || got[1] != "200 /second" {
		t.Errorf("got %q", got)
	}
}

func TestAStreamIsFlushedWithoutBeingAsked(t *testing.T) {
	bothWays(t, testAStreamIsFlushedWithoutBeingAsked)
}

func testAStreamIsFlushedWithoutBeingAsked(t *testing.T, by way) {
	release := make(chan struct{})
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
		length := int64(-1)
		if ex.Request().Target == "/length" {
			length = 6
		}
		ex.Respond(200, nil, length)
		io.WriteString(ex, "one")
		<-release
		io.WriteString(ex, "two")
	}}))
	for _, target := range []string{"/", "/length"} {
		nc := dial(t, addr)
		io.WriteString(nc, "GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n")
		br := bufio.NewReader(nc)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 3)
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "one" {
			t.Errorf("got %q, %v", buf, err)
		}
		release <- struct{}{}
		if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "two" {
			t.Errorf("got %q, %v", rest, err)
		}
	}
}

func TestASmallResponseIsOneWrite(t *testing.T) { bothWays(t, testASmallResponseIsOneWrite) }

func testASmallResponseIsOneWrite(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
		length := int64(1000)
		if ex.Request().Target == "/chunked" {
			length = -1
		}
		ex.Respond(200, nil, length)
		for range 10 {
			ex.Write(make([]byte, 100))
		}
	}}))
	for _, target := range []string{"/", "/chunked"} {
		nc := dial(t, addr)
		io.WriteString(nc, "GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n")
		buf := make([]byte, 8000)
		n, err := nc.Read(buf)
		if err != nil || n < 1000 {
			t.Errorf("%s: the first read has %d bytes, %v", target, n, err)
		}
	}
}

func TestNothingIsLeftBehind(t *testing.T) { bothWays(t, testNothingIsLeftBehind) }

func testNothingIsLeftBehind(t *testing.T, by way) {
	before := runtime.NumGoroutine()
	t.Run("work", func(t *testing.T) {
		addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
			coroutine.Detach(ex.Context())
			ctx, cancel := context.WithTimeout(ex.Context(), time.Minute)
			defer cancel()
			if ex.Request().Target == "/wait" {
				<-ctx.Done()
				return
			}
			ex.Respond(200, nil, -1)
			ex.Write(make([]byte, 100_000))
		}}))
		cl := newClient(t, addr)
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				r := get("/")
				if i%2 == 0 {
					r = post("/wait", slow{io.LimitReader(zeros{}, 10<<20)}, -1)
				}
				resp, err := cl.RoundTrip(ctx, r, proxy.RoundTripOptions{})
				if err == nil {
					resp.Body.Close()
				}
			})
		}
		wg.Wait()
	})
	awaitGoroutines(t, before)
}

// awaitGoroutines waits until there are no more goroutines than there were.
func awaitGoroutines(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
