package http2

import (
	"time"

	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
)

// refundConn opens the connection's window again. What is buffered counts only
// beyond Config.ConnBuffer, so that streams whose readers are slow do not hold
// up the others. c.mu is held.
func (c *conn) refundConn() {
	if c.err != nil {
		return
	}
	window := int64(c.cfg.ConnWindow) - max(0, c.buffered-int64(c.cfg.ConnBuffer))
	if n := window - c.recvWin; n > 0 && n >= int64(c.cfg.ConnWindow)/2 {
		c.recvWin += n
		c.appendWindowUpdate(0, n)
	}
}

// refund opens the stream's window again, by what was read of it. A stream
// whose reader waits for the network gets a larger one. c.mu is held.
func (c *conn) refund(st *stream) {
	if st.remoteEnd || st.discard || c.err != nil {
		return
	}
	n := st.target - int64(st.content.n) - st.recvWin
	if n <= 0 || n < st.target/2 {
		return
	}
	if st.recvLeft >= 0 && st.recvWin-st.recvLeft >= ampleWindow {
		return // what is still to come fits into the window
	}
	if most := int64(c.cfg.MaxStreamWindow); st.content.n == 0 && st.target < most {
		more := min(st.target, most-st.target)
		st.target += more
		n += more
	}
	st.recvWin += n
	c.appendWindowUpdate(st.id, n)
}

// ampleWindow is by how much a window must exceed the content that it is for, so
// that there is room for padding, too.
const ampleWindow = 4 * minFrame

// consume moves content of the stream to p and opens the windows again. c.mu
// is held; the caller flushes what is urgent.
func (c *conn) consume(st *stream, p []byte) int {
	n := st.content.take(c.mem, p)
	c.buffered -= int64(n)
	c.refund(st)
	if c.buffered+int64(n) > int64(c.cfg.ConnBuffer) {
		c.refundConn()
	}
	return n
}

// queue holds the streams that wait for the connection's window, in turn.
type queue struct {
	streams []*stream
	taken   int // streams whose turn it is and who have not taken it yet
}

// nextTurn lets the stream that has waited longest for the connection's window
// go on. One at a time does: it passes the turn on. c.mu is held.
func (c *conn) nextTurn() {
	q := &c.turns
	for c.sendWin > 0 && q.taken == 0 && len(q.streams) > 0 {
		st := q.streams[0]
		q.streams[0] = nil
		if q.streams = q.streams[1:]; len(q.streams) == 0 {
			q.streams = nil
		}
		st.queued = false
		if st.wwait {
			st.turn = true
			q.taken++
			st.wakeWriter()
		}
	}
}

// endTurn passes the turn on if the stream has it. c.mu is held.
func (c *conn) endTurn(st *stream) {
	if st.turn {
		st.turn = false
		c.turns.taken--
		c.nextTurn()
	}
}

// send appends p to the output as DATA frames, as windows and room allow. It
// returns early with an error if the stream or the connection ends or done is
// closed. It does not wait for room within the first sendAhead bytes, if there
// is some to begin with. c.mu is held, but not while waiting.
func (c *conn) send(st *stream, p []byte, done <-chan struct{}) (n int, err error) {
	st.refs++ // while the lock is released, the stream must not be used again
	defer st.unref()
	most := highWater
	for n < len(p) && err == nil {
		if c.makeRoom(st.co, most); st.sendBlocked() != nil {
			break
		}
		if most == highWater {
			most += sendAhead
			c.ensure(int(min(int64(len(p)), st.sendWin, c.sendWin, sendAhead)) + framesRoom)
		}
		room := min(int64(len(p)-n), int64(min(c.peerFrame, minFrame)), st.sendWin)
		switch {
		case room <= 0:
			c.endTurn(st)
			err = c.await(st, done, false)
		case c.sendWin <= 0 || len(c.turns.streams) > 0 && !st.turn || c.turns.taken > 0 && !st.turn:
			err = c.awaitTurn(st, done)
		default:
			k := int(min(room, c.sendWin))
			st.lastFrame = c.appendHeader(k, wire.FrameData, 0, st.id)
			c.out = append(c.out, p[n:n+k]...)
			n += k
			st.sendWin -= int64(k)
			c.sendWin -= int64(k)
			c.credit.Add(creditPerFrame + int64(k)/smallUpdate)
			st.progressed(k)
			c.endTurn(st)
		}
	}
	c.endTurn(st)
	if err == nil {
		err = st.sendBlocked()
	}
	if st.sendWin > 0 {
		st.heldFor, st.heldSent = 0, 0 // the peer holds up nothing
	}
	return n, err
}

// stallProgress is what the peer has to take within Config.StallTimeout: one that
// opens its window byte by byte stalls a stream as well as one that never does.
const stallProgress = minFrame

// progressed notes that n bytes were sent. c.mu is held.
func (st *stream) progressed(n int) {
	if st.heldFor == 0 {
		return
	}
	if st.heldSent += n; st.heldSent >= stallProgress {
		st.heldFor, st.heldSent = 0, 0
	}
}

// framesRoom is room for the headers of the frames of sendAhead, and for an end.
const framesRoom = (sendAhead/minFrame + 2) * frameHeader

// sendBlocked returns why nothing more can be sent on the stream, if so. c.mu
// is held.
func (st *stream) sendBlocked() error {
	switch {
	case st.err != nil:
		return st.err
	case st.localEnd:
		return errSendEnded
	}
	return nil
}

// errSendEnded says that this side of the stream has ended.
var errSendEnded = fault.New(fault.FailedPrecondition, "the stream has been ended")

// awaitTurn waits for the stream's turn to use the connection's window. c.mu is
// held, but not while waiting.
func (c *conn) awaitTurn(st *stream, done <-chan struct{}) error {
	c.endTurn(st)
	if !st.queued {
		st.queued = true
		c.turns.streams = append(c.turns.streams, st)
	}
	err := c.await(st, done, true)
	if st.queued {
		c.unqueue(st)
	}
	return err
}

func (c *conn) unqueue(st *stream) {
	q := &c.turns
	for i := range q.streams {
		if q.streams[i] == st {
			q.streams = append(q.streams[:i], q.streams[i+1:]...)
			break
		}
	}
	st.queued = false
}

// await waits until the stream's window has opened or, forTurn, until it is the
// stream's turn, or there is another reason to look again. What was appended so far
// is written before: the peer may open the window only when it has come. c.mu
// is held, but not while waiting.
func (c *conn) await(st *stream, done <-chan struct{}, forTurn bool) error {
	c.detach(st.co)
	c.flushLocked()
	if err := st.sendBlocked(); err != nil {
		return err
	}
	if forTurn && !st.queued || !forTurn && st.sendWin > 0 {
		return nil // that has changed in the meantime
	}
	if st.wwait {
		return fault.New(fault.FailedPrecondition, "two goroutines write to stream %d", st.id)
	}
	st.blocked = time.Now()
	st.wait(st.wsem, &st.wwait, done, nil)
	st.heldFor += max(time.Since(st.blocked), 1)
	st.blocked = time.Time{}
	if done != nil {
		select {
		case <-done:
			return errDone
		default:
		}
	}
	return nil
}

// errDone says that the done channel of who sends was closed.
var errDone = fault.New(fault.Canceled, "the call was canceled")

// endLocal ends our side of the stream: with the last frame, if that is still
// in the output, or with an empty DATA frame. c.mu is held.
func (c *conn) endLocal(st *stream) {
	if st.localEnd {
		return
	}
	if at := st.lastFrame - c.base; at >= 0 && at < int64(len(c.out)) {
		c.out[at+4] |= byte(wire.FlagDataEndStream)
	} else {
		c.appendHeader(0, wire.FrameData, wire.FlagDataEndStream, st.id)
	}
	st.localEnd = true
	st.settle()
}
