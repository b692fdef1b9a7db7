package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// newClient returns a client for the address that is closed with the test.
func newClient(t testing.TB, addr string) *Client {
	t.Helper()
	cl := &Client{Address: addr, Name: "orders"}
	t.Cleanup(func() { cl.Close() })
	return cl
}

// get returns a request without content.
func get(target string) *proxy.Request {
	return &proxy.Request{Method: "GET", Authority: "example.org", Target: target}
}

// post returns a request with content of a known or unknown length.
func post(target string, body io.Reader, length int64) *proxy.Request {
	return &proxy.Request{Method: "POST", Authority: "example.org", Target: target, Body: body, ContentLength: length}
}

// slow hides what a reader has arrived of, so that it is sent as it is read.
type slow struct{ io.Reader }

// fetch makes a round trip and reads the response to its end.
func fetch(t testing.TB, rt proxy.RoundTripper, r *proxy.Request) (status int, body string, h proxy.Header) {
	t.Helper()
	resp, err := rt.RoundTrip(t.Context(), r, proxy.RoundTripOptions{})
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.Target, err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: body: %v", r.Method, r.Target, err)
	}
	return resp.Status, string(content), append(proxy.Header(nil), resp.Header...)
}

// script is a server that answers the connections it accepts one after the
// other by hand.
func script(t testing.TB, serve func(i int, nc net.Conn, br *bufio.Reader)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(patience))
				serve(i, nc, bufio.NewReader(nc))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// readRequest reads a request with its content.
func readRequest(t testing.TB, br *bufio.Reader) (*http.Request, string) {
	r, err := http.ReadRequest(br)
	if err != nil {
		return nil, ""
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Errorf("the body of a request: %v", err)
	}
	return r, string(body)
}

func TestARequestReachesTheServerAsItWasMeant(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s len=%d te=%v x=%q cl=%q te=%q body=%d %v trailer=%v",
			r.Method, r.Host, r.RequestURI, r.ContentLength, r.TransferEncoding, r.Header["X-Test"], r.Header["Content-Length"], r.Header["Te"], len(body), err, r.Trailer)
	}))
	defer srv.Close()
	cl := newClient(t, srv.Listener.Addr().String())
	big := strings.Repeat("x", 300_000)
	withHeader := get("/h")
	withHeader.Header = proxy.Header{{Name: "X-Test", Value: "1"}, {Name: "x-test", Value: "2"}, {Name: "Host", Value: "evil"}, {Name: "Content-Length", Value: "7"},
		{Name: "Transfer-Encoding", Value: "chunked"}, {Name: "Connection", Value: "close"}, {Name: "TE", Value: "trailers"}}
	withTrailer := post("/t", slow{strings.NewReader("abc")}, proxy.UnknownLength)
	withTrailer.Trailer = &proxy.Header{{Name: "X-Sum", Value: "1"}}
	emptyPost := get("/p")
	emptyPost.Method = "POST"
	tests := []struct {
		name string
		r    *proxy.Request
		want string
	}{
		{"GET", get("/a?b=c"), `GET example.org /a?b=c len=0 te=[] x=[] cl=[] te=[] body=0 <nil> trailer=map[]`},
		{"fields", withHeader, `GET example.org /h len=0 te=[] x=["1" "2"] cl=[] te=["trailers"] body=0 <nil> trailer=map[]`},
		{"POST without content", emptyPost, `POST example.org /p len=0 te=[] x=[] cl=["0"] te=[] body=0 <nil> trailer=map[]`},
		{"small", post("/s", strings.NewReader("abc"), 3), `POST example.org /s len=3 te=[] x=[] cl=["3"] te=[] body=3 <nil> trailer=map[]`},
		{"small, sent as it comes", post("/s", slow{strings.NewReader("abc")}, 3), `POST example.org /s len=3 te=[] x=[] cl=["3"] te=[] body=3 <nil> trailer=map[]`},
		{"large", post("/l", strings.NewReader(big), int64(len(big))), `POST example.org /l len=300000 te=[] x=[] cl=["300000"] te=[] body=300000 <nil> trailer=map[]`},
		{"large, sent as it comes", post("/l", slow{strings.NewReader(big)}, int64(len(big))), `POST example.org /l len=300000 te=[] x=[] cl=["300000"] te=[] body=300000 <nil> trailer=map[]`},
		{"longer than announced", post("/l", strings.NewReader("abcdef"), 3), `POST example.org /l len=3 te=[] x=[] cl=["3"] te=[] body=3 <nil> trailer=map[]`},
		{"chunked", post("/c", strings.NewReader(big), -1), `POST example.org /c len=-1 te=[chunked] x=[] cl=[] te=[] body=300000 <nil> trailer=map[]`},
		{"chunked and empty", post("/c", slow{strings.NewReader("")}, -1), `POST example.org /c len=-1 te=[chunked] x=[] cl=[] te=[] body=0 <nil> trailer=map[]`},
		{"trailer", withTrailer, `POST example.org /t len=-1 te=[chunked] x=[] cl=[] te=[] body=3 <nil> trailer=map[X-Sum:[1]]`},
		{"unknown length without content", post("/n", nil, -1), `POST example.org /n len=0 te=[] x=[] cl=["0"] te=[] body=0 <nil> trailer=map[]`},
	}
	for range 2 {
		for _, tt := range tests {
			if s, ok := tt.r.Body.(io.Seeker); ok {
				s.Seek(0, io.SeekStart)
			}
			if s, ok := tt.r.Body.(slow); ok {
				s.Reader.(io.Seeker).Seek(0, io.SeekStart)
			}
			if _, got, _ := fetch(t, cl, tt.r); got != tt.want {
				t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
			}
		}
	}
}

func TestAResponseIsUnderstood(t *testing.T) {
	tests := []struct {
		name, method, response string
		want                   string
		kept                   bool
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: 1\r\n\r\nabc", "200 3 X=1 abc", true},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n", "200 -1 abc", true},
		{"trailer", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", "200 -1 abc trailer X-Sum=1", true},
		{"until the end", "GET", "HTTP/1.1 200 OK\r\n\r\nabc", "200 -1 abc", false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "200 3 abc", false},
		{"HTTP/1.0 kept", "GET", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\nabc", "200 3 abc", true},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", "200 3 abc", false},
		{"both lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "200 -1 abc", false},
		{"no reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\nabc", "200 3 abc", true},
		{"no reason and no space", "GET", "HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc", "200 3 abc", true},
		{"space before the colon", "GET", "HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\nabc", "200 3 abc", true},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "200 3 ", true},
		{"HEAD without length", "HEAD", "HTTP/1.1 200 OK\r\n\r\n", "200 -1 ", true},
		{"HEAD of chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "200 -1 ", true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "204 0 ", true},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", "304 3 ", true},
		{"interim", "GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "103 Link=</a> 200 3 abc", true},
		{"connection fields", "GET", "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 3\r\n\r\nabc", "200 3 abc", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
				for {
					if r, _ := readRequest(t, br); r == nil {
						return
					}
					io.WriteString(nc, tt.response)
					if !tt.kept {
						return
					}
				}
			})
			cl := newClient(t, addr)
			for range 3 {
				var got strings.Builder
				r := get("/")
				r.Method = tt.method
				resp, err := cl.RoundTrip(t.Context(), r, proxy.RoundTripOptions{Interim: func(status int, h proxy.Header) {
					fmt.Fprintf(&got, "%d %s=%s ", status, h[0].Name, h[0].Value)
				}})
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&got, "%d %d ", resp.Status, resp.ContentLength)
				for _, f := range resp.Header {
					fmt.Fprintf(&got, "%s=%s ", f.Name, f.Value)
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				got.Write(body)
				if resp.Trailer != nil {
					for _, f := range *resp.Trailer {
						fmt.Fprintf(&got, " trailer %s=%s", f.Name, f.Value)
					}
				}
				resp.Body.Close()
				resp.Body.Close()
				if got.String() != tt.want {
					t.Errorf("got %q, want %q", got.String(), tt.want)
				}
				if kept := len(cl.idle) == 1; kept != tt.kept {
					t.Errorf("kept %v, want %v", kept, tt.kept)
				}
			}
		})
	}
}

func TestABadResponseNamesTheServerAndTheFault(t *testing.T) {
	tests := []struct{ name, response, want string }{
		{"nothing", "", "orders closed the connection before it answered"},
		{"cut", "HTTP/1.1 200 OK\r\nContent", "orders closed the connection before it answered"},
		{"not HTTP", "SSH-2.0-OpenSSH\r\n\r\n", "the response of orders is malformed: the status line is not valid"},
		{"HTTP/2", "\x00\x00\x12\x04\x00\x00\x00\x00\x00", "the response of orders is malformed: what was sent is not HTTP/1.1"},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "the response of orders is malformed: a line ends without CR"},
		{"differing lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "several Content-Lengths that differ"},
		{"bad length", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "Content-Length is not a number"},
		{"folded", "HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n", "a field is folded"},
		{"unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "a Transfer-Encoding other than chunked"},
		{"unasked upgrade", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "an upgrade that was not asked for"},
		{"status 99", "HTTP/1.1 099 X\r\n\r\n", "the status line is not valid"},
		{"huge head", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 100_000) + "\r\n\r\n", "the head of the response of orders is longer than 65536 bytes"},
		{"many fields", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: a\r\n", 1000) + "\r\n", "more than 200 fields"},
		{"endless interim", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 2000), "too many interim responses"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
				readRequest(t, br)
				io.WriteString(nc, tt.response)
			})
			_, err := newClient(t, addr).RoundTrip(t.Context(), get("/"), proxy.RoundTripOptions{})
			if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), tt.want) {
				t.Errorf("got %v, want Unavailable %q", err, tt.want)
			}
			if proxy.Unsent(err) {
				t.Error("the request is said not to have been sent")
			}
		})
	}
}

func TestABadBodyNamesTheServerAndTheFault(t *testing.T) {
	tests := []struct{ name, response, want string }{
		{"cut", "Content-Length: 5\r\n\r\nabc", "orders closed the connection within its response"},
		{"cut in a chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nabc", "orders closed the connection within its response"},
		{"cut between chunks", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "orders closed the connection within its response"},
		{"cut in the trailer", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: 1\r\n", "orders closed the connection within its response"},
		{"bad chunk", "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "the content of the response of orders is malformed: the size of a chunk is not a number"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
				readRequest(t, br)
				io.WriteString(nc, "HTTP/1.1 200 OK\r\n"+tt.response)
			})
			cl := newClient(t, addr)
			resp, err := cl.RoundTrip(t.Context(), get("/"), proxy.RoundTripOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(resp.Body)
			if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), tt.want) {
				t.Errorf("got %v, want Unavailable %q", err, tt.want)
			}
			resp.Body.Close()
			if len(cl.idle) != 0 {
				t.Error("the connection was kept")
			}
		})
	}
}

func TestARequestThatCannotBeSentIsInvalid(t *testing.T) {
	with := func(f func(*proxy.Request)) *proxy.Request {
		r := get("/")
		f(r)
		return r
	}
	tests := []struct {
		name string
		r    *proxy.Request
	}{
		{"method", with(func(r *proxy.Request) { r.Method = "GET / HTTP/1.1\r\nX:" })},
		{"empty method", with(func(r *proxy.Request) { r.Method = "" })},
		{"target", with(func(r *proxy.Request) { r.Target = "/ HTTP/1.1\r\nX: " })},
		{"empty target", with(func(r *proxy.Request) { r.Target = "" })},
		{"authority", with(func(r *proxy.Request) { r.Authority = "a\r\nX: 1" })},
		{"upgrade", with(func(r *proxy.Request) { r.Upgrade = "a\r\nX: 1" })},
		{"field name", with(func(r *proxy.Request) { r.Header.Add("X\r\nY", "1") })},
		{"field name with colon", with(func(r *proxy.Request) { r.Header.Add("X:Y", "1") })},
		{"field value", with(func(r *proxy.Request) { r.Header.Add("X", "1\r\n\r\nGET /smuggled HTTP/1.1\r\n") })},
		{"field value with LF", with(func(r *proxy.Request) { r.Header.Add("X", "1\nY: 2") })},
		{"length without content", with(func(r *proxy.Request) { r.ContentLength = 5 })},
	}
	var requests atomic.Int32
	addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
		for {
			if r, _ := readRequest(t, br); r == nil {
				return
			}
			requests.Add(1)
			io.WriteString(nc, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	})
	cl := newClient(t, addr)
	for _, tt := range tests {
		_, err := cl.RoundTrip(t.Context(), tt.r, proxy.RoundTripOptions{})
		if !fault.Is(err, fault.InvalidArgument) || !proxy.Unsent(err) {
			t.Errorf("%s: got %v, want InvalidArgument, unsent", tt.name, err)
		}
	}
	if fetch(t, cl, get("/")); requests.Load() != 1 {
		t.Errorf("the server saw %d requests, want 1", requests.Load())
	}
}

func TestNoConnectionIsUnavailableAndUnsent(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	tests := []struct {
		name, want string
		cl         *Client
	}{
		{"refused", "cannot connect to orders: the connection was refused", &Client{Address: ln.Addr().String(), Name: "orders"}},
		{"no socket", "cannot connect to /nowhere: there is no such socket", &Client{Network: "unix", Address: "/nowhere"}},
		{"slow", "cannot connect to orders: it took too long", &Client{Name: "orders", DialTimeout: time.Millisecond, Dial: func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.cl.RoundTrip(t.Context(), get("/"), proxy.RoundTripOptions{})
			if !fault.Is(err, fault.Unavailable) || !proxy.Unsent(err) || fault.Message(err) != tt.want {
				t.Errorf("got %v, unsent %v, want %q", err, proxy.Unsent(err), tt.want)
			}
		})
	}
}

func TestAnEarlyResponse(t *testing.T) {
	t.Run("the server goes on reading", func(t *testing.T) {
		got := make(chan int, 1)
		addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
			ex.Respond(200, nil, -1)
			io.WriteString(ex, "early")
			ex.Flush()
			body, _ := io.ReadAll(ex.Request().Body)
			got <- len(body)
		}})
		cl := newClient(t, addr)
		pr, pw := io.Pipe()
		resp, err := cl.RoundTrip(t.Context(), post("/", pr, -1), proxy.RoundTripOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		buf := make([]byte, 5)
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "early" {
			t.Fatalf("got %q, %v", buf, err)
		}
		pw.Write(make([]byte, 1000))
		pw.Close()
		if n := <-got; n != 1000 {
			t.Errorf("the server read %d bytes", n)
		}
	})
	t.Run("the server closes", func(t *testing.T) {
		addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
			http.ReadRequest(br)
			io.WriteString(nc, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
			nc.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, io.LimitReader(br, 1<<20))
		})
		for range 20 {
			cl := newClient(t, addr)
			status, body, _ := fetch(t, cl, post("/", slow{io.LimitReader(zeros{}, 50<<20)}, 50<<20))
			if status != 413 || body != "big" {
				t.Errorf("got %d %q", status, body)
			}
		}
	})
	t.Run("the server does not read", func(t *testing.T) {
		hold := make(chan struct{})
		addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
			http.ReadRequest(br)
			io.WriteString(nc, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
			<-hold
		})
		defer close(hold)
		cl := newClient(t, addr)
		status, body, _ := fetch(t, cl, post("/", slow{io.LimitReader(zeros{}, 50<<20)}, 50<<20))
		if status != 403 || body != "no" {
			t.Errorf("got %d %q", status, body)
		}
		if len(cl.idle) != 0 {
			t.Error("the connection was kept, with half of a request on it")
		}
	})
}

// zeros is an endless reader of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestARequestWhoseContentFails(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name   string
		body   io.Reader
		length int64
		want   error
	}{
		{"error", io.MultiReader(strings.NewReader("abc"), errReader{broken}), -1, broken},
		{"error at once", errReader{broken}, 5, broken},
		{"too short", slow{strings.NewReader("abc")}, 5, io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			seen := make(chan error, 1)
			addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
				r, err := http.ReadRequest(br)
				if err == nil {
					_, err = io.ReadAll(r.Body)
				}
				seen <- err
			})
			_, err := newClient(t, addr).RoundTrip(t.Context(), post("/", tt.body, tt.length), proxy.RoundTripOptions{})
			var bodyErr *proxy.BodyError
			if !errors.As(err, &bodyErr) || !errors.Is(err, tt.want) || proxy.Unsent(err) {
				t.Errorf("got %v, want a BodyError for %v", err, tt.want)
			}
			if err := <-seen; err == nil {
				t.Error("the server takes the content for complete")
			}
		})
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestExpectContinue(t *testing.T) {
	expecting := func(target string) *proxy.Request {
		r := post(target, strings.NewReader("abc"), 3)
		r.Header.Add("Expect", "100-continue")
		return r
	}
	addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			switch r.RequestURI {
			case "/refuse":
				io.WriteString(nc, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
				if b, err := br.ReadByte(); err == nil {
					t.Errorf("the content came all the same: %q", b)
				}
				return
			case "/continue":
				if br.Buffered() > 0 {
					t.Error("the content came before it was asked for")
				}
				io.WriteString(nc, "HTTP/1.1 100 Continue\r\n\r\n")
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	})
	cl := newClient(t, addr)
	cl.ExpectTimeout = 30 * time.Millisecond
	for _, tt := range []struct {
		target, want string
		status       int
	}{{"/continue", "abc", 200}, {"/silent", "abc", 200}, {"/refuse", "", 417}} {
		if status, body, _ := fetch(t, cl, expecting(tt.target)); status != tt.status || body != tt.want {
			t.Errorf("%s: got %d %q, want %d %q", tt.target, status, body, tt.status, tt.want)
		}
	}
}
