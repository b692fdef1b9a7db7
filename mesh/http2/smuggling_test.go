package http2_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// backend is a server of HTTP/1.1 that keeps each byte it gets. It answers one
// request on a connection; what comes after that is kept, too.
type backend struct {
	l    net.Listener
	seen chan string // what came on a connection, when that has ended
	done chan struct{}
}

func newBackend(t *testing.T) *backend {
	b := &backend{l: listen(t), seen: make(chan string, 100), done: make(chan struct{})}
	go func() {
		defer close(b.done)
		for {
			nc, err := b.l.Accept()
			if err != nil {
				return
			}
			b.serve(nc)
		}
	}()
	t.Cleanup(func() {
		_ = b.l.Close()
		<-b.done
	})
	return b
}

func (b *backend) serve(nc net.Conn) {
	defer nc.Close()
	var all bytes.Buffer
	in := bufio.NewReader(io.TeeReader(nc, &all))
	if req, err := http.ReadRequest(in); err == nil {
		if _, err := io.Copy(io.Discard, req.Body); err == nil {
			_, _ = io.WriteString(nc, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		}
	}
	_, _ = io.Copy(io.Discard, in) // until the client closes
	b.seen <- all.String()
}

// passage is a request over HTTP/2 and what becomes of it over HTTP/1.1, byte
// for byte. With want "", nothing may reach the backend.
type passage struct {
	name string
	send func(r *raw)
	want string
}

// bodiless sends a request without content.
func bodiless(fields ...string) func(r *raw) {
	return func(r *raw) { r.headers(1, true, fields...) }
}

// withContent sends a request with content in two pieces.
func withContent(content string, fields ...string) func(r *raw) {
	return func(r *raw) {
		r.headers(1, false, with(postFields, fields...)...)
		r.frame(xhttp2.FrameData, 0, 1, []byte(content[:1]))
		r.frame(xhttp2.FrameData, 1, 1, []byte(content[1:]))
	}
}

// head is the head of a request.
func head(method, scheme, path, authority string) []string {
	return []string{":method", method, ":scheme", scheme, ":path", path, ":authority", authority}
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"

var passages = []passage{
	{"a plain request", bodiless(getFields...), "GET / HTTP/1.1\r\nHost: test\r\n\r\n"},
	{"TE: trailers is said anew", bodiless(with(getFields, "te", "trailers")...), "GET / HTTP/1.1\r\nHost: test\r\nConnection: TE\r\nte: trailers\r\n\r\n"},
	{"host beside an equal authority", bodiless(with(getFields, "host", "test")...), "GET / HTTP/1.1\r\nHost: test\r\n\r\n"},
	{"host instead of authority", bodiless(with(getFields[:6], "host", "other")...), "GET / HTTP/1.1\r\nHost: other\r\n\r\n"},
	{"cookie crumbs", bodiless(with(getFields, "cookie", "a=b", "cookie", "c=d")...), "GET / HTTP/1.1\r\nHost: test\r\ncookie: a=b; c=d\r\n\r\n"},
	{"content with its length", withContent("hello", "content-length", "5"), "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello"},
	{"content of unknown length that looks like a request", withContent(smuggled),
		"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"},
	{"content of a GET that looks like a request", func(r *raw) {
		r.headers(1, false, with(getFields, "content-length", "38")...)
		r.frame(xhttp2.FrameData, 1, 1, []byte(smuggled))
	}, "GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 38\r\n\r\n" + smuggled},

	{"content longer than content-length", func(r *raw) {
		// What comes after content-length in a frame of its own may come when
		// the request has been passed on, and goes nowhere then.
		r.headers(1, false, with(postFields, "content-length", "1")...)
		r.frame(xhttp2.FrameData, 1, 1, []byte("x"+smuggled))
	}, ""},
	{"no content, and content-length says otherwise", bodiless(with(postFields, "content-length", "5")...), ""},
	{"content-length twice", withContent("hello", "content-length", "5", "content-length", "0"), ""},
	{"content-length as a list", withContent("hello", "content-length", "5, 5"), ""},
	{"content-length with a sign", withContent("hello", "content-length", "+5"), ""},
	{"content-length in hexadecimal", withContent("hello", "content-length", "0x5"), ""},
	{"content-length that overflows", withContent("hello", "content-length", "18446744073709551621"), ""},
	{"transfer-encoding", withContent("0\r\n\r\n"+smuggled, "transfer-encoding", "chunked"), ""},
	{"transfer-encoding and content-length", withContent("0\r\n\r\n"+smuggled, "transfer-encoding", "chunked", "content-length", "5"), ""},
	{"transfer-encoding in upper case", withContent("0\r\n\r\n"+smuggled, "Transfer-Encoding", "chunked"), ""},
	{"transfer-encoding with a tab", withContent("0\r\n\r\n"+smuggled, "transfer-encoding\t", "chunked"), ""},
	{"transfer-encoding in a value", bodiless(with(getFields, "x", "1\r\nTransfer-Encoding: chunked")...), ""},
	{"a line break in a value", bodiless(with(getFields, "x", "1\r\n\r\n"+smuggled)...), ""},
	{"a line feed in a value", bodiless(with(getFields, "x", "1\nhost: evil")...), ""},
	{"a carriage return in a value", bodiless(with(getFields, "x", "1\rhost: evil")...), ""},
	{"a NUL in a value", bodiless(with(getFields, "x", "1\x002")...), ""},
	{"spaces around a value", bodiless(with(getFields, "x", " 1")...), ""},
	{"a line break in a name", bodiless(with(getFields, "x: 1\r\nhost", "evil")...), ""},
	{"a colon in a name", bodiless(with(getFields, "host:", "evil")...), ""},
	{"a space after a name", bodiless(with(getFields, "host ", "evil")...), ""},
	{"an upper-case name", bodiless(with(getFields, "Host", "evil")...), ""},
	{"a line break in the method", bodiless(head("GET / HTTP/1.1\r\nHost: evil\r\n\r\nGET", "http", "/", "test")...), ""},
	{"a space in the method", bodiless(head("GET /smuggled", "http", "/", "test")...), ""},
	{"an empty method", bodiless(head("", "http", "/", "test")...), ""},
	{"a line break in the path", bodiless(head("GET", "http", "/ HTTP/1.1\r\nHost: evil\r\n\r\nGET /", "test")...), ""},
	{"a space in the path", bodiless(head("GET", "http", "/ HTTP/1.1", "test")...), ""},
	{"a NUL in the path", bodiless(head("GET", "http", "/\x00", "test")...), ""},
	{"a fragment in the path", bodiless(head("GET", "http", "/a#b", "test")...), ""},
	{"a URL for a path", bodiless(head("GET", "http", "http://evil/", "test")...), ""},
	{"a line break in the authority", bodiless(head("GET", "http", "/", "test\r\nx: 1")...), ""},
	{"a space in the authority", bodiless(head("GET", "http", "/", "test evil")...), ""},
	{"a path in the authority", bodiless(head("GET", "http", "/", "test/evil")...), ""},
	{"user information in the authority", bodiless(head("GET", "http", "/", "test@evil")...), ""},
	{"a line break in the scheme", bodiless(head("GET", "http\r\nhost: evil", "/", "test")...), ""},
	{"host beside another authority", bodiless(with(getFields, "host", "evil")...), ""},
	{"host twice", bodiless(with(getFields[:6], "host", "test", "host", "evil")...), ""},
	{"authority twice", bodiless(with(getFields, ":authority", "evil")...), ""},
	{"path twice", bodiless(with(getFields, ":path", "/evil")...), ""},
	{"method twice", bodiless(with(getFields, ":method", "POST")...), ""},
	{"a pseudo-header field after the others", bodiless(with(getFields[:6], "x", "1", ":authority", "evil")...), ""},
	{"connection", bodiless(with(getFields, "connection", "x-secret")...), ""},
	{"keep-alive", bodiless(with(getFields, "keep-alive", "timeout=5")...), ""},
	{"proxy-connection", bodiless(with(getFields, "proxy-connection", "close")...), ""},
	{"upgrade", bodiless(with(getFields, "upgrade", "websocket")...), ""},
	{"TE with codings", bodiless(with(getFields, "te", "chunked")...), ""},
	{"a line break in a protocol", bodiless(":method", "CONNECT", ":protocol", "a\r\nb: c", ":scheme", "http", ":path", "/", ":authority", "test"), ""},
}

func TestNothingIsSmuggledIntoHTTP1(t *testing.T) {
	leak.Check(t)
	for _, p := range passages {
		t.Run(p.name, func(t *testing.T) {
			b := newBackend(t)
			cl := &http1.Client{Address: b.l.Addr().String()}
			defer cl.Close()
			var f proxy.Forwarder
			addr := serve(t, &http2.Server{Handler: func(x proxy.Exchange) {
				if out := f.Forward(x.Context(), x, cl, proxy.ForwardOptions{}); out.Err != nil && !out.Started {
					_ = x.Respond(502, nil, 0)
				}
			}})
			r := rawClient(t, addr)
			p.send(r)
			got := r.next()
			if p.want == "" {
				cl.Close()
				b.expectNothing(t, got)
				return
			}
			if got.String() != response(1, "204") {
				t.Fatalf("got %v %s", got, got.text)
			}
			if seen := <-b.seen; !sameRequest(seen, p.want) {
				t.Errorf("the backend got\n%q, want\n%q", seen, p.want)
			}
		})
	}
}

// sameRequest reports whether what was seen is want or, where want leaves the
// content open, has its head and a single chunked content.
func sameRequest(seen, want string) bool {
	const chunked = "Transfer-Encoding: chunked\r\n\r\n"
	if !strings.HasSuffix(want, chunked) {
		return seen == want
	}
	content, ok := strings.CutPrefix(seen, want)
	if !ok {
		return false
	}
	in := bufio.NewReader(strings.NewReader(seen))
	req, err := http.ReadRequest(in)
	if err != nil {
		return false
	}
	body, err := io.ReadAll(req.Body)
	return err == nil && string(body) == smuggled && in.Buffered() == 0 && strings.HasSuffix(content, "\r\n0\r\n\r\n")
}

// expectNothing checks that a request was refused, and that no whole request
// has come to the backend. The client that forwards is closed.
func (b *backend) expectNothing(t *testing.T, got verdict) {
	t.Helper()
	if got.kind != "reset" || got.code != protocolError {
		t.Errorf("got %v %s", got, got.text)
	}
	_ = b.l.Close()
	<-b.done
	close(b.seen)
	for seen := range b.seen {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(seen)))
		if err == nil {
			_, err = io.ReadAll(req.Body)
		}
		if err == nil {
			t.Errorf("the backend got %q", seen)
		}
	}
}
