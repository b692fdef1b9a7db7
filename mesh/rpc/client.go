package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// ClientConn makes unary calls over a proxy.RoundTripper. It implements
// grpc.ClientConnInterface, so that generated clients work on it. It is safe
// for concurrent use.
type ClientConn struct {
	// Transport carries the calls; it must speak HTTP/2.
	Transport proxy.RoundTripper
	// Authority is the :authority of the calls.
	Authority string
	// MaxMessage is the largest message read; DefaultMaxMessage when zero.
	MaxMessage int
	// Header, if set, is sent with every call.
	Header proxy.Header

	buffers bufferPool
}

var _ grpc.ClientConnInterface = (*ClientConn)(nil)

// Invoke implements grpc.ClientConnInterface for unary calls. Of the options
// it observes none; metadata comes from the outgoing context. Errors are gRPC
// statuses: Unavailable when the call could not be made.
func (c *ClientConn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	in, ok := args.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "cannot encode a %T", args)
	}
	out := c.buffers.get()
	defer c.buffers.put(out)
	var err error
	if out.b, err = appendMessage(out.b, in); err != nil {
		return err
	}
	resp, err := c.Transport.RoundTrip(ctx, &proxy.Request{
		Method: "POST", Scheme: "http", Authority: c.Authority, Target: method,
		Header: c.head(ctx), ContentLength: int64(len(out.b)), Body: bytes.NewReader(out.b),
	}, proxy.RoundTripOptions{})
	if err != nil {
		return transportStatus(err)
	}
	defer resp.Body.Close()
	return c.receive(resp, reply)
}

func (c *ClientConn) head(ctx context.Context) proxy.Header {
	h := make(proxy.Header, 0, 6+len(c.Header))
	h = append(h, proxy.Field{Name: "content-type", Value: "application/grpc"}, proxy.Field{Name: "te", Value: "trailers"},
		proxy.Field{Name: "grpc-accept-encoding", Value: "identity,gzip"})
	if deadline, ok := ctx.Deadline(); ok {
		h = append(h, proxy.Field{Name: "grpc-timeout", Value: EncodeTimeout(time.Until(deadline))})
	}
	h = append(h, c.Header...)
	if md, ok := metadata.FromOutgoingContext(ctx); ok {
		h = AppendMetadata(h, md)
	}
	return h
}

func (c *ClientConn) receive(resp *proxy.Response, reply any) error {
	if st, ok := StatusOf(resp.Header); ok { // Trailers-Only
		if st.Code() == codes.OK {
			return status.Error(codes.Internal, "the server answered OK without a message")
		}
		return st.Err()
	}
	if resp.Status != 200 {
		return status.Errorf(codeOfHTTP(resp.Status), "the server answered with HTTP status %d", resp.Status)
	}
	if !IsGRPC(resp.Header) {
		return status.Errorf(codes.Unknown, "the server answered with content-type %q, not application/grpc", resp.Header.Get("content-type"))
	}
	most := c.MaxMessage
	if most == 0 {
		most = DefaultMaxMessage
	}
	r := messageReader{body: resp.Body, encoding: resp.Header.Get("grpc-encoding"), max: most}
	in := c.buffers.get()
	defer c.buffers.put(in)
	got := r.read(in)
	if got != nil && !errors.Is(got, io.EOF) {
		return got
	}
	if got == nil {
		var tail [1]byte
		if n, err := resp.Body.Read(tail[:]); n > 0 {
			return status.Error(codes.Internal, "the server sent more than one message")
		} else if err != nil && !errors.Is(err, io.EOF) {
			return transportStatus(err)
		}
	}
	if resp.Trailer != nil {
		if st, ok := StatusOf(*resp.Trailer); ok {
			if st.Code() != codes.OK {
				return st.Err()
			}
			if got == nil {
				return unmarshalReply(in.b, reply)
			}
		}
	}
	return status.Error(codes.Internal, "the server ended the call without a status or without a message")
}

func unmarshalReply(b []byte, reply any) error {
	m, ok := reply.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "cannot decode into a %T", reply)
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return status.Errorf(codes.Internal, "the answer is not a valid %s: %v", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}

// NewStream refuses: streams flow through the data path, not through here.
func (c *ClientConn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "this connection makes unary calls only")
}

// transportStatus turns an error of the transport into a status.
func transportStatus(err error) error {
	code := codes.Unavailable
	switch fault.CodeOf(err) {
	case fault.Canceled:
		code = codes.Canceled
	case fault.DeadlineExceeded:
		code = codes.DeadlineExceeded
	}
	return status.Error(code, err.Error())
}

// codeOfHTTP maps the HTTP status of an answer that is not gRPC, as the
// protocol's document "HTTP to gRPC Status Code Mapping" has it.
func codeOfHTTP(code int) codes.Code {
	switch code {
	case 400:
		return codes.Internal
	case 401:
		return codes.Unauthenticated
	case 403:
		return codes.PermissionDenied
	case 404:
		return codes.Unimplemented
	case 429, 502, 503, 504:
		return codes.Unavailable
	}
	return codes.Unknown
}
