package http2

import (
	"encoding/binary"
	"math"

	wire "golang.org/x/net/http2"
)

// nextFrame waits for the next frame and reads its header. It checks the length
// against SETTINGS_MAX_FRAME_SIZE, and the place among HEADERS and
// CONTINUATIONs.
func (c *conn) nextFrame() (fh wire.FrameHeader, err error) {
	midst := c.block != nil && c.block.open
	c.in.inside = midst
	p, err := c.in.next(frameHeader)
	c.in.inside = true
	if err != nil {
		return fh, err
	}
	fh = wire.FrameHeader{
		Length: uint32(p[0])<<16 | uint32(p[1])<<8 | uint32(p[2]), Type: wire.FrameType(p[3]), Flags: wire.Flags(p[4]),
		StreamID: binary.BigEndian.Uint32(p[5:]) & math.MaxInt32,
	}
	switch {
	case fh.Length > minFrame && string(p) == "HTTP/1.1 ":
		err = connErrorf(codeProtocol, "the peer speaks HTTP/1.1, not HTTP/2")
	case fh.Length > minFrame:
		err = connErrorf(codeFrameSize, "a frame of %d bytes is larger than SETTINGS_MAX_FRAME_SIZE", fh.Length)
	case midst && (fh.Type != wire.FrameContinuation || fh.StreamID != c.block.id):
		err = connErrorf(codeProtocol, "a %s frame of stream %d came within the header block of stream %d", fh.Type, fh.StreamID, c.block.id)
	case !midst && fh.Type == wire.FrameContinuation:
		err = connErrorf(codeProtocol, "a CONTINUATION frame continues no header block")
	}
	return fh, err
}

// frame takes in the frame whose header was read.
func (c *conn) frame(fh wire.FrameHeader) error {
	if !c.gotPeer && (fh.Type != wire.FrameSettings || fh.Flags.Has(wire.FlagSettingsAck)) {
		return connErrorf(codeProtocol, "the first frame is %s, not SETTINGS", fh.Type)
	}
	switch fh.Type {
	case wire.FrameData:
		return c.onData(fh)
	case wire.FrameHeaders:
		return c.onHeaders(fh)
	case wire.FrameContinuation:
		return c.onContinuation(fh)
	case wire.FrameWindowUpdate:
		return c.onWindowUpdate(fh)
	case wire.FrameRSTStream:
		return c.onReset(fh)
	case wire.FramePriority, wire.FrameSettings, wire.FramePushPromise, wire.FramePing, wire.FrameGoAway:
		if err := c.guard.junk(c); err != nil {
			return err
		}
		p, err := c.in.next(int(fh.Length))
		if err != nil {
			return err
		}
		return c.rareFrame(fh, p)
	}
	// Unknown types are ignored (RFC 9113, section 5.5).
	if err := c.guard.junk(c); err != nil {
		return err
	}
	return c.in.discard(int(fh.Length))
}

func (c *conn) rareFrame(fh wire.FrameHeader, p []byte) error {
	switch fh.Type {
	case wire.FrameSettings:
		return c.onSettings(fh, p)
	case wire.FramePing:
		return c.onPing(fh, p)
	case wire.FrameGoAway:
		return c.onGoAway(fh, p)
	case wire.FramePushPromise:
		return connErrorf(codeProtocol, "a PUSH_PROMISE came, and push is not enabled")
	}
	// PRIORITY means nothing any more (RFC 9113, section 5.3.2).
	switch {
	case fh.StreamID == 0:
		return connErrorf(codeProtocol, "a PRIORITY frame has no stream")
	case len(p) != 5:
		return connErrorf(codeFrameSize, "a PRIORITY frame has %d bytes, not 5", len(p))
	}
	return nil
}

// unpad strips the padding of a DATA or HEADERS frame.
func unpad(fh wire.FrameHeader, p []byte) ([]byte, error) {
	if !fh.Flags.Has(wire.FlagDataPadded) {
		return p, nil
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, connErrorf(codeProtocol, "the padding of a %s frame is longer than the frame", fh.Type)
	}
	return p[1 : len(p)-int(p[0])], nil
}

func (c *conn) onHeaders(fh wire.FrameHeader) error {
	if fh.StreamID == 0 {
		return connErrorf(codeProtocol, "a HEADERS frame has no stream")
	}
	p, err := c.in.next(int(fh.Length))
	if err != nil {
		return err
	}
	if p, err = unpad(fh, p); err != nil {
		return err
	}
	if fh.Flags.Has(wire.FlagHeadersPriority) {
		if len(p) < 5 {
			return connErrorf(codeFrameSize, "a HEADERS frame is too short for its priority")
		}
		p = p[5:]
	}
	c.ensureBlock()
	c.role.beginHeaders(c, fh)
	return c.fragment(p, fh.Flags.Has(wire.FlagHeadersEndHeaders))
}

func (c *conn) onContinuation(fh wire.FrameHeader) error {
	p, err := c.in.next(int(fh.Length))
	if err != nil {
		return err
	}
	return c.fragment(p, fh.Flags.Has(wire.FlagContinuationEndHeaders))
}

// fragment takes in a part of a header block.
func (c *conn) fragment(p []byte, last bool) error {
	if err := c.block.add(p); err != nil || !last {
		return err
	}
	if err := c.block.finish(); err != nil {
		return err
	}
	return c.role.headers(c)
}

func (c *conn) onData(fh wire.FrameHeader) error {
	if fh.StreamID == 0 {
		return connErrorf(codeProtocol, "a DATA frame has no stream")
	}
	p, err := c.in.next(int(fh.Length))
	if err != nil {
		return err
	}
	if p, err = unpad(fh, p); err != nil {
		return err
	}
	end := fh.Flags.Has(wire.FlagDataEndStream)
	if len(p) == 0 && !end {
		if err := c.guard.junk(c); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := int64(fh.Length)
	if n > c.recvWin {
		return connErrorf(codeFlow, "more was sent than the window of the connection allows")
	}
	c.recvWin -= n
	st := c.streams[fh.StreamID]
	if st == nil {
		c.refundConn()
		return c.onClosed(fh)
	}
	if err := st.receive(p, n, end); err != nil {
		c.refundConn()
		return err
	}
	c.refundConn()
	return nil
}

// receive takes in the content p of a DATA frame that counts n bytes for flow
// control. c.mu is held.
func (st *stream) receive(p []byte, n int64, end bool) error {
	switch {
	case st.remoteEnd:
		return &streamError{st.id, codeClosed, "DATA came after the end of the stream"}
	case n > st.recvWin:
		return &streamError{st.id, codeFlow, "more was sent than the window of the stream allows"}
	case st.c.client && !st.gotHead:
		return &streamError{st.id, codeProtocol, "DATA came before the head of the response"}
	}
	st.recvWin -= n
	if st.recvLeft >= 0 {
		if int64(len(p)) > st.recvLeft {
			return &streamError{st.id, codeProtocol, "the content is longer than content-length says"}
		}
		st.recvLeft -= int64(len(p))
	}
	if !st.discard && len(p) > 0 {
		st.content.add(st.c.mem, p)
		st.c.buffered += int64(len(p))
	}
	if end {
		return st.endRemote()
	}
	if st.content.n == 0 {
		st.c.refund(st)
	}
	if len(p) > 0 {
		st.wakeReaderLater()
	}
	return nil
}

// endRemote notes that the peer has ended its side. c.mu is held.
func (st *stream) endRemote() error {
	if st.recvLeft > 0 {
		return &streamError{st.id, codeProtocol, "the content is shorter than content-length says"}
	}
	st.remoteEnd = true
	st.wakeReaderLater()
	st.settle()
	return nil
}

// onClosed acts on a frame for a stream that is not in the table. c.mu is held.
func (c *conn) onClosed(fh wire.FrameHeader) error {
	if c.isIdle(fh.StreamID) {
		return connErrorf(codeProtocol, "a %s frame came for stream %d, which nobody has opened", fh.Type, fh.StreamID)
	}
	if c.ignored(fh.StreamID) {
		return c.guard.junk(c)
	}
	return &streamError{fh.StreamID, codeClosed, "a frame came for a stream that has ended"}
}

// ignored reports whether frames for the stream, which has ended, may still be
// on their way because we reset it, or refused it after a GOAWAY.
func (c *conn) ignored(id uint32) bool {
	how, known := c.howClosed(id)
	return known && how == closedReset || !c.client && id > c.lastID
}

// isIdle reports whether nobody has opened the stream yet.
func (c *conn) isIdle(id uint32) bool {
	if c.client {
		return id%2 == 0 || id >= c.nextID
	}
	return id%2 == 0 || id > c.peerID
}

func (c *conn) onWindowUpdate(fh wire.FrameHeader) error {
	if fh.Length != 4 {
		return connErrorf(codeFrameSize, "a WINDOW_UPDATE frame has %d bytes, not 4", fh.Length)
	}
	p, err := c.in.next(4)
	if err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(p) & math.MaxInt32)
	if err := c.guard.window(c, n); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if fh.StreamID == 0 {
		switch {
		case n == 0:
			return connErrorf(codeProtocol, "a WINDOW_UPDATE of the connection adds nothing")
		case c.sendWin+n > maxWindow:
			return connErrorf(codeFlow, "a WINDOW_UPDATE makes the window of the connection too large")
		}
		c.sendWin += n
		c.nextTurn()
		return nil
	}
	st := c.streams[fh.StreamID]
	if st == nil {
		if c.isIdle(fh.StreamID) {
			return connErrorf(codeProtocol, "a WINDOW_UPDATE came for stream %d, which nobody has opened", fh.StreamID)
		}
		return nil
	}
	switch {
	case n == 0:
		return &streamError{st.id, codeProtocol, "a WINDOW_UPDATE adds nothing"}
	case st.sendWin+n > maxWindow:
		return &streamError{st.id, codeFlow, "a WINDOW_UPDATE makes the window of the stream too large"}
	}
	st.sendWin += n
	if st.sendWin > 0 && !st.queued {
		st.wakeWriter()
	}
	return nil
}

func (c *conn) onReset(fh wire.FrameHeader) error {
	switch {
	case fh.StreamID == 0:
		return connErrorf(codeProtocol, "a RST_STREAM frame has no stream")
	case fh.Length != 4:
		return connErrorf(codeFrameSize, "a RST_STREAM frame has %d bytes, not 4", fh.Length)
	}
	p, err := c.in.next(4)
	if err != nil {
		return err
	}
	code := Code(binary.BigEndian.Uint32(p))
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[fh.StreamID]
	if st == nil {
		if c.isIdle(fh.StreamID) {
			return connErrorf(codeProtocol, "a RST_STREAM came for stream %d, which nobody has opened", fh.StreamID)
		}
		return c.guard.junk(c)
	}
	if !c.client && !st.headSent {
		if err := c.guard.reset(c); err != nil {
			return err
		}
	}
	st.resetByPeer(code)
	return nil
}

// resetByPeer ends the stream as the peer has. c.mu is held.
func (st *stream) resetByPeer(code Code) {
	if st.c.client && st.remoteEnd {
		// The response is complete; the server does not want the rest of the
		// request (RFC 9113, section 8.1).
		st.localEnd = true
		st.wakeWriter()
		st.settle()
		return
	}
	st.client.unsent = code == codeRefused
	st.kill(st.resetFault(code, true, ""), closedByPeer)
}

// rejectStream resets the stream of an error that the peer has made.
func (c *conn) rejectStream(se *streamError) error {
	if err := c.guard.junk(c); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[se.id]
	if st == nil {
		c.appendReset(se.id, se.code)
		c.noteClosed(se.id, closedReset)
		return c.checkOutput()
	}
	if !c.client && !st.headSent {
		// That the peer has provoked the reset makes it no cheaper.
		if err := c.guard.reset(c); err != nil {
			return err
		}
	}
	st.reset(se.code, st.resetFault(se.code, false, se.reason))
	return c.checkOutput()
}

// checkOutput gives up a peer that causes output without reading it. c.mu is
// held.
func (c *conn) checkOutput() error {
	if len(c.out) > maxOutput {
		return connErrorf(codeCalm, "the peer causes output that it does not read")
	}
	return nil
}

func (c *conn) onPing(fh wire.FrameHeader, p []byte) error {
	switch {
	case len(p) != 8:
		return connErrorf(codeFrameSize, "a PING frame has %d bytes, not 8", len(p))
	case fh.StreamID != 0:
		return connErrorf(codeProtocol, "a PING frame has a stream")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if fh.Flags.Has(wire.FlagPingAck) {
		c.pong([8]byte(p))
		return nil
	}
	c.appendPing(true, [8]byte(p))
	return c.checkOutput()
}
