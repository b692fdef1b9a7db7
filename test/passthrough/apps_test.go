package passthrough_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// rawApp is an application whose requests a test answers byte by byte.
type rawApp struct {
	port int
	handlers[func(*rawCall)]
}

// rawCall is one request to a rawApp: its head as it came, and the connection,
// which is closed when the handler returns.
type rawCall struct {
	*net.TCPConn
	head string
	rest *bufio.Reader
}

func startRawApp(tb testserver.TB) *rawApp {
	a := &rawApp{}
	ln := listen(tb)
	a.port = ln.Addr().(*net.TCPAddr).Port
	var conns sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			conns.Go(func() {
				a.serve(c.(*net.TCPConn))
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	return a
}

// serve has one request of a connection answered.
func (a *rawApp) serve(c *net.TCPConn) {
	defer c.Close()
	br := bufio.NewReader(c)
	var head strings.Builder
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		head.WriteString(line)
		if line == "\r\n" {
			break
		}
	}
	parts := strings.Split(head.String(), " ")
	if len(parts) < 3 {
		return
	}
	if h, ok := a.find(parts[1]); ok {
		h(&rawCall{c, head.String(), br})
		return
	}
	_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
}

// framedApp is an application that can do what only HTTP/2 can.
type framedApp struct {
	port int
	handlers[proxy.Handler]
}

func startFramedApp(tb testserver.TB) *framedApp {
	a := &framedApp{}
	srv := &http2.Server{Handler: func(ex proxy.Exchange) {
		if h, ok := a.find(ex.Request().Target); ok {
			h(ex)
			return
		}
		_ = ex.Respond(204, nil, 0)
	}}
	ln := listen(tb)
	a.port = ln.Addr().(*net.TCPAddr).Port
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	tb.Cleanup(func() { srv.Close(); <-done })
	return a
}

// grpcApp is an application on grpc-go. Each handler is a service of its own, with
// one method of whatever kind the caller takes it for.
type grpcApp struct {
	port int
	handlers[func(grpc.ServerStream) error]
}

func startGRPCApp(tb testserver.TB) *grpcApp {
	a := &grpcApp{}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			if h, ok := a.find(method); ok {
				return h(stream)
			}
			return status.Error(codes.Unimplemented, method)
		}))
	ln := listen(tb)
	a.port = ln.Addr().(*net.TCPAddr).Port
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	tb.Cleanup(func() { srv.Stop(); <-done })
	return a
}

const maxMessage = 64 << 20

// on has h answer, and returns the method that it answers.
func (a *grpcApp) on(t *testing.T, h func(grpc.ServerStream) error) (method string) {
	t.Helper()
	return a.add(t, h) + "/Call"
}

// dialGRPC returns a connection to the sidecar of the client.
func (m *mesh) dialGRPC(t *testing.T) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(m.front.api(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// toApp is the context of a call of the gRPC application.
func toApp(t *testing.T, fields ...string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), append(fields, "dapr-app-id", "grpc")...)
}

// message is what gRPC calls carry here.
func message(b []byte) *wrapperspb.BytesValue { return wrapperspb.Bytes(b) }

// bodyPipe is the content of a request that a test writes piece by piece.
type bodyPipe struct {
	*io.PipeReader
	*io.PipeWriter
}

func newBodyPipe(t *testing.T) *bodyPipe {
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close(); _ = r.Close() })
	return &bodyPipe{r, w}
}

// dialRaw connects to the sidecar of the client.
func (m *mesh) dialRaw(t *testing.T) *net.TCPConn {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", m.front.api())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c.(*net.TCPConn)
}

// text is what the tests send when it does not matter what.
func text(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef"), (n+15)/16)[:n] }
