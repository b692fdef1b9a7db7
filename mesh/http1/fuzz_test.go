package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/proa-io/proa/mesh/proxy"
)

// message is what was understood of a request or a response.
type message struct {
	line    string
	header  http.Header
	length  int64
	body    string
	trailer http.Header
	rest    string // what follows the message
}

// freeOwner lets a body read without a connection.
type freeOwner struct{}

func (freeOwner) beforeRead() error         { return nil }
func (freeOwner) beforeSplice() error       { return nil }
func (freeOwner) bodyError(err error) error { return err }
func (freeOwner) bodyEnded()                {}

func newReader(src io.Reader) *reader { return &reader{src: src, pool: new(buffers)} }

// canonical turns fields into what net/http makes of them.
func canonical(h proxy.Header) http.Header {
	out := make(http.Header)
	for _, f := range h {
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		out[name] = append(out[name], f.Value)
	}
	return out
}

// parseOurs understands a request, from a source that delivers it in any way.
func parseOurs(src io.Reader) (*message, error) {
	rd := newReader(src)
	head, err := rd.head(DefaultMaxHead, func() error { return nil })
	if err != nil {
		return nil, err
	}
	var r proxy.Request
	var h requestHead
	if err := parseRequest(head, &r, &h, DefaultMaxTarget, DefaultMaxFields); err != nil {
		return nil, err
	}
	b := &body{rd: rd, owner: freeOwner{}}
	switch {
	case r.ContentLength > 0:
		b.start(bodyLength, r.ContentLength, -1)
	case r.ContentLength < 0:
		b.start(bodyChunked, 0, -1)
	default:
		b.start(bodyNone, 0, -1)
	}
	content, err := io.ReadAll(b)
	if err != nil {
		return nil, err
	}
	rest, err := io.ReadAll(rd.src)
	if err != nil {
		return nil, err
	}
	return &message{
		line: r.Method + " " + r.Authority + " " + r.Target, header: canonical(r.Header), length: r.ContentLength,
		body: string(content), trailer: canonical(b.trailer), rest: string(rd.window()) + string(rest),
	}, nil
}

// parseTheirs understands a request with net/http.
func parseTheirs(raw []byte) (*message, error) {
	br := bufio.NewReaderSize(bytes.NewReader(raw), 1<<20)
	r, err := http.ReadRequest(br)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	rest, _ := io.ReadAll(br)
	m := &message{header: r.Header, length: r.ContentLength, body: string(content), trailer: r.Trailer, rest: string(rest)}
	target := r.URL.RequestURI()
	if r.Method == "CONNECT" || strings.HasPrefix(r.RequestURI, "/") || r.RequestURI == "*" {
		target = r.RequestURI
	} else if _, rest, _ := strings.Cut(r.RequestURI, "://"); strings.ContainsAny(rest, "/?") {
		if target = rest[strings.IndexAny(rest, "/?"):]; target[0] == '?' {
			target = "/" + target
		}
	} else if r.Method == "OPTIONS" {
		target = "*"
	}
	m.line = r.Method + " " + r.Host + " " + target
	return m, nil
}

// tolerate takes the known differences out of what net/http understood.
func tolerate(theirs, ours *message) {
	for option := range strings.SplitSeq(strings.Join(theirs.header["Connection"], ","), ",") {
		if name := textproto.CanonicalMIMEHeaderKey(strings.Trim(option, " \t")); name != "Te" {
			delete(theirs.header, name)
		}
	}
	for _, name := range []string{"Connection", "Content-Length", "Transfer-Encoding", "Keep-Alive", "Proxy-Connection", "Upgrade", "Te", "Trailer", "Host"} {
		delete(theirs.header, name)
		delete(ours.header, name)
		delete(theirs.trailer, name)
	}
	// net/http takes the announcement for the fact, and mixes in what it made up.
	for name, values := range theirs.trailer {
		if values == nil {
			delete(theirs.trailer, name)
		}
	}
	if len(theirs.trailer) == 0 {
		theirs.trailer = http.Header{}
	}
	if _, ok := ours.header["Cache-Control"]; !ok && reflect.DeepEqual(theirs.header["Cache-Control"], []string{"no-cache"}) {
		delete(theirs.header, "Cache-Control") // made from Pragma
	}
	if len(theirs.header) == 0 {
		theirs.header = http.Header{}
	}
}

// weAreLooser reports whether what net/http refuses is on the list of what this
// package lets pass.
func weAreLooser(raw []byte, err error) bool {
	line, _, _ := bytes.Cut(raw, []byte("\r\n"))
	if parts := bytes.Split(line, []byte(" ")); len(parts) == 3 {
		if _, urlErr := url.ParseRequestURI(string(parts[1])); urlErr != nil {
			return true // escapes and characters that a URI may not have
		}
		if string(parts[0]) == "CONNECT" {
			if _, urlErr := url.ParseRequestURI("http://" + string(parts[1])); urlErr != nil {
				return true
			}
		}
	}
	return strings.Contains(err.Error(), "bad trailer key")
}

func FuzzRequest(f *testing.F) {
	for _, tt := range smuggling {
		f.Add([]byte(tt.request))
	}
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET http://b/c?d HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\nX: 1\r\n\r\nGET",
		"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: 1\r\n\r\nrest",
		"GET / HTTP/1.0\r\n\r\n",
		"GET /%zz HTTP/1.1\r\nHost: a:80\r\nTE: trailers\r\nX:\t\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ours, err := parseOurs(bytes.NewReader(raw))
		bitwise, bitErr := parseOurs(iotest.OneByteReader(bytes.NewReader(raw)))
		if (err == nil) != (bitErr == nil) || err == nil && !reflect.DeepEqual(ours, bitwise) {
			t.Fatalf("%q is understood as %+v, %v; byte by byte as %+v, %v", raw, ours, err, bitwise, bitErr)
		}
		if err != nil {
			return // stricter is fine
		}
		theirs, err := parseTheirs(raw)
		if err != nil {
			if !weAreLooser(raw, err) {
				t.Fatalf("%q is accepted as %+v; net/http says %v", raw, ours, err)
			}
			return
		}
		tolerate(theirs, ours)
		if !reflect.DeepEqual(ours, theirs) {
			t.Fatalf("%q is understood as\n%+v\nby net/http as\n%+v", raw, ours, theirs)
		}
	})
}

// parseOurResponse understands a response to a request with the method.
func parseOurResponse(src io.Reader, method string) (*message, error) {
	rd := newReader(src)
	head, err := rd.head(DefaultMaxHead, func() error { return nil })
	if err != nil {
		return nil, err
	}
	var header proxy.Header
	c := &clientConn{body: body{rd: rd, owner: freeOwner{}, lenient: true}}
	if err := parseResponse(head, &header, &c.head, DefaultMaxFields); err != nil {
		return nil, err
	}
	if c.head.status < 200 {
		return nil, errNoMessage // not for this test
	}
	c.header = header
	resp, err := c.response(&proxy.Request{Method: method})
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(&c.body)
	if err != nil {
		return nil, err
	}
	rest, err := io.ReadAll(rd.src)
	if err != nil {
		return nil, err
	}
	return &message{
		line: http.StatusText(resp.Status), header: canonical(resp.Header), length: resp.ContentLength,
		body: string(content), trailer: canonical(c.body.trailer), rest: string(rd.window()) + string(rest),
	}, nil
}

func FuzzResponse(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: 1\r\n\r\nrest",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\nrest",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
		"HTTP/1.0 200\r\n\r\nuntil the end",
		"HTTP/1.1 200 OK\r\nX : 1\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		ours, err := parseOurResponse(bytes.NewReader(raw), method)
		bitwise, bitErr := parseOurResponse(iotest.OneByteReader(bytes.NewReader(raw)), method)
		if (err == nil) != (bitErr == nil) || err == nil && !reflect.DeepEqual(ours, bitwise) {
			t.Fatalf("%q is understood as %+v, %v; byte by byte as %+v, %v", raw, ours, err, bitwise, bitErr)
		}
		if err != nil {
			return
		}
		br := bufio.NewReaderSize(bytes.NewReader(raw), 1<<20)
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			// What a proxy mends, and what net/http minds about announcements.
			lenient := bytes.Contains(raw, []byte(" :")) || bytes.Contains(raw, []byte("\t:"))
			if !lenient && !strings.Contains(err.Error(), "bad trailer key") && !strings.Contains(err.Error(), "bad Content-Length") {
				t.Fatalf("%q is accepted as %+v; net/http says %v", raw, ours, err)
			}
			return
		}
		content, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("%q is accepted as %+v; net/http says %v", raw, ours, err)
		}
		rest, _ := io.ReadAll(br)
		theirs := &message{line: http.StatusText(resp.StatusCode), header: resp.Header, length: resp.ContentLength,
			body: string(content), trailer: resp.Trailer, rest: string(rest)}
		for name, values := range theirs.header {
			if trimmed := textproto.CanonicalMIMEHeaderKey(strings.TrimRight(name, " \t")); trimmed != name {
				delete(theirs.header, name)
				theirs.header[trimmed] = append(theirs.header[trimmed], values...)
			}
		}
		tolerate(theirs, ours)
		if head || resp.StatusCode == 204 || resp.StatusCode == 304 {
			theirs.length, ours.length = 0, 0 // only reported, in several ways
		}
		if !reflect.DeepEqual(ours, theirs) {
			t.Fatalf("%q is understood as\n%+v\nby net/http as\n%+v", raw, ours, theirs)
		}
	})
}

func FuzzChunks(f *testing.F) {
	for _, seed := range []string{
		"0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "3;a\r\nabc\r\n0\r\nX: 1\r\n\r\nrest", "a\r\n0123456789\r\n1\r\nx\r\n00\r\n\r\n",
		"3\r\nabcd\r\n", "f" + strings.Repeat("f", 20) + "\r\n", "3 ; a\r\nabc\r\n0\r\n\r\n", "2000\r\n" + strings.Repeat("x", 0x2000) + "\r\n0\r\n\r\n",
	} {
		f.Add([]byte(seed), uint16(5))
		f.Add([]byte(seed), uint16(5000))
	}
	const head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	f.Fuzz(func(t *testing.T, raw []byte, size uint16) {
		read := func(src io.Reader, drain func(*body) (string, error)) (string, string, http.Header, error) {
			rd := newReader(src)
			b := &body{rd: rd, owner: freeOwner{}}
			b.start(bodyChunked, 0, -1)
			content, err := drain(b)
			if err != nil {
				return "", "", nil, err
			}
			rest, _ := io.ReadAll(rd.src)
			return content, string(rd.window()) + string(rest), canonical(b.trailer), nil
		}
		inPieces := func(b *body) (string, error) {
			var out []byte
			p := make([]byte, int(size)+1)
			for {
				if n := b.Buffered(); n < 0 {
					t.Fatalf("%d bytes are buffered", n)
				}
				n, err := b.Read(p)
				out = append(out, p[:n]...)
				if err == io.EOF {
					return string(out), nil
				} else if err != nil {
					return "", err
				}
			}
		}
		written := func(b *body) (string, error) {
			var out strings.Builder
			n, err := b.WriteTo(&out)
			if n != int64(out.Len()) {
				t.Fatalf("%d bytes written, %d said", out.Len(), n)
			}
			return out.String(), err
		}
		content, rest, trailer, err := read(bytes.NewReader(raw), inPieces)
		for _, again := range []struct {
			src   io.Reader
			drain func(*body) (string, error)
		}{
			{iotest.OneByteReader(bytes.NewReader(raw)), inPieces},
			{bytes.NewReader(raw), written},
			{iotest.HalfReader(bytes.NewReader(raw)), written},
		} {
			c, r, tr, e := read(again.src, again.drain)
			if (e == nil) != (err == nil) || c != content || r != rest || !reflect.DeepEqual(tr, trailer) {
				t.Fatalf("%q is read as %q, %q, %v, %v and as %q, %q, %v, %v", raw, content, rest, trailer, err, c, r, tr, e)
			}
		}
		if err != nil {
			return
		}
		theirs, err := parseTheirs(append([]byte(head), raw...))
		if err != nil {
			t.Fatalf("%q is accepted as %q; net/http says %v", raw, content, err)
		}
		ours := &message{header: http.Header{}, trailer: trailer}
		tolerate(theirs, ours)
		if theirs.body != content || theirs.rest != rest || !reflect.DeepEqual(theirs.trailer, trailer) {
			t.Fatalf("%q is read as %q, %q, %v; by net/http as %q, %q, %v", raw, content, rest, trailer, theirs.body, theirs.rest, theirs.trailer)
		}
	})
}
