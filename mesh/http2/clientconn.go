package http2

import (
	"encoding/binary"
	"math"

	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// beginHeaders implements role.
func (cl *Client) beginHeaders(c *conn, fh wire.FrameHeader) {
	clear(c.block.scratch)
	c.block.begin(fh.StreamID, fh.Flags.Has(wire.FlagHeadersEndStream), c.block.scratch[:0])
}

// headers implements role.
func (cl *Client) headers(c *conn) error {
	b := c.block
	if cap(b.header) <= maxReused {
		b.scratch = b.header
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[b.id]
	if st == nil {
		if c.isIdle(b.id) {
			return connErrorf(codeProtocol, "HEADERS came for stream %d, which nobody has opened", b.id)
		}
		return c.guard.junk(c)
	}
	if st.gotHead {
		return st.receiveTrailers(b)
	}
	if st.remoteEnd {
		return &streamError{st.id, codeClosed, "HEADERS came after the end of the stream"}
	}
	b.checkResponse()
	switch {
	case b.bad != "":
		return &streamError{st.id, codeProtocol, b.bad}
	case b.large:
		return &streamError{st.id, codeCalm, "the head of the response is larger than allowed"}
	case b.status < 200:
		return st.receiveInterim(b)
	}
	return st.receiveHead(b)
}

// maxInterims bounds the interim responses of a stream that nobody has taken.
const maxInterims = 16

func (st *stream) receiveInterim(b *block) error {
	if len(st.client.interims) == maxInterims {
		return &streamError{st.id, codeCalm, "too many interim responses"}
	}
	if err := st.c.guard.junk(st.c); err != nil {
		return err
	}
	st.client.interims = append(st.client.interims, interim{b.status, cloneHeader(b.header)})
	st.wakeReaderLater()
	return nil
}

func (st *stream) receiveHead(b *block) error {
	st.gotHead = true
	r := st.client.res
	r.Status = b.status
	r.header = append(r.header[:0], b.header...)
	r.Header = r.header
	r.ContentLength = b.length
	st.recvLeft = b.length
	switch {
	case st.client.head, b.status == 204, b.status == 304:
		st.recvLeft = 0
	case st.client.connect && b.status < 300:
		st.recvLeft = proxy.UnknownLength // what follows is no content (RFC 9110, section 9.3.6)
	}
	if b.end {
		if st.recvLeft > 0 {
			return &streamError{st.id, codeProtocol, "there is no content, and content-length says otherwise"}
		}
		st.remoteEnd = true
		if !st.client.head && b.status != 304 {
			r.ContentLength = 0
		}
		st.settle()
	}
	st.wakeReaderLater()
	return nil
}

// cloneHeader copies a Header out of memory that is used again.
func cloneHeader(h proxy.Header) proxy.Header {
	if len(h) == 0 {
		return nil
	}
	return append(make(proxy.Header, 0, len(h)+spareFields), h...)
}

// spareFields is room for what a forwarder adds.
const spareFields = 2

// goAway implements role.
func (cl *Client) goAway(c *conn) { cl.drop(c) }

// freed implements role.
func (cl *Client) freed(c *conn, n int64) {
	c.slots.Add(n)
	if n > 0 && cl.waiting.Load() > 0 {
		cl.wake(n)
	}
}

// date implements role; clients send no dates.
func (cl *Client) date() string { return "" }

// onGoAway takes in that the peer takes no new streams, and that it has not
// acted on those above a number.
func (c *conn) onGoAway(fh wire.FrameHeader, p []byte) error {
	switch {
	case fh.StreamID != 0:
		return connErrorf(codeProtocol, "a GOAWAY frame has a stream")
	case len(p) < 8:
		return connErrorf(codeFrameSize, "a GOAWAY frame has %d bytes, fewer than 8", len(p))
	}
	last := binary.BigEndian.Uint32(p) & math.MaxInt32
	code := Code(binary.BigEndian.Uint32(p[4:]))
	debug := p[8:]
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.client {
		return nil // it opens no more streams; those there are go on
	}
	c.goneAway = &ResetError{Code: code, ByPeer: true, Reason: string(debug[:min(len(debug), maxDebug)])}
	for id, st := range c.streams {
		if id > last {
			st.client.unsent = true
			st.kill(c.fault(fault.Unavailable, c.goneAway,
				"the server closes the connection and has not acted on stream %d", id), closedByPeer)
		}
	}
	if c.drain < drainNow {
		c.finishDrain()
	}
	return nil
}
