package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
)

const (
	// longContent is more than all buffers on the way can hold, with those of
	// the kernel; heldContent is the most that may be in them.
	longContent = 96 << 20
	heldContent = 48 << 20
)

// writeCounted writes longContent bytes in the framing, and counts them.
func writeCounted(nc net.Conn, chunked bool, count *atomic.Int64) error {
	block := make([]byte, 64<<10)
	for range longContent / len(block) {
		if chunked {
			fmt.Fprintf(nc, "%x\r\n", len(block))
		}
		if _, err := nc.Write(block); err != nil {
			return err
		}
		if chunked {
			io.WriteString(nc, "\r\n")
		}
		count.Add(int64(len(block)))
	}
	if chunked {
		io.WriteString(nc, "0\r\n\r\n")
	}
	return nil
}

func framing(chunked bool) string {
	if chunked {
		return "Transfer-Encoding: chunked\r\n"
	}
	return fmt.Sprintf("Content-Length: %d\r\n", longContent)
}

// standstill waits until the count does not grow any more, and returns it. Where
// nothing holds up the writer, it returns longContent.
func standstill(count *atomic.Int64) int64 {
	for last := int64(-1); ; {
		now := count.Load()
		if now == last && now > 0 || now == longContent {
			return now
		}
		last = now
		time.Sleep(200 * time.Millisecond)
	}
}

// TestASlowReaderHoldsUpTheWriter lets a client take its time with a response,
// and a server with a request: the other side must wait, not the proxy store.
func TestASlowReaderHoldsUpTheWriter(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprintf("response, chunked %v", chunked), func(t *testing.T) {
			t.Parallel()
			var sent atomic.Int64
			backend := serveOnce(t, func(nc net.Conn, br *bufio.Reader) {
				http.ReadRequest(br)
				io.WriteString(nc, "HTTP/1.1 200 OK\r\n"+framing(chunked)+"\r\n")
				writeCounted(nc, chunked, &sent)
			})
			nc := dial(t, hop(t, backend, proxy.ForwardOptions{}, nil))
			nc.SetDeadline(time.Now().Add(time.Minute))
			io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if n := standstill(&sent); n > heldContent {
				t.Errorf("the server could send %d bytes to a client that reads none", n)
			}
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, resp.Body); n != longContent || err != nil {
				t.Errorf("the client got %d bytes, %v", n, err)
			}
		})
		t.Run(fmt.Sprintf("request, chunked %v", chunked), func(t *testing.T) {
			t.Parallel()
			var sent atomic.Int64
			read, got := make(chan struct{}), make(chan int64, 1)
			backend := serveOnce(t, func(nc net.Conn, br *bufio.Reader) {
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				<-read
				n, _ := io.Copy(io.Discard, r.Body)
				got <- n
				io.WriteString(nc, "HTTP/1.1 204 No Content\r\n\r\n")
			})
			nc := dial(t, hop(t, backend, proxy.ForwardOptions{}, nil))
			nc.SetDeadline(time.Now().Add(time.Minute))
			io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a\r\n"+framing(chunked)+"\r\n")
			go writeCounted(nc, chunked, &sent)
			if n := standstill(&sent); n > heldContent {
				t.Errorf("the client could send %d bytes to a server that reads none", n)
			}
			close(read)
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil || resp.StatusCode != 204 {
				t.Fatalf("got %v, %v", resp, err)
			}
			if n := <-got; n != longContent {
				t.Errorf("the server got %d bytes", n)
			}
		})
	}
}

// serveOnce serves one connection.
func serveOnce(t *testing.T, f func(nc net.Conn, br *bufio.Reader)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-served })
	go func() {
		defer close(served)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(time.Minute))
		f(nc, bufio.NewReader(nc))
	}()
	return ln.Addr().String()
}

// TestWhatAServerSaysUnaskedIsNoResponse lets a server send a second response
// that nobody asked for: the next request must not get it.
func TestWhatAServerSaysUnaskedIsNoResponse(t *testing.T) {
	said := make(chan struct{}, 1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				br := bufio.NewReader(nc)
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.RequestURI), r.RequestURI)
				io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
				said <- struct{}{}
				io.Copy(io.Discard, br)
			}()
		}
	}()
	nc := dial(t, hop(t, ln.Addr().String(), proxy.ForwardOptions{}, nil))
	br := bufio.NewReader(nc)
	for _, target := range []string{"/1", "/2", "/3"} {
		fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", target)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); string(body) != target {
			t.Errorf("%s got %q", target, body)
		}
		wait(t, said, "second response")
	}
}
