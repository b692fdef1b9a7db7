package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/proxy"
)

func TestAClientThatGoesAwayEndsTheRequestAtTheServer(t *testing.T) {
	for _, where := range []string{"/head", "/content", "/request"} {
		t.Run(where, func(t *testing.T) {
			reached, ended, outcomes := make(chan bool, 1), make(chan error, 1), make(chan proxy.Outcome, 1)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				reached <- true
				if where == "/content" {
					io.WriteString(w, "part")
					w.(http.Flusher).Flush()
				}
				if where == "/request" {
					_, err := io.ReadAll(r.Body)
					ended <- err
					return
				}
				<-r.Context().Done()
				ended <- r.Context().Err()
			}))
			defer srv.Close()
			addr := hop(t, srv.Listener.Addr().String(), proxy.ForwardOptions{}, outcomes)
			nc := dial(t, addr)
			request := "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
			if where == "/request" {
				request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc"
			}
			io.WriteString(nc, request)
			if where == "/content" {
				if _, err := bufio.NewReader(nc).ReadString('t'); err != nil {
					t.Fatal(err)
				}
			}
			wait(t, reached, "request at the server")
			nc.Close()
			if err := wait(t, ended, "end at the server"); err == nil {
				t.Error("the server takes the request for complete")
			}
			out := wait(t, outcomes, "outcome")
			if out.Failure != proxy.ClientGone || out.Started != (where == "/content") {
				t.Errorf("outcome %+v %v", out, out.Failure)
			}
		})
	}
}

func TestFailuresOfTheServerAreTold(t *testing.T) {
	tests := []struct {
		name    string
		serve   func(nc *net.TCPConn, br *bufio.Reader)
		opts    proxy.ForwardOptions
		request string
		failure proxy.Failure
		started bool
		want    string // of what the client sees
	}{
		{name: "no answer", serve: func(nc *net.TCPConn, br *bufio.Reader) { http.ReadRequest(br) },
			failure: proxy.NoResponse, want: "HTTP/1.1 502 Bad Gateway\r\n*backend closed the connection before it answered"},
		{name: "reset", serve: func(nc *net.TCPConn, br *bufio.Reader) { http.ReadRequest(br); nc.SetLinger(0) },
			failure: proxy.NoResponse, want: "HTTP/1.1 502 Bad Gateway\r\n*no response from backend: the connection was reset"},
		{name: "nonsense", serve: func(nc *net.TCPConn, br *bufio.Reader) { http.ReadRequest(br); io.WriteString(nc, "what?\r\n\r\n") },
			failure: proxy.NoResponse, want: "HTTP/1.1 502 Bad Gateway\r\n*the response of backend is malformed: the status line is not valid"},
		{name: "silence", serve: func(nc *net.TCPConn, br *bufio.Reader) { http.ReadRequest(br); br.ReadByte() }, opts: proxy.ForwardOptions{HeadTimeout: 30 * time.Millisecond},
			failure: proxy.TimedOut, want: "HTTP/1.1 502 Bad Gateway\r\n*backend did not answer within 30ms"},
		{name: "cut content", serve: func(nc *net.TCPConn, br *bufio.Reader) {
			http.ReadRequest(br)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		}, failure: proxy.ResponseCut, started: true, want: "HTTP/1.1 200 OK\r\n*"},
		{name: "cut chunks", serve: func(nc *net.TCPConn, br *bufio.Reader) {
			http.ReadRequest(br)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		}, failure: proxy.ResponseCut, started: true, want: "HTTP/1.1 200 OK\r\n*"},
		{name: "cut long content", serve: func(nc *net.TCPConn, br *bufio.Reader) {
			http.ReadRequest(br)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"+strings.Repeat("x", 1_000_000))
		}, failure: proxy.ResponseCut, started: true, want: "HTTP/1.1 200 OK\r\n*"},
		{name: "malformed request content", serve: func(nc *net.TCPConn, br *bufio.Reader) { io.Copy(io.Discard, br) },
			request: "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
			failure: proxy.RequestBody, want: "HTTP/1.1 502 Bad Gateway\r\n*the body of the request is malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				tt.serve(nc.(*net.TCPConn), bufio.NewReader(nc))
				nc.Close()
			})
			defer wg.Wait()
			defer ln.Close()
			outcomes := make(chan proxy.Outcome, 1)
			nc := dial(t, hop(t, ln.Addr().String(), tt.opts, outcomes))
			if tt.request == "" {
				tt.request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
			}
			io.WriteString(nc, tt.request)
			nc.SetReadDeadline(time.Now().Add(patience))
			out := wait(t, outcomes, "outcome")
			if out.Failure != tt.failure || out.Started != tt.started || out.Err == nil {
				t.Errorf("outcome %+v: %v", out, out.Failure)
			}
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				if tt.started { // the head may have gone with the rest
					return
				}
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if tt.started && err == nil {
				t.Error("the client takes the response for complete")
			}
			head, text, _ := strings.Cut(tt.want, "*")
			if got := resp.Proto + " " + resp.Status + "\r\n"; got != head || !tt.started && !strings.HasPrefix(string(body), text) {
				t.Errorf("the client saw %q %q, want %q", got, body, tt.want)
			}
		})
	}
}

func TestAResponseThatCannotBePassedOnIsNotBegun(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }))
	defer srv.Close()
	outcomes := make(chan proxy.Outcome, 1)
	addr := hop(t, srv.Listener.Addr().String(), proxy.ForwardOptions{RewriteResponse: func(_ context.Context, ex proxy.Exchange, r *proxy.Response) {
		if ex.Request().Target == "/panic" {
			panic("boom")
		}
		r.Header.Add("X-Bad", "a\r\nSet-Cookie: b=c")
	}}, outcomes)
	for target, status := range map[string]int{"/": 502, "/panic": 500} {
		resp, err := http.Get("http://" + addr + target)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status || len(resp.Header["Set-Cookie"]) > 0 {
			t.Errorf("%s: got %s %v, want %d", target, resp.Status, resp.Header, status)
		}
	}
	if out := wait(t, outcomes, "outcome"); out.Failure != proxy.NotForwarded || out.Started || out.Status != 200 {
		t.Errorf("outcome %+v: %v", out, out.Failure)
	}
}

func TestARefusedConnectionCanBeForwardedElsewhere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := &http1.Client{Address: ln.Addr().String(), Name: "dead"}
	ln.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	defer srv.Close()
	alive := &http1.Client{Address: srv.Listener.Addr().String()}
	defer alive.Close()
	var f proxy.Forwarder
	addr := listen(t, &http1.Server{Handler: func(ex proxy.Exchange) {
		out := f.Forward(ex.Context(), ex, dead, proxy.ForwardOptions{})
		if out.Failure != proxy.NotSent || !proxy.Unsent(out.Err) || out.Started || !out.Untouched {
			t.Errorf("outcome %+v", out)
		}
		if out := f.Forward(ex.Context(), ex, alive, proxy.ForwardOptions{}); out.Err != nil || out.Sent != 3 || out.Received != 3 || out.Untouched {
			t.Errorf("outcome %+v", out)
		}
	}})
	resp, err := http.Post("http://"+addr, "text/plain", strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "abc" {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestAnEarlyResponseIsForwardedAndTheRestOfTheRequestDropped(t *testing.T) {
	eachChain(t, func(t *testing.T, backend startBackend) {
		addr := backend(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			http.Error(w, "too big", http.StatusRequestEntityTooLarge)
		})
		for range 10 {
			nc := dial(t, addr)
			go func() {
				fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", 100<<20)
				io.Copy(nc, pattern(100<<20))
			}()
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 413 || string(body) != "too big\n" {
				t.Errorf("got %d %q, %v", resp.StatusCode, body, err)
			}
			nc.Close()
		}
	})
}

func TestForwardingLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("work", func(t *testing.T) { eachChain(t, manyExchanges) })
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// manyExchanges ends exchanges in many ways at the same time.
func manyExchanges(t *testing.T, backend startBackend) {
	addr := backend(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write(make([]byte, 100_000))
	})
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for i := range 20 {
				ctx, cancel := context.WithCancel(t.Context())
				req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+addr, pattern(int64(i*10_000)))
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
				} else {
					if i%3 != 0 {
						io.Copy(io.Discard, resp.Body)
					}
					resp.Body.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
}

func TestFailuresHaveNames(t *testing.T) {
	seen := make(map[string]bool)
	for f := proxy.NoFailure; f <= proxy.NotForwarded; f++ {
		name := f.String()
		if name == "unknown" || seen[name] {
			t.Errorf("failure %d is called %q", f, name)
		}
		seen[name] = true
	}
}

func TestUnsentSurvivesWrapping(t *testing.T) {
	cause := fault.New(fault.Unavailable, "cannot connect")
	err := fmt.Errorf("call: %w", proxy.MarkUnsent(cause))
	if !proxy.Unsent(err) || !fault.Is(err, fault.Unavailable) || fault.Message(err) != "cannot connect" || !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	if proxy.Unsent(cause) || proxy.Unsent(nil) {
		t.Error("an error that is not marked is taken for unsent")
	}
}
