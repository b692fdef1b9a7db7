package http2_test

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// crowd is a handler that works until its stream ends, and counts.
type crowd struct {
	started, running, most atomic.Int64
}

func (c *crowd) handle(x proxy.Exchange) {
	c.started.Add(1)
	n := c.running.Add(1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	defer c.running.Add(-1)
	if x.Request().Header.Has("x-quick") {
		_ = x.Respond(204, nil, 0)
		return
	}
	<-x.Context().Done()
}

// provocations make the server reset a stream whose handler is at work, so that
// the client need not do so itself (CVE-2025-8671, "MadeYouReset").
var provocations = map[string]func(r *raw, id uint32){
	"WINDOW_UPDATE of nothing":   func(r *raw, id uint32) { r.do(r.fr.WriteWindowUpdate(id, 0)) },
	"a window that overflows":    func(r *raw, id uint32) { r.do(r.fr.WriteWindowUpdate(id, 1<<31-1)) },
	"DATA beyond content-length": func(r *raw, id uint32) { r.frame(xhttp2.FrameData, 0, id, []byte("too much")) },
	"an early END_STREAM":        func(r *raw, id uint32) { r.frame(xhttp2.FrameData, 1, id, nil) },
	"trailers that do not end":   func(r *raw, id uint32) { r.headers(id, false, "x", "1") },
	"malformed trailers":         func(r *raw, id uint32) { r.headers(id, true, ":path", "/") },
	"trailers with a bad field":  func(r *raw, id uint32) { r.headers(id, true, "connection", "close") },
	"RST_STREAM":                 func(r *raw, id uint32) { r.do(r.fr.WriteRSTStream(id, canceled)) },
}

func TestResetsThatTheClientProvokesAreCounted(t *testing.T) {
	for name, provoke := range provocations {
		t.Run(name, func(t *testing.T) {
			const budget, streams = 50, 10
			var c crowd
			s := &http2.Server{Handler: c.handle, Config: http2.Config{ResetBudget: budget, MaxStreams: streams}}
			lent := s.Lent()
			// In the bubble no time passes, and so no budget is refilled.
			err := bubble(t, s, func(t *testing.T, r *raw) {
				r.preface()
				r.greet()
				v := flood(r, func(i int) {
					id := uint32(2*i + 1)
					r.headers(id, false, with(postFields, "content-length", "3")...)
					provoke(r, id)
				})
				if v.String() != goaway(calm) {
					t.Errorf("got %v %s", v, v.text)
				}
			})
			if err == nil {
				t.Error("the server says that the connection ended well")
			}
			nothingLent(t, lent)
			if n := c.started.Load(); n > budget+1 {
				t.Errorf("%d handlers were started", n)
			}
			if n := c.most.Load(); n > streams {
				t.Errorf("%d handlers ran at a time", n)
			}
		})
	}
}

// attacks are what a client sends again and again; those that cost the server
// more than the client end the connection. i counts.
var attacks = []struct {
	name  string
	first func(r *raw)
	send  func(r *raw, i int)
}{
	{"rapid reset (CVE-2023-44487)", nil, func(r *raw, i int) {
		r.headers(uint32(2*i+1), true, getFields...)
		r.do(r.fr.WriteRSTStream(uint32(2*i+1), canceled))
	}},
	{"rapid reset of requests that begin", nil, func(r *raw, i int) {
		r.headers(uint32(2*i+1), false, postFields...)
		r.frame(xhttp2.FrameData, 0, uint32(2*i+1), []byte("x"))
		r.do(r.fr.WriteRSTStream(uint32(2*i+1), canceled))
	}},
	{"CONTINUATION without end (CVE-2024-27316)", func(r *raw) { r.frame(xhttp2.FrameHeaders, 1, 1, plainGet) }, func(r *raw, i int) {
		r.frame(xhttp2.FrameContinuation, 0, 1, []byte{0, 1, 'x', 1, 'v'})
	}},
	{"empty CONTINUATIONs", func(r *raw) { r.frame(xhttp2.FrameHeaders, 1, 1, plainGet) }, func(r *raw, i int) {
		r.frame(xhttp2.FrameContinuation, 0, 1, nil)
	}},
	{"PING", nil, func(r *raw, i int) { r.frame(xhttp2.FramePing, 1, 0, make([]byte, 8)) }},
	{"PING that wants answers", nil, func(r *raw, i int) { r.frame(xhttp2.FramePing, 0, 0, make([]byte, 8)) }},
	{"SETTINGS", nil, func(r *raw, i int) { r.do(r.fr.WriteSettings()) }},
	{"SETTINGS that change all windows", func(r *raw) { open(r, 1) }, func(r *raw, i int) {
		r.setting(xhttp2.SettingInitialWindowSize, uint32(i%2))
	}},
	{"SETTINGS that change the table", nil, func(r *raw, i int) { r.setting(xhttp2.SettingHeaderTableSize, uint32(i%2*4096)) }},
	{"empty DATA", func(r *raw) { open(r, 1) }, func(r *raw, i int) { r.frame(xhttp2.FrameData, 0, 1, nil) }},
	{"DATA of nothing but padding", func(r *raw) { open(r, 1) }, func(r *raw, i int) { r.frame(xhttp2.FrameData, 8, 1, []byte{0}) }},
	{"PRIORITY", nil, func(r *raw, i int) {
		r.frame(xhttp2.FramePriority, 0, uint32(2*i+1), dependsOn(uint32(2*i+3), true, 1))
	}},
	{"WINDOW_UPDATE", nil, func(r *raw, i int) { r.do(r.fr.WriteWindowUpdate(0, 1)) }},
	{"WINDOW_UPDATE of finished streams", func(r *raw) { quick(r, 1) }, func(r *raw, i int) { r.do(r.fr.WriteWindowUpdate(1, 1)) }},
	{"GOAWAY", nil, func(r *raw, i int) { r.do(r.fr.WriteGoAway(uint32(i), xhttp2.ErrCodeNo, nil)) }},
	{"unknown frames", nil, func(r *raw, i int) { r.frame(0xcc, 0, 0, nil) }},
	{"fields with empty names", nil, func(r *raw, i int) { r.headers(uint32(2*i+1), true, with(getFields, "", "")...) }},
	{"more streams than allowed", func(r *raw) {
		for id := uint32(1); id < 20; id += 2 {
			open(r, id)
		}
	}, func(r *raw, i int) { r.headers(uint32(2*i+21), true, getFields...) }},
	{"heads that are too large", nil, func(r *raw, i int) {
		r.frame(xhttp2.FrameHeaders, 5, uint32(2*i+1), slices.Concat(plainGet, bytes.Repeat([]byte{0, 1, 'x', 0}, 300)))
	}},
	{"HPACK bombs", func(r *raw) {
		r.frame(xhttp2.FrameHeaders, 5, 1, slices.Concat(plainGet, []byte{0, 7, 'x', '-', 'q', 'u', 'i', 'c', 'k', 0},
			[]byte{0x40, 1, 'x', 0x7f, 0x81, 0x1e}, bytes.Repeat([]byte{'b'}, 127+1+30*128)))
	}, func(r *raw, i int) {
		r.frame(xhttp2.FrameHeaders, 5, uint32(2*i+3), slices.Concat(plainGet, bytes.Repeat([]byte{0xbe}, 12<<10)))
	}},
	{"frames of streams that were reset", func(r *raw) { open(r, 1); r.do(r.fr.WriteRSTStream(1, canceled)) }, func(r *raw, i int) {
		r.frame(xhttp2.FrameData, 0, 1, []byte("x"))
	}},
}

// quick makes stream id a finished one.
func quick(r *raw, id uint32) {
	r.headers(id, true, with(getFields, "x-quick", "1")...)
	if v := r.next(); v.kind != "response" {
		r.tb.Fatalf("a plain request got: %v", v)
	}
}

func TestAttacksEndTheirConnectionAndNoOther(t *testing.T) {
	leak.Check(t)
	var c crowd
	const streams, budget = 10, 100
	s := &http2.Server{Handler: c.handle, Config: http2.Config{MaxStreams: streams, FrameBudget: budget, ResetBudget: budget}}
	lent := s.Lent()
	addr := serve(t, s)
	bystander := dial(t, addr)
	ask := getRequest()
	ask.Header = proxy.Header{{Name: "x-quick", Value: "1"}}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			r := rawClient(t, addr)
			if a.first != nil {
				a.first(r)
			}
			if v := flood(r, func(i int) { a.send(r, i) }); v.String() != goaway(calm) {
				t.Errorf("got %v %s", v, v.text)
			}
			if res, _ := do(t, bystander, ask); res.Status != 204 {
				t.Errorf("another connection got %d", res.Status)
			}
		})
	}
	s.Close()
	nothingLent(t, lent)
	if n := c.most.Load(); n > 2*streams+1 { // the last ones of one connection, and those of the next
		t.Errorf("%d handlers ran at a time", n)
	}
}

func TestSmallPiecesOfContentCostNoMoreThanTheWindow(t *testing.T) {
	leak.Check(t)
	read := make(chan int64, 1)
	go1 := make(chan struct{})
	addr := serve(t, &http2.Server{Handler: func(x proxy.Exchange) {
		<-go1
		n, _ := io.Copy(io.Discard, x.Request().Body)
		read <- n
		_ = x.Respond(204, nil, 0)
	}})
	r := rawClient(t, addr)
	open(r, 1)
	const n = 60_000 // below all windows: nothing has to be read meanwhile
	var all bytes.Buffer
	fr := xhttp2.NewFramer(&all, nil)
	for range n {
		_ = fr.WriteRawFrame(xhttp2.FrameData, 0, 1, []byte("x"))
	}
	r.write(all.Bytes())
	r.expectAlive()
	close(go1)
	r.frame(xhttp2.FrameData, 1, 1, nil)
	if v := r.next(); v.String() != response(1, "204") {
		t.Errorf("got %v", v)
	}
	if got := <-read; got != n {
		t.Errorf("%d bytes came", got)
	}
}

// answers are what a server may do to a client again and again: i counts.
var serverAttacks = map[string]func(r *raw, i int){
	"PING":              func(r *raw, i int) { r.frame(xhttp2.FramePing, 0, 0, make([]byte, 8)) },
	"SETTINGS":          func(r *raw, i int) { r.setting(xhttp2.SettingInitialWindowSize, uint32(i)) },
	"PRIORITY":          func(r *raw, i int) { r.frame(xhttp2.FramePriority, 0, 1, make([]byte, 5)) },
	"WINDOW_UPDATE":     func(r *raw, i int) { r.do(r.fr.WriteWindowUpdate(0, 1)) },
	"GOAWAY":            func(r *raw, i int) { r.do(r.fr.WriteGoAway(1<<31-1, xhttp2.ErrCodeNo, nil)) },
	"unknown frames":    func(r *raw, i int) { r.frame(0xcc, 0, 0, nil) },
	"interim responses": func(r *raw, i int) { r.headers(1, false, ":status", "103") },
	"empty CONTINUATIONs": func(r *raw, i int) {
		if i == 0 {
			r.frame(xhttp2.FrameHeaders, 0, 1, []byte{0x88})
		}
		r.frame(xhttp2.FrameContinuation, 0, 1, nil)
	},
}

func TestAServerThatFloodsItsClientIsLeft(t *testing.T) {
	leak.Check(t)
	for name, send := range serverAttacks {
		t.Run(name, func(t *testing.T) {
			l := listen(t)
			defer l.Close()
			cl := &http2.Client{Addr: l.Addr().String(), Config: http2.Config{FrameBudget: 100}}
			defer cl.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := start(ctx, cl, getRequest())
			r := rawServer(t, l)
			r.awaitRequest()
			stream1 := make(chan struct{})
			go func() {
				defer close(stream1)
				if o := <-out; o.err == nil || strings.Contains(o.err.Error(), "given up") {
					t.Errorf("the request ended with %v", o.err)
				}
			}()
			v := flood(r, func(i int) { send(r, i) })
			if v.kind != "goaway" && v.kind != "closed" || v.kind == "goaway" && v.code != calm {
				t.Errorf("got %v %s", v, v.text)
			}
			<-stream1
		})
	}
}
