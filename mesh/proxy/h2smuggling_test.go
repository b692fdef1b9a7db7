package proxy_test

import (
	"bytes"
	"io"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// TestAnHTTP2RequestCannotHideAnotherOne sends fields and pseudo-header fields
// that would end a line, or a request, when they are written as HTTP/1.1.
func TestAnHTTP2RequestCannotHideAnotherOne(t *testing.T) {
	type fields [][2]string
	request := func(with ...[2]string) fields {
		out := fields{{":method", "GET"}, {":scheme", "http"}, {":path", "/x"}, {":authority", "a"}}
		for _, f := range with {
			found := false
			for i := range out {
				if out[i][0] == f[0] {
					out[i], found = f, true
				}
			}
			if !found {
				out = append(out, f)
			}
		}
		return out
	}
	const plain = "GET /x HTTP/1.1\r\nHost: a\r\n"
	tests := []struct {
		name   string
		fields fields
		want   string // what the server gets
	}{
		{"nothing unusual", request([2]string{"x", "1"}), plain + "x: 1\r\n\r\n"},
		{"line break in a value", request([2]string{"x", "1\r\nTransfer-Encoding: chunked"}), ""},
		{"LF in a value", request([2]string{"x", "1\nY: 1"}), ""},
		{"CR in a value", request([2]string{"x", "1\rY: 1"}), ""},
		{"NUL in a value", request([2]string{"x", "1\x00"}), ""},
		{"line break in a name", request([2]string{"x: 1\r\ny", "1"}), ""},
		{"colon in a name", request([2]string{"x: 1", "1"}), ""},
		{"space in a name", request([2]string{"x y", "1"}), ""},
		{"space after a name", request([2]string{"transfer-encoding ", "chunked"}), ""},
		{"empty name", request([2]string{"", "1"}), ""},
		{"upper-case name", request([2]string{"Transfer-Encoding", "chunked"}), ""},
		{"transfer-encoding", request([2]string{"transfer-encoding", "chunked"}), ""},
		{"connection", request([2]string{"connection", "x"}), ""},
		{"te", request([2]string{"te", "chunked"}), ""},
		{"content-length that lies", request([2]string{"content-length", "33"}), ""},
		{"two content-lengths", request([2]string{"content-length", "0"}, [2]string{"Content-Length", "33"}), ""},
		{"host that differs", request([2]string{"host", "b"}), ""},
		{"space in the path", request([2]string{":path", "/x HTTP/1.1"}), ""},
		{"line break in the path", request([2]string{":path", "/x HTTP/1.1\r\nHost: b\r\n\r\nGET /hidden"}), ""},
		{"fragment in the path", request([2]string{":path", "/x#y"}), ""},
		{"empty path", request([2]string{":path", ""}), ""},
		{"path of a URL", request([2]string{":path", "http://b/x"}), ""},
		{"path without slash", request([2]string{":path", "x"}), ""},
		{"space in the method", request([2]string{":method", "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\nGET"}), ""},
		{"line break in the authority", request([2]string{":authority", "a\r\nX: 1"}), ""},
		{"user in the authority", request([2]string{":authority", "u@a"}), ""},
		{"path in the authority", request([2]string{":authority", "a/b"}), ""},
		{"line break in the scheme", request([2]string{":scheme", "http://b/ HTTP/1.1\r\n"}), ""},
		{"unknown pseudo-header field", request([2]string{":x", "1"}), ""},
		{"two paths", append(request(), [2]string{":path", "/hidden"}), ""},
		{"pseudo-header field last", fields{{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {"x", "1"}, {":path", "/x"}}, ""},
		{"websocket over a line break", request([2]string{":method", "CONNECT"}, [2]string{":protocol", "websocket\r\nX: 1"}), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := record(t)
			cl := &http1.Client{Address: rec.addr}
			defer cl.Close()
			addr := listen2(t, &http2.Server{Handler: forward(cl, proxy.ForwardOptions{}, nil)})
			sendFields(t, addr, tt.fields)
			if got := rec.String(); got != tt.want {
				t.Errorf("the server got\n%q, want\n%q", got, tt.want)
			}
		})
	}
}

// sendFields sends a request of these fields, whatever they are, and waits for
// its end, good or bad.
func sendFields(t *testing.T, addr string, fields [][2]string) {
	t.Helper()
	nc := dial(t, addr)
	defer nc.Close()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range fields {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	io.WriteString(nc, xhttp2.ClientPreface)
	fr := xhttp2.NewFramer(nc, nc)
	fr.WriteSettings()
	fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return // the connection has ended
		}
		switch f := f.(type) {
		case *xhttp2.GoAwayFrame, *xhttp2.RSTStreamFrame:
			return
		case *xhttp2.HeadersFrame:
			if f.StreamEnded() {
				return
			}
		case *xhttp2.DataFrame:
			if f.StreamEnded() {
				return
			}
		}
	}
}
