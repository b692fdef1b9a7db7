package http2

import (
	"time"
)

// watch looks now and then, when the clock ticks, whether something takes too
// long. What it looks at are counters, so that exchanges do not have to read the
// time. Times are those since the connection began. Bounds are kept to within a
// quarter of themselves.
type watch struct {
	due        time.Duration // the next tick; the clock's
	place      int           // in the queue of the clock, from 1 on; the clock's
	started    time.Time
	watchIdle  progress
	watchWrite progress
	watchFrame progress
	watchRead  progress
	pinged     time.Duration // when the PING was sent whose answer is due; 0: none
	draining   time.Duration
	retire     time.Duration // when the connection begins to end; 0: never
}

// progress notices that a counter stands still.
type progress struct {
	mark  uint64
	since time.Duration // 0: nothing was noticed yet
}

// stuck reports whether mark has not changed for the duration.
func (p *progress) stuck(now time.Duration, mark uint64, limit time.Duration) bool {
	if p.since == 0 || p.mark != mark {
		p.mark, p.since = mark, now
	}
	return limit > 0 && now-p.since >= limit
}

const (
	maxTick   = 15 * time.Second
	minTick   = time.Millisecond
	drainWait = time.Second // for the answer to the PING of a graceful end
)

func (c *conn) startWatch() {
	c.mem.clock.set(c, c.period())
}

// retireAt makes the connection begin to end at a time, the zero time for never.
func (c *conn) retireAt(at time.Time) {
	if !at.IsZero() {
		c.retire = max(at.Sub(c.started), 1)
	}
}

// age is how long ago the connection began.
func (c *conn) age() time.Duration { return time.Since(c.started) }

func (c *conn) stopWatch() { c.mem.clock.remove(c) }

// period returns when to look next.
func (c *conn) period() time.Duration {
	d := maxTick
	consider := func(on bool, limit time.Duration) {
		if on && limit > 0 {
			d = min(d, max(limit/4, minTick))
		}
	}
	busy := len(c.streams) > 0
	consider(!c.gotPeer || !c.acked, c.cfg.HandshakeTimeout)
	consider(!busy, c.cfg.IdleTimeout)
	consider(true, c.cfg.WriteTimeout)
	consider(true, c.cfg.FrameTimeout)
	consider(busy, c.cfg.StallTimeout)
	consider(busy, c.cfg.KeepAlive)
	consider(c.pinged != 0, c.cfg.KeepAliveTimeout)
	consider(c.drain == drainSoon, drainWait)
	if c.retire != 0 && c.drain == drainNot {
		d = min(d, max(c.retire-c.age(), minTick))
	}
	return d
}

// tick looks for what takes too long.
func (c *conn) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	now := c.age()
	if late := c.late(now); late != nil {
		c.endLocked(late)
		return
	}
	c.resetStalled()
	c.probe(now)
	if c.gotPeer && c.retire != 0 && now >= c.retire {
		c.startDrainLocked()
	}
	if c.drain == drainSoon && now-c.draining >= drainWait {
		c.finishDrain()
	}
	c.idleOut(now)
	c.mem.clock.set(c, c.period())
}

// late finds what the connection has to end for.
func (c *conn) late(now time.Duration) *connError {
	switch limit := c.cfg.HandshakeTimeout; {
	case limit > 0 && now >= limit && !c.gotPeer:
		return &connError{codeSettings, "the peer sent no SETTINGS within " + limit.String()}
	case limit > 0 && now >= limit && !c.acked:
		return &connError{codeSettings, "the peer did not acknowledge SETTINGS within " + limit.String()}
	}
	if !c.flushing {
		c.watchWrite = progress{}
	} else if c.watchWrite.stuck(now, c.flushes, c.cfg.WriteTimeout) {
		return &connError{codeCalm, "the peer took nothing of what was written for " + c.cfg.WriteTimeout.String()}
	}
	if !c.in.midway.Load() {
		c.watchFrame = progress{}
	} else if c.watchFrame.stuck(now, c.in.reads.Load(), c.cfg.FrameTimeout) {
		return &connError{codeCalm, "the rest of a frame did not come within " + c.cfg.FrameTimeout.String()}
	}
	if c.pinged != 0 && now-c.pinged >= c.cfg.KeepAliveTimeout && c.cfg.KeepAliveTimeout > 0 {
		return &connError{codeNo, "the peer did not answer a PING within " + c.cfg.KeepAliveTimeout.String()}
	}
	return nil
}

// resetStalled resets streams that wait too long for a window, also in pieces.
func (c *conn) resetStalled() {
	limit := c.cfg.StallTimeout
	if limit == 0 {
		return
	}
	for _, st := range c.streams {
		if !st.blocked.IsZero() && st.heldFor+time.Since(st.blocked) >= limit {
			st.reset(codeCancel, st.resetFault(codeCancel, false, "the peer did not open its window far enough within "+limit.String()))
			c.kick()
		}
	}
}

// probe sends a PING when nothing has come for KeepAlive.
func (c *conn) probe(now time.Duration) {
	reads := c.in.reads.Load()
	if reads != c.watchRead.mark {
		c.pinged = 0
	}
	if len(c.streams) == 0 {
		c.watchRead = progress{}
		return
	}
	if c.watchRead.stuck(now, reads, c.cfg.KeepAlive) && c.pinged == 0 {
		c.pinged = now
		c.appendPing(false, pingProbe)
		c.kick()
	}
}

// The contents of our PINGs.
var (
	pingProbe = [8]byte{'p', 'r', 'o', 'b', 'e'}
	pingDrain = [8]byte{'d', 'r', 'a', 'i', 'n'}
)

// pong takes in the answer to a PING. c.mu is held.
func (c *conn) pong(data [8]byte) {
	switch data {
	case pingProbe:
		c.pinged = 0
	case pingDrain:
		if c.drain == drainSoon {
			c.finishDrain()
		}
	}
}

// idleOut ends a connection that had no streams for IdleTimeout.
func (c *conn) idleOut(now time.Duration) {
	if len(c.streams) > 0 || c.running > 0 {
		c.watchIdle = progress{}
		return
	}
	if c.watchIdle.mark == c.opened && c.watchIdle.since != 0 && c.rested != c.opened {
		c.rest() // it was idle at the last look, too
	}
	if c.watchIdle.stuck(now, c.opened, c.cfg.IdleTimeout) && c.drain < drainNow {
		c.finishDrain()
	}
}

// startDrain begins the graceful end of the connection (RFC 9113, section 6.8):
// the peer learns that no new streams are welcome; those that are on their way
// are still taken.
func (c *conn) startDrain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startDrainLocked()
}

func (c *conn) startDrainLocked() {
	if c.drain != drainNot || c.err != nil {
		return
	}
	if c.client {
		c.finishDrain() // the server opens no streams
		return
	}
	c.drain = drainSoon
	c.draining = c.age()
	c.appendGoAway(maxWindow, codeNo, "")
	c.appendPing(false, pingDrain)
	c.kick()
	c.mem.clock.set(c, c.period())
}

// finishDrain tells the peer which streams were the last; when they have ended,
// so does the connection. c.mu is held.
func (c *conn) finishDrain() {
	c.drain = drainNow
	c.lastID = c.peerID
	c.appendGoAway(c.peerID, codeNo, "")
	c.role.goAway(c)
	c.kick()
}

// closeIfDrained ends the connection if it is to end and nothing is left to do.
// c.mu is held.
func (c *conn) closeIfDrained() {
	if c.drain != drainNow || len(c.streams) > 0 || c.running > 0 || len(c.out) > 0 || c.flushing {
		return
	}
	c.drain = drainClosed
	// The reading goroutine sees this, and hangs up.
	_ = c.nc.SetReadDeadline(time.Now())
}

// kick has the output written by a pooled goroutine. c.mu is held.
func (c *conn) kick() {
	if c.flushing || len(c.out) == 0 {
		return
	}
	c.flushing = true
	c.writers.Add(1)
	c.workers.run((*flusher)(c))
}
