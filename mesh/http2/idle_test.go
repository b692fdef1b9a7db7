package http2_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
)

// farEnd is the variable that makes the test binary the other end of many
// connections: a process of its own, since one process may not have enough file
// descriptors for both, and since what it needs shall not count.
const farEnd = "PROA_TEST_HTTP2_FAR_END"

func TestMain(m *testing.M) {
	role, args, _ := strings.Cut(os.Getenv(farEnd), " ")
	switch role {
	case "clients":
		farClients(args)
	case "server":
		farServer()
	default:
		os.Exit(m.Run())
	}
}

// startFarEnd runs the test binary in a role. Lines that it writes are read from
// out; it ends when in is closed.
func startFarEnd(t *testing.T, role string) (in io.WriteCloser, out *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), farEnd+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return in, bufio.NewReader(stdout)
}

func await(t *testing.T, out *bufio.Reader) string {
	t.Helper()
	line, err := out.ReadString('\n')
	if err != nil {
		t.Fatalf("the other end: %v", err)
	}
	return strings.TrimSpace(line)
}

// farClients makes connections to a server, as told with each line: how many,
// and how many requests on each. It says when it has done so.
func farClients(addr string) {
	var conns []net.Conn
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var n, requests int
		_, _ = fmt.Sscan(lines.Text(), &n, &requests)
		for range n {
			nc, err := farClient(addr, requests)
			if err != nil {
				fmt.Println(err)
				return
			}
			conns = append(conns, nc)
		}
		fmt.Println("done")
	}
	runtime.KeepAlive(conns)
}

func farClient(addr string, requests int) (net.Conn, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	first := script(func(r *raw) {
		r.do(r.fr.WriteSettings())
		r.do(r.fr.WriteSettingsAck())
		for i := range requests {
			r.headers(uint32(2*i+1), true, with(getFields, "user-agent", "test", "x-number", strconv.Itoa(i))...)
		}
		r.do(r.fr.WritePing(false, [8]byte{}))
	})
	if _, err := nc.Write(append([]byte(xhttp2.ClientPreface), first...)); err != nil {
		return nil, err
	}
	fr := xhttp2.NewFramer(nil, nc)
	for pong, answers := false, 0; !pong || answers < requests; {
		switch f, err := fr.ReadFrame(); f := f.(type) {
		case *xhttp2.PingFrame:
			pong = pong || f.IsAck()
		case *xhttp2.HeadersFrame:
			answers++
		case nil:
			return nil, err
		}
	}
	return nc, nil
}

// farServer says where it listens. It lets a client have one stream at a time
// on a connection, and answers all requests that have come when it is told how
// many those must be.
func farServer() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(l.Addr())
	requests := make(chan *raw)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go farServe(nc, requests)
		}
	}()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		n, _ := strconv.Atoi(lines.Text())
		var held []*raw
		for range n {
			held = append(held, <-requests)
		}
		for _, r := range held {
			r.headers(1, true, ":status", "200", "x-served-by", "far")
		}
		fmt.Println("done")
	}
}

func farServe(nc net.Conn, requests chan<- *raw) {
	_, _ = io.CopyN(io.Discard, nc, int64(len(xhttp2.ClientPreface)))
	r := &raw{nc: nc, fr: xhttp2.NewFramer(nc, nc)}
	r.enc = hpack.NewEncoder(&r.buf)
	_ = r.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: 1})
	_ = r.fr.WriteSettingsAck()
	for {
		switch f, err := r.fr.ReadFrame(); f.(type) {
		case *xhttp2.HeadersFrame:
			requests <- r
		case nil:
			_ = err // the client is gone
			return
		}
	}
}

// inUse is how much memory live objects and stacks take.
func inUse() int64 {
	var m runtime.MemStats
	for range 3 { // pools are emptied by the second, and stacks are halved each time
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// What an idle connection may cost, in bytes, kernel excluded: one that was not
// used yet, which takes 6.2 KB, and one that was, which has to keep the decoder's
// table. 4 KiB of it are the stack of the goroutine that reads.
const (
	maxIdle = 6<<10 + 1<<8
	maxUsed = 7 << 10
)

// expectIdle checks that n connections come to cost no more than most each: what
// they need only when busy is given back after a while.
func expectIdle(t *testing.T, before, n, most int64) {
	t.Helper()
	var each int64
	for deadline := time.Now().Add(20 * time.Second); ; {
		each = (inUse() - before) / n
		if each <= most || time.Now().After(deadline) {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Logf("an idle connection takes %d bytes", each)
	if each > most {
		t.Errorf("that is more than %d", most)
	}
}

func TestAnIdleConnectionCostsAServerLittle(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	if raceEnabled() {
		t.Skip("the race detector takes memory of its own")
	}
	const n = 10_000
	for requests, most := range []int64{maxIdle, maxUsed} {
		t.Run(fmt.Sprintf("after %d requests", requests), func(t *testing.T) {
			leak.Check(t)
			// The clock of a connection looks four times in this time.
			soon := http2.Config{FrameTimeout: 2 * time.Second}
			addr := serve(t, &http2.Server{Handler: hold, MaxConns: n + 1, Config: soon})
			in, out := startFarEnd(t, "clients "+addr)
			more := func(n int) {
				fmt.Fprintln(in, n, requests)
				if got := await(t, out); got != "done" {
					t.Fatal(got)
				}
			}
			more(1)
			before := inUse()
			more(n)
			expectIdle(t, before, n, most)
		})
	}
}

func TestAnIdleConnectionCostsAClientLittle(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	if raceEnabled() {
		t.Skip("the race detector takes memory of its own")
	}
	leak.Check(t)
	in, out := startFarEnd(t, "server")
	addr := await(t, out)
	use := func(n int) {
		cl := &http2.Client{Addr: addr, MaxConns: n, Config: http2.Config{FrameTimeout: 2 * time.Second}}
		t.Cleanup(cl.Close)
		var ends []<-chan outcome
		for range n {
			ends = append(ends, start(t.Context(), cl, getRequest()))
		}
		fmt.Fprintln(in, n)
		await(t, out)
		for _, end := range ends {
			if o := <-end; o.err != nil {
				t.Fatal(o.err)
			}
		}
	}
	use(1)
	before := inUse()
	const clients, n = 10, 1000
	for range clients {
		use(n)
	}
	expectIdle(t, before, clients*n, maxUsed)
}

func TestAfterARestFieldsAreCompressedAnew(t *testing.T) {
	bubble(t, &http2.Server{Handler: hold}, func(t *testing.T, r *raw) {
		r.preface()
		r.greet()
		for id := uint32(1); id < 7; id += 2 {
			// A decoder that is out of step finds no such entry, or another.
			for range 2 {
				done(r, id)
				id += 2
			}
			time.Sleep(time.Minute)
		}
	})
}
