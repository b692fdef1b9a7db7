package http2_test

import (
	"context"
	"io"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// counted is a connection that counts writes.
type counted struct {
	net.Conn
	writes *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

type countedListener struct {
	net.Listener
	writes *atomic.Int64
}

func (l countedListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	return counted{nc, l.writes}, err
}

func TestASmallExchangeTakesOneWriteEachWay(t *testing.T) {
	leak.Check(t)
	var up, down atomic.Int64
	s := &http2.Server{Handler: func(x proxy.Exchange) {
		body, _ := io.ReadAll(x.Request().Body)
		_ = x.Respond(200, nil, proxy.UnknownLength)
		_, _ = x.Write(body)
		_ = x.Trailer(proxy.Header{{Name: "grpc-status", Value: "0"}})
	}}
	l := countedListener{listen(t), &down}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Close)
	cl := &http2.Client{Dial: func(context.Context) (net.Conn, error) {
		nc, err := net.Dial("tcp", l.Addr().String())
		return counted{nc, &up}, err
	}}
	t.Cleanup(cl.Close)
	exchange := func() { do(t, cl, postRequest(strings.NewReader("small"), 5)) }
	exchange()
	up.Store(0)
	down.Store(0)
	const n = 100
	for range n {
		exchange()
	}
	// An acknowledgement of SETTINGS may still be on its way.
	if u, d := up.Load(), down.Load(); u > n+1 || d > n+1 {
		t.Errorf("%d exchanges took %d writes of the client and %d of the server", n, u, d)
	}
}

// raceEnabled reports whether the race detector is on, under which pools forget.
func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// smallExchange returns a function that makes an exchange of 1 KiB each way
// without an allocation of its own.
func smallExchange(t *testing.T, cl *http2.Client) func() {
	body := strings.NewReader("")
	r := postRequest(body, 1<<10)
	r.Header = proxy.Header{{Name: "content-type", Value: "application/octet-stream"}, {Name: "user-agent", Value: "test"}}
	buf := make([]byte, 2<<10)
	content := string(oneKiB)
	exchange := func() {
		body.Reset(content)
		res, err := cl.RoundTrip(context.Background(), r, proxy.RoundTripOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = res.Body.Read(buf)
		}
		_ = res.Body.Close()
	}
	for range 100 {
		exchange()
	}
	return exchange
}

func TestASmallExchangeAllocatesLittle(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector makes pools forget")
	}
	// Of the client: the response, its header, and the decoded content-length.
	// Of the server: the exchange and the decoded content-length.
	direct := testing.AllocsPerRun(2000, smallExchange(t, pair(t, benchEcho)))
	if direct > 5 {
		t.Errorf("an exchange makes %.1f allocations, client and server together", direct)
	}
	// Of a coroutine between them: the two decoded content-lengths, and in this
	// test the function for interim responses.
	inner := pair(t, benchEcho)
	through := testing.AllocsPerRun(2000, smallExchange(t, dial(t, serve(t, &http2.Server{Handler: forward(inner), Inline: always}))))
	if through-direct > 3 {
		t.Errorf("who forwards it makes %.1f allocations more", through-direct)
	}
}
