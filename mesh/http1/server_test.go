package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// serve runs a server until the test ends and returns its address.
func serve(t testing.TB, s *Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, s, ln)
	return ln.Addr().String()
}

func serveOn(t testing.TB, s *Server, ln net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve did not return after Close")
		}
	})
}

// respond answers with a status, a length and content, and fails the test if
// the engine does not take it.
func respond(t testing.TB, ex proxy.Exchange, status int, h proxy.Header, body string) {
	t.Helper()
	if err := ex.Respond(status, h, int64(len(body))); err != nil {
		t.Errorf("Respond: %v", err)
	}
	if _, err := ex.Write([]byte(body)); err != nil && body != "" {
		t.Errorf("Write: %v", err)
	}
}

// echo answers with the request line, the fields, and the content.
func echo(t testing.TB) proxy.Handler {
	return func(ex proxy.Exchange) {
		r := ex.Request()
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s %s\n", r.Method, r.Authority, r.Target)
		for _, f := range r.Header {
			fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
		}
		if r.Body != nil {
			content, err := io.ReadAll(r.Body)
			fmt.Fprintf(&b, "[%d] %s %v\n", r.ContentLength, content, err)
			for _, f := range *trailerOf(r) {
				fmt.Fprintf(&b, "trailer %s: %s\n", f.Name, f.Value)
			}
		}
		respond(t, ex, 200, nil, b.String())
	}
}

func trailerOf(r *proxy.Request) *proxy.Header {
	if r.Trailer == nil {
		return new(proxy.Header)
	}
	return r.Trailer
}

// dial connects to a server and bounds how long the test waits for it.
func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { nc.Close() })
	return nc.(*net.TCPConn)
}

// roundTrip sends raw bytes and returns all that comes until the server closes
// the connection.
func roundTrip(t testing.TB, addr, raw string) string {
	t.Helper()
	nc := dial(t, addr)
	if _, err := io.WriteString(nc, raw); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(nc)
	if err != nil {
		t.Fatalf("read: %v after %q", err, got)
	}
	return string(got)
}

// readResponses parses n responses from the connection.
func readResponses(t testing.TB, nc net.Conn, n int) []string {
	t.Helper()
	br := bufio.NewReader(nc)
	var out []string
	for range n {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("response %d: %v", len(out), err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("body of response %d: %v", len(out), err)
		}
		out = append(out, fmt.Sprintf("%d %s", resp.StatusCode, body))
	}
	return out
}

func TestARequestIsUnderstood(t *testing.T) {
	const host = "Host: example.org\r\n"
	tests := []struct{ name, request, want string }{
		{"origin form", "GET /a/b?c=d HTTP/1.1\r\n" + host + "X-One:  1 \r\nx-one: 2\r\n\r\n", "GET example.org /a/b?c=d\nX-One: 1\nx-one: 2\n"},
		{"absolute form overrides Host", "GET http://other:81/x HTTP/1.1\r\n" + host + "\r\n", "GET other:81 /x\n"},
		{"absolute form without path", "GET http://other?q HTTP/1.1\r\n" + host + "\r\n", "GET other /?q\n"},
		{"asterisk form", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", "OPTIONS example.org *\n"},
		{"absolute form for OPTIONS", "OPTIONS http://other HTTP/1.1\r\n" + host + "\r\n", "OPTIONS other *\n"},
		{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET  /\n"},
		{"any method", "PURGE / HTTP/1.1\r\n" + host + "\r\n", "PURGE example.org /\n"},
		{"length", "POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\n\r\nabc", "POST example.org /\n[3] abc <nil>\n"},
		{"same length twice", "POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "POST example.org /\n[3] abc <nil>\n"},
		{"zero length", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n", "POST example.org /\n"},
		{"chunked", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n1;ext=\"v\"\r\nc\r\n0\r\n\r\n", "POST example.org /\n[-1] abc <nil>\n"},
		{"chunked and empty", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "POST example.org /\n[-1]  <nil>\n"},
		{"trailers", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\nX-Sum: 7\r\nHost: evil\r\nContent-Length: 9\r\n\r\n", "POST example.org /\n[-1] 0123456789 <nil>\ntrailer X-Sum: 7\n"},
		{"connection fields", "GET / HTTP/1.1\r\n" + host + "Connection: keep-alive, X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nX-End: 2\r\n\r\n", "GET example.org /\nX-End: 2\n"},
		{"TE trailers", "GET / HTTP/1.1\r\n" + host + "Connection: TE\r\nTE: deflate, trailers\r\n\r\n", "GET example.org /\nTE: trailers\n"},
		{"empty lines first", "\r\n\r\nGET / HTTP/1.1\r\n" + host + "\r\n", "GET example.org /\n"},
		{"UTF-8", "GET /\xc3\xa4 HTTP/1.1\r\n" + host + "X: \xc3\xa4\r\n\r\n", "GET example.org /\xc3\xa4\nX: \xc3\xa4\n"},
		{"empty value", "GET / HTTP/1.1\r\n" + host + "X:\r\n\r\n", "GET example.org /\nX: \n"},
		{"HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", "GET  /\n"},
		{"later minor version", "GET / HTTP/1.2\r\n" + host + "\r\n", "GET example.org /\n"},
		{"h2c is not offered", "GET / HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "GET example.org /\n"},
	}
	addr := serve(t, &Server{Handler: echo(t)})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nc := dial(t, addr)
			io.WriteString(nc, tt.request)
			if got := readResponses(t, nc, 1)[0]; got != "200 "+tt.want {
				t.Errorf("got  %q\nwant %q", got, "200 "+tt.want)
			}
		})
	}
}

// smuggling are requests that two recipients could understand differently, or
// that are plainly wrong, with the status that refuses them.
var smuggling = []struct {
	name, request string
	status        int
}{
	{"CL and TE", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"TE and CL", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400},
	{"differing CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", 400},
	{"CL list", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\n", 400},
	{"signed CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd", 400},
	{"negative CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400},
	{"hexadecimal CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nabcd", 400},
	{"empty CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400},
	{"huge CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n", 400},
	{"TE other", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
	{"TE identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 501},
	{"TE xchunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501},
	{"TE chunked with junk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;x\r\n\r\n", 501},
	{"TE twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
	{"TE vertical tab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400},
	{"TE in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"space before colon", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400},
	{"tab before colon", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 4\r\n\r\n", 400},
	{"obs-fold", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", 400},
	{"fold first", "GET / HTTP/1.1\r\n X: 1\r\nHost: a\r\n\r\n", 400},
	{"no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400},
	{"empty name", "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", 400},
	{"bad name", "GET / HTTP/1.1\r\nHost: a\r\nX(1): 1\r\n\r\n", 400},
	{"name above ASCII", "GET / HTTP/1.1\r\nHost: a\r\nX\xc3\xa4: 1\r\n\r\n", 400},
	{"NUL in value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400},
	{"NUL in name", "GET / HTTP/1.1\r\nHost: a\r\nX\x00: ab\r\n\r\n", 400},
	{"DEL in value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", 400},
	{"CR in value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400},
	{"CR CR LF", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n", 400},
	{"bare LF in a field", "GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", 400},
	{"bare LF all over", "GET / HTTP/1.1\nHost: a\n\n", 400},
	{"bare LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
	{"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
	{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
	{"Host with user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400},
	{"Host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
	{"Host with space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
	{"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"space at the end", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
	{"tab as space", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"space first", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"no version", "GET /\r\nHost: a\r\n\r\n", 400},
	{"bad version", "GET / HTTP/1.\r\nHost: a\r\n\r\n", 400},
	{"long version", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400},
	{"lower-case version", "GET / http/1.1\r\nHost: a\r\n\r\n", 400},
	{"HTTP/2", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
	{"HTTP/2 preface unwanted", preface, 505},
	{"bad method", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"empty method", " / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"relative target", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"asterisk for GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"fragment", "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"NUL in target", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"other scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"user in target", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT a path", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT unserved", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501},
	{"unknown expectation", "GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00", 400},
	{"five empty lines", "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"Connection names many", "GET / HTTP/1.1\r\nHost: a\r\nConnection: " + strings.Repeat("x,", 20) + "\r\n\r\n", 400},
}

func TestAMalformedRequestIsRefusedAndTheConnectionEnds(t *testing.T) {
	called := make(chan string, len(smuggling))
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		called <- ex.Request().Method
		respond(t, ex, 200, nil, "")
	}})
	for _, tt := range smuggling {
		t.Run(tt.name, func(t *testing.T) {
			got := roundTrip(t, addr, tt.request+"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
			if want := fmt.Sprintf("HTTP/1.1 %d ", tt.status); !strings.HasPrefix(got, want) || strings.Count(got, "\r\nDate: ") != 1 {
				t.Errorf("got %q, want only %q", got, want)
			}
			if !strings.Contains(got, "\r\nConnection: close\r\n") {
				t.Errorf("the response does not say that the connection closes: %q", got)
			}
			select {
			case m := <-called:
				t.Errorf("the handler was called with %s", m)
			default:
			}
		})
	}
}

func TestAMalformedBodyFailsInReading(t *testing.T) {
	tests := []struct{ name, body string }{
		{"no size", "\r\nab\r\n0\r\n\r\n"},
		{"bad size", "g\r\nab\r\n0\r\n\r\n"},
		{"negative size", "-1\r\nab\r\n0\r\n\r\n"},
		{"prefixed size", "0x2\r\nab\r\n0\r\n\r\n"},
		{"space before the size", " 2\r\nab\r\n0\r\n\r\n"},
		{"space after the size", "2 \r\nab\r\n0\r\n\r\n"},
		{"huge size", "ffffffffffffffff\r\nab\r\n0\r\n\r\n"},
		{"bare LF after the size", "2\nab\r\n0\r\n\r\n"},
		{"bare CR in an extension", "2;a\rb\r\nab\r\n0\r\n\r\n"},
		{"NUL in an extension", "2;a\x00b\r\nab\r\n0\r\n\r\n"},
		{"longer data", "2\r\nabc\r\n0\r\n\r\n"},
		{"data ends with bare LF", "2\r\nab\n0\r\n\r\n"},
		{"long extension", "2;" + strings.Repeat("a", 300) + "\r\nab\r\n0\r\n\r\n"},
		{"endless size", strings.Repeat("0", 300)},
		{"many extensions", strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 100) + "0\r\n\r\n"},
		{"bare LF in the trailer", "0\r\nX: 1\n\r\n"},
		{"trailer without colon", "0\r\nX\r\n\r\n"},
		{"endless trailer", "0\r\n" + strings.Repeat("X: "+strings.Repeat("a", 1000)+"\r\n", 20)},
		{"many trailers", "0\r\n" + strings.Repeat("X: 1\r\n", 200) + "\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			failed := make(chan error, 2)
			addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
				_, err := io.ReadAll(ex.Request().Body)
				failed <- err
				respond(t, ex, 200, nil, "read\n")
			}})
			got := roundTrip(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+tt.body+
				"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
			if err := <-failed; !fault.Is(err, fault.InvalidArgument) {
				t.Errorf("reading the body: %v, want InvalidArgument", err)
			}
			if n := strings.Count(got, "HTTP/1.1 200"); n != 1 {
				t.Errorf("%d responses in %q, want 1", n, got)
			}
		})
	}
}

func TestBoundsOfAHead(t *testing.T) {
	addr := serve(t, &Server{Handler: echo(t), MaxHead: 10_000, MaxTarget: 1000, MaxFields: 20})
	tests := []struct {
		name, request string
		status        int
	}{
		{"target at the bound", "GET /" + strings.Repeat("a", 999) + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200},
		{"target beyond", "GET /" + strings.Repeat("a", 1000) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
		{"target beyond all", "GET /" + strings.Repeat("a", 100_000), 414},
		{"field at the bound", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: " + strings.Repeat("a", 9900) + "\r\n\r\n", 200},
		{"field beyond", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 10_000) + "\r\n\r\n", 431},
		{"field beyond all", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 1_000_000), 431},
		{"fields at the bound", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + strings.Repeat("X: 1\r\n", 18) + "\r\n", 200},
		{"fields beyond", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: 1\r\n", 20) + "\r\n", 431},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := roundTrip(t, addr, tt.request); !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", tt.status)) {
				t.Errorf("got %.100q, want %d", got, tt.status)
			}
		})
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		ex.Context().Done() // reading ahead must not lose a request
		body := ex.Request().Target
		if b := ex.Request().Body; b != nil {
			content, _ := io.ReadAll(b)
			body += string(content)
		}
		respond(t, ex, 200, nil, body)
	}})
	nc := dial(t, addr)
	const n = 500
	var raw strings.Builder
	var want []string
	for i := range n {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&raw, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
			want = append(want, fmt.Sprintf("200 /%d", i))
		case 1:
			fmt.Fprintf(&raw, "PUT /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", i)
			want = append(want, fmt.Sprintf("200 /%dbody", i))
		case 2:
			fmt.Fprintf(&raw, "PUT /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n", i)
			want = append(want, fmt.Sprintf("200 /%dbody", i))
		}
	}
	go io.WriteString(nc, raw.String())
	got := readResponses(t, nc, n)
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("response %d is %q, want %q", i, got[i], want[i])
		}
	}
}

func TestRequestsThatArriveByteByByte(t *testing.T) {
	addr := serve(t, &Server{Handler: echo(t)})
	nc := dial(t, addr)
	nc.SetNoDelay(true)
	const raw = "\r\nPOST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
	go func() {
		for i := range len(raw) {
			io.WriteString(nc, raw[i:i+1])
		}
	}()
	if got, want := readResponses(t, nc, 1)[0], "200 POST a /x\n[-1] abc <nil>\ntrailer X-T: 1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAHandlerThatLeavesTheBodyUnread(t *testing.T) {
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) { respond(t, ex, 200, nil, "ok") }})
	tests := []struct {
		name string
		size int
		kept bool
	}{{"small", 1000, true}, {"at the bound", drainLimit, true}, {"large", 50 << 20, false}}
	for _, tt := range tests {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked %v", tt.name, chunked), func(t *testing.T) {
				nc := dial(t, addr)
				go func() {
					if chunked {
						fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", tt.size)
					} else {
						fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", tt.size)
					}
					nc.Write(make([]byte, tt.size))
					if chunked {
						io.WriteString(nc, "\r\n0\r\n\r\n")
					}
					io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				}()
				br := bufio.NewReader(nc)
				if line, err := br.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
					t.Fatalf("got %q, %v", line, err)
				}
				if !tt.kept {
					return
				}
				br.ReadString('k')
				for !bytes.Equal(must(br.Peek(4)), []byte("HTTP")) {
					br.ReadByte()
				}
			})
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestExpectContinueIsSentWhenTheBodyIsRead(t *testing.T) {
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		if ex.Request().Target == "/no" {
			respond(t, ex, 403, nil, "no")
			return
		}
		body, err := io.ReadAll(ex.Request().Body)
		respond(t, ex, 200, nil, fmt.Sprintf("%s %v", body, err))
	}})
	t.Run("read", func(t *testing.T) {
		nc := dial(t, addr)
		io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
		br := bufio.NewReader(nc)
		got := must(br.ReadString('\n')) + must(br.ReadString('\n'))
		if got != "HTTP/1.1 100 Continue\r\n\r\n" {
			t.Fatalf("got %q", got)
		}
		io.WriteString(nc, "abc")
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body := must(io.ReadAll(resp.Body)); string(body) != "abc <nil>" {
			t.Errorf("got %q", body)
		}
	})
	t.Run("not read", func(t *testing.T) {
		got := roundTrip(t, addr, "POST /no HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 403") || !strings.Contains(got, "Connection: close") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("sent at once", func(t *testing.T) {
		nc := dial(t, addr)
		io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
		if got := readResponses(t, nc, 1)[0]; got != "200 abc <nil>" && !strings.HasPrefix(got, "100") {
			t.Errorf("got %q", got)
		}
	})
}

func TestResponsesAreFramedForTheClient(t *testing.T) {
	tests := []struct {
		name, request string
		status        int
		length        int64
		body          string
		want          string // after the Date, without it
	}{
		{"length", "GET / HTTP/1.1", 200, 2, "ab", "Content-Length: 2\r\n\r\nab"},
		{"chunked", "GET / HTTP/1.1", 200, -1, "ab", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"},
		{"empty", "GET / HTTP/1.1", 200, 0, "", "Content-Length: 0\r\n\r\n"},
		{"HEAD", "HEAD / HTTP/1.1", 200, 2, "ab", "Content-Length: 2\r\n\r\n"},
		{"HEAD of unknown length", "HEAD / HTTP/1.1", 200, -1, "ab", "\r\n"},
		{"204", "GET / HTTP/1.1", 204, 0, "", "\r\n"},
		{"304", "GET / HTTP/1.1", 304, 7, "", "Content-Length: 7\r\n\r\n"},
		{"304 of unknown length", "GET / HTTP/1.1", 304, -1, "", "\r\n"},
		{"HTTP/1.0", "GET / HTTP/1.0", 200, 2, "ab", "Content-Length: 2\r\nConnection: close\r\n\r\nab"},
		{"HTTP/1.0 kept", "GET / HTTP/1.0\r\nConnection: keep-alive", 200, 2, "ab", "Content-Length: 2\r\nConnection: keep-alive\r\n\r\nab"},
		{"HTTP/1.0 of unknown length", "GET / HTTP/1.0\r\nConnection: keep-alive", 200, -1, "ab", "Connection: close\r\n\r\nab"},
		{"close", "GET / HTTP/1.1\r\nConnection: close", 200, 2, "ab", "Content-Length: 2\r\nConnection: close\r\n\r\nab"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
				h := proxy.Header{{Name: "Content-Length", Value: "99"}, {Name: "Connection", Value: "x"}, {Name: "Transfer-Encoding", Value: "gzip"}}
				if err := ex.Respond(tt.status, h, tt.length); err != nil {
					t.Errorf("Respond: %v", err)
				}
				if tt.body != "" {
					if n, err := io.WriteString(ex, tt.body); n != len(tt.body) || err != nil {
						t.Errorf("Write: %d, %v", n, err)
					}
				}
			}})
			nc := dial(t, addr)
			io.WriteString(nc, tt.request+"\r\nHost: a\r\n\r\n")
			nc.CloseWrite()
			got := string(must(io.ReadAll(nc)))
			_, got, _ = strings.Cut(got, "\r\n")
			date, got, _ := strings.Cut(got, "\r\n")
			if _, err := http.ParseTime(strings.TrimPrefix(date, "Date: ")); err != nil {
				t.Errorf("the first field is no Date: %q", date)
			}
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestAResponseThatIsTooShortEndsTheConnection(t *testing.T) {
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		ex.Respond(200, nil, 10)
		io.WriteString(ex, "abc")
	}})
	nc := dial(t, addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	resp := must(http.ReadResponse(bufio.NewReader(nc), nil))
	if body, err := io.ReadAll(resp.Body); err != io.ErrUnexpectedEOF {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestMisuseOfAnExchangeIsAnError(t *testing.T) {
	done := make(chan struct{})
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		defer close(done)
		wrong := func(what string, err error) {
			if err == nil {
				t.Errorf("%s is accepted", what)
			}
		}
		_, err := ex.Write([]byte("x"))
		wrong("Write before Respond", err)
		wrong("an interim status", ex.Respond(103, nil, 0))
		wrong("status 99", ex.Respond(99, nil, 0))
		wrong("a field with a line break", ex.Respond(200, proxy.Header{{Name: "X", Value: "a\r\nSet-Cookie: b"}}, 0))
		wrong("a field with a bare CR", ex.Respond(200, proxy.Header{{Name: "X", Value: "a\rb"}}, 0))
		wrong("a field with NUL", ex.Respond(200, proxy.Header{{Name: "X", Value: "a\x00b"}}, 0))
		wrong("a field name with a space", ex.Respond(200, proxy.Header{{Name: "X ", Value: "a"}}, 0))
		_, err = ex.Upgrade(nil)
		wrong("Upgrade of an ordinary request", err)
		wrong("Interim 200", ex.Interim(200, nil))
		if err := ex.Respond(200, nil, 3); err != nil {
			t.Errorf("Respond: %v", err)
		}
		wrong("a second Respond", ex.Respond(200, nil, 3))
		wrong("a late Interim", ex.Interim(103, nil))
		_, err = ex.Write([]byte("abcd"))
		wrong("a Write beyond the length", err)
		io.WriteString(ex, "abc")
		_, err = ex.Write([]byte("d"))
		wrong("a Write after the end", err)
	}})
	nc := dial(t, addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if got := readResponses(t, nc, 1)[0]; got != "200 abc" {
		t.Errorf("got %q", got)
	}
	<-done
}

func TestAHandlerThatFailsIsAnswered500(t *testing.T) {
	tests := []struct {
		name    string
		handler proxy.Handler
		want    string
	}{
		{"no response", func(proxy.Exchange) {}, "HTTP/1.1 500 "},
		{"panic", func(proxy.Exchange) { panic("boom") }, "HTTP/1.1 500 "},
		{"panic after the head", func(ex proxy.Exchange) {
			ex.Respond(200, nil, -1)
			io.WriteString(ex, "part")
			panic("boom")
		}, "HTTP/1.1 200 "},
		{"abort", func(ex proxy.Exchange) { ex.Abort() }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := serve(t, &Server{Handler: tt.handler})
			got := roundTrip(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" || strings.HasSuffix(got, lastChunk) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestBodyLimit(t *testing.T) {
	addr := serve(t, &Server{
		Handler: func(ex proxy.Exchange) {
			body, err := io.ReadAll(ex.Request().Body)
			if err != nil {
				if !fault.Is(err, fault.ResourceExhausted) {
					t.Errorf("read: %v, want ResourceExhausted", err)
				}
				return
			}
			respond(t, ex, 200, nil, fmt.Sprint(len(body)))
		},
		BodyLimit: func(r *proxy.Request) int64 {
			if r.Target == "/free" {
				return -1
			}
			return 10
		},
	})
	tests := []struct {
		name, request, want string
	}{
		{"at the limit", "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10\r\n\r\n0123456789", "HTTP/1.1 200"},
		{"beyond", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n0123456789a", "HTTP/1.1 413"},
		{"chunked at the limit", "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", "HTTP/1.1 200"},
		{"chunked beyond", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n", "HTTP/1.1 413"},
		{"no limit", "POST /free HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 11\r\n\r\n0123456789a", "HTTP/1.1 200"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := roundTrip(t, addr, tt.request); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestASlowClientIsDropped(t *testing.T) {
	addr := serve(t, &Server{
		Handler:     echo(t),
		HeadTimeout: 100 * time.Millisecond, IdleTimeout: 150 * time.Millisecond, StallTimeout: 100 * time.Millisecond,
	})
	t.Run("no byte", func(t *testing.T) {
		if got := roundTrip(t, addr, ""); got != "" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("a byte now and then", func(t *testing.T) {
		nc := dial(t, addr)
		go func() {
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(nc, "%.1s", "GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[min(i, 40):]); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		if got := must(bufio.NewReader(nc).ReadString('\n')); got != "HTTP/1.1 408 Request Timeout\r\n" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("idle", func(t *testing.T) {
		if got := roundTrip(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("body", func(t *testing.T) {
		got := roundTrip(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
		if !strings.Contains(got, "[10] abc the client did not send") {
			t.Errorf("got %q", got)
		}
	})
}

func TestAClientThatDoesNotReadIsDropped(t *testing.T) {
	failed := make(chan error, 1)
	addr := serve(t, &Server{StallTimeout: 100 * time.Millisecond, Handler: func(ex proxy.Exchange) {
		ex.Respond(200, nil, proxy.UnknownLength)
		for {
			if _, err := ex.Write(make([]byte, 1<<20)); err != nil {
				failed <- err
				return
			}
		}
	}})
	nc := dial(t, addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %v, want a timeout", err)
	}
}

func TestTooManyConnections(t *testing.T) {
	addr := serve(t, &Server{Handler: echo(t), MaxConns: 2})
	first, second := dial(t, addr), dial(t, addr)
	for _, nc := range []net.Conn{first, second} {
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		readResponses(t, nc, 1)
	}
	if got := roundTrip(t, addr, ""); !strings.HasPrefix(got, "HTTP/1.1 503") {
		t.Errorf("got %q, want 503", got)
	}
	first.Close()
	for deadline := time.Now().Add(patience); ; {
		got := roundTrip(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if strings.HasPrefix(got, "HTTP/1.1 200") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no connection is accepted after one was closed")
		}
	}
}

func TestInterimResponses(t *testing.T) {
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		if err := ex.Interim(103, proxy.Header{{Name: "Link", Value: "</a>"}}); err != nil {
			t.Errorf("Interim: %v", err)
		}
		respond(t, ex, 200, nil, "ok")
	}})
	got := roundTrip(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n") {
		t.Errorf("got %q", got)
	}
	got = roundTrip(t, addr, "GET / HTTP/1.0\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
		t.Errorf("HTTP/1.0: got %q", got)
	}
}

func TestTrailersEndAChunkedResponse(t *testing.T) {
	addr := serve(t, &Server{Handler: func(ex proxy.Exchange) {
		length := int64(-1)
		if ex.Request().Target == "/length" {
			length = 2
		}
		ex.Respond(200, nil, length)
		io.WriteString(ex, "ok")
		if err := ex.Trailer(proxy.Header{{Name: "X-Sum", Value: "1"}, {Name: "Content-Length", Value: "9"}}); err != nil {
			t.Errorf("Trailer: %v", err)
		}
	}})
	if got := roundTrip(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n") {
		t.Errorf("got %q", got)
	}
	if got := roundTrip(t, addr, "GET /length HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "\r\n\r\nok") {
		t.Errorf("got %q", got)
	}
}
