package http2_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// TestConnectionsRetireWithoutAFailedRequest has connections that retire after a
// moment, on the client's or the server's order: requests go to new ones, and a
// stream that was begun on the first goes on.
func TestConnectionsRetireWithoutAFailedRequest(t *testing.T) {
	soon := func(*tls.ConnectionState) time.Time { return time.Now().Add(100 * time.Millisecond) }
	for _, by := range []string{"client", "server"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			st, ct := mutual(t)
			var mu sync.Mutex
			conns := map[*tls.ConnectionState]bool{}
			s := &http2.Server{TLS: st, Handler: func(x proxy.Exchange) {
				mu.Lock()
				conns[x.TLS()] = true
				mu.Unlock()
				_ = x.Respond(200, nil, proxy.UnknownLength)
				_ = x.Flush()
				for p := make([]byte, 100); x.Request().Body != nil; {
					n, err := x.Request().Body.Read(p)
					_, _ = x.Write(p[:n])
					_ = x.Flush()
					if err != nil {
						return
					}
				}
			}}
			cl := &http2.Client{TLS: ct}
			if by == "client" {
				cl.Retire = soon
			} else {
				s.Retire = soon
			}
			cl.Addr = serve(t, s)
			t.Cleanup(cl.Close)
			up, body := io.Pipe()
			t.Cleanup(func() { _ = body.Close() })
			res, err := cl.RoundTrip(t.Context(), postRequest(up, proxy.UnknownLength), proxy.RoundTripOptions{})
			if err != nil {
				t.Fatal(err)
			}
			say := func(text string) {
				t.Helper()
				if _, err := io.WriteString(body, text); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(text))
				if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != text {
					t.Fatalf("the stream answers %q, %v", got, err)
				}
			}
			say("begun")
			many := func() bool { mu.Lock(); defer mu.Unlock(); return len(conns) > 3 }
			for deadline := time.Now().Add(20 * time.Second); !many(); {
				if time.Now().After(deadline) {
					t.Fatal("connections do not retire")
				}
				get(t, cl, "/")
			}
			say("goes on")
			_ = body.Close()
			if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
				t.Errorf("the stream ends with %q, %v", rest, err)
			}
		})
	}
}

func TestAClientLearnsWhyItIsRefused(t *testing.T) {
	leak.Check(t)
	l := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = nc.Write(http2.Refusal(http2.InadequateSecurity, "not like "+string(bytes.Repeat([]byte("this "), 100))))
			_ = nc.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, nc)
			_ = nc.Close()
		}
	}()
	cl := dial(t, l.Addr().String())
	_, err := cl.RoundTrip(t.Context(), getRequest(), proxy.RoundTripOptions{})
	reset, ok := errors.AsType[*http2.ResetError](err)
	if !ok || reset.Code != http2.InadequateSecurity || reset.Reason[:14] != "not like this " || !proxy.Unsent(err) {
		t.Errorf("%v", err)
	}
	_ = l.Close()
	<-done
}
