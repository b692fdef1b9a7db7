// Package rpc speaks gRPC (the protocol "gRPC over HTTP2") on the seam of the
// data path: a server that serves generated services on a proxy.Handler, and a
// client connection over a proxy.RoundTripper. With it the same listener, on
// the same engine, serves an API and forwards everything else byte for byte.
//
// It does less than google.golang.org/grpc, and so costs less: no resolver, no
// balancer, no retries, no metadata map unless somebody asks for it. Messages
// are read with gzip or identity and written with identity.
package rpc

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/proa-io/proa/mesh/proxy"
)

// Options configure a Server.
type Options struct {
	// MaxMessage is the largest message read; DefaultMaxMessage when zero.
	MaxMessage int
	// Check, if set, is asked before each call of a registered method; an
	// error is the answer of the call.
	Check func(method string, h proxy.Header) error
	// Enrich, if set, returns the context for a call of a registered method.
	Enrich func(ctx context.Context, h proxy.Header) context.Context
	// Unknown, if set, takes the calls of methods that are not registered.
	// Without it they get Unimplemented.
	Unknown proxy.Handler
	// ErrorStatus, if set, turns the error of a handler into a status.
	ErrorStatus func(error) *status.Status
}

// Server serves registered services. Services are registered before the first
// call; after that it is safe for concurrent use.
type Server struct {
	opt      Options
	methods  map[string]*method // by path, "/package.Service/Method"
	services map[string]grpc.ServiceInfo
	buffers  bufferPool
}

type method struct {
	impl   any
	unary  *grpc.MethodDesc
	stream *grpc.StreamDesc
}

var _ grpc.ServiceRegistrar = (*Server)(nil)

// NewServer returns a Server without services.
func NewServer(o Options) *Server {
	if o.MaxMessage == 0 {
		o.MaxMessage = DefaultMaxMessage
	}
	return &Server{opt: o, methods: map[string]*method{}, services: map[string]grpc.ServiceInfo{}}
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	info := grpc.ServiceInfo{Metadata: desc.Metadata}
	for i := range desc.Methods {
		m := &desc.Methods[i]
		s.methods["/"+desc.ServiceName+"/"+m.MethodName] = &method{impl: impl, unary: m}
		info.Methods = append(info.Methods, grpc.MethodInfo{Name: m.MethodName})
	}
	for i := range desc.Streams {
		m := &desc.Streams[i]
		s.methods["/"+desc.ServiceName+"/"+m.StreamName] = &method{impl: impl, stream: m}
		info.Methods = append(info.Methods, grpc.MethodInfo{
			Name: m.StreamName, IsClientStream: m.ClientStreams, IsServerStream: m.ServerStreams,
		})
	}
	s.services[desc.ServiceName] = info
}

// GetServiceInfo returns what is registered, for server reflection.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo { return s.services }

// Serves reports whether the service of a path is registered, whatever its
// method.
func (s *Server) Serves(path string) bool {
	service, _, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	_, known := s.services[service]
	return ok && known
}

// Handle answers one exchange. It is a proxy.Handler.
func (s *Server) Handle(ex proxy.Exchange) {
	r := ex.Request()
	m := s.methods[r.Target]
	switch {
	case m == nil && s.opt.Unknown != nil && !s.Serves(r.Target):
		s.opt.Unknown(ex)
		return
	case r.Method != "POST":
		respondPlain(ex, 405, "gRPC calls are made with POST")
		return
	case !IsGRPC(r.Header):
		respondPlain(ex, 415, "gRPC calls have a content-type of application/grpc")
		return
	case m == nil:
		Fail(ex, status.Newf(codes.Unimplemented, "unknown method %s", r.Target))
		return
	}
	s.call(ex, r, m)
}

func (s *Server) call(ex proxy.Exchange, r *proxy.Request, m *method) {
	if s.opt.Check != nil {
		if err := s.opt.Check(r.Target, r.Header); err != nil {
			Fail(ex, s.statusOf(err))
			return
		}
	}
	encoding := r.Header.Get("grpc-encoding")
	if encoding != "" && encoding != "identity" && encoding != "gzip" {
		st := status.Newf(codes.Unimplemented, "grpc-encoding %q is not supported; gzip and identity are", encoding)
		h := append(proxy.Header{{Name: "content-type", Value: "application/grpc"}, {Name: "grpc-accept-encoding", Value: "identity,gzip"}},
			StatusFields(st)...)
		_ = ex.Respond(200, h, proxy.UnknownLength)
		return
	}
	c := &call{server: s, ex: ex, path: r.Target, header: r.Header}
	c.reader = messageReader{body: r.Body, encoding: encoding, max: s.opt.MaxMessage}
	c.ctx = c.context(ex)
	if timeout := r.Header.Get("grpc-timeout"); timeout != "" {
		d, ok := DecodeTimeout(timeout)
		if !ok {
			Fail(ex, status.Newf(codes.Internal, "grpc-timeout %q is malformed", timeout))
			return
		}
		ctx, cancel := context.WithTimeout(c.ctx, d)
		defer cancel()
		c.ctx = ctx
	}
	if s.opt.Enrich != nil {
		c.ctx = s.opt.Enrich(c.ctx, r.Header)
	}
	var err error
	if m.unary != nil {
		err = c.serveUnary(m)
	} else {
		err = m.stream.Handler(m.impl, &serverStream{c})
	}
	c.finish(err)
}

// statusOf turns an error into a status; nil stays nil.
func (s *Server) statusOf(err error) *status.Status {
	if s.opt.ErrorStatus != nil {
		return s.opt.ErrorStatus(err)
	}
	if st, ok := status.FromError(err); ok {
		return st
	}
	if st := status.FromContextError(err); st.Code() != codes.Unknown {
		return st
	}
	return status.New(codes.Unknown, err.Error())
}

// call is one call of a registered method.
type call struct {
	server *Server
	ex     proxy.Exchange
	path   string
	header proxy.Header
	ctx    context.Context //nolint:containedctx // the call is what the context belongs to
	reader messageReader

	mu        sync.Mutex // guards the fields below
	md        metadata.MD
	trailer   metadata.MD
	responded bool
}

// callContext gives handlers what belongs to the call. The context of the
// exchange is built only when somebody needs it to end.
type callContext struct {
	ex    proxy.Exchange
	call  *call
	once  sync.Once
	built atomic.Bool
	inner context.Context //nolint:containedctx // this is a context
}

func (c *call) context(ex proxy.Exchange) context.Context { return &callContext{ex: ex, call: c} }

func (c *callContext) base() context.Context {
	c.once.Do(func() {
		c.inner = c.ex.Context()
		c.built.Store(true)
	})
	return c.inner
}

func (c *callContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c *callContext) Done() <-chan struct{}       { return c.base().Done() }
func (c *callContext) Err() error {
	if !c.built.Load() {
		return nil // nobody has waited for it to end
	}
	return c.base().Err()
}

type callKey struct{}

func (c *callContext) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return c.call
	}
	return c.base().Value(key)
}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// IncomingHeader returns the header fields that the call of ctx came with; nil
// outside of a call. It must not be changed.
func IncomingHeader(ctx context.Context) proxy.Header {
	if c := callOf(ctx); c != nil {
		return c.header
	}
	return nil
}

// SetHeader adds metadata to the head of the response. It is an error after
// the head has been sent, and outside of a call.
func SetHeader(ctx context.Context, md metadata.MD) error {
	c := callOf(ctx)
	if c == nil {
		return errors.New("rpc: the context does not belong to a call")
	}
	return c.setHeader(md)
}

// SetTrailer adds metadata to the trailer of the response.
func SetTrailer(ctx context.Context, md metadata.MD) error {
	c := callOf(ctx)
	if c == nil {
		return errors.New("rpc: the context does not belong to a call")
	}
	c.setTrailer(md)
	return nil
}

func (c *call) setHeader(md metadata.MD) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.responded {
		return errors.New("rpc: the head of the response has been sent")
	}
	c.md = metadata.Join(c.md, md)
	return nil
}

func (c *call) setTrailer(md metadata.MD) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trailer = metadata.Join(c.trailer, md)
}

func (c *call) serveUnary(m *method) error {
	in := c.server.buffers.get()
	defer c.server.buffers.put(in)
	if err := c.reader.read(in); err != nil {
		if errors.Is(err, io.EOF) {
			return status.Errorf(codes.Internal, "%s wants one message and got none", c.path)
		}
		return err
	}
	out, err := m.unary.Handler(m.impl, c.ctx, func(v any) error { return unmarshal(in.b, v) }, nil)
	if err != nil {
		return err
	}
	return c.send(out)
}

// send writes one message, after the head if that is still to be sent.
func (c *call) send(m any) error {
	pm, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "cannot encode a %T", m)
	}
	buf := c.server.buffers.get()
	defer c.server.buffers.put(buf)
	var err error
	if buf.b, err = appendMessage(buf.b, pm); err != nil {
		return err
	}
	if err := c.respond(); err != nil {
		return err
	}
	if _, err := c.ex.Write(buf.b); err != nil {
		return status.Errorf(codes.Canceled, "the stream broke: %v", err)
	}
	return nil
}

// respond sends the head once.
func (c *call) respond() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.responded {
		return nil
	}
	c.responded = true
	h := make(proxy.Header, 1, 4)
	h[0] = proxy.Field{Name: "content-type", Value: "application/grpc"}
	if err := c.ex.Respond(200, AppendMetadata(h, c.md), proxy.UnknownLength); err != nil {
		return status.Errorf(codes.Canceled, "the stream broke: %v", err)
	}
	return nil
}

// okTrailer is what nearly every call ends with; it is never changed.
func okTrailer() proxy.Header { return proxy.Header{{Name: "grpc-status", Value: "0"}} }

func (c *call) finish(err error) {
	c.mu.Lock()
	responded, trailer, md := c.responded, c.trailer, c.md
	c.responded = true
	c.mu.Unlock()
	st := okTrailer()
	if err != nil {
		st = StatusFields(c.server.statusOf(err))
	}
	st = AppendMetadata(st, trailer)
	if responded {
		_ = c.ex.Trailer(st)
		return
	}
	h := AppendMetadata(proxy.Header{{Name: "content-type", Value: "application/grpc"}}, md)
	_ = c.ex.Respond(200, append(h, st...), 0) // a Trailers-Only response
}

// serverStream is the grpc.ServerStream of a call.
type serverStream struct{ *call }

var _ grpc.ServerStream = (*serverStream)(nil)

// Context returns the context of the call.
func (s *serverStream) Context() context.Context { return s.ctx }

// SetHeader adds metadata to the head.
func (s *serverStream) SetHeader(md metadata.MD) error { return s.setHeader(md) }

// SendHeader sends the head.
func (s *serverStream) SendHeader(md metadata.MD) error {
	if err := s.setHeader(md); err != nil {
		return err
	}
	if err := s.respond(); err != nil {
		return err
	}
	return s.ex.Flush()
}

// SetTrailer adds metadata to the trailer.
func (s *serverStream) SetTrailer(md metadata.MD) { s.setTrailer(md) }

// SendMsg sends one message at once.
func (s *serverStream) SendMsg(m any) error {
	if err := s.send(m); err != nil {
		return err
	}
	if err := s.ex.Flush(); err != nil {
		return status.Errorf(codes.Canceled, "the stream broke: %v", err)
	}
	return nil
}

// RecvMsg receives one message, or io.EOF.
func (s *serverStream) RecvMsg(m any) error {
	buf := s.server.buffers.get()
	defer s.server.buffers.put(buf)
	if err := s.reader.read(buf); err != nil {
		return err
	}
	return unmarshal(buf.b, m)
}

// Fail answers an exchange with a status and nothing else.
func Fail(ex proxy.Exchange, st *status.Status) {
	h := append(proxy.Header{{Name: "content-type", Value: "application/grpc"}}, StatusFields(st)...)
	_ = ex.Respond(200, h, 0)
}

func respondPlain(ex proxy.Exchange, code int, text string) {
	if ex.Respond(code, proxy.Header{{Name: "content-type", Value: "text/plain"}}, int64(len(text))) == nil {
		_, _ = ex.Write([]byte(text))
	}
}
