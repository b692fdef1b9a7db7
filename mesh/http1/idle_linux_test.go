//go:build !race

package http1

import (
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/mesh/proxy"
)

// maxIdleBytes bounds the memory of a connection that waits for its next
// request: its goroutine with its stack, the connection of the net package and
// this package's own. What the kernel holds is not counted. It is about 6,060 bytes,
// of which the stack takes 4,096.
const maxIdleBytes = 7 << 10

// TestAnIdleConnectionTakesLittleMemory holds ten thousand connections, or as
// many as there may be files, and measures what is in use for each of them.
func TestAnIdleConnectionTakesLittleMemory(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := min(10_000, int(min(limit.Cur, 1<<20)-200)/2)
	addr := serve(t, &Server{MaxConns: -1, Handler: func(ex proxy.Exchange) {
		ex.Context()
		respond(t, ex, 200, proxy.Header{{Name: "Content-Type", Value: "text/plain"}}, "ok")
	}})
	before := memoryInUse()
	clients := make([]int, n)
	defer func() {
		for _, fd := range clients {
			syscall.Close(fd)
		}
	}()
	for i := range clients {
		clients[i] = rawConnect(t, addr)
	}
	const request = "GET /some/path HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n"
	buf := make([]byte, 1024)
	for range 2 { // the second time, everything that is kept has been made
		for _, fd := range clients {
			if _, err := syscall.Write(fd, []byte(request)); err != nil {
				t.Fatal(err)
			}
			if n, err := rawRead(fd, buf); n <= 0 || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	used := float64(memoryInUse()-before) / float64(n)
	t.Logf("%d connections, %.0f bytes each", n, used)
	if used > maxIdleBytes {
		t.Errorf("an idle connection takes %.0f bytes, want %d at most", used, maxIdleBytes)
	}
}

// TestClientsThatNeverFinishTheirHeadsTakeLittleAndAreDropped is what slow loris
// does: many connections, each with a head that does not end.
func TestClientsThatNeverFinishTheirHeadsTakeLittleAndAreDropped(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	const n = 1000
	addr := serve(t, &Server{HeadTimeout: 5 * time.Second, Handler: func(ex proxy.Exchange) {
		t.Error("a request without an end was served")
	}})
	before := memoryInUse()
	clients := make([]int, n)
	for i := range clients {
		clients[i] = rawConnect(t, addr)
		defer syscall.Close(clients[i])
		if _, err := syscall.Write(clients[i], []byte("GET / HTTP/1.1\r\nHost: a\r\nX: ")); err != nil {
			t.Fatal(err)
		}
	}
	if used := (memoryInUse() - before) / n; used > maxIdleBytes+bufferSize {
		t.Errorf("a client that sends its head slowly costs %d bytes, want its buffer more than an idle one at most", used)
	}
	for _, fd := range clients {
		buf := make([]byte, 1024)
		got, err := rawRead(fd, buf)
		if err != nil || !strings.HasPrefix(string(buf[:max(got, 0)]), "HTTP/1.1 408 ") {
			t.Fatalf("got %q, %v", buf[:max(got, 0)], err)
		}
	}
}

// memoryInUse returns the memory of heap and stacks once nothing more can be
// freed. Pools give up what they hold at the second collection, and stacks
// shrink at one.
func memoryInUse() int64 {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// rawConnect connects without the net package, whose memory would count.
func rawConnect(t *testing.T, addr string) int {
	t.Helper()
	to, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	limit := syscall.NsecToTimeval(int64(patience))
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// rawRead reads, also when a signal comes in between.
func rawRead(fd int, p []byte) (int, error) {
	for {
		if n, err := syscall.Read(fd, p); err != syscall.EINTR {
			return n, err
		}
	}
}
