package http1

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
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
	entered, release := make(chan struct{}), make(chan struct{})
	s := &Server{Handler: func(ex proxy.Exchange) {
		if ex.Request().Target == "/slow" {
			close(entered)
			<-release
		}
		respond(t, ex, 200, nil, "ok")
	}}
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
	entered := make(chan struct{})
	s := &Server{Handler: func(ex proxy.Exchange) {
		close(entered)
		<-ex.Context().Done()
	}}
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
	for range 20 {
		s := &Server{Handler: func(ex proxy.Exchange) { respond(t, ex, 200, nil, "ok") }}
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
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nabc",
	} {
		entered, ended := make(chan struct{}), make(chan error, 2)
		addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
			ctx := ex.Context()
			context.AfterFunc(ctx, func() { ended <- ctx.Err() })
			close(entered)
			if b := ex.Request().Body; b != nil {
				io.ReadAll(b)
			}
			<-ctx.Done()
			ended <- ctx.Err()
		}})
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

func TestTheContextEndsWithTheExchange(t *testing.T) {
	contexts := make(chan context.Context, 2)
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		ctx, cancel := context.WithTimeout(ex.Context(), time.Hour)
		defer cancel()
		if ctx.Err() != nil || ex.Context() != ex.Context() {
			t.Error("the context is not right")
		}
		// Longer than what makes the engine watch the connection.
		time.Sleep(2 * watchDelay)
		contexts <- ex.Context()
		respond(t, ex, 200, nil, "ok")
	}})
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
	watching := make(chan struct{}, 1)
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
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
	}})
	nc := dial(t, addr)
	io.WriteString(nc, "GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
	wait(t, watching, "watch")
	io.WriteString(nc, "GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
	if got := readResponses(t, nc, 2); got[0] != "200 /first" || got[1] != "200 /second" {
		t.Errorf("got %q", got)
	}
}

func TestAStreamIsFlushedWithoutBeingAsked(t *testing.T) {
	release := make(chan struct{})
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		length := int64(-1)
		if ex.Request().Target == "/length" {
			length = 6
		}
		ex.Respond(200, nil, length)
		io.WriteString(ex, "one")
		<-release
		io.WriteString(ex, "two")
	}})
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

func TestASmallResponseIsOneWrite(t *testing.T) {
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		length := int64(1000)
		if ex.Request().Target == "/chunked" {
			length = -1
		}
		ex.Respond(200, nil, length)
		for range 10 {
			ex.Write(make([]byte, 100))
		}
	}})
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

func TestUpgrade(t *testing.T) {
	ended := make(chan struct{})
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		defer close(ended)
		if u := ex.Request().Upgrade; u != "websocket" {
			t.Errorf("Upgrade is %q", u)
		}
		ex.Context().Done()
		time.Sleep(2 * watchDelay) // while the engine reads ahead
		stream, err := ex.Upgrade(proxy.Header{{Name: "X-A", Value: "1"}})
		if err != nil {
			t.Errorf("Upgrade: %v", err)
			return
		}
		defer stream.Close()
		got, err := io.ReadAll(stream)
		fmt.Fprintf(stream, "%s %v", got, err)
		stream.(proxy.Stream).CloseWrite()
	}})
	nc := dial(t, addr)
	io.WriteString(nc, "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly ")
	io.WriteString(nc, "late")
	nc.CloseWrite()
	got, err := io.ReadAll(nc)
	want := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-A: 1\r\n\r\nearly late <nil>"
	if string(got) != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	wait(t, ended, "end of the handler")
}

func TestAnUpgradeThatComesBackWithoutOne(t *testing.T) {
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) { respond(t, ex, 200, nil, "no") }})
	nc := dial(t, addr)
	io.WriteString(nc, strings.Repeat("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 2))
	if got := readResponses(t, nc, 2); got[0] != "200 no" || got[1] != "200 no" {
		t.Errorf("got %q", got)
	}
}

func TestTheClientMakesAWebSocketKeyWhereThereIsNone(t *testing.T) {
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		if key := ex.Request().Header.Get("Sec-WebSocket-Key"); len(key) != 24 {
			t.Errorf("the key is %q", key)
		}
		stream, err := ex.Upgrade(nil)
		if err != nil {
			t.Errorf("Upgrade: %v", err)
			return
		}
		defer stream.Close()
		io.Copy(stream, stream)
	}})
	r := get("/")
	r.Upgrade = "websocket"
	resp, err := newClient(t, addr).RoundTrip(t.Context(), r, proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Upgraded == nil || resp.Header.Has("Sec-WebSocket-Accept") {
		t.Fatalf("got %+v", resp)
	}
	defer resp.Upgraded.Close()
	io.WriteString(resp.Upgraded, "ping")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(resp.Upgraded, buf); err != nil || string(buf) != "ping" {
		t.Errorf("got %q, %v", buf, err)
	}
}

func TestConnect(t *testing.T) {
	addr := serve(t, &Server{
		Handler: func(ex proxy.Exchange) { t.Error("CONNECT came to Handler") },
		Connect: func(ex proxy.Exchange) {
			if ex.Request().Authority != "db:5432" {
				respond(t, ex, 403, nil, "no")
				return
			}
			stream, err := ex.Upgrade(nil)
			if err != nil {
				t.Errorf("Upgrade: %v", err)
				return
			}
			defer stream.Close()
			io.Copy(stream, stream)
		},
	})
	cl := newClient(t, addr)
	connect := func(to string) *proxy.Response {
		t.Helper()
		resp, err := cl.RoundTrip(t.Context(), &proxy.Request{Method: "CONNECT", Authority: to, Target: to}, proxy.RoundTripOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	resp := connect("db:5432")
	if resp.Status != 200 || resp.Upgraded == nil {
		t.Fatalf("got %+v", resp)
	}
	defer resp.Upgraded.Close()
	io.WriteString(resp.Upgraded, "ping")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(resp.Upgraded, buf); err != nil || string(buf) != "ping" {
		t.Errorf("got %q, %v", buf, err)
	}
	resp = connect("other:1")
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); resp.Status != 403 || resp.Upgraded != nil || string(body) != "no" || err != nil {
		t.Errorf("got %+v %q %v", resp, body, err)
	}
}

func TestHTTP2IsHandedOver(t *testing.T) {
	type given struct {
		nc   net.Conn
		read string
	}
	handed := make(chan given, 1)
	s := &Server{Handler: echo(t), HandOver: func(nc net.Conn, read []byte) { handed <- given{nc, string(read)} }}
	addr, _ := start(t, s)
	for _, pieces := range [][]string{
		{preface},
		{preface + "more"},
		{"P", "R", "I * HTTP/2.0\r\n\r\n", "SM\r\n\r\n"},
	} {
		nc := dial(t, addr)
		for _, p := range pieces {
			io.WriteString(nc, p)
			time.Sleep(time.Millisecond) // more likely in pieces; right either way
		}
		g := wait(t, handed, "connection")
		if want := strings.Join(pieces, ""); !strings.HasPrefix(want, g.read) || len(g.read) < len(preface) {
			t.Errorf("got %q, want %q", g.read, want)
		}
		if err := s.Shutdown(canceled(t)); err != nil && !fault.Is(err, fault.Canceled) {
			t.Errorf("Shutdown: %v", err)
		}
		// It lives on without the server.
		io.WriteString(g.nc, "pong")
		buf := make([]byte, 4)
		if _, err := io.ReadFull(nc, buf); err != nil || string(buf) != "pong" {
			t.Errorf("got %q, %v", buf, err)
		}
		g.nc.Close()
		s = &Server{Handler: echo(t), HandOver: s.HandOver}
		addr, _ = start(t, s)
	}
	nc := dial(t, addr)
	io.WriteString(nc, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	if got := readResponses(t, nc, 1)[0]; !strings.HasPrefix(got, "200 PUT") {
		t.Errorf("got %q", got)
	}
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestUnixSockets(t *testing.T) {
	dir, err := os.MkdirTemp("", "h1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, &Server{Handler: func(ex proxy.Exchange) {
		if ex.Remote().IsValid() {
			t.Errorf("the remote address is %v", ex.Remote())
		}
		body, _ := io.ReadAll(ex.Request().Body)
		respond(t, ex, 200, nil, fmt.Sprint(len(body)))
	}}, ln)
	cl := &Client{Network: "unix", Address: path}
	t.Cleanup(func() { cl.Close() })
	for range 3 {
		if _, got, _ := fetch(t, cl, post("/", strings.NewReader(strings.Repeat("x", 300_000)), 300_000)); got != "300000" {
			t.Errorf("got %q", got)
		}
	}
	if len(cl.idle) != 1 {
		t.Errorf("%d connections are kept", len(cl.idle))
	}
}

// certificate makes a certificate for 127.0.0.1 and a pool that trusts it.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestMutualTLS(t *testing.T) {
	cert, pool := certificate(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, &Server{HeadTimeout: time.Second, Handler: func(ex proxy.Exchange) {
		if s := ex.TLS(); s == nil || len(s.PeerCertificates) != 1 || ex.Request().Scheme != "https" {
			t.Errorf("TLS %v, scheme %s", s, ex.Request().Scheme)
		}
		ex.Context().Done()
		body, err := io.ReadAll(ex.Request().Body)
		if err != nil {
			t.Errorf("body: %v", err)
		}
		time.Sleep(2 * watchDelay)
		respond(t, ex, 200, nil, string(body))
	}}, tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}))
	addr := ln.Addr().String()
	cl := newClient(t, addr)
	cl.TLS = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}
	for _, size := range []int{1, 1000, 8192, 10_000, 100_000, 1_000_000} {
		body := strings.Repeat("x", size)
		if _, got, _ := fetch(t, cl, post("/", strings.NewReader(body), int64(size))); got != body {
			t.Errorf("%d bytes came back as %d", size, len(got))
		}
	}
	if len(cl.idle) != 1 {
		t.Errorf("%d connections are kept", len(cl.idle))
	}
	t.Run("not trusted", func(t *testing.T) {
		stranger := &Client{Address: addr, Name: "orders", TLS: &tls.Config{}}
		_, err := stranger.RoundTrip(t.Context(), get("/"), proxy.RoundTripOptions{})
		if !fault.Is(err, fault.Unavailable) || !proxy.Unsent(err) || fault.Message(err) != "cannot connect to orders: its certificate is not accepted" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no certificate", func(t *testing.T) {
		stranger := &Client{Address: addr, Name: "orders", TLS: &tls.Config{RootCAs: pool}}
		_, err := stranger.RoundTrip(t.Context(), get("/"), proxy.RoundTripOptions{})
		if !fault.Is(err, fault.Unavailable) || !strings.HasSuffix(fault.Message(err), "it answered with a TLS alert: certificate required") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("plain text", func(t *testing.T) {
		if got := roundTrip(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); strings.Contains(got, "200") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("silence", func(t *testing.T) {
		if got := roundTrip(t, addr, ""); got != "" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("plain server", func(t *testing.T) {
		plain := &Client{Address: serve(t, &Server{Handler: echo(t)}), Name: "orders", TLS: &tls.Config{RootCAs: pool}}
		_, err := plain.RoundTrip(t.Context(), get("/"), proxy.RoundTripOptions{})
		if fault.Message(err) != "cannot connect to orders: it does not speak TLS" {
			t.Errorf("got %v", err)
		}
	})
}

func TestStreamsOverTLSAreFlushed(t *testing.T) {
	cert, pool := certificate(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, &Server{Handler: func(ex proxy.Exchange) {
		ex.Respond(200, nil, -1)
		for i := range 10 {
			ex.Write([]byte(strings.Repeat(fmt.Sprint(i), 5000)))
			ex.Flush()
		}
	}}, tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}}))
	cl := newClient(t, ln.Addr().String())
	cl.TLS = &tls.Config{RootCAs: pool}
	_, body, _ := fetch(t, cl, get("/"))
	for i := range 10 {
		if part := body[i*5000 : (i+1)*5000]; strings.Trim(part, fmt.Sprint(i)) != "" {
			t.Fatalf("part %d is %q", i, part)
		}
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("work", func(t *testing.T) {
		addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
			ctx, cancel := context.WithTimeout(ex.Context(), time.Minute)
			defer cancel()
			if ex.Request().Target == "/wait" {
				<-ctx.Done()
				return
			}
			ex.Respond(200, nil, -1)
			ex.Write(make([]byte, 100_000))
		}})
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
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
