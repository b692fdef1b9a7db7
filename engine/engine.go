// Package engine is the store of record that everything without an external
// component stands on: NATS JetStream, embedded in the process, shared between
// the sidecars of one user, or an external server or cluster.
//
// # Life
//
// [Open] validates its options and returns at once. [Engine.Run] does the work
// until its context ends. Everything else may be called before, during and
// after Run: a call waits until the engine is ready, for as long as its
// context and [Options].Wait allow, and then fails with Unavailable and why.
//
// # Sharing the embedded engine
//
// The first sidecar with a given directory takes the lock DIR/engine.lock and
// serves the engine on the Unix socket DIR/engine.sock; the others are its
// clients. No TCP port is opened. When the holder stops or dies, one of the
// others takes the lock, opens the store again and serves it. The holder's own
// connections never leave the process.
//
// # What survives a take-over, and a restart of an external server
//
//   - Everything acknowledged: see [Durability].
//   - Every [Conn], and the nats.Conn and jetstream.JetStream in it: they
//     connect again by themselves. So do handles got from them: streams,
//     consumers and key-value buckets.
//   - Plain subscriptions are made again; messages published in between are
//     not delivered to them.
//   - Pull consumers with Consume or Messages go on as soon as the connection
//     is back, durable ones with their state; what was delivered and not
//     acknowledged is delivered again. A Fetch or Next in flight ends early or
//     fails with Unavailable.
//   - Ordered consumers (jetstream.OrderedConsumer) start again behind the last
//     message they delivered. One that starts with new messages and has not
//     delivered any yet misses what is published in between.
//   - Key-value watchers of the client library (jetstream.KeyValue.Watch) go on
//     too, but notice the interruption only after 10 seconds, and can lose
//     their end: use [Bucket.Watch], which goes on at once and also reports
//     what disappeared meanwhile.
//   - Calls in flight in [Conn.Do], and so all methods of this package, fail at
//     once with Unavailable and [ReasonInDoubt]; calls made in between wait.
//     Bare calls on the client library wait until their context ends.
package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

// Mode tells how the engine is reached.
type Mode string

// The modes.
const (
	// Starting means that it is not decided yet whether this process holds the
	// embedded engine.
	Starting Mode = "starting"
	// EmbeddedHolder means that the server runs in this process.
	EmbeddedHolder Mode = "embedded-holder"
	// EmbeddedClient means that another process of this user runs the server.
	EmbeddedClient Mode = "embedded-client"
	// External means that Options.URL names the server.
	External Mode = "external"
)

// Status tells how the engine does.
type Status struct {
	Mode       Mode
	Ready      bool
	Err        error  // why it is not ready; nil when Ready
	Server     string // the server's name; "" before the first connect
	Version    string // the server's version; "" before the first connect
	Durability Durability
	Location   string // the store's directory, or the URL without credentials
}

// Engine is a handle on the embedded or external engine. It is safe for
// concurrent use.
type Engine struct {
	opts  Options
	log   *slog.Logger
	conns []*Conn
	next  atomic.Uint32 // round robin
	seed  maphash.Seed

	// refusal is why no call may pass although there may be a connection. It
	// is never nil before the engine was ready for the first time.
	refusal atomic.Pointer[error]
	server  atomic.Pointer[serverFacts]

	mu         sync.Mutex
	mode       Mode
	durability Durability
	running    bool
	trouble    trouble
	changed    chan struct{} // closed and replaced when readiness may have changed
}

// serverFacts is what the last connected server says of itself.
type serverFacts struct {
	name, version, cluster string
	parsed                 version
	servers                int // known servers of its cluster
	maxPayload             int64
}

var (
	errStarting = errors.New("still starting")
	errStopped  = errors.New("stopped")
	errNotRun   = errors.New("not running yet")
)

// Open returns an engine that is not running. It fails only with
// InvalidArgument, on options that can never work. ctx is for the future;
// Open does no I/O.
func Open(_ context.Context, o Options) (*Engine, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &Engine{
		opts: o, log: o.Log, seed: maphash.MakeSeed(),
		mode: Starting, durability: o.Durability, changed: make(chan struct{}),
	}
	if o.URL != "" {
		e.mode = External
	}
	for range o.Conns {
		e.conns = append(e.conns, &Conn{engine: e, deny: make(chan struct{}, 1)})
	}
	e.refuse(errNotRun)
	return e, nil
}

// Run connects, and for an embedded engine serves or takes over, until ctx
// ends. Then it drains the connections, stops the server when it is the
// holder, lets the next sidecar take over, and returns nil. Trouble on the
// way is retried for ever and shows in [Engine.Status] and in the errors of
// calls. Run may be called once.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	again := e.running
	e.running = true
	e.mu.Unlock()
	if again {
		return fault.New(fault.Internal, "the engine runs already")
	}
	e.refuse(errStarting)
	// The server must outlive the connections that are drained into it.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	var work sync.WaitGroup
	if e.opts.URL != "" {
		work.Go(func() { newExternal(e).run(serving) })
	} else {
		work.Go(func() { newEmbedded(e).run(serving) })
	}
	<-ctx.Done()
	e.refuse(errStopped)
	e.drain()
	stopServing()
	work.Wait()
	e.drain() // what was only just being connected
	return nil
}

// Conn returns one of the connections, another each time. It waits until the
// engine is ready, and fails with Unavailable and ReasonNotReady when that
// takes longer than ctx and Options.Wait allow, or with FailedPrecondition
// when the server is reached and can never serve as it is.
func (e *Engine) Conn(ctx context.Context) (*Conn, error) {
	return e.connAt(ctx, int(e.next.Add(1)%uint32(len(e.conns))))
}

// ConnFor returns the connection for key, always the same for the same key,
// so that what is published about one key arrives in order. It waits and
// fails as Conn does.
func (e *Engine) ConnFor(ctx context.Context, key string) (*Conn, error) {
	return e.connAt(ctx, int(maphash.String(e.seed, key)%uint64(len(e.conns))))
}

func (e *Engine) connAt(ctx context.Context, i int) (*Conn, error) {
	c := e.conns[i]
	if _, err := c.ready(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// JetStream returns the JetStream handle of one of the connections, for use
// where the guard of [Conn.Do] is not wanted. It waits and fails as Conn does.
func (e *Engine) JetStream(ctx context.Context) (jetstream.JetStream, error) {
	c, err := e.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return c.js, nil
}

// Mode tells how the engine is reached now.
func (e *Engine) Mode() Mode {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mode
}

// Durability tells when a write is acknowledged: what the present holder of
// the embedded engine was started with, or ServerDefined.
func (e *Engine) Durability() Durability {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.durability
}

// Replicas returns the number of copies that new streams and buckets get.
func (e *Engine) Replicas() int {
	if e.opts.Replicas > 0 {
		return e.opts.Replicas
	}
	if f := e.server.Load(); f != nil && f.cluster != "" && f.servers >= 3 {
		return 3
	}
	return 1
}

// ServerVersion returns the version of the connected server, "" before the
// first connect.
func (e *Engine) ServerVersion() string {
	if f := e.server.Load(); f != nil {
		return f.version
	}
	return ""
}

// MaxPayload returns the largest message the server takes, in bytes; 0 before
// the first connect.
func (e *Engine) MaxPayload() int64 {
	if f := e.server.Load(); f != nil {
		return f.maxPayload
	}
	return 0
}

// Supports reports whether the connected server has the feature. It is false
// before the first connect.
func (e *Engine) Supports(f Feature) bool {
	s := e.server.Load()
	_, since := f.facts()
	return s != nil && s.parsed.atLeast(since)
}

// Require returns Unimplemented, naming both versions, when the connected
// server lacks the feature.
func (e *Engine) Require(ctx context.Context, f Feature) error {
	if _, err := e.Conn(ctx); err != nil {
		return err
	}
	if e.Supports(f) {
		return nil
	}
	return fault.New(fault.Unimplemented, "%s needs a NATS server of version %s or newer; the engine's is %s",
		f, f.Since(), e.ServerVersion()).WithReason(ReasonUnsupported)
}

// Status returns the present status.
func (e *Engine) Status() Status {
	s := Status{Mode: e.Mode(), Durability: e.Durability(), Version: e.ServerVersion(), Location: e.location()}
	if f := e.server.Load(); f != nil {
		s.Server = f.name
	}
	_, up := e.anyUp()
	if s.Ready = up != nil && e.refusal.Load() == nil; !s.Ready {
		s.Err = e.notReady()
	}
	return s
}

func (e *Engine) location() string {
	if e.opts.URL != "" {
		return redact(e.opts.URL)
	}
	return e.opts.Dir
}

// await waits until c has a link and calls may pass.
func (e *Engine) await(ctx context.Context, c *Conn) (*link, error) {
	timer := time.NewTimer(e.opts.Wait)
	defer timer.Stop()
	for {
		changed := e.change()
		refusal := e.refusal.Load()
		if l := c.link.Load(); l != nil && refusal == nil {
			return l, nil
		}
		if refusal != nil && final(*refusal) {
			return nil, e.notReady()
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, ctx.Err()
			}
		case <-timer.C:
		}
		return nil, e.notReady()
	}
}

// final reports whether waiting cannot help.
func final(err error) bool {
	return errors.Is(err, errStopped) || fault.CodeOf(err) == fault.FailedPrecondition
}

// notReady says why calls cannot pass, as precisely as is known.
func (e *Engine) notReady() error {
	why := errors.New("connecting")
	if r := e.refusal.Load(); r != nil {
		why = *r
	}
	if final(why) && !errors.Is(why, errStopped) {
		return why
	}
	if t := e.currentTrouble(); t != nil && !errors.Is(why, errStopped) {
		why = t
	}
	return fault.New(fault.Unavailable, "the engine (%s) is not ready: %v", e.location(), why).WithReason(ReasonNotReady)
}

// refuse lets no call pass until admit.
func (e *Engine) refuse(why error) {
	e.refusal.Store(&why)
	e.announce()
}

// admit lets calls pass, unless the engine is stopping.
func (e *Engine) admit() {
	for {
		old := e.refusal.Load()
		if old == nil || errors.Is(*old, errStopped) {
			return
		}
		if e.refusal.CompareAndSwap(old, nil) {
			e.clearTrouble()
			e.announce()
			return
		}
	}
}

// trouble is what keeps the engine from being ready.
type trouble struct {
	err    error
	since  time.Time
	logged string
}

// quiet is how long trouble may last before it is logged: what sidecars that
// start or hand over together see of each other is no news.
const quiet = time.Second

// note remembers what goes wrong at present, and logs it when it lasts.
func (e *Engine) note(err error) {
	e.mu.Lock()
	t := &e.trouble
	if t.err == nil {
		t.since = time.Now()
	}
	t.err = err
	text := err.Error()
	news := time.Since(t.since) >= quiet && t.logged != text
	if news {
		t.logged = text
	}
	e.mu.Unlock()
	if news {
		e.log.Warn("engine is not ready and is tried again", "error", err)
	}
}

// noteLastError remembers why the connections cannot be made where no handler
// is called: in the handshake, after the dial.
func (e *Engine) noteLastError() {
	if nc := e.conns[0].nc.Load(); nc != nil {
		// That no server is available is what the attempts come to, not why.
		if err := nc.LastError(); err != nil && !errors.Is(err, nats.ErrNoServers) {
			e.note(fmt.Errorf("connect: %w", err))
		}
	}
}

func (e *Engine) currentTrouble() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.trouble.err
}

func (e *Engine) clearTrouble() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.trouble = trouble{}
}

func (e *Engine) change() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

func (e *Engine) announce() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *Engine) setMode(m Mode, d Durability) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mode, e.durability = m, d
}

// String describes the engine for logs.
func (e *Engine) String() string {
	return fmt.Sprintf("engine %s at %s", e.Mode(), e.location())
}
