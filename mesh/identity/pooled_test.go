package identity_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/identity"
	"github.com/proa-io/proa/mesh/proxy"
)

type fixedSource struct{ *identity.Document }

func (fixedSource) Run(context.Context) error     { return nil }
func (s fixedSource) Current() *identity.Document { return s.Document }

// pair is a client and a server of HTTP/2 as two sidecars have them, over TCP.
type pair struct {
	client     *http2.Client
	writes     atomic.Int64 // of the server, to the network
	records    atomic.Int64 // that are in them
	handshakes atomic.Int64
}

func newPair(tb testing.TB, secure bool) *pair {
	tb.Helper()
	p := &pair{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p.client = &http2.Client{Addr: l.Addr().String()}
	s := &http2.Server{Handler: func(x proxy.Exchange) {
		body, _ := io.ReadAll(x.Request().Body)
		_ = x.Respond(200, proxy.Header{{Name: "content-type", Value: "application/octet-stream"}}, int64(len(body)))
		_, _ = x.Write(body)
	}}
	accepted := net.Listener(l)
	if secure {
		s.TLS = p.mutual(tb)
		accepted = &countingListener{l, p} // a bare socket is faster, and TLS has none
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(accepted) }()
	tb.Cleanup(func() {
		p.client.Close()
		s.Close()
		if err := <-done; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	return p
}

// mutual has the client speak mutual TLS, and returns the server's part.
func (p *pair) mutual(tb testing.TB) *tls.Config {
	a, err := identity.NewAuthority("public", time.Now(), identity.AuthorityOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	source := func(app string) (identity.ID, identity.Source) {
		id := identity.ID{TrustDomain: "public", Namespace: "default", AppID: app}
		doc, err := a.Issue(id, time.Now(), time.Hour)
		if err != nil {
			tb.Fatal(err)
		}
		return id, fixedSource{doc}
	}
	shop, ofShop := source("shop")
	_, ofFront := source("front")
	o := identity.Options{NextProtos: []string{http2.Protocol}}
	client, server := identity.Client(ofFront, shop, o), identity.Server(ofShop, o)
	verify := server.VerifyConnection
	server.VerifyConnection = func(s tls.ConnectionState) error { p.handshakes.Add(1); return verify(s) }
	p.client.Dial = func(ctx context.Context) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.client.Addr)
		if err != nil {
			return nil, err
		}
		return identity.Connect(ctx, nc, client)
	}
	return server
}

func (p *pair) call(body []byte) error {
	res, err := p.client.RoundTrip(context.Background(), &proxy.Request{
		Method: "POST", Scheme: "http", Authority: "shop", Target: "/method", ContentLength: int64(len(body)), Body: bytes.NewReader(body),
	}, proxy.RoundTripOptions{})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return err
}

// countingListener counts what its connections write.
type countingListener struct {
	net.Listener
	p *pair
}

func (l *countingListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{nc, l.p}, nil
}

type countedConn struct {
	net.Conn
	p *pair
}

// Write counts the records in b (RFC 8446, section 5.1).
func (c *countedConn) Write(b []byte) (int, error) {
	c.p.writes.Add(1)
	for rest := b; len(rest) >= 5; {
		c.p.records.Add(1)
		rest = rest[min(len(rest), 5+int(rest[3])<<8+int(rest[4])):]
	}
	return c.Conn.Write(b)
}

// TestAResponseOverTLSIsOneWriteOfOneRecord has requests, one after the other, go
// over one connection: of one handshake, with each response in one record, so that
// neither small records nor sessions cost anything by request.
func TestAResponseOverTLSIsOneWriteOfOneRecord(t *testing.T) {
	for _, size := range []int{10, 1 << 10, 12 << 10} {
		p := newPair(t, true)
		body := bytes.Repeat([]byte("b"), size)
		for range 50 { // windows grow, SETTINGS are acknowledged
			if err := p.call(body); err != nil {
				t.Fatal(err)
			}
		}
		const n = 200
		writes, records := p.writes.Load(), p.records.Load()
		for range n {
			if err := p.call(body); err != nil {
				t.Fatal(err)
			}
		}
		writes, records = p.writes.Load()-writes, p.records.Load()-records
		// A few more give windows back.
		if most := int64(n + n/5); writes > most || records > most {
			t.Errorf("%d bytes: %d responses took %d writes of %d records", size, n, writes, records)
		}
		if got := p.handshakes.Load(); got != 1 {
			t.Errorf("%d bytes: %d handshakes", size, got)
		}
	}
}

// BenchmarkPooled compares exchanges of 1 KiB each way over one connection that
// stands, in plain text and over mutual TLS: what TLS costs by request.
func BenchmarkPooled(b *testing.B) {
	for _, secure := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "mutual TLS"}[secure]
		b.Run(name, func(b *testing.B) {
			p := newPair(b, secure)
			body := bytes.Repeat([]byte("b"), 1<<10)
			if err := p.call(body); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := p.call(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHandshake is what a new connection costs both sides together.
func BenchmarkHandshake(b *testing.B) {
	p := newPair(b, true)
	b.ReportAllocs()
	for b.Loop() {
		c := &http2.Client{Addr: p.client.Addr, Dial: p.client.Dial}
		one := &pair{client: c}
		if err := one.call([]byte("b")); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
