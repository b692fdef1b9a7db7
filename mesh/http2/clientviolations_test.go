package http2_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// rawServer accepts one connection of a client and does what comes first.
func rawServer(tb testing.TB, l net.Listener, settings ...xhttp2.Setting) *raw {
	tb.Helper()
	r := rawAccept(tb, l)
	preface := make([]byte, len(xhttp2.ClientPreface))
	if _, err := io.ReadFull(r.nc, preface); err != nil || string(preface) != xhttp2.ClientPreface {
		tb.Fatalf("preface %q, %v", preface, err)
	}
	r.do(r.fr.WriteSettings(settings...))
	return r
}

func rawAccept(tb testing.TB, l net.Listener) *raw {
	tb.Helper()
	nc, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return newRaw(tb, nc)
}

// awaitRequest reads up to the head of a request and returns its stream.
func (r *raw) awaitRequest() uint32 {
	r.tb.Helper()
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.tb.Fatalf("while a request is due: %v", err)
		}
		switch f := f.(type) {
		case *xhttp2.SettingsFrame:
			if !f.IsAck() {
				r.do(r.fr.WriteSettingsAck())
			}
		case *xhttp2.HeadersFrame:
			if _, err := r.dec.DecodeFull(f.HeaderBlockFragment()); err != nil {
				r.tb.Fatal(err)
			}
			return f.StreamID
		}
	}
}

// outcome is what a round trip came to.
type outcome struct {
	status int
	body   string
	err    error
}

// start sends a request and returns where its outcome will be found.
func start(ctx context.Context, cl proxy.RoundTripper, r *proxy.Request) <-chan outcome {
	out := make(chan outcome, 1)
	go func() {
		res, err := cl.RoundTrip(ctx, r, proxy.RoundTripOptions{})
		if err != nil {
			out <- outcome{err: err}
			return
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		out <- outcome{res.Status, string(body), err}
	}()
	return out
}

func getRequest() *proxy.Request {
	return &proxy.Request{Method: "GET", Authority: "test", Target: "/"}
}

// serverViolations are what a server does to stream 1, and what it gets for it.
var serverViolations = []violation{
	{"8.4", "a push", func(r *raw) {
		r.frame(xhttp2.FramePushPromise, 4, 1, append([]byte{0, 0, 0, 2}, r.block(getFields...)...))
	}, goaway(protocolError)},
	{"5.1.1", "HEADERS on a stream that the server would open", func(r *raw) { r.headers(2, true, ":status", "200") }, goaway(protocolError)},
	{"5.1", "HEADERS on an idle stream", func(r *raw) { r.headers(9, true, ":status", "200") }, goaway(protocolError)},
	{"5.1", "DATA on an idle stream", func(r *raw) { r.frame(xhttp2.FrameData, 1, 9, []byte("x")) }, goaway(protocolError)},
	{"8.1", "DATA before the head", func(r *raw) { r.frame(xhttp2.FrameData, 1, 1, []byte("x")) }, reset(1, protocolError)},
	{"8.3.2", "a head without :status", func(r *raw) { r.headers(1, true, "x", "1") }, reset(1, protocolError)},
	{"8.3.2", ":status that is no number", func(r *raw) { r.headers(1, true, ":status", "2x0") }, reset(1, protocolError)},
	{"8.3.2", ":status of four digits", func(r *raw) { r.headers(1, true, ":status", "2000") }, reset(1, protocolError)},
	{"8.3", ":status together with :path", func(r *raw) { r.headers(1, true, ":status", "200", ":path", "/") }, reset(1, protocolError)},
	{"8.6", "status 101", func(r *raw) { r.headers(1, false, ":status", "101") }, reset(1, protocolError)},
	{"8.1", "an interim response that ends the stream", func(r *raw) { r.headers(1, true, ":status", "103") }, reset(1, protocolError)},
	{"8.1", "trailers that do not end the stream", func(r *raw) {
		r.headers(1, false, ":status", "200")
		r.headers(1, false, "x-trailer", "1")
	}, reset(1, protocolError)},
	{"8.1", "trailers with a pseudo-header field", func(r *raw) {
		r.headers(1, false, ":status", "200")
		r.headers(1, true, ":status", "200")
	}, reset(1, protocolError)},
	{"8.2.2", "a Connection field", func(r *raw) { r.headers(1, true, ":status", "200", "connection", "close") }, reset(1, protocolError)},
	{"8.2.1", "an upper-case name", func(r *raw) { r.headers(1, true, ":status", "200", "X-A", "1") }, reset(1, protocolError)},
	{"8.1.1", "content longer than content-length", func(r *raw) {
		r.headers(1, false, ":status", "200", "content-length", "2")
		r.frame(xhttp2.FrameData, 1, 1, []byte("abc"))
	}, reset(1, protocolError)},
	{"8.1.1", "content shorter than content-length", func(r *raw) {
		r.headers(1, false, ":status", "200", "content-length", "4")
		r.frame(xhttp2.FrameData, 1, 1, []byte("abc"))
	}, reset(1, protocolError)},
	{"8.1.1", "content-length without content", func(r *raw) { r.headers(1, true, ":status", "200", "content-length", "4") }, reset(1, protocolError)},
	{"8.1.1", "content of a 204", func(r *raw) {
		r.headers(1, false, ":status", "204")
		r.frame(xhttp2.FrameData, 1, 1, []byte("abc"))
	}, reset(1, protocolError)},
	{"6.9", "more DATA than the window of the stream", func(r *raw) {
		r.headers(1, false, ":status", "200", "x-unread", "1")
		for range 17 {
			r.frame(xhttp2.FrameData, 0, 1, huge[:1<<14])
		}
	}, reset(1, flowError)},
	{"6.5.2", "ENABLE_PUSH by a server", func(r *raw) { r.setting(xhttp2.SettingEnablePush, 1) }, goaway(protocolError)},
	{"4.2", "a frame too large", func(r *raw) { r.frame(xhttp2.FrameHeaders, 4, 1, huge) }, goaway(sizeError)},
	{"4.3", "a header block that cannot be decompressed", func(r *raw) { r.frame(xhttp2.FrameHeaders, 5, 1, []byte{0xff, 0x80, 0x01}) }, goaway(hpackError)},
	{"6.8", "GOAWAY of a stream", func(r *raw) { r.frame(xhttp2.FrameGoAway, 0, 1, make([]byte, 8)) }, goaway(protocolError)},
	{"10.5.1", "a head that is too large", func(r *raw) {
		r.headers(1, true, ":status", "200", "x", strings.Repeat("v", 5<<10))
	}, reset(1, calm)},
}

func TestAClientAnswersViolationsOfServers(t *testing.T) {
	leak.Check(t)
	for _, v := range serverViolations {
		t.Run(v.section+" "+v.name, func(t *testing.T) {
			l := listen(t)
			defer l.Close()
			cl := &http2.Client{Addr: l.Addr().String(), Config: http2.Config{MaxHeaderBytes: 4 << 10}}
			defer cl.Close()
			out := make(chan outcome, 1)
			over := make(chan struct{}) // the stream was reset
			go func() {
				res, err := cl.RoundTrip(t.Context(), getRequest(), proxy.RoundTripOptions{})
				if err == nil {
					if !res.Header.Has("x-unread") {
						_, err = io.ReadAll(res.Body)
					} else {
						<-over
						_, err = io.ReadAll(res.Body)
					}
					_ = res.Body.Close()
				}
				out <- outcome{err: err}
			}()
			r := rawServer(t, l)
			if id := r.awaitRequest(); id != 1 {
				t.Fatalf("the request is on stream %d", id)
			}
			v.send(r)
			got := r.next()
			if got.String() != v.verdict {
				t.Fatalf("got %v %s, want %s", got, got.text, v.verdict)
			}
			if strings.Contains(v.name, "the window") {
				close(over)
			}
			o := <-out
			if o.err == nil {
				t.Error("the round trip succeeded")
			} else if code := fault.CodeOf(o.err); code != fault.Unavailable && code != fault.ResourceExhausted {
				t.Errorf("%v: %v", code, o.err)
			} else if !strings.Contains(o.err.Error(), l.Addr().String()) {
				t.Errorf("the error does not name the server: %v", o.err)
			}
			if got.kind == "goaway" {
				r.expectClosed()
			}
		})
	}
}

func TestAClientSaysThatAServerSpeaksHTTP1(t *testing.T) {
	leak.Check(t)
	l := listen(t)
	defer l.Close()
	cl := dial(t, l.Addr().String())
	out := start(t.Context(), cl, getRequest())
	r := rawAccept(t, l)
	r.write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
	o := <-out
	if o.err == nil || !strings.Contains(o.err.Error(), "HTTP/1.1") || fault.CodeOf(o.err) != fault.Unavailable {
		t.Errorf("%v", o.err)
	}
}
