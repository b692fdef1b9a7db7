package http2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// answer sends a response without content on the stream.
func (r *raw) answer(id uint32) { r.headers(id, true, ":status", "204") }

func TestStreamsAboveTheLastOfAGOAWAYAreSentAgain(t *testing.T) {
	leak.Check(t)
	l := listen(t)
	defer l.Close()
	cl := dial(t, l.Addr().String())
	one := start(t.Context(), cl, postRequest(strings.NewReader("first"), 5))
	r := rawServer(t, l)
	r.awaitRequest()
	two := start(t.Context(), cl, postRequest(strings.NewReader("second"), 6))
	if id := r.awaitRequest(); id != 3 {
		t.Fatalf("the second request is on stream %d", id)
	}
	r.do(r.fr.WriteGoAway(1, xhttp2.ErrCodeNo, nil))

	again := rawServer(t, l)
	again.answer(again.awaitRequest())
	if o := <-two; o.err != nil || o.status != 204 {
		t.Errorf("the second request: %v", o)
	}
	r.answer(1)
	if o := <-one; o.err != nil || o.status != 204 {
		t.Errorf("the first request: %v", o)
	}
	r.expectClosed() // the client has no use for the connection any more
}

func TestARefusedStreamIsSentAgainOrReportedUnsent(t *testing.T) {
	leak.Check(t)
	l := listen(t)
	defer l.Close()
	cl := dial(t, l.Addr().String())
	refuse := func(r *raw, n int) {
		for range n {
			r.do(r.fr.WriteRSTStream(r.awaitRequest(), refused))
		}
	}

	out := start(t.Context(), cl, getRequest())
	r := rawServer(t, l)
	refuse(r, 2)
	r.answer(r.awaitRequest())
	if o := <-out; o.err != nil || o.status != 204 {
		t.Errorf("refused twice: %v", o)
	}

	out = start(t.Context(), cl, getRequest())
	refuse(r, 3)
	if o := <-out; fault.CodeOf(o.err) != fault.Unavailable || !proxy.Unsent(o.err) {
		t.Errorf("refused for good: %v", o.err)
	}

	out = start(t.Context(), cl, postRequest(io.MultiReader(strings.NewReader("x")), -1))
	refuse(r, 1)
	if o := <-out; fault.CodeOf(o.err) != fault.Unavailable || proxy.Unsent(o.err) {
		t.Errorf("refused when the body had been read: %v", o.err)
	}
}

func TestAConnectionKilledInMidStream(t *testing.T) {
	leak.Check(t)
	ended := make(chan error, 1)
	var mu sync.Mutex
	var conns []net.Conn
	addr := serve(t, &http2.Server{Handler: func(x proxy.Exchange) {
		_ = x.Respond(200, nil, 100)
		_, _ = io.WriteString(x, "half")
		_ = x.Flush()
		<-x.Context().Done()
		ended <- context.Cause(x.Context())
	}})
	cl := &http2.Client{Addr: addr, Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		nc, err := d.DialContext(ctx, "tcp", addr)
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, nc)
		return nc, err
	}}
	t.Cleanup(cl.Close)
	res, err := cl.RoundTrip(t.Context(), getRequest(), proxy.RoundTripOptions{})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4)
	if _, err := io.ReadFull(res.Body, buf); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	_ = conns[0].Close()
	mu.Unlock()
	_, err = res.Body.Read(buf)
	if fault.CodeOf(err) != fault.Unavailable || !strings.Contains(err.Error(), addr) || proxy.Unsent(err) {
		t.Errorf("the client got %v", err)
	}
	_ = res.Body.Close()
	if err := <-ended; fault.CodeOf(err) != fault.Unavailable {
		t.Errorf("the handler got %v", err)
	}
	if len(conns) != 1 {
		t.Errorf("%d connections were made", len(conns))
	}
}

func TestAConnectionThatDiesWithARequestSentIsNotUnsent(t *testing.T) {
	leak.Check(t)
	l := listen(t)
	defer l.Close()
	cl := dial(t, l.Addr().String())
	out := start(t.Context(), cl, getRequest())
	r := rawServer(t, l)
	r.awaitRequest()
	_ = r.nc.Close()
	if o := <-out; fault.CodeOf(o.err) != fault.Unavailable || proxy.Unsent(o.err) {
		t.Errorf("%v", o.err)
	}
}

func TestTheReasonOfAGOAWAYIsTold(t *testing.T) {
	leak.Check(t)
	l := listen(t)
	defer l.Close()
	cl := dial(t, l.Addr().String())
	out := start(t.Context(), cl, getRequest())
	r := rawServer(t, l)
	r.do(r.fr.WriteGoAway(r.awaitRequest(), calm, []byte("too_many_pings")))
	_ = r.nc.Close()
	o := <-out
	if fault.CodeOf(o.err) != fault.ResourceExhausted || !strings.Contains(o.err.Error(), "too_many_pings") {
		t.Errorf("%v", o.err)
	}
}

func TestACancelAfterTheDeadlineIsTheDeadline(t *testing.T) {
	leak.Check(t)
	l := listen(t)
	defer l.Close()
	cl := dial(t, l.Addr().String())
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(200*time.Millisecond))
	defer cancel()
	got := make(chan *proxy.Response, 1)
	go func() {
		res, err := cl.RoundTrip(ctx, getRequest(), proxy.RoundTripOptions{})
		if err != nil {
			t.Error(err)
		}
		got <- res
	}()
	r := rawServer(t, l)
	id := r.awaitRequest()
	r.headers(id, false, ":status", "200")
	res := <-got
	<-ctx.Done()
	r.do(r.fr.WriteRSTStream(id, canceled))
	r.expectAlive()
	_, err := res.Body.Read(make([]byte, 1))
	if r, ok := errors.AsType[*http2.ResetError](err); fault.CodeOf(err) != fault.DeadlineExceeded || !ok || !r.ByPeer {
		t.Errorf("%v", err)
	}
	_ = res.Body.Close()
}

// mute is a connection whose writes fail from some point on.
type mute struct {
	net.Conn
	broken atomic.Bool
}

func (m *mute) Write(p []byte) (int, error) {
	if m.broken.Load() {
		return 0, errors.New("broken pipe")
	}
	return m.Conn.Write(p)
}

func TestARequestOfWhichNothingWasWrittenIsSentOnANewConnection(t *testing.T) {
	leak.Check(t)
	addr := serve(t, &http2.Server{Handler: echo})
	var made []*mute
	cl := &http2.Client{Addr: addr, Dial: func(ctx context.Context) (net.Conn, error) {
		nc, err := net.Dial("tcp", addr)
		m := &mute{Conn: nc}
		made = append(made, m)
		return m, err
	}}
	t.Cleanup(cl.Close)
	get(t, cl, "/")
	made[0].broken.Store(true)
	if _, body := do(t, cl, postRequest(strings.NewReader("again"), 5)); body != "again" {
		t.Errorf("%q", body)
	}
	if len(made) != 2 {
		t.Errorf("%d connections were made", len(made))
	}
}

func TestAServerThatIsNotThere(t *testing.T) {
	leak.Check(t)
	l := listen(t)
	addr := l.Addr().String()
	_ = l.Close()
	cl := dial(t, addr)
	body := strings.NewReader("kept")
	_, err := cl.RoundTrip(t.Context(), postRequest(body, 4), proxy.RoundTripOptions{})
	if fault.CodeOf(err) != fault.Unavailable || !proxy.Unsent(err) || !strings.Contains(err.Error(), addr) {
		t.Errorf("%v", err)
	}
	if body.Len() != 4 {
		t.Error("the body was read, and so cannot be sent elsewhere")
	}
}

func TestAServerThatClosesEachConnection(t *testing.T) {
	leak.Check(t)
	for name, first := range map[string]func(nc net.Conn){
		"at once":        func(net.Conn) {},
		"after SETTINGS": func(nc net.Conn) { _ = xhttp2.NewFramer(nc, nil).WriteSettings() },
	} {
		l := listen(t)
		served := make(chan struct{})
		go func() {
			defer close(served)
			for {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				first(nc)
				_ = nc.Close()
			}
		}()
		cl := dial(t, l.Addr().String())
		_, err := cl.RoundTrip(t.Context(), getRequest(), proxy.RoundTripOptions{})
		if fault.CodeOf(err) != fault.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		_ = l.Close()
		<-served
	}
}

func TestShutdownLetsStreamsFinish(t *testing.T) {
	leak.Check(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	s := &http2.Server{Handler: func(x proxy.Exchange) {
		if x.Request().Target == "/slow" {
			begun <- struct{}{}
			<-finish
		}
		echo(x)
	}}
	l := listen(t)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	cl := dial(t, l.Addr().String())
	slow := start(t.Context(), cl, &proxy.Request{Method: "GET", Authority: "a", Target: "/slow"})
	<-begun
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(t.Context()) }()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	select {
	case err := <-down:
		t.Fatalf("Shutdown returned while a stream was open: %v", err)
	default:
	}
	close(finish)
	if o := <-slow; o.err != nil || o.status != 200 {
		t.Errorf("the stream that was open: %v", o)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := cl.RoundTrip(t.Context(), getRequest(), proxy.RoundTripOptions{}); !proxy.Unsent(err) {
		t.Errorf("after the shutdown: %v", err)
	}
	if err := s.ServeConn(nil2(t), nil); err == nil {
		t.Error("a connection was served after the shutdown")
	}
}

// nil2 is a connection that nobody is to use.
func nil2(t *testing.T) net.Conn {
	near, far := net.Pipe()
	t.Cleanup(func() { _ = near.Close() })
	return far
}

func TestShutdownIsToldInTwoSteps(t *testing.T) {
	leak.Check(t)
	s := &http2.Server{Handler: hold}
	addr := serve(t, s)
	r := rawClient(t, addr)
	open(r, 1)
	r.expectAlive()
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(t.Context()) }()
	first := r.goAway()
	if first.LastStreamID != 1<<31-1 || first.ErrCode != xhttp2.ErrCodeNo {
		t.Errorf("the first GOAWAY: %v", first)
	}
	open(r, 3) // it was on its way
	ping := r.awaitPing()
	r.do(r.fr.WritePing(true, ping.Data))
	if second := r.goAway(); second.LastStreamID != 3 || second.ErrCode != xhttp2.ErrCodeNo {
		t.Errorf("the second GOAWAY: %v", second)
	}
	open(r, 5) // too late: ignored
	for _, id := range []uint32{1, 3} {
		r.frame(xhttp2.FrameData, 1, id, nil)
		if v := r.next(); v.String() != response(id, "200") {
			t.Errorf("got %v", v)
		}
	}
	r.expectClosed()
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// goAway reads up to a GOAWAY.
func (r *raw) goAway() xhttp2.GoAwayFrame {
	r.tb.Helper()
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.tb.Fatal(err)
		}
		if g, ok := f.(*xhttp2.GoAwayFrame); ok {
			return *g
		}
	}
}

func TestShutdownEndsStreamsThatTakeTooLong(t *testing.T) {
	leak.Check(t)
	begun := make(chan struct{})
	s := &http2.Server{Handler: func(x proxy.Exchange) {
		close(begun)
		<-x.Context().Done()
	}}
	cl := dial(t, serve(t, s))
	out := start(t.Context(), cl, getRequest())
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); fault.CodeOf(err) != fault.DeadlineExceeded {
		t.Errorf("Shutdown: %v", err)
	}
	if o := <-out; fault.CodeOf(o.err) != fault.Unavailable {
		t.Errorf("the stream: %v", o.err)
	}
}

func TestAClientShutsDownInGoodOrder(t *testing.T) {
	leak.Check(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	cl := pair(t, func(x proxy.Exchange) {
		close(begun)
		<-finish
		echo(x)
	})
	out := start(t.Context(), cl, getRequest())
	<-begun
	down := make(chan error, 1)
	go func() { down <- cl.Shutdown(t.Context()) }()
	// New requests fail from some time on.
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := cl.RoundTrip(ctx, getRequest(), proxy.RoundTripOptions{})
		cancel()
		if fault.CodeOf(err) == fault.Unavailable && proxy.Unsent(err) {
			break
		}
	}
	close(finish)
	if o := <-out; o.err != nil {
		t.Errorf("the request that was under way: %v", o.err)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func TestConnectionsGrowWithWhatTheServerAllows(t *testing.T) {
	leak.Check(t)
	var now, most, conns atomic.Int64
	release := make(chan struct{})
	addr := serve(t, &http2.Server{Config: http2.Config{MaxStreams: 2}, Handler: func(x proxy.Exchange) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-release
		now.Add(-1)
		echo(x)
	}})
	cl := &http2.Client{Addr: addr, MaxConns: 3, Dial: func(context.Context) (net.Conn, error) {
		conns.Add(1)
		return net.Dial("tcp", addr)
	}}
	t.Cleanup(cl.Close)
	var outs []<-chan outcome
	for range 20 {
		outs = append(outs, start(t.Context(), cl, getRequest()))
	}
	for now.Load() < 6 {
		time.Sleep(time.Millisecond)
	}
	// All slots are taken: one more waits, and may give up.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := cl.RoundTrip(ctx, getRequest(), proxy.RoundTripOptions{}); fault.CodeOf(err) != fault.DeadlineExceeded || !proxy.Unsent(err) {
		t.Errorf("a request for which there is no slot: %v", err)
	}
	close(release)
	for _, out := range outs {
		if o := <-out; o.err != nil {
			t.Error(o.err)
		}
	}
	if conns.Load() != 3 || most.Load() != 6 {
		t.Errorf("%d connections, %d streams at a time", conns.Load(), most.Load())
	}
}

func TestRequestsAreSpreadOverMinConns(t *testing.T) {
	leak.Check(t)
	var conns atomic.Int64
	addr := serve(t, &http2.Server{Handler: echo})
	cl := &http2.Client{Addr: addr, MinConns: 3, Dial: func(context.Context) (net.Conn, error) {
		conns.Add(1)
		return net.Dial("tcp", addr)
	}}
	t.Cleanup(cl.Close)
	get(t, cl, "/")
	get(t, cl, "/")
	if conns.Load() != 1 {
		t.Errorf("%d connections for one request at a time", conns.Load())
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for conns.Load() < 3 {
				do(t, cl, postRequest(strings.NewReader("x"), 1))
			}
		})
	}
	wg.Wait()
}

func TestAnIdleClientClosesItsConnectionAndMakesANewOne(t *testing.T) {
	leak.Check(t)
	ended := make(chan error, 2)
	s := &http2.Server{Handler: echo}
	l := listen(t)
	t.Cleanup(func() { _ = l.Close(); s.Close() })
	accept := func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		ended <- s.ServeConn(nc, nil)
	}
	cl := &http2.Client{Addr: l.Addr().String(), Config: http2.Config{IdleTimeout: 20 * time.Millisecond}}
	t.Cleanup(cl.Close)
	for range 2 {
		go accept()
		get(t, cl, "/")
		if err := <-ended; err != nil {
			t.Errorf("the connection ended: %v", err)
		}
	}
}

func TestServeConnTakesWhatWasReadAlready(t *testing.T) {
	leak.Check(t)
	for _, n := range []int{0, 1, 3, 24, 30, 200} {
		s := &http2.Server{Handler: echo}
		l := listen(t)
		served := make(chan error, 1)
		go func() {
			nc, err := l.Accept()
			if err != nil {
				served <- err
				return
			}
			seed := make([]byte, n)
			k, err := io.ReadAtLeast(nc, seed, min(n, 24))
			if err != nil {
				served <- err
				return
			}
			served <- s.ServeConn(nc, seed[:k])
		}()
		cl := dial(t, l.Addr().String())
		if _, body := do(t, cl, postRequest(strings.NewReader("seeded"), 6)); body != "seeded" {
			t.Errorf("%d bytes read before: %q", n, body)
		}
		cl.Close()
		if err := <-served; err != nil {
			t.Errorf("%d bytes read before: %v", n, err)
		}
		_ = l.Close()
		s.Close()
	}
}

func TestUnixSockets(t *testing.T) {
	leak.Check(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http2.Server{Handler: func(x proxy.Exchange) {
		if x.Remote().IsValid() {
			t.Errorf("the client has the address %v", x.Remote())
		}
		echo(x)
	}}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Close)
	cl := dial(t, "unix:"+path)
	if _, body := do(t, cl, postRequest(strings.NewReader("local"), 5)); body != "local" {
		t.Errorf("%q", body)
	}
}

func TestServeLetsInMaxConns(t *testing.T) {
	leak.Check(t)
	addr := serve(t, &http2.Server{Handler: echo, MaxConns: 2})
	var clients []*http2.Client
	for range 2 {
		cl := dial(t, addr)
		get(t, cl, "/")
		clients = append(clients, cl)
	}
	out := start(t.Context(), dial(t, addr), getRequest())
	select {
	case o := <-out:
		t.Fatalf("a third connection was let in: %v", o)
	case <-time.After(50 * time.Millisecond):
	}
	clients[0].Close()
	if o := <-out; o.err != nil {
		t.Error(o.err)
	}
}

// chat answers what it reads on the two-way stream in capitals.
func chat(x proxy.Exchange) {
	r := x.Request()
	rw, err := x.Upgrade(proxy.Header{
		{Name: "Sec-WebSocket-Accept", Value: "x"}, {Name: "x-saw", Value: fmt.Sprint(r.Method, r.Target, r.Upgrade, r.Header.Has("sec-websocket-key"))},
	})
	if err != nil {
		return
	}
	defer rw.Close()
	buf := make([]byte, 100)
	for {
		n, err := rw.Read(buf)
		if n > 0 {
			_, _ = io.WriteString(rw, strings.ToUpper(string(buf[:n])))
		}
		if err != nil {
			_, _ = io.WriteString(rw, "bye")
			_ = rw.(proxy.Stream).CloseWrite()
			return
		}
	}
}

func TestUpgradesPass(t *testing.T) {
	leak.Check(t)
	direct := pair(t, chat)
	for name, cl := range map[string]*http2.Client{"directly": direct, "through a proxy": pair(t, forward(direct))} {
		for _, r := range []*proxy.Request{
			{Method: "GET", Authority: "a", Target: "/ws", Upgrade: "websocket", Header: proxy.Header{{Name: "Sec-WebSocket-Key", Value: "k"}}},
			{Method: "CONNECT", Authority: "a:443"},
		} {
			res, err := cl.RoundTrip(t.Context(), r, proxy.RoundTripOptions{})
			if err != nil || res.Upgraded == nil || res.Status != 200 {
				t.Fatalf("%s: %v, %v", name, res, err)
			}
			want := "GET/wswebsocketfalse"
			if r.Method == "CONNECT" {
				want = "CONNECTa:443false"
			}
			if saw := res.Header.Get("x-saw"); saw != want || r.Upgrade != "" && res.Header.Has("sec-websocket-accept") {
				t.Errorf("%s: the handler saw %s", name, saw)
			}
			buf := make([]byte, 100)
			for range 10 {
				_, _ = io.WriteString(res.Upgraded, "hello")
				if n, err := io.ReadFull(res.Upgraded, buf[:5]); err != nil || string(buf[:n]) != "HELLO" {
					t.Fatalf("%s: %q, %v", name, buf[:n], err)
				}
			}
			_ = res.Upgraded.(proxy.Stream).CloseWrite()
			if rest, err := io.ReadAll(res.Upgraded); err != nil || string(rest) != "bye" {
				t.Errorf("%s: after our end: %q, %v", name, rest, err)
			}
			_ = res.Upgraded.Close()
		}
	}
}

func TestAnUpgradeMayBeRefused(t *testing.T) {
	leak.Check(t)
	cl := pair(t, func(x proxy.Exchange) {
		_ = x.Respond(403, nil, proxy.UnknownLength)
		_, _ = io.WriteString(x, "no")
	})
	r := &proxy.Request{Method: "GET", Authority: "a", Target: "/", Upgrade: "websocket"}
	if res, body := do(t, cl, r); res.Status != 403 || res.Upgraded != nil || body != "no" {
		t.Errorf("%d %q", res.Status, body)
	}
	l := listen(t)
	defer l.Close()
	old := dial(t, l.Addr().String())
	out := start(t.Context(), old, r)
	rawServer(t, l)
	if o := <-out; fault.CodeOf(o.err) != fault.Unimplemented {
		t.Errorf("by a server that does not know upgrades: %v", o.err)
	}
}
