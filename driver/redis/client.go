package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/block/state"
)

// Sizes of one connection. Many calls share it, so it need not be large.
const (
	bufferBytes = 64 << 10
	// ringScale makes room for 2^ringScale calls that wait for an answer.
	ringScale = 10
	// crowd is from when on calls must not wait in the client library for a
	// place, because there they could not give up.
	crowd = 1<<ringScale - 64
	// maxLinks bounds the connections to one server.
	maxLinks = 4
)

// keepAlive is how often an idle connection is tried.
const keepAlive = time.Second

// A client is what drivers talk to Redis with: a few connections, each shared
// by many calls at once, or the connections of a cluster. It is safe for
// concurrent use.
type client struct {
	links   []*link
	next    atomic.Uint32
	closed  atomic.Bool
	cluster bool
}

// connect opens a client. It fails when the server cannot be reached, or does
// not let us in, before ctx ends.
func connect(ctx context.Context, cfg Config) (*client, error) {
	n := min(runtime.GOMAXPROCS(0), maxLinks)
	if cfg.Type == typeCluster || cfg.Failover {
		n = 1 // the client library keeps its connections to the nodes itself
	}
	c := &client{cluster: cfg.Type == typeCluster}
	for range n {
		l, err := newLink(ctx, cfg)
		if err != nil {
			c.close()
			return nil, classify(ctx, err)
		}
		c.links = append(c.links, l)
	}
	return c, nil
}

// pick returns one of the connections.
func (c *client) pick() *link {
	return c.links[int(c.next.Add(1)%uint32(len(c.links)))]
}

// build starts a command.
func (c *client) build() rueidis.Builder { return c.links[0].redis.B() }

// do carries out one command. The error is classified and says what went wrong
// with the connection; an error reply is in the result.
func (c *client) do(ctx context.Context, cmd rueidis.Completed) (rueidis.RedisResult, error) {
	l, err := c.ready(ctx)
	if err != nil {
		return rueidis.RedisResult{}, err
	}
	var res rueidis.RedisResult
	if l.roomy() {
		turn := l.asked.Add(1)
		res = l.redis.Do(ctx, cmd)
		l.answer(turn, res.NonRedisError())
	} else if res, err = apart(ctx, l, func() rueidis.RedisResult { return l.redis.Do(ctx, cmd) }); err != nil {
		return rueidis.RedisResult{}, classify(ctx, err)
	}
	return res, classify(ctx, res.NonRedisError())
}

// doMulti sends commands together over one connection and returns a result for
// each. The error, which is classified, says what went wrong with the
// connection; what became of the commands is not known then.
func (c *client) doMulti(ctx context.Context, cmds ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	l, err := c.ready(ctx)
	if err != nil {
		return nil, err
	}
	return c.doMultiOn(ctx, l, cmds...)
}

func (c *client) doMultiOn(ctx context.Context, l *link, cmds ...rueidis.Completed) (res []rueidis.RedisResult, err error) {
	if l.roomy() {
		turn := l.asked.Add(1)
		res = l.redis.DoMulti(ctx, cmds...)
		l.answer(turn, res[0].NonRedisError())
	} else if res, err = apart(ctx, l, func() []rueidis.RedisResult { return l.redis.DoMulti(ctx, cmds...) }); err != nil {
		return nil, classify(ctx, err)
	}
	for _, r := range res {
		if err := r.NonRedisError(); err != nil {
			return nil, classify(ctx, err)
		}
	}
	return res, nil
}

// ready returns a connection that is up.
func (c *client) ready(ctx context.Context) (*link, error) {
	if c.closed.Load() {
		return nil, state.ErrClosed()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l := c.pick()
	if err := l.ensure(ctx); err != nil {
		if c.closed.Load() {
			return nil, state.ErrClosed()
		}
		return nil, classify(ctx, err)
	}
	return l, nil
}

// close ends all connections and every call on them.
func (c *client) close() {
	c.closed.Store(true)
	var wg sync.WaitGroup
	for _, l := range c.links {
		wg.Go(l.close)
	}
	wg.Wait()
}

// A link is one client of the library. Left alone, the library lets a call wait
// in places that know nothing of the call's context: while another call is
// connecting, and when too many calls wait for answers. A link keeps calls out
// of these places.
type link struct {
	redis rueidis.Client
	// detached links, of clusters and sentinels, have several connections
	// whose state we cannot know: each call runs apart.
	detached    bool
	dialTimeout time.Duration
	life        context.Context //nolint:containedctx // of the link itself, for its attempts to connect; ends with close
	end         context.CancelFunc
	work        sync.WaitGroup

	up              atomic.Bool
	losses          atomic.Uint64 // connections lost so far
	asked, answered atomic.Uint64 // calls so far; the last of them known to be over

	mu      sync.Mutex
	opening context.Context //nolint:containedctx // of newLink, for dial, to which the library passes none; nil once it has returned
	hooks   []func() bool   // undo what ties connections to opening
	attempt *attempt        // to connect, under way
}

type attempt struct {
	done chan struct{}
	err  error // valid once done is closed
}

func newLink(ctx context.Context, cfg Config) (*link, error) {
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	l := &link{detached: cfg.Type == typeCluster || cfg.Failover, dialTimeout: cfg.DialTimeout.Std()}
	l.life, l.end = context.WithCancel(context.WithoutCancel(ctx))
	l.opening = ctx
	l.redis, err = rueidis.NewClient(options(cfg, tlsConfig, l.dial))
	if err != nil {
		if l.redis != nil {
			l.redis.Close()
		}
		l.end()
		return nil, err
	}
	l.up.Store(l.opened())
	return l, nil
}

// opened unties the connections from the context of newLink, and reports
// whether that was in time.
func (l *link) opened() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opening = nil
	for _, undo := range l.hooks {
		if !undo() {
			return false
		}
	}
	l.hooks = nil
	return true
}

// openingContext returns the context of newLink while it is running.
func (l *link) openingContext() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opening
}

func options(cfg Config, tlsConfig *tls.Config,
	dial func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error)) rueidis.ClientOption {
	o := rueidis.ClientOption{
		InitAddress: cfg.addresses(), Username: cfg.Username, Password: cfg.Password.Reveal(), SelectDB: cfg.DB,
		TLSConfig: tlsConfig, DialCtxFn: dial,
		Dialer:           net.Dialer{Timeout: cfg.DialTimeout.Std(), KeepAlive: keepAlive},
		ConnWriteTimeout: cfg.ReadTimeout.Std(),
		// Policies retry; caches live in blocks. A call gives up when its
		// context ends, also when it is alone, only in pipelining mode.
		DisableRetry: true, DisableCache: true, AlwaysPipelining: true,
		ClientSetInfo:     rueidis.DisableClientSetInfo,
		RingScaleEachConn: ringScale, ReadBufferEachConn: bufferBytes, WriteBufferEachConn: bufferBytes,
		PipelineMultiplex: -1, // one connection: connect makes several links
		ForceSingleClient: cfg.Type == typeNode && !cfg.Failover,
	}
	o.ClusterOption.MaxMovedRedirections = 5
	o.ClusterOption.ShardsRefreshInterval = 10 * time.Second
	if cfg.Failover {
		o.Sentinel = rueidis.SentinelOption{
			MasterSet: cfg.SentinelMasterName, Username: cfg.SentinelUsername, Password: cfg.SentinelPassword.Reveal(),
			TLSConfig: tlsConfig, Dialer: o.Dialer, TopologyRefreshInterval: 5 * time.Second,
		}
	}
	return o
}

// dial connects. A connection made while newLink runs ends with the context of
// newLink, because the library's handshake would not notice.
func (l *link) dial(ctx context.Context, addr string, dialer *net.Dialer, tlsConfig *tls.Config) (net.Conn, error) {
	opening := l.openingContext()
	if opening != nil {
		ctx = opening
	}
	ctx, cancel := context.WithTimeout(ctx, l.dialTimeout)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if tlsConfig != nil {
		if conn, err = encrypt(ctx, conn, addr, tlsConfig); err != nil {
			return nil, err
		}
	}
	if opening != nil {
		undo := context.AfterFunc(opening, func() { _ = conn.Close() })
		l.mu.Lock()
		l.hooks = append(l.hooks, undo)
		l.mu.Unlock()
	}
	return &watched{Conn: conn, link: l}, nil
}

func encrypt(ctx context.Context, conn net.Conn, addr string, cfg *tls.Config) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	cfg = cfg.Clone()
	cfg.ServerName = host
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

// watched is a connection that tells its link when it is over.
type watched struct {
	net.Conn
	link *link
	once sync.Once
}

// Close closes the connection. The library closes each one several times.
func (w *watched) Close() error {
	w.once.Do(w.link.down)
	return w.Conn.Close()
}

// down notes that the connection is lost, and with it every call on it.
func (l *link) down() {
	l.losses.Add(1)
	l.up.Store(false)
	l.answered.Store(l.asked.Load())
}

// roomy reports whether a call may go straight to the library.
func (l *link) roomy() bool {
	return !l.detached && int64(l.asked.Load()-l.answered.Load()) < crowd
}

// answer notes that a call is over. Answers come in the order of the calls, so
// all before it are over too, those included whose callers gave up.
func (l *link) answer(turn uint64, err error) {
	if err != nil {
		return
	}
	for {
		last := l.answered.Load()
		if turn <= last || l.answered.CompareAndSwap(last, turn) {
			return
		}
	}
}

// apart runs call in a goroutine of its own and returns when it or ctx ends.
func apart[T any](ctx context.Context, l *link, call func() T) (T, error) {
	var none T
	done := make(chan T, 1)
	l.mu.Lock()
	closing := l.life.Err() != nil
	if !closing {
		l.work.Go(func() { done <- call() })
	}
	l.mu.Unlock()
	if closing {
		return none, rueidis.ErrClosing
	}
	select {
	case out := <-done:
		return out, nil
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// ensure returns when the link is up. All calls that find it down wait, each
// within its own context, for one attempt to connect.
func (l *link) ensure(ctx context.Context) error {
	if l.up.Load() || l.detached {
		return nil
	}
	l.mu.Lock()
	a := l.attempt
	switch {
	case l.life.Err() != nil:
		l.mu.Unlock()
		return rueidis.ErrClosing
	case a == nil:
		a = &attempt{done: make(chan struct{})}
		l.attempt = a
		l.work.Go(func() { l.reconnect(a) })
	}
	l.mu.Unlock()
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reconnect makes the library connect. The first command may still meet the
// connection that was lost, so there are two.
func (l *link) reconnect(a *attempt) {
	ctx, cancel := context.WithTimeout(l.life, l.dialTimeout)
	defer cancel()
	var losses uint64
	for range 2 {
		losses = l.losses.Load()
		a.err = l.redis.Do(ctx, l.redis.B().Ping().Build()).NonRedisError()
		if a.err == nil || ctx.Err() != nil {
			break
		}
	}
	if errors.Is(a.err, context.DeadlineExceeded) && l.life.Err() == nil {
		a.err = errors.New("no answer while connecting")
	}
	l.mu.Lock()
	l.up.Store(a.err == nil)
	if l.losses.Load() != losses {
		l.up.Store(false) // lost again already
	}
	l.attempt = nil
	l.mu.Unlock()
	close(a.done)
}

// close ends the link. Once l.life has ended, which it does under l.mu, no more
// work is begun.
func (l *link) close() {
	l.mu.Lock()
	l.end()
	l.mu.Unlock()
	l.redis.Close()
	l.work.Wait()
}
