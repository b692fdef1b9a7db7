package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// noDeadline lifts a deadline.
var noDeadline time.Time

// hop runs a server that forwards everything to the address, and returns its
// own. done, when not nil, is told how each exchange went.
func hop(t testing.TB, to string, opts proxy.ForwardOptions, done chan<- proxy.Outcome) string {
	t.Helper()
	cl := &http1.Client{Address: to, Name: "backend"}
	t.Cleanup(func() { cl.Close() })
	return listen(t, &http1.Server{Handler: forward(cl, opts, done)})
}

// forward is a handler that forwards everything to rt.
func forward(rt proxy.RoundTripper, opts proxy.ForwardOptions, done chan<- proxy.Outcome) proxy.Handler {
	f := new(proxy.Forwarder)
	return func(ex proxy.Exchange) {
		out := f.Forward(ex.Context(), ex, rt, opts)
		if out.Err != nil && !out.Started {
			text := fault.Message(out.Err)
			ex.Respond(502, nil, int64(len(text)))
			io.WriteString(ex, text)
		}
		if done != nil {
			done <- out
		}
	}
}

func listen(t testing.TB, s *http1.Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr().String()
}

// chains are the ways on which a request passes two servers of this module, by
// the versions of HTTP that are spoken before, between and behind them. Each
// returns the address to which the requests go.
var chains = []struct {
	name  string
	build func(t testing.TB, to string) string
}{
	{"1-1-1", func(t testing.TB, to string) string {
		return hop(t, hop(t, to, proxy.ForwardOptions{}, nil), proxy.ForwardOptions{}, nil)
	}},
	{"1-2-1", func(t testing.TB, to string) string {
		last := &http1.Client{Address: to, Name: "backend"}
		t.Cleanup(func() { last.Close() })
		middle := &http2.Client{Addr: listen2(t, &http2.Server{Handler: forward(last, proxy.ForwardOptions{}, nil)})}
		t.Cleanup(func() { middle.Close() })
		return listen(t, &http1.Server{Handler: forward(middle, proxy.ForwardOptions{}, nil)})
	}},
}

// startBackend runs net/http behind a chain and returns where requests go.
type startBackend func(h http.HandlerFunc) (addr string)

// eachChain runs a test on each of the chains.
func eachChain(t *testing.T, test func(t *testing.T, backend startBackend)) {
	for _, chain := range chains {
		t.Run(chain.name, func(t *testing.T) {
			test(t, func(h http.HandlerFunc) string {
				srv := httptest.NewServer(h)
				t.Cleanup(srv.Close)
				return chain.build(t, srv.Listener.Addr().String())
			})
		})
	}
}

func listen2(t testing.TB, s *http2.Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return ln.Addr().String()
}

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

func TestAForwardedExchangeIsTheSameAsADirectOne(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		handler := func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			r.Header.Del("Connection") // each client's own
			w.Header().Set("X-Seen", fmt.Sprintf("%s %s %s len=%d te=%v fields=%v body=%x err=%v trailer=%v", r.Method, r.Host, r.RequestURI,
				r.ContentLength, r.TransferEncoding, r.Header, sha256.Sum256(body), err, r.Trailer))
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			switch r.URL.Path {
			case "/204":
				w.WriteHeader(204)
			case "/304":
				w.Header().Set("Etag", `"x"`)
				w.WriteHeader(304)
			case "/404":
				http.Error(w, "no such thing", 404)
			case "/chunked":
				for i := range 100 {
					fmt.Fprintf(w, "part %d\n", i)
					w.(http.Flusher).Flush()
				}
			case "/trailers":
				w.Header().Set("Trailer", "X-Sum")
				io.WriteString(w, "content")
				w.Header().Set("X-Sum", "1")
				w.Header().Set(http.TrailerPrefix+"X-Late", "2")
			case "/large":
				w.Header().Set("Content-Length", "3000000")
				w.Write(bytes.Repeat([]byte("0123456789"), 300_000))
			case "/empty":
			default:
				w.Write(body)
			}
		}
		direct := httptest.NewServer(http.HandlerFunc(handler))
		defer direct.Close()
		forwarded := backend(handler)

		const big = 2_000_000
		tests := []struct {
			name, method, target string
			header               http.Header
			body                 func() io.Reader
			trailer              bool
		}{
			{name: "GET", method: "GET", target: "/a/b%2Fc?d=e&f=%20"},
			{name: "HEAD", method: "HEAD", target: "/large"},
			{name: "OPTIONS", method: "OPTIONS", target: "/"},
			{name: "204", method: "GET", target: "/204"},
			{name: "304", method: "GET", target: "/304"},
			{name: "404", method: "GET", target: "/404"},
			{name: "empty", method: "GET", target: "/empty"},
			{name: "chunked", method: "GET", target: "/chunked"},
			{name: "trailers", method: "GET", target: "/trailers", header: http.Header{"Te": {"trailers"}}},
			{name: "large", method: "GET", target: "/large"},
			{name: "fields", method: "GET", target: "/", header: http.Header{"X-A": {"1", "2"}, "Authorization": {"Bearer x"}, "Cookie": {"a=b"}, "User-Agent": {"test"}}},
			{name: "POST without content", method: "POST", target: "/"},
			{name: "small POST", method: "POST", target: "/", body: func() io.Reader { return strings.NewReader("abc") }},
			{name: "large POST", method: "POST", target: "/", body: func() io.Reader { return strings.NewReader(strings.Repeat("x", big)) }},
			{name: "chunked POST", method: "POST", target: "/", body: func() io.Reader { return struct{ io.Reader }{strings.NewReader("abc")} }},
			{name: "large chunked POST", method: "POST", target: "/", body: func() io.Reader { return struct{ io.Reader }{strings.NewReader(strings.Repeat("x", big))} }},
			{name: "POST with trailers", method: "POST", target: "/", body: func() io.Reader { return struct{ io.Reader }{strings.NewReader("abc")} }, trailer: true},
			{name: "POST that expects 100", method: "POST", target: "/", header: http.Header{"Expect": {"100-continue"}}, body: func() io.Reader { return strings.NewReader("abc") }},
		}
		client := &http.Client{Transport: &http.Transport{DisableCompression: true, ExpectContinueTimeout: patience}}
		defer client.CloseIdleConnections()
		fetch := func(t *testing.T, addr string, i int) string {
			tt := tests[i]
			var body io.Reader
			if tt.body != nil {
				body = tt.body()
			}
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+addr+tt.target, body)
			if err != nil {
				t.Fatal(err)
			}
			if tt.header != nil {
				req.Header = tt.header.Clone()
			}
			if tt.trailer {
				req.Trailer = http.Header{"X-Sum": {"1"}}
			}
			req.Host = "example.org"
			resp, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", addr, err)
			}
			defer resp.Body.Close()
			content, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatalf("%s: body: %v", addr, err)
			}
			resp.Header.Del("Date")
			return fmt.Sprintf("%s len=%d te=%v %v body=%d %x trailer=%v", resp.Status, resp.ContentLength, resp.TransferEncoding, resp.Header, len(content), sha256.Sum256(content), resp.Trailer)
		}
		for range 2 {
			for i, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					want, got := fetch(t, direct.Listener.Addr().String(), i), fetch(t, forwarded, i)
					if got != want {
						t.Errorf("forwarded: %s\ndirect:    %s", got, want)
					}
				})
			}
		}
	})
}

func TestWhatBelongsToOneConnectionStaysThere(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		addr := backend(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "X-Hop-Back")
			w.Header().Set("X-Hop-Back", "1")
			w.Header().Set("Keep-Alive", "timeout=5")
			w.Header().Set("Proxy-Authenticate", "Basic")
			w.Header().Set("X-End", "kept")
			fmt.Fprint(w, r.Header)
		})
		nc := dial(t, addr)
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n"+
			"Proxy-Authorization: Basic x\r\nTE: gzip;q=1, trailers\r\nUpgrade: none\r\nX-End: kept\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		if got, want := string(body), "map[Connection:[TE] Te:[trailers] X-End:[kept]]"; got != want {
			t.Errorf("the server saw %s, want %s", got, want)
		}
		for _, name := range []string{"Connection", "X-Hop-Back", "Keep-Alive", "Proxy-Authenticate"} {
			if v := resp.Header.Get(name); v != "" {
				t.Errorf("the client saw %s: %s", name, v)
			}
		}
		if resp.Header.Get("X-End") != "kept" {
			t.Error("the client did not see X-End")
		}
	})
}

func TestRewriteChangesWhatIsForwardedAndNothingElse(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s %v", r.Method, r.Host, r.RequestURI, r.Header)
	}))
	defer srv.Close()
	cl := &http1.Client{Address: srv.Listener.Addr().String()}
	defer cl.Close()
	var f proxy.Forwarder
	addr := listen(t, &http1.Server{Handler: func(ex proxy.Exchange) {
		f.Forward(ex.Context(), ex, cl, proxy.ForwardOptions{
			Rewrite: func(_ context.Context, ex proxy.Exchange, r *proxy.Request) {
				r.Method, r.Authority, r.Target = "PUT", "other", "/new"
				r.Header.Set("X-Forwarded-For", ex.Remote().Addr().String())
				r.Header.Del("X-Old")
			},
			RewriteResponse: func(_ context.Context, _ proxy.Exchange, r *proxy.Response) {
				r.Status = 201
				r.Header.Set("X-New", "1")
			},
		})
		if r := ex.Request(); r.Method != "GET" || r.Target != "/old" || !r.Header.Has("X-Old") || r.Header.Has("X-Forwarded-For") {
			t.Errorf("the exchange itself was changed: %+v", r)
		}
	}})
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+"/old", nil)
	req.Header = http.Header{"X-Old": {"1"}, "User-Agent": {""}, "Accept-Encoding": {"identity"}}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if got, want := string(body), "PUT other /new map[Accept-Encoding:[identity] Content-Length:[0] X-Forwarded-For:[127.0.0.1]]"; got != want {
		t.Errorf("the server saw %s, want %s", got, want)
	}
	if resp.StatusCode != 201 || resp.Header.Get("X-New") != "1" {
		t.Errorf("the client saw %d %v", resp.StatusCode, resp.Header)
	}
}

func TestInterimResponsesAreForwarded(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		addr := backend(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</style.css>")
			w.WriteHeader(103)
			w.Header().Del("Link")
			io.WriteString(w, "done")
		})
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, h.Get("Link")))
			return nil
		}})
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+addr, nil)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if len(hints) != 1 || hints[0] != "103</style.css>" {
			t.Errorf("got %q", hints)
		}
	})
}

func TestEventsAreNotLate(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		next, gone := make(chan int), make(chan struct{})
		addr := backend(func(w http.ResponseWriter, r *http.Request) {
			defer close(gone)
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			for {
				select {
				case i := <-next:
					fmt.Fprintf(w, "data: %d\n\n", i)
					w.(http.Flusher).Flush()
				case <-r.Context().Done():
					return
				}
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+addr, nil)
		resp, err := http.DefaultTransport.RoundTrip(req) // returns before the first event
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		br := bufio.NewReader(resp.Body)
		for i := range 20 {
			next <- i
			// The next event is not sent before this one has come.
			if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("got %q, %v", line, err)
			}
			br.ReadString('\n')
		}
		cancel()
		wait(t, gone, "cancellation at the server")
	})
}

func TestBothBodiesMayStreamAtTheSameTime(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		addr := backend(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			rc.EnableFullDuplex()
			rc.Flush()
			br := bufio.NewReader(r.Body)
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				io.WriteString(w, "echo "+line)
				rc.Flush()
			}
		})
		pr, pw := io.Pipe()
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+addr, pr)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		br := bufio.NewReader(resp.Body)
		for i := range 50 {
			fmt.Fprintf(pw, "line %d\n", i)
			if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("echo line %d\n", i) {
				t.Fatalf("got %q, %v", line, err)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
			t.Errorf("at the end: %q, %v", rest, err)
		}
	})
}

func TestWebSocketsAreForwarded(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		closed := make(chan error, 1)
		addr := backend(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}})
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			ws.SetReadLimit(-1)
			for {
				kind, p, err := ws.Read(context.Background())
				if err != nil {
					closed <- err
					return
				}
				if err := ws.Write(context.Background(), kind, p); err != nil {
					closed <- err
					return
				}
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		ws, resp, err := websocket.Dial(ctx, "ws://"+addr+"/chat", &websocket.DialOptions{Subprotocols: []string{"chat"}})
		if err != nil {
			t.Fatal(err)
		}
		if ws.Subprotocol() != "chat" || resp.StatusCode != 101 {
			t.Errorf("subprotocol %q, status %d", ws.Subprotocol(), resp.StatusCode)
		}
		ws.SetReadLimit(-1)
		for _, size := range []int{0, 1, 125, 70_000, 1 << 20} {
			if err := ws.Write(ctx, websocket.MessageBinary, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if _, p, err := ws.Read(ctx); err != nil || len(p) != size {
				t.Fatalf("got %d bytes of %d, %v", len(p), size, err)
			}
		}
		if err := ws.Close(websocket.StatusGoingAway, "bye"); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := wait(t, closed, "end at the server"); websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("the server saw %v", err)
		}
	})
}

// upgrader is a server that speaks a protocol of its own after the upgrade: it
// reads to the end, then answers with what it read, and closes.
func upgrader(t *testing.T) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Greeting: hi\r\n\r\nhello ", r.Header.Get("Upgrade"))
		rw.Flush()
		got, err := io.ReadAll(rw)
		fmt.Fprintf(rw, "%s %v", got, err)
		rw.Flush()
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestAnUpgradedStreamIsClosedInHalves(t *testing.T) {
	outcomes := make(chan proxy.Outcome, 1)
	addr := hop(t, hop(t, upgrader(t), proxy.ForwardOptions{}, nil), proxy.ForwardOptions{}, outcomes)
	nc := dial(t, addr)
	// What is sent along with the request is not lost.
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: Echo/1\r\n\r\nearly")
	time.Sleep(time.Millisecond)
	io.WriteString(nc, " late")
	nc.CloseWrite()
	got, err := io.ReadAll(nc)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(got), "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.Contains(head, "Upgrade: echo/1") || !strings.Contains(head, "X-Greeting: hi") {
		t.Errorf("got head %q", head)
	}
	if rest != "hello early late <nil>" {
		t.Errorf("got %q", rest)
	}
	out := wait(t, outcomes, "outcome")
	if out.Err != nil || out.Sent != int64(len("early late")) || out.Received != int64(len(rest)) || out.Status != 101 || !out.Started {
		t.Errorf("outcome %+v", out)
	}
}

func TestAnUpgradedStreamEndsWhenOneSideIsReset(t *testing.T) {
	outcomes := make(chan proxy.Outcome, 1)
	addr := hop(t, upgrader(t), proxy.ForwardOptions{}, outcomes)
	nc := dial(t, addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
	if _, err := bufio.NewReader(nc).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	nc.SetLinger(0)
	nc.Close()
	wait(t, outcomes, "outcome")
}

func TestLongBodiesAreStreamedInBoundedMemory(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		t.Run("length", func(t *testing.T) { streamLong(t, backend, 100<<20, true) })
		t.Run("chunked", func(t *testing.T) { streamLong(t, backend, 20<<20, false) })
	})
}

// streamLong sends content of the size in both directions.
func streamLong(t *testing.T, backend startBackend, size int64, announced bool) {
	addr := backend(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			h := sha256.New()
			n, err := io.Copy(h, r.Body)
			fmt.Fprintf(w, "%d %x %v", n, h.Sum(nil), err)
			return
		}
		if announced {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		io.Copy(w, pattern(size))
	})
	want := sha256.New()
	io.Copy(want, pattern(size))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	resp, err := http.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	got := sha256.New()
	n, err := io.Copy(got, resp.Body)
	resp.Body.Close()
	if err != nil || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("read %d bytes, %v, not what was sent", n, err)
	}

	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+addr, pattern(size))
	if announced {
		req.ContentLength = size
	}
	resp, err = http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if w := fmt.Sprintf("%d %x <nil>", size, want.Sum(nil)); string(text) != w {
		t.Errorf("the server read %s, want %s", text, w)
	}

	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 30<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// pattern returns a reader of n bytes that do not repeat in step with any
// buffer.
func pattern(n int64) io.Reader { return io.LimitReader(&patternReader{block: newBlock()}, n) }

func newBlock() []byte {
	block := make([]byte, 99_991)
	for i := range block {
		block[i] = byte(uint64(i) * 0x9e3779b97f4a7c15 >> 56)
	}
	return block
}

type patternReader struct {
	block []byte
	at    int
}

func (p *patternReader) Read(b []byte) (int, error) {
	n := copy(b, p.block[p.at:])
	p.at = (p.at + n) % len(p.block)
	return n, nil
}

func TestAClientThatGoesAwayEndsTheRequestAtTheServer(t *testing.T) {
	for _, where := range []string{"/head", "/content", "/request"} {
		t.Run(where, func(t *testing.T) {
			ended, outcomes := make(chan error, 1), make(chan proxy.Outcome, 1)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if where == "/content" {
					io.WriteString(w, "part")
					w.(http.Flusher).Flush()
				}
				if where == "/request" {
					_, err := io.ReadAll(r.Body)
					ended <- err
					return
				}
				<-r.Context().Done()
				ended <- r.Context().Err()
			}))
			defer srv.Close()
			addr := hop(t, srv.Listener.Addr().String(), proxy.ForwardOptions{}, outcomes)
			nc := dial(t, addr)
			request := "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
			if where == "/request" {
				request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc"
			}
			io.WriteString(nc, request)
			if where == "/content" {
				if _, err := bufio.NewReader(nc).ReadString('t'); err != nil {
					t.Fatal(err)
				}
			} else {
				time.Sleep(10 * time.Millisecond) // more likely to be waiting; right either way
			}
			nc.Close()
			if err := wait(t, ended, "end at the server"); err == nil {
				t.Error("the server takes the request for complete")
			}
			out := wait(t, outcomes, "outcome")
			if out.Failure != proxy.ClientGone || out.Started != (where == "/content") {
				t.Errorf("outcome %+v %v", out, out.Failure)
			}
		})
	}
}

func TestFailuresOfTheServerAreTold(t *testing.T) {
	tests := []struct {
		name    string
		serve   func(nc *net.TCPConn, br *bufio.Reader)
		opts    proxy.ForwardOptions
		request string
		failure proxy.Failure
		started bool
		want    string // of what the client sees
	}{
		{name: "no answer", serve: func(nc *net.TCPConn, br *bufio.Reader) { http.ReadRequest(br) },
			failure: proxy.NoResponse, want: "HTTP/1.1 502 Bad Gateway\r\n*backend closed the connection before it answered"},
		{name: "reset", serve: func(nc *net.TCPConn, br *bufio.Reader) { http.ReadRequest(br); nc.SetLinger(0) },
			failure: proxy.NoResponse, want: "HTTP/1.1 502 Bad Gateway\r\n*no response from backend: the connection was reset"},
		{name: "nonsense", serve: func(nc *net.TCPConn, br *bufio.Reader) { http.ReadRequest(br); io.WriteString(nc, "what?\r\n\r\n") },
			failure: proxy.NoResponse, want: "HTTP/1.1 502 Bad Gateway\r\n*the response of backend is malformed: the status line is not valid"},
		{name: "silence", serve: func(nc *net.TCPConn, br *bufio.Reader) { http.ReadRequest(br); br.ReadByte() }, opts: proxy.ForwardOptions{HeadTimeout: 30 * time.Millisecond},
			failure: proxy.TimedOut, want: "HTTP/1.1 502 Bad Gateway\r\n*backend did not answer within 30ms"},
		{name: "cut content", serve: func(nc *net.TCPConn, br *bufio.Reader) {
			http.ReadRequest(br)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		}, failure: proxy.ResponseCut, started: true, want: "HTTP/1.1 200 OK\r\n*"},
		{name: "cut chunks", serve: func(nc *net.TCPConn, br *bufio.Reader) {
			http.ReadRequest(br)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		}, failure: proxy.ResponseCut, started: true, want: "HTTP/1.1 200 OK\r\n*"},
		{name: "cut long content", serve: func(nc *net.TCPConn, br *bufio.Reader) {
			http.ReadRequest(br)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"+strings.Repeat("x", 1_000_000))
		}, failure: proxy.ResponseCut, started: true, want: "HTTP/1.1 200 OK\r\n*"},
		{name: "malformed request content", serve: func(nc *net.TCPConn, br *bufio.Reader) { io.Copy(io.Discard, br) },
			request: "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
			failure: proxy.RequestBody, want: "HTTP/1.1 502 Bad Gateway\r\n*the body of the request is malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				tt.serve(nc.(*net.TCPConn), bufio.NewReader(nc))
				nc.Close()
			})
			defer wg.Wait()
			defer ln.Close()
			outcomes := make(chan proxy.Outcome, 1)
			nc := dial(t, hop(t, ln.Addr().String(), tt.opts, outcomes))
			if tt.request == "" {
				tt.request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
			}
			io.WriteString(nc, tt.request)
			nc.SetReadDeadline(time.Now().Add(patience))
			out := wait(t, outcomes, "outcome")
			if out.Failure != tt.failure || out.Started != tt.started || out.Err == nil {
				t.Errorf("outcome %+v: %v", out, out.Failure)
			}
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				if tt.started { // the head may have gone with the rest
					return
				}
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if tt.started && err == nil {
				t.Error("the client takes the response for complete")
			}
			head, text, _ := strings.Cut(tt.want, "*")
			if got := resp.Proto + " " + resp.Status + "\r\n"; got != head || !tt.started && !strings.HasPrefix(string(body), text) {
				t.Errorf("the client saw %q %q, want %q", got, body, tt.want)
			}
		})
	}
}

func TestARefusedConnectionCanBeForwardedElsewhere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := &http1.Client{Address: ln.Addr().String(), Name: "dead"}
	ln.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	defer srv.Close()
	alive := &http1.Client{Address: srv.Listener.Addr().String()}
	defer alive.Close()
	var f proxy.Forwarder
	addr := listen(t, &http1.Server{Handler: func(ex proxy.Exchange) {
		out := f.Forward(ex.Context(), ex, dead, proxy.ForwardOptions{})
		if out.Failure != proxy.NotSent || !proxy.Unsent(out.Err) || out.Started || !out.Untouched {
			t.Errorf("outcome %+v", out)
		}
		if out := f.Forward(ex.Context(), ex, alive, proxy.ForwardOptions{}); out.Err != nil || out.Sent != 3 || out.Received != 3 || out.Untouched {
			t.Errorf("outcome %+v", out)
		}
	}})
	resp, err := http.Post("http://"+addr, "text/plain", strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "abc" {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestAnEarlyResponseIsForwardedAndTheRestOfTheRequestDropped(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		addr := backend(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			http.Error(w, "too big", 413)
		})
		for range 10 {
			nc := dial(t, addr)
			go func() {
				fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", 100<<20)
				io.Copy(nc, pattern(100<<20))
			}()
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 413 || string(body) != "too big\n" {
				t.Errorf("got %d %q, %v", resp.StatusCode, body, err)
			}
			nc.Close()
		}
	})
}

func TestForwardingLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("work", func(t *testing.T) { eachChain(t, manyExchanges) })
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// manyExchanges ends exchanges in many ways at the same time.
func manyExchanges(t *testing.T, backend startBackend) {
	addr := backend(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write(make([]byte, 100_000))
	})
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for i := range 20 {
				ctx, cancel := context.WithCancel(t.Context())
				req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+addr, pattern(int64(i*10_000)))
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
				} else {
					if i%3 != 0 {
						io.Copy(io.Discard, resp.Body)
					}
					resp.Body.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
}

func TestFailuresHaveNames(t *testing.T) {
	seen := make(map[string]bool)
	for f := proxy.NoFailure; f <= proxy.NotForwarded; f++ {
		name := f.String()
		if name == "unknown" || seen[name] {
			t.Errorf("failure %d is called %q", f, name)
		}
		seen[name] = true
	}
}

func TestUnsentSurvivesWrapping(t *testing.T) {
	cause := fault.New(fault.Unavailable, "cannot connect")
	err := fmt.Errorf("call: %w", proxy.MarkUnsent(cause))
	if !proxy.Unsent(err) || !fault.Is(err, fault.Unavailable) || fault.Message(err) != "cannot connect" || !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	if proxy.Unsent(cause) || proxy.Unsent(nil) {
		t.Error("an error that is not marked is taken for unsent")
	}
}
