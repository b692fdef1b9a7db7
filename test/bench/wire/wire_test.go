package wire

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/test/bench/load"
)

// listen starts an application and ends it with the test.
func listen(t *testing.T, app func(net.Listener)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); app(l) }()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// run lets a worker run for a moment and returns the calls it made.
func run(t *testing.T, w load.Worker, err error) (int, error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var h load.Histogram
	for range 2 { // a connection can be used for one run after the other
		if err := w.Run(time.Now().Add(20*time.Millisecond), &h); err != nil {
			return h.Count(), err
		}
	}
	return h.Count(), nil
}

func TestTheClientsAndTheApplicationsUnderstandEachOther(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	for _, size := range []int{0, 100, 1 << 10, 64 << 10} {
		body := bytes.Repeat([]byte("x"), size)
		t.Run(fmt.Sprintf("HTTP/1.1, %d bytes", size), func(t *testing.T) {
			w, err := DialHTTP1(listen(t, EchoHTTP1), Request{Method: "POST", Path: "/echo", Body: body, Want: 200})
			if n, err := run(t, w, err); err != nil || n < 2 {
				t.Errorf("%d calls, %v", n, err)
			}
		})
		for _, c := range []GRPC{{Streams: 1}, {Streams: 8}, {Streams: 1, InFlight: 4}, {Streams: 8, InFlight: 2}} {
			t.Run(fmt.Sprintf("gRPC, %d bytes, %d streams, %d in flight", size, c.Streams, c.InFlight), func(t *testing.T) {
				c.Method, c.Message, c.MinAnswer = "/bench.Echo/Echo", body, size
				w, err := DialH2(listen(t, EchoH2), c)
				if n, err := run(t, w, err); err != nil || n < 2*c.Streams*max(1, c.InFlight) {
					t.Errorf("%d calls, %v", n, err)
				}
			})
		}
	}
}

func TestTheHTTPClientSpeaksWithAServerOfTheStandardLibrary(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("dapr-app-id") != "shop" || string(body) != "hello" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		switch r.URL.Path {
		case "/empty":
			w.WriteHeader(http.StatusNoContent)
		case "/chunked":
			w.(http.Flusher).Flush()
		default:
			_, _ = w.Write(body)
		}
	}))
	defer srv.Close()
	for _, c := range []struct {
		path string
		want int
		text string
	}{
		{"/", 200, ""}, {"/empty", 204, ""}, {"/", 201, "answer 200 hello, want 201"}, {"/chunked", 200, errChunked.Error()},
	} {
		w, err := DialHTTP1(srv.Listener.Addr().String(), Request{
			Method: "PUT", Path: c.path, Fields: map[string]string{"dapr-app-id": "shop"}, Body: []byte("hello"), Want: c.want,
		})
		_, err = run(t, w, err)
		if (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s, want %d: %v", c.path, c.want, err)
		}
	}
}

// echoService is a service without generated code.
func echoService(handler func(in *wrapperspb.BytesValue) error) func(net.Listener) {
	return func(l net.Listener) {
		s := grpc.NewServer()
		s.RegisterService(&grpc.ServiceDesc{ServiceName: "bench.Echo", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
			StreamName: "Echo", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
				for {
					in := &wrapperspb.BytesValue{}
					if err := stream.RecvMsg(in); err != nil {
						if err == io.EOF {
							return nil
						}
						return err
					}
					if err := handler(in); err != nil {
						return err
					}
					if err := stream.SendMsg(in); err != nil {
						return err
					}
				}
			}}}}, nil)
		_ = s.Serve(l)
	}
}

func TestTheGRPCClientSpeaksWithAServerOfGRPC(t *testing.T) {
	for _, size := range []int{0, 1 << 10, 200 << 10} {
		message, err := proto.Marshal(wrapperspb.Bytes(make([]byte, size)))
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range []GRPC{{Streams: 1}, {Streams: 16}, {Streams: 4, InFlight: 4}} {
			g.Method, g.Message, g.MinAnswer = "/bench.Echo/Echo", message, size
			w, err := DialH2(listen(t, echoService(func(*wrapperspb.BytesValue) error { return nil })), g)
			if n, err := run(t, w, err); err != nil || n < 2 {
				t.Errorf("%d bytes, %d streams: %d calls, %v", size, g.Streams, n, err)
			}
		}
	}
}

func TestAnErrorOfACallEndsTheRun(t *testing.T) {
	addr := listen(t, echoService(func(*wrapperspb.BytesValue) error { return status.Error(codes.NotFound, "no such thing") }))
	w, err := DialH2(addr, GRPC{Method: "/bench.Echo/Echo", Streams: 1})
	if _, err := run(t, w, err); err == nil || !strings.Contains(err.Error(), `grpc-status "5", no such thing`) {
		t.Errorf("the error is %v", err)
	}
	short, err := DialH2(listen(t, EchoH2), GRPC{Method: "/bench.Echo/Echo", Message: []byte("short"), MinAnswer: 6})
	if _, err := run(t, short, err); err == nil || !strings.Contains(err.Error(), "an answer of 10 bytes, want 11") {
		t.Errorf("the error is %v", err)
	}
}

func TestAClientOfGRPCSpeaksWithTheApplication(t *testing.T) {
	cc, err := grpc.NewClient(listen(t, EchoH2), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	for _, size := range []int{1, 1 << 10, 1 << 20} {
		in, out := wrapperspb.Bytes(bytes.Repeat([]byte("x"), size)), &wrapperspb.BytesValue{}
		if err := cc.Invoke(t.Context(), "/bench.Echo/Echo", in, out); err != nil || !proto.Equal(in, out) {
			t.Errorf("%d bytes: %d come back, %v", size, len(out.GetValue()), err)
		}
	}
}

func TestTheRESPClientReadsAnswersAndErrors(t *testing.T) {
	answers := []string{"+OK\r\n", "$3\r\nabc\r\n", "$-1\r\n", "-ERR no\r\n"}
	addr := listen(t, func(l net.Listener) {
		serve(l, func(conn net.Conn) {
			buf := make([]byte, 1024)
			for _, a := range answers {
				if _, err := conn.Read(buf); err != nil {
					return
				}
				_, _ = io.WriteString(conn, a)
			}
		})
	})
	c, err := DialRESP(addr, "GET", "k")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, a := range answers {
		if err := c.Call(); (err == nil) != (i < 2) {
			t.Errorf("%q: %v", a, err)
		}
	}
}
