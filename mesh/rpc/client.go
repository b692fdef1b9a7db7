package rpc

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"slices"
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
// grpc.ClientConnInterface, so that generated clients work on it. Its fields
// must not be changed once it is in use; its methods are safe for concurrent
// use.
type ClientConn struct {
	// Transport carries the calls; it must speak HTTP/2.
	Transport proxy.RoundTripper
	// Scheme is the :scheme of the calls; "http" when empty.
	Scheme string
	// Authority is the :authority of the calls.
	Authority string
	// MaxMessage is the largest message read, in bytes; DefaultMaxMessage when
	// zero.
	MaxMessage int
	// Header, if set, is sent with every call.
	Header proxy.Header
	// Observe, if set, is told of each call after it has ended; Observed.Header
	// is nil. It must not block.
	Observe func(Observed)

	pools pools
}

var _ grpc.ClientConnInterface = (*ClientConn)(nil)

// Invoke implements grpc.ClientConnInterface for unary calls. Of the options
// it heeds grpc.Header and grpc.Trailer; metadata comes from the outgoing
// context. Errors are gRPC statuses: Unavailable when the call could not be
// made. An error that did not come from the server wraps that of the
// transport, for proxy.Unsent and fault.CodeOf.
func (c *ClientConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if c.Observe == nil {
		_, _, err := c.invoke(ctx, method, args, reply, opts)
		return err
	}
	began := time.Now()
	sent, received, err := c.invoke(ctx, method, args, reply, opts)
	c.Observe(Observed{Method: method, Code: status.Code(err), Duration: time.Since(began), Sent: sent, Received: received})
	return err
}

// invoke is Invoke. It returns the lengths of the messages.
func (c *ClientConn) invoke(ctx context.Context, method string, args, reply any, opts []grpc.CallOption) (sent, received int, err error) {
	out := c.pools.get()
	defer c.pools.put(out)
	if out.b, err = appendMessage(out.b, args); err != nil {
		return 0, 0, err
	}
	sent = len(out.b) - prefixLen
	resp, err := c.Transport.RoundTrip(ctx, &proxy.Request{
		Method: "POST", Scheme: cmp.Or(c.Scheme, "http"), Authority: c.Authority, Target: method,
		Header: c.head(ctx), ContentLength: int64(len(out.b)), Body: bytes.NewReader(out.b),
	}, proxy.RoundTripOptions{})
	if err != nil {
		return sent, 0, transportError(err)
	}
	defer resp.Body.Close()
	if resp.Upgraded != nil {
		return sent, 0, status.Error(codes.Internal, "the server switched protocols, which was not asked for")
	}
	received, err = c.receive(resp, reply)
	deliver(resp, opts)
	return sent, received, err
}

// head returns the header fields of a call.
func (c *ClientConn) head(ctx context.Context) proxy.Header {
	md, _ := metadata.FromOutgoingContext(ctx)
	h := make(proxy.Header, 0, 4+len(c.Header)+len(md))
	h = append(h, proxy.Field{Name: fieldContentType, Value: grpcType}, proxy.Field{Name: fieldTE, Value: "trailers"},
		proxy.Field{Name: fieldAcceptEncoding, Value: acceptEncoding})
	if deadline, ok := ctx.Deadline(); ok {
		h = append(h, proxy.Field{Name: fieldTimeout, Value: EncodeTimeout(time.Until(deadline))})
	}
	return AppendMetadata(append(h, c.Header...), md)
}

// deliver gives the metadata of the response to the options that want it.
func deliver(resp *proxy.Response, opts []grpc.CallOption) {
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = Metadata(resp.Header)
		case grpc.TrailerCallOption:
			if trailer := trailerOf(resp); trailer != nil {
				*o.TrailerAddr = Metadata(trailer)
			}
		}
	}
}

// trailerOf returns the trailer of a response whose body is at its end. That of
// a Trailers-Only response is its head.
func trailerOf(resp *proxy.Response) proxy.Header {
	if resp.Header.Has(fieldStatus) {
		return resp.Header
	}
	if resp.Trailer != nil {
		return *resp.Trailer
	}
	return nil
}

// receive reads the response into reply and returns the length of its message
// and its status.
func (c *ClientConn) receive(resp *proxy.Response, reply any) (int, error) {
	if st, ok := StatusOf(resp.Header); ok { // Trailers-Only
		return 0, statusOrMissing(st)
	}
	if resp.Status != 200 {
		return 0, status.Errorf(codeOfHTTP(resp.Status), "the server answered with HTTP status %d", resp.Status)
	}
	if !IsGRPC(resp.Header) {
		return 0, status.Errorf(codes.Unknown, "the server answered with content-type %q, not %s", resp.Header.Get(fieldContentType), grpcType)
	}
	r := messageReader{
		body: resp.Body, encoding: resp.Header.Get(fieldEncoding), max: cmp.Or(c.MaxMessage, DefaultMaxMessage), pools: &c.pools,
	}
	defer r.release()
	message, err := r.next()
	none := err == io.EOF
	if err == nil {
		err = r.end()
	}
	if err != nil && !none {
		return 0, transportError(err)
	}
	st, ok := StatusOf(trailerOf(resp))
	switch {
	case !ok:
		return 0, status.Error(codes.Internal, "the server ended the call without a status")
	case none || st.Code() != codes.OK:
		return 0, statusOrMissing(st)
	}
	return r.received, unmarshalReply(message, reply)
}

// statusOrMissing returns the status of a call that got no message.
func statusOrMissing(st *status.Status) error {
	if st.Code() == codes.OK {
		return status.Error(codes.Internal, "the server answered OK without a message")
	}
	return st.Err()
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

// callError is a call that the transport failed.
type callError struct {
	status *status.Status
	err    error
}

func (e *callError) Error() string              { return e.status.Err().Error() }
func (e *callError) Unwrap() error              { return e.err }
func (e *callError) GRPCStatus() *status.Status { return e.status }

// transportError gives an error of the transport a status. One that has a
// status already stays as it is.
func transportError(err error) error {
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	code := CodeOf(fault.CodeOf(err))
	if !slices.Contains([]codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted, codes.InvalidArgument}, code) {
		code = codes.Unavailable
	}
	return &callError{status.New(code, fault.Message(err)), err}
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
