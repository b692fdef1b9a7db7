//go:build unix

//lint:file-ignore SA1019 this implementation is what the engine is measured against

package http2_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// cpu returns the processor time that the process has used, in nanoseconds.
func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

// unary measures exchanges with 1 KiB of content each way: processor time of
// client and server together, and allocations.
func unary(b *testing.B, streams int, once func() error) {
	if err := once(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	work := make(chan struct{}, streams)
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan error, streams)
	for range streams {
		go func() {
			for left.Add(-1) >= 0 {
				if err := once(); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	close(work)
	for range streams {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
}

var oneKiB = bytes.Repeat([]byte("k"), 1<<10)

// benchBuffers keep what the benchmark itself allocates out of the count.
var benchBuffers = sync.Pool{New: func() any { return new([2 << 10]byte) }}

func benchEcho(x proxy.Exchange) {
	r := x.Request()
	buf := benchBuffers.Get().(*[2 << 10]byte)
	defer benchBuffers.Put(buf)
	n := 0
	for {
		k, err := r.Body.Read(buf[n:])
		n += k
		if err != nil {
			break
		}
	}
	_ = x.Respond(200, benchHead, r.ContentLength)
	_, _ = x.Write(buf[:n])
}

var benchHead = proxy.Header{{Name: "content-type", Value: "application/octet-stream"}, {Name: "server", Value: "bench"}}

func benchOurs(b *testing.B, streams int) {
	cl := dial(b, serve(b, &http2.Server{Handler: benchEcho}))
	head := proxy.Header{
		{Name: "content-type", Value: "application/octet-stream"},
		{Name: "user-agent", Value: "bench"},
		{Name: "traceparent", Value: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	}
	unary(b, streams, func() error {
		r := proxy.Request{
			Method: "POST", Scheme: "http", Authority: "bench", Target: "/v1.0/invoke/orders/method/add", Header: head,
			ContentLength: int64(len(oneKiB)), Body: bytes.NewReader(oneKiB),
		}
		res, err := cl.RoundTrip(context.Background(), &r, proxy.RoundTripOptions{})
		if err != nil {
			return err
		}
		buf := benchBuffers.Get().(*[2 << 10]byte)
		defer benchBuffers.Put(buf)
		for {
			if _, err := res.Body.Read(buf[:]); err != nil {
				break
			}
		}
		return res.Body.Close()
	})
}

func benchTheirs(b *testing.B, streams int) {
	url, t := theirs(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		buf := benchBuffers.Get().(*[2 << 10]byte)
		defer benchBuffers.Put(buf)
		n, _ := io.ReadFull(r.Body, buf[:])
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Server", "bench")
		_, _ = w.Write(buf[:n])
	}))
	unary(b, streams, func() error {
		req, err := http.NewRequest("POST", url, bytes.NewReader(oneKiB))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/octet-stream")
		req.Header.Set("User-Agent", "bench")
		req.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		res, err := t.RoundTrip(req)
		if err != nil {
			return err
		}
		buf := benchBuffers.Get().(*[2 << 10]byte)
		defer benchBuffers.Put(buf)
		for {
			if _, err := res.Body.Read(buf[:]); err != nil {
				break
			}
		}
		return res.Body.Close()
	})
}

// theirs is a client and a server of golang.org/x/net/http2.
func theirs(b *testing.B, h http.Handler) (url string, t *xhttp2.Transport) {
	l := listen(b)
	s2 := &xhttp2.Server{MaxConcurrentStreams: 250}
	conns := make(chan net.Conn, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		conns <- nc
		s2.ServeConn(nc, &xhttp2.ServeConnOpts{Handler: h})
	}()
	t = &xhttp2.Transport{
		AllowHTTP:          true,
		DisableCompression: true,
		DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		},
	}
	b.Cleanup(func() {
		_ = l.Close()
		select {
		case nc := <-conns:
			_ = nc.Close()
		default:
		}
	})
	return "http://" + l.Addr().String() + "/v1.0/invoke/orders/method/add", t
}

// BenchmarkUnary compares this engine with golang.org/x/net/http2: one
// connection, 1, 16 and 64 streams at a time.
func BenchmarkUnary(b *testing.B) {
	for _, c := range []struct {
		name    string
		streams int
	}{{"1", 1}, {"16", 16}, {"64", 64}} {
		b.Run("ours/"+c.name, func(b *testing.B) { benchOurs(b, c.streams) })
		b.Run("xnet/"+c.name, func(b *testing.B) { benchTheirs(b, c.streams) })
	}
}

// BenchmarkForward measures a gRPC-like exchange through one proxy: client,
// proxy and server, of 1 KiB each way.
func BenchmarkForward(b *testing.B) {
	for _, c := range []struct {
		name    string
		streams int
	}{{"1", 1}, {"16", 16}, {"64", 64}} {
		b.Run(c.name, func(b *testing.B) {
			inner := dial(b, serve(b, &http2.Server{Handler: func(x proxy.Exchange) {
				benchEcho(x)
				_ = x.Trailer(benchTrailer)
			}}))
			cl := dial(b, serve(b, &http2.Server{Handler: forward(inner), Inline: always}))
			unary(b, c.streams, func() error {
				r := proxy.Request{Method: "POST", Scheme: "http", Authority: "bench", Target: "/bench.Service/Call",
					Header: benchRequest, ContentLength: proxy.UnknownLength, Body: bytes.NewReader(oneKiB)}
				res, err := cl.RoundTrip(context.Background(), &r, proxy.RoundTripOptions{})
				if err != nil {
					return err
				}
				buf := benchBuffers.Get().(*[2 << 10]byte)
				defer benchBuffers.Put(buf)
				for {
					if _, err := res.Body.Read(buf[:]); err != nil {
						break
					}
				}
				return res.Body.Close()
			})
		})
	}
}

var benchRequest = proxy.Header{
	{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}, {Name: "user-agent", Value: "bench"},
	{Name: "traceparent", Value: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
}

var benchTrailer = proxy.Header{{Name: "grpc-status", Value: "0"}, {Name: "grpc-message", Value: ""}}

const bulk = 16 << 20

// BenchmarkBulk compares downloads of 16 MiB.
func BenchmarkBulk(b *testing.B) {
	measure := func(b *testing.B, once func() error) {
		b.SetBytes(bulk)
		unary(b, 1, once)
	}
	chunk := make([]byte, 32<<10)
	b.Run("ours", func(b *testing.B) {
		cl := dial(b, serve(b, &http2.Server{Handler: func(x proxy.Exchange) {
			_ = x.Respond(200, benchHead, bulk)
			for range bulk / len(chunk) {
				_, _ = x.Write(chunk)
			}
		}}))
		measure(b, func() error {
			res, err := cl.RoundTrip(context.Background(), getRequest(), proxy.RoundTripOptions{})
			if err != nil {
				return err
			}
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, make([]byte, 32<<10))
			return errors.Join(err, res.Body.Close())
		})
	})
	b.Run("xnet", func(b *testing.B) {
		url, t := theirs(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for range bulk / len(chunk) {
				_, _ = w.Write(chunk)
			}
		}))
		measure(b, func() error {
			req, _ := http.NewRequest("GET", url, nil)
			res, err := t.RoundTrip(req)
			if err != nil {
				return err
			}
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, make([]byte, 32<<10))
			return errors.Join(err, res.Body.Close())
		})
	})
}
