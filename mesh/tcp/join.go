package tcp

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/proa-io/proa/fault"
)

// Stream is a connection whose directions end independently. *net.TCPConn,
// *net.UnixConn, *tls.Conn and the streams of mesh/http1 and mesh/http2 are.
type Stream interface {
	io.ReadWriteCloser
	// CloseWrite tells the other side that nothing more will be written.
	CloseWrite() error
}

// barer is implemented by streams that can give away the bare socket they are on,
// nil for none, with what they have read of it already.
type barer interface {
	Stream
	Bare() (c *net.TCPConn, ahead []byte)
}

// bare returns the socket of a stream if it gives that away, or else the stream.
func bare(s Stream) (_ Stream, ahead []byte) {
	if b, ok := s.(barer); ok {
		if c, ahead := b.Bare(); c != nil {
			return c, ahead
		}
	}
	return s, nil
}

// Failure says why two connections did not both end in good order.
type Failure uint8

// The failures.
const (
	NoFailure     Failure = iota
	Limited               // there were as many connections as there may be
	Handshake             // the client and this side did not agree on TLS
	NotConnected          // the upstream could not be reached in time
	ClientReset           // the client reset its connection
	UpstreamReset         // the upstream reset its connection
	Broken                // one of them broke otherwise
	Idle                  // nothing was sent in either direction for too long
	TooOld                // the connection lived as long as it may
	Stopped               // this side was stopped
)

// String returns the failure in snake case, as it appears in metrics and logs.
func (f Failure) String() string {
	names := [...]string{"none", "limited", "handshake", "not_connected", "client_reset", "upstream_reset", "broken", "idle", "too_old", "stopped"}
	if int(f) < len(names) {
		return names[f]
	}
	return "unknown"
}

// Outcome tells of two connections after both have ended.
type Outcome struct {
	// Sent and Received are the bytes that went to the upstream and came from it.
	Sent, Received int64
	Duration       time.Duration
	// Failure and Err say what went wrong; Err is nil if nothing did.
	Failure Failure
	Err     error
}

// Limits bound how long connections may last. The zero value has no bounds.
type Limits struct {
	// Idle is how long nothing may be sent in either direction. It may be up to
	// a quarter longer.
	Idle time.Duration
	// Lifetime is how long the connections may last at all.
	Lifetime time.Duration
}

// Joiner passes bytes on between connections. The zero value is ready for use and
// sets no limits; it keeps buffers, so use one for many. It is safe for concurrent
// use, but for its Limits, which must not change once it is in use.
type Joiner struct {
	Limits  Limits
	buffers sync.Pool // *[]byte
}

// bufferSize is as much as is read at a time where the kernel cannot move bytes
// by itself.
const bufferSize = 32 << 10

// Join passes on what comes from the client and the upstream to each other until
// both directions have ended, and closes both. When one of them is reset, breaks
// or exceeds a limit, or ctx ends, both are reset.
func (j *Joiner) Join(ctx context.Context, client, upstream Stream) Outcome {
	began := time.Now()
	defer client.Close() // also what gives its socket away
	defer upstream.Close()
	p := &pair{joiner: j}
	p.client, p.aheadUp = bare(client)
	p.upstream, p.aheadDown = bare(upstream)
	defer p.watch(ctx)()
	var o Outcome
	var up, down error
	var wg sync.WaitGroup
	wg.Go(func() { o.Sent, up = p.pass(p.upstream, p.client, p.aheadUp) })
	o.Received, down = p.pass(p.client, p.upstream, p.aheadDown)
	wg.Wait()
	_ = p.client.Close() // both directions are over
	_ = p.upstream.Close()
	o.Duration = time.Since(began)
	o.Failure, o.Err = p.failure(ctx, up, down)
	return o
}

// pair is one call of Join.
type pair struct {
	joiner           *Joiner
	client, upstream Stream
	// aheadUp and aheadDown were read before, and go to the upstream and to the
	// client.
	aheadUp, aheadDown []byte
	moved              atomic.Int64  // what went through this process
	broken             atomic.Uint32 // the Failure that ended both; 0 for none
}

// watch ends the pair when a limit is exceeded or ctx ends. It returns what stops
// it.
func (p *pair) watch(ctx context.Context) (stop func()) {
	var stops []func()
	if ctx.Done() != nil {
		off := context.AfterFunc(ctx, func() { p.end(Stopped) })
		stops = append(stops, func() { off() })
	}
	if d := p.joiner.Limits.Lifetime; d > 0 {
		t := time.AfterFunc(d, func() { p.end(TooOld) })
		stops = append(stops, func() { t.Stop() })
	}
	if d := p.joiner.Limits.Idle; d > 0 {
		w := &idleWatch{pair: p, every: max(d/4, time.Millisecond), since: time.Now()}
		w.start()
		stops = append(stops, w.stop)
	}
	return func() {
		for _, f := range stops {
			f()
		}
	}
}

// idleWatch ends a pair that is idle.
type idleWatch struct {
	pair  *pair
	every time.Duration

	mu    sync.Mutex
	timer *time.Timer
	over  bool
	seen  uint64 // progress
	since time.Time
}

func (w *idleWatch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(w.every, w.look)
}

func (w *idleWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

func (w *idleWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	now := time.Now()
	if seen := w.pair.progress(); seen != w.seen {
		w.seen, w.since = seen, now
	}
	if now.Sub(w.since) >= w.pair.joiner.Limits.Idle {
		w.pair.end(Idle)
		return
	}
	w.timer.Reset(w.every)
}

// progress returns a number that changes whenever bytes are moved.
func (p *pair) progress() uint64 {
	n := uint64(p.moved.Load()) //nolint:gosec // it only grows
	for _, s := range [...]Stream{p.client, p.upstream} {
		if c, ok := s.(*net.TCPConn); ok {
			n += transferred(c)
		}
	}
	return n
}

// end resets both connections, for which there is a reason already or why.
func (p *pair) end(why Failure) {
	if p.broken.CompareAndSwap(0, uint32(why)) {
		reset(p.client)
		reset(p.upstream)
	}
}

// reset closes a stream so that the other side can tell that it did not end in
// good order.
func reset(s Stream) {
	if r, ok := s.(interface{ Reset() }); ok {
		r.Reset()
		return
	}
	under := s
	if t, ok := s.(interface{ NetConn() net.Conn }); ok {
		if c, ok := t.NetConn().(*net.TCPConn); ok {
			under = c
		}
	}
	if c, ok := under.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
		_ = c.Close()
		return
	}
	_ = s.Close()
}

// pass copies ahead, and then src, to dst until src ends, and tells dst so. When
// either breaks, it ends both.
func (p *pair) pass(dst, src Stream, ahead []byte) (int64, error) {
	var n int64
	var err error
	if len(ahead) > 0 {
		var m int
		m, err = dst.Write(ahead)
		n = int64(m)
	}
	if err == nil {
		var m int64
		m, err = p.copy(dst, src)
		n += m
	}
	if err == nil {
		err = dst.CloseWrite()
		if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ENOTCONN) {
			err = nil // it has ended both directions
		}
	}
	if err != nil {
		p.end(p.blame(err))
	}
	return n, err
}

// copy copies src to dst until src ends.
func (p *pair) copy(dst, src Stream) (int64, error) {
	if to, ok := dst.(*net.TCPConn); ok && (counts || p.joiner.Limits.Idle == 0) {
		if from, ok := src.(*net.TCPConn); ok {
			return to.ReadFrom(from)
		}
	}
	buf := p.joiner.buffer()
	defer p.joiner.buffers.Put(buf)
	var total int64
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			p.moved.Add(1) // also while the other side takes its time
			m, werr := dst.Write((*buf)[:n])
			total += int64(m)
			p.moved.Add(1)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF { // not errors.Is: a connection that broke may wrap it
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (j *Joiner) buffer() *[]byte {
	if b, ok := j.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, bufferSize)
	return &b
}

// blame says which side broke.
func (p *pair) blame(err error) Failure {
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		return Broken
	}
	switch client, upstream := gone(p.client), gone(p.upstream); {
	case client && !upstream:
		return ClientReset
	case upstream && !client:
		return UpstreamReset
	}
	return Broken
}

// failure sums up how the pair ended.
func (p *pair) failure(ctx context.Context, up, down error) (Failure, error) {
	why := Failure(p.broken.Load()) //nolint:gosec // end has set it
	switch why {
	case NoFailure:
		return NoFailure, nil
	case Idle:
		return why, fault.New(fault.DeadlineExceeded, "nothing was sent for %v", p.joiner.Limits.Idle)
	case TooOld:
		return why, fault.New(fault.DeadlineExceeded, "the connection has lasted for %v, the longest allowed", p.joiner.Limits.Lifetime)
	case Stopped:
		return why, fault.Wrap(context.Cause(ctx), fault.Canceled, "the connection was ended")
	}
	err := down
	if err == nil || errors.Is(err, net.ErrClosed) && up != nil {
		err = up
	}
	return why, fault.Wrap(err, fault.Unavailable, "the connection broke")
}
