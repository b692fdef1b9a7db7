package wire

import (
	"encoding/binary"
	"io"
	"net"

	"golang.org/x/net/http2/hpack"
)

// EchoH2 is a gRPC application that echoes every message of every call, of
// whatever method, as it arrives, and ends a call when its client does. It
// returns when the listener is closed.
func EchoH2(l net.Listener) {
	serve(l, func(conn net.Conn) {
		e := &echo{h2conn: newH2conn(conn, readSize, func(hpack.HeaderField) {}), streams: map[uint32]*echoStream{}}
		_ = e.run() // the client sees that its calls break off, and says so
	})
}

// echo is a connection of the application.
type echo struct {
	*h2conn
	streams map[uint32]*echoStream
	free    []*echoStream
}

type echoStream struct {
	window   int64
	pending  []byte
	received int64
	headed   bool // the header of the answer was sent
	ended    bool // the client has sent all
}

func (e *echo) run() error {
	e.settings()
	start := make([]byte, len(preface))
	if _, err := io.ReadFull(e.in, start); err != nil {
		return err
	}
	for {
		f, err := e.read()
		if err != nil {
			return err
		}
		if err := e.handle(f); err != nil {
			return err
		}
	}
}

func (e *echo) handle(f h2frame) error {
	grown, err := e.control(f)
	if err != nil {
		return err
	}
	if f.stream == 0 {
		if grown != 0 || f.kind == frameWindowUpdate {
			return e.grow(grown)
		}
		return nil
	}
	s := e.streams[f.stream]
	switch f.kind {
	case frameHeaders:
		if err := e.fields(f); err != nil {
			return err
		}
		if s == nil {
			s = e.begin(f.stream)
		}
	case frameData:
		if s != nil {
			if err := e.content(s, f); err != nil {
				return err
			}
		}
	case frameWindowUpdate:
		if s != nil {
			s.window += int64(binary.BigEndian.Uint32(f.payload) & (1<<31 - 1))
			return e.more(f.stream, s)
		}
	case frameReset:
		if s != nil {
			e.end(f.stream, s)
		}
		return nil
	}
	if s != nil && f.end() {
		s.ended = true
		return e.more(f.stream, s)
	}
	return nil
}

func (e *echo) begin(id uint32) *echoStream {
	var s *echoStream
	if n := len(e.free); n > 0 {
		s, e.free = e.free[n-1], e.free[:n-1]
	} else {
		s = &echoStream{}
	}
	*s = echoStream{window: e.peerWindow, pending: s.pending[:0]}
	e.streams[id] = s
	return s
}

func (e *echo) end(id uint32, s *echoStream) {
	delete(e.streams, id)
	e.free = append(e.free, s)
}

// grow sends what the windows let through now.
func (e *echo) grow(by int64) error {
	for id, s := range e.streams {
		s.window += by
		if err := e.more(id, s); err != nil {
			return err
		}
	}
	return nil
}

// content echoes the payload of a frame.
func (e *echo) content(s *echoStream, f h2frame) error {
	if s.received += f.size; s.received >= windowUpdate && !f.end() {
		e.update(f.stream, uint32(s.received)) //nolint:gosec // at most a frame more than windowUpdate
		s.received = 0
	}
	if !s.headed {
		s.headed = true
		if err := e.headers(f.stream, false, echoHeader()); err != nil {
			return err
		}
	}
	if len(s.pending) > 0 {
		s.pending = append(s.pending, f.payload...)
		return nil
	}
	if rest := e.data(f.stream, &s.window, f.payload, false); len(rest) > 0 {
		s.pending = append(s.pending[:0], rest...)
	}
	return nil
}

// more sends what waits, and the end when the client has ended and nothing does.
func (e *echo) more(id uint32, s *echoStream) error {
	if len(s.pending) > 0 {
		rest := e.data(id, &s.window, s.pending, false)
		s.pending = append(s.pending[:0], rest...)
	}
	if !s.ended || len(s.pending) > 0 {
		return nil
	}
	e.end(id, s)
	fields := echoTrailer()
	if !s.headed {
		fields = append(echoHeader(), fields...) // an answer without content
	}
	return e.headers(id, true, fields)
}

func echoHeader() []hpack.HeaderField {
	return []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}}
}

func echoTrailer() []hpack.HeaderField {
	return []hpack.HeaderField{{Name: "grpc-status", Value: "0"}}
}
