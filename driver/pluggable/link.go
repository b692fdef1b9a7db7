package pluggable

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	componentsv1 "github.com/proa-io/proa/api/gen/dapr/proto/components/v1"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// instanceKey is the metadata of every call that names the component: a process
// that several components are plugged into tells them apart by it.
const instanceKey = "x-component-instance"

const (
	// connectWithin bounds how long a call without a deadline tries to connect
	// and to hand over the settings.
	connectWithin = 30 * time.Second
	// pingWithin is how long a process may take to show that it is alive.
	pingWithin = 3 * time.Second
	// maxReceive bounds a message of a component, in bytes.
	maxReceive = 64 << 20
)

// A link is the way to the process of one component. It is connected when a call
// needs it, and every new connection begins with setup: what is behind the
// socket may have been started anew. It is safe for concurrent use.
//
// It is the grpc.ClientConnInterface of the clients of the component.
type link struct {
	dial func(context.Context) (net.Conn, error)
	name string // of the component
	// setup prepares a new connection; nil for nothing to do. It must not use
	// the link.
	setup func(ctx context.Context, cc grpc.ClientConnInterface) error
	ping  string // the method that shows whether the process is alive

	now    atomic.Pointer[session]
	turn   chan struct{} // held by who connects
	closed atomic.Bool
}

var _ grpc.ClientConnInterface = (*link)(nil)

func newLink(dial func(context.Context) (net.Conn, error), name string) *link {
	return &link{dial: dial, name: name, turn: make(chan struct{}, 1)}
}

// linkAt returns a link to the process behind the socket at a place.
func linkAt(p place, env component.Env) *link {
	return newLink(func(ctx context.Context) (net.Conn, error) {
		path, err := p.find()
		if err != nil {
			return nil, fault.Wrap(err, fault.Unavailable, "the folder of sockets cannot be read")
		}
		if path == "" {
			return nil, fault.New(fault.Unavailable, "no driver of this program is called %q, and there is no socket %s.sock of such a component yet; %s",
				p.name, filepath.Join(p.folder, p.name), look(ctx, p.folder))
		}
		return dialSocket(ctx, path)
	}, env.Name)
}

func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "nobody answers on the socket %s", path)
	}
	return c, nil
}

// A session is one connection. When that breaks the session is over: it does
// not connect again.
type session struct {
	conn *grpc.ClientConn
	gone chan struct{} // closed when the connection is
	// doubtful tells that a call got no answer in time.
	doubtful atomic.Bool
}

func (s *session) alive() bool {
	select {
	case <-s.gone:
		return false
	default:
		return true
	}
}

func (s *session) end() { _ = s.conn.Close() } // fails only if it is closed

// watchedConn tells when it is closed.
type watchedConn struct {
	net.Conn
	once sync.Once
	gone chan struct{}
}

// Close implements net.Conn.
func (c *watchedConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

var errOnce = errors.New("the connection has broken")

// dialed returns a new session, on which nothing has been said.
func (l *link) dialed(ctx context.Context) (*session, error) {
	raw, err := l.dial(ctx)
	if _, named := errors.AsType[*fault.Error](err); err != nil && !named {
		err = fault.Wrap(err, fault.Unavailable, "the component cannot be reached")
	}
	if err != nil {
		return nil, l.classify(ctx, err)
	}
	watched := &watchedConn{Conn: raw, gone: make(chan struct{})}
	var used atomic.Bool
	cc, err := grpc.NewClient("passthrough:///component",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errOnce
			}
			return watched, nil
		}),
		grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
		grpc.WithUnaryInterceptor(l.nameUnary), grpc.WithStreamInterceptor(l.nameStream),
	)
	if err != nil {
		_ = raw.Close()
		return nil, fault.Wrap(err, fault.Internal, "connect to the component")
	}
	return &session{conn: cc, gone: watched.gone}, nil
}

func (l *link) named(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, instanceKey, l.name)
}

func (l *link) nameUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(l.named(ctx), method, req, reply, cc, opts...)
}

func (l *link) nameStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return open(l.named(ctx), desc, cc, method, opts...)
}

// session returns the present session, or a new one.
func (l *link) session(ctx context.Context) (*session, error) {
	if err := l.ready(ctx); err != nil {
		return nil, err
	}
	if s := l.now.Load(); s != nil && s.alive() && !s.doubtful.Load() {
		return s, nil
	}
	return l.connect(ctx)
}

func (l *link) connect(ctx context.Context) (*session, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, l.classify(ctx, ctx.Err())
	}
	if err := l.ready(ctx); err != nil {
		return nil, err
	}
	if s := l.now.Load(); s != nil {
		if s.alive() && l.proven(ctx, s) {
			return s, nil
		}
		if ctx.Err() != nil { // it had no time to show that it is alive
			return nil, l.classify(ctx, ctx.Err())
		}
		s.end()
	}
	within, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	s, err := l.dialed(within)
	if err != nil {
		return nil, err
	}
	if l.setup != nil {
		if err := l.setup(within, s.conn); err != nil {
			s.end()
			return nil, l.classify(ctx, err)
		}
	}
	l.now.Store(s)
	if l.closed.Load() { // meanwhile
		s.end()
		return nil, errClosed()
	}
	return s, nil
}

// proven reports whether a session can be used: it asks one that is in doubt.
func (l *link) proven(ctx context.Context, s *session) bool {
	if !s.doubtful.Load() {
		return true
	}
	if !l.answers(ctx, s) {
		return false
	}
	s.doubtful.Store(false)
	return true
}

// answers reports whether the process shows that it is alive.
func (l *link) answers(ctx context.Context, s *session) bool {
	ctx, cancel := context.WithTimeout(ctx, pingWithin)
	defer cancel()
	err := s.conn.Invoke(ctx, l.ping, &componentsv1.PingRequest{}, &componentsv1.PingResponse{})
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.Canceled, codes.Unavailable:
		return false
	}
	return true // whatever it says, it has said something
}

// Invoke implements grpc.ClientConnInterface.
func (l *link) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	s, err := l.session(ctx)
	if err != nil {
		return err
	}
	err = s.conn.Invoke(ctx, method, args, reply, opts...)
	if status.Code(err) == codes.DeadlineExceeded {
		s.doubtful.Store(true)
	}
	return err
}

// NewStream refuses: streams belong to a session.
func (l *link) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "a link makes unary calls only")
}

// Close ends the connection and every call on it.
func (l *link) Close() error {
	l.closed.Store(true)
	if s := l.now.Load(); s != nil {
		s.end()
	}
	return nil
}

// ready reports why a call must not be made.
func (l *link) ready(ctx context.Context) error {
	if l.closed.Load() {
		return errClosed()
	}
	return ctx.Err()
}

func errClosed() error { return fault.New(fault.Unavailable, "the component is closed") }

// serves checks that the process behind a connection serves one of the services,
// and returns all that it serves.
func serves(ctx context.Context, cc grpc.ClientConnInterface, block string, wanted ...string) ([]string, error) {
	all, err := listServices(ctx, cc)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(wanted, func(s string) bool { return slices.Contains(all, s) }) {
		return all, nil
	}
	there := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return strings.HasPrefix(s, reflectionPrefix) })
	return nil, fault.New(fault.FailedPrecondition, "the process is no component of the kind %s: it serves %s, not %s",
		block, cmpList(there, "nothing"), strings.Join(wanted, " or "))
}

func cmpList(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, ", ")
}

// codeOf maps the codes of gRPC to those of fault. What is not named
// there is a failure of the component.
func codeOf(c codes.Code) fault.Code {
	switch c {
	case codes.InvalidArgument, codes.OutOfRange:
		return fault.InvalidArgument
	case codes.DeadlineExceeded:
		return fault.DeadlineExceeded
	case codes.NotFound:
		return fault.NotFound
	case codes.AlreadyExists:
		return fault.AlreadyExists
	case codes.PermissionDenied:
		return fault.PermissionDenied
	case codes.ResourceExhausted:
		return fault.ResourceExhausted
	case codes.FailedPrecondition:
		return fault.FailedPrecondition
	case codes.Aborted:
		return fault.Aborted
	case codes.Unimplemented:
		return fault.Unimplemented
	case codes.Canceled, codes.Unavailable:
		return fault.Unavailable
	case codes.Unauthenticated:
		return fault.Unauthenticated
	}
	return fault.Internal
}

// classify names the error of a call made with ctx. What the component itself
// has said is kept as the cause, for logs. It returns nil for nil.
func (l *link) classify(ctx context.Context, err error) error {
	return l.classifyAs(ctx, err, func(st *status.Status) error {
		return fault.Wrap(fmt.Errorf("%s: %s", st.Code(), st.Message()), codeOf(st.Code()), "%s", textOf(st.Code()))
	})
}

// quote is classify for components whose own words are for the caller.
func (l *link) quote(ctx context.Context, err error) error {
	return l.classifyAs(ctx, err, func(st *status.Status) error {
		if unreachable(st.Code()) || st.Message() == "" {
			return fault.Wrap(fmt.Errorf("%s: %s", st.Code(), st.Message()), codeOf(st.Code()), "%s", textOf(st.Code()))
		}
		return fault.New(codeOf(st.Code()), "the component answered: %s", st.Message())
	})
}

func (l *link) classifyAs(ctx context.Context, err error, named func(*status.Status) error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() == context.Canceled:
		return context.Canceled
	case ctx.Err() != nil:
		return fault.Wrap(ctx.Err(), fault.DeadlineExceeded, "the component did not answer in time")
	case l.closed.Load():
		return errClosed()
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	return named(status.Convert(err))
}

// unreachable reports whether a code says that a call has not reached a component,
// or that its answer has not come.
func unreachable(c codes.Code) bool {
	return c == codes.Unavailable || c == codes.DeadlineExceeded || c == codes.Canceled
}

func textOf(c codes.Code) string {
	switch {
	case c == codes.DeadlineExceeded:
		return "the component did not answer in time"
	case unreachable(c):
		return "the component cannot be reached"
	case c == codes.Unimplemented:
		return "the component does not offer that"
	}
	return "the component answered with an error"
}
