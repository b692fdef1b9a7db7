package http2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw is one end of a connection that speaks frames as it is told, however
// wrong they are.
type raw struct {
	tb  testing.TB
	nc  net.Conn
	fr  *xhttp2.Framer
	enc *hpack.Encoder
	buf bytes.Buffer
	dec *hpack.Decoder

	acks bool // next tells of acknowledgements of SETTINGS
}

func newRaw(tb testing.TB, nc net.Conn) *raw {
	tb.Helper()
	r := &raw{tb: tb, nc: nc, fr: xhttp2.NewFramer(nc, nc)}
	r.fr.AllowIllegalWrites, r.fr.AllowIllegalReads = true, true
	r.enc = hpack.NewEncoder(&r.buf)
	r.dec = hpack.NewDecoder(4096, nil)
	tb.Cleanup(func() { _ = nc.Close() })
	// A test that waits for a frame that does not come shall fail, not hang.
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	return r
}

// rawClient connects to addr and does what comes first on a connection.
func rawClient(tb testing.TB, addr string, settings ...xhttp2.Setting) *raw {
	tb.Helper()
	r := rawDial(tb, addr)
	r.write([]byte(xhttp2.ClientPreface))
	r.do(r.fr.WriteSettings(settings...))
	r.greet()
	return r
}

func rawDial(tb testing.TB, addr string) *raw {
	tb.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	return newRaw(tb, nc)
}

// greet acknowledges the SETTINGS of the other side and waits for the
// acknowledgement of its own.
func (r *raw) greet() {
	r.tb.Helper()
	for acked, greeted := false, false; !acked || !greeted; {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.tb.Fatalf("while SETTINGS are exchanged: %v", err)
		}
		if s, ok := f.(*xhttp2.SettingsFrame); ok {
			if s.IsAck() {
				acked = true
			} else {
				greeted = true
				r.do(r.fr.WriteSettingsAck())
			}
		}
	}
}

// do ignores errors in writing to a connection that the other side has ended:
// what it sent before counts.
func (r *raw) do(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		r.tb.Logf("write: %v", err)
	}
}

func (r *raw) write(p []byte) {
	_, err := r.nc.Write(p)
	r.do(err)
}

// block encodes a field section: name, value, name, value, ...
func (r *raw) block(fields ...string) []byte {
	r.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = r.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(r.buf.Bytes())
}

// headers sends a HEADERS frame.
func (r *raw) headers(id uint32, end bool, fields ...string) {
	r.do(r.fr.WriteHeaders(xhttp2.HeadersFrameParam{
		StreamID: id, BlockFragment: r.block(fields...), EndStream: end, EndHeaders: true,
	}))
}

var getFields = []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "test"}
var postFields = []string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "test"}

func with(fields []string, more ...string) []string {
	return append(fields[:len(fields):len(fields)], more...)
}

// frame sends any frame.
func (r *raw) frame(t xhttp2.FrameType, flags xhttp2.Flags, id uint32, payload []byte) {
	r.do(r.fr.WriteRawFrame(t, flags, id, payload))
}

// verdict is what became of what was sent: GOAWAY, RST_STREAM, a response, or
// the end.
type verdict struct {
	kind string // "goaway", "reset", "response", "pong", "closed"
	id   uint32
	code xhttp2.ErrCode
	text string
}

func (v verdict) String() string {
	switch v.kind {
	case "goaway":
		return fmt.Sprintf("GOAWAY %v", v.code)
	case "reset":
		return fmt.Sprintf("RST_STREAM %d %v", v.id, v.code)
	case "response":
		return fmt.Sprintf("response %d %s", v.id, v.text)
	}
	return v.kind
}

func goaway(code xhttp2.ErrCode) string { return verdict{kind: "goaway", code: code}.String() }
func reset(id uint32, code xhttp2.ErrCode) string {
	return verdict{kind: "reset", id: id, code: code}.String()
}
func response(id uint32, status string) string {
	return verdict{kind: "response", id: id, text: status}.String()
}

// next reads up to the next frame that says something.
func (r *raw) next() verdict {
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				r.tb.Fatal("nothing came")
			}
			return verdict{kind: "closed"}
		}
		switch f := f.(type) {
		case *xhttp2.GoAwayFrame:
			return verdict{kind: "goaway", code: f.ErrCode, text: string(f.DebugData())}
		case *xhttp2.RSTStreamFrame:
			return verdict{kind: "reset", id: f.StreamID, code: f.ErrCode}
		case *xhttp2.HeadersFrame:
			fields, err := r.dec.DecodeFull(f.HeaderBlockFragment())
			if err != nil {
				r.tb.Fatal(err)
			}
			text := ""
			for _, hf := range fields {
				if hf.Name == ":status" {
					text = hf.Value
				}
			}
			return verdict{kind: "response", id: f.StreamID, text: text}
		case *xhttp2.PingFrame:
			if f.IsAck() {
				return verdict{kind: "pong"}
			}
		case *xhttp2.SettingsFrame:
			if f.IsAck() && r.acks {
				return verdict{kind: "settings"}
			}
		}
	}
}

// expectAlive checks that the connection still works.
func (r *raw) expectAlive() {
	r.tb.Helper()
	r.do(r.fr.WritePing(false, [8]byte{'a', 'l', 'i', 'v', 'e'}))
	for {
		v := r.next()
		switch v.kind {
		case "pong":
			return
		case "goaway", "closed":
			r.tb.Fatalf("the connection was ended: %v %s", v, v.text)
		}
	}
}

// expectClosed checks that the other side closes the connection.
func (r *raw) expectClosed() {
	r.tb.Helper()
	if _, err := io.Copy(io.Discard, r.nc); err != nil {
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			r.tb.Fatal("the connection was not closed")
		}
	}
}
