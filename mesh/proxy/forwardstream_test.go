package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/mesh/proxy"
)

func TestInterimResponsesAreForwarded(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		addr := backend(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</style.css>")
			w.WriteHeader(103)
			w.Header().Del("Link")
			io.WriteString(w, "done")
		})
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, h.Get("Link")))
			return nil
		}})
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+addr, nil)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if len(hints) != 1 || hints[0] != "103</style.css>" {
			t.Errorf("got %q", hints)
		}
	})
}

func TestEventsAreNotLate(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		next, gone := make(chan int), make(chan struct{})
		addr := backend(func(w http.ResponseWriter, r *http.Request) {
			defer close(gone)
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			for {
				select {
				case i := <-next:
					fmt.Fprintf(w, "data: %d\n\n", i)
					w.(http.Flusher).Flush()
				case <-r.Context().Done():
					return
				}
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+addr, nil)
		resp, err := http.DefaultTransport.RoundTrip(req) // returns before the first event
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		br := bufio.NewReader(resp.Body)
		for i := range 20 {
			next <- i
			// The next event is not sent before this one has come.
			if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("got %q, %v", line, err)
			}
			br.ReadString('\n')
		}
		cancel()
		wait(t, gone, "cancellation at the server")
	})
}

func TestBothBodiesMayStreamAtTheSameTime(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		addr := backend(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			rc.EnableFullDuplex()
			rc.Flush()
			br := bufio.NewReader(r.Body)
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				io.WriteString(w, "echo "+line)
				rc.Flush()
			}
		})
		pr, pw := io.Pipe()
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+addr, pr)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		br := bufio.NewReader(resp.Body)
		for i := range 50 {
			fmt.Fprintf(pw, "line %d\n", i)
			if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("echo line %d\n", i) {
				t.Fatalf("got %q, %v", line, err)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
			t.Errorf("at the end: %q, %v", rest, err)
		}
	})
}

func TestWebSocketsAreForwarded(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		closed := make(chan error, 1)
		addr := backend(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}})
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			ws.SetReadLimit(-1)
			for {
				kind, p, err := ws.Read(context.Background())
				if err != nil {
					closed <- err
					return
				}
				if err := ws.Write(context.Background(), kind, p); err != nil {
					closed <- err
					return
				}
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		ws, resp, err := websocket.Dial(ctx, "ws://"+addr+"/chat", &websocket.DialOptions{Subprotocols: []string{"chat"}})
		if err != nil {
			t.Fatal(err)
		}
		if ws.Subprotocol() != "chat" || resp.StatusCode != 101 {
			t.Errorf("subprotocol %q, status %d", ws.Subprotocol(), resp.StatusCode)
		}
		ws.SetReadLimit(-1)
		for _, size := range []int{0, 1, 125, 70_000, 1 << 20} {
			if err := ws.Write(ctx, websocket.MessageBinary, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if _, p, err := ws.Read(ctx); err != nil || len(p) != size {
				t.Fatalf("got %d bytes of %d, %v", len(p), size, err)
			}
		}
		if err := ws.Close(websocket.StatusGoingAway, "bye"); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := wait(t, closed, "end at the server"); websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("the server saw %v", err)
		}
	})
}

// upgrader is a server that speaks a protocol of its own after the upgrade: it
// reads to the end, then answers with what it read, and closes.
func upgrader(t *testing.T) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Greeting: hi\r\n\r\nhello ", r.Header.Get("Upgrade"))
		rw.Flush()
		got, err := io.ReadAll(rw)
		fmt.Fprintf(rw, "%s %v", got, err)
		rw.Flush()
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestAnUpgradedStreamIsClosedInHalves(t *testing.T) {
	outcomes := make(chan proxy.Outcome, 1)
	addr := hop(t, hop(t, upgrader(t), proxy.ForwardOptions{}, nil), proxy.ForwardOptions{}, outcomes)
	nc := dial(t, addr)
	// What is sent along with the request is not lost.
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: Echo/1\r\n\r\nearly")
	time.Sleep(time.Millisecond)
	io.WriteString(nc, " late")
	nc.CloseWrite()
	got, err := io.ReadAll(nc)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(got), "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.Contains(head, "Upgrade: echo/1") || !strings.Contains(head, "X-Greeting: hi") {
		t.Errorf("got head %q", head)
	}
	if rest != "hello early late <nil>" {
		t.Errorf("got %q", rest)
	}
	out := wait(t, outcomes, "outcome")
	if out.Err != nil || out.Sent != int64(len("early late")) || out.Received != int64(len(rest)) || out.Status != 101 || !out.Started {
		t.Errorf("outcome %+v", out)
	}
}

func TestAnUpgradedStreamEndsWhenOneSideIsReset(t *testing.T) {
	outcomes := make(chan proxy.Outcome, 1)
	addr := hop(t, upgrader(t), proxy.ForwardOptions{}, outcomes)
	nc := dial(t, addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
	if _, err := bufio.NewReader(nc).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	nc.SetLinger(0)
	nc.Close()
	wait(t, outcomes, "outcome")
}

func TestLongBodiesAreStreamedInBoundedMemory(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	eachChain(t, func(t *testing.T, backend startBackend) {
		size := int64(20 << 20)
		if strings.HasSuffix(t.Name(), "/1-1-1") {
			size = 100 << 20 // the way through the kernel is a long one, too
		}
		t.Run("length", func(t *testing.T) { streamLong(t, backend, size, true) })
		t.Run("chunked", func(t *testing.T) { streamLong(t, backend, 20<<20, false) })
	})
}

// streamLong sends content of the size in both directions.
func streamLong(t *testing.T, backend startBackend, size int64, announced bool) {
	addr := backend(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			h := sha256.New()
			n, err := io.Copy(h, r.Body)
			fmt.Fprintf(w, "%d %x %v", n, h.Sum(nil), err)
			return
		}
		if announced {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		io.Copy(w, pattern(size))
	})
	want := sha256.New()
	io.Copy(want, pattern(size))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	resp, err := http.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	got := sha256.New()
	n, err := io.Copy(got, resp.Body)
	resp.Body.Close()
	if err != nil || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("read %d bytes, %v, not what was sent", n, err)
	}

	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+addr, pattern(size))
	if announced {
		req.ContentLength = size
	}
	resp, err = http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if w := fmt.Sprintf("%d %x <nil>", size, want.Sum(nil)); string(text) != w {
		t.Errorf("the server read %s, want %s", text, w)
	}

	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 30<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// pattern returns a reader of n bytes that do not repeat in step with any
// buffer.
func pattern(n int64) io.Reader { return io.LimitReader(&patternReader{block: newBlock()}, n) }

func newBlock() []byte {
	block := make([]byte, 99_991)
	for i := range block {
		block[i] = byte(uint64(i) * 0x9e3779b97f4a7c15 >> 56)
	}
	return block
}

type patternReader struct {
	block []byte
	at    int
}

func (p *patternReader) Read(b []byte) (int, error) {
	n := copy(b, p.block[p.at:])
	p.at = (p.at + n) % len(p.block)
	return n, nil
}
