package passthrough_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/testserver"
)

// mostUnread is what may be on its way to somebody who does not read: the buffers
// of the kernel for all sockets between, and the windows of HTTP/2.
const mostUnread = 64 << 20

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
		if last > 4*mostUnread {
			return last
		}
	}
	t.Fatal("it goes on and on")
	return 0
}

func TestAClientThatDoesNotReadSlowsDownTheApplication(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		var sent atomic.Int64
		over := make(chan struct{})
		url := w.on(t, func(rw http.ResponseWriter, _ *http.Request) {
			defer close(over)
			block := text(64 << 10)
			for {
				n, err := rw.Write(block)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w.do(t, newRequest(t, "GET", url, nil).WithContext(ctx))
		if n := standstill(t, &sent); n > mostUnread {
			t.Errorf("%d MiB were taken that nobody reads", n>>20)
		}
		cancel()
		wait(t, over, "end at the application")
	})
}

func TestAnApplicationThatDoesNotReadSlowsDownTheClient(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		release := make(chan struct{})
		url := w.on(t, func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		})
		var sent atomic.Int64
		pipe := newBodyPipe(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var work sync.WaitGroup
		work.Go(func() {
			block := text(64 << 10)
			for {
				n, err := pipe.Write(block)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		work.Go(func() {
			if resp, err := w.client.Do(newRequest(t, "POST", url, pipe).WithContext(ctx)); err == nil {
				_ = resp.Body.Close()
			}
		})
		if n := standstill(t, &sent); n > mostUnread {
			t.Errorf("%d MiB were taken that nobody reads", n>>20)
		}
		cancel()
		_ = pipe.PipeReader.Close()
		close(release)
		work.Wait()
	})
}

// TestAStuckExchangeHoldsUpNoOther leaves an answer unread that is longer than all
// windows of its stream, while others come and go on the same connections.
func TestAStuckExchangeHoldsUpNoOther(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		var sent atomic.Int64
		stuck := w.on(t, func(rw http.ResponseWriter, _ *http.Request) {
			for range 1024 {
				n, err := rw.Write(text(64 << 10))
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		other := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = rw.Write(body)
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w.do(t, newRequest(t, "GET", stuck, nil).WithContext(ctx))
		standstill(t, &sent)
		var work sync.WaitGroup
		for i := range 20 {
			work.Go(func() {
				content := string(text(100_000 + i))
				resp, err := w.client.Do(newRequest(t, "POST", other, content))
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if got, err := io.ReadAll(resp.Body); err != nil || string(got) != content {
					t.Errorf("%s came back, %v", sum(got), err)
				}
			})
		}
		work.Wait()
	})
}

func TestEventsArriveAtOnce(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		next := make(chan struct{})
		url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			for i := range 20 {
				_, _ = fmt.Fprintf(rw, "data: event %d\n\n", i)
				_ = http.NewResponseController(rw).Flush()
				select {
				case <-next: // the client has it
				case <-r.Context().Done():
					return
				}
			}
		})
		resp := w.do(t, newRequest(t, "GET", url, nil))
		in := bufio.NewReader(resp.Body)
		for i := range 20 {
			line, err := in.ReadString('\n')
			if want := fmt.Sprintf("data: event %d\n", i); line != want {
				t.Fatalf("got %q (%v), want %q", line, err, want)
			}
			_, _ = in.ReadString('\n')
			next <- struct{}{}
		}
	})
}

// TestAThousandStreamsOfEvents has a thousand clients get an event before any of
// them gets the second one.
func TestAThousandStreamsOfEvents(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		mesh *testserver.Shared[*mesh]
		two  bool
	}{{"plain, h1 to h1", plain, false}, {"mTLS, h2 to h2", secure, true}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			const clients = 1000
			m := tc.mesh.Get(t)
			w := way{mesh: m, two: tc.two, client: newClient(t, tc.two), app: m.one}
			if tc.two {
				w.app = m.two
			}
			events := make(chan struct{})
			url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Content-Type", "text/event-stream")
				for i := range 2 {
					_, _ = fmt.Fprintf(rw, "data: %d\n", i)
					_ = http.NewResponseController(rw).Flush()
					select {
					case <-events:
					case <-r.Context().Done():
						return
					}
				}
			})
			var first, all sync.WaitGroup
			first.Add(clients)
			for range clients {
				all.Go(func() {
					begun := sync.OnceFunc(first.Done)
					defer begun()
					resp, err := w.client.Do(newRequest(t, "GET", url, nil))
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					in := bufio.NewReaderSize(resp.Body, 16)
					if line, err := in.ReadString('\n'); line != "data: 0\n" {
						t.Errorf("the first event is %q, %v", line, err)
					}
					begun()
					if line, err := in.ReadString('\n'); line != "data: 1\n" {
						t.Errorf("the second event is %q, %v", line, err)
					}
				})
			}
			first.Wait()
			close(events)
			all.Wait()
		})
	}
}
