package rpc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
)

// frame returns a Length-Prefixed-Message.
func frame(flag byte, content []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(content)))
	return append(b, content...)
}

func encoded(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// request is a call as it is on the wire.
func request(body io.Reader, h ...proxy.Field) *proxy.Request {
	fields := proxy.Header{{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}}
	for _, f := range h {
		fields.Set(f.Name, f.Value)
	}
	return &proxy.Request{
		Method: "POST", Scheme: "http", Authority: "test", Target: unaryPath, Header: fields, Body: body, ContentLength: proxy.UnknownLength,
	}
}

// answer sends r and returns the response, read to its end, and its status.
func answer(tb testing.TB, rt proxy.RoundTripper, r *proxy.Request) (*proxy.Response, *status.Status) {
	tb.Helper()
	resp, err := rt.RoundTrip(timeout(tb), r, proxy.RoundTripOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = resp.Body.Close() })
	if _, err := io.ReadAll(resp.Body); err != nil {
		tb.Fatal(err)
	}
	st, ok := rpc.StatusOf(resp.Header)
	if !ok && resp.Trailer != nil {
		st, _ = rpc.StatusOf(*resp.Trailer)
	}
	return resp, st
}

func TestMalformedCallsAreAnsweredWithTheirStatus(t *testing.T) {
	leak.Check(t)
	good := frame(0, encoded(t, &pb.SimpleRequest{Payload: payload(100)}))
	cl := transport(t, serve(t, newServer(&service{}, rpc.Options{MaxMessage: 10_000}).Handle))
	for _, tc := range []struct {
		name string
		body []byte
		more []proxy.Field
		code codes.Code
	}{
		{"good", good, nil, codes.OK},
		{"good with a subtype", good, []proxy.Field{{Name: "content-type", Value: "application/grpc+proto"}}, codes.OK},
		{"good with a parameter", good, []proxy.Field{{Name: "content-type", Value: "Application/gRPC; charset=x"}}, codes.OK},
		{"another subtype", good, []proxy.Field{{Name: "content-type", Value: "application/grpc+json"}}, codes.Unimplemented},
		{"no message", nil, nil, codes.Internal},
		{"a part of a prefix", good[:3], nil, codes.Internal},
		{"a part of a message", good[:50], nil, codes.Internal},
		{"two messages", append(bytes.Clone(good), good...), nil, codes.Internal},
		{"a message and a byte", append(bytes.Clone(good), 0), nil, codes.Internal},
		{"a strange flag", frame(2, nil), nil, codes.Internal},
		{"compressed without saying how", frame(1, []byte("x")), nil, codes.Internal},
		{"not really compressed", frame(1, []byte("x")), []proxy.Field{{Name: "grpc-encoding", Value: "gzip"}}, codes.Internal},
		{"an unknown encoding", good, []proxy.Field{{Name: "grpc-encoding", Value: "snappy"}}, codes.Unimplemented},
		{"not the message", frame(0, []byte{0xff}), nil, codes.InvalidArgument},
		{"a length without content", []byte{0, 0xff, 0xff, 0xff, 0xff}, nil, codes.ResourceExhausted},
		{"a strange timeout", good, []proxy.Field{{Name: "grpc-timeout", Value: "soon"}}, codes.Internal},
		{"a timeout that is over", good, []proxy.Field{{Name: "grpc-timeout", Value: "0n"}}, codes.OK}, // the handler does not look
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, st := answer(t, cl, request(bytes.NewReader(tc.body), tc.more...))
			if resp.Status != 200 || st.Code() != tc.code {
				t.Errorf("HTTP status %d, gRPC status %v; want %v", resp.Status, st, tc.code)
			}
			if tc.name == "an unknown encoding" && resp.Header.Get("grpc-accept-encoding") != "identity,gzip" {
				t.Errorf("the answer does not name the encodings: %v", resp.Header)
			}
		})
	}
}

func TestWhoDoesNotSpeakGRPCIsToldSo(t *testing.T) {
	leak.Check(t)
	cl := transport(t, serve(t, newServer(&service{}, rpc.Options{}).Handle))
	for _, tc := range []struct {
		name   string
		change func(*proxy.Request)
		status int
	}{
		{"a GET", func(r *proxy.Request) { r.Method, r.Body, r.ContentLength = "GET", nil, 0 }, 405},
		{"JSON", func(r *proxy.Request) { r.Header.Set("content-type", "application/json") }, 415},
		{"gRPC-Web", func(r *proxy.Request) { r.Header.Set("content-type", "application/grpc-web") }, 415},
		{"no content type", func(r *proxy.Request) { r.Header.Del("content-type") }, 415},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := request(strings.NewReader("{}"))
			tc.change(r)
			if resp, _ := answer(t, cl, r); resp.Status != tc.status {
				t.Errorf("got %d, want %d", resp.Status, tc.status)
			}
		})
	}
}

func TestAStreamThatReceivesEndsAtItsDeadlineThoughTheClientStays(t *testing.T) {
	leak.Check(t)
	got := make(chan error, 1)
	s := &service{duplex: func(both pb.TestService_FullDuplexCallServer) error {
		_, err := both.Recv()
		got <- err
		return err
	}}
	cl := transport(t, serve(t, newServer(s, rpc.Options{}).Handle))
	open, writer := io.Pipe()
	defer writer.Close()
	r := request(open, proxy.Field{Name: "grpc-timeout", Value: "50m"})
	r.Target = "/grpc.testing.TestService/FullDuplexCall"
	_, st := answer(t, cl, r)
	wantCode(t, <-got, codes.DeadlineExceeded)
	if st.Code() != codes.DeadlineExceeded {
		t.Errorf("the client got %v", st)
	}
}

func TestAStreamThatSendsEndsAtItsDeadlineThoughTheClientDoesNotRead(t *testing.T) {
	leak.Check(t)
	got := make(chan error, 1)
	s := &service{output: func(_ *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
		for {
			if err := out.Send(&pb.StreamingOutputCallResponse{Payload: payload(100_000)}); err != nil {
				got <- err
				return err
			}
		}
	}}
	cl := transport(t, serve(t, newServer(s, rpc.Options{}).Handle))
	r := request(bytes.NewReader(frame(0, nil)), proxy.Field{Name: "grpc-timeout", Value: "50m"})
	r.Target = "/grpc.testing.TestService/StreamingOutputCall"
	resp, err := cl.RoundTrip(timeout(t), r, proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	wantCode(t, <-got, codes.DeadlineExceeded)
}

// TestAStatusAloneIsOneFrame reads the frames of Trailers-Only responses: a
// client that sees the head without END_STREAM waits for content.
func TestAStatusAloneIsOneFrame(t *testing.T) {
	leak.Check(t)
	s := &service{unary: func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		return nil, richError(codes.NotFound, "none")
	}}
	addr := serve(t, newServer(s, rpc.Options{}).Handle)
	for _, path := range []string{unaryPath, "/grpc.testing.TestService/Nope", "/no.Service/Method"} {
		t.Run(path, func(t *testing.T) {
			fr, fields := rawCall(t, addr, path, frame(0, nil))
			for {
				f, err := fr.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				switch f := f.(type) {
				case *http2.HeadersFrame:
					if !f.StreamEnded() {
						t.Error("the head does not end the stream")
					}
					got, err := fields.DecodeFull(f.HeaderBlockFragment())
					if err != nil {
						t.Fatal(err)
					}
					for _, want := range []string{":status", "content-type", "grpc-status", "grpc-message"} {
						if n := count(got, want); n != 1 {
							t.Errorf("there are %d fields %s", n, want)
						}
					}
					return
				case *http2.DataFrame:
					t.Fatal("there is content")
				}
			}
		})
	}
}

// TestMetadataOfTheHeadIsInAHead reads the frames of a call that fails after its
// handler has set metadata: a client takes what is in Trailers-Only for the
// trailer.
func TestMetadataOfTheHeadIsInAHead(t *testing.T) {
	leak.Check(t)
	s := &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		if err := rpc.SetHeader(ctx, metadata.Pairs("x-of-the-head", "1")); err != nil {
			return nil, err
		}
		return nil, richError(codes.NotFound, "none")
	}}
	fr, fields := rawCall(t, serve(t, newServer(s, rpc.Options{}).Handle), unaryPath, frame(0, nil))
	var blocks [][]hpack.HeaderField
	for ended := false; !ended; {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			got, err := fields.DecodeFull(f.HeaderBlockFragment())
			if err != nil {
				t.Fatal(err)
			}
			blocks, ended = append(blocks, got), f.StreamEnded()
		case *http2.DataFrame:
			ended = f.StreamEnded()
		}
	}
	if len(blocks) != 2 {
		t.Fatalf("there are %d blocks of header fields, want a head and a trailer: %v", len(blocks), blocks)
	}
	if count(blocks[0], "x-of-the-head") != 1 || count(blocks[0], "grpc-status") != 0 {
		t.Errorf("head: %v", blocks[0])
	}
	if count(blocks[1], "x-of-the-head") != 0 || count(blocks[1], "grpc-status") != 1 {
		t.Errorf("trailer: %v", blocks[1])
	}
}

func count(fields []hpack.HeaderField, name string) int {
	n := 0
	for _, f := range fields {
		if f.Name == name {
			n++
		}
	}
	return n
}

// rawCall makes a call frame by frame.
func rawCall(tb testing.TB, addr, path string, body []byte) (*http2.Framer, *hpack.Decoder) {
	tb.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "test"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			tb.Fatal(err)
		}
	}
	fr := http2.NewFramer(nc, nc)
	for _, step := range []func() error{
		func() error { _, err := io.WriteString(nc, http2.ClientPreface); return err },
		func() error { return fr.WriteSettings() },
		func() error {
			return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
		},
		func() error { return fr.WriteData(1, true, body) },
	} {
		if err := step(); err != nil {
			tb.Fatal(err)
		}
	}
	return fr, hpack.NewDecoder(4096, nil)
}
