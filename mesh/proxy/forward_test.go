package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

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
	{"1-1-1, as coroutines", func(t testing.TB, to string) string {
		return inlineHop(t, inlineHop(t, to))
	}},
	{"1-2-1, as coroutines", func(t testing.TB, to string) string {
		last := &http1.Client{Address: to, Name: "backend"}
		t.Cleanup(func() { last.Close() })
		middle := &http2.Client{Addr: listen2(t, &http2.Server{Handler: forward(last, proxy.ForwardOptions{}, nil), Inline: always})}
		t.Cleanup(func() { middle.Close() })
		return listen(t, &http1.Server{Handler: forward(middle, proxy.ForwardOptions{}, nil), Inline: always})
	}},
}

// always is an Inline that says yes.
func always(*proxy.Request) bool { return true }

// inlineHop is hop with handlers that are coroutines.
func inlineHop(t testing.TB, to string) string {
	cl := &http1.Client{Address: to, Name: "backend"}
	t.Cleanup(func() { cl.Close() })
	return listen(t, &http1.Server{Handler: forward(cl, proxy.ForwardOptions{}, nil), Inline: always})
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
