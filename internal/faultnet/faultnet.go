// Package faultnet is a bad network for tests: a proxy inside the test binary,
// between a client and a real server, that refuses, resets, stalls, swallows,
// delays, truncates and half-closes connections on demand.
//
//	net := faultnet.New(t, redis.Addr())
//	client := dial(net.Addr())
//	net.Stall()       // nothing moves, nothing breaks
//	...               // expect DeadlineExceeded
//	net.Heal()        // and recovery
//
// One fault is in force at a time: each method replaces the one before. When a
// method returns, its fault holds for every connection, old and new: no byte
// passes on the old terms any more. Nothing is random and nothing is timed
// except [Proxy.Latency].
//
// Only tests and packages made for tests import this package.
package faultnet

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/freeport"
)

// Direction is one of the two ways bytes flow over a connection.
type Direction uint8

// The two directions.
const (
	Upstream   Direction = iota // from the client to the server
	Downstream                  // from the server to the client
)

// String returns the direction in lower case.
func (d Direction) String() string { return [...]string{"upstream", "downstream"}[d] }

// Proxy forwards connections to one server. Its methods are safe for concurrent
// use.
type Proxy struct {
	tb            testing.TB
	network, addr string // where it listens

	dial   func() (net.Conn, error) // to the server
	cancel context.CancelFunc       // ends dials
	wg     sync.WaitGroup           // the accept loop and every link

	mu       sync.Mutex
	changed  *sync.Cond // the rules have changed, a pump has seen them, or a link has ended
	rules    rules
	gen      uint64 // counts changes of rules
	links    map[*link]struct{}
	accepted int
	listener net.Listener // nil while refusing
	closed   bool
}

// rules say what is done to connections. The zero value forwards everything.
type rules struct {
	refuse bool // close the listener, reset connections
	reset  bool // reset connections, old and new
	flow   [2]flow
}

// flow is what is done to the bytes of one direction.
type flow struct {
	stall   bool          // leave them where they are
	swallow bool          // read them and throw them away
	shut    bool          // end the direction on the connections of the moment
	delay   time.Duration // deliver them so much later
	cut     bool          // end the connection after limit bytes
	limit   int64
}

// New starts a proxy on a free port of 127.0.0.1 in front of upstream, which is
// "host:port" or the path of a Unix socket. It is closed when the test ends.
func New(tb testing.TB, upstream string) *Proxy {
	tb.Helper()
	l, err := freeport.Listen()
	if err != nil {
		tb.Fatalf("faultnet: %v", err)
	}
	return start(tb, l, upstream)
}

// NewUnix is New for clients that connect to a Unix socket. On such a socket
// there is no reset: a client sees the connection end.
func NewUnix(tb testing.TB, upstream string) *Proxy {
	tb.Helper()
	// Not tb.TempDir, whose paths can be too long for a socket.
	dir, err := os.MkdirTemp("", "faultnet-*")
	if err != nil {
		tb.Fatalf("faultnet: %v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := listen("unix", filepath.Join(dir, "proxy.sock"))
	if err != nil {
		tb.Fatalf("faultnet: %v", err)
	}
	return start(tb, l, upstream)
}

func start(tb testing.TB, l net.Listener, upstream string) *Proxy {
	network := "tcp"
	if strings.HasPrefix(upstream, "/") {
		network = "unix"
	}
	ctx, cancel := context.WithCancel(context.Background()) // ends with Close
	p := &Proxy{
		tb: tb, network: l.Addr().Network(), addr: l.Addr().String(),
		dial:   func() (net.Conn, error) { return new(net.Dialer).DialContext(ctx, network, upstream) },
		cancel: cancel, links: map[*link]struct{}{}, listener: l,
	}
	p.changed = sync.NewCond(&p.mu)
	p.wg.Go(func() { p.accept(l) })
	tb.Cleanup(p.Close)
	return p
}

// listen opens a listener that leaves its socket file behind when it is closed,
// so that connecting to it is refused as it is on TCP.
func listen(network, addr string) (net.Listener, error) {
	if network == "unix" {
		if err := os.Remove(addr); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	l, err := net.Listen(network, addr)
	if u, ok := l.(*net.UnixListener); ok && err == nil {
		u.SetUnlinkOnClose(false)
	}
	return l, err
}

// Addr returns the address clients connect to: "127.0.0.1:port", or the path of
// the socket.
func (p *Proxy) Addr() string { return p.addr }

// Accepted returns how many connections have been accepted so far, those that
// were reset at once included.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Open returns how many connections are open.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	open := 0
	for l := range p.links {
		if !l.dead {
			open++
		}
	}
	return open
}

// Heal forwards everything again, and listens again if it did not. What has
// stalled goes on where it stopped. A connection that Blackhole has taken bytes
// from is reset, by Heal as by every other change: a byte stream with a hole
// exists on no network.
func (p *Proxy) Heal() { p.set(rules{}) }

// Refuse is a server that is down: connecting is refused, and existing
// connections are reset. Heal listens on the same address again.
func (p *Proxy) Refuse() { p.set(rules{refuse: true}) }

// Reset is a network that breaks every connection: existing ones are reset, new
// ones as soon as they are accepted, which a client notices while it connects or
// when it first reads or writes.
func (p *Proxy) Reset() { p.set(rules{reset: true}) }

// Stall is a network that has stopped: connections are accepted and stay open,
// and no byte moves in the given directions, both if none is given. Senders
// block when the kernel's buffers are full. Nothing is lost.
func (p *Proxy) Stall(directions ...Direction) {
	p.setFlow(flow{stall: true}, directions)
}

// Blackhole is a peer that never answers: connections are accepted and stay
// open, and bytes of the given directions are read and thrown away, both if
// none is given. Blackhole(Downstream) lets requests through and loses the
// answers. With both directions gone, new connections do not reach the server.
func (p *Proxy) Blackhole(directions ...Direction) {
	p.setFlow(flow{swallow: true}, directions)
}

// Latency delivers bytes of the given directions, both if none is given, delay
// later than they came. Up to a mebibyte per direction is on its way at a time.
func (p *Proxy) Latency(delay time.Duration, directions ...Direction) {
	p.setFlow(flow{delay: delay}, directions)
}

// CutAfter ends every connection, old and new, once n more bytes have passed in
// the given direction. Their receiver gets all n and then the end of the
// stream; their sender is reset.
func (p *Proxy) CutAfter(direction Direction, n int64) {
	p.setFlow(flow{cut: true, limit: n}, []Direction{direction})
}

// HalfClose ends one direction of the connections that are forwarding now: the
// receiver sees the end of the stream after what it got so far, and what the
// sender still sends is thrown away. The other direction goes on. New
// connections are whole.
func (p *Proxy) HalfClose(direction Direction) {
	p.setFlow(flow{shut: true}, []Direction{direction})
}

// Close resets all connections, stops listening and waits until every goroutine
// of the proxy has ended. Closing twice is allowed.
func (p *Proxy) Close() {
	p.cancel()
	p.mu.Lock()
	p.closed = true
	p.stopListening()
	for l := range p.links {
		l.kill()
	}
	p.changed.Broadcast()
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) setFlow(f flow, directions []Direction) {
	var r rules
	if len(directions) == 0 {
		directions = []Direction{Upstream, Downstream}
	}
	for _, d := range directions {
		r.flow[d] = f
	}
	p.set(r)
}

// set puts rules in force and returns when every connection obeys them.
func (p *Proxy) set(r rules) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.rules = r
	p.gen++
	gen := p.gen
	if r.refuse {
		p.stopListening()
	}
	for l := range p.links {
		if r.refuse || r.reset || l.lossy {
			l.kill()
		}
		l.lossy = l.server == nil && r.unreachable()
		l.interrupt()
	}
	p.changed.Broadcast()
	for !p.closed && p.gen == gen && !p.obeyed() {
		p.changed.Wait()
	}
	if !p.closed && !p.rules.refuse && p.listener == nil {
		p.listenAgain()
	}
}

// unreachable reports whether neither direction lets a byte through, so that
// new connections never get as far as the server.
func (r rules) unreachable() bool { return r.flow[Upstream].swallow && r.flow[Downstream].swallow }

func (r rules) stopped() bool { return r.flow[Upstream].stall && r.flow[Downstream].stall }

// obeyed reports whether every pump acts on the rules of the present
// generation. p.mu is held.
func (p *Proxy) obeyed() bool {
	for l := range p.links {
		for _, u := range l.pumps {
			if !u.ended && u.acked != p.gen {
				return false
			}
		}
	}
	return true
}

// stopListening refuses new connections; those the kernel has already taken but
// nobody has accepted are reset by it. p.mu is held.
func (p *Proxy) stopListening() {
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
}

// relistenWithin bounds the wait for an address that somebody else has taken
// while the proxy refused connections.
const relistenWithin = 10 * time.Second

// listenAgain undoes stopListening. p.mu is held.
func (p *Proxy) listenAgain() {
	for deadline := time.Now().Add(relistenWithin); ; time.Sleep(10 * time.Millisecond) {
		l, err := listen(p.network, p.addr)
		if err == nil {
			p.listener = l
			p.wg.Go(func() { p.accept(l) })
			return
		}
		if time.Now().After(deadline) {
			p.tb.Errorf("faultnet: listening again: %v", err)
			return
		}
	}
}

// accept admits connections until the listener is closed.
func (p *Proxy) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			p.admit(conn.(stream))
		case errors.Is(err, net.ErrClosed):
			return
		default:
			p.tb.Errorf("faultnet: accept: %v", err)
			return
		}
	}
}

func (p *Proxy) admit(client stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted++
	if p.closed || p.rules.refuse || p.rules.reset {
		abort(client)
		return
	}
	l := &link{p: p, client: client, lossy: p.rules.unreachable()}
	p.links[l] = struct{}{}
	p.wg.Go(l.run)
}
