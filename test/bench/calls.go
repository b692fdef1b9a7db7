package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	runtimev1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

// payload is what every call carries one way or the other: 1 KiB.
func payload() []byte { return bytes.Repeat([]byte("x"), 1024) }

// jsonPayload is a JSON text of 1 KiB.
func jsonPayload() []byte {
	return append(append([]byte{'"'}, bytes.Repeat([]byte("x"), 1022)...), '"')
}

// cases are all that is measured.
func (r *rig) cases() []benchCase {
	client, app := r.sidecars["client"], r.httpApp.Addr().String()
	api := fmt.Sprintf("127.0.0.1:%d", client.http)
	body := payload()
	set := fmt.Appendf(nil, `[{"key":"k","value":%s}]`, jsonPayload())
	both := func(app string) []string { return []string{"client", app} }
	return []benchCase{
		{"HTTP invocation, 1 KiB", "direct", nil, httpCalls(app, "POST", "/echo", body, 200)},
		{"HTTP invocation, 1 KiB", "two sidecars", both("http"), httpCalls(api, "POST", "/v1.0/invoke/http/method/echo", body, 200)},
		{"gRPC invocation, 1 KiB", "direct", nil, r.echoCalls(r.grpcApp.Addr().String(), "")},
		{"gRPC invocation, 1 KiB", "two sidecars", both("grpc"), r.echoCalls(fmt.Sprintf("127.0.0.1:%d", client.grpc), "grpc")},
		{"state set, in memory, 1 KiB", "HTTP", []string{"client"}, httpCalls(api, "POST", "/v1.0/state/memory", set, 204)},
		{"state get, in memory, 1 KiB", "HTTP", []string{"client"}, httpCalls(api, "GET", "/v1.0/state/memory/k", nil, 200)},
		{"state set, in memory, 1 KiB", "gRPC", []string{"client"}, r.stateCalls(client.grpc, "memory", true)},
		{"state get, in memory, 1 KiB", "gRPC", []string{"client"}, r.stateCalls(client.grpc, "memory", false)},
		{"state set, engine, 1 KiB", "HTTP", []string{"client"}, httpCalls(api, "POST", "/v1.0/state/statestore", set, 204)},
		{"state get, engine, 1 KiB", "HTTP", []string{"client"}, httpCalls(api, "GET", "/v1.0/state/statestore/k", nil, 200)},
		{"publish, engine, 1 KiB", "HTTP", []string{"client"}, httpCalls(api, "POST", "/v1.0/publish/pubsub/bench", jsonPayload(), 204)},
	}
}

// httpCalls makes one request again and again over a connection, without a
// client library: what is to be measured is the other side.
func httpCalls(addr, method, path string, body []byte, want int) func(context.Context) (func() error, func(), error) {
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n", method, path, addr)
	if body != nil {
		head += "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n"
	}
	request := append([]byte(head+"\r\n"), body...)
	return func(ctx context.Context) (func() error, func(), error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		in := bufio.NewReaderSize(conn, 8<<10)
		call := func() error {
			if _, err := conn.Write(request); err != nil {
				return err
			}
			return readResponse(in, want)
		}
		return call, func() { _ = conn.Close() }, nil
	}
}

// readResponse reads a response with a known length.
func readResponse(in *bufio.Reader, want int) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return err
	}
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if len(line) > 16 && strings.EqualFold(string(line[:15]), "content-length:") {
			if length, err = strconv.Atoi(strings.TrimSpace(string(line[15:]))); err != nil {
				return err
			}
		}
	}
	if status != want {
		text := make([]byte, length)
		_, _ = io.ReadFull(in, text)
		return fmt.Errorf("answer %d %s, want %d", status, text, want)
	}
	_, err = in.Discard(length)
	return err
}

// serveEcho is the HTTP application: it answers what it gets.
func serveEcho(l net.Listener) {
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // loopback
		switch r.URL.Path {
		case "/echo":
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = w.Write(body)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})}
	_ = srv.Serve(l)
}

// echoMethod is the method of the gRPC application.
const echoMethod = "/bench.Echo/Echo"

// registerEcho registers a service without generated code.
func registerEcho(s *grpc.Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.BytesValue{}
			err := dec(in)
			return in, err
		}}},
	}, nil)
}

func dialGRPC(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// echoCalls calls the gRPC application, through its sidecar when app is not
// empty.
func (r *rig) echoCalls(addr, app string) func(context.Context) (func() error, func(), error) {
	return func(ctx context.Context) (func() error, func(), error) {
		cc, err := dialGRPC(addr)
		if err != nil {
			return nil, nil, err
		}
		if app != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "dapr-app-id", app)
		}
		in := wrapperspb.Bytes(payload())
		call := func() error {
			out := &wrapperspb.BytesValue{}
			if err := cc.Invoke(ctx, echoMethod, in, out); err != nil {
				return err
			}
			if len(out.GetValue()) != len(in.GetValue()) {
				return errors.New("the echo is not what was sent")
			}
			return nil
		}
		return call, func() { _ = cc.Close() }, nil
	}
}

// stateCalls sets or gets one key over gRPC.
func (r *rig) stateCalls(port int, store string, set bool) func(context.Context) (func() error, func(), error) {
	return func(ctx context.Context) (func() error, func(), error) {
		cc, err := dialGRPC(fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return nil, nil, err
		}
		api := runtimev1.NewDaprClient(cc)
		save := &runtimev1.SaveStateRequest{StoreName: store, States: []*commonv1.StateItem{{Key: "g", Value: payload()}}}
		if _, err := api.SaveState(ctx, save); err != nil {
			return nil, nil, err
		}
		get := &runtimev1.GetStateRequest{StoreName: store, Key: "g"}
		call := func() error {
			if set {
				_, err := api.SaveState(ctx, save)
				return err
			}
			got, err := api.GetState(ctx, get)
			if err == nil && len(got.GetData()) != 1024 {
				err = errors.New("the value is not what was saved")
			}
			return err
		}
		return call, func() { _ = cc.Close() }, nil
	}
}
