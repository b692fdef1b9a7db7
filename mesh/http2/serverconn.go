package http2

import (
	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/mesh/proxy"
)

// beginHeaders implements role. The fields of a new stream go where its request
// will have them.
func (s *Server) beginHeaders(c *conn, fh wire.FrameHeader) {
	var h proxy.Header
	c.mu.Lock()
	known := c.streams[fh.StreamID] != nil
	c.mu.Unlock()
	if !known && fh.StreamID > c.peerID {
		if c.pending == nil {
			c.pending = c.mem.stream()
		}
		h = c.pending.server.header
	}
	c.block.begin(fh.StreamID, fh.Flags.Has(wire.FlagHeadersEndStream), h)
}

// headers implements role.
func (s *Server) headers(c *conn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.block
	if st := c.streams[b.id]; st != nil {
		return st.receiveTrailers(b)
	}
	if b.id%2 == 0 {
		return connErrorf(codeProtocol, "the client opened stream %d, which is even", b.id)
	}
	if b.id <= c.peerID {
		return c.lateHeaders(b.id)
	}
	c.peerID = b.id
	if b.id > c.lastID || c.err != nil {
		return nil // after GOAWAY; the client knows
	}
	b.checkRequest()
	switch {
	case b.bad != "":
		return &streamError{b.id, codeProtocol, b.bad}
	case c.running >= c.cfg.MaxStreams:
		return &streamError{b.id, codeRefused, "too many streams are open"}
	}
	return s.open(c, b)
}

// lateHeaders judges HEADERS for a stream that is not there any more. c.mu is
// held.
func (c *conn) lateHeaders(id uint32) error {
	how, known := c.howClosed(id)
	switch {
	case id > c.lastID, known && how == closedReset:
		return c.guard.junk(c)
	case known && how == closedByPeer:
		return &streamError{id, codeClosed, "HEADERS came after RST_STREAM"}
	case known:
		return connErrorf(codeClosed, "HEADERS came for stream %d, which has ended", id)
	}
	return connErrorf(codeProtocol, "the client opened stream %d after a higher one", id)
}

// open makes a stream of the request in b. c.mu is held.
func (s *Server) open(c *conn, b *block) error {
	if b.end && b.length > 0 {
		return &streamError{b.id, codeProtocol, "there is no content, and content-length says otherwise"}
	}
	st := c.pending
	c.pending = nil
	st.c, st.id = c, b.id
	st.refs = 2 // the table and the exchange
	st.sendWin, st.recvWin, st.target = c.sendInit, c.recvInit, c.recvInit
	st.recvLeft, st.sendLeft, st.lastFrame = b.length, proxy.UnknownLength, -1
	st.server.header = b.header
	if b.method == "CONNECT" {
		st.recvLeft = proxy.UnknownLength // what follows is no content
	}
	if b.end {
		st.remoteEnd = true
		st.recvLeft = 0
	}
	c.enroll(st)
	if b.large {
		return c.answerTooLarge(st)
	}
	c.running++
	x := c.mem.exchange(c, st)
	st.server.x = x
	st.server.expect = b.expect && !b.end
	st.server.bodyLeft = c.cfg.MaxBodyBytes
	st.server.noContent = b.method == "HEAD"
	x.fill(b)
	c.ready = append(c.ready, st)
	return nil
}

// fill makes the request of an exchange.
func (x *exchange) fill(b *block) {
	st := x.st
	r := &st.server.req
	*r = proxy.Request{Header: b.header}
	b.fill(r)
	switch {
	case b.end:
		r.ContentLength = 0
	case b.method == "CONNECT":
		// What follows is no content, but belongs to who upgrades.
		r.ContentLength = 0
	default:
		r.Body = (*requestBody)(x)
		r.Trailer = &st.trailer
	}
}

// answerTooLarge answers a request whose head is larger than the bounds (RFC
// 6585, section 5). c.mu is held.
func (c *conn) answerTooLarge(st *stream) error {
	defer st.unref()
	if err := c.guard.junk(c); err != nil {
		return err
	}
	// The reading goroutine must not wait for room.
	if len(c.out) < highWater {
		if err := c.appendHead(st, 431, nil, 0, true); err != nil {
			return err
		}
		c.credit.Add(-creditPerFrame) // no reason for the client to send more
		c.urgent = true
	}
	if st.err == nil && !(st.localEnd && st.remoteEnd) {
		st.reset(codeNo, errOver)
	}
	return nil
}

// receiveTrailers takes in the second header block of a stream. c.mu is held.
func (st *stream) receiveTrailers(b *block) error {
	if st.remoteEnd {
		return &streamError{st.id, codeClosed, "HEADERS came after the end of the stream"}
	}
	b.checkTrailers()
	switch {
	case b.bad != "":
		return &streamError{st.id, codeProtocol, b.bad}
	case b.large:
		return &streamError{st.id, codeCalm, "the trailers are larger than allowed"}
	}
	st.trailer = append(st.trailer[:0], b.header...)
	return st.endRemote()
}
