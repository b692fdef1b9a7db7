package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// call is one call of a registered method. It is the context of its handler:
// the context of the exchange, with its timer, is built only when somebody
// needs to know when the call ends.
type call struct {
	server   *Server
	ex       proxy.Exchange
	path     string
	header   proxy.Header
	deadline time.Time // zero for none
	began    time.Time // zero when nobody asks
	sent     atomic.Int64
	reader   messageReader
	watcher  Watcher // nil for nobody
	route    *proxy.Route

	built   atomic.Bool
	polls   atomic.Int32 // calls of Err before built
	writing atomic.Bool

	mu        sync.Mutex         // guards the fields below
	inner     context.Context    //nolint:containedctx // the call is a context, built of this one
	cancel    context.CancelFunc // of inner, when there is a deadline
	md        metadata.MD
	trailer   metadata.MD
	responded bool
}

var _ context.Context = (*call)(nil)

// base returns the context of the exchange, with the deadline.
func (c *call) base() context.Context {
	if c.built.Load() {
		return c.inner
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner = c.ex.Context()
		if !c.deadline.IsZero() {
			c.inner, c.cancel = context.WithDeadline(c.inner, c.deadline)
		}
		c.built.Store(true)
	}
	return c.inner
}

// over ends what base has built.
func (c *call) over() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}

// Deadline implements context.Context.
func (c *call) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Done implements context.Context.
func (c *call) Done() <-chan struct{} { return c.base().Done() }

// freePolls is how often Err may be asked before it is worth its while to find
// out whether the client is still there.
const freePolls = 8

// Err implements context.Context. As long as nobody waits for the call to end,
// and nobody asks again and again, it only looks at the clock.
func (c *call) Err() error {
	if c.built.Load() || c.polls.Add(1) > freePolls {
		return c.base().Err()
	}
	if !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

type callKey struct{}

// Value implements context.Context.
func (c *call) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return c
	}
	if !c.built.Load() {
		return nil // the context of an exchange ends and carries nothing
	}
	return c.inner.Value(key)
}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// IncomingHeader returns the header fields that the call of ctx came with; nil
// outside of a call. It must not be changed, nor used after the call.
func IncomingHeader(ctx context.Context) proxy.Header {
	if c := callOf(ctx); c != nil {
		return c.header
	}
	return nil
}

// Route returns room for where the call of ctx is passed on to, which
// Options.Observe is told; nil when nobody observes, and outside of a call. It
// must not be used after the call.
func Route(ctx context.Context) *proxy.Route {
	c := callOf(ctx)
	if c == nil || c.server.opt.Observe == nil {
		return nil
	}
	if c.route == nil {
		c.route = new(proxy.Route)
	}
	return c.route
}

var errNoCall = errors.New("rpc: the context does not belong to a call")

// SetHeader adds metadata to the head of the response. It is an error after
// the head has been sent, and outside of a call.
func SetHeader(ctx context.Context, md metadata.MD) error {
	if c := callOf(ctx); c != nil {
		return c.setHeader(md)
	}
	return errNoCall
}

// SetTrailer adds metadata to the trailer of the response. It is an error
// outside of a call.
func SetTrailer(ctx context.Context, md metadata.MD) error {
	c := callOf(ctx)
	if c == nil {
		return errNoCall
	}
	c.setTrailer(md)
	return nil
}

// CloseReceive ends what the handler of ctx's call receives: a RecvMsg that
// waits returns with an error, and so does every later one. It may be called
// from any goroutine; after the call, and outside of one, it does nothing.
func CloseReceive(ctx context.Context) {
	if c := callOf(ctx); c != nil {
		c.closeReceive()
	}
}

// Abort resets the stream of ctx's call: a SendMsg that waits for the client
// to take more returns with an error. It may be called from any goroutine;
// after the call, and outside of one, it does nothing.
func Abort(ctx context.Context) {
	if c := callOf(ctx); c != nil {
		c.ex.Abort()
	}
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

func (c *call) serveUnary(ctx context.Context, m *method) error {
	message, err := c.only()
	if err != nil {
		return err
	}
	d := c.server.pools.decoder()
	d.call, d.message = c, message
	out, err := m.unary.Handler(m.impl, ctx, d.run, nil)
	c.server.pools.putDecoder(d)
	if err != nil {
		return err
	}
	return c.send(out)
}

// decode reads the one message of a call into v, which is empty.
func (c *call) decode(message []byte, v any) error {
	err := unmarshal(message, v, proto.UnmarshalOptions{Merge: true}) // uses the room that v has
	if err == nil && c.watcher != nil {
		c.watcher.Request(v)
	}
	return err
}

// only returns the one message of a call that has one.
func (c *call) only() ([]byte, error) {
	message, err := c.reader.next()
	if err == nil {
		err = c.reader.end()
	}
	if err == io.EOF {
		return nil, status.Errorf(codes.Internal, "%s wants one message and got none", c.path)
	}
	return message, c.readError(err)
}

func (c *call) serveStream(ctx context.Context, m *method) error {
	if !c.deadline.IsZero() {
		defer context.AfterFunc(c, c.interrupt)()
	}
	return m.stream.Handler(m.impl, &serverStream{call: c, ctx: ctx, desc: m.stream})
}

func (c *call) closeReceive() {
	if body, ok := c.reader.body.(io.Closer); ok {
		_ = body.Close() // the Read that waits returns
	}
}

// interrupt ends a read or a write that is under way.
func (c *call) interrupt() {
	c.closeReceive()
	if c.writing.Load() {
		c.ex.Abort()
	}
}

// readError makes a status of what reading the body failed with.
func (c *call) readError(err error) error {
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok || err == nil {
		return err
	}
	return c.broken(err)
}

// broken makes a status of what the exchange failed with.
func (c *call) broken(err error) error {
	if why := c.Err(); why != nil {
		return status.FromContextError(why).Err()
	}
	switch fault.CodeOf(err) {
	case fault.ResourceExhausted:
		return status.Error(codes.ResourceExhausted, fault.Message(err))
	case fault.InvalidArgument: // what this side wanted to send
		return status.Error(codes.Internal, fault.Message(err))
	}
	return status.Errorf(codes.Canceled, "the stream broke: %v", err)
}

// send writes one message, after the head if that is still to be sent.
func (c *call) send(m any) error {
	buf := c.server.pools.get()
	defer c.server.pools.put(buf)
	var err error
	if buf.b, err = appendMessage(buf.b, m); err != nil {
		return err
	}
	if err := c.respond(); err != nil {
		return err
	}
	if _, err := c.ex.Write(buf.b); err != nil {
		return c.broken(err)
	}
	c.sent.Add(int64(len(buf.b) - prefixLen))
	return nil
}

// respond sends the head once.
func (c *call) respond() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.respondLocked()
}

// respondLocked is respond for who holds the lock.
func (c *call) respondLocked() error {
	if c.responded {
		return nil
	}
	if err := c.ex.Respond(200, AppendMetadata(c.server.head, c.md), proxy.UnknownLength); err != nil {
		if fault.CodeOf(err) == fault.InvalidArgument || fault.CodeOf(err) == fault.ResourceExhausted {
			c.md = nil
		}
		return status.Errorf(codes.Internal, "the metadata of the response cannot be sent: %s", fault.Message(err))
	}
	c.responded = true
	return nil
}

// finish ends the response.
func (c *call) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, code := c.server.ok, codes.OK
	if err != nil {
		s := c.server.statusOf(err)
		st, code = StatusFields(s), s.Code()
	}
	if observe := c.server.opt.Observe; observe != nil {
		defer func() {
			m := c.server.methods[c.path]
			o := Observed{
				Method: c.path, Header: c.header, Code: code, Duration: time.Since(c.began),
				Received: c.reader.received, Sent: int(c.sent.Load()), Stream: m != nil && m.stream != nil,
			}
			if c.route != nil {
				o.Route = *c.route
			}
			observe(o)
		}()
	}
	plain := len(c.md)+len(c.trailer) == 0
	if c.end(AppendMetadata(st, c.trailer)) == nil || plain {
		return
	}
	c.md = nil // it may be that which cannot be sent; the status must arrive
	_ = c.end(st)
}

// end sends the last header fields; without a head so far, and with nothing of
// the handler's to put into it, all of them at once (Trailers-Only). What a
// handler puts into the head has to arrive there: clients take the one block of
// Trailers-Only for the trailer.
func (c *call) end(st proxy.Header) error {
	if !c.responded && len(c.md) > 0 {
		if err := c.respondLocked(); err != nil {
			return err
		}
	}
	if c.responded {
		return c.ex.Trailer(st)
	}
	h := append(c.server.head, st...) //nolint:gocritic // it has no room for more, so this copies
	if !knownEncoding(c.reader.encoding) {
		h.Add(fieldAcceptEncoding, acceptEncoding)
	}
	return c.ex.Respond(200, h, 0)
}

// serverStream is the grpc.ServerStream of a call. One goroutine may send while
// another one receives.
type serverStream struct {
	call *call
	ctx  context.Context //nolint:containedctx // a grpc.ServerStream has the context of its call
	desc *grpc.StreamDesc
}

var _ grpc.ServerStream = (*serverStream)(nil)

// Context returns the context of the call.
func (s *serverStream) Context() context.Context { return s.ctx }

// SetHeader adds metadata to the head.
func (s *serverStream) SetHeader(md metadata.MD) error { return s.call.setHeader(md) }

// SendHeader sends the head.
func (s *serverStream) SendHeader(md metadata.MD) error {
	if err := s.call.setHeader(md); err != nil {
		return err
	}
	if err := s.call.respond(); err != nil {
		return err
	}
	return s.flush()
}

// SetTrailer adds metadata to the trailer.
func (s *serverStream) SetTrailer(md metadata.MD) { s.call.setTrailer(md) }

// SendMsg sends one message at once.
func (s *serverStream) SendMsg(m any) error {
	s.call.writing.Store(true)
	defer s.call.writing.Store(false)
	if !s.call.deadline.IsZero() {
		if err := s.call.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
	}
	if err := s.call.send(m); err != nil {
		return err
	}
	return s.flush()
}

func (s *serverStream) flush() error {
	if err := s.call.ex.Flush(); err != nil {
		return s.call.broken(err)
	}
	return nil
}

// RecvMsg receives one message, or io.EOF when the client sends no more.
func (s *serverStream) RecvMsg(m any) error {
	if !s.desc.ClientStreams {
		message, err := s.call.only()
		if err != nil {
			return err
		}
		return unmarshal(message, m, proto.UnmarshalOptions{})
	}
	message, err := s.call.reader.next()
	if err == io.EOF {
		return io.EOF
	}
	if err != nil {
		return s.call.readError(err)
	}
	return unmarshal(message, m, proto.UnmarshalOptions{})
}
