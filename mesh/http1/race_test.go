package http1

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
)

// fickle is a server that closes its connections at random moments while it
// waits for the next request, as one does that shuts down or is out of patience.
type fickle struct {
	mu   sync.Mutex
	seen map[string]int // requests that were read as a whole, by their content
}

func (f *fickle) serve(nc net.Conn, seed uint64) {
	defer nc.Close()
	random := rand.New(rand.NewPCG(seed, 1))
	br := bufio.NewReader(nc)
	for first := true; ; first = false {
		if !first {
			nc.SetReadDeadline(time.Now().Add(time.Duration(random.IntN(2000)) * time.Microsecond))
		}
		if _, err := br.Peek(1); err != nil {
			return // out of patience, perhaps just as a request comes
		}
		nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		f.mu.Lock()
		f.seen[r.RequestURI+string(body)]++
		f.mu.Unlock()
		if _, err := io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

func TestAServerThatClosesIdleConnectionsNeverFailsARequest(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells what was acknowledged")
	}
	for _, network := range []string{"tcp", "unix"} {
		for _, c := range []struct {
			method string
			inline bool // the requests are sent by coroutines
		}{{"GET", false}, {"POST", false}, {"GET", true}, {"POST", true}} {
			method := c.method
			t.Run(fmt.Sprintf("%s %s inline=%t", network, method, c.inline), func(t *testing.T) {
				t.Parallel()
				f := &fickle{seen: make(map[string]int)}
				cl := &Client{Network: network, Address: serveFickle(t, network, f)}
				defer cl.Close()
				if c.inline {
					cl = &Client{Address: serveInline(t, cl)}
					defer cl.Close()
				}
				keepAsking(t, cl, method)
				f.mu.Lock()
				defer f.mu.Unlock()
				for request, times := range f.seen {
					if times > 1 && method == "POST" {
						t.Errorf("%s was processed %d times", request, times)
					}
				}
			})
		}
	}
}

// serveFickle returns the address of f.
func serveFickle(t *testing.T, network string, f *fickle) string {
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	conns.Go(func() {
		for seed := uint64(0); ; seed++ {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { f.serve(nc, seed) })
		}
	})
	return ln.Addr().String()
}

// keepAsking sends requests around the moments at which connections are closed.
func keepAsking(t *testing.T, cl *Client, method string) {
	var wg sync.WaitGroup
	for g := range uint64(8) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(g, 2))
			for i := range 400 {
				time.Sleep(time.Duration(random.IntN(1500)) * time.Microsecond)
				r := get(fmt.Sprintf("/%d/%d", g, i))
				if method == "POST" {
					r = post(r.Target, strings.NewReader("abc"), 3)
				}
				resp, err := cl.RoundTrip(t.Context(), r, proxy.RoundTripOptions{})
				if err != nil {
					t.Errorf("request %d: %v", i, err)
					return
				}
				if body, err := io.ReadAll(resp.Body); string(body) != "ok" {
					t.Errorf("request %d: %q, %v", i, body, err)
				}
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
}

func TestAResetTellsThatARequestWasNotRead(t *testing.T) {
	tests := []struct {
		name   string
		size   int
		end    func(nc net.Conn, br *bufio.Reader)
		repeat bool
	}{
		{"closed unread", 3, func(nc net.Conn, _ *bufio.Reader) { waitReadable(nc) }, true},
		{"closed when read", 3, func(nc net.Conn, br *bufio.Reader) { readRequest(t, br) }, false},
		{"too large to be read at once", 6000, func(nc net.Conn, _ *bufio.Reader) { waitReadable(nc) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := script(t, func(i int, nc net.Conn, br *bufio.Reader) {
				readRequest(t, br)
				io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				if i == 0 {
					tt.end(nc, br)
				}
			})
			cl := newClient(t, addr)
			fetch(t, cl, get("/"))
			resp, err := cl.RoundTrip(t.Context(), post("/", strings.NewReader(strings.Repeat("x", tt.size)), int64(tt.size)), proxy.RoundTripOptions{})
			if err == nil {
				resp.Body.Close()
			}
			if (err == nil) != tt.repeat || proxy.Unsent(err) {
				t.Errorf("got %v, want it sent again: %v", err, tt.repeat)
			}
		})
	}
}

// waitReadable waits until bytes have arrived, and leaves them in the kernel.
func waitReadable(nc net.Conn) {
	for peekConn(nc) == 0 {
		time.Sleep(100 * time.Microsecond)
	}
}

func TestKeepAliveSaysForHowLongAConnectionIsUsed(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"timeout=5": 4 * time.Second, "max=3, Timeout = 1": time.Second / 2, "timeout=0": 0, "timeout=-1": 0, "max=5": 0,
		"timeout=99999999999": 0, "timeout": 0, "": 0,
	} {
		if got := parseKeepAlive(value); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	cl := &Client{IdleTimeout: -1}
	c := &clientConn{keepFor: time.Second, idleSince: time.Unix(0, 0)}
	if !cl.expired(c, time.Unix(1, 0)) || cl.expired(c, time.Unix(0, 999)) {
		t.Error("the connection is not used for as long as the server keeps it")
	}
}
