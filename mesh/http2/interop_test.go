package http2_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// listen returns a listener on a free port.
func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// serve runs s until the test ends and returns its address.
func serve(tb testing.TB, s *http2.Server) string {
	tb.Helper()
	l := listen(tb)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	tb.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// dial returns a client of addr that is closed when the test ends.
func dial(tb testing.TB, addr string) *http2.Client {
	tb.Helper()
	cl := &http2.Client{Addr: addr}
	tb.Cleanup(cl.Close)
	return cl
}

// foreignClient is a client of net/http that speaks nothing but HTTP/2.
func foreignClient(tb testing.TB) *http.Client {
	tb.Helper()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: &p}
	tb.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// foreignServer serves h with the HTTP/2 server of net/http and returns its
// address.
func foreignServer(tb testing.TB, h http.Handler) string {
	tb.Helper()
	l := listen(tb)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: &p}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	tb.Cleanup(func() { _ = s.Close(); <-done })
	return l.Addr().String()
}

// echo answers with the method, path and body of the request.
func echo(x proxy.Exchange) {
	r := x.Request()
	var h proxy.Header
	h.Add("X-Method", r.Method)
	h.Add("x-target", r.Target)
	h.Add("content-type", r.Header.Get("content-type"))
	_ = x.Respond(200, h, r.ContentLength)
	if r.Body != nil {
		_, _ = io.Copy(x, r.Body)
	}
}

func get(tb testing.TB, cl proxy.RoundTripper, path string) (*proxy.Response, string) {
	tb.Helper()
	return do(tb, cl, &proxy.Request{Method: "GET", Authority: "test", Target: path})
}

func do(tb testing.TB, cl proxy.RoundTripper, r *proxy.Request) (*proxy.Response, string) {
	tb.Helper()
	res, err := cl.RoundTrip(context.Background(), r, proxy.RoundTripOptions{})
	if err != nil {
		tb.Fatalf("%s %s: %v", r.Method, r.Target, err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatalf("%s %s: read the body: %v", r.Method, r.Target, err)
	}
	if err := res.Body.Close(); err != nil {
		tb.Fatal(err)
	}
	return res, string(body)
}

func TestTheClientOfNetHTTPIsServed(t *testing.T) {
	leak.Check(t)
	addr := serve(t, &http2.Server{Handler: echo})
	cl := foreignClient(t)
	for _, size := range []int{0, 1, 1 << 10, 100 << 10, 3 << 20} {
		body := strings.Repeat("x", size)
		res, err := cl.Post("http://"+addr+"/p?q=1", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.ProtoMajor != 2 || res.StatusCode != 200 || string(got) != body {
			t.Errorf("size %d: %s %d, %d bytes", size, res.Proto, res.StatusCode, len(got))
		}
		if m, p := res.Header.Get("X-Method"), res.Header.Get("X-Target"); m != "POST" || p != "/p?q=1" {
			t.Errorf("the handler saw %s %s", m, p)
		}
		if res.Header.Get("Date") == "" {
			t.Error("the response has no date")
		}
	}
}

func TestTheServerOfNetHTTPIsCalled(t *testing.T) {
	leak.Check(t)
	addr := foreignServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", r.Method+" "+r.RequestURI+" "+r.Host+" "+r.Proto)
		_, _ = w.Write(body)
	}))
	cl := dial(t, addr)
	for _, size := range []int{0, 1, 1 << 10, 100 << 10, 3 << 20} {
		body := bytes.Repeat([]byte("y"), size)
		res, got := do(t, cl, &proxy.Request{
			Method: "POST", Authority: "shop.test", Target: "/p?q=1", ContentLength: int64(size), Body: bytes.NewReader(body),
		})
		if res.Status != 200 || got != string(body) {
			t.Errorf("size %d: status %d, %d bytes", size, res.Status, len(got))
		}
		if seen := res.Header.Get("X-Seen"); seen != "POST /p?q=1 shop.test HTTP/2.0" {
			t.Errorf("the handler saw %q", seen)
		}
	}
}

func TestTheClientIsServed(t *testing.T) {
	leak.Check(t)
	cl := dial(t, serve(t, &http2.Server{Handler: echo}))
	for _, size := range []int{0, 1, 1 << 10, 20 << 10, 3 << 20} {
		body := strings.Repeat("z", size)
		res, got := do(t, cl, &proxy.Request{
			Method: "PUT", Authority: "a", Target: "/", ContentLength: int64(size), Body: strings.NewReader(body),
		})
		if res.Status != 200 || got != body || res.ContentLength != int64(size) {
			t.Errorf("size %d: status %d, length %d, %d bytes", size, res.Status, res.ContentLength, len(got))
		}
	}
}
