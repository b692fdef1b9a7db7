package http2

import (
	"strconv"
	"strings"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// checkFields returns an error if h has a field that HTTP/2 cannot carry, or
// more of them than the peer accepts. Everything that is encoded was checked
// before: HPACK does not allow to take back half a block. c.mu is held.
func (c *conn) checkFields(h proxy.Header) error {
	size := int64(0)
	for i := range h {
		name, value := h[i].Name, h[i].Value
		if !validToken(name) {
			return fault.New(fault.InvalidArgument, "the field name %s is not a token (RFC 9110, section 5.1)", quoteName(name))
		}
		if !validValue(value) {
			return fault.New(fault.InvalidArgument, "the value of field %s holds a control character (RFC 9110, section 5.5)", name)
		}
		size += int64(len(name)+len(value)) + 32
	}
	if size > c.peerHeader {
		return c.fault(fault.ResourceExhausted, nil, "the header fields take %d bytes; the peer accepts %d", size, c.peerHeader)
	}
	return nil
}

// beginBlock appends the header of a HEADERS frame and returns where it begins.
func (c *conn) beginBlock(st *stream, end bool) int64 {
	var flags wire.Flags
	if end {
		flags = wire.FlagHeadersEndStream
	}
	return c.appendHeader(0, wire.FrameHeaders, flags|wire.FlagHeadersEndHeaders, st.id)
}

// endBlock completes the HEADERS frame that begins at the place, and splits it
// if it is longer than the peer's frames may be.
func (c *conn) endBlock(st *stream, at int64, end bool) {
	st.lastFrame = at
	from := int(at - c.base)
	n := len(c.out) - from - frameHeader
	if n > c.peerFrame {
		c.splitBlock(st, from)
	} else {
		c.putLength(from, n)
	}
	if end {
		st.localEnd = true
		st.settle()
	}
}

func (c *conn) putLength(at, n int) {
	c.out[at], c.out[at+1], c.out[at+2] = byte(n>>16), byte(n>>8), byte(n)
}

// splitBlock moves what a HEADERS frame has too much into CONTINUATIONs.
func (c *conn) splitBlock(st *stream, from int) {
	first := from + frameHeader + c.peerFrame
	rest := append([]byte(nil), c.out[first:]...)
	c.out = c.out[:first]
	c.putLength(from, c.peerFrame)
	c.out[from+4] &^= byte(wire.FlagHeadersEndHeaders)
	for len(rest) > 0 {
		n := min(len(rest), c.peerFrame)
		var flags wire.Flags
		if n == len(rest) {
			flags = wire.FlagContinuationEndHeaders
		}
		c.appendHeader(n, wire.FrameContinuation, flags, st.id)
		c.out = append(c.out, rest[:n]...)
		rest = rest[n:]
	}
}

// put encodes one field.
func (c *conn) put(name, value string) {
	// The writer is the output, which takes everything.
	_ = c.enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: neverIndexed(name)})
}

// neverIndexed reports whether a field must not enter a compression table: what
// is secret could be found out by those who share the connection (RFC 7541,
// section 7.1).
func neverIndexed(name string) bool {
	switch name {
	case "authorization", "proxy-authorization", "cookie", "set-cookie", "dapr-api-token":
		return true
	}
	return false
}

// putFields encodes the fields of h that are not of a single connection or of
// the framing.
func (c *conn) putFields(h proxy.Header) {
	for i := range h {
		name, _ := lowerName(h[i].Name)
		value := strings.Trim(h[i].Value, " \t")
		if !hopByHop(name, value) {
			c.put(name, value)
		}
	}
}

func hopByHop(name, value string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "content-length", "host":
		return true
	case "te":
		return !strings.EqualFold(value, "trailers")
	}
	return false
}

// appendHead appends the head of a response. c.mu is held.
func (c *conn) appendHead(st *stream, status int, h proxy.Header, contentLength int64, end bool) error {
	if c.makeRoom(); st.err != nil {
		return st.err
	}
	at := c.beginBlock(st, end)
	c.put(":status", statusText(status))
	c.putFields(h)
	if contentLength > 0 && status >= 200 && status != 204 {
		c.put("content-length", strconv.FormatInt(contentLength, 10))
	}
	if status >= 200 {
		st.headSent = true
		if !h.Has("date") {
			c.put("date", c.role.date())
		}
	}
	c.endBlock(st, at, end)
	return nil
}

func statusText(status int) string {
	switch status {
	case 200:
		return "200"
	case 204:
		return "204"
	case 404:
		return "404"
	case 500:
		return "500"
	}
	return strconv.Itoa(status)
}

// appendTrailers appends trailer fields, which end the stream. c.mu is held.
func (c *conn) appendTrailers(st *stream, h proxy.Header) error {
	if len(h) == 0 {
		c.endLocal(st)
		return nil
	}
	if c.makeRoom(); st.err != nil {
		return st.err
	}
	at := c.beginBlock(st, true)
	c.putFields(h)
	c.endBlock(st, at, true)
	return nil
}

// appendRequest appends the head of a request. c.mu is held.
func (c *conn) appendRequest(st *stream, r *proxy.Request, end bool) {
	at := c.beginBlock(st, end)
	st.headStart = at
	switch {
	case r.Upgrade != "":
		c.put(":method", "CONNECT")
		c.put(":protocol", r.Upgrade)
	default:
		c.put(":method", r.Method)
	}
	if r.Method != "CONNECT" {
		c.put(":scheme", c.scheme(r))
		c.put(":path", r.Target)
	}
	if r.Authority != "" {
		c.put(":authority", r.Authority)
	}
	if r.Upgrade == "websocket" {
		c.putHandshake(r.Header)
	} else {
		c.putFields(r.Header)
	}
	if r.ContentLength > 0 || r.ContentLength == 0 && bodyMethod(r.Method) {
		c.put("content-length", strconv.FormatInt(r.ContentLength, 10))
	}
	c.endBlock(st, at, end)
}

// bodyMethod reports whether servers expect content with the method, so that
// its absence is worth saying (RFC 9110, section 8.6).
func bodyMethod(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

func (c *conn) scheme(r *proxy.Request) string {
	switch {
	case r.Scheme != "":
		return r.Scheme
	case c.tls != nil:
		return "https"
	}
	return "http"
}

// putHandshake is putFields for a WebSocket handshake, which has no key over
// HTTP/2 (RFC 8441, section 5).
func (c *conn) putHandshake(h proxy.Header) {
	for i := range h {
		if !proxy.SameName(h[i].Name, "sec-websocket-key") {
			c.putFields(h[i : i+1])
		}
	}
}
