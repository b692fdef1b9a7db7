package faultnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

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
