// Package rpc speaks gRPC (the protocol "gRPC over HTTP2") on the seam of the
// data path: a server that serves generated services on a proxy.Handler, and a
// client connection over a proxy.RoundTripper. With it the same listener, on
// the same engine, serves an API and forwards everything else byte for byte.
//
// It does less than google.golang.org/grpc, and so costs less: no resolver, no
// balancer, no retries, no interceptors, no metadata map unless somebody asks
// for it. Messages are Protocol Buffers, read with gzip or identity and written
// with identity. Functions of google.golang.org/grpc that look for a call in
// the context (grpc.SetHeader, metadata.FromIncomingContext, peer) find none;
// those of this package do.
package rpc

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/mesh/proxy"
)

// Options configure a Server.
type Options struct {
	// MaxMessage is the largest message read, in bytes; DefaultMaxMessage when
	// zero.
	MaxMessage int
	// Check, if set, is asked before each call of a registered method; an
	// error is the answer of the call. method has the form
	// "/package.Service/Method".
	Check func(method string, h proxy.Header) error
	// Enrich, if set, returns the context for a call of a registered method, and
	// who watches the call; nil for nobody.
	Enrich func(ctx context.Context, method string, h proxy.Header) (context.Context, Watcher)
	// Unknown, if set, takes the calls of services that are not registered.
	// Without it they get Unimplemented.
	Unknown proxy.Handler
	// ErrorStatus, if set, turns the error of a handler, never nil, into a
	// status. Without it, or when it returns nil, StatusFromError does.
	ErrorStatus func(error) *status.Status
	// Observe, if set, is told of each call of a registered method after it
	// was answered. It must not block.
	Observe func(Observed)
}

// Watcher is told of one call.
type Watcher interface {
	// Request is told of the message of a call that has one, before the call is
	// served.
	Request(message any)
	// End is told how the call ended: the error is that of the handler.
	End(err error)
}

// Observed is a call that was answered.
type Observed struct {
	Method   string       // "/package.Service/Method"
	Header   proxy.Header // that it came with; valid until Observe returns
	Code     codes.Code
	Duration time.Duration
	// Received and Sent are the messages, in bytes.
	Received, Sent int
	Stream         bool // it is no unary call
	Route          proxy.Route
}

// Server serves registered services. Services are registered before the first
// call; after that it is safe for concurrent use.
type Server struct {
	opt      Options
	methods  map[string]*method // by path, "/package.Service/Method"
	services map[string]grpc.ServiceInfo
	pools    pools
	head, ok proxy.Header // of nearly every response; never changed
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
	return &Server{
		opt: o, methods: map[string]*method{}, services: map[string]grpc.ServiceInfo{},
		head: responseHead(), ok: proxy.Header{{Name: fieldStatus, Value: "0"}},
	}
}

// responseHead returns the head of a response, without room for more, so that
// appending to it copies it.
func responseHead() proxy.Header { return proxy.Header{{Name: fieldContentType, Value: grpcType}} }

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
	switch {
	case r.Method != "POST":
		respondPlain(ex, 405, "gRPC calls are made with POST", proxy.Field{Name: "allow", Value: "POST"})
		return
	case !IsGRPC(r.Header):
		respondPlain(ex, 415, "gRPC calls have a content-type of application/grpc")
		return
	}
	m := s.methods[r.Target]
	switch {
	case m != nil:
		s.call(ex, r, m)
	case s.Serves(r.Target):
		_ = Fail(ex, status.Newf(codes.Unimplemented, "unknown method %s", r.Target))
	case s.opt.Unknown != nil:
		s.opt.Unknown(ex)
	default:
		_ = Fail(ex, status.Newf(codes.Unimplemented, "unknown service of method %s", r.Target))
	}
}

// call answers a call of a registered method.
func (s *Server) call(ex proxy.Exchange, r *proxy.Request, m *method) {
	c := &call{server: s, ex: ex, path: r.Target, header: r.Header}
	c.reader = messageReader{body: r.Body, max: s.opt.MaxMessage, pools: &s.pools}
	if s.opt.Observe != nil {
		c.began = time.Now()
	}
	if err := c.admit(); err != nil {
		c.finish(err)
		return
	}
	defer c.over()
	defer c.reader.release()
	ctx := context.Context(c)
	if s.opt.Enrich != nil {
		ctx, c.watcher = s.opt.Enrich(ctx, c.path, r.Header)
	}
	var err error
	if m.unary != nil {
		err = c.serveUnary(ctx, m)
	} else {
		err = c.serveStream(ctx, m)
	}
	if c.watcher != nil {
		c.watcher.End(err)
	}
	c.finish(err)
}

// admit reads the protocol's own header fields.
func (c *call) admit() error {
	var timeout string
	for i := range c.header {
		switch f := &c.header[i]; {
		case proxy.SameName(f.Name, fieldTimeout):
			timeout = f.Value
		case proxy.SameName(f.Name, fieldEncoding):
			c.reader.encoding = f.Value
		case proxy.SameName(f.Name, fieldContentType) && !protoSubtype(f.Value):
			return status.Errorf(codes.Unimplemented, "messages of the content type %q are not supported; those of %s+proto are", f.Value, grpcType)
		}
	}
	if !knownEncoding(c.reader.encoding) {
		return status.Errorf(codes.Unimplemented, "messages in grpc-encoding %q are not supported; gzip and identity are", c.reader.encoding)
	}
	if timeout != "" {
		d, ok := DecodeTimeout(timeout)
		if !ok {
			return status.Errorf(codes.Internal, "the grpc-timeout %q is malformed", timeout)
		}
		c.deadline = time.Now().Add(d)
	}
	if c.server.opt.Check != nil {
		return c.server.opt.Check(c.path, c.header)
	}
	return nil
}

// statusOf turns an error into a status.
func (s *Server) statusOf(err error) *status.Status {
	if s.opt.ErrorStatus != nil {
		if st := s.opt.ErrorStatus(err); st != nil {
			return st
		}
	}
	return StatusFromError(err)
}

// Fail answers an exchange with a status and nothing else.
func Fail(ex proxy.Exchange, st *status.Status) error {
	return ex.Respond(200, append(responseHead(), StatusFields(st)...), 0)
}

// respondPlain answers who does not speak gRPC.
func respondPlain(ex proxy.Exchange, code int, text string, more ...proxy.Field) {
	h := append(proxy.Header{{Name: fieldContentType, Value: "text/plain; charset=utf-8"}}, more...)
	if ex.Respond(code, h, int64(len(text))) == nil {
		_, _ = ex.Write([]byte(text)) // the client is gone if this fails
	}
}
