package http1

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

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

func TestBoundsOfAHead(t *testing.T) { bothWays(t, testBoundsOfAHead) }

func testBoundsOfAHead(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: echo(t), MaxHead: 10_000, MaxTarget: 1000, MaxFields: 20}))
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
	bothWays(t, testPipelinedRequestsAreAnsweredInOrder)
}

func testPipelinedRequestsAreAnsweredInOrder(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: func(ex proxy.Exchange) {
		ex.Context().Done() // reading ahead must not lose a request
		body := ex.Request().Target
		if b := ex.Request().Body; b != nil {
			content, _ := io.ReadAll(b)
			body += string(content)
		}
		respond(t, ex, 200, nil, body)
	}}))
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

func TestRequestsThatArriveByteByByte(t *testing.T) { bothWays(t, testRequestsThatArriveByteByByte) }

func testRequestsThatArriveByteByByte(t *testing.T, by way) {
	addr := serve(t, by(&Server{Handler: echo(t)}))
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

func TestBodyLimit(t *testing.T) { bothWays(t, testBodyLimit) }

func testBodyLimit(t *testing.T, by way) {
	addr := serve(t, by(&Server{
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
	}))
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
