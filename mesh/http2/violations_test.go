package http2_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

const (
	protocolError = xhttp2.ErrCodeProtocol
	flowError     = xhttp2.ErrCodeFlowControl
	sizeError     = xhttp2.ErrCodeFrameSize
	closedError   = xhttp2.ErrCodeStreamClosed
	hpackError    = xhttp2.ErrCodeCompression
	refused       = xhttp2.ErrCodeRefusedStream
	calm          = xhttp2.ErrCodeEnhanceYourCalm
	canceled      = xhttp2.ErrCodeCancel
)

// violation is something that a peer must not do, and what it gets for it. An
// empty verdict means that it is not minded.
type violation struct {
	section string // of RFC 9113, when nothing else is said
	name    string
	send    func(r *raw)
	verdict string
}

// hold answers nothing until its request has ended or was reset, so that the
// stream stays open as long as the test wants.
func hold(x proxy.Exchange) {
	if b := x.Request().Body; b != nil {
		if _, err := io.Copy(io.Discard, b); err != nil {
			return
		}
	}
	_ = x.Respond(200, nil, 0)
}

// open opens stream id, with content to follow.
func open(r *raw, id uint32) { r.headers(id, false, postFields...) }

// done makes stream id a finished one.
func done(r *raw, id uint32) {
	r.headers(id, true, getFields...)
	if v := r.next(); v.kind != "response" {
		r.tb.Fatalf("a plain request got: %v", v)
	}
}

var huge = bytes.Repeat([]byte{0}, 1<<14+1)

var clientViolations = []violation{
	{"4.1", "an unknown type of frame is ignored", func(r *raw) { r.frame(0x42, 0xff, 0, []byte("whatever")) }, ""},
	{"4.1", "unknown flags are ignored", func(r *raw) { r.frame(xhttp2.FramePing, 0xf0, 0, make([]byte, 8)) }, ""},
	{"4.1", "the reserved bit is ignored", func(r *raw) {
		r.write([]byte{0, 0, 8, 6, 0, 0x80, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	}, ""},
	{"4.2", "a DATA frame too large", func(r *raw) { open(r, 1); r.frame(xhttp2.FrameData, 0, 1, huge) }, goaway(sizeError)},
	{"4.2", "a HEADERS frame too large", func(r *raw) { r.frame(xhttp2.FrameHeaders, 4, 1, huge) }, goaway(sizeError)},
	{"4.3", "a reference beyond the tables", func(r *raw) { r.frame(xhttp2.FrameHeaders, 5, 1, []byte{0xff, 0x80, 0x01}) }, goaway(hpackError)},
	{"4.3", "half a field", func(r *raw) { r.frame(xhttp2.FrameHeaders, 5, 1, []byte{0x40, 0x05, 'a'}) }, goaway(hpackError)},
	{"4.3", "broken Huffman code", func(r *raw) { r.frame(xhttp2.FrameHeaders, 5, 1, []byte{0x40, 0x81, 0x00, 0x81, 0x00}) }, goaway(hpackError)},
	{"RFC 7541 4.2", "a table size above the setting", func(r *raw) { r.frame(xhttp2.FrameHeaders, 5, 1, []byte{0x3f, 0xff, 0xff, 0x03}) }, goaway(hpackError)},
	{"4.3", "another frame inside a header block", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 1, 1, r.block(getFields...))
		r.frame(xhttp2.FramePing, 0, 0, make([]byte, 8))
	}, goaway(protocolError)},
	{"4.3", "HEADERS of another stream inside a header block", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 1, 1, r.block(getFields...))
		r.headers(3, true, getFields...)
	}, goaway(protocolError)},
	{"5.5", "an unknown frame inside a header block", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 1, 1, r.block(getFields...))
		r.frame(0x42, 0, 1, nil)
	}, goaway(protocolError)},

	{"5.1", "DATA on an idle stream", func(r *raw) { r.frame(xhttp2.FrameData, 0, 1, []byte("x")) }, goaway(protocolError)},
	{"5.1", "RST_STREAM on an idle stream", func(r *raw) { r.frame(xhttp2.FrameRSTStream, 0, 1, make([]byte, 4)) }, goaway(protocolError)},
	{"5.1", "WINDOW_UPDATE on an idle stream", func(r *raw) { r.do(r.fr.WriteWindowUpdate(1, 10)) }, goaway(protocolError)},
	{"5.1", "CONTINUATION on an idle stream", func(r *raw) { r.frame(xhttp2.FrameContinuation, 4, 1, nil) }, goaway(protocolError)},
	{"5.1", "DATA after END_STREAM", func(r *raw) {
		r.headers(1, false, with(postFields, "x-unread", "1")...)
		r.headers(1, true, "x-trailer", "1")
		r.frame(xhttp2.FrameData, 0, 1, []byte("x"))
	}, reset(1, closedError)},
	{"5.1", "DATA on a finished stream", func(r *raw) { done(r, 1); r.frame(xhttp2.FrameData, 1, 1, []byte("x")) }, reset(1, closedError)},
	{"5.1", "HEADERS on a finished stream", func(r *raw) { done(r, 1); r.headers(1, true, getFields...) }, goaway(closedError)},
	{"5.1", "CONTINUATION on a finished stream", func(r *raw) { done(r, 1); r.frame(xhttp2.FrameContinuation, 4, 1, nil) }, goaway(protocolError)},
	{"5.1", "WINDOW_UPDATE on a finished stream is ignored", func(r *raw) { done(r, 1); r.do(r.fr.WriteWindowUpdate(1, 10)) }, ""},
	{"5.1", "RST_STREAM on a finished stream is ignored", func(r *raw) { done(r, 1); r.do(r.fr.WriteRSTStream(1, canceled)) }, ""},
	{"5.1", "PRIORITY on a finished stream is ignored", func(r *raw) { done(r, 1); r.frame(xhttp2.FramePriority, 0, 1, make([]byte, 5)) }, ""},
	{"5.1", "PRIORITY on an idle stream is ignored", func(r *raw) { r.frame(xhttp2.FramePriority, 0, 7, make([]byte, 5)) }, ""},
	{"5.1", "DATA after RST_STREAM", func(r *raw) {
		open(r, 1)
		r.do(r.fr.WriteRSTStream(1, canceled))
		r.frame(xhttp2.FrameData, 0, 1, []byte("x"))
	}, reset(1, closedError)},
	{"5.1", "HEADERS after RST_STREAM", func(r *raw) {
		open(r, 1)
		r.do(r.fr.WriteRSTStream(1, canceled))
		r.headers(1, true, getFields...)
	}, reset(1, closedError)},
	{"5.1.1", "an even stream", func(r *raw) { r.headers(2, true, getFields...) }, goaway(protocolError)},
	{"5.1.1", "a stream below one that was opened", func(r *raw) { done(r, 5); r.headers(3, true, getFields...) }, goaway(protocolError)},
	{"5.1.2", "more streams than allowed", func(r *raw) {
		for id := uint32(1); id <= 9; id += 2 {
			open(r, id)
		}
	}, reset(9, refused)},

	{"6.1", "DATA without a stream", func(r *raw) { r.frame(xhttp2.FrameData, 0, 0, []byte("x")) }, goaway(protocolError)},
	{"6.1", "DATA padded beyond its end", func(r *raw) { open(r, 1); r.frame(xhttp2.FrameData, 8, 1, []byte{5, 'x'}) }, goaway(protocolError)},
	{"6.1", "DATA padded without a length", func(r *raw) { open(r, 1); r.frame(xhttp2.FrameData, 8, 1, nil) }, goaway(protocolError)},
	{"6.1", "padded DATA is good", func(r *raw) {
		open(r, 1)
		r.frame(xhttp2.FrameData, 9, 1, append([]byte{200, 'x'}, make([]byte, 200)...))
	}, response(1, "200")},
	{"6.2", "HEADERS without a stream", func(r *raw) { r.frame(xhttp2.FrameHeaders, 5, 0, r.block(getFields...)) }, goaway(protocolError)},
	{"6.2", "HEADERS padded beyond their end", func(r *raw) { r.frame(xhttp2.FrameHeaders, 5|8, 1, []byte{9, 0x82}) }, goaway(protocolError)},
	{"6.2", "HEADERS too short for their priority", func(r *raw) { r.frame(xhttp2.FrameHeaders, 5|0x20, 1, []byte{0, 0}) }, goaway(sizeError)},
	{"6.2", "padding and priority are good", func(r *raw) {
		p := append([]byte{3, 0, 0, 0, 0, 16}, r.block(getFields...)...)
		r.frame(xhttp2.FrameHeaders, 5|8|0x20, 1, append(p, 0, 0, 0))
	}, response(1, "200")},
	{"6.3", "PRIORITY without a stream", func(r *raw) { r.frame(xhttp2.FramePriority, 0, 0, make([]byte, 5)) }, goaway(protocolError)},
	{"6.3", "PRIORITY of a wrong length", func(r *raw) { r.frame(xhttp2.FramePriority, 0, 1, make([]byte, 4)) }, goaway(sizeError)},
	{"6.4", "RST_STREAM without a stream", func(r *raw) { r.frame(xhttp2.FrameRSTStream, 0, 0, make([]byte, 4)) }, goaway(protocolError)},
	{"6.4", "RST_STREAM of a wrong length", func(r *raw) { open(r, 1); r.frame(xhttp2.FrameRSTStream, 0, 1, make([]byte, 3)) }, goaway(sizeError)},
	{"6.5", "an acknowledgement with settings", func(r *raw) { r.frame(xhttp2.FrameSettings, 1, 0, make([]byte, 6)) }, goaway(sizeError)},
	{"6.5", "SETTINGS of a stream", func(r *raw) { r.frame(xhttp2.FrameSettings, 0, 1, nil) }, goaway(protocolError)},
	{"6.5", "half a setting", func(r *raw) { r.frame(xhttp2.FrameSettings, 0, 0, make([]byte, 5)) }, goaway(sizeError)},
	{"6.5.2", "ENABLE_PUSH that is not 0 or 1", func(r *raw) { r.setting(xhttp2.SettingEnablePush, 2) }, goaway(protocolError)},
	{"6.5.2", "a window above the maximum", func(r *raw) { r.setting(xhttp2.SettingInitialWindowSize, 1<<31) }, goaway(flowError)},
	{"6.5.2", "frames smaller than the minimum", func(r *raw) { r.setting(xhttp2.SettingMaxFrameSize, 1<<14-1) }, goaway(protocolError)},
	{"6.5.2", "frames larger than the maximum", func(r *raw) { r.setting(xhttp2.SettingMaxFrameSize, 1<<24) }, goaway(protocolError)},
	{"6.5.2", "an unknown setting is ignored", func(r *raw) { r.setting(0x99, 5) }, ""},
	{"RFC 8441 3", "ENABLE_CONNECT_PROTOCOL that is not 0 or 1", func(r *raw) { r.setting(8, 2) }, goaway(protocolError)},
	{"6.6", "a client pushes", func(r *raw) {
		r.frame(xhttp2.FramePushPromise, 4, 1, append([]byte{0, 0, 0, 2}, r.block(getFields...)...))
	}, goaway(protocolError)},
	{"6.7", "a PING acknowledgement that nobody waits for is ignored", func(r *raw) { r.do(r.fr.WritePing(true, [8]byte{1})) }, ""},
	{"6.7", "PING of a stream", func(r *raw) { r.frame(xhttp2.FramePing, 0, 1, make([]byte, 8)) }, goaway(protocolError)},
	{"6.7", "PING of a wrong length", func(r *raw) { r.frame(xhttp2.FramePing, 0, 0, make([]byte, 6)) }, goaway(sizeError)},
	{"6.8", "GOAWAY of a stream", func(r *raw) { r.frame(xhttp2.FrameGoAway, 0, 1, make([]byte, 8)) }, goaway(protocolError)},
	{"6.8", "GOAWAY too short", func(r *raw) { r.frame(xhttp2.FrameGoAway, 0, 0, make([]byte, 7)) }, goaway(sizeError)},
	{"6.8", "streams go on after the client's GOAWAY", func(r *raw) {
		open(r, 1)
		r.do(r.fr.WriteGoAway(0, xhttp2.ErrCodeNo, nil))
		r.frame(xhttp2.FrameData, 1, 1, nil)
	}, response(1, "200")},
	{"6.9", "WINDOW_UPDATE of nothing on the connection", func(r *raw) { r.do(r.fr.WriteWindowUpdate(0, 0)) }, goaway(protocolError)},
	{"6.9", "WINDOW_UPDATE of nothing on a stream", func(r *raw) { open(r, 1); r.do(r.fr.WriteWindowUpdate(1, 0)) }, reset(1, protocolError)},
	{"6.9", "WINDOW_UPDATE of a wrong length", func(r *raw) { r.frame(xhttp2.FrameWindowUpdate, 0, 0, make([]byte, 3)) }, goaway(sizeError)},
	{"6.9.1", "the window of the connection overflows", func(r *raw) { r.do(r.fr.WriteWindowUpdate(0, 1<<31-1)) }, goaway(flowError)},
	{"6.9.1", "the window of a stream overflows", func(r *raw) { open(r, 1); r.do(r.fr.WriteWindowUpdate(1, 1<<31-1)) }, reset(1, flowError)},
	{"6.9.2", "SETTINGS make the window of a stream overflow", func(r *raw) {
		open(r, 1)
		r.do(r.fr.WriteWindowUpdate(1, 1<<30))
		r.setting(xhttp2.SettingInitialWindowSize, 1<<31-1)
	}, goaway(flowError)},
	{"6.9", "more DATA than the window of the stream", func(r *raw) {
		r.headers(1, false, with(postFields, "x-unread", "1")...)
		for range 2 {
			r.frame(xhttp2.FrameData, 0, 1, huge[:1<<14])
		}
	}, reset(1, flowError)},
	{"6.9", "more DATA than the window of the connection", func(r *raw) {
		for id := uint32(1); id <= 7; id += 2 {
			r.headers(id, false, with(postFields, "x-unread", "1")...)
			for range 2 {
				r.frame(xhttp2.FrameData, 0, id, huge[:8<<10])
			}
		}
	}, goaway(flowError)},
	{"6.10", "CONTINUATION without a stream", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 1, 1, r.block(getFields...))
		r.frame(xhttp2.FrameContinuation, 4, 0, nil)
	}, goaway(protocolError)},
	{"6.10", "CONTINUATION after the end of the header block", func(r *raw) {
		open(r, 1)
		r.frame(xhttp2.FrameContinuation, 4, 1, nil)
	}, goaway(protocolError)},
	{"6.10", "CONTINUATION of another stream", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 1, 1, r.block(getFields...))
		r.frame(xhttp2.FrameContinuation, 4, 3, nil)
	}, goaway(protocolError)},
	{"6.10", "a header block in many parts is good", func(r *raw) {
		b := r.block(with(getFields, "x-long", strings.Repeat("v", 500))...)
		r.frame(xhttp2.FrameHeaders, 1, 1, b[:1])
		for _, c := range b[1:20] {
			r.frame(xhttp2.FrameContinuation, 0, 1, []byte{c})
		}
		r.frame(xhttp2.FrameContinuation, 4, 1, b[20:])
	}, response(1, "200")},

	{"8.1", "trailers that do not end the stream", func(r *raw) { open(r, 1); r.headers(1, false, "x-trailer", "1") }, reset(1, protocolError)},
	{"8.1", "trailers with a pseudo-header field", func(r *raw) { open(r, 1); r.headers(1, true, ":path", "/") }, reset(1, protocolError)},
	{"8.1", "trailers are good", func(r *raw) { open(r, 1); r.headers(1, true, "x-trailer", "1") }, response(1, "200")},
	{"8.1.1", "content longer than content-length", func(r *raw) {
		r.headers(1, false, with(postFields, "content-length", "3")...)
		r.frame(xhttp2.FrameData, 1, 1, []byte("four"))
	}, reset(1, protocolError)},
	{"8.1.1", "content shorter than content-length", func(r *raw) {
		r.headers(1, false, with(postFields, "content-length", "3")...)
		r.frame(xhttp2.FrameData, 0, 1, []byte("o"))
		r.frame(xhttp2.FrameData, 1, 1, []byte("k"))
	}, reset(1, protocolError)},
	{"8.1.1", "content-length without content", func(r *raw) { r.headers(1, true, with(postFields, "content-length", "3")...) }, reset(1, protocolError)},
	{"8.1.1", "two content-lengths", func(r *raw) {
		r.headers(1, false, with(postFields, "content-length", "3", "content-length", "4")...)
	}, reset(1, protocolError)},
	{"8.1.1", "a content-length that is no number", func(r *raw) { r.headers(1, false, with(postFields, "content-length", "+3")...) }, reset(1, protocolError)},
	{"8.2.1", "an upper-case name", func(r *raw) { r.headers(1, true, with(getFields, "X-Test", "1")...) }, reset(1, protocolError)},
	{"8.2.1", "an empty name", func(r *raw) { r.headers(1, true, with(getFields, "", "1")...) }, reset(1, protocolError)},
	{"8.2.1", "a name with a space", func(r *raw) { r.headers(1, true, with(getFields, "x test", "1")...) }, reset(1, protocolError)},
	{"8.2.1", "a name with a colon", func(r *raw) { r.headers(1, true, with(getFields, "x:test", "1")...) }, reset(1, protocolError)},
	{"8.2.1", "a value with a line break", func(r *raw) { r.headers(1, true, with(getFields, "x", "a\r\nb: c")...) }, reset(1, protocolError)},
	{"8.2.1", "a value with a NUL", func(r *raw) { r.headers(1, true, with(getFields, "x", "a\x00b")...) }, reset(1, protocolError)},
	{"8.2.1", "a value that ends in a space", func(r *raw) { r.headers(1, true, with(getFields, "x", "a ")...) }, reset(1, protocolError)},
	{"8.2.2", "a Connection field", func(r *raw) { r.headers(1, true, with(getFields, "connection", "close")...) }, reset(1, protocolError)},
	{"8.2.2", "a Transfer-Encoding field", func(r *raw) { r.headers(1, false, with(postFields, "transfer-encoding", "chunked")...) }, reset(1, protocolError)},
	{"8.2.2", "an Upgrade field", func(r *raw) { r.headers(1, true, with(getFields, "upgrade", "h2c")...) }, reset(1, protocolError)},
	{"8.2.2", "TE with another value than trailers", func(r *raw) { r.headers(1, true, with(getFields, "te", "trailers, gzip")...) }, reset(1, protocolError)},
	{"8.2.2", "TE: trailers is good", func(r *raw) { r.headers(1, true, with(getFields, "te", "trailers")...) }, response(1, "200")},
	{"8.3", "a pseudo-header field after a regular one", func(r *raw) {
		r.headers(1, true, ":method", "GET", ":scheme", "http", "x", "1", ":path", "/", ":authority", "a")
	}, reset(1, protocolError)},
	{"8.3", "an unknown pseudo-header field", func(r *raw) { r.headers(1, true, with(getFields[:6], ":test", "1")...) }, reset(1, protocolError)},
	{"8.3", "a pseudo-header field of responses", func(r *raw) { r.headers(1, true, with(getFields[:6], ":status", "200")...) }, reset(1, protocolError)},
	{"8.3", "a pseudo-header field twice", func(r *raw) { r.headers(1, true, with(getFields, ":path", "/")...) }, reset(1, protocolError)},
	{"8.3.1", "no :method", func(r *raw) { r.headers(1, true, getFields[2:]...) }, reset(1, protocolError)},
	{"8.3.1", "no :scheme", func(r *raw) { r.headers(1, true, ":method", "GET", ":path", "/", ":authority", "a") }, reset(1, protocolError)},
	{"8.3.1", "no :path", func(r *raw) { r.headers(1, true, ":method", "GET", ":scheme", "http", ":authority", "a") }, reset(1, protocolError)},
	{"8.3.1", "an empty :path", func(r *raw) { r.headers(1, true, ":method", "GET", ":scheme", "http", ":path", "") }, reset(1, protocolError)},
	{"8.3.1", "a :path that is no path", func(r *raw) { r.headers(1, true, ":method", "GET", ":scheme", "http", ":path", "http://a/") }, reset(1, protocolError)},
	{"8.3.1", "a :path with a space", func(r *raw) { r.headers(1, true, ":method", "GET", ":scheme", "http", ":path", "/a b") }, reset(1, protocolError)},
	{"8.3.1", "a :method that is no token", func(r *raw) { r.headers(1, true, ":method", "G T", ":scheme", "http", ":path", "/") }, reset(1, protocolError)},
	{"8.3.1", "an authority with user information", func(r *raw) { r.headers(1, true, with(getFields[:6], ":authority", "u@h")...) }, reset(1, protocolError)},
	{"8.3.1", "authority and host differ", func(r *raw) { r.headers(1, true, with(getFields, "host", "other")...) }, reset(1, protocolError)},
	{"8.3.1", "host instead of authority is good", func(r *raw) { r.headers(1, true, with(getFields[:6], "host", "test")...) }, response(1, "200")},
	{"8.3.1", "OPTIONS * is good", func(r *raw) {
		r.headers(1, true, ":method", "OPTIONS", ":scheme", "http", ":path", "*", ":authority", "a")
	}, response(1, "200")},
	{"8.5", "CONNECT with a path", func(r *raw) { r.headers(1, true, ":method", "CONNECT", ":path", "/", ":authority", "a:1") }, reset(1, protocolError)},
	{"8.5", "CONNECT without an authority", func(r *raw) { r.headers(1, true, ":method", "CONNECT") }, reset(1, protocolError)},
	{"RFC 8441 4", ":protocol without CONNECT", func(r *raw) { r.headers(1, true, with(getFields, ":protocol", "websocket")...) }, reset(1, protocolError)},
}

func (r *raw) setting(id xhttp2.SettingID, v uint32) {
	r.do(r.fr.WriteSettings(xhttp2.Setting{ID: id, Val: v}))
}

// unread is hold for requests that ask for their content not to be read.
func unread(x proxy.Exchange) {
	if x.Request().Header.Has("x-unread") {
		<-x.Context().Done()
		return
	}
	hold(x)
}

func TestAServerRefusesWhatDoesNotBeginAsHTTP2(t *testing.T) {
	leak.Check(t)
	addr := serve(t, &http2.Server{Handler: hold})
	for name, first := range badPrefaces {
		t.Run(name, func(t *testing.T) {
			r := rawDial(t, addr)
			r.write([]byte(first))
			if v := r.next(); v.String() != goaway(protocolError) {
				t.Errorf("got %v", v)
			}
			r.expectClosed()
		})
	}
}

// badPrefaces are connections that do not begin as they must.
var badPrefaces = map[string]string{
	"another preface":            "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
	"HTTP/1.1":                   "GET / HTTP/1.1\r\nHost: test\r\n\r\n",
	"a PING before SETTINGS":     xhttp2.ClientPreface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
	"an acknowledgement as such": xhttp2.ClientPreface + "\x00\x00\x00\x04\x01\x00\x00\x00\x00",
	"HEADERS before SETTINGS":    xhttp2.ClientPreface + "\x00\x00\x01\x01\x05\x00\x00\x00\x01\x82",
	"SETTINGS of a stream":       xhttp2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x01",
	"an unknown frame":           xhttp2.ClientPreface + "\x00\x00\x00\x42\x00\x00\x00\x00\x00",
}
