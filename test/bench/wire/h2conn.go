package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/net/http2/hpack"
)

// Frame types, flags and settings of RFC 9113, sections 6 and 7.
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameWindowUpdate = 8
	frameContinuation = 9

	flagEndStream  = 1
	flagAck        = 1
	flagEndHeaders = 4
	flagPadded     = 8
	flagPriority   = 0x20

	settingTableSize = 1
	settingStreams   = 3
	settingWindow    = 4

	headerLen    = 9
	maxFrame     = 16 << 10
	firstWindow  = 65535
	ourWindow    = 1 << 30 // what we let the peer send, per stream and connection
	windowUpdate = ourWindow / 4
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// h2conn is one end of an HTTP/2 connection, with one goroutine, which reads
// frames and writes what they make it write when there is nothing left to read.
//
// That it does not read while it writes is no danger as long as both ends
// together have less under way than the buffers of a loopback socket hold.
type h2conn struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte

	enc     *hpack.Encoder
	encoded bytes.Buffer
	dec     *hpack.Decoder

	window     int64 // what we may send on the connection
	peerWindow int64 // what a new stream may send
	received   int64 // since the connection's last WINDOW_UPDATE
	maxStreams uint32
	sized      bool // the peer has sent its settings
}

// h2frame is a frame; its payload is valid until the next is read.
type h2frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte
	size        int64 // with the padding, for flow control
}

func (f *h2frame) end() bool {
	return f.flags&flagEndStream != 0 && (f.kind == frameData || f.kind == frameHeaders)
}

// newH2conn makes a connection whose first output are our settings. emit gets
// the fields of the peer's headers.
func newH2conn(conn net.Conn, size int, emit func(hpack.HeaderField)) *h2conn {
	c := &h2conn{conn: conn, in: bufio.NewReaderSize(conn, size), window: firstWindow, peerWindow: firstWindow, maxStreams: 1 << 30}
	c.enc = hpack.NewEncoder(&c.encoded)
	c.dec = hpack.NewDecoder(4096, emit)
	return c
}

func (c *h2conn) settings() {
	payload := binary.BigEndian.AppendUint16(nil, settingStreams)
	payload = binary.BigEndian.AppendUint32(payload, 1<<20)
	payload = binary.BigEndian.AppendUint16(payload, settingWindow)
	payload = binary.BigEndian.AppendUint32(payload, ourWindow)
	c.frame(frameSettings, 0, 0, len(payload))
	c.out = append(c.out, payload...)
	c.update(0, ourWindow-firstWindow)
}

// frame appends the header of a frame.
func (c *h2conn) frame(kind, flags byte, stream uint32, length int) {
	c.out = append(c.out, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	c.out = binary.BigEndian.AppendUint32(c.out, stream)
}

func (c *h2conn) update(stream, by uint32) {
	c.frame(frameWindowUpdate, 0, stream, 4)
	c.out = binary.BigEndian.AppendUint32(c.out, by)
}

// headers appends a block of fields.
func (c *h2conn) headers(stream uint32, end bool, fields []hpack.HeaderField) error {
	c.encoded.Reset()
	for _, f := range fields {
		if err := c.enc.WriteField(f); err != nil {
			return err
		}
	}
	if c.encoded.Len() > maxFrame {
		return fmt.Errorf("%d bytes of fields are more than one frame holds", c.encoded.Len())
	}
	flags := byte(flagEndHeaders)
	if end {
		flags |= flagEndStream
	}
	c.frame(frameHeaders, flags, stream, c.encoded.Len())
	c.out = append(c.out, c.encoded.Bytes()...)
	return nil
}

// data appends as much of content as the windows let through, in frames, and
// returns the rest. The last frame ends the stream when end is set and nothing
// is left.
func (c *h2conn) data(stream uint32, window *int64, content []byte, end bool) []byte {
	for len(content) > 0 {
		n := min(int64(len(content)), maxFrame, c.window, *window)
		if n <= 0 {
			return content
		}
		flags := byte(0)
		if end && n == int64(len(content)) {
			flags = flagEndStream
		}
		c.frame(frameData, flags, stream, int(n))
		c.out = append(c.out, content[:n]...)
		content = content[n:]
		c.window -= n
		*window -= n
	}
	return nil
}

// flush writes what was appended.
func (c *h2conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.conn.Write(c.out)
	c.out = c.out[:0]
	return err
}

// read returns the next frame. Before it waits for one it flushes.
func (c *h2conn) read() (h2frame, error) {
	if c.in.Buffered() < headerLen {
		if err := c.flush(); err != nil {
			return h2frame{}, err
		}
	}
	head, err := c.in.Peek(headerLen)
	if err != nil {
		return h2frame{}, err
	}
	length := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	f := h2frame{kind: head[3], flags: head[4], stream: binary.BigEndian.Uint32(head[5:]) & (1<<31 - 1), size: int64(length)}
	if length > maxFrame {
		return f, fmt.Errorf("a frame of %d bytes", length)
	}
	if c.in.Buffered() < headerLen+length {
		if err := c.flush(); err != nil {
			return f, err
		}
	}
	all, err := c.in.Peek(headerLen + length)
	if err != nil {
		return f, err
	}
	f.payload = all[headerLen:]
	_, _ = c.in.Discard(len(all)) // it is in the buffer; the slice stays until the next read
	return f, c.strip(&f)
}

// strip takes padding and priority away.
func (c *h2conn) strip(f *h2frame) error {
	if f.kind != frameData && f.kind != frameHeaders {
		return nil
	}
	pad := 0
	if f.flags&flagPadded != 0 && len(f.payload) > 0 {
		pad, f.payload = int(f.payload[0]), f.payload[1:]
	}
	if f.kind == frameHeaders && f.flags&flagPriority != 0 && len(f.payload) >= 5 {
		f.payload = f.payload[5:]
	}
	if pad > len(f.payload) {
		return fmt.Errorf("%d bytes of padding in a frame of %d", pad, f.size)
	}
	f.payload = f.payload[:len(f.payload)-pad]
	return nil
}

// fields decodes the fields of a frame with headers.
func (c *h2conn) fields(f h2frame) error {
	if f.flags&flagEndHeaders == 0 {
		return fmt.Errorf("stream %d: fields in more than one frame", f.stream)
	}
	if _, err := c.dec.Write(f.payload); err != nil {
		return err
	}
	return c.dec.Close()
}

// control handles what belongs to the connection. It returns by how much the
// windows of all streams grew, which is not 0 when a peer changes its settings.
func (c *h2conn) control(f h2frame) (grown int64, err error) {
	switch f.kind {
	case frameSettings:
		if f.flags&flagAck == 0 {
			grown = c.apply(f.payload)
			c.frame(frameSettings, flagAck, 0, 0)
			c.sized = true
		}
	case framePing:
		if f.flags&flagAck == 0 {
			c.frame(framePing, flagAck, 0, len(f.payload))
			c.out = append(c.out, f.payload...)
		}
	case frameWindowUpdate:
		if f.stream == 0 {
			c.window += int64(binary.BigEndian.Uint32(f.payload) & (1<<31 - 1))
		}
	case frameData:
		if c.received += f.size; c.received >= windowUpdate {
			c.update(0, uint32(c.received)) //nolint:gosec // at most a frame more than windowUpdate
			c.received = 0
		}
	case frameGoAway:
		if len(f.payload) >= 8 {
			if code := binary.BigEndian.Uint32(f.payload[4:]); code != 0 {
				return 0, fmt.Errorf("the peer goes away: error %d, %q", code, f.payload[8:])
			}
		}
	case frameContinuation:
		return 0, fmt.Errorf("stream %d: fields in more than one frame", f.stream)
	}
	return grown, nil
}

// apply takes over the peer's settings.
func (c *h2conn) apply(payload []byte) (grown int64) {
	for ; len(payload) >= 6; payload = payload[6:] {
		value := binary.BigEndian.Uint32(payload[2:])
		switch binary.BigEndian.Uint16(payload) {
		case settingTableSize:
			c.enc.SetMaxDynamicTableSizeLimit(value)
		case settingStreams:
			c.maxStreams = value
		case settingWindow:
			grown += int64(value) - c.peerWindow
			c.peerWindow = int64(value)
		}
	}
	return grown
}
