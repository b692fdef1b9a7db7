package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// serve runs a server until the test ends and returns its address.
func serve(t testing.TB, s *Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, s, ln)
	return ln.Addr().String()
}

func serveOn(t testing.TB, s *Server, ln net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve did not return after Close")
		}
	})
}

// respond answers with a status, a length and content, and fails the test if
// the engine does not take it.
func respond(t testing.TB, ex proxy.Exchange, status int, h proxy.Header, body string) {
	t.Helper()
	if err := ex.Respond(status, h, int64(len(body))); err != nil {
		t.Errorf("Respond: %v", err)
	}
	if _, err := ex.Write([]byte(body)); err != nil && body != "" {
		t.Errorf("Write: %v", err)
	}
}

// echo answers with the request line, the fields, and the content.
func echo(t testing.TB) proxy.Handler {
	return func(ex proxy.Exchange) {
		r := ex.Request()
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s %s\n", r.Method, r.Authority, r.Target)
		for _, f := range r.Header {
			fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
		}
		if r.Body != nil {
			content, err := io.ReadAll(r.Body)
			fmt.Fprintf(&b, "[%d] %s %v\n", r.ContentLength, content, err)
			for _, f := range *trailerOf(r) {
				fmt.Fprintf(&b, "trailer %s: %s\n", f.Name, f.Value)
			}
		}
		respond(t, ex, 200, nil, b.String())
	}
}

func trailerOf(r *proxy.Request) *proxy.Header {
	if r.Trailer == nil {
		return new(proxy.Header)
	}
	return r.Trailer
}

// dial connects to a server and bounds how long the test waits for it.
func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { nc.Close() })
	return nc.(*net.TCPConn)
}

// roundTrip sends raw bytes and returns all that comes until the server closes
// the connection.
func roundTrip(t testing.TB, addr, raw string) string {
	t.Helper()
	nc := dial(t, addr)
	if _, err := io.WriteString(nc, raw); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(nc)
	if err != nil {
		t.Fatalf("read: %v after %q", err, got)
	}
	return string(got)
}

// readResponses parses n responses from the connection.
func readResponses(t testing.TB, nc net.Conn, n int) []string {
	t.Helper()
	br := bufio.NewReader(nc)
	var out []string
	for range n {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("response %d: %v", len(out), err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("body of response %d: %v", len(out), err)
		}
		out = append(out, fmt.Sprintf("%d %s", resp.StatusCode, body))
	}
	return out
}

func TestAHandlerThatLeavesTheBodyUnread(t *testing.T) {
	bothWays(t, testAHandlerThatLeavesTheBodyUnread)
}

func testAHandlerThatLeavesTheBodyUnread(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) { respond(t, ex, 200, nil, "ok") }}))
	tests := []struct {
		name string
		size int
		kept bool
	}{{"small", 1000, true}, {"at the bound", drainLimit, true}, {"large", 50 << 20, false}}
	for _, tt := range tests {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked %v", tt.name, chunked), func(t *testing.T) {
				nc := dial(t, addr)
				go func() {
					if chunked {
						fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", tt.size)
					} else {
						fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", tt.size)
					}
					nc.Write(make([]byte, tt.size))
					if chunked {
						io.WriteString(nc, "\r\n0\r\n\r\n")
					}
					io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				}()
				br := bufio.NewReader(nc)
				if line, err := br.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
					t.Fatalf("got %q, %v", line, err)
				}
				if !tt.kept {
					return
				}
				br.ReadString('k')
				for !bytes.Equal(must(br.Peek(4)), []byte("HTTP")) {
					br.ReadByte()
				}
			})
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestExpectContinueIsSentWhenTheBodyIsRead(t *testing.T) {
	bothWays(t, testExpectContinueIsSentWhenTheBodyIsRead)
}

func testExpectContinueIsSentWhenTheBodyIsRead(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
		if ex.Request().Target == "/no" {
			respond(t, ex, 403, nil, "no")
			return
		}
		body, err := io.ReadAll(ex.Request().Body)
		respond(t, ex, 200, nil, fmt.Sprintf("%s %v", body, err))
	}}))
	t.Run("read", func(t *testing.T) {
		nc := dial(t, addr)
		io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
		br := bufio.NewReader(nc)
		got := must(br.ReadString('\n')) + must(br.ReadString('\n'))
		if got != "HTTP/1.1 100 Continue\r\n\r\n" {
			t.Fatalf("got %q", got)
		}
		io.WriteString(nc, "abc")
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body := must(io.ReadAll(resp.Body)); string(body) != "abc <nil>" {
			t.Errorf("got %q", body)
		}
	})
	t.Run("not read", func(t *testing.T) {
		got := roundTrip(t, addr, "POST /no HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 403") || !strings.Contains(got, "Connection: close") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("sent at once", func(t *testing.T) {
		nc := dial(t, addr)
		io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
		if got := readResponses(t, nc, 1)[0]; got != "200 abc <nil>" && !strings.HasPrefix(got, "100") {
			t.Errorf("got %q", got)
		}
	})
}

func TestResponsesAreFramedForTheClient(t *testing.T) {
	bothWays(t, testResponsesAreFramedForTheClient)
}

func testResponsesAreFramedForTheClient(t *testing.T, by way) {
	tests := []struct {
		name, request string
		status        int
		length        int64
		body          string
		want          string // after the Date, without it
	}{
		{"length", "GET / HTTP/1.1", 200, 2, "ab", "Content-Length: 2\r\n\r\nab"},
		{"chunked", "GET / HTTP/1.1", 200, -1, "ab", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"},
		{"empty", "GET / HTTP/1.1", 200, 0, "", "Content-Length: 0\r\n\r\n"},
		{"HEAD", "HEAD / HTTP/1.1", 200, 2, "ab", "Content-Length: 2\r\n\r\n"},
		{"HEAD of unknown length", "HEAD / HTTP/1.1", 200, -1, "ab", "\r\n"},
		{"204", "GET / HTTP/1.1", 204, 0, "", "\r\n"},
		{"304", "GET / HTTP/1.1", 304, 7, "", "Content-Length: 7\r\n\r\n"},
		{"304 of unknown length", "GET / HTTP/1.1", 304, -1, "", "\r\n"},
		{"HTTP/1.0", "GET / HTTP/1.0", 200, 2, "ab", "Content-Length: 2\r\nConnection: close\r\n\r\nab"},
		{"HTTP/1.0 kept", "GET / HTTP/1.0\r\nConnection: keep-alive", 200, 2, "ab", "Content-Length: 2\r\nConnection: keep-alive\r\n\r\nab"},
		{"HTTP/1.0 of unknown length", "GET / HTTP/1.0\r\nConnection: keep-alive", 200, -1, "ab", "Connection: close\r\n\r\nab"},
		{"close", "GET / HTTP/1.1\r\nConnection: close", 200, 2, "ab", "Content-Length: 2\r\nConnection: close\r\n\r\nab"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
				h := proxy.Header{{Name: "Content-Length", Value: "99"}, {Name: "Connection", Value: "x"}, {Name: "Transfer-Encoding", Value: "gzip"}}
				if err := ex.Respond(tt.status, h, tt.length); err != nil {
					t.Errorf("Respond: %v", err)
				}
				if tt.body != "" {
					if n, err := io.WriteString(ex, tt.body); n != len(tt.body) || err != nil {
						t.Errorf("Write: %d, %v", n, err)
					}
				}
			}}))
			nc := dial(t, addr)
			io.WriteString(nc, tt.request+"\r\nHost: a\r\n\r\n")
			nc.CloseWrite()
			got := string(must(io.ReadAll(nc)))
			_, got, _ = strings.Cut(got, "\r\n")
			date, got, _ := strings.Cut(got, "\r\n")
			if _, err := http.ParseTime(strings.TrimPrefix(date, "Date: ")); err != nil {
				t.Errorf("the first field is no Date: %q", date)
			}
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestAResponseThatIsTooShortEndsTheConnection(t *testing.T) {
	bothWays(t, testAResponseThatIsTooShortEndsTheConnection)
}

func testAResponseThatIsTooShortEndsTheConnection(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
		ex.Respond(200, nil, 10)
		io.WriteString(ex, "abc")
	}}))
	nc := dial(t, addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	resp := must(http.ReadResponse(bufio.NewReader(nc), nil))
	if body, err := io.ReadAll(resp.Body); err != io.ErrUnexpectedEOF {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestMisuseOfAnExchangeIsAnError(t *testing.T) {
	done := make(chan struct{})
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		defer close(done)
		wrong := func(what string, err error) {
			if err == nil {
				t.Errorf("%s is accepted", what)
			}
		}
		_, err := ex.Write([]byte("x"))
		wrong("Write before Respond", err)
		wrong("an interim status", ex.Respond(103, nil, 0))
		wrong("status 99", ex.Respond(99, nil, 0))
		wrong("a field with a line break", ex.Respond(200, proxy.Header{{Name: "X", Value: "a\r\nSet-Cookie: b"}}, 0))
		wrong("a field with a bare CR", ex.Respond(200, proxy.Header{{Name: "X", Value: "a\rb"}}, 0))
		wrong("a field with NUL", ex.Respond(200, proxy.Header{{Name: "X", Value: "a\x00b"}}, 0))
		wrong("a field name with a space", ex.Respond(200, proxy.Header{{Name: "X ", Value: "a"}}, 0))
		_, err = ex.Upgrade(nil)
		wrong("Upgrade of an ordinary request", err)
		wrong("Interim 200", ex.Interim(200, nil))
		if err := ex.Respond(200, nil, 3); err != nil {
			t.Errorf("Respond: %v", err)
		}
		wrong("a second Respond", ex.Respond(200, nil, 3))
		wrong("a late Interim", ex.Interim(103, nil))
		_, err = ex.Write([]byte("abcd"))
		wrong("a Write beyond the length", err)
		io.WriteString(ex, "abc")
		_, err = ex.Write([]byte("d"))
		wrong("a Write after the end", err)
	}})
	nc := dial(t, addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if got := readResponses(t, nc, 1)[0]; got != "200 abc" {
		t.Errorf("got %q", got)
	}
	<-done
}

func TestAHandlerThatFailsIsAnswered500(t *testing.T) {
	bothWays(t, testAHandlerThatFailsIsAnswered500)
}

func testAHandlerThatFailsIsAnswered500(t *testing.T, by way) {
	tests := []struct {
		name    string
		handler proxy.Handler
		want    string
	}{
		{"no response", func(proxy.Exchange) {}, "HTTP/1.1 500 "},
		{"panic", func(proxy.Exchange) { panic("boom") }, "HTTP/1.1 500 "},
		{"panic after the head", func(ex proxy.Exchange) {
			ex.Respond(200, nil, -1)
			io.WriteString(ex, "part")
			panic("boom")
		}, "HTTP/1.1 200 "},
		{"abort", func(ex proxy.Exchange) { ex.Abort() }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := serve(t, by(&Server{Handler: tt.handler}))
			got := roundTrip(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" || strings.HasSuffix(got, lastChunk) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestASlowClientIsDropped(t *testing.T) { bothWays(t, testASlowClientIsDropped) }

func testASlowClientIsDropped(t *testing.T, by way) {
	addr := serve(t, by(&Server{
		Handler:     echo(t),
		HeadTimeout: 100 * time.Millisecond, IdleTimeout: 150 * time.Millisecond, StallTimeout: 100 * time.Millisecond,
	}))
	t.Run("no byte", func(t *testing.T) {
		if got := roundTrip(t, addr, ""); got != "" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("a byte now and then", func(t *testing.T) {
		nc := dial(t, addr)
		go func() {
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(nc, "%.1s", "GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[min(i, 40):]); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		if got := must(bufio.NewReader(nc).ReadString('\n')); got != "HTTP/1.1 408 Request Timeout\r\n" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("idle", func(t *testing.T) {
		if got := roundTrip(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("body", func(t *testing.T) {
		got := roundTrip(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
		if !strings.Contains(got, "[10] abc the client did not send") {
			t.Errorf("got %q", got)
		}
	})
}

func TestAClientThatDoesNotReadIsDropped(t *testing.T) {
	bothWays(t, testAClientThatDoesNotReadIsDropped)
}

func testAClientThatDoesNotReadIsDropped(t *testing.T, by way) {
	failed := make(chan error, 1)
	addr := serve(t, by(&Server{StallTimeout: 100 * time.Millisecond, Handler: func(ex proxy.Exchange) {
		ex.Respond(200, nil, proxy.UnknownLength)
		for {
			if _, err := ex.Write(make([]byte, 1<<20)); err != nil {
				failed <- err
				return
			}
		}
	}}))
	nc := dial(t, addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %v, want a timeout", err)
	}
}

func TestTooManyConnections(t *testing.T) { bothWays(t, testTooManyConnections) }

func testTooManyConnections(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: echo(t), MaxConns: 2}))
	first, second := dial(t, addr), dial(t, addr)
	for _, nc := range []net.Conn{first, second} {
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		readResponses(t, nc, 1)
	}
	if got := roundTrip(t, addr, ""); !strings.HasPrefix(got, "HTTP/1.1 503") {
		t.Errorf("got %q, want 503", got)
	}
	first.Close()
	for deadline := time.Now().Add(patience); ; {
		got := roundTrip(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if strings.HasPrefix(got, "HTTP/1.1 200") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no connection is accepted after one was closed")
		}
	}
}

func TestInterimResponses(t *testing.T) { bothWays(t, testInterimResponses) }

func testInterimResponses(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
		if err := ex.Interim(103, proxy.Header{{Name: "Link", Value: "</a>"}}); err != nil {
			t.Errorf("Interim: %v", err)
		}
		respond(t, ex, 200, nil, "ok")
	}}))
	got := roundTrip(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n") {
		t.Errorf("got %q", got)
	}
	got = roundTrip(t, addr, "GET / HTTP/1.0\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
		t.Errorf("HTTP/1.0: got %q", got)
	}
}

func TestTrailersEndAChunkedResponse(t *testing.T) { bothWays(t, testTrailersEndAChunkedResponse) }

func testTrailersEndAChunkedResponse(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
		length := int64(-1)
		if ex.Request().Target == "/length" {
			length = 2
		}
		ex.Respond(200, nil, length)
		io.WriteString(ex, "ok")
		if err := ex.Trailer(proxy.Header{{Name: "X-Sum", Value: "1"}, {Name: "Content-Length", Value: "9"}}); err != nil {
			t.Errorf("Trailer: %v", err)
		}
	}}))
	if got := roundTrip(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n") {
		t.Errorf("got %q", got)
	}
	if got := roundTrip(t, addr, "GET /length HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "\r\n\r\nok") {
		t.Errorf("got %q", got)
	}
}

func TestAnAbortCannotBeTakenForTheEndOfTheContent(t *testing.T) {
	bothWays(t, testAnAbortCannotBeTakenForTheEndOfTheContent)
}

func testAnAbortCannotBeTakenForTheEndOfTheContent(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
		ex.Respond(200, nil, -1)
		io.WriteString(ex, "part")
		ex.Flush()
		if ex.Request().Target == "/panic" {
			panic("boom")
		}
		ex.Abort()
	}}))
	for _, request := range []string{
		"GET / HTTP/1.0\r\n\r\n", "GET /panic HTTP/1.0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		nc := dial(t, addr)
		io.WriteString(nc, request)
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			continue // the reset was faster
		}
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%q: %q is taken for all of the content", request, body)
		}
	}
}

// BenchmarkIdleConnection measures the memory of a connection that waits for its
// next request, with its goroutine, less that of the two sockets.
func BenchmarkIdleConnection(b *testing.B) {
	const n = 500
	memory := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse + m.StackInuse)
	}
	addr := serve(b, &Server{Handler: func(ex proxy.Exchange) { respond(b, ex, 200, nil, "ok") }})
	connect := func() []net.Conn {
		var conns []net.Conn
		for range n {
			conns = append(conns, dial(b, addr))
		}
		return conns
	}
	sockets := func() float64 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer ln.Close()
		before, open := memory(), []net.Conn{}
		for range n {
			client := dial(b, ln.Addr().String())
			open = append(open, client, must(ln.Accept()))
		}
		used := memory() - before
		for _, nc := range open {
			nc.Close()
		}
		return used
	}()
	for b.Loop() {
		before := memory()
		conns := connect()
		for _, nc := range conns {
			io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if _, err := nc.Read(make([]byte, 200)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric((memory()-before-sockets)/n, "B/conn")
		for _, nc := range conns {
			nc.Close()
		}
	}
}
