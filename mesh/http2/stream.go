package http2

import (
	"time"

	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// stream is what both ends know of a stream. The mutex of its connection
// guards it. It is used again once refs is 0: the connection's table holds one
// reference, the exchange or response that users see another, and whoever works
// on it while the mutex is released, a third.
type stream struct {
	c    *conn
	id   uint32
	refs int
	// err is why the stream ended before its time; nil while it has not.
	err error

	// co is what waits for what comes: the handler, or who called RoundTrip. It is
	// nil for those with a goroutine of their own.
	co     *coroutine.Coroutine
	parked bool      // co is what waits, instead of somebody on rsem
	wakeBy time.Time // when co is to look again; zero for no such time

	// What we send.
	sendWin   int64
	localEnd  bool  // nothing more may be sent
	headSent  bool  // the final head was sent
	lastFrame int64 // where in the output its last HEADERS or DATA frame begins
	sendLeft  int64 // what content-length promises beyond what was sent; -1: nothing
	headStart int64 // where in the output its first HEADERS frame begins
	wwait     bool  // somebody waits on wsem
	wsem      semaphore
	turn      bool          // it is this stream's turn to use the connection's window
	queued    bool          // it is in the connection's queue for its window
	blocked   time.Time     // since when it waits for a window; zero: it does not
	heldFor   time.Duration // how long it has waited before, since the peer took stallProgress, or all
	heldSent  int           // what the peer has taken since

	// What we receive.
	recvWin   int64 // what the peer may still send
	target    int64 // the window it is brought up to again
	remoteEnd bool  // nothing more will come
	gotHead   bool  // client: the final head has come
	recvLeft  int64 // what content-length promises beyond what came; -1: nothing
	discard   bool  // nobody will read what still comes
	content   content
	rwait     bool // somebody waits on rsem
	rsem      semaphore
	trailer   proxy.Header

	server serverSide
	client clientSide
}

// serverSide is what only a server has of a stream.
type serverSide struct {
	x         *exchange
	req       proxy.Request
	header    proxy.Header // the memory of req.Header
	held      heldResponse
	responded bool
	upgraded  bool
	noContent bool // the response to this request has no content
	expect    bool // the client waits for a 100
	tooLarge  bool // the body exceeded MaxBodyBytes
	bodyLeft  int64
}

// clientSide is what only a client has of a stream.
type clientSide struct {
	res      *response
	head     bool // the request was a HEAD
	connect  bool // the request was a CONNECT
	interims []interim
	unsent   bool // err says that the server has not acted on the request
}

type interim struct {
	status int
	header proxy.Header
}

// A semaphore wakes one goroutine. It has room for one token, and its owner's
// flag (rwait, wwait) is cleared with each token, so that sending never blocks.
type semaphore chan struct{}

func (m *memory) stream() *stream {
	m.count(1)
	if s, ok := m.streams.Get().(*stream); ok {
		return s
	}
	return &stream{rsem: make(semaphore, 1), wsem: make(semaphore, 1)}
}

// unref drops a reference. c.mu is held.
func (st *stream) unref() {
	if st.refs--; st.refs > 0 {
		return
	}
	c := st.c
	st.dropContent()
	rsem, wsem := st.rsem, st.wsem
	header, trailer, held := st.server.header, st.trailer, st.server.held
	c.mem.free(held.content)
	*st = stream{rsem: rsem, wsem: wsem}
	st.server.header, st.trailer, st.server.held.header = reuse(header), reuse(trailer), reuse(held.header)
	c.mem.freeStream(st)
}

func (m *memory) freeStream(st *stream) {
	m.count(-1)
	m.streams.Put(st)
}

// maxReused bounds the fields of a Header that is kept for the next stream.
const maxReused = 64

func reuse(h proxy.Header) proxy.Header {
	if cap(h) > maxReused {
		return nil
	}
	clear(h)
	return h[:0]
}

// dropContent discards what nobody has read. c.mu is held.
func (st *stream) dropContent() {
	if n := int64(st.content.n); n > 0 {
		st.content.drop(st.c.mem)
		st.c.buffered -= n
		st.c.refundConn()
	}
}

// wakeReader lets who waits for something to come look again. c.mu is held.
func (st *stream) wakeReader() {
	if !st.rwait {
		return
	}
	st.rwait = false
	if st.parked {
		st.parked = false
		st.co.Wake()
		return
	}
	st.rsem <- struct{}{}
}

// wakeReaderLater is wakeReader for the reading goroutine, which wakes when it
// has taken in all it has. c.mu is held.
func (st *stream) wakeReaderLater() {
	if !st.rwait {
		return
	}
	st.rwait = false
	w := waiting{sem: st.rsem}
	if st.parked {
		st.parked = false
		w = waiting{co: st.co}
	}
	st.c.wakes = append(st.c.wakes, w)
}

// wakeWriter lets who waits for a window look again. c.mu is held.
func (st *stream) wakeWriter() {
	if st.wwait {
		st.wwait = false
		st.wsem <- struct{}{}
	}
}

// waitEnd is why a wait is over.
type waitEnd uint8

const (
	waitWoken waitEnd = iota
	waitDone
	waitExpired
)

// wait waits for a token of a semaphore, or until done is closed or expired
// sends. flag is the stream's rwait or wwait. c.mu is held when it is called
// and when it returns, not in between; the caller has a reference.
func (st *stream) wait(sem semaphore, flag *bool, done <-chan struct{}, expired <-chan time.Time) waitEnd {
	c := st.c
	*flag = true
	c.mu.Unlock()
	why := waitWoken
	if done == nil && expired == nil {
		<-sem
	} else {
		select {
		case <-sem:
		case <-done:
			why = waitDone
		case <-expired:
			why = waitExpired
		}
	}
	c.mu.Lock()
	if why != waitWoken {
		if *flag {
			*flag = false
		} else {
			// The token is there or on its way.
			c.mu.Unlock()
			<-sem
			c.mu.Lock()
		}
	}
	return why
}

// settle takes the stream out of the table if both sides have ended it. c.mu is
// held.
func (st *stream) settle() {
	if st.localEnd && st.remoteEnd && st.err == nil {
		st.c.remove(st, closedEnded)
	}
}

// kill ends the stream before its time. c.mu is held.
func (st *stream) kill(err error, how closedHow) {
	if st.err != nil {
		return
	}
	st.err = err
	st.localEnd, st.remoteEnd = true, true
	st.wakeReader()
	st.wakeWriter()
	if x := st.server.x; x != nil {
		if x.ctx.cancel != nil {
			x.ctx.cancel(err)
		}
		st.co.Wake() // whatever it waits for
	}
	st.c.remove(st, how)
}

// reset ends the stream with a RST_STREAM. c.mu is held, and the caller has
// the output written.
func (st *stream) reset(code Code, err error) {
	if st.err != nil || st.localEnd && st.remoteEnd {
		return
	}
	st.c.appendReset(st.id, code)
	st.kill(err, closedReset)
}

// resetFault is the error of a stream that this side or the peer reset.
func (st *stream) resetFault(code Code, byPeer bool, reason string) error {
	cause := &ResetError{Code: code, ByPeer: byPeer, Reason: reason}
	c := st.c
	if byPeer {
		return c.fault(faultOf(code, c.client), cause, "the peer reset stream %d with %s", st.id, code)
	}
	return c.fault(faultOf(code, c.client), cause, "stream %d was reset: %s", st.id, reason)
}

// The codes in short.
const (
	codeNo          = wire.ErrCodeNo
	codeProtocol    = wire.ErrCodeProtocol
	codeInternal    = wire.ErrCodeInternal
	codeFlow        = wire.ErrCodeFlowControl
	codeSettings    = wire.ErrCodeSettingsTimeout
	codeClosed      = wire.ErrCodeStreamClosed
	codeFrameSize   = wire.ErrCodeFrameSize
	codeRefused     = wire.ErrCodeRefusedStream
	codeCancel      = wire.ErrCodeCancel
	codeCompression = wire.ErrCodeCompression
	codeCalm        = wire.ErrCodeEnhanceYourCalm
	codeSecurity    = wire.ErrCodeInadequateSecurity
)
