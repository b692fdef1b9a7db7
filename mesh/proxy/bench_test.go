//go:build unix

package proxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/proxy"
)

const benchRequest = "GET /some/path HTTP/1.1\r\nHost: localhost:1234\r\nUser-Agent: bench\r\nAccept: */*\r\n" +
	"Accept-Encoding: gzip\r\nX-Request-Id: 0123456789\r\nAuthorization: Bearer abcdefghijklmnop\r\n\r\n"

// rawClient returns a function that sends the request on one connection and
// reads a response with 1 KiB of content, without an allocation of its own.
func rawClient(t testing.TB, addr string) func() {
	nc := dial(t, addr)
	nc.SetDeadline(time.Time{})
	request, buf := []byte(benchRequest), make([]byte, 4096)
	return func() {
		if _, err := nc.Write(request); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < 1024; {
			m, err := nc.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
	}
}

// benchRaw sends one request after the other.
func benchRaw(b *testing.B, addr string) {
	once := rawClient(b, addr)
	for range 10 {
		once()
	}
	b.ReportAllocs()
	before := cpu(b)
	for b.Loop() {
		once()
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
}

// cpu returns the processor time that the process has used.
func cpu(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// upstream serves 1 KiB.
func upstream(b testing.TB) string {
	body := make([]byte, 1024)
	return listen(b, &http1.Server{Handler: func(ex proxy.Exchange) {
		ex.Respond(200, nil, int64(len(body)))
		ex.Write(body)
	}})
}

// BenchmarkForward measures one forwarded GET of 1 KiB; the figures hold the
// server behind, too, which is the same for both.
func BenchmarkForward(b *testing.B) {
	b.Run("http1", func(b *testing.B) { benchRaw(b, hop(b, upstream(b), proxy.ForwardOptions{}, nil)) })
	b.Run("ReverseProxy", func(b *testing.B) {
		target, _ := url.Parse("http://" + upstream(b))
		rp := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }})
		defer rp.Close()
		benchRaw(b, rp.Listener.Addr().String())
	})
}

// BenchmarkForwardTwoHops is the path of service invocation in one process.
func BenchmarkForwardTwoHops(b *testing.B) {
	b.Run("http1", func(b *testing.B) {
		benchRaw(b, hop(b, hop(b, upstream(b), proxy.ForwardOptions{}, nil), proxy.ForwardOptions{}, nil))
	})
}

// BenchmarkServer measures the answer to a GET of 1 KiB.
func BenchmarkServer(b *testing.B) {
	b.Run("http1", func(b *testing.B) { benchRaw(b, upstream(b)) })
	b.Run("net/http", func(b *testing.B) {
		body := make([]byte, 1024)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			w.Write(body)
		}))
		defer srv.Close()
		benchRaw(b, srv.Listener.Addr().String())
	})
}

// BenchmarkForwardLong measures a response of 64 MiB.
func BenchmarkForwardLong(b *testing.B) {
	const size = 64 << 20
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(size))
		block := make([]byte, 1<<20)
		for range size / len(block) {
			w.Write(block)
		}
	}))
	defer srv.Close()
	run := func(b *testing.B, addr string) {
		b.SetBytes(size)
		before := cpu(b)
		defer func() { b.ReportMetric((cpu(b)-before).Seconds()*1000/float64(b.N), "cpu-ms/op") }()
		for b.Loop() {
			resp, err := http.Get("http://" + addr)
			if err != nil {
				b.Fatal(err)
			}
			io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 256<<10))
			resp.Body.Close()
		}
	}
	b.Run("http1", func(b *testing.B) {
		run(b, hop(b, srv.Listener.Addr().String(), proxy.ForwardOptions{}, nil))
	})
	b.Run("ReverseProxy", func(b *testing.B) {
		target, _ := url.Parse(srv.URL)
		rp := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }})
		defer rp.Close()
		run(b, rp.Listener.Addr().String())
	})
}
