package http2_test

import (
	"slices"
	"strconv"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// sized answers with as much content as the request asks for.
func sized(x proxy.Exchange) {
	n, err := strconv.Atoi(x.Request().Header.Get("x-size"))
	if err != nil {
		unread(x)
		return
	}
	_ = x.Respond(200, nil, proxy.UnknownLength)
	_, _ = x.Write(make([]byte, n))
}

// receive reads n bytes of the content of stream id, and fails if there is more
// in the frame that brings the last of them.
func (r *raw) receive(id uint32, n int) {
	r.tb.Helper()
	for n > 0 {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.tb.Fatalf("while %d bytes are due: %v", n, err)
		}
		if d, ok := f.(*xhttp2.DataFrame); ok && d.StreamID == id {
			n -= len(d.Data())
		}
	}
	if n < 0 {
		r.tb.Fatalf("stream %d got %d bytes more than its window allows", id, -n)
	}
}

// shut checks that no content comes: a PING is answered first.
func (r *raw) shut() {
	r.tb.Helper()
	r.do(r.fr.WritePing(false, [8]byte{'s', 'h', 'u', 't'}))
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.tb.Fatal(err)
		}
		switch f := f.(type) {
		case *xhttp2.DataFrame:
			r.tb.Fatalf("%d bytes came through a shut window", len(f.Data()))
		case *xhttp2.PingFrame:
			if f.IsAck() {
				return
			}
		}
	}
}

// awaitWindow waits until the window of the connection opens.
func (r *raw) awaitWindow() {
	r.tb.Helper()
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.tb.Fatal(err)
		}
		if w, ok := f.(*xhttp2.WindowUpdateFrame); ok && w.StreamID == 0 {
			return
		}
	}
}

// ask asks for n bytes on stream id.
func (r *raw) ask(id uint32, n int) {
	r.headers(id, true, with(getFields, "x-size", strconv.Itoa(n))...)
}

// flowCases are what a server may send when.
func flowCases() []violation {
	return []violation{
		{"6.9.1", "a window of one byte lets one byte through", func(r *raw) {
			r.setting(xhttp2.SettingInitialWindowSize, 1)
			r.ask(1, 3)
			r.receive(1, 1)
			r.shut()
			r.do(r.fr.WriteWindowUpdate(1, 2))
			r.receive(1, 2)
		}, ""},
		{"6.9.2", "SETTINGS open the windows of the streams there are", func(r *raw) {
			r.setting(xhttp2.SettingInitialWindowSize, 0)
			r.ask(1, 100)
			r.shut()
			r.setting(xhttp2.SettingInitialWindowSize, 60)
			r.receive(1, 60)
			r.shut()
			r.setting(xhttp2.SettingInitialWindowSize, 100)
			r.receive(1, 40)
		}, ""},
		{"6.9.2", "a negative window opens only above zero", func(r *raw) {
			r.setting(xhttp2.SettingInitialWindowSize, 100)
			r.ask(1, 200)
			r.receive(1, 100)
			r.setting(xhttp2.SettingInitialWindowSize, 40) // now -60
			r.do(r.fr.WriteWindowUpdate(1, 60))
			r.shut()
			r.do(r.fr.WriteWindowUpdate(1, 100))
			r.receive(1, 100)
		}, ""},
		{"6.9.2", "SETTINGS do not change the window of the connection", func(r *raw) {
			r.setting(xhttp2.SettingInitialWindowSize, 1<<20)
			r.ask(1, 70000)
			r.receive(1, 65535)
			r.shut()
			r.do(r.fr.WriteWindowUpdate(0, 1<<20))
			r.receive(1, 70000-65535)
		}, ""},
		{"6.9", "content that is discarded opens the window of the connection again", func(r *raw) {
			for i := range 20 {
				id := uint32(2*i + 1)
				open(r, id)
				r.frame(xhttp2.FrameData, 0, id, huge[:16<<10])
				r.do(r.fr.WriteRSTStream(id, canceled))
				if i%2 == 1 {
					r.awaitWindow()
				}
			}
		}, ""},
		{"5.1", "content for a stream that was reset counts for the connection", func(r *raw) {
			for i := range 20 {
				id := uint32(2*i + 1)
				r.headers(id, false, ":method", "BAD METHOD")
				r.frame(xhttp2.FrameData, 0, id, huge[:16<<10])
				if v := r.next(); v.String() != reset(id, protocolError) {
					r.tb.Fatalf("got %v %s", v, v.text)
				}
			}
		}, ""},
		{"5.4.2", "a stream error leaves the other streams alone", func(r *raw) {
			open(r, 1)
			r.headers(3, true, ":method", "GET")
			if v := r.next(); v.String() != reset(3, protocolError) {
				r.tb.Fatalf("got %v %s", v, v.text)
			}
			r.frame(xhttp2.FrameData, 1, 1, nil)
		}, response(1, "200")},
		{"5.4.1", "after a connection error nothing is acted on", func(r *raw) {
			r.frame(xhttp2.FramePing, 0, 0, make([]byte, 7))
			r.headers(1, true, getFields...)
		}, goaway(sizeError)},
		{"6.5.2", "frames of a peer that takes larger ones stay of the usual size", func(r *raw) {
			r.setting(xhttp2.SettingMaxFrameSize, 1<<20)
			r.setting(xhttp2.SettingInitialWindowSize, 1<<20)
			r.ask(1, 60000)
			r.receive(1, 60000)
		}, ""},
	}
}

func TestAServerKeepsToTheWindowsOfItsClient(t *testing.T) {
	addr := serve(t, &http2.Server{Handler: sized, Config: strict})
	for _, v := range flowCases() {
		t.Run(v.section+" "+v.name, func(t *testing.T) {
			r := rawClient(t, addr)
			v.send(r)
			v.check(t, r)
		})
	}
}

// serverGoodConduct is what a server may do with stream 1, after which it has
// been answered.
var serverGoodConduct = []violation{
	{"8.1", "interim responses before the final one", func(r *raw) {
		r.headers(1, false, ":status", "100")
		r.headers(1, false, ":status", "103", "link", "x")
		r.headers(1, true, ":status", "204")
	}, ""},
	{"8.1", "trailers", func(r *raw) {
		r.headers(1, false, ":status", "200")
		r.frame(xhttp2.FrameData, 0, 1, []byte("x"))
		r.headers(1, true, "grpc-status", "0")
	}, ""},
	{"8.1", "RST_STREAM with NO_ERROR after the end", func(r *raw) {
		r.headers(1, true, ":status", "200")
		r.do(r.fr.WriteRSTStream(1, xhttp2.ErrCodeNo))
	}, ""},
	{"8.1.1", "a content-length in a 304", func(r *raw) { r.headers(1, true, ":status", "304", "content-length", "500") }, ""},
	{"8.2.1", "a value that ends in a space is mended", func(r *raw) { r.headers(1, true, ":status", "200", "grpc-message", "so ") }, ""},
	{"8.2.3", "set-cookie fields", func(r *raw) { r.headers(1, true, ":status", "200", "set-cookie", "a=b", "set-cookie", "c=d") }, ""},
	{"6.1", "padded DATA", func(r *raw) {
		r.headers(1, false, ":status", "200", "content-length", "1")
		r.frame(xhttp2.FrameData, 9, 1, []byte{3, 'x', 0, 0, 0})
	}, ""},
	{"6.10", "a head in many parts", func(r *raw) {
		b := r.block(":status", "200", "x", "many")
		r.frame(xhttp2.FrameHeaders, 1, 1, b[:1])
		for _, c := range b[1:] {
			r.frame(xhttp2.FrameContinuation, 0, 1, []byte{c})
		}
		r.frame(xhttp2.FrameContinuation, 4, 1, nil)
	}, ""},
	{"5.5", "unknown frames anywhere but in a header block", func(r *raw) {
		r.frame(0xee, 0xff, 1, []byte("?"))
		r.headers(1, false, ":status", "200")
		r.frame(0xee, 0xff, 99, []byte("?"))
		r.frame(xhttp2.FrameData, 1, 1, nil)
	}, ""},
	{"5.3.2", "PRIORITY means nothing", func(r *raw) {
		r.frame(xhttp2.FramePriority, 0, 1, dependsOn(1, true, 0))
		r.headers(1, true, ":status", "200")
	}, ""},
	{"6.5.3", "SETTINGS in the middle of an exchange", func(r *raw) {
		r.headers(1, false, ":status", "200")
		r.setting(xhttp2.SettingInitialWindowSize, 0)
		r.frame(xhttp2.FrameData, 1, 1, []byte("x"))
	}, ""},
	{"6.5.2", "SETTINGS_HEADER_TABLE_SIZE of nothing", func(r *raw) {
		r.setting(xhttp2.SettingHeaderTableSize, 0)
		r.headers(1, true, ":status", "200")
	}, ""},
	{"6.8", "GOAWAY that spares the stream", func(r *raw) {
		r.do(r.fr.WriteGoAway(1, xhttp2.ErrCodeNo, nil))
		r.headers(1, true, ":status", "200")
	}, ""},
	{"6.9", "WINDOW_UPDATE of a stream that has ended", func(r *raw) {
		r.headers(1, true, ":status", "200")
		r.do(r.fr.WriteWindowUpdate(1, 100))
	}, ""},
	{"7", "an unknown error code in a GOAWAY that spares the stream", func(r *raw) {
		r.do(r.fr.WriteGoAway(1, 0x99, nil))
		r.headers(1, true, ":status", "200")
	}, ""},
}

func TestAClientTakesWhatServersMayDo(t *testing.T) {
	for _, v := range slices.Clone(serverGoodConduct) {
		t.Run(v.section+" "+v.name, func(t *testing.T) {
			l := listen(t)
			defer l.Close()
			cl := dial(t, l.Addr().String())
			out := start(t.Context(), cl, getRequest())
			r := rawServer(t, l)
			if id := r.awaitRequest(); id != 1 {
				t.Fatalf("the request is on stream %d", id)
			}
			v.send(r)
			if o := <-out; o.err != nil {
				t.Error(o.err)
			}
		})
	}
}
