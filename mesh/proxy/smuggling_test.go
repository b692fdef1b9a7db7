package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
)

// recorder is a server behind a proxy that notes every byte that it gets.
type recorder struct {
	addr  string
	ended chan struct{} // a connection has

	mu  sync.Mutex
	got strings.Builder
}

// record starts a recorder that answers each request it understands with 204.
func record(t *testing.T) *recorder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{addr: ln.Addr().String(), ended: make(chan struct{}, 10)}
	var conns sync.WaitGroup
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	conns.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { rec.serve(nc) })
		}
	})
	return rec
}

func (rec *recorder) Write(p []byte) (int, error) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return rec.got.Write(p)
}

func (rec *recorder) String() string {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return rec.got.String()
}

func (rec *recorder) serve(nc net.Conn) {
	defer func() { nc.Close(); rec.ended <- struct{}{} }()
	nc.SetDeadline(time.Now().Add(patience))
	br := bufio.NewReader(io.TeeReader(nc, rec))
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		io.WriteString(nc, "HTTP/1.1 204 No Content\r\n\r\n")
	}
}

const (
	// lastRequest ends the connection of a client.
	lastRequest = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	// lastForwarded is what becomes of it.
	lastForwarded = "GET /last HTTP/1.1\r\nHost: a\r\n\r\n"
	// hidden is what an attacker wants the server to take for a request.
	hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
)

func post(fields, content string) string {
	return "POST / HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" + content
}

// TestWhatGoesToTheServerByteForByte sends requests with which proxies and
// servers have been made to disagree about where a request ends, or what it asks
// for. Either the request is refused and nothing of it, or of what follows,
// reaches the server; or the server gets bytes that nobody can misunderstand.
func TestWhatGoesToTheServerByteForByte(t *testing.T) {
	const chunked = "Transfer-Encoding: chunked\r\n"
	tests := []struct {
		name, request string
		status        string // of the first response
		want          string // what the server gets
		last          bool   // and the request that follows
	}{
		// Two lengths.
		{"CL.TE", post("Content-Length: 6\r\n"+chunked, "0\r\n\r\n"+hidden), "400", "", false},
		{"TE.CL", post(chunked+"Content-Length: 4\r\n", "5c\r\n"+hidden+"\r\n0\r\n\r\n"), "400", "", false},
		{"TE.TE, twice", post(chunked+chunked, "0\r\n\r\n"+hidden), "400", "", false},
		{"TE.TE, identity first", post("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"+hidden), "501", "", false},
		{"TE.TE, unknown last", post("Transfer-Encoding: chunked, x\r\n", "0\r\n\r\n"+hidden), "501", "", false},
		{"TE.TE, quoted", post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"+hidden), "501", "", false},
		{"TE.TE, vertical tab", post("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"+hidden), "400", "", false},
		{"TE.TE, space before the colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"+hidden), "400", "", false},
		{"TE.TE, folded", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"+hidden), "400", "", false},
		{"TE.TE, after a bare LF", post("X: 1\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden), "400", "", false},
		{"TE.TE, after a bare CR", post("X: 1\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden), "400", "", false},
		{"TE, upper case", post("Transfer-Encoding: CHUNKED\r\n", "0\r\n\r\n"), "204", post(chunked, "0\r\n\r\n"), true},
		{"TE with underscore", post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), "204",
			post("Content-Length: 5\r\nTransfer_Encoding: chunked\r\n", "0\r\n\r\n"), true},
		{"CL differs", post("Content-Length: 0\r\nContent-Length: 33\r\n", hidden), "400", "", false},
		{"CL twice the same", post("Content-Length: 2\r\nContent-Length: 2\r\n", "ab"), "204", post("Content-Length: 2\r\n", "ab"), true},
		{"CL list", post("Content-Length: 2, 2\r\n", "ab"), "400", "", false},
		{"CL with plus", post("Content-Length: +2\r\n", "ab"), "400", "", false},
		{"CL with a space inside", post("Content-Length: 1 0\r\n", "0123456789"), "400", "", false},
		{"CL with zeros", post("Content-Length: 002\r\n", "ab"), "204", post("Content-Length: 2\r\n", "ab"), true},
		{"CL in Connection", post("Connection: Content-Length\r\nContent-Length: 33\r\n", hidden), "204", post("Content-Length: 33\r\n", hidden), true},
		{"TE in Connection", post("Connection: Transfer-Encoding\r\n"+chunked, "0\r\n\r\n"), "204", post(chunked, "0\r\n\r\n"), true},

		// One length, which one side might overlook.
		{"CL.0", post("Content-Length: 33\r\n", hidden), "204", post("Content-Length: 33\r\n", hidden), true},
		{"0.CL", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n" + hidden, "204",
			"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n" + hidden, true},
		{"GET with chunks", "GET / HTTP/1.1\r\nHost: a\r\n" + chunked + "\r\n21\r\n" + hidden + "\r\n0\r\n\r\n", "204",
			"GET / HTTP/1.1\r\nHost: a\r\n" + chunked + "\r\n21\r\n" + hidden + "\r\n0\r\n\r\n", true},
		{"no length", post("", hidden), "204", post("Content-Length: 0\r\n", "") + hidden, true},

		// Chunks. The head is under way when one is found wrong; the server never
		// gets the end of the content, and the connection ends.
		{"extension", post(chunked, "2;a=\"b\"\r\nab\r\n0;c\r\n\r\n"), "204", post(chunked, "2\r\nab\r\n0\r\n\r\n"), true},
		{"extension with bare LF", post(chunked, "2;\nxx\r\n4c\r\n0\r\n\r\n"+hidden), "502", post(chunked, ""), false},
		{"extension with bare CR", post(chunked, "2;\rab\r\nab\r\n0\r\n\r\n"+hidden), "502", post(chunked, ""), false},
		{"size overflows 64 bits", post(chunked, "10000000000000002\r\nab\r\n0\r\n\r\n"), "502", post(chunked, ""), false},
		{"size overflows the sign", post(chunked, "f000000000000002\r\nab\r\n0\r\n\r\n"), "502", post(chunked, ""), false},
		{"size with underscore", post(chunked, "1_0\r\n0123456789abcdef\r\n0\r\n\r\n"), "502", post(chunked, ""), false},
		{"size with 0x", post(chunked, "0x2\r\nab\r\n0\r\n\r\n"), "502", post(chunked, ""), false},
		{"data too long", post(chunked, "2\r\nabGET /hidden"), "502", post(chunked, "2\r\nab\r\n"), false},
		{"trailer", post(chunked, "0\r\nX: 1\r\n\r\n"), "204", post(chunked, "0\r\nX: 1\r\n\r\n"), true},
		{"trailer with framing", post(chunked, "0\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\nHost: b\r\n\r\n"), "204", post(chunked, "0\r\n\r\n"), true},
		{"trailer with bare LF", post(chunked, "0\r\nX: 1\n\n"+hidden), "502", post(chunked, ""), false},

		// Lines and fields.
		{"NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", "400", "", false},
		{"folded value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tContent-Length: 33\r\n\r\n" + hidden, "400", "", false},
		{"bare LF between fields", "GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", "400", "", false},
		{"bare LF for an empty line", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\n\r\n" + hidden, "400", "", false},
		{"field before the first", "GET / HTTP/1.1\r\n X: 1\r\nHost: a\r\n\r\n", "400", "", false},

		// Versions.
		{"HTTP/0.9", "GET /\r\n\r\n", "400", "", false},
		{"HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", "204", "GET / HTTP/1.1\r\nHost: \r\n\r\n", false},
		{"HTTP/1.0 with chunks", "POST / HTTP/1.0\r\nHost: a\r\n" + chunked + "\r\n0\r\n\r\n", "400", "", false},
		{"HTTP/1.0 closes after one", "GET / HTTP/1.0\r\nHost: a\r\n\r\n" + hidden, "204", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", false},
		{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", "204", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},

		// Who is asked, and for what.
		{"target and Host differ", "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", "204", "GET /x HTTP/1.1\r\nHost: b\r\n\r\n", true},
		{"target without path", "GET http://b?x HTTP/1.1\r\nHost: a\r\n\r\n", "204", "GET /?x HTTP/1.1\r\nHost: b\r\n\r\n", true},
		{"target with user", "GET http://b@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400", "", false},
		{"two slashes", "GET //b/x HTTP/1.1\r\nHost: a\r\n\r\n", "204", "GET //b/x HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400", "", false},
		{"Host with a field", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400", "", false},
		{"space in the target", "GET /x HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n", "400", "", false},
		{"space in the method", "GET / /x HTTP/1.1\r\nHost: a\r\n\r\n", "400", "", false},

		// What belongs to the connection.
		{"Connection names a field", "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-admin\r\nX-Admin: 1\r\n\r\n", "204", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"h2c", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n", "204",
			"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"Upgrade with content", post("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n", "ab"), "204", post("Content-Length: 2\r\n", "ab"), true},
		{"TE", "GET / HTTP/1.1\r\nHost: a\r\nTE: chunked, trailers\r\nConnection: TE\r\n\r\n", "204",
			"GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: trailers\r\n\r\n", true},
		{"to the proxy", "GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: close\r\nProxy-Authorization: x\r\nKeep-Alive: 5\r\n\r\n", "204",
			"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := record(t)
			nc := dial(t, hop(t, rec.addr, proxy.ForwardOptions{}, nil))
			io.WriteString(nc, tt.request+lastRequest)
			got, _ := io.ReadAll(nc)
			if !strings.HasPrefix(string(got), "HTTP/1.1 "+tt.status+" ") {
				t.Errorf("the client got %q, want %s", got, tt.status)
			}
			if tt.status == "502" {
				wait(t, rec.ended, "end of the connection to the server")
			}
			want := tt.want
			if tt.last {
				want += lastForwarded
			}
			if got := rec.String(); got != want {
				t.Errorf("the server got\n%q, want\n%q", got, want)
			}
		})
	}
}
