package faultnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
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

func TestPassForwardsEverythingInBothDirections(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		client, server := connect(t, p, u)
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
		var wg sync.WaitGroup
		defer wg.Wait()
		for _, way := range [][2]stream{{client, server}, {server, client}} {
			wg.Go(func() {
				_ = way[0].SetWriteDeadline(time.Now().Add(patience))
				if _, err := way[0].Write(big); err != nil {
					t.Error(err)
				}
				_ = way[0].CloseWrite()
			})
			wg.Go(func() {
				_ = way[1].SetReadDeadline(time.Now().Add(patience))
				if got, err := io.ReadAll(way[1]); err != nil || !bytes.Equal(got, big) {
					t.Errorf("got %d bytes, %v; want %d", len(got), err, len(big))
				}
			})
		}
	})
}

func TestPassKeepsHalfClosedConnectionsAndResets(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		client, server := connect(t, p, u)
		send(t, client, "last")
		_ = client.CloseWrite()
		want(t, server, "last")
		wantEnd(t, server)
		send(t, server, "answer")
		_ = server.Close()
		want(t, client, "answer")
		wantEnd(t, client)

		client, server = connect(t, p, u)
		abort(server)
		wantBroken(t, client)
		_ = client.Close()
		client, server = connect(t, p, u)
		abort(client)
		wantBroken(t, server)
		_ = server.Close()
		awaitOpen(t, p, 0)
	})
}

func awaitOpen(t *testing.T, p *Proxy, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); p.Open() != n; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open, want %d", p.Open(), n)
		}
	}
}

func TestRefuseBreaksConnectionsAndHealListensOnTheSameAddress(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		addr := p.Addr()
		for range 3 {
			client, server := connect(t, p, u)
			p.Refuse()
			wantBroken(t, client)
			wantBroken(t, server)
			if p.Open() != 0 {
				t.Errorf("%d connections are open", p.Open())
			}
			_, err := net.Dial(p.network, addr)
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("dial: %v, want connection refused", err)
			}
			p.Refuse() // again
			p.Heal()
			connect(t, p, u)
		}
		if p.Addr() != addr {
			t.Errorf("the address became %s", p.Addr())
		}
	})
}

func TestResetBreaksOldAndNewConnections(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		client, server := connect(t, p, u)
		p.Reset()
		wantBroken(t, client)
		wantBroken(t, server)
		for range 3 {
			wantBrokenDial(t, p)
		}
		u.mustBeAlone(t)
		if p.Accepted() != 4 {
			t.Errorf("accepted %d connections, want 4", p.Accepted())
		}
		p.Heal()
		connect(t, p, u)
	})
}

func TestStallHoldsEverythingAndLosesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		client, server := connect(t, p, u)
		p.Stall()
		send(t, client, "request")
		send(t, server, "response")
		late := dial(t, p)
		send(t, late, "hello")
		wantSilence(t, server)
		wantSilence(t, client)
		u.mustBeAlone(t)
		if p.Open() < 1 {
			t.Error("the connection is not open any more")
		}

		p.Heal()
		want(t, server, "request")
		want(t, client, "response")
		want(t, u.next(t), "hello")
	})
}

func TestStallMakesSendersBlock(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		client, server := connect(t, p, u)
		p.Stall(Upstream)
		_ = client.SetWriteDeadline(time.Now().Add(silence))
		sent, chunk := 0, make([]byte, 1<<20)
		for range 64 {
			n, err := client.Write(chunk)
			sent += n
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if sent == 64<<20 {
			t.Fatal("64 MiB went into a stalled connection")
		}
		send(t, server, "the other direction goes on")
		want(t, client, "the other direction goes on")
		p.Heal()
		_ = client.CloseWrite()
		_ = server.SetReadDeadline(time.Now().Add(patience))
		if n, err := io.Copy(io.Discard, server); err != nil || n != int64(sent) {
			t.Errorf("%d bytes came through, %v; want %d", n, err, sent)
		}
	})
}

func TestStallInterruptsATransferThatIsUnderWay(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		client, server := connect(t, p, u)
		var wg sync.WaitGroup
		defer wg.Wait()
		total := 16 << 20
		wg.Go(func() {
			_ = client.SetWriteDeadline(time.Now().Add(patience))
			if _, err := client.Write(make([]byte, total)); err != nil {
				t.Error(err)
			}
			_ = client.CloseWrite()
		})
		got := 0
		buf := make([]byte, 64<<10)
		for round := range 20 {
			p.Stall()
			for { // what was on its way before
				_ = server.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
				n, err := server.Read(buf)
				got += n
				if err != nil {
					break
				}
			}
			p.Heal()
			if round%2 == 0 { // let some of it through
				_ = server.SetReadDeadline(time.Now().Add(patience))
				n, _ := io.ReadAtLeast(server, buf, 1)
				got += n
			}
		}
		_ = server.SetReadDeadline(time.Now().Add(patience))
		n, err := io.Copy(io.Discard, server)
		if got += int(n); err != nil || got != total {
			t.Errorf("%d bytes came through, %v; want %d", got, err, total)
		}
	})
}

func TestBlackholeSwallowsAndHealResetsWhatHasLostBytes(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		client, server := connect(t, p, u)
		idle, idleServer := connect(t, p, u)
		p.Blackhole()
		send(t, client, "request")
		send(t, server, "response")
		late := dial(t, p)
		send(t, late, "hello")
		wantSilence(t, server)
		wantSilence(t, client)
		wantSilence(t, late)
		u.mustBeAlone(t)

		p.Heal()
		if got := wantBroken(t, client) + wantBroken(t, server) + wantBroken(t, late); got != "" {
			t.Errorf("%q has come out of the black hole", got)
		}
		mustEcho(t, idle, idleServer)
		connect(t, p, u)
	})
}

func TestBlackholeDownstreamLosesOnlyTheAnswers(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		p.Blackhole(Downstream)
		client := dial(t, p)
		send(t, client, "request")
		server := u.next(t)
		want(t, server, "request")
		send(t, server, "answer")
		wantSilence(t, client)
		p.Heal()
		wantBroken(t, client)
	})
}

func TestABlackholeTakesAnyAmount(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		client, _ := connect(t, p, u)
		p.Blackhole()
		send(t, client, strings.Repeat("x", 32<<20))
	})
}

func TestLatencyDelaysEachByteButNotTheRate(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		const delay = 50 * time.Millisecond
		client, server := connect(t, p, u)
		p.Latency(delay, Downstream)
		begin := time.Now()
		send(t, server, "answer")
		want(t, client, "answer")
		if took := time.Since(begin); took < delay {
			t.Errorf("the answer took %v, want at least %v", took, delay)
		}
		p.Latency(time.Hour, Downstream)
		send(t, server, "slow")
		send(t, client, "the other direction is not slowed")
		want(t, server, "the other direction is not slowed")
		wantSilence(t, client)
		_ = server.CloseWrite()
		wantSilence(t, client) // the end is as slow as the rest
		p.Heal()
		want(t, client, "slow")
		wantEnd(t, client)
	})
}

func TestManySmallMessagesUnderLatencyDoNotAddUp(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		const delay, messages = 300 * time.Millisecond, 200 // a minute if they waited for each other
		client, server := connect(t, p, u)
		p.Latency(delay)
		for range messages {
			send(t, client, "m")
			time.Sleep(time.Millisecond) // makes them chunks of their own
		}
		want(t, server, strings.Repeat("m", messages)) // within patience
	})
}

func TestCutAfterDeliversExactlySoManyBytes(t *testing.T) {
	for _, n := range []int64{0, 1, 5, 100_000} {
		onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
			body := strings.Repeat("0123456789", 20_000)
			old, oldServer := connect(t, p, u)
			p.CutAfter(Downstream, n)
			fresh := dial(t, p)
			broken := sendAll(oldServer, body)
			_ = sendAll(u.next(t), body)
			for _, client := range []stream{old, fresh} {
				_ = client.SetReadDeadline(time.Now().Add(patience))
				if got, err := io.ReadAll(client); err != nil || string(got) != body[:n] {
					t.Errorf("got %d bytes, %v; want the first %d", len(got), err, n)
				}
			}
			if broken == nil {
				wantBroken(t, oldServer)
			}
			_ = old.Close()
			_ = fresh.Close()
			awaitOpen(t, p, 0)

			p.Heal()
			client, server := connect(t, p, u)
			p.CutAfter(Upstream, n)
			broken = sendAll(client, body)
			_ = server.SetReadDeadline(time.Now().Add(patience))
			if got, err := io.ReadAll(server); err != nil || string(got) != body[:n] {
				t.Errorf("the server got %d bytes, %v; want the first %d", len(got), err, n)
			}
			if broken == nil {
				wantBroken(t, client)
			}
		})
	}
}

// sendAll sends what the other end may not want to hear out. An error it returns
// is not reported by the connection again.
func sendAll(to net.Conn, text string) error {
	_ = to.SetWriteDeadline(time.Now().Add(patience))
	_, err := io.WriteString(to, text)
	return err
}

func TestCutAfterCountsFromWhenItWasAsked(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		client, server := connect(t, p, u)
		p.CutAfter(Downstream, 8)
		mustEcho(t, client, server)
		p.CutAfter(Downstream, 8)
		mustEcho(t, client, server)
		mustEcho(t, client, server)
		wantEnd(t, client)
	})
}

func TestHalfCloseEndsOneDirectionOfOldConnections(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		client, server := connect(t, p, u)
		p.HalfClose(Downstream)
		wantEnd(t, client)
		send(t, server, "into the void")
		send(t, client, "still heard")
		want(t, server, "still heard")
		fresh, freshServer := connect(t, p, u)
		p.Heal()
		mustEcho(t, fresh, freshServer)
		wantEnd(t, client)

		_ = client.Close()
		wantEnd(t, server)
		_ = server.Close()
		awaitOpen(t, p, 1)
	})
}

func TestAServerThatIsDownBreaksTheConnection(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		_ = u.Close()
		wantBrokenDial(t, p)
		awaitOpen(t, p, 0)
	})
}

func TestCloseEndsEverythingInEveryMode(t *testing.T) {
	modes := map[string]func(*Proxy){
		"pass": func(*Proxy) {}, "refuse": (*Proxy).Refuse, "reset": (*Proxy).Reset,
		"stall":     func(p *Proxy) { p.Stall() },
		"blackhole": func(p *Proxy) { p.Blackhole() },
		"latency":   func(p *Proxy) { p.Latency(time.Hour) },
		"cut":       func(p *Proxy) { p.CutAfter(Upstream, 3) },
		"halfclose": func(p *Proxy) { p.HalfClose(Upstream) },
	}
	for name, set := range modes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
				client, server := connect(t, p, u)
				set(p)
				_ = sendAll(client, "request")
				_ = sendAll(server, "response")
				if late, err := net.Dial(p.network, p.Addr()); err == nil {
					defer late.Close()
					_ = sendAll(late, "hello")
				}
				p.Close()
				p.Close()
				set(p) // has no effect, and does not hang
				if p.Open() != 0 {
					t.Errorf("%d connections are open", p.Open())
				}
				if conn, err := net.Dial(p.network, p.Addr()); err == nil {
					_ = conn.Close()
					t.Error("a closed proxy accepts connections")
				}
			})
		})
	}
}

func TestModesCanBeSwitchedFromManyGoroutinesUnderLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, p *Proxy, u *upstream) {
		modes := []func(){
			p.Heal, p.Refuse, p.Reset, func() { p.Stall() }, func() { p.Blackhole() }, func() { p.Stall(Upstream) },
			func() { p.Blackhole(Downstream) }, func() { p.Latency(time.Millisecond) },
			func() { p.CutAfter(Upstream, 10) }, func() { p.HalfClose(Downstream) },
		}
		stop := make(chan struct{})
		var load, switches sync.WaitGroup
		for range 8 {
			load.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if conn, err := net.Dial(p.network, p.Addr()); err == nil {
						_ = conn.SetDeadline(time.Now().Add(2 * time.Millisecond))
						_, _ = io.WriteString(conn, "some bytes")
						_, _ = conn.Read(make([]byte, 10))
						_ = conn.Close()
					}
				}
			})
		}
		load.Go(func() { // the server echoes
			for {
				select {
				case c := <-u.conns:
					load.Go(func() { _, _ = io.Copy(c, c); _ = c.Close() })
				case <-stop:
					return
				}
			}
		})
		for i := range 3 {
			switches.Go(func() {
				for n := range 100 {
					modes[(n*7+i*3)%len(modes)]()
				}
			})
		}
		switches.Wait()
		close(stop)
		p.Heal()
		p.Close()
		load.Wait()
	})
}

func TestDirectionsHaveNames(t *testing.T) {
	got := []string{Upstream.String(), Downstream.String()}
	if !slices.Equal(got, []string{"upstream", "downstream"}) {
		t.Errorf("got %q", got)
	}
}
