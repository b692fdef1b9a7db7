package peer

import (
	"bytes"
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/test/bench/load"
	"github.com/proa-io/proa/test/bench/wire"
)

// The proxies must do what Proa does, or the comparison is none. make bench
// installs them; where they are not there this test has nothing to say.
func TestTheProxiesForwardBothProtocols(t *testing.T) {
	fastloop.Skip(t, "starts programs")
	apps := make([]string, 2)
	for i, app := range []func(net.Listener){wire.EchoHTTP1, wire.EchoH2} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); app(l) }()
		t.Cleanup(func() { _ = l.Close(); <-done })
		apps[i] = l.Addr().String()
	}
	for _, c := range []struct {
		name  string
		start func(context.Context, Options) (*Peer, error)
	}{{"nginx", StartNginx}, {"haproxy", StartHaproxy}} {
		t.Run(c.name, func(t *testing.T) {
			p, err := c.start(t.Context(), Options{Dir: t.TempDir(), Cores: 2, HTTPApp: apps[0], GRPCApp: apps[1], MaxConnection: 1024})
			if errors.Is(err, ErrMissing) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if pids, err := p.PIDs(); err != nil || len(pids) == 0 {
				t.Errorf("processes %v, %v", pids, err)
			}
			for _, size := range []int{100, 64 << 10} {
				body := bytes.Repeat([]byte("x"), size)
				h1, err := wire.DialHTTP1(p.HTTP, wire.Request{Method: "POST", Path: "/echo", Body: body, Want: 200})
				try(t, h1, err)
				for _, g := range []wire.GRPC{{Streams: 1}, {Streams: 32}, {Streams: 4, InFlight: 4}} {
					g.Method, g.Message, g.MinAnswer = "/bench.Echo/Echo", body, size
					h2, err := wire.DialH2(p.GRPC, g)
					try(t, h2, err)
				}
			}
		})
	}
}

func try(t *testing.T, w load.Worker, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Run(time.Now().Add(50*time.Millisecond), &load.Histogram{}); err != nil {
		t.Error(err)
	}
}

func TestAProgramThatIsNotThereIsNamed(t *testing.T) {
	_, err := run(t.Context(), t.TempDir(), "no-such-proxy", nil, nil)
	if !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
}
