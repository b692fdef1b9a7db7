package http2_test

import (
	"bytes"
	"crypto/tls"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
)

// Conformance is tested by tables of what a peer sends and what it gets for it:
//
//	clientViolations   what a client must not do, and its neighbours that are good
//	clientGoodConduct  what a client may do and must get an answer to
//	hpackCases         the header compression of clients (RFC 7541)
//	prefaces           how connections begin
//	serverViolations   what a server must not do, and its neighbours
//	serverGoodConduct  what a server may do
//
// Each case names the section that it is about: of RFC 9113, when nothing else
// is said. What flow control has to do with time and order is in
// flowcontrol_test.go. What is covered, with the number of cases:
//
//	RFC 9113                                     RFC 7541
//	3.4   connection preface                     2.3.3  index address space
//	4.1   frame format                           4.2    maximum table size
//	4.2   frame size                             5.1    integers
//	4.3   field section compression              5.2    strings and Huffman code
//	5.1   stream states                          6.1    indexed fields
//	5.1.1 stream identifiers                     6.2    literals, of all kinds
//	5.1.2 concurrency                            6.3    table size updates
//	5.3   priority
//	5.4   error handling                         RFC 8441
//	5.5   extensions                             3, 4   extended CONNECT
//	6.1 to 6.10  the frames
//	7     error codes
//	8.1 to 8.6   messages, fields, CONNECT, push
//
// TestEverySectionHasCases holds the list to the tables.
var coveredSections = []string{
	"3.4", "4.1", "4.2", "4.3", "5.1", "5.1.1", "5.1.2", "5.3.1", "5.3.2", "5.4.1", "5.4.2", "5.5",
	"6.1", "6.2", "6.3", "6.4", "6.5", "6.5.2", "6.5.3", "6.6", "6.7", "6.8", "6.9", "6.9.1", "6.9.2", "6.10",
	"7", "8.1", "8.1.1", "8.2", "8.2.1", "8.2.2", "8.2.3", "8.3", "8.3.1", "8.3.2", "8.4", "8.5", "8.6",
	"RFC 7541 2.3.3", "RFC 7541 4.2", "RFC 7541 5.1", "RFC 7541 5.2", "RFC 7541 6.1", "RFC 7541 6.2.1",
	"RFC 7541 6.2.2", "RFC 7541 6.2.3", "RFC 7541 6.3", "RFC 8441 3", "RFC 8441 4",
}

func TestEverySectionHasCases(t *testing.T) {
	count := map[string]int{}
	all := 0
	for _, table := range [][]violation{
		clientViolations, clientGoodConduct, hpackCases, prefaceCases(), serverViolations, serverGoodConduct, flowCases(),
	} {
		for _, v := range table {
			count[v.section]++
			all++
		}
	}
	for _, s := range coveredSections {
		if count[s] == 0 {
			t.Errorf("section %s has no case", s)
		}
		t.Logf("%-14s %3d", s, count[s])
	}
	for s := range count {
		if !slices.Contains(coveredSections, s) && !strings.HasPrefix(s, "10.") {
			t.Errorf("section %s is not in the list of what is covered", s)
		}
	}
	t.Logf("%d cases", all)
}

// dependsOn is the priority part of a frame.
func dependsOn(id uint32, exclusive bool, weight byte) []byte {
	p := []byte{byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id), weight}
	if exclusive {
		p[0] |= 0x80
	}
	return p
}

// prioritized is the payload of a HEADERS frame with a priority.
func (r *raw) prioritized(priority []byte) []byte {
	return append(slices.Clone(priority), r.block(getFields...)...)
}

// plainGet is a GET that uses no dynamic table: static entries and literals.
var plainGet = []byte("\x82\x86\x84\x01\x04test")

// clientGoodConduct is what a client may do, and what is not minded.
var clientGoodConduct = []violation{
	{"3.4", "a plain request after the preface", func(r *raw) { r.headers(1, true, getFields...) }, response(1, "200")},
	{"4.1", "undefined flags of HEADERS are ignored", func(r *raw) { r.frame(xhttp2.FrameHeaders, 5|0x42&^0x20, 1, r.block(getFields...)) }, response(1, "200")},
	{"4.1", "the reserved bit of HEADERS is ignored", func(r *raw) {
		b := r.block(getFields...)
		r.write(append([]byte{0, 0, byte(len(b)), 1, 5, 0x80, 0, 0, 1}, b...))
	}, response(1, "200")},
	{"4.1", "an unknown frame with a stream, a payload and flags is ignored", func(r *raw) {
		r.frame(0xbe, 0xff, 5, huge[:1<<14])
		r.headers(1, true, getFields...)
	}, response(1, "200")},
	{"4.2", "DATA of the largest size", func(r *raw) {
		open(r, 1)
		r.frame(xhttp2.FrameData, 1, 1, huge[:1<<14])
	}, response(1, "200")},
	{"4.2", "a HEADERS frame of the largest size", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 5, 1, slices.Concat(plainGet, []byte{0, 1, 'x', 0x7f, 0xf2, 0x7e}, bytes.Repeat([]byte{'v'}, 127+0x72+0x7e<<7)))
	}, response(1, "200")},
	{"4.3", "an empty CONTINUATION ends a block", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 1, 1, r.block(getFields...))
		r.frame(xhttp2.FrameContinuation, 4, 1, nil)
	}, response(1, "200")},
	{"4.3", "an empty HEADERS frame begins a block", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 1, 1, nil)
		r.frame(xhttp2.FrameContinuation, 4, 1, r.block(getFields...))
	}, response(1, "200")},

	{"5.1", "WINDOW_UPDATE on a half-closed stream", func(r *raw) {
		r.headers(1, true, with(getFields, "x-unread", "1")...)
		r.do(r.fr.WriteWindowUpdate(1, 100))
		r.do(r.fr.WriteRSTStream(1, canceled))
	}, ""},
	{"5.1", "PRIORITY on a half-closed stream", func(r *raw) {
		r.headers(1, true, with(getFields, "x-unread", "1")...)
		r.frame(xhttp2.FramePriority, 0, 1, dependsOn(0, false, 255))
	}, ""},
	{"5.1", "RST_STREAM on a half-closed stream", func(r *raw) {
		r.headers(1, true, with(getFields, "x-unread", "1")...)
		r.do(r.fr.WriteRSTStream(1, canceled))
	}, ""},
	{"5.1", "RST_STREAM twice", func(r *raw) {
		open(r, 1)
		r.do(r.fr.WriteRSTStream(1, canceled))
		r.do(r.fr.WriteRSTStream(1, canceled))
	}, ""},
	{"5.1", "WINDOW_UPDATE and PRIORITY after RST_STREAM", func(r *raw) {
		open(r, 1)
		r.do(r.fr.WriteRSTStream(1, canceled))
		r.do(r.fr.WriteWindowUpdate(1, 1))
		r.frame(xhttp2.FramePriority, 0, 1, dependsOn(0, false, 0))
	}, ""},
	{"5.1.1", "stream numbers may leave gaps", func(r *raw) { done(r, 1); r.headers(1001, true, getFields...) }, response(1001, "200")},
	{"5.1.1", "the highest stream number", func(r *raw) { r.headers(1<<31-1, true, getFields...) }, response(1<<31-1, "200")},
	{"5.1.2", "a stream that has ended makes room for another", func(r *raw) {
		for id := uint32(1); id <= 7; id += 2 {
			open(r, id)
		}
		r.frame(xhttp2.FrameData, 1, 1, nil)
		if v := r.next(); v.String() != response(1, "200") {
			r.tb.Fatalf("got %v", v)
		}
		r.headers(9, false, postFields...)
		r.frame(xhttp2.FrameData, 1, 9, nil)
	}, response(9, "200")},
	{"5.3.1", "HEADERS that depend on their own stream: priorities mean nothing", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 5|0x20, 1, r.prioritized(dependsOn(1, false, 16)))
	}, response(1, "200")},
	{"5.3.2", "PRIORITY that depends on its own stream: priorities mean nothing", func(r *raw) {
		r.frame(xhttp2.FramePriority, 0, 1, dependsOn(1, false, 16))
	}, ""},
	{"5.3.2", "an exclusive dependency on a stream that does not exist", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 5|0x20, 1, r.prioritized(dependsOn(999, true, 255)))
	}, response(1, "200")},
	{"5.3.2", "PRIORITY for an idle stream, and HEADERS of a lower one", func(r *raw) {
		r.frame(xhttp2.FramePriority, 0, 9, dependsOn(0, true, 0))
		r.headers(3, true, getFields...)
	}, response(3, "200")},

	{"6.1", "content in several DATA frames, an empty one among them", func(r *raw) {
		open(r, 1)
		r.frame(xhttp2.FrameData, 0, 1, []byte("a"))
		r.frame(xhttp2.FrameData, 0, 1, nil)
		r.frame(xhttp2.FrameData, 1, 1, []byte("b"))
	}, response(1, "200")},
	{"6.1", "DATA that is nothing but padding", func(r *raw) {
		open(r, 1)
		r.frame(xhttp2.FrameData, 9, 1, append([]byte{255}, make([]byte, 255)...))
	}, response(1, "200")},
	{"6.1", "padding that is not zero need not be checked", func(r *raw) {
		open(r, 1)
		r.frame(xhttp2.FrameData, 9, 1, []byte{2, 'x', 7, 7})
	}, response(1, "200")},
	{"6.2", "HEADERS with padding", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 5|8, 1, slices.Concat([]byte{200}, r.block(getFields...), make([]byte, 200)))
	}, response(1, "200")},
	{"6.2", "HEADERS with a priority", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 5|0x20, 1, r.prioritized(dependsOn(0, true, 255)))
	}, response(1, "200")},
	{"6.4", "RST_STREAM before the content has come", func(r *raw) { open(r, 1); r.do(r.fr.WriteRSTStream(1, canceled)) }, ""},
	{"6.5", "SETTINGS without parameters are acknowledged", func(r *raw) { r.do(r.fr.WriteSettings()) }, "settings"},
	{"6.5.2", "the largest values of all parameters", func(r *raw) {
		r.do(r.fr.WriteSettings(
			xhttp2.Setting{ID: xhttp2.SettingHeaderTableSize, Val: 1<<32 - 1}, xhttp2.Setting{ID: xhttp2.SettingEnablePush, Val: 1},
			xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: 1<<32 - 1}, xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1<<31 - 1},
			xhttp2.Setting{ID: xhttp2.SettingMaxFrameSize, Val: 1<<24 - 1}, xhttp2.Setting{ID: xhttp2.SettingMaxHeaderListSize, Val: 1<<32 - 1}))
		r.headers(1, true, getFields...)
	}, "settings"},
	{"6.5.2", "the smallest values of all parameters", func(r *raw) {
		r.do(r.fr.WriteSettings(
			xhttp2.Setting{ID: xhttp2.SettingHeaderTableSize}, xhttp2.Setting{ID: xhttp2.SettingEnablePush},
			xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams}, xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize},
			xhttp2.Setting{ID: xhttp2.SettingMaxFrameSize, Val: 1 << 14}))
		r.headers(1, true, getFields...)
	}, "settings"},
	{"6.5.3", "a parameter several times in a frame: the last counts", func(r *raw) {
		r.do(r.fr.WriteSettings(
			xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0}, xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 100}))
	}, "settings"},
	{"6.5.3", "an acknowledgement that nobody waits for", func(r *raw) { r.do(r.fr.WriteSettingsAck()) }, ""},
	{"6.7", "PING is answered with what it holds", func(r *raw) { r.do(r.fr.WritePing(false, [8]byte{1, 2, 3, 4, 5, 6, 7, 8})) }, "pong"},
	{"6.7", "undefined flags of PING are ignored", func(r *raw) { r.frame(xhttp2.FramePing, 0xfe, 0, make([]byte, 8)) }, "pong"},
	{"6.8", "GOAWAY with text, and a stream after it", func(r *raw) {
		r.do(r.fr.WriteGoAway(0, xhttp2.ErrCodeNo, []byte("leaving")))
		r.headers(1, true, getFields...)
	}, response(1, "200")},
	{"6.9", "WINDOW_UPDATE of the connection", func(r *raw) { r.do(r.fr.WriteWindowUpdate(0, 1)); r.headers(1, true, getFields...) }, response(1, "200")},
	{"6.9", "the reserved bit of WINDOW_UPDATE is ignored", func(r *raw) { r.frame(xhttp2.FrameWindowUpdate, 0, 0, []byte{0x80, 0, 0, 1}) }, ""},
	{"6.9.1", "the windows up to their maximum", func(r *raw) {
		open(r, 1)
		r.do(r.fr.WriteWindowUpdate(0, 1<<31-1-65535))
		r.do(r.fr.WriteWindowUpdate(1, 1<<31-1-65535))
	}, ""},
	{"6.9.2", "SETTINGS that let the window of a stream be negative", func(r *raw) {
		open(r, 1)
		r.do(r.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0}))
	}, "settings"},
	{"7", "GOAWAY with an unknown error code", func(r *raw) { r.do(r.fr.WriteGoAway(0, 0xff, nil)) }, ""},
	{"7", "RST_STREAM with an unknown error code", func(r *raw) { open(r, 1); r.do(r.fr.WriteRSTStream(1, 0xff)) }, ""},

	{"8.1", "HEAD", func(r *raw) { r.headers(1, true, with([]string{":method", "HEAD"}, getFields[2:]...)...) }, response(1, "200")},
	{"8.1", "trailers after content", func(r *raw) {
		open(r, 1)
		r.frame(xhttp2.FrameData, 0, 1, []byte("x"))
		r.headers(1, true, "x-trailer", "1")
	}, response(1, "200")},
	{"8.1", "trailers without fields", func(r *raw) { open(r, 1); r.frame(xhttp2.FrameHeaders, 5, 1, nil) }, response(1, "200")},
	{"8.1.1", "content-length that agrees with the content", func(r *raw) {
		r.headers(1, false, with(postFields, "content-length", "5")...)
		r.frame(xhttp2.FrameData, 0, 1, []byte("he"))
		r.frame(xhttp2.FrameData, 9, 1, []byte{1, 'l', 'l', 'o', 0})
	}, response(1, "200")},
	{"8.1.1", "the same content-length twice", func(r *raw) {
		r.headers(1, true, with(postFields, "content-length", "0", "content-length", "0")...)
	}, response(1, "200")},
	{"8.2", "every byte that a name may have", func(r *raw) {
		r.headers(1, true, with(getFields, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz", "1")...)
	}, response(1, "200")},
	{"8.2.1", "an empty value, a tab and bytes above 0x7f within a value", func(r *raw) {
		r.headers(1, true, with(getFields, "a", "", "b", "x\ty", "c", "\x80\xff")...)
	}, response(1, "200")},
	{"8.2.3", "cookie crumbs", func(r *raw) { r.headers(1, true, with(getFields, "cookie", "a=b", "cookie", "c=d")...) }, response(1, "200")},
	{"8.3.1", "pseudo-header fields in another order", func(r *raw) {
		r.headers(1, true, ":authority", "a", ":path", "/", ":scheme", "https", ":method", "GET")
	}, response(1, "200")},
	{"8.3.1", "authority and host agree but for the case", func(r *raw) { r.headers(1, true, with(getFields, "host", "TEST")...) }, response(1, "200")},
	{"8.3.1", "neither authority nor host", func(r *raw) { r.headers(1, true, getFields[:6]...) }, response(1, "200")},
	{"8.3.1", "a method that nobody knows", func(r *raw) { r.headers(1, true, with([]string{":method", "FROB"}, getFields[2:]...)...) }, response(1, "200")},
	{"RFC 8441 4", "an extended CONNECT", func(r *raw) {
		r.headers(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "a")
		r.frame(xhttp2.FrameData, 1, 1, nil)
	}, response(1, "200")},
	{"8.5", "a CONNECT", func(r *raw) {
		r.headers(1, false, ":method", "CONNECT", ":authority", "a:1")
		r.frame(xhttp2.FrameData, 1, 1, nil)
	}, response(1, "200")},
}

// hpackCases are field sections byte by byte.
var hpackCases = []violation{
	{"RFC 7541 2.3.3", "an indexed field beyond both tables", func(r *raw) { r.block1(plainGet, 0xbe) }, goaway(hpackError)},
	{"RFC 7541 2.3.3", "a literal whose name is beyond both tables", func(r *raw) { r.block1(plainGet, 0x7e, 1, 'v') }, goaway(hpackError)},
	{"RFC 7541 2.3.3", "the last static entry", func(r *raw) { r.block1(plainGet, 0xbd) }, response(1, "200")},
	{"RFC 7541 2.3.3", "the newest dynamic entry", func(r *raw) { r.block1(plainGet, 0x40, 1, 'x', 1, 'v', 0xbe) }, response(1, "200")},
	{"RFC 7541 2.3.3", "an entry that was evicted", func(r *raw) {
		long := slices.Concat([]byte{0x40, 1, 'y', 0x7f, 0x80 + 33, 31}, bytes.Repeat([]byte{'v'}, 127+33+31*128)) // 4128 bytes
		r.frame(xhttp2.FrameHeaders, 5, 1, slices.Concat(plainGet, []byte{0x40, 1, 'x', 1, 'v'}, long, []byte{0xbe}))
	}, goaway(hpackError)},
	{"RFC 7541 4.2", "a table size of nothing, and then of all, begin a block", func(r *raw) { r.block1([]byte{0x20, 0x3f, 0xe1, 0x1f}, plainGet...) }, response(1, "200")},
	{"RFC 7541 4.2", "a table size ends a block", func(r *raw) { r.block1(plainGet, 0x40, 1, 'x', 1, 'v', 0x20) }, goaway(hpackError)},
	{"RFC 7541 4.2", "a table size in the middle of a block", func(r *raw) { r.block1(plainGet, 0x40, 1, 'x', 1, 'v', 0x20, 0, 1, 'y', 1, 'v') }, goaway(hpackError)},
	{"RFC 7541 4.2", "a table size that empties the table", func(r *raw) {
		r.block1(plainGet, 0x40, 1, 'x', 1, 'v')
		if v := r.next(); v.String() != response(1, "200") {
			r.tb.Fatalf("got %v %s", v, v.text)
		}
		r.frame(xhttp2.FrameHeaders, 5, 3, slices.Concat([]byte{0x20}, plainGet, []byte{0xbe}))
	}, goaway(hpackError)},
	{"RFC 7541 5.1", "an integer of many bytes", func(r *raw) {
		r.block1(plainGet, 0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01)
	}, goaway(hpackError)},
	{"RFC 7541 5.1", "an integer that does not end", func(r *raw) { r.block1(plainGet, 0xff, 0x80) }, goaway(hpackError)},
	{"RFC 7541 5.1", "an integer with needless zeros", func(r *raw) { r.block1(plainGet, 0x00, 1, 'x', 0x7f, 0x80, 0x80, 0x00) }, goaway(hpackError)},
	{"RFC 7541 5.2", "a Huffman coded value", func(r *raw) { r.block1(plainGet, 0x00, 1, 'x', 0x83, 0x49, 0x50, 0x9f) }, response(1, "200")},
	{"RFC 7541 5.2", "Huffman padding of more than 7 bits", func(r *raw) { r.block1(plainGet, 0x00, 1, 'x', 0x84, 0x49, 0x50, 0x9f, 0xff) }, goaway(hpackError)},
	{"RFC 7541 5.2", "Huffman padding of zeros", func(r *raw) { r.block1(plainGet, 0x00, 1, 'x', 0x83, 0x49, 0x50, 0x90) }, goaway(hpackError)},
	{"RFC 7541 5.2", "the end-of-string symbol", func(r *raw) { r.block1(plainGet, 0x00, 1, 'x', 0x84, 0xff, 0xff, 0xff, 0xff) }, goaway(hpackError)},
	{"RFC 7541 5.2", "a string longer than the block", func(r *raw) { r.block1(plainGet, 0x00, 1, 'x', 0x7f, 0x80, 0x01, 'v') }, goaway(hpackError)},
	{"RFC 7541 5.2", "a string longer than any may be", func(r *raw) { r.block1(plainGet, 0x00, 1, 'x', 0x7f, 0xff, 0xff, 0xff, 0x7f) }, goaway(hpackError)},
	{"RFC 7541 6.1", "index 0", func(r *raw) { r.block1(plainGet, 0x80) }, goaway(hpackError)},
	{"RFC 7541 6.2.1", "a literal with indexing and a new name", func(r *raw) { r.block1(plainGet, 0x40, 1, 'x', 1, 'v') }, response(1, "200")},
	{"RFC 7541 6.2.1", "a literal with indexing and an indexed name", func(r *raw) { r.block1(plainGet, 0x7a, 1, 'v') }, response(1, "200")},
	{"RFC 7541 6.2.1", "an entry larger than the table empties it", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 5, 1, slices.Concat(plainGet, []byte{0x40, 1, 'x', 0x7f, 0x81, 0x40}, bytes.Repeat([]byte{'v'}, 127+1+64*128)))
	}, response(1, "200")},
	{"RFC 7541 6.2.2", "a literal without indexing and a new name", func(r *raw) { r.block1(plainGet, 0x00, 1, 'x', 1, 'v') }, response(1, "200")},
	{"RFC 7541 6.2.2", "a literal without indexing and an indexed name", func(r *raw) { r.block1(plainGet, 0x0f, 43, 1, 'v') }, response(1, "200")},
	{"RFC 7541 6.2.2", "a literal without indexing is not in the table", func(r *raw) { r.block1(plainGet, 0x00, 1, 'x', 1, 'v', 0xbe) }, goaway(hpackError)},
	{"RFC 7541 6.2.3", "a literal never indexed and a new name", func(r *raw) { r.block1(plainGet, 0x10, 1, 'x', 1, 'v') }, response(1, "200")},
	{"RFC 7541 6.2.3", "a literal never indexed and an indexed name", func(r *raw) { r.block1(plainGet, 0x1f, 43, 1, 'v') }, response(1, "200")},
	{"RFC 7541 6.3", "a table size of exactly the setting", func(r *raw) { r.block1([]byte{0x3f, 0xe1, 0x1f}, plainGet...) }, response(1, "200")},
	{"RFC 7541 6.3", "a table size of one more than the setting", func(r *raw) { r.block1([]byte{0x3f, 0xe2, 0x1f}, plainGet...) }, goaway(hpackError)},
}

// block1 sends a field section in parts as the head of stream 1.
func (r *raw) block1(first []byte, rest ...byte) {
	r.frame(xhttp2.FrameHeaders, 5, 1, slices.Concat(first, rest))
}

// prefaceCases are the prefaces as cases.
func prefaceCases() (all []violation) {
	for name := range badPrefaces {
		all = append(all, violation{section: "3.4", name: name})
	}
	return all
}

// secureClient is rawClient over TLS.
func secureClient(t *testing.T, addr string, tc *tls.Config) *raw {
	t.Helper()
	tc = tc.Clone()
	tc.NextProtos = []string{"h2"}
	tc.ServerName = "server"
	nc, err := tls.Dial("tcp", addr, tc)
	if err != nil {
		t.Fatal(err)
	}
	r := newRaw(t, nc)
	r.write([]byte(xhttp2.ClientPreface))
	r.do(r.fr.WriteSettings())
	r.greet()
	return r
}

// strict are the bounds that the cases count on.
var strict = http2.Config{MaxStreams: 4, StreamWindow: 20 << 10, ConnWindow: 65535, ConnBuffer: 1, MaxStreamWindow: 20 << 10}

func TestAServerActsOnFramesAsTheRFCsSay(t *testing.T) {
	leak.Check(t)
	server, client := mutual(t)
	servers := []*http2.Server{{Handler: unread, Config: strict}, {Handler: unread, Config: strict, TLS: server}}
	lent := []*atomic.Int64{servers[0].Lent(), servers[1].Lent()}
	plain, secure := serve(t, servers[0]), serve(t, servers[1])
	transports := map[string]func(t *testing.T) *raw{
		"plain": func(t *testing.T) *raw { return rawClient(t, plain) },
		"TLS":   func(t *testing.T) *raw { return secureClient(t, secure, client) },
	}
	for name, connect := range transports {
		t.Run(name, func(t *testing.T) {
			for _, v := range slices.Concat(clientViolations, clientGoodConduct, hpackCases) {
				t.Run(v.section+" "+v.name, func(t *testing.T) {
					t.Parallel()
					r := connect(t)
					v.send(r)
					v.check(t, r)
				})
			}
		})
	}
	for i, s := range servers {
		s.Close()
		nothingLent(t, lent[i])
	}
}

// check sees what the peer makes of what was sent.
func (v violation) check(t *testing.T, r *raw) {
	t.Helper()
	if v.verdict == "" {
		r.expectAlive()
		return
	}
	r.acks = v.verdict == "settings"
	got := r.next()
	if got.String() != v.verdict {
		t.Fatalf("got %v %s, want %s", got, got.text, v.verdict)
	}
	if got.kind == "goaway" {
		// RFC 9113, section 5.4.1: why, and then the end.
		if got.text == "" {
			t.Error("the GOAWAY does not say why")
		}
		r.expectClosed()
		return
	}
	r.expectAlive()
}
