package http2

import (
	"crypto/tls"
	"io"
	"log/slog"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/proa-io/proa/internal/coroutine"
)

// role is what differs between the two ends of a connection. Its methods are
// called by the reading goroutine.
type role interface {
	// beginHeaders prepares c.block for the header block that begins with the
	// HEADERS frame.
	beginHeaders(c *conn, fh wire.FrameHeader)
	// headers takes in c.block, which is complete.
	headers(c *conn) error
	// settled is told that the peer's first SETTINGS have arrived. c.mu is
	// held.
	settled(c *conn)
	// goAway is told that no new streams can be opened. c.mu is held.
	goAway(c *conn)
	// freed is told that n more streams may be opened. c.mu is held.
	freed(c *conn, n int64)
	// date is the value of the date field of a response.
	date() string
}

// conn is one connection, of a server or of a client.
type conn struct {
	nc      net.Conn
	cfg     *Config
	role    role
	tls     *tls.ConnectionState
	log     *slog.Logger
	mem     *memory
	workers *workers

	// Of the reading goroutine alone.
	in        input
	block     *block         // nil while no header block is there
	dec       *hpack.Decoder // nil before the first header block
	guard     guard
	pending   *stream   // server: the stream that block may become
	ready     []*stream // new streams whose handlers are to be started
	wakeBatch []waiting
	batch     coroutine.Batch

	handlers sync.WaitGroup // running handlers

	mu      sync.Mutex
	err     error // why the connection ended; nil while it has not
	streams map[uint32]*stream
	running int            // handlers
	opened  uint64         // streams so far
	rested  uint64         // how many they were when memory was given back
	wakes   []waiting      // to be woken before the reading goroutine waits
	closed  *[64]closedOne // the last streams that ended
	nclosed int

	peerID     uint32 // the highest stream the peer has opened
	nextID     uint32 // client: the next stream to open
	lastID     uint32 // server: streams above it are ignored after GOAWAY
	client     bool
	drain      drainState
	told       bool // a GOAWAY says why the connection ends
	peerMaxSet bool
	peerConn   bool  // SETTINGS_ENABLE_CONNECT_PROTOCOL of the peer
	gotPeer    bool  // the peer's SETTINGS have arrived
	acked      bool  // our SETTINGS are acknowledged
	buffered   int64 // unread content of all streams

	recvWin    int64 // what the peer may still send
	recvInit   int64 // the window that new streams of the peer have
	sendWin    int64 // what we may still send
	sendInit   int64 // the window that our new streams have
	turns      queue // streams that wait for sendWin
	peerFrame  int   // SETTINGS_MAX_FRAME_SIZE of the peer
	peerHeader int64 // SETTINGS_MAX_HEADER_LIST_SIZE of the peer
	peerMax    int64 // SETTINGS_MAX_CONCURRENT_STREAMS of the peer

	slots    atomic.Int64 // client: how many more streams may be opened
	goneAway *ResetError  // client: what the server's GOAWAY says

	output
	sink
	watch
	alarm
}

// drainState is how far the graceful end of a connection is.
type drainState uint8

const (
	drainNot    drainState = iota
	drainSoon              // the peer was told that a GOAWAY is near
	drainNow               // the peer was told which streams are the last
	drainClosed            // our side of the connection is closed
)

// closedHow is how a stream ended.
type closedHow uint8

const (
	closedEnded  closedHow = iota // both sides had sent END_STREAM
	closedReset                   // we reset it: frames may be on their way
	closedByPeer                  // the peer reset it
)

// A closedOne is how a stream ended, in the lowest two bits, and its number,
// which is odd, so that its own lowest bit needs no room.
type closedOne uint32

func (c closedOne) id() uint32     { return uint32(c)>>2<<1 | 1 }
func (c closedOne) how() closedHow { return closedHow(c & 3) }

const (
	initialWindow = 65535 // RFC 9113, section 6.9.2
	minFrame      = 16384 // RFC 9113, section 6.5.2
	frameHeader   = 9
)

// connOptions are what a server and a client give to newConn.
type connOptions struct {
	cfg     *Config
	role    role
	client  bool
	log     *slog.Logger
	mem     *memory
	workers *workers
	seed    []byte // what was read from nc already
	tls     *tls.ConnectionState
	retire  func(*tls.ConnectionState) time.Time
}

func newConn(nc net.Conn, o connOptions) *conn {
	c := &conn{
		nc: nc, cfg: o.cfg, role: o.role, client: o.client, log: o.log, mem: o.mem, workers: o.workers, tls: o.tls,
		nextID:  1,
		lastID:  maxWindow,
		recvWin: initialWindow, recvInit: max(initialWindow, int64(o.cfg.StreamWindow)),
		sendWin: initialWindow, sendInit: initialWindow,
		peerFrame: minFrame, peerHeader: maxWindow, peerMax: assumedStreams,
	}
	c.in = input{nc: nc, mem: o.mem, idle: c.digest}
	if len(o.seed) > 0 {
		c.in.seed(o.seed)
	}
	c.guard = newGuard(o.cfg)
	c.room.L = &c.mu
	c.table = dynamicTableSize
	c.started = time.Now()
	if o.retire != nil && o.tls != nil {
		c.retireAt(o.retire(o.tls))
	}
	c.sink.init(nc, o.mem)
	if c.sink.pack == nil {
		c.in.sock = c.sink.sock
	}
	return c
}

// assumedStreams is how many streams a client opens before it knows how many
// the server allows.
const assumedStreams = 100

// peer names the peer for errors.
func (c *conn) peer() string { return peerName(c.nc, c.client) }

func peerName(nc net.Conn, client bool) string {
	who := "HTTP/2 client "
	if client {
		who = "HTTP/2 server "
	}
	if a := nc.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return who + a.String()
	}
	if a := nc.LocalAddr(); a != nil && a.String() != "" {
		return who + "on " + a.String()
	}
	return who + "without an address"
}

// begin queues our SETTINGS, after the preface if we are the client.
func (c *conn) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	settings := []wire.Setting{
		{ID: wire.SettingInitialWindowSize, Val: uint32(c.cfg.StreamWindow)},
		{ID: wire.SettingMaxHeaderListSize, Val: uint32(c.cfg.MaxHeaderBytes)},
	}
	if c.client {
		c.append([]byte(wire.ClientPreface))
		settings = append(settings, wire.Setting{ID: wire.SettingEnablePush, Val: 0})
	} else {
		settings = append(settings,
			wire.Setting{ID: wire.SettingMaxConcurrentStreams, Val: uint32(c.cfg.MaxStreams)},
			wire.Setting{ID: wire.SettingEnableConnectProtocol, Val: 1})
	}
	c.appendSettings(settings)
	c.refundConn()
	c.startWatch()
}

// run reads frames until the connection ends, and returns why it did: nil when
// it ended as it should.
func (c *conn) run() error {
	err := c.readFrames()
	ce := asConnError(err)
	c.mu.Lock()
	drained := c.drain == drainClosed
	first := c.err == nil
	graceful := first && (drained || err == io.EOF && len(c.streams) == 0)
	if first {
		c.failLocked(c.lost(err))
	}
	if first && ce != nil {
		c.appendGoAway(c.peerID, ce.code, ce.reason)
		c.told = true
	}
	reason, tell := c.err, c.told || drained
	c.mu.Unlock()
	c.digest()
	c.hangUp(tell)
	c.release()
	if graceful {
		return nil
	}
	return reason
}

// release gives back the memory of a connection that has ended.
func (c *conn) release() {
	c.in.release()
	if c.sink.pack != nil {
		c.sink.pack.release()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mem.free(c.outSlab)
	c.out, c.outSlab = nil, nil
	if c.pending != nil {
		c.mem.freeStream(c.pending)
		c.pending = nil
	}
	if c.block != nil {
		c.mem.freeBlock(c.block)
		c.block = nil
	}
}

// readFrames takes in frames until there is an error.
func (c *conn) readFrames() error {
	if !c.client {
		if err := c.readPreface(); err != nil {
			return err
		}
	}
	for {
		fh, err := c.nextFrame()
		if err == nil {
			err = c.frame(fh)
		}
		if err == nil {
			continue
		}
		se, ok := err.(*streamError)
		if !ok {
			return err
		}
		if err := c.rejectStream(se); err != nil {
			return err
		}
	}
}

func (c *conn) readPreface() error {
	p, err := c.in.next(len(wire.ClientPreface))
	if err != nil {
		return err
	}
	if string(p) != wire.ClientPreface {
		return connErrorf(codeProtocol, "the connection does not begin with the preface of HTTP/2")
	}
	return nil
}

// digest acts on what the frames so far have brought: it starts handlers, wakes
// who waits and has urgent frames written. It reports whether the connection
// has no streams. The reading goroutine calls it before it may wait.
func (c *conn) digest() (quiet bool) {
	c.mu.Lock()
	c.admit()
	c.wakeBatch, c.wakes = c.wakes, c.wakeBatch[:0]
	quiet = len(c.streams) == 0
	if c.block != nil && !c.block.open {
		c.mem.freeBlock(c.block)
		c.block = nil
	}
	urgent := c.urgent
	c.urgent = false
	if urgent {
		c.batch.Later(c)
	}
	c.mu.Unlock()
	for i, st := range c.ready {
		c.start(st)
		c.ready[i] = nil
	}
	c.ready = c.ready[:0]
	for i, w := range c.wakeBatch {
		if w.co != nil {
			c.batch.Resume(w.co)
		} else {
			w.sem <- struct{}{}
		}
		c.wakeBatch[i] = waiting{}
	}
	c.batch.Flush()
	return quiet
}

// start starts the handler of a stream: on this goroutine if the server says
// that it may, and its request is complete.
func (c *conn) start(st *stream) {
	s, x := c.role.(*Server), st.server.x
	if s.Inline != nil && x.inline && s.Inline(&st.server.req) {
		c.batch.Start(&s.inline, x)
		return
	}
	c.workers.run(x)
}

// waiting is who is to be woken.
type waiting struct {
	sem semaphore
	co  *coroutine.Coroutine // instead of sem
}

// admit counts in the handlers that are to be started, and leaves out those
// whose stream has ended already: a stream that is opened and reset at once
// costs no handler. c.mu is held.
func (c *conn) admit() {
	kept := c.ready[:0]
	for _, st := range c.ready {
		if st.err != nil {
			st.server.x.st = nil
			c.running--
			st.unref()
			continue
		}
		st.server.x.inline = st.remoteEnd
		kept = append(kept, st)
	}
	clear(c.ready[len(kept):])
	c.ready = kept
	c.handlers.Add(len(kept))
	c.closeIfDrained()
}

// rest gives back the memory that only a connection with streams needs. c.mu is
// held.
func (c *conn) rest() {
	c.rested = c.opened
	c.streams = nil
	if len(c.wakes) == 0 {
		c.wakes = nil
	}
	if c.enc != nil {
		c.enc, c.forgot = nil, true
	}
}

// enroll puts a new stream into the table. c.mu is held.
func (c *conn) enroll(st *stream) {
	if c.streams == nil {
		c.streams = map[uint32]*stream{}
	}
	c.streams[st.id] = st
	c.opened++
}

// failLocked ends the connection for all who use it. What was not written will
// not be. c.mu is held.
func (c *conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	for _, st := range c.streams {
		st.client.unsent = st.headStart >= c.base || !c.flushing && st.headStart >= c.written
		st.kill(err, closedByPeer)
	}
	c.base += int64(len(c.out))
	c.out = c.out[:0]
	c.role.goAway(c)
	c.room.Broadcast()
	c.stopWatch()
	c.stopAlarm()
}

// hangUp closes the connection. If the peer is to be told why, it is given a
// moment to read that: closing a socket with unread input would throw away what
// is on its way to the peer.
func (c *conn) hangUp(tell bool) {
	if tell {
		_ = c.nc.SetDeadline(time.Now().Add(lingerTime))
		c.mu.Lock()
		for c.flushing {
			c.room.Wait()
		}
		c.flushing = true
		c.writers.Add(1)
		c.writeOut(math.MaxInt, true)
		c.mu.Unlock()
		if cw, ok := c.nc.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil && c.sink.finish() == nil {
			c.in.r, c.in.w = 0, 0
			_ = c.in.discard(lingerBytes)
		}
	}
	_ = c.nc.Close()
	c.writers.Wait()
}

const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 1 << 20
)

// abort ends the connection at once.
func (c *conn) abort(err error) {
	c.mu.Lock()
	c.failLocked(err)
	c.mu.Unlock()
	_ = c.nc.Close()
}

// remove takes a stream out of the table. c.mu is held.
func (c *conn) remove(st *stream, how closedHow) {
	if c.streams[st.id] != st {
		return
	}
	delete(c.streams, st.id)
	c.noteClosed(st.id, how)
	if how == closedEnded {
		c.ended.Add(1)
	}
	c.role.freed(c, 1)
	st.unref()
	c.closeIfDrained()
}

func (c *conn) noteClosed(id uint32, how closedHow) {
	if c.closed == nil {
		c.closed = new([64]closedOne)
	}
	c.closed[c.nclosed%len(c.closed)] = closedOne(id>>1<<2) | closedOne(how)
	c.nclosed++
}

// howClosed finds out how a stream that is not in the table ended, among the
// last ones.
func (c *conn) howClosed(id uint32) (closedHow, bool) {
	for i := range min(c.nclosed, len(c.closed)) {
		if c.closed[i].id() == id {
			return c.closed[i].how(), true
		}
	}
	return 0, false
}

// endWith ends the connection with a GOAWAY, which the reading goroutine sees
// to when it hangs up.
func (c *conn) endWith(ce *connError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(ce)
}

func (c *conn) endLocked(ce *connError) {
	c.failLocked(c.lost(ce))
	c.appendGoAway(c.peerID, ce.code, ce.reason)
	c.told = true
	c.kick()
	_ = c.nc.SetReadDeadline(time.Now())
}
