package harness

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/proa-io/proa/internal/testserver"
)

// request is the head of a request that went over a tap.
type request struct {
	method, target string
	field          func(name string) string // of the header
}

// tap passes on what goes to a port of this machine, as it is, and reports the
// requests in it: HTTP/1.1, or HTTP/2 without TLS.
type tap struct {
	ln   net.Listener
	to   string
	seen func(request)

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
	work   sync.WaitGroup
}

// newTap returns a tap at a port, any free one when 0, that leads to another
// one. It takes connections once serve runs.
func newTap(tb testserver.TB, to int, seen func(request)) *tap {
	tb.Helper()
	t := &tap{to: "127.0.0.1:" + strconv.Itoa(to), seen: seen, conns: map[net.Conn]struct{}{}}
	tb.Cleanup(t.close)
	return t
}

// listen takes connections at a port, any free one when 0, and returns it.
func (t *tap) listen(port int) (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return 0, errors.Join(net.ErrClosed, ln.Close())
	}
	t.ln = ln
	t.work.Go(func() { t.accept(ln) })
	return ln.Addr().(*net.TCPAddr).Port, nil
}

// follow takes connections at a port as soon as there is somebody at the other
// end: who waits for that waits for the tap in the same way.
func (t *tap) follow(tb testserver.TB, port int) {
	t.work.Go(func() {
		for !t.isClosed() {
			conn, err := net.Dial("tcp", t.to)
			if err != nil {
				time.Sleep(askEvery)
				continue
			}
			_ = conn.Close()
			if _, err := t.listen(port); err != nil && !errors.Is(err, net.ErrClosed) {
				tb.Logf("tap: %v", err)
			}
			return
		}
	})
}

func (t *tap) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// close ends the tap and everything that goes over it, and waits until all that
// it has seen is reported.
func (t *tap) close() {
	t.mu.Lock()
	t.closed = true
	if t.ln != nil {
		_ = t.ln.Close()
	}
	for c := range t.conns {
		_ = c.Close()
	}
	t.mu.Unlock()
	t.work.Wait()
}

// keep notes a connection to close with the tap.
func (t *tap) keep(c net.Conn) (ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		_ = c.Close()
		return false
	}
	t.conns[c] = struct{}{}
	return true
}

func (t *tap) drop(c net.Conn) {
	_ = c.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
}

func (t *tap) accept(ln net.Listener) {
	for {
		from, err := ln.Accept()
		if err != nil {
			return
		}
		if t.keep(from) {
			t.work.Go(func() { t.relay(from) })
		}
	}
}

// relay carries one connection until both sides have ended.
func (t *tap) relay(from net.Conn) {
	defer t.drop(from)
	to, err := net.Dial("tcp", t.to)
	if err != nil || !t.keep(to) {
		return
	}
	defer t.drop(to)
	read, write := io.Pipe()
	var both sync.WaitGroup
	both.Go(func() {
		report(read, t.seen)
		_, _ = io.Copy(io.Discard, read) // what cannot be read as HTTP goes through all the same
	})
	both.Go(func() {
		_, _ = io.Copy(to, io.TeeReader(from, write))
		_ = write.Close()
		_ = to.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(from, to)
	_ = from.(*net.TCPConn).CloseWrite()
	if t.isClosed() {
		_ = from.Close()
	}
	both.Wait()
}

// report tells of the requests in what a client sends.
func report(r io.Reader, seen func(request)) {
	br := bufio.NewReader(r)
	if start, err := br.Peek(3); err != nil || string(start) != "PRI" {
		reportHTTP1(br, seen)
		return
	}
	if _, err := br.Discard(len(http2.ClientPreface)); err != nil {
		return
	}
	frames := http2.NewFramer(io.Discard, br)
	frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	frames.ReadMetaHeaders.SetAllowedMaxDynamicTableSize(1 << 20)
	for {
		frame, err := frames.ReadFrame()
		var stream http2.StreamError
		if err != nil && !errors.As(err, &stream) {
			return
		}
		head, ok := frame.(*http2.MetaHeadersFrame)
		if !ok || head.PseudoValue("path") == "" {
			continue
		}
		fields := http.Header{}
		for _, f := range head.RegularFields() {
			fields.Add(f.Name, f.Value)
		}
		seen(request{head.PseudoValue("method"), head.PseudoValue("path"), fields.Get})
	}
}

func reportHTTP1(br *bufio.Reader, seen func(request)) {
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		seen(request{r.Method, r.RequestURI, r.Header.Get})
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
	}
}
