package http2

import (
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"

	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/internal/coroutine"
)

const (
	// highWater is how much output may wait before those who add content or
	// heads have to wait.
	highWater = 96 << 10
	// sendAhead is how much content may be added at once when less than that
	// waits, so that a message is not written in pieces.
	sendAhead = 128 << 10
	// maxOutput is how much output may wait before a peer that causes ever
	// more of it (answers to PINGs, resets) without reading is given up.
	maxOutput = 1 << 20
	// flushRounds is how often one goroutine writes on behalf of others
	// before it passes that on.
	flushRounds = 4
)

// output is what waits to be written. The mutex of the connection guards it.
type output struct {
	out      []byte
	outSlab  *slab  // the memory of out, when it is pooled
	left     []byte // what was taken out of out and is not written yet; of who is writing
	leftSlab *slab
	base     int64  // where out begins, in all that was ever put out
	written  int64  // how much of that the network has taken
	flushing bool   // somebody is writing
	urgent   bool   // the reading goroutine has put out something
	forgot   bool   // an earlier encoder was given up
	table    int    // the size of its table
	flushes  uint64 // writes so far
	room     sync.Cond
	writers  sync.WaitGroup
	enc      *encoder     // nil before the first block
	credit   atomic.Int64 // what the guard allows the peer for what was sent
	ended    atomic.Int64 // streams that ended well, for the guard
}

// encoder returns the encoder of the connection. c.mu is held.
func (c *conn) encoder() *encoder {
	if c.enc == nil {
		c.enc = &encoder{most: dynamicTableSize}
		switch {
		case c.forgot:
			// The peer is to forget what it has, too: the size of the table
			// is 0 for a moment (RFC 7541, section 4.2).
			c.enc.resize(0)
			c.enc.resize(c.table)
		case c.table != dynamicTableSize:
			c.enc.resize(c.table)
		}
	}
	return c.enc
}

// ensure makes room for n bytes in the output.
func (c *conn) ensure(n int) {
	if cap(c.out)-len(c.out) >= n {
		return
	}
	need := len(c.out) + n
	if need > slabSizes[slab256K] {
		need *= 2
	}
	old, oldSlab := c.out, c.outSlab
	c.out, c.outSlab = c.mem.room(max(need, slabSizes[slab4K]))
	c.out = append(c.out, old...)
	c.mem.free(oldSlab)
}

func (c *conn) append(p []byte) {
	c.ensure(len(p))
	c.out = append(c.out, p...)
}

// appendHeader appends the header of a frame and returns where it begins.
func (c *conn) appendHeader(length int, t wire.FrameType, flags wire.Flags, id uint32) int64 {
	at := c.base + int64(len(c.out))
	c.ensure(frameHeader + length)
	c.out = append(c.out, byte(length>>16), byte(length>>8), byte(length), byte(t), byte(flags),
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
	return at
}

// The frames that the reading goroutine puts out, too, are urgent: nobody else
// may come and write them.

func (c *conn) appendSettings(settings []wire.Setting) {
	c.appendHeader(6*len(settings), wire.FrameSettings, 0, 0)
	for _, s := range settings {
		c.out = binary.BigEndian.AppendUint16(c.out, uint16(s.ID))
		c.out = binary.BigEndian.AppendUint32(c.out, s.Val)
	}
	c.urgent = true
}

func (c *conn) appendSettingsAck() {
	c.appendHeader(0, wire.FrameSettings, wire.FlagSettingsAck, 0)
	c.urgent = true
}

func (c *conn) appendPing(ack bool, data [8]byte) {
	var flags wire.Flags
	if ack {
		flags = wire.FlagPingAck
	}
	c.appendHeader(8, wire.FramePing, flags, 0)
	c.out = append(c.out, data[:]...)
	c.urgent = true
}

func (c *conn) appendReset(id uint32, code Code) {
	c.appendHeader(4, wire.FrameRSTStream, 0, id)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(code))
	c.urgent = true
}

func (c *conn) appendWindowUpdate(id uint32, n int64) {
	c.appendHeader(4, wire.FrameWindowUpdate, 0, id)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(n))
	c.urgent = true
}

// maxDebug bounds the text in a GOAWAY.
const maxDebug = 256

// appendGoAway says that the connection ends. last is the highest stream that is
// acted on; it never grows (RFC 9113, section 6.8).
func (c *conn) appendGoAway(last uint32, code Code, reason string) {
	last = min(last, c.lastID)
	reason = reason[:min(len(reason), maxDebug)]
	c.appendHeader(8+len(reason), wire.FrameGoAway, 0, 0)
	c.out = binary.BigEndian.AppendUint32(c.out, last)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(code))
	c.out = append(c.out, reason...)
	c.urgent = true
}

// flush has the output written: at once, or, if a coroutine puts it out that must
// not wait, when who runs it has run all that there is to run. c.mu is held, but
// not while writing.
func (c *conn) flush(co *coroutine.Coroutine) {
	if co.Attached() {
		co.Batch().Later(c)
		return
	}
	c.flushLocked()
}

// FlushBatch implements coroutine.Flusher.
func (c *conn) FlushBatch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushOut(false)
}

// flushLocked writes the output unless somebody is writing, who will write it
// then. It waits for the network. c.mu is held, but not while writing.
func (c *conn) flushLocked() { c.flushOut(true) }

// flushOut writes the output. If wait is false, what the network does not take
// at once is left to a pooled goroutine.
func (c *conn) flushOut(wait bool) {
	if c.flushing || len(c.out) == 0 || c.err != nil {
		return
	}
	c.flushing = true
	c.writers.Add(1)
	if len(c.streams) > 1 && len(c.out) < highWater {
		// Others are about to add to the output: let them.
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	c.writeOut(flushRounds, wait)
}

// flusher writes the output of a connection on a pooled goroutine. Its maker
// has set flushing and added to writers.
type flusher conn

func (f *flusher) do() {
	c := (*conn)(f)
	c.mu.Lock()
	c.writeOut(flushRounds, true)
	c.mu.Unlock()
}

// writeOut writes until nothing is left to write, or for some rounds, or until
// it would have to wait, after which another goroutine goes on. c.mu is held,
// but not while writing.
func (c *conn) writeOut(rounds int, wait bool) {
	var err error
	for more := false; (more || len(c.out) > 0 || len(c.left) > 0) && err == nil; {
		if rounds == 0 || more && !wait {
			c.workers.run((*flusher)(c))
			return
		}
		rounds--
		more, err = c.writeOnce(wait)
	}
	c.mem.free(c.leftSlab)
	c.left, c.leftSlab = nil, nil
	c.flushing = false
	c.writers.Done()
	if err != nil {
		c.failLocked(c.lost(err))
		_ = c.nc.Close()
	}
	c.room.Broadcast()
	c.closeIfDrained()
}

// writeOnce writes once, and reports whether the network did not take all of
// it. c.mu is held, but not while writing.
func (c *conn) writeOnce(wait bool) (more bool, err error) {
	if len(c.left) == 0 {
		c.mem.free(c.leftSlab)
		c.left, c.leftSlab = c.out, c.outSlab
		c.base += int64(len(c.out))
		c.out, c.outSlab = nil, nil
		c.urgent = false
	}
	c.mu.Unlock()
	n, more, err := c.sink.write(c.left, wait)
	c.mu.Lock()
	c.left = c.left[n:]
	c.written += int64(n)
	c.flushes++
	c.room.Broadcast()
	return more, err
}

// makeRoom waits until there is less than most to write, or the connection has
// ended. co is what is to wait. c.mu is held, but not while waiting.
func (c *conn) makeRoom(co *coroutine.Coroutine, most int) {
	for len(c.out) >= most && c.err == nil {
		switch {
		case co.Attached():
			c.detach(co)
		case c.flushing:
			c.room.Wait()
		default:
			c.flushLocked()
		}
	}
}

// detach gives a coroutine that is about to wait a goroutine of its own. Only
// the coroutine itself may call it. c.mu is held, but not meanwhile.
func (c *conn) detach(co *coroutine.Coroutine) {
	if co.Attached() {
		c.mu.Unlock()
		co.Detach()
		c.mu.Lock()
	}
}
