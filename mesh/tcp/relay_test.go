package tcp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/tcp"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// outcomes is an Observer that keeps what it is told.
type outcomes struct {
	opened atomic.Int64
	closed chan tcp.Outcome
}

func newOutcomes() *outcomes { return &outcomes{closed: make(chan tcp.Outcome, 100)} }

func (o *outcomes) Opened()              { o.opened.Add(1) }
func (o *outcomes) Closed(c tcp.Outcome) { o.closed <- c }

func (o *outcomes) next(t *testing.T) tcp.Outcome {
	t.Helper()
	select {
	case c := <-o.closed:
		return c
	case <-time.After(patience):
		t.Fatal("no connection ended")
		panic("unreachable")
	}
}

// upstream serves connections until the test is over, and returns its address.
func upstream(tb testing.TB, tc *tls.Config, serve func(tcp.Stream)) string {
	tb.Helper()
	ln := listen(tb)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			var s tcp.Stream = c.(*net.TCPConn)
			if tc != nil {
				s = tls.Server(c, tc)
			}
			go func() {
				defer s.Close()
				serve(s)
			}()
		}
	}()
	tb.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return ln
}

// serve runs a relay until the test is over, and returns its address.
func serve(tb testing.TB, r *tcp.Relay) string {
	tb.Helper()
	ln := listen(tb)
	served := make(chan error, 1)
	go func() { served <- r.Serve(ln) }()
	tb.Cleanup(func() {
		r.Close()
		if err := <-served; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr().String()
}

func dial(tb testing.TB, addr string) *net.TCPConn {
	tb.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c.(*net.TCPConn)
}

// echo sends back what comes, and then the end.
func echo(s tcp.Stream) {
	_, _ = io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{s})
	_ = s.CloseWrite()
}

// certificates returns the configurations of a server and of a client that trusts
// it.
func certificates(tb testing.TB) (server, client *tls.Config) {
	tb.Helper()
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	client = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	client.ServerName = "example.com"
	return &tls.Config{Certificates: srv.TLS.Certificates, MinVersion: tls.VersionTLS13}, client
}

// eachPath runs a test with bare connections, and with TLS on one side or both.
func eachPath(t *testing.T, test func(t *testing.T, p path)) {
	server, client := certificates(t)
	for _, tc := range []struct {
		name   string
		in, up bool
	}{{"bare", false, false}, {"TLS in", true, false}, {"TLS out", false, true}, {"TLS on both sides", true, true}} {
		t.Run(tc.name, func(t *testing.T) {
			p := path{}
			if tc.in {
				p.in, p.client = server, client
			}
			if tc.up {
				p.up, p.out = server, client
			}
			test(t, p)
		})
	}
}

// path is what speaks TLS.
type path struct{ in, client, up, out *tls.Config }

// through runs a relay to a server and returns a connection through it.
func (p path) through(t *testing.T, r *tcp.Relay, handle func(tcp.Stream)) tcp.Stream {
	t.Helper()
	r.TLS, r.Dial = p.in, tcp.Dialer(upstream(t, p.up, handle), p.out)
	return p.connect(t, serve(t, r))
}

func (p path) connect(t *testing.T, addr string) tcp.Stream {
	t.Helper()
	c := dial(t, addr)
	if p.client == nil {
		return c
	}
	return tls.Client(c, p.client)
}

func TestBytesAndBothEndsPass(t *testing.T) {
	leak.Check(t)
	eachPath(t, func(t *testing.T, p path) {
		o := newOutcomes()
		c := p.through(t, &tcp.Relay{Observer: o}, func(s tcp.Stream) {
			// All of the request is there before any of the answer: the client's
			// end comes through while the other direction is open.
			b, err := io.ReadAll(s)
			if err != nil {
				t.Errorf("the upstream reads: %v", err)
			}
			_, _ = s.Write(bytes.ToUpper(b))
			_ = s.CloseWrite()
		})
		_, _ = io.WriteString(c, "content")
		_ = c.CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != "CONTENT" {
			t.Errorf("the answer is %q, %v", b, err)
		}
		_ = c.Close()
		if got := o.next(t); got.Err != nil || got.Sent != 7 || got.Received != 7 || got.Duration <= 0 {
			t.Errorf("the outcome is %+v", got)
		}
	})
}

func TestTheUpstreamMayEndFirst(t *testing.T) {
	leak.Check(t)
	eachPath(t, func(t *testing.T, p path) {
		o, rest := newOutcomes(), make(chan string, 1)
		c := p.through(t, &tcp.Relay{Observer: o}, func(s tcp.Stream) {
			_, _ = io.WriteString(s, "greeting")
			_ = s.CloseWrite()
			b, _ := io.ReadAll(s)
			rest <- string(b)
		})
		if b, err := io.ReadAll(c); err != nil || string(b) != "greeting" {
			t.Errorf("the client reads %q, %v", b, err)
		}
		_, _ = io.WriteString(c, "answer")
		_ = c.Close()
		if got := <-rest; got != "answer" {
			t.Errorf("the upstream reads %q", got)
		}
		if got := o.next(t); got.Err != nil {
			t.Errorf("the outcome is %+v", got)
		}
	})
}

// TestALongTransferTakesNoMemory sends 1 GiB between bare sockets, and less where
// it goes through the process.
func TestALongTransferTakesNoMemory(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	eachPath(t, func(t *testing.T, p path) {
		total := int64(64 << 20)
		if p.in == nil && p.up == nil {
			total = 1 << 30
		}
		sum := make(chan int64, 1)
		c := p.through(t, &tcp.Relay{Joiner: tcp.Joiner{Limits: tcp.Limits{Idle: time.Minute}}}, func(s tcp.Stream) {
			n, _ := io.Copy(io.Discard, struct{ io.Reader }{s})
			sum <- n
		})
		block := make([]byte, 1<<20)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range total / int64(len(block)) {
			if _, err := c.Write(block); err != nil {
				t.Fatal(err)
			}
		}
		_ = c.CloseWrite()
		if n := <-sum; n != total {
			t.Errorf("%d bytes arrived, want %d", n, total)
		}
		runtime.ReadMemStats(&after)
		if grown := int64(after.Sys) - int64(before.Sys); grown > 32<<20 {
			t.Errorf("the process has grown by %d MiB", grown>>20)
		}
	})
}

func TestASlowReaderSlowsDownTheSender(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	eachPath(t, func(t *testing.T, p path) {
		const total = 128 << 20
		read := make(chan struct{})
		c := p.through(t, &tcp.Relay{}, func(s tcp.Stream) {
			<-read
			n, err := io.Copy(s, struct{ io.Reader }{io.LimitReader(s, total)})
			if n != total || err != nil {
				t.Errorf("%d bytes arrived, %v", n, err)
			}
		})
		var sent atomic.Int64
		go func() {
			block := make([]byte, 64<<10)
			for sent.Load() < total {
				n, err := c.Write(block)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
		// What the kernel holds for four sockets is all that goes away.
		if n := standstill(t, &sent); n >= total*3/4 {
			t.Errorf("%d MiB were taken that nobody has read", n>>20)
		}
		close(read)
		if n, err := io.Copy(io.Discard, io.LimitReader(c, total)); n != total || err != nil {
			t.Errorf("%d bytes came back, %v", n, err)
		}
	})
}

// standstill waits until a number has not changed for a while, and returns it.
func standstill(t *testing.T, n *atomic.Int64) int64 {
	t.Helper()
	last, since := n.Load(), time.Now()
	for deadline := since.Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if now := n.Load(); now != last || now == 0 {
			last, since = now, time.Now()
		} else if time.Since(since) > 300*time.Millisecond {
			return last
		}
	}
	t.Fatal("it goes on and on")
	return 0
}

func TestAResetIsPassedOnAsOne(t *testing.T) {
	leak.Check(t)
	bare := func(s tcp.Stream) *net.TCPConn {
		if c, ok := s.(*tls.Conn); ok {
			return c.NetConn().(*net.TCPConn)
		}
		return s.(*net.TCPConn)
	}
	eachPath(t, func(t *testing.T, p path) {
		for _, from := range []string{"client", "upstream"} {
			t.Run("from the "+from, func(t *testing.T) {
				o, seen, ready := newOutcomes(), make(chan error, 1), make(chan struct{})
				c := p.through(t, &tcp.Relay{Observer: o}, func(s tcp.Stream) {
					_, _ = io.ReadFull(s, make([]byte, 5))
					_, _ = io.WriteString(s, "ready")
					if from == "upstream" {
						<-ready
						_ = bare(s).SetLinger(0)
						_ = bare(s).Close()
						return
					}
					_, err := s.Read(make([]byte, 1))
					seen <- err
				})
				_, _ = io.WriteString(c, "begin")
				if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
					t.Fatal(err)
				}
				if close(ready); from == "client" {
					_ = bare(c).SetLinger(0)
					_ = bare(c).Close()
				} else {
					_, err := c.Read(make([]byte, 1))
					seen <- err
				}
				if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the other side sees %v", err)
				}
				want := tcp.ClientReset
				if from == "upstream" {
					want = tcp.UpstreamReset
				}
				if got := o.next(t); got.Err == nil || runtime.GOOS == "linux" && got.Failure != want {
					t.Errorf("the outcome is %v, %v", got.Failure, got.Err)
				}
			})
		}
	})
}

func TestIdleConnectionsEndAndBusyOnesDoNot(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	leak.Check(t)
	eachPath(t, func(t *testing.T, p path) {
		o := newOutcomes()
		const idle = 500 * time.Millisecond
		c := p.through(t, &tcp.Relay{Observer: o, Joiner: tcp.Joiner{Limits: tcp.Limits{Idle: idle}}}, echo)
		began := time.Now()
		for last := began; time.Since(began) < 2*idle; last = time.Now() {
			_, _ = io.WriteString(c, "x")
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				if time.Since(last) < idle { // else this test was idle itself
					t.Fatalf("after %v: %v", time.Since(began), err)
				}
				break
			}
			time.Sleep(idle / 20)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the idle client sees %v, not a reset", err)
		}
		if got := o.next(t); got.Failure != tcp.Idle || got.Sent == 0 {
			t.Errorf("the outcome is %+v", got)
		}
	})
}

func TestConnectionsDoNotLastForeverIfTheyMayNot(t *testing.T) {
	leak.Check(t)
	eachPath(t, func(t *testing.T, p path) {
		o := newOutcomes()
		c := p.through(t, &tcp.Relay{Observer: o, Joiner: tcp.Joiner{Limits: tcp.Limits{Lifetime: 50 * time.Millisecond}}}, echo)
		if tc, ok := c.(*tls.Conn); ok {
			_ = tc.HandshakeContext(t.Context())
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the client reads on")
		}
		if got := o.next(t); got.Failure != tcp.TooOld {
			t.Errorf("the outcome is %+v", got)
		}
	})
}

// refused connects and returns how that, or the first read, fails.
func refused(t *testing.T, addr string) error {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err // the reset was there at once
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, err = c.Read(make([]byte, 1))
	return err
}

func TestOneConnectionTooManyIsReset(t *testing.T) {
	leak.Check(t)
	o := newOutcomes()
	addr := serve(t, &tcp.Relay{Dial: tcp.Dialer(upstream(t, nil, echo), nil), MaxConns: 2, Observer: o})
	both := []*net.TCPConn{dial(t, addr), dial(t, addr)}
	for _, c := range both {
		_, _ = io.WriteString(c, "x")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := refused(t, addr); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the third sees %v", err)
	}
	if got := o.next(t); got.Failure != tcp.Limited {
		t.Errorf("the outcome is %+v", got)
	}
	_ = both[0].Close()
	o.next(t) // from now on there is room again
	c := dial(t, addr)
	_, _ = io.WriteString(c, "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestAnUpstreamThatCannotBeReachedIsTold(t *testing.T) {
	leak.Check(t)
	ln := listen(t)
	_ = ln.Close()
	o := newOutcomes()
	addr := serve(t, &tcp.Relay{Dial: tcp.Dialer(ln.Addr().String(), nil), Observer: o})
	if err := refused(t, addr); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v", err)
	}
	if got := o.next(t); got.Failure != tcp.NotConnected || !strings.Contains(got.Err.Error(), ln.Addr().String()) {
		t.Errorf("the outcome is %+v", got)
	}
	hangs := func(ctx context.Context) (tcp.Stream, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	o = newOutcomes()
	addr = serve(t, &tcp.Relay{Dial: hangs, ConnectTimeout: 20 * time.Millisecond, Observer: o})
	if err := refused(t, addr); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v", err)
	}
	if got := o.next(t); got.Failure != tcp.NotConnected {
		t.Errorf("the outcome is %+v", got)
	}
}

func TestAClientThatKeepsSilentDoesNotHoldAHandshakeOpen(t *testing.T) {
	leak.Check(t)
	server, _ := certificates(t)
	o := newOutcomes()
	addr := serve(t, &tcp.Relay{Dial: tcp.Dialer("127.0.0.1:1", nil), TLS: server, ConnectTimeout: 20 * time.Millisecond, Observer: o})
	if err := refused(t, addr); err == nil {
		t.Error("the client reads on")
	}
	if got := o.next(t); got.Failure != tcp.Handshake {
		t.Errorf("the outcome is %+v", got)
	}
}

func TestAStopWaitsForConnectionsAndThenEndsThem(t *testing.T) {
	leak.Check(t)
	o := newOutcomes()
	r := &tcp.Relay{Dial: tcp.Dialer(upstream(t, nil, echo), nil), Observer: o}
	addr := serve(t, r)
	polite, stubborn := dial(t, addr), dial(t, addr)
	for _, c := range []*net.TCPConn{polite, stubborn} {
		_, _ = io.WriteString(c, "x")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	down := make(chan error, 1)
	go func() { down <- r.Shutdown(ctx) }()
	// It has stopped listening when nobody gets in any more.
	for {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		_ = c.Close()
	}
	_, _ = io.WriteString(polite, "y")
	_ = polite.CloseWrite()
	if b, err := io.ReadAll(polite); err != nil || string(b) != "y" {
		t.Errorf("a connection that was there reads %q, %v", b, err)
	}
	select {
	case err := <-down:
		t.Fatalf("Shutdown does not wait: %v", err)
	default:
	}
	cancel()
	if err := <-down; err == nil {
		t.Error("Shutdown does not say that a connection was left")
	}
	if _, err := stubborn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection that was left sees %v", err)
	}
	if r.Conns() != 0 {
		t.Errorf("%d connections are left", r.Conns())
	}
}

// BenchmarkRelay compares what the kernel moves with what goes through the
// process.
func BenchmarkRelay(b *testing.B) {
	const block = 4 << 20
	run := func(b *testing.B, relay func(client, upstream *net.TCPConn)) {
		sink := upstream(b, nil, func(s tcp.Stream) { _, _ = io.Copy(io.Discard, struct{ io.Reader }{s}) })
		ln := listen(b)
		done := make(chan struct{})
		go func() {
			defer close(done)
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", sink)
			if err != nil {
				b.Error(err)
				return
			}
			relay(in.(*net.TCPConn), out.(*net.TCPConn))
		}()
		c, content := dial(b, ln.Addr().String()), make([]byte, block)
		b.SetBytes(block)
		b.ReportAllocs()
		before := processorTime(b)
		for b.Loop() {
			if _, err := c.Write(content); err != nil {
				b.Fatal(err)
			}
		}
		_ = c.CloseWrite()
		<-done
		b.ReportMetric((processorTime(b)-before).Seconds()/float64(b.N)*float64(1<<30)/block, "cpu-s/GiB")
	}
	b.Run("kernel", func(b *testing.B) {
		var j tcp.Joiner
		run(b, func(client, upstream *net.TCPConn) { j.Join(context.Background(), client, upstream) })
	})
	b.Run("buffer", func(b *testing.B) {
		run(b, func(client, upstream *net.TCPConn) {
			go func() { _, _ = io.Copy(struct{ io.Writer }{client}, struct{ io.Reader }{upstream}) }()
			_, _ = io.Copy(struct{ io.Writer }{upstream}, struct{ io.Reader }{client})
			_ = upstream.Close()
		})
	})
}

// processorTime returns the processor time that the process has used.
func processorTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
