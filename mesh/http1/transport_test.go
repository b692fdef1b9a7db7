package http1

import (
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
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

func TestUpgrade(t *testing.T) { bothWays(t, testUpgrade) }

func testUpgrade(t *testing.T, by way) {
	ended := make(chan struct{})
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
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
	}}))
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
	bothWays(t, testAnUpgradeThatComesBackWithoutOne)
}

func testAnUpgradeThatComesBackWithoutOne(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) { respond(t, ex, 200, nil, "no") }}))
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

func TestConnect(t *testing.T) { bothWays(t, testConnect) }

func testConnect(t *testing.T, by way) {
	addr := serve(t, by(&Server{
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
	}))
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

func TestHTTP2IsHandedOver(t *testing.T) { bothWays(t, testHTTP2IsHandedOver) }

func testHTTP2IsHandedOver(t *testing.T, by way) {
	type given struct {
		nc   net.Conn
		read string
	}
	handed := make(chan given, 1)
	s := by(&Server{Handler: echo(t), HandOver: func(nc net.Conn, read []byte) { handed <- given{nc, string(read)} }})
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
		s = by(&Server{Handler: echo(t), HandOver: s.HandOver})
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
