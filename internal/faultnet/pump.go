package faultnet

import (
	"errors"
	"io"
	"os"
	"slices"
	"time"
)

const (
	// chunkSize is the most that is read at once.
	chunkSize = 32 << 10
	// queueLimit bounds the bytes on their way in one direction.
	queueLimit = 1 << 20
)

// pump moves the bytes of one direction of a link. It is the only reader of src
// and the only writer of dst.
//
// A pump acts on a copy of the rules. Before it blocks, it makes sure under
// p.mu that the copy is still good and acknowledges its generation, so that
// Proxy.set knows when no pump acts on older rules.
type pump struct {
	l        *link
	dir      Direction
	src, dst stream
	wake     chan struct{} // ends pause early

	// Guarded by p.mu.
	acked uint64 // the generation of rules it is known to act on
	ended bool

	// Used by run alone.
	gen    uint64 // the generation that rule is from
	rule   flow
	passed int64 // bytes delivered under rule
	queue  []chunk
	queued int   // bytes in queue
	shut   bool  // dst has been told the end; what comes is thrown away
	close  bool  // shut when the queue is empty
	done   error // why src has nothing more: io.EOF or a failure
}

// chunk is a piece of the stream and when it is to be delivered.
type chunk struct {
	data []byte
	due  time.Time
}

// newPump returns a pump under the present rules. p.mu is held.
func newPump(l *link, dir Direction, src, dst stream) *pump {
	return &pump{
		l: l, dir: dir, src: src, dst: dst, wake: make(chan struct{}, 1),
		acked: l.p.gen, gen: l.p.gen, rule: l.p.rules.flow[dir],
	}
}

// run moves bytes until the direction has ended or the link is dead.
func (u *pump) run() {
	defer u.end()
	buf := make([]byte, chunkSize)
	for u.adopt() {
		switch {
		case u.rule.cut && !u.shut && u.passed >= u.rule.limit:
			u.cutLink()
			return
		case len(u.queue) == 0 && u.close && !u.shut:
			u.shutDst()
		case len(u.queue) == 0 && u.done != nil:
			u.finish()
			return
		case len(u.queue) > 0 && u.wait() <= 0:
			if !u.deliver() {
				return
			}
		case u.done != nil || u.queued >= queueLimit:
			u.pause()
		default:
			u.receive(buf)
		}
	}
}

// adopt brings the rules up to date, stays while they stall the direction, and
// reports whether the link is alive.
func (u *pump) adopt() bool {
	p := u.l.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for !u.l.dead {
		if u.gen != p.gen {
			u.gen, u.rule, u.passed = p.gen, p.rules.flow[u.dir], 0
			u.close = u.close || u.rule.shut
		}
		u.shut = u.shut || u.l.cut
		if u.rule.swallow && len(u.queue) > 0 {
			u.queue, u.queued = nil, 0
			u.l.lossy = true
		}
		if !u.rule.stall {
			return true
		}
		u.ack()
		p.changed.Wait()
	}
	return false
}

// ack says that no older rules are acted on. p.mu is held.
func (u *pump) ack() {
	if u.acked != u.gen {
		u.acked = u.gen
		u.l.p.changed.Broadcast()
	}
}

// ready calls arm and reports true if the rules are still good. Until the next
// change of rules nothing but arm moves the deadlines.
func (u *pump) ready(arm func()) bool {
	u.l.p.mu.Lock()
	defer u.l.p.mu.Unlock()
	if u.l.dead || u.gen != u.l.p.gen {
		return false
	}
	u.ack()
	arm()
	return true
}

// wait returns how long the head of the queue has still to wait.
func (u *pump) wait() time.Duration {
	if u.rule.delay == 0 {
		return 0
	}
	return time.Until(u.queue[0].due)
}

// receive reads into the queue, until the head of the queue is due.
func (u *pump) receive(buf []byte) {
	var deadline time.Time
	if len(u.queue) > 0 {
		deadline = u.queue[0].due
	}
	if !u.ready(func() { _ = u.src.SetReadDeadline(deadline) }) {
		return
	}
	n, err := u.src.Read(buf)
	if n > 0 && !u.shut {
		u.queue = append(u.queue, chunk{slices.Clone(buf[:n]), time.Now().Add(u.rule.delay)})
		u.queued += n
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		u.done = err
	}
}

// deliver writes the head of the queue, as much of it as the rules allow, and
// reports whether dst can take more.
func (u *pump) deliver() bool {
	if u.shut {
		u.drop(len(u.queue[0].data))
		return true
	}
	data := u.queue[0].data
	if u.rule.cut {
		data = data[:min(int64(len(data)), u.rule.limit-u.passed)]
	}
	if !u.ready(func() { _ = u.dst.SetWriteDeadline(time.Time{}) }) {
		return true
	}
	n, err := u.dst.Write(data)
	u.passed += int64(n)
	u.drop(n)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	return u.dstFailed()
}

// drop takes n bytes off the head of the queue.
func (u *pump) drop(n int) {
	head := &u.queue[0]
	head.data = head.data[n:]
	u.queued -= n
	if len(head.data) == 0 {
		u.queue = u.queue[1:]
	}
}

// dstFailed decides what becomes of a direction that nobody listens to any
// more. After CutAfter it is drained. Otherwise it ends, and the pump of the
// other direction, which reads from the failed side, delivers what that side
// had sent before.
func (u *pump) dstFailed() bool {
	u.l.p.mu.Lock()
	defer u.l.p.mu.Unlock()
	if u.l.cut {
		u.shut = true
		return true
	}
	u.l.broken = true
	return false
}

// pause waits for the head of the queue to be due, or for the rules to change.
func (u *pump) pause() {
	if !u.ready(func() {}) {
		return
	}
	timer := time.NewTimer(u.wait())
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-u.wake:
	}
}

// shutDst tells the receiver that the stream is at its end.
func (u *pump) shutDst() {
	_ = u.dst.CloseWrite() // fails when dst is gone, which reading from it tells
	u.shut = true
}

// finish passes on how src has ended: in order, or not.
func (u *pump) finish() {
	if errors.Is(u.done, io.EOF) {
		if !u.shut {
			u.shutDst()
		}
		return
	}
	u.l.p.mu.Lock()
	defer u.l.p.mu.Unlock()
	if !u.l.cut {
		u.l.broken = true
		u.l.kill()
	}
}

// cutLink ends the link as CutAfter promises.
func (u *pump) cutLink() {
	u.shutDst()
	u.l.p.mu.Lock()
	defer u.l.p.mu.Unlock()
	u.l.cut = true
	abort(u.src)
}

func (u *pump) end() {
	u.l.p.mu.Lock()
	defer u.l.p.mu.Unlock()
	u.ended = true
	u.l.p.changed.Broadcast()
}
