package http1

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/sockio"
	"github.com/proa-io/proa/mesh/proxy"
)

func TestTimeoutsAndCancellation(t *testing.T) {
	ended := make(chan struct{}, 10)
	addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
		r, _ := readRequest(t, br)
		if r.RequestURI == "/body" {
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
		}
		if _, err := br.ReadByte(); err == io.EOF || err != nil {
			ended <- struct{}{}
		}
	})
	cl := newClient(t, addr)
	short := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	canceled := func(t *testing.T) context.Context {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		return ctx
	}
	tests := []struct {
		name, target string
		ctx          func(*testing.T) context.Context
		opts         proxy.RoundTripOptions
		code         fault.Code
		want         string
	}{
		{"head timeout", "/", (*testing.T).Context, proxy.RoundTripOptions{HeadTimeout: 50 * time.Millisecond}, fault.DeadlineExceeded, "orders did not answer within 50ms"},
		{"short head timeout", "/", (*testing.T).Context, proxy.RoundTripOptions{HeadTimeout: 5 * time.Millisecond}, fault.DeadlineExceeded, "orders did not answer within 5ms"},
		{"deadline", "/", short, proxy.RoundTripOptions{}, fault.DeadlineExceeded, "wait for the response of orders"},
		{"canceled", "/", canceled, proxy.RoundTripOptions{}, fault.Canceled, "wait for the response of orders"},
		{"deadline in the body", "/body", short, proxy.RoundTripOptions{HeadTimeout: time.Millisecond * 40}, fault.DeadlineExceeded, "read the response of orders"},
		{"canceled in the body", "/body", canceled, proxy.RoundTripOptions{}, fault.Canceled, "read the response of orders"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := cl.RoundTrip(tt.ctx(t), get(tt.target), tt.opts)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if !fault.Is(err, tt.code) || fault.Message(err) != tt.want {
				t.Errorf("got %v, want %v %q", err, tt.code, tt.want)
			}
			<-ended // the connection ends, so the server learns of it
		})
	}
	t.Run("ended before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := cl.RoundTrip(ctx, get("/"), proxy.RoundTripOptions{}); !fault.Is(err, fault.Canceled) || !proxy.Unsent(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAConnectionThatEndedWhileIdleIsNotUsed(t *testing.T) {
	closed := make(chan struct{}, 1)
	addr := script(t, func(i int, nc net.Conn, br *bufio.Reader) {
		readRequest(t, br)
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		nc.Close()
		closed <- struct{}{}
	})
	cl := newClient(t, addr)
	for range 20 {
		// POST is never sent again, so it shows what the look before does.
		r := post("/", strings.NewReader("abc"), 3)
		fetch(t, cl, r)
		<-closed
		for peekConn(cl.idle[0].nc) != sockio.Ended {
			time.Sleep(time.Millisecond)
		}
	}
}

func TestAnOldDeadlineDoesNotFailARequest(t *testing.T) {
	addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
		for range 2 {
			readRequest(t, br)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	cl := newClient(t, addr)
	fetch(t, cl, get("/"))
	// As if the goroutine had not run for long between setting a deadline and
	// waiting with it.
	c := cl.idle[0]
	c.readBy = time.Now().Add(ctxDelay)
	c.nc.SetReadDeadline(time.Unix(1, 0))
	fetch(t, cl, post("/", strings.NewReader("abc"), 3))
}

func TestAConnectionThatEndsUnderARequestIsReplaced(t *testing.T) {
	tests := []struct {
		name   string
		r      func() *proxy.Request
		repeat bool
	}{
		{"GET", func() *proxy.Request { return get("/") }, true},
		{"short PUT", func() *proxy.Request {
			r := post("/", strings.NewReader("abc"), 3)
			r.Method = "PUT"
			return r
		}, true},
		{"long PUT", func() *proxy.Request {
			r := post("/", strings.NewReader(strings.Repeat("x", 64<<10)), 64<<10)
			r.Method = "PUT"
			return r
		}, true},
		{"short POST", func() *proxy.Request { return post("/", strings.NewReader("abc"), 3) }, false},
		{"streamed PUT", func() *proxy.Request {
			r := post("/", slow{strings.NewReader("abc")}, 3)
			r.Method = "PUT"
			return r
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			addr := script(t, func(i int, nc net.Conn, br *bufio.Reader) {
				r, body := readRequest(t, br)
				got = append(got, r.Method+body)
				io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				if i == 0 {
					// The next request is read, and not answered.
					readRequest(t, br)
					return
				}
				readRequest(t, br)
			})
			cl := newClient(t, addr)
			fetch(t, cl, get("/"))
			resp, err := cl.RoundTrip(t.Context(), tt.r(), proxy.RoundTripOptions{})
			if (err == nil) != tt.repeat {
				t.Fatalf("got %v, want an error: %v", err, !tt.repeat)
			}
			if err != nil {
				if proxy.Unsent(err) || !fault.Is(err, fault.Unavailable) {
					t.Errorf("got %v, unsent %v", err, proxy.Unsent(err))
				}
				return
			}
			resp.Body.Close()
			if want := []string{"GET", tt.r().Method}; got[0] != want[0] || !strings.HasPrefix(got[1], want[1]) {
				t.Errorf("the server saw %q", got)
			}
		})
	}
}

func TestARequestThatWasAnsweredInPartIsNotSentAgain(t *testing.T) {
	var connections atomic.Int32
	addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
		connections.Add(1)
		readRequest(t, br)
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		readRequest(t, br)
		io.WriteString(nc, "HTTP/1.1 2")
	})
	cl := newClient(t, addr)
	fetch(t, cl, get("/"))
	_, err := cl.RoundTrip(t.Context(), get("/"), proxy.RoundTripOptions{})
	if !fault.Is(err, fault.Unavailable) || proxy.Unsent(err) || connections.Load() != 1 {
		t.Errorf("got %v on %d connections", err, connections.Load())
	}
}

func TestARequestThatProvablyReachedNobodyIsSentAgain(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells what was acknowledged")
	}
	for _, tt := range []struct {
		name  string
		reads bool // the server has read the request when it closes
	}{{"closed before", false}, {"closed after", true}} {
		t.Run(tt.name, func(t *testing.T) {
			closed := make(chan struct{}, 1)
			addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
				readRequest(t, br)
				io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				if tt.reads {
					readRequest(t, br)
				}
				nc.Close()
				closed <- struct{}{}
			})
			cl := newClient(t, addr)
			fetch(t, cl, get("/"))
			c := cl.idle[0]
			if !tt.reads {
				// As if the end came after the look and before the request.
				<-closed
				for peekConn(c.nc) != sockio.Ended {
					time.Sleep(time.Millisecond)
				}
			}
			r := post("/", strings.NewReader("abc"), 3)
			head, _, err := appendRequestHead(nil, r)
			if err != nil {
				t.Fatal(err)
			}
			c.used = false // it is not looked into
			c.begin(t.Context(), 0, head, false)
			_, err = c.roundTrip(r, proxy.RoundTripOptions{})
			if !fault.Is(err, fault.Unavailable) {
				t.Fatalf("got %v", err)
			}
			if got := c.mayRepeat(r); got == tt.reads {
				t.Errorf("may be sent again: %v", got)
			}
		})
	}
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer srv.Close()
	cl := newClient(t, srv.Listener.Addr().String())
	cl.MaxIdle, cl.IdleTimeout = 2, 50*time.Millisecond
	var open []*proxy.Response
	for range 4 {
		resp, err := cl.RoundTrip(t.Context(), get("/"), proxy.RoundTripOptions{})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, resp)
	}
	for _, resp := range open {
		resp.Body.Close()
	}
	count := func() int {
		cl.mu.Lock()
		defer cl.mu.Unlock()
		return len(cl.idle)
	}
	if n := count(); n != 2 {
		t.Errorf("%d connections are kept, want 2", n)
	}
	for deadline := time.Now().Add(patience); count() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("idle connections are kept for ever")
		}
	}
	fetch(t, cl, get("/"))
	cl.Close()
	fetch(t, cl, get("/"))
	if n := count(); n != 0 {
		t.Errorf("%d connections are kept after Close", n)
	}
}

func TestAResponseIsNotReadAfterClose(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(bytes.Repeat([]byte(r.RequestURI), 100))
	}))
	defer srv.Close()
	cl := newClient(t, srv.Listener.Addr().String())
	first, err := cl.RoundTrip(t.Context(), get("/first"), proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	body := first.Body
	body.Close()
	second, err := cl.RoundTrip(t.Context(), get("/second"), proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Body.Close()
	body.Close()
	if n, err := body.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("a closed body returned %d, %v", n, err)
	}
	if got, err := io.ReadAll(second.Body); err != nil || len(got) != 700 {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestCloseEndsAReadThatWaits(t *testing.T) {
	addr := script(t, func(_ int, nc net.Conn, br *bufio.Reader) {
		readRequest(t, br)
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
		br.ReadByte()
	})
	resp, err := newClient(t, addr).RoundTrip(t.Context(), get("/"), proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	reading := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(resp.Body)
		reading <- err
	}()
	time.Sleep(time.Millisecond) // more likely to find the read waiting; right either way
	resp.Body.Close()
	if err := <-reading; err == nil {
		t.Error("the read ended without an error")
	}
}

func TestARequestIsSentThoughTheShortWaitAtFirstIsOverAlready(t *testing.T) {
	cl := newClient(t, serve(t, &Server{Handler: func(ex proxy.Exchange) { respond(t, ex, 200, nil, "ok") }}))
	for i := range 5 {
		if status, body, _ := fetch(t, cl, post("/", strings.NewReader("x"), 1)); status != 200 || body != "ok" {
			t.Fatalf("request %d: %d %q", i, status, body)
		}
		// As if this goroutine had not run between setting the deadline that is
		// kept for the next request, and asking.
		c := cl.idle[0]
		c.nc.SetReadDeadline(time.Unix(1, 0))
		c.readBy = time.Now().Add(ctxDelay)
	}
}
