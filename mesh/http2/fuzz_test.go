package http2_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// canned is a connection that brings given bytes and then ends, and takes
// whatever is written.
type canned struct {
	mu      sync.Mutex
	changed sync.Cond
	in      bytes.Buffer
	later   []byte // comes when a HEADERS frame was written
	out     bytes.Buffer
	closed  bool
	expired bool
}

func newCanned(now, later []byte) *canned {
	c := &canned{later: later}
	c.changed.L = &c.mu
	c.in.Write(now)
	return c
}

func (c *canned) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.in.Len() == 0 && c.later != nil && !c.closed && !c.expired {
		c.changed.Wait()
	}
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.expired:
		return 0, os.ErrDeadlineExceeded
	}
	return c.in.Read(p)
}

func (c *canned) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Write(p)
	if c.later != nil && hasHeaders(c.out.Bytes()) {
		c.in.Write(c.later)
		c.later = nil
		c.changed.Broadcast()
	}
	return len(p), nil
}

// hasHeaders reports whether there is a HEADERS frame in what a client wrote.
func hasHeaders(p []byte) bool {
	for p = p[min(len(p), len(xhttp2.ClientPreface)):]; len(p) >= 9; {
		if p[3] == byte(xhttp2.FrameHeaders) {
			return true
		}
		p = p[min(len(p), 9+(int(p[0])<<16|int(p[1])<<8|int(p[2]))):]
	}
	return false
}

func (c *canned) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.changed.Broadcast()
	return nil
}

func (c *canned) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired = !t.IsZero() && !t.After(time.Now())
	c.changed.Broadcast()
	return nil
}

func (c *canned) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }
func (c *canned) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "canned", Net: "unix"} }
func (c *canned) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "canned", Net: "unix"} }

// script makes frames for the seeds.
func script(write func(r *raw)) []byte {
	var out bytes.Buffer
	r := &raw{fr: xhttp2.NewFramer(&out, nil)}
	r.fr.AllowIllegalWrites = true
	r.enc = hpack.NewEncoder(&r.buf)
	r.tb = nil
	write(r)
	return out.Bytes()
}

// maxAnswer bounds what may be written in answer to a fuzzed input.
const maxAnswer = 4 << 20

func FuzzServer(f *testing.F) {
	for _, v := range clientViolations {
		f.Add(script(func(r *raw) {
			defer func() { _ = recover() }() // those that wait for an answer have no connection here
			v.send(r)
		}))
	}
	f.Add(script(func(r *raw) {
		open(r, 1)
		r.frame(xhttp2.FrameData, 0, 1, []byte("hello"))
		r.headers(3, true, getFields...)
		r.headers(1, true, "x-trailer", "1")
		r.headers(5, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "a")
		r.frame(xhttp2.FrameData, 1, 5, []byte("ping"))
		r.do(r.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 3}))
		r.do(r.fr.WriteWindowUpdate(3, 100))
		r.do(r.fr.WriteRSTStream(3, canceled))
		r.do(r.fr.WritePing(false, [8]byte{}))
	}))
	settings := script(func(r *raw) { r.do(r.fr.WriteSettings()); r.do(r.fr.WriteSettingsAck()) })
	f.Fuzz(func(t *testing.T, frames []byte) {
		leak.Check(t)
		s := &http2.Server{Config: http2.Config{MaxBodyBytes: 1 << 20}, Handler: func(x proxy.Exchange) {
			if x.Request().Upgrade != "" {
				chat(x)
				return
			}
			echo(x)
		}}
		lent := s.Lent()
		input := append(append([]byte(xhttp2.ClientPreface), settings...), frames...)
		c := newCanned(input, nil)
		_ = s.ServeConn(c, nil)
		s.Close()
		nothingLent(t, lent)
		if !c.closed {
			t.Error("the connection was not closed")
		}
		if c.out.Len() > maxAnswer {
			t.Errorf("%d bytes were answered to %d", c.out.Len(), len(frames))
		}
	})
}

func FuzzClient(f *testing.F) {
	for _, v := range serverViolations {
		f.Add(script(v.send))
	}
	f.Add(script(func(r *raw) {
		r.headers(1, false, ":status", "103", "link", "x")
		r.headers(1, false, ":status", "200", "content-length", "5")
		r.frame(xhttp2.FrameData, 0, 1, []byte("hello"))
		r.headers(1, true, "grpc-status", "0")
		r.do(r.fr.WriteGoAway(1, xhttp2.ErrCodeNo, []byte("bye")))
	}))
	settings := script(func(r *raw) { r.do(r.fr.WriteSettings()); r.do(r.fr.WriteSettingsAck()) })
	f.Fuzz(func(t *testing.T, frames []byte) {
		leak.Check(t)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		dials := 0
		cl := &http2.Client{Addr: "canned", Dial: func(context.Context) (net.Conn, error) {
			dials++
			return newCanned(settings, append([]byte{}, frames...)), nil
		}}
		lent := cl.Lent()
		r := postRequest(io.MultiReader(bytes.NewReader(make([]byte, 100))), proxy.UnknownLength)
		res, err := cl.RoundTrip(ctx, r, proxy.RoundTripOptions{Interim: func(int, proxy.Header) {}})
		if err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		if ctx.Err() != nil {
			t.Error("the round trip did not end by itself")
		}
		cl.Close()
		nothingLent(t, lent)
		if dials > 20 {
			t.Errorf("%d connections were made", dials)
		}
	})
}
