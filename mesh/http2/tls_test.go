package http2_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// identity is a certificate that is its own authority, and a pool that trusts
// it.
func identity(tb testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// mutual returns the TLS settings of a server and a client that trust each
// other.
func mutual(tb testing.TB) (server, client *tls.Config) {
	sc, sp := identity(tb, "server")
	cc, cp := identity(tb, "client")
	server = &tls.Config{Certificates: []tls.Certificate{sc}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: cp}
	client = &tls.Config{Certificates: []tls.Certificate{cc}, RootCAs: sp}
	return server, client
}

func TestMutualTLS(t *testing.T) {
	leak.Check(t)
	st, ct := mutual(t)
	addr := serve(t, &http2.Server{TLS: st, Handler: func(x proxy.Exchange) {
		if x.TLS() == nil || x.TLS().PeerCertificates[0].Subject.CommonName != "client" {
			t.Error("the handler does not see the client's certificate")
		}
		if x.Request().Scheme != "https" {
			t.Errorf("the scheme is %s", x.Request().Scheme)
		}
		echo(x)
	}})
	cl := &http2.Client{Addr: addr, TLS: ct}
	t.Cleanup(cl.Close)
	for _, size := range []int{0, 1000, 1 << 20} {
		body := strings.Repeat("t", size)
		if _, got := do(t, cl, postRequest(strings.NewReader(body), int64(size))); got != body {
			t.Errorf("%d bytes: %d came back", size, len(got))
		}
	}
}

func TestAClientWithoutACertificateIsNotLetIn(t *testing.T) {
	leak.Check(t)
	st, ct := mutual(t)
	addr := serve(t, &http2.Server{TLS: st, Handler: echo})
	ct.Certificates = nil
	cl := &http2.Client{Addr: addr, TLS: ct}
	t.Cleanup(cl.Close)
	_, err := cl.RoundTrip(t.Context(), getRequest(), proxy.RoundTripOptions{})
	if fault.CodeOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "certificate") || !proxy.Unsent(err) {
		t.Errorf("%v", err)
	}
}

func TestALPNMustSelectHTTP2(t *testing.T) {
	leak.Check(t)
	st, ct := mutual(t)
	addr := serve(t, &http2.Server{TLS: st, Handler: echo})
	nc, err := tls.Dial("tcp", addr, &tls.Config{Certificates: ct.Certificates, RootCAs: ct.RootCAs, ServerName: "server"})
	if err == nil {
		// No protocol was negotiated: the server hangs up.
		if _, err := nc.Read(make([]byte, 1)); err == nil {
			t.Error("the server talks to a client that did not ask for HTTP/2")
		}
		_ = nc.Close()
	}

	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: st.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if nc, err := l.Accept(); err == nil {
			_ = nc.(*tls.Conn).Handshake()
			_ = nc.Close()
		}
	}()
	cl := &http2.Client{Addr: l.Addr().String(), TLS: &tls.Config{RootCAs: ct.RootCAs}}
	t.Cleanup(cl.Close)
	_, err = cl.RoundTrip(t.Context(), getRequest(), proxy.RoundTripOptions{})
	if fault.CodeOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "ALPN") {
		t.Errorf("%v", err)
	}
	<-done
}

func TestATLSConnectionMayBeHandedOver(t *testing.T) {
	leak.Check(t)
	st, ct := mutual(t)
	st.NextProtos = []string{"h2"}
	l, err := tls.Listen("tcp", "127.0.0.1:0", st)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &http2.Server{Handler: echo}
	done := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			err = s.ServeConn(nc, nil)
		}
		done <- err
	}()
	cl := &http2.Client{Addr: l.Addr().String(), TLS: ct}
	get(t, cl, "/")
	cl.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.Close()
}

func TestWeakTLSIsRefused(t *testing.T) {
	leak.Check(t)
	st, ct := mutual(t)
	addr := serve(t, &http2.Server{TLS: st, Handler: echo})
	nc, err := tls.Dial("tcp", addr, &tls.Config{
		Certificates: ct.Certificates, RootCAs: ct.RootCAs, ServerName: "server", NextProtos: []string{"h2"},
		MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := newRaw(t, nc)
	if v := r.next(); v.kind != "goaway" || v.code.String() != "INADEQUATE_SECURITY" {
		t.Errorf("got %v", v)
	}
	r.expectClosed()
}
