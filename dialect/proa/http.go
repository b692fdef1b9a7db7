package proa

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// The HTTP form of a method is a POST to the path that it has in gRPC,
// /proa.v1.State/List, with the request as JSON; the answer is JSON too. This is
// what the Connect protocol says of unary calls. A method that answers with a
// stream sends one JSON object per line, and an error that ends it as a last
// line {"error": ...}.

// httpMethod is a method as it is served over HTTP.
type httpMethod struct {
	name   string // "State.List", for logs
	impl   any
	unary  *grpc.MethodDesc // or
	stream *grpc.StreamDesc
	served bool
}

func (r *rules) addHTTP(s service, served bool) {
	short := strings.TrimPrefix("/"+s.desc.ServiceName, prefix)
	for i := range s.desc.Methods {
		m := &s.desc.Methods[i]
		r.methods[path(s.desc.ServiceName, m.MethodName)] = &httpMethod{short + "." + m.MethodName, s.impl, m, nil, served}
	}
	for i := range s.desc.Streams {
		m := &s.desc.Streams[i]
		r.methods[path(s.desc.ServiceName, m.StreamName)] = &httpMethod{short + "." + m.StreamName, s.impl, nil, m, served}
	}
}

// Handle answers a request whose path, cleaned, Serves has taken; ctx is its
// context. It returns the name of the method that was called, "State.List", and
// the status of the answer; 0 when the client has gone.
func (a *API) Handle(ctx context.Context, ex proxy.Exchange, path string) (route string, httpStatus int) {
	c := &httpCall{ex: ex, request: ex.Request(), max: a.opts.MaxBody}
	m := a.rules.Load().methods[path]
	switch {
	case m == nil:
		c.fail(404, a.unknown(path))
		return "unknown", c.status
	case !m.served:
		c.fail(404, errNotServed())
	case c.request.Method != "POST":
		c.header.Add("Allow", "POST")
		c.fail(405, fault.New(fault.Unimplemented, "%s is called with POST, not %s", path, c.request.Method))
	case !readable(c.request.Header.Get("content-type")):
		c.fail(415, fault.New(fault.Unimplemented, "over HTTP, messages are JSON (application/json), not %s", c.request.Header.Get("content-type")))
	case m.unary != nil:
		c.serveUnary(ctx, m)
	default:
		ctx, cancel := a.untilStop(ctx)
		defer cancel()
		c.serveStream(ctx, m)
	}
	return m.name, c.status
}

// unknown tells of a path that is no method, and which there are.
func (a *API) unknown(path string) error {
	service, method, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	var there []string
	for p := range a.rules.Load().methods {
		if name, ok := strings.CutPrefix(p, "/"+service+"/"); ok {
			there = append(there, name)
		}
	}
	if len(there) == 0 {
		return fault.New(fault.Unimplemented, "there is no service %q", service)
	}
	slices.Sort(there)
	return fault.New(fault.Unimplemented, "the service %s has no method %q: there are %s", service, method, strings.Join(there, ", "))
}

// readable reports whether a content type may be that of JSON. What tools send
// when nobody says is let pass.
func readable(contentType string) bool {
	if contentType == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && !strings.Contains(media, "proto") && !strings.Contains(media, "connect") && !strings.Contains(media, "grpc")
}

// httpCall is one request under way.
type httpCall struct {
	ex      proxy.Exchange
	request *proxy.Request
	max     int64
	header  proxy.Header // of the answer
	status  int          // of the answer; 0 before
}

func (c *httpCall) serveUnary(ctx context.Context, m *httpMethod) {
	answer, err := m.unary.Handler(m.impl, ctx, c.read, nil)
	if err != nil {
		c.failed(err)
		return
	}
	body, err := encode(answer)
	if err != nil {
		c.failed(err)
		return
	}
	c.respond(200, "application/json", body)
}

func (c *httpCall) serveStream(ctx context.Context, m *httpMethod) {
	if m.stream.ClientStreams {
		c.fail(415, fault.New(fault.Unimplemented, "%s takes a stream, which is served over gRPC only", m.name))
		return
	}
	err := stopped(ctx, m.stream.Handler(m.impl, &httpStream{call: c, ctx: ctx}))
	switch {
	case err == nil && c.status == 0:
		c.respond(200, streamType, nil)
	case err == nil:
	case c.status == 0:
		c.failed(err)
	default:
		_, text, _ := jsonOf(err)
		_, _ = c.ex.Write(slices.Concat([]byte(`{"error":`), text, []byte("}\n"))) // the client is gone if this fails
	}
}

// streamType is the content type of one JSON object per line.
const streamType = "application/x-ndjson"

// read decodes the body of the request.
func (c *httpCall) read(message any) error {
	body, err := c.body()
	if err != nil {
		return err
	}
	return decode(body, message)
}

// decode reads a message as JSON; what is empty is an empty message.
func decode(body []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fault.New(fault.Internal, "%T is no message", message)
	}
	if len(body) == 0 {
		return nil
	}
	if err := protojson.Unmarshal(body, m); err != nil {
		return fault.New(fault.InvalidArgument, "the body is no %s: %s", m.ProtoReflect().Descriptor().Name(), decodeProblem(err))
	}
	return nil
}

// decodeProblem returns what protojson says, less its own name, whose spelling
// it varies.
func decodeProblem(err error) string {
	_, text, ok := strings.Cut(err.Error(), ":")
	if !ok {
		return err.Error()
	}
	return strings.TrimSpace(text)
}

func (c *httpCall) body() ([]byte, error) {
	limit := c.max
	if limit >= 0 && c.request.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	if c.request.Body == nil {
		return nil, nil
	}
	r := c.request.Body
	if limit >= 0 {
		r = io.LimitReader(r, limit+1)
	}
	body, err := io.ReadAll(r)
	switch {
	case err != nil && fault.Is(err, fault.ResourceExhausted), limit >= 0 && int64(len(body)) > limit:
		return nil, tooLarge(limit)
	case err != nil:
		return nil, fault.Wrap(err, fault.InvalidArgument, "the body did not arrive")
	}
	return body, nil
}

// errTooLarge has the status 413 over HTTP.
var errTooLarge = errors.New("too large")

func tooLarge(limit int64) error {
	return fault.Wrap(errTooLarge, fault.ResourceExhausted, "the body has more than %d bytes, the most allowed", limit)
}

// encode returns a message as compact JSON. The library puts blanks in at random
// so that nobody relies on its spelling.
func encode(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fault.New(fault.Internal, "%T is no message", message)
	}
	body, err := protojson.Marshal(m)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "the answer cannot be written as JSON")
	}
	return compact(body), nil
}

func compact(text []byte) []byte {
	out, err := json.Marshal(json.RawMessage(text))
	if err != nil { // it is JSON
		return text
	}
	return out
}

func (c *httpCall) respond(httpStatus int, contentType string, body []byte) {
	c.header.Add("Content-Type", contentType)
	if c.ex.Respond(httpStatus, c.header, int64(len(body))) != nil {
		return // the client has gone
	}
	c.status = httpStatus
	_, _ = c.ex.Write(body) // an error means that the client has gone
}

// failed answers with an error.
func (c *httpCall) failed(err error) {
	httpStatus, _, _ := jsonOf(err)
	if errors.Is(err, errTooLarge) {
		httpStatus = 413
	}
	c.fail(httpStatus, err)
}

// fail answers with an error and another status than its code's.
func (c *httpCall) fail(httpStatus int, err error) {
	_, body, after := jsonOf(err)
	if after != "" {
		c.header.Add("Retry-After", after)
	}
	c.respond(httpStatus, "application/json", body)
}

// httpStream is the grpc.ServerStream of a method that answers with a stream.
type httpStream struct {
	call *httpCall
	ctx  context.Context //nolint:containedctx // a grpc.ServerStream has the context of its call
	read bool
}

var _ grpc.ServerStream = (*httpStream)(nil)

// Context returns the context of the call.
func (s *httpStream) Context() context.Context { return s.ctx }

// SetHeader does nothing: this API has no metadata.
func (s *httpStream) SetHeader(metadata.MD) error { return nil }

// SetTrailer does nothing.
func (s *httpStream) SetTrailer(metadata.MD) {}

// SendHeader sends the head of the answer.
func (s *httpStream) SendHeader(metadata.MD) error {
	if err := s.head(); err != nil {
		return err
	}
	return s.call.ex.Flush()
}

func (s *httpStream) head() error {
	if s.call.status != 0 {
		return nil
	}
	s.call.header.Add("Content-Type", streamType)
	if err := s.call.ex.Respond(200, s.call.header, proxy.UnknownLength); err != nil {
		return err
	}
	s.call.status = 200
	return nil
}

// SendMsg sends one message at once.
func (s *httpStream) SendMsg(message any) error {
	line, err := encode(message)
	if err != nil {
		return err
	}
	if err := s.head(); err != nil {
		return err
	}
	if _, err := s.call.ex.Write(append(line, '\n')); err != nil {
		return err
	}
	return s.call.ex.Flush()
}

// RecvMsg returns the request, and io.EOF after it.
func (s *httpStream) RecvMsg(message any) error {
	if s.read {
		return io.EOF
	}
	s.read = true
	return s.call.read(message)
}
