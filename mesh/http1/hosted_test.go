package http1

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// A way is how a server runs its handlers.
type way func(*Server) *Server

// bothWays runs a test with handlers that have goroutines of their own and with
// ones that are coroutines.
func bothWays(t *testing.T, test func(*testing.T, way)) {
	t.Run("goroutines", func(t *testing.T) { test(t, func(s *Server) *Server { return s }) })
	t.Run("coroutines", func(t *testing.T) { test(t, asCoroutines) })
}

func asCoroutines(s *Server) *Server {
	s.Inline = func(*proxy.Request) bool { return true }
	return s
}

// passOn is a handler that passes everything on to rt.
func passOn(rt proxy.RoundTripper) proxy.Handler {
	var f proxy.Forwarder
	return func(ex proxy.Exchange) {
		if out := f.Forward(ex.Context(), ex, rt, proxy.ForwardOptions{}); out.Err != nil && !out.Started {
			ex.Respond(502, nil, proxy.UnknownLength)
			io.WriteString(ex, out.Err.Error())
		}
	}
}

// serveInline returns the address of a server whose handlers are coroutines that
// pass everything on to rt.
func serveInline(t *testing.T, rt proxy.RoundTripper) string {
	return serve(t, asCoroutines(&Server{Handler: passOn(rt)}))
}

// gated is a server that answers only when it is told to.
type gated struct {
	asked  chan string   // the targets of the requests that have come
	answer chan struct{} // one of them may be answered
	gone   chan struct{} // the asker of one of them has gone
}

// serveGated returns a gated server and a client of it, whose first connection is
// there, so that coroutines need not wait for that.
func serveGated(t *testing.T) (*gated, *Client) {
	g := &gated{make(chan string, 100), make(chan struct{}, 100), make(chan struct{}, 100)}
	cl := newClient(t, serve(t, &Server{Handler: func(ex proxy.Exchange) {
		target := ex.Request().Target
		if target == "/warm" {
			respond(t, ex, 200, nil, "")
			return
		}
		g.asked <- target
		select {
		case <-g.answer:
			respond(t, ex, 200, nil, target)
		case <-ex.Context().Done():
			g.gone <- struct{}{}
		}
	}}))
	fetch(t, cl, get("/warm"))
	return g, cl
}

func TestAHandlerThatWaitsAsACoroutineIsToldThatItsClientHasGone(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn){
		"closed":      func(nc *net.TCPConn) { nc.Close() },
		"reset":       func(nc *net.TCPConn) { nc.SetLinger(0); nc.Close() },
		"half closed": func(nc *net.TCPConn) { nc.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			g, cl := serveGated(t)
			failed := make(chan error, 1)
			f := passOn(cl)
			addr := serve(t, asCoroutines(&Server{Handler: func(ex proxy.Exchange) {
				ctx := ex.Context()
				f(ex)
				failed <- ctx.Err()
			}}))
			nc := dial(t, addr)
			io.WriteString(nc, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
			wait(t, g.asked, "request")
			leave(nc)
			if err := wait(t, failed, "end of the handler"); err != context.Canceled {
				t.Errorf("the context ended with %v", err)
			}
			wait(t, g.gone, "end of the connection to the server behind")
		})
	}
}

func TestAClientThatHasNothingMoreToAskGetsItsResponse(t *testing.T) {
	addr := serveInline(t, newClient(t, serve(t, &Server{Handler: echo(t)})))
	for range 10 {
		nc := dial(t, addr)
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		nc.CloseWrite()
		if got, err := io.ReadAll(nc); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200") {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

func TestPipelinedRequestsThatWaitAsCoroutinesAreAnsweredInOrder(t *testing.T) {
	g, cl := serveGated(t)
	nc := dial(t, serveInline(t, cl))
	// The second comes with the first, the third while the second is under way.
	io.WriteString(nc, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
	if got := wait(t, g.asked, "request"); got != "/1" {
		t.Fatalf("got %s", got)
	}
	g.answer <- struct{}{}
	if got := wait(t, g.asked, "request"); got != "/2" {
		t.Fatalf("got %s", got)
	}
	io.WriteString(nc, "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
	g.answer <- struct{}{}
	if got := wait(t, g.asked, "request"); got != "/3" {
		t.Fatalf("got %s", got)
	}
	g.answer <- struct{}{}
	if got := readResponses(t, nc, 3); got[0] != "200 /1" || got[1] != "200 /2" || got[2] != "200 /3" {
		t.Errorf("got %q", got)
	}
}

// The time in which a connection is idle begins with the end of an exchange,
// however long that took.
func TestAnExchangeAsACoroutineIsNotIdle(t *testing.T) {
	const idle = 100 * time.Millisecond
	g, cl := serveGated(t)
	nc := dial(t, serve(t, asCoroutines(&Server{Handler: passOn(cl), IdleTimeout: idle})))
	br := bufio.NewReader(nc)
	var began time.Time
	for range 3 {
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		wait(t, g.asked, "request")
		time.Sleep(5 * idle / 2) // what is tested is that this is not too long
		began = time.Now()
		g.answer <- struct{}{}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
	}
	if got, err := io.ReadAll(br); len(got) > 0 || err != nil {
		t.Errorf("the idle connection ended with %q, %v", got, err)
	}
	if after := time.Since(began); after < idle-idle/8 {
		t.Errorf("it was closed after %s", after)
	}
}

func TestShutdownWaitsForHandlersThatWaitAsCoroutines(t *testing.T) {
	g, cl := serveGated(t)
	s := asCoroutines(&Server{Handler: passOn(cl)})
	addr, served := start(t, s)
	idle, busy := dial(t, addr), dial(t, addr)
	io.WriteString(idle, "GET /idle HTTP/1.1\r\nHost: a\r\n\r\n")
	wait(t, g.asked, "request")
	g.answer <- struct{}{}
	readResponses(t, idle, 1)
	io.WriteString(busy, "GET /busy HTTP/1.1\r\nHost: a\r\n\r\n")
	wait(t, g.asked, "request")
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(t.Context()) }()
	if got, err := io.ReadAll(idle); len(got) > 0 || err != nil {
		t.Errorf("the idle connection ended with %q, %v", got, err)
	}
	select {
	case err := <-down:
		t.Fatalf("Shutdown returned %v with a request under way", err)
	default:
	}
	g.answer <- struct{}{}
	if got, err := io.ReadAll(busy); err != nil || !strings.Contains(string(got), "Connection: close\r\n\r\n/busy") {
		t.Errorf("the request under way got %q, %v", got, err)
	}
	if err := wait(t, down, "end of Shutdown"); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := wait(t, served, "end of Serve"); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestCloseEndsHandlersThatWaitAsCoroutines(t *testing.T) {
	g, cl := serveGated(t)
	s := asCoroutines(&Server{Handler: passOn(cl)})
	addr, served := start(t, s)
	nc := dial(t, addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	wait(t, g.asked, "request")
	s.Close()
	if err := wait(t, served, "end of Serve"); err != nil {
		t.Errorf("Serve: %v", err)
	}
	wait(t, g.gone, "end of the connection to the server behind")
}

func TestRequestsThatArePassedOnNeverFailWhileAServerShutsDown(t *testing.T) {
	backend := serve(t, &Server{Handler: func(ex proxy.Exchange) { respond(t, ex, 200, nil, "ok") }})
	for round := range 20 {
		cl := newClient(t, backend)
		s := asCoroutines(&Server{Handler: passOn(cl)})
		addr, served := start(t, s)
		var wg sync.WaitGroup
		begun := make(chan struct{}, 1000)
		for range 4 {
			nc := dial(t, addr)
			wg.Go(func() { askUntilClosed(t, nc, begun) })
		}
		for range 4 * round {
			<-begun
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := wait(t, served, "end of Serve"); err != nil {
			t.Errorf("Serve: %v", err)
		}
		wg.Wait()
	}
}

// askUntilClosed sends requests until the server closes the connection, which it
// must not do within a response. It says so when one was answered.
func askUntilClosed(t *testing.T, nc net.Conn, answered chan<- struct{}) {
	br := bufio.NewReader(nc)
	for {
		if _, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			return
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return // closed when idle: the client may send again
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" || resp.StatusCode != 200 {
			t.Errorf("got %d %q, %v", resp.StatusCode, body, err)
		}
		select {
		case answered <- struct{}{}:
		default:
		}
		if resp.Close {
			return
		}
	}
}

// A client that is used by coroutines, by goroutines and by ones that began as the
// former keeps them apart.
func TestAClientOfCoroutinesAndGoroutines(t *testing.T) {
	cl := newClient(t, serve(t, &Server{Handler: echo(t)}))
	inline := serveInline(t, cl)
	detached := serve(t, asCoroutines(&Server{Handler: func(ex proxy.Exchange) {
		if strings.HasPrefix(ex.Request().Target, "/3") {
			coroutine.Detach(ex.Context())
		}
		passOn(cl)(ex)
	}}))
	var wg sync.WaitGroup
	for i := range 8 {
		rt := []proxy.RoundTripper{cl, newClient(t, inline), newClient(t, detached)}[i%3]
		wg.Go(func() {
			for n := range 200 {
				r := post(fmt.Sprintf("/%d/%d", n%5, i), strings.NewReader(fmt.Sprint(n)), int64(len(fmt.Sprint(n))))
				want := fmt.Sprintf("/%d/%d\n", n%5, i)
				if status, body, _ := fetch(t, rt, r); status != 200 || !strings.Contains(body, want) || !strings.Contains(body, fmt.Sprintf("] %d <nil>", n)) {
					t.Errorf("got %d %q", status, body)
				}
			}
		})
	}
	wg.Wait()
}

func TestTimeoutsOfACoroutine(t *testing.T) {
	g, cl := serveGated(t)
	got := make(chan error, 1)
	addr := serve(t, asCoroutines(&Server{Handler: func(ex proxy.Exchange) {
		opts, ctx := proxy.RoundTripOptions{}, ex.Context()
		if ex.Request().Target == "/head" {
			opts.HeadTimeout = 30 * time.Millisecond
		} else {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, 30*time.Millisecond)
			defer cancel()
		}
		_, err := cl.RoundTrip(ctx, get(ex.Request().Target), opts)
		got <- err
		respond(t, ex, 504, nil, "")
	}}))
	for target, want := range map[string]string{"/head": "did not answer within 30ms", "/context": "wait for the response of"} {
		nc := dial(t, addr)
		io.WriteString(nc, "GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n")
		if err := wait(t, got, "error"); !fault.Is(err, fault.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", target, err)
		}
		wait(t, g.gone, "end of the connection to the server behind")
		fetch(t, cl, get("/warm"))
	}
}

func TestNothingIsLeftOfCoroutinesAndAttendants(t *testing.T) {
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	t.Run("work", func(t *testing.T) {
		g, cl := serveGated(t)
		addr := serveInline(t, cl)
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				nc := dial(t, addr)
				io.WriteString(nc, "GET /warm HTTP/1.1\r\nHost: a\r\n\r\n")
				readResponses(t, nc, 1)
				io.WriteString(nc, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
				wait(t, g.asked, "request")
				if i%2 == 0 {
					nc.Close() // the others wait until the servers are closed
				}
			})
		}
		wg.Wait()
	})
	awaitGoroutines(t, goroutines)
	if now := openFiles(t); now > files {
		t.Errorf("%d open files, %d before", now, files)
	}
}

// openFiles returns how many descriptors are open, where that can be told.
func openFiles(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	return len(all)
}
