package faultnet

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/leak"
)

// patience bounds waits for what must happen; reaching it is a failure.
const patience = 20 * time.Second

// silence is how long nothing must be seen where nothing may ever come.
const silence = 100 * time.Millisecond

// upstream is a server that gives its connections to the test.
type upstream struct {
	net.Listener
	conns chan stream
}

func newUpstream(t *testing.T, network string) *upstream {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "up-*")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		addr = filepath.Join(dir, "up.sock")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{Listener: l, conns: make(chan stream, 100)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			u.conns <- conn.(stream)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		close(u.conns)
		for c := range u.conns {
			_ = c.Close()
		}
	})
	return u
}

// next returns the server's side of the next connection.
func (u *upstream) next(t *testing.T) stream {
	t.Helper()
	select {
	case c := <-u.conns:
		t.Cleanup(func() { _ = c.Close() })
		return c
	case <-time.After(patience):
		t.Fatal("no connection has reached the server")
		return nil
	}
}

func (u *upstream) mustBeAlone(t *testing.T) {
	t.Helper()
	select {
	case <-u.conns:
		t.Fatal("a connection has reached the server")
	case <-time.After(silence):
	}
}

func dial(t *testing.T, p *Proxy) stream {
	t.Helper()
	conn, err := net.DialTimeout(p.network, p.Addr(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(stream)
}

func send(t *testing.T, to net.Conn, text string) {
	t.Helper()
	_ = to.SetWriteDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, from net.Conn, text string) {
	t.Helper()
	_ = from.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(text))
	if n, err := io.ReadFull(from, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v; want %q", got[:n], err, text)
	}
}

func wantEnd(t *testing.T, from net.Conn) {
	t.Helper()
	_ = from.SetReadDeadline(time.Now().Add(patience))
	if n, err := from.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("got %d bytes, %v; want the end of the stream", n, err)
	}
}

// wantBroken reads until the connection fails and returns what came before.
func wantBroken(t *testing.T, from net.Conn) string {
	t.Helper()
	_ = from.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(from)
	if from.LocalAddr().Network() == "unix" && err == nil {
		return string(got) // there is no reset on a Unix socket
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %q, %v; want a reset", got, err)
	}
	return string(got)
}

// wantBrokenDial connects and wants a reset, which can come before connecting
// is over.
func wantBrokenDial(t *testing.T, p *Proxy) {
	t.Helper()
	conn, err := net.DialTimeout(p.network, p.Addr(), patience)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wantBroken(t, conn)
}

func wantSilence(t *testing.T, from net.Conn) {
	t.Helper()
	_ = from.SetReadDeadline(time.Now().Add(silence))
	if n, err := from.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %d bytes, %v; want nothing at all", n, err)
	}
}

// mustEcho proves that both ends can talk.
func mustEcho(t *testing.T, client, server net.Conn) {
	t.Helper()
	send(t, client, "ping")
	want(t, server, "ping")
	send(t, server, "pong")
	want(t, client, "pong")
}

// connect makes one whole connection.
func connect(t *testing.T, p *Proxy, u *upstream) (client, server stream) {
	t.Helper()
	client, server = dial(t, p), u.next(t)
	mustEcho(t, client, server)
	return client, server
}

// onBoth runs a test over TCP and over Unix sockets.
func onBoth(t *testing.T, test func(t *testing.T, p *Proxy, u *upstream)) {
	t.Helper()
	for network, open := range map[string]func(testing.TB, string) *Proxy{"tcp": New, "unix": NewUnix} {
		t.Run(network, func(t *testing.T) {
			leak.Check(t)
			u := newUpstream(t, network)
			test(t, open(t, u.Addr().String()), u)
		})
	}
}

func awaitOpen(t *testing.T, p *Proxy, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); p.Open() != n; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open, want %d", p.Open(), n)
		}
	}
}

// sendAll sends what the other end may not want to hear out. An error it returns
// is not reported by the connection again.
func sendAll(to net.Conn, text string) error {
	_ = to.SetWriteDeadline(time.Now().Add(patience))
	_, err := io.WriteString(to, text)
	return err
}
