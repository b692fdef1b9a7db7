package wire

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/proa-io/proa/test/bench/load"
)

// GRPC is what a gRPC client asks, again and again.
type GRPC struct {
	Method   string // as "/service/method"
	Metadata map[string]string
	Message  []byte // encoded
	// MinAnswer is the least length of an answer's message.
	MinAnswer int
	// Streams is how many calls of one connection are under way.
	Streams int
	// InFlight is how many messages are under way on each stream of a run; the
	// other side echoes them, and what is measured is a message and its echo. With
	// 0 each stream is a unary call.
	InFlight int
	// ReadSize is the size of the buffer that frames are read with, which the
	// largest has to fit into; 64 KiB by default.
	ReadSize int
}

// prefixLen is the length of a gRPC message's prefix.
const prefixLen = 5

// H2 is a gRPC client on one connection.
type H2 struct {
	*h2conn
	fields  []hpack.HeaderField
	message []byte // with its prefix
	g       GRPC

	next    uint32
	streams map[uint32]*clientStream
	free    []*clientStream
	until   time.Time
	hist    *load.Histogram
	answer  answer // of the block that is read
}

var _ load.Worker = (*H2)(nil)

// clientStream is a call under way.
type clientStream struct {
	id       uint32
	window   int64
	pending  []byte // content that the windows do not let through yet
	got      int    // bytes of the message that is coming in
	received int64  // since the last WINDOW_UPDATE
	answered bool   // the header has arrived

	sent  []time.Time // when each message under way was sent: a ring
	first int
	count int
}

// answer is what the fields of a block say.
type answer struct{ status, grpcStatus, grpcMessage string }

// DialH2 connects to addr.
func DialH2(addr string, g GRPC) (*H2, error) {
	conn, err := dial(addr)
	if err != nil {
		return nil, err
	}
	c := &H2{next: 1, streams: map[uint32]*clientStream{}, g: g}
	c.h2conn = newH2conn(conn, cmp.Or(g.ReadSize, readSize), c.field)
	c.out = append(c.out, preface...)
	c.settings()
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", g.Method}, {":authority", addr},
		{"content-type", "application/grpc"}, {"user-agent", "bench"}, {"te", "trailers"},
	} {
		c.fields = append(c.fields, hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	for name, value := range g.Metadata {
		c.fields = append(c.fields, hpack.HeaderField{Name: name, Value: value})
	}
	c.message = binary.BigEndian.AppendUint32([]byte{0}, uint32(len(g.Message))) //nolint:gosec // some KiB
	c.message = append(c.message, g.Message...)
	return c, nil
}

// Close implements load.Worker.
func (c *H2) Close() error { return c.conn.Close() }

// Run implements load.Worker.
func (c *H2) Run(until time.Time, h *load.Histogram) error {
	if err := c.conn.SetDeadline(until.Add(Timeout)); err != nil {
		return err
	}
	c.until, c.hist = until, h
	for range max(1, c.g.Streams) {
		if err := c.open(time.Now()); err != nil {
			return err
		}
	}
	for len(c.streams) > 0 {
		f, err := c.read()
		if err != nil {
			return err
		}
		if err := c.handle(f); err != nil {
			return err
		}
	}
	return c.flush()
}

// Call makes one call and returns when it has ended.
func (c *H2) Call() error { return c.Run(time.Now(), &load.Histogram{}) }

// open begins a call.
func (c *H2) open(now time.Time) error {
	var s *clientStream
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
		*s = clientStream{sent: s.sent}
	} else {
		s = &clientStream{sent: make([]time.Time, max(1, c.g.InFlight))}
	}
	s.id, s.window = c.next, c.peerWindow
	if c.next += 2; c.next >= 1<<31 {
		return errors.New("the connection has used all its streams")
	}
	c.streams[s.id] = s
	if err := c.headers(s.id, false, c.fields); err != nil {
		return err
	}
	for range max(1, c.g.InFlight) {
		c.send(s, now)
	}
	return nil
}

// send sends a message.
func (c *H2) send(s *clientStream, now time.Time) {
	s.sent[(s.first+s.count)%len(s.sent)] = now
	s.count++
	if s.pending != nil { // behind what waits
		s.pending = append(s.pending[:len(s.pending):len(s.pending)], c.message...)
		return
	}
	s.pending = c.data(s.id, &s.window, c.message, c.g.InFlight == 0)
}

// more sends what a window lets through now.
func (c *H2) more(s *clientStream) {
	if len(s.pending) > 0 {
		s.pending = c.data(s.id, &s.window, s.pending, c.g.InFlight == 0)
	}
}

func (c *H2) handle(f h2frame) error {
	grown, err := c.control(f)
	if err != nil {
		return err
	}
	if f.kind == frameGoAway {
		return errors.New("the peer goes away in the middle of the run")
	}
	if f.stream == 0 {
		if grown != 0 || f.kind == frameWindowUpdate {
			for _, s := range c.streams {
				s.window += grown
				c.more(s)
			}
		}
		return nil
	}
	s := c.streams[f.stream]
	switch f.kind {
	case frameHeaders: // also those of streams that have ended: they fill the table
		err = c.header(s, f)
	case frameData:
		if s != nil {
			err = c.content(s, f)
		}
	case frameWindowUpdate:
		if s != nil {
			s.window += int64(binary.BigEndian.Uint32(f.payload) & (1<<31 - 1))
			c.more(s)
		}
	case frameReset:
		// What a server sends after a whole answer says that it wants no more.
		if s != nil {
			return fmt.Errorf("stream %d: reset with error %d", f.stream, binary.BigEndian.Uint32(f.payload))
		}
	}
	if err != nil || s == nil || !f.end() {
		return err
	}
	return c.ended(s)
}

// header takes in the header or the trailers of a call.
func (c *H2) header(s *clientStream, f h2frame) error {
	c.answer = answer{}
	if err := c.h2conn.fields(f); err != nil || s == nil {
		return err
	}
	if !s.answered {
		s.answered = true
		if c.answer.status != "200" {
			return fmt.Errorf("stream %d: status %q", f.stream, c.answer.status)
		}
	}
	if f.end() && c.answer.grpcStatus != "0" {
		return fmt.Errorf("stream %d: grpc-status %q, %s", f.stream, c.answer.grpcStatus, c.answer.grpcMessage)
	}
	return nil
}

// field takes in one field.
func (c *H2) field(f hpack.HeaderField) {
	switch f.Name {
	case ":status":
		c.answer.status = f.Value
	case "grpc-status":
		c.answer.grpcStatus = f.Value
	case "grpc-message":
		c.answer.grpcMessage = f.Value
	}
}

// content takes in content of a call.
func (c *H2) content(s *clientStream, f h2frame) error {
	if s.received += f.size; s.received >= windowUpdate {
		c.update(s.id, uint32(s.received)) //nolint:gosec // at most a frame more than windowUpdate
		s.received = 0
	}
	s.got += len(f.payload)
	if c.g.InFlight == 0 {
		if f.end() {
			return fmt.Errorf("stream %d: ends without trailers", s.id)
		}
		return nil
	}
	if s.got < len(c.message) {
		return nil
	}
	now := time.Now()
	for ; s.got >= len(c.message); s.got -= len(c.message) {
		if s.count == 0 {
			return fmt.Errorf("stream %d: more echoes than messages", s.id)
		}
		c.hist.Record(now.Sub(s.sent[s.first]))
		s.first = (s.first + 1) % len(s.sent)
		s.count--
		if now.Before(c.until) {
			c.send(s, now)
		}
	}
	if s.count == 0 {
		c.frame(frameData, flagEndStream, s.id, 0)
	}
	return nil
}

// ended takes in the end of a call, and begins the next one.
func (c *H2) ended(s *clientStream) error {
	delete(c.streams, s.id)
	c.free = append(c.free, s)
	if c.g.InFlight > 0 {
		if s.count > 0 || s.got > 0 {
			return fmt.Errorf("stream %d: ends with %d messages under way", s.id, s.count)
		}
		return nil
	}
	if s.got < prefixLen+c.g.MinAnswer {
		return fmt.Errorf("stream %d: an answer of %d bytes, want %d", s.id, s.got, prefixLen+c.g.MinAnswer)
	}
	if len(s.pending) > 0 {
		return fmt.Errorf("stream %d: answered before the request was sent", s.id)
	}
	now := time.Now()
	c.hist.Record(now.Sub(s.sent[0]))
	if now.Before(c.until) {
		return c.open(now)
	}
	return nil
}

// Begin begins a call, sends half of its message and, when reset is set, gives it
// up again with RST_STREAM. Only further calls of Begin, and Close, are to follow.
func (c *H2) Begin(reset bool) error {
	id := c.next
	c.next += 2
	if err := c.headers(id, false, c.fields); err != nil {
		return err
	}
	window := c.peerWindow
	c.data(id, &window, c.message[:len(c.message)/2], false)
	if reset {
		const cancel = 8
		c.frame(frameReset, 0, id, 4)
		c.out = binary.BigEndian.AppendUint32(c.out, cancel)
	}
	return c.flush()
}
