package etcd

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// Timing of connections.
const (
	// connectWithin bounds one attempt to connect.
	connectWithin = 5 * time.Second
	// reconnectWithin is how long after it lost a server the client tries again
	// at the latest.
	reconnectWithin = time.Second
	// keepAlive is how often a server that says nothing is asked whether it is
	// there, as often as the client library allows. It has keepAlivePatience
	// to answer.
	keepAlive         = 10 * time.Second
	keepAlivePatience = 3 * time.Second
)

// maxMessage bounds a request, in bytes. What etcd takes is less unless it is
// configured otherwise, and its answer says so.
const maxMessage = 64 << 20

// A client is the connection to a cluster. It is safe for concurrent use.
type client struct {
	*clientv3.Client
	end    context.CancelFunc
	closed atomic.Bool
}

// connect opens a client and waits until the cluster answers.
func connect(ctx context.Context, cfg Config) (*client, error) {
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	opened := context.AfterFunc(ctx, end) // New may ask the cluster for a token
	c := &client{end: end}
	c.Client, err = clientv3.New(clientv3.Config{
		Context: life, Endpoints: cfg.Endpoints, TLS: tlsConfig,
		Username: cfg.Username, Password: cfg.Password.Reveal(),
		DialTimeout: connectWithin, DialKeepAliveTime: keepAlive, DialKeepAliveTimeout: keepAlivePatience,
		MaxCallSendMsgSize: maxMessage, MaxCallRecvMsgSize: maxReceive,
		MaxUnaryRetries: tries(cfg), Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectWithin},
				MinConnectTimeout: connectWithin,
			}),
			grpc.WithChainUnaryInterceptor(failFast),
		},
	})
	if err != nil {
		end()
		return nil, classifyOpening(ctx, err)
	}
	if !opened() {
		c.close()
		return nil, ctx.Err()
	}
	// Only a cluster with a leader answers a linearizable read.
	if _, err := c.Get(ctx, cfg.path(), clientv3.WithCountOnly()); err != nil {
		c.close()
		return nil, classifyOpening(ctx, err)
	}
	return c, nil
}

// maxReceive bounds an answer, in bytes: that of a read of many items.
const maxReceive = 1 << 30

// tries is how often the client library may send a request. To try again is for
// policies, but only the library can replace a token that has expired.
func tries(cfg Config) uint {
	if cfg.Username != "" {
		return 2
	}
	return 1
}

// failFast keeps calls from waiting for a server that cannot be reached: the
// client library would let them wait until their contexts end.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// close ends the client and every call on it.
func (c *client) close() {
	c.closed.Store(true)
	_ = c.Client.Close() // it fails only because its context has ended
	c.end()
}

// ready reports why a call must not be made.
func (c *client) ready(ctx context.Context) error {
	if c.closed.Load() {
		return state.ErrClosed()
	}
	return ctx.Err()
}

// classifyOpening is classify for what connect does.
func classifyOpening(ctx context.Context, err error) error { return (&client{}).classify(ctx, err) }

// classify names an error of the client library for a call made with ctx. It
// returns nil for nil.
func (c *client) classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	switch ctx.Err() {
	case context.Canceled:
		return context.Canceled
	case context.DeadlineExceeded:
		return fault.Wrap(err, fault.DeadlineExceeded, "etcd did not answer in time")
	}
	if c.closed.Load() {
		return state.ErrClosed()
	}
	v := judge(err)
	return fault.Wrap(err, v.code, "%s", v.text)
}

// A verdict is what an error means: a code, and words for the caller, for the
// server's own may quote what the caller must not see.
type verdict struct {
	code fault.Code
	text string
}

func judge(err error) verdict {
	text := err.Error()
	for _, known := range []struct {
		part string
		verdict
	}{
		{"authentication failed", verdict{fault.Unauthenticated, "etcd refused the user or the password"}},
		{"user name is empty", verdict{fault.Unauthenticated, "etcd wants a user and a password"}},
		{"permission denied", verdict{fault.PermissionDenied, "etcd does not permit this user to do that"}},
		{"invalid auth token", verdict{fault.Unauthenticated, "etcd refused the token of the user"}},
		{"revision of auth store is old", verdict{fault.Unavailable, "etcd's users are changing"}},
		{"authentication is not enabled", verdict{fault.FailedPrecondition, "etcd has authentication turned off"}},
		{"request is too large", verdict{fault.ResourceExhausted, "the request is larger than etcd takes (its --max-request-bytes)"}},
		{"larger than max", verdict{fault.ResourceExhausted, "the request or the answer is larger than etcd, or its client, takes"}},
		{"too many operations", verdict{fault.ResourceExhausted, "the transaction has more operations than etcd takes (its --max-txn-ops): set maxTxnOps to that"}},
		{"database space exceeded", verdict{fault.ResourceExhausted, "etcd's database is full"}},
		// The server knows the caller's deadline, and may notice it first.
		{"context deadline exceeded", verdict{fault.DeadlineExceeded, "etcd did not answer in time"}},
		{"too many requests", verdict{fault.ResourceExhausted, "etcd has too much to do"}},
	} {
		if strings.Contains(text, known.part) {
			return known.verdict
		}
	}
	code := status.Code(err)
	if coded, ok := err.(interface{ Code() codes.Code }); ok { //nolint:errorlint // the client library does not wrap its errors
		code = coded.Code()
	}
	switch code {
	case codes.PermissionDenied:
		return verdict{fault.PermissionDenied, "etcd does not permit this user to do that"}
	case codes.Unauthenticated:
		return verdict{fault.Unauthenticated, "etcd refused the credentials"}
	case codes.Unimplemented:
		return verdict{fault.Unimplemented, "this etcd does not offer that"}
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.NotFound, codes.DataLoss, codes.Internal:
		return verdict{fault.Internal, "etcd answered with an error"}
	}
	// What is left is trouble with the connection or in the cluster, be it
	// that a context ended which was not this call's.
	return verdict{fault.Unavailable, "etcd cannot be reached, or has no leader"}
}
