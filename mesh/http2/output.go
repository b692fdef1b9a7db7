package http2

import (
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// highWater is how much output may wait before those who add content or
	// heads have to wait.
	highWater = 64 << 10
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
	base     int64  // where out begins, in all that was ever put out
	written  int64  // how much of that the network has taken
	flushing bool   // somebody is writing
	urgent   bool   // the reading goroutine has put out something
	flushes  uint64 // writes so far
	room     sync.Cond
	writers  sync.WaitGroup
	enc      *hpack.Encoder // nil before the first field that it encodes
	resized  bool           // the size of its table has changed since it was used
	forgot   bool           // an earlier encoder was given up
	table    uint32         // the size of its table
	credit   atomic.Int64   // what the guard allows the peer for what was sent
	ended    atomic.Int64   // streams that ended well, for the guard
}

// encoder returns the HPACK encoder of the connection. c.mu is held.
func (c *conn) encoder() *hpack.Encoder {
	if c.enc == nil {
		c.enc = hpack.NewEncoder((*encoded)(c))
		if c.forgot {
			// The peer is to forget what it has, too: the size of the table
			// is 0 for a moment (RFC 7541, section 4.2).
			c.enc.SetMaxDynamicTableSize(0)
			c.enc.SetMaxDynamicTableSizeLimit(c.table)
			c.enc.SetMaxDynamicTableSize(c.table)
		}
	}
	return c.enc
}

// encoded is where the HPACK encoder writes: the output.
type encoded conn

func (e *encoded) Write(p []byte) (int, error) {
	(*conn)(e).append(p)
	return len(p), nil
}

// ensure makes room for n bytes in the output.
func (c *conn) ensure(n int) {
	if cap(c.out)-len(c.out) >= n {
		return
	}
	need := len(c.out) + n
	old, oldSlab := c.out, c.outSlab
	c.outSlab = nil
	for size, most := range slabSizes {
		if need <= most && size > slab2K {
			c.outSlab = c.mem.slab(size)
			c.out = append(c.outSlab.b[:0], old...)
			break
		}
	}
	if c.outSlab == nil {
		c.out = append(make([]byte, 0, 2*need), old...)
	}
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

// flushLocked writes the output unless somebody is writing, who will write it
// then. c.mu is held, but not while writing.
func (c *conn) flushLocked() {
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
	c.writeOut(flushRounds)
}

// flusher writes the output of a connection on a pooled goroutine. Its maker
// has set flushing and added to writers.
type flusher conn

func (f *flusher) do() {
	c := (*conn)(f)
	c.mu.Lock()
	c.writeOut(flushRounds)
	c.mu.Unlock()
}

// writeOut writes until nothing is left to write, or for some rounds, after
// which another goroutine goes on. c.mu is held, but not while writing.
func (c *conn) writeOut(rounds int) {
	var err error
	for len(c.out) > 0 && err == nil {
		if rounds == 0 {
			c.workers.run((*flusher)(c))
			return
		}
		rounds--
		err = c.writeOnce()
	}
	c.flushing = false
	c.writers.Done()
	if err != nil {
		c.failLocked(c.lost(err))
		_ = c.nc.Close()
	}
	c.room.Broadcast()
	c.closeIfDrained()
}

func (c *conn) writeOnce() error {
	buf, slab := c.out, c.outSlab
	c.base += int64(len(buf))
	c.out, c.outSlab = nil, nil
	c.urgent = false
	c.mu.Unlock()
	n, err := c.nc.Write(buf)
	c.mu.Lock()
	c.mem.free(slab)
	c.written += int64(n)
	c.flushes++
	c.room.Broadcast()
	return err
}

// makeRoom waits until there is less than highWater to write, or the connection
// has ended. c.mu is held, but not while waiting.
func (c *conn) makeRoom() {
	for len(c.out) >= highWater && c.err == nil {
		if c.flushing {
			c.room.Wait()
		} else {
			c.flushLocked()
		}
	}
}
