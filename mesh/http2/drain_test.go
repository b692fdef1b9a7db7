package http2_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// succession is a server that is replaced while clients use it: whoever connects
// gets to the one that serves now.
type succession struct {
	handler proxy.Handler
	addr    atomic.Pointer[string]
	current *http2.Server
	done    chan error
}

// next starts a server and stops the one before in good order.
func (s *succession) next(t *testing.T) {
	t.Helper()
	old, done := s.current, s.done
	l := listen(t)
	addr := l.Addr().String()
	s.current, s.done = &http2.Server{Handler: s.handler}, make(chan error, 1)
	go func(srv *http2.Server, done chan error) { done <- srv.Serve(l) }(s.current, s.done)
	s.addr.Store(&addr)
	if old == nil {
		return
	}
	if err := old.Shutdown(t.Context()); err != nil {
		t.Errorf("shut down: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func (s *succession) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", *s.addr.Load())
}

// wellBehaved are clients that heed GOAWAY. Each makes a function that sends a
// request of some content and returns an error unless that comes back.
var wellBehaved = map[string]func(t *testing.T, s *succession) func(content []byte) error{
	"ours": func(t *testing.T, s *succession) func([]byte) error {
		cl := &http2.Client{Dial: s.dial}
		t.Cleanup(cl.Close)
		return func(content []byte) error {
			res, err := cl.RoundTrip(t.Context(), postRequest(bytes.NewReader(content), int64(len(content))), proxy.RoundTripOptions{})
			if err != nil {
				return err
			}
			defer res.Body.Close()
			return sameContent(res.Body, content)
		}
	},
	"net/http": func(t *testing.T, s *succession) func([]byte) error {
		var p http.Protocols
		p.SetUnencryptedHTTP2(true)
		tr := &http.Transport{Protocols: &p, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) }}
		t.Cleanup(tr.CloseIdleConnections)
		cl := &http.Client{Transport: tr}
		return func(content []byte) error {
			res, err := cl.Post("http://test/", "text/plain", bytes.NewReader(content))
			if err != nil {
				return err
			}
			defer res.Body.Close()
			return sameContent(res.Body, content)
		}
	},
	"grpc-go": func(t *testing.T, s *succession) func([]byte) error {
		cc, err := grpc.NewClient("passthrough:///test", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.dial(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cc.Close() })
		return func(content []byte) error {
			var res pb.Payload
			if err := cc.Invoke(t.Context(), "/test/Echo", &pb.Payload{Body: content}, &res, grpc.WaitForReady(true)); err != nil {
				return err
			}
			return sameContent(bytes.NewReader(res.GetBody()), content)
		}
	},
}

func sameContent(r io.Reader, want []byte) error {
	got, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%d bytes came back, not the %d that were sent", len(got), len(want))
	}
	return err
}

// echoAll answers with the content of the request, and in the way of gRPC if that
// is what it is.
func echoAll(x proxy.Exchange) {
	content, err := io.ReadAll(x.Request().Body)
	if err != nil {
		return
	}
	h := proxy.Header{{Name: "content-type", Value: x.Request().Header.Get("content-type")}}
	_ = x.Respond(200, h, proxy.UnknownLength)
	_, _ = x.Write(content)
	if strings.HasPrefix(h[0].Value, "application/grpc") {
		_ = x.Trailer(proxy.Header{{Name: "grpc-status", Value: "0"}})
	}
}

func TestServersAreReplacedUnderLoadWithoutAFailedRequest(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	for name, connect := range wellBehaved {
		t.Run(name, func(t *testing.T) {
			leak.Check(t)
			s := &succession{handler: echoAll}
			s.next(t)
			send := connect(t, s)
			var sent atomic.Int64
			stop := make(chan struct{})
			var load sync.WaitGroup
			for i := range 8 {
				content := bytes.Repeat([]byte("x"), 1+i*5000)
				load.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						if err := send(content); err != nil {
							t.Errorf("request %d failed: %v", sent.Load(), err)
							return
						}
						sent.Add(1)
					}
				})
			}
			for range 5 {
				before := sent.Load()
				for sent.Load() < before+50 && !t.Failed() {
					if err := send([]byte("more")); err != nil {
						t.Fatal(err)
					}
				}
				s.next(t)
			}
			close(stop)
			load.Wait()
			t.Logf("%d requests", sent.Load())
			s.current.Close()
			<-s.done
		})
	}
}
