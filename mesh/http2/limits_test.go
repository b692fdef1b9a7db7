package http2_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

func TestAServerEndsConnectionsThatFloodIt(t *testing.T) {
	leak.Check(t)
	addr := serve(t, &http2.Server{Handler: unread, Config: http2.Config{FrameBudget: 100, ResetBudget: 50}})
	ping := func(r *raw) func(int) { return func(int) { r.frame(xhttp2.FramePing, 1, 0, make([]byte, 8)) } }
	floods := []struct {
		name  string
		first func(r *raw)
		send  func(r *raw) func(int)
	}{
		{"PING", nil, ping},
		{"SETTINGS", nil, func(r *raw) func(int) { return func(int) { r.frame(xhttp2.FrameSettings, 1, 0, nil) } }},
		{"PRIORITY", nil, func(r *raw) func(int) { return func(int) { r.frame(xhttp2.FramePriority, 0, 1, make([]byte, 5)) } }},
		{"unknown frames", nil, func(r *raw) func(int) { return func(int) { r.frame(0x50, 0, 1, nil) } }},
		{"GOAWAY", nil, func(r *raw) func(int) { return func(int) { r.frame(xhttp2.FrameGoAway, 0, 0, make([]byte, 8)) } }},
		{"empty DATA", func(r *raw) { open(r, 1) }, func(r *raw) func(int) { return func(int) { r.frame(xhttp2.FrameData, 0, 1, nil) } }},
		{"padding", func(r *raw) { open(r, 1) }, func(r *raw) func(int) {
			return func(int) { r.frame(xhttp2.FrameData, 8, 1, []byte{1, 0}) }
		}},
		{"small WINDOW_UPDATE", nil, func(r *raw) func(int) { return func(int) { r.do(r.fr.WriteWindowUpdate(0, 1)) } }},
		{"RST_STREAM of a finished stream", func(r *raw) { done(r, 1) }, func(r *raw) func(int) {
			return func(int) { r.frame(xhttp2.FrameRSTStream, 0, 1, make([]byte, 4)) }
		}},
		{"DATA of a reset stream", func(r *raw) { open(r, 1); r.do(r.fr.WriteRSTStream(1, canceled)) }, func(r *raw) func(int) {
			return func(int) { r.frame(xhttp2.FrameData, 0, 1, []byte("x")) }
		}},
		{"rapid reset", nil, func(r *raw) func(int) {
			return func(i int) {
				id := uint32(2*i + 1)
				r.headers(id, true, getFields...)
				r.do(r.fr.WriteRSTStream(id, canceled))
			}
		}},
		{"malformed requests", nil, func(r *raw) func(int) {
			return func(i int) { r.headers(uint32(2*i+1), true, ":method", "GET") }
		}},
		{"requests with too large heads", nil, func(r *raw) func(int) {
			many := getFields
			for range 300 {
				many = with(many, "x", "")
			}
			return func(i int) { r.headers(uint32(2*i+1), true, many...) }
		}},
	}
	for _, f := range floods {
		t.Run(f.name, func(t *testing.T) {
			r := rawClient(t, addr)
			if f.first != nil {
				f.first(r)
			}
			if v := flood(r, f.send(r)); v.String() != goaway(calm) {
				t.Errorf("got %v %s", v, v.text)
			}
		})
	}
}

// flood sends until the connection is ended. Answers are read over.
func flood(r *raw, send func(i int)) verdict {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				send(i)
			}
		}
	}()
	var v verdict
	for v = r.next(); v.kind == "reset" || v.kind == "response" || v.kind == "pong" || v.String() == goaway(xhttp2.ErrCodeNo); v = r.next() {
	}
	close(stop)
	_ = r.nc.Close()
	<-done
	return v
}

func TestAContinuationFloodEndsTheConnection(t *testing.T) {
	leak.Check(t)
	addr := serve(t, &http2.Server{Handler: hold})
	for name, fragment := range map[string][]byte{"empty": nil, "of one byte": {0x82}, "large": make([]byte, 16<<10)} {
		t.Run(name, func(t *testing.T) {
			r := rawClient(t, addr)
			if len(fragment) > 1 {
				// Fields that nothing but their size is wrong with.
				fragment = r.block("x", strings.Repeat("\x7f", 15<<10))
			}
			r.frame(xhttp2.FrameHeaders, 1, 1, r.block(getFields...))
			if v := flood(r, func(int) { r.frame(xhttp2.FrameContinuation, 0, 1, fragment) }); v.String() != goaway(calm) {
				t.Errorf("got %v %s", v, v.text)
			}
		})
	}
}

func TestAnHPACKBombIsRefusedAndCostsNoMemory(t *testing.T) {
	leak.Check(t)
	seen := false
	addr := serve(t, &http2.Server{Handler: func(x proxy.Exchange) { seen = true }})
	r := rawClient(t, addr)
	// One field of 3 KiB goes to the dynamic table; references to it, one
	// byte each, would decode to 40 MiB.
	b := append(r.block(getFields...), r.block("x-bomb", strings.Repeat("b", 3<<10))...)
	b = append(b, strings.Repeat("\xbe", 12<<10)...)
	r.frame(xhttp2.FrameHeaders, 5, 1, b)
	if v := r.next(); v.String() != response(1, "431") {
		t.Errorf("got %v %s", v, v.text)
	}
	r.expectAlive()
	// The decoder is still in step.
	r.headers(3, true, getFields...)
	if v := r.next(); v.String() != response(3, "500") || !seen {
		t.Errorf("the next request got %v", v)
	}
}

func TestTooManyOrTooLargeFieldsAreAnswered431(t *testing.T) {
	leak.Check(t)
	addr := serve(t, &http2.Server{Handler: hold, Config: http2.Config{MaxHeaderBytes: 4 << 10, MaxHeaderFields: 20}})
	many := getFields
	for range 20 {
		many = with(many, "x", "y")
	}
	for name, fields := range map[string][]string{
		"many":       many,
		"large":      with(getFields, "x", strings.Repeat("v", 4<<10)),
		"large name": with(getFields, strings.Repeat("n", 4<<10), "v"),
	} {
		t.Run(name, func(t *testing.T) {
			r := rawClient(t, addr)
			r.headers(1, false, fields...)
			if v := r.next(); v.String() != response(1, "431") {
				t.Errorf("got %v %s", v, v.text)
			}
			r.expectAlive()
		})
	}
}

// bubble runs a server and a raw client of it over an in-memory connection in a
// bubble of synctest, so that time costs nothing.
func bubble(t *testing.T, s *http2.Server, test func(t *testing.T, r *raw)) (ended error) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- s.ServeConn(far, nil) }()
		r := newRaw(t, near)
		_ = near.SetDeadline(time.Time{})
		test(t, r)
		_ = near.Close()
		ended = <-done
		s.Close()
	})
	return ended
}

func (r *raw) preface() {
	r.write([]byte(xhttp2.ClientPreface))
	r.do(r.fr.WriteSettings())
}

func TestAClientThatSaysNothingIsGivenUp(t *testing.T) {
	err := bubble(t, &http2.Server{Handler: hold}, func(t *testing.T, r *raw) {
		begin := time.Now()
		if v := r.next(); v.String() != goaway(xhttp2.ErrCodeSettingsTimeout) {
			t.Errorf("got %v", v)
		}
		if d := time.Since(begin); d < 10*time.Second || d > 13*time.Second {
			t.Errorf("after %v", d)
		}
	})
	if fault.CodeOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "SETTINGS") {
		t.Errorf("the server says: %v", err)
	}
}

func TestAClientThatDoesNotAcknowledgeSettingsIsGivenUp(t *testing.T) {
	bubble(t, &http2.Server{Handler: hold}, func(t *testing.T, r *raw) {
		r.preface()
		if v := r.next(); v.String() != goaway(xhttp2.ErrCodeSettingsTimeout) {
			t.Errorf("got %v", v)
		}
	})
}

func TestAnIdleConnectionIsClosedInGoodOrder(t *testing.T) {
	err := bubble(t, &http2.Server{Handler: hold}, func(t *testing.T, r *raw) {
		r.preface()
		r.greet()
		done(r, 1)
		begin := time.Now()
		if v := r.next(); v.String() != goaway(xhttp2.ErrCodeNo) {
			t.Errorf("got %v", v)
		}
		if d := time.Since(begin); d < 5*time.Minute || d > 7*time.Minute {
			t.Errorf("after %v", d)
		}
		r.expectClosed()
	})
	if err != nil {
		t.Errorf("the server says: %v", err)
	}
}

func TestAConnectionWithAQuietStreamStays(t *testing.T) {
	bubble(t, &http2.Server{Handler: hold}, func(t *testing.T, r *raw) {
		r.preface()
		r.greet()
		open(r, 1)
		time.Sleep(time.Hour)
		r.expectAlive()
		r.frame(xhttp2.FrameData, 1, 1, []byte("late"))
		if v := r.next(); v.String() != response(1, "200") {
			t.Errorf("got %v", v)
		}
	})
}

func TestTheRestOfAFrameMustCome(t *testing.T) {
	for name, part := range map[string]string{
		"half a frame header": "\x00\x00\x08\x06",
		"half a payload":      "\x00\x00\x08\x06\x00\x00\x00\x00\x00123",
		"no payload":          "\x00\x00\x08\x06\x00\x00\x00\x00\x00",
		"half a header block": "\x00\x00\x01\x01\x01\x00\x00\x00\x01\x82",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, &http2.Server{Handler: hold}, func(t *testing.T, r *raw) {
				r.preface()
				r.greet()
				r.write([]byte(part))
				begin := time.Now()
				if v := r.next(); v.String() != goaway(calm) {
					t.Errorf("got %v %s", v, v.text)
				}
				if d := time.Since(begin); d < 30*time.Second || d > 50*time.Second {
					t.Errorf("after %v", d)
				}
			})
		})
	}
}

func TestAStreamWhoseWindowStaysShutIsReset(t *testing.T) {
	var wrote chan error // of the bubble
	s := &http2.Server{Handler: func(x proxy.Exchange) {
		_ = x.Respond(200, nil, proxy.UnknownLength)
		_, err := x.Write(make([]byte, 100<<10))
		wrote <- err
	}}
	bubble(t, s, func(t *testing.T, r *raw) {
		wrote = make(chan error, 1)
		r.preface()
		r.greet()
		r.headers(1, true, getFields...)
		if v := r.next(); v.kind != "response" {
			t.Fatalf("got %v", v)
		}
		begin := time.Now()
		if v := r.next(); v.String() != reset(1, canceled) {
			t.Errorf("got %v", v)
		}
		if d := time.Since(begin); d < 5*time.Minute || d > 7*time.Minute {
			t.Errorf("after %v", d)
		}
		if err := <-wrote; !strings.Contains(err.Error(), "window") {
			t.Errorf("the handler got %v", err)
		}
	})
}

func TestAPeerThatDoesNotReadIsGivenUp(t *testing.T) {
	var wrote chan error // of the bubble
	s := &http2.Server{Handler: func(x proxy.Exchange) {
		_ = x.Respond(200, nil, proxy.UnknownLength)
		wrote <- x.Flush()
		_, err := x.Write(make([]byte, 1<<20))
		wrote <- err
	}}
	err := bubble(t, s, func(t *testing.T, r *raw) {
		wrote = make(chan error, 1)
		r.preface()
		r.greet()
		r.headers(1, true, getFields...)
		begin := time.Now()
		for {
			if err := <-wrote; err != nil {
				break
			}
		}
		if d := time.Since(begin); d < 30*time.Second || d > 50*time.Second {
			t.Errorf("after %v", d)
		}
	})
	if err == nil || !strings.Contains(err.Error(), "took nothing") {
		t.Errorf("the server says: %v", err)
	}
}

func TestADeadPeerIsNoticedByPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		cl := &http2.Client{
			Dial:   func(context.Context) (net.Conn, error) { return far, nil },
			Config: http2.Config{KeepAlive: 15 * time.Second},
		}
		r := newRaw(t, near)
		_ = near.SetDeadline(time.Time{})
		out := start(t.Context(), cl, getRequest())
		first := make([]byte, len(xhttp2.ClientPreface))
		if _, err := near.Read(first); err != nil {
			t.Fatal(err)
		}
		go r.do(r.fr.WriteSettings())
		r.awaitRequest()
		begin := time.Now()
		// The first PING is answered, the second is not.
		if p := r.awaitPing(); !p.IsAck() {
			r.do(r.fr.WritePing(true, p.Data))
		}
		r.awaitPing()
		o := <-out
		if fault.CodeOf(o.err) != fault.Unavailable || !strings.Contains(o.err.Error(), "PING") || proxy.Unsent(o.err) {
			t.Errorf("%v", o.err)
		}
		if d := time.Since(begin); d < 40*time.Second || d > 60*time.Second {
			t.Errorf("after %v", d)
		}
		_ = near.Close()
		cl.Close()
	})
}

func (r *raw) awaitPing() *xhttp2.PingFrame {
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.tb.Fatal(err)
		}
		if p, ok := f.(*xhttp2.PingFrame); ok {
			return p
		}
	}
}
