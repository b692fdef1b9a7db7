package http2

import (
	"strconv"
	"strings"

	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// checkFields returns an error if h has a field that HTTP/2 cannot carry, or
// more of them than the peer accepts. Everything that is encoded was checked
// before: HPACK does not allow to take back half a block. c.mu is held.
func (c *conn) checkFields(h proxy.Header) error {
	size := int64(0)
	enc := c.encoder()
	for i := range h {
		name, value := h[i].Name, h[i].Value
		size += int64(len(name)+len(value)) + fieldOverhead
		if enc.knows(name, value) {
			continue
		}
		if !validToken(name) {
			return fault.New(fault.InvalidArgument, "the field name %s is not a token (RFC 9110, section 5.1)", quoteName(name))
		}
		if !validValue(value) {
			return fault.New(fault.InvalidArgument, "the value of field %s holds a control character (RFC 9110, section 5.5)", name)
		}
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
	at := c.appendHeader(0, wire.FrameHeaders, flags|wire.FlagHeadersEndHeaders, st.id)
	c.ensure(2 * literalRoom)
	c.out = c.encoder().begin(c.out)
	return at
}

// endBlock completes the HEADERS frame that begins at the place, and splits it
// if it is longer than the peer's frames may be.
func (c *conn) endBlock(st *stream, at int64, end bool) {
	st.lastFrame = at
	c.credit.Add(creditPerFrame)
	from := int(at - c.base)
	n := len(c.out) - from - frameHeader
	if n > c.peerFrame {
		c.splitBlock(st, from)
	} else {
		c.setLength(from, n)
	}
	if end {
		st.localEnd = true
		st.settle()
	}
}

func (c *conn) setLength(at, n int) {
	c.out[at], c.out[at+1], c.out[at+2] = byte(n>>16), byte(n>>8), byte(n)
}

// splitBlock moves what a HEADERS frame has too much into CONTINUATIONs.
func (c *conn) splitBlock(st *stream, from int) {
	first := from + frameHeader + c.peerFrame
	rest := append([]byte(nil), c.out[first:]...)
	c.out = c.out[:first]
	c.setLength(from, c.peerFrame)
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

// put encodes one field, which was checked and has its name in lower case.
func (c *conn) put(name, value string) {
	c.ensure(len(name) + len(value) + literalRoom)
	switch indexingOf(name) {
	case indexYes:
		c.out = c.enc.field(c.out, name, value)
	case indexNot:
		c.putLiteral(literalPlain, name, value)
	default:
		c.putLiteral(literalNever, name, value)
	}
}

// literalRoom is how many bytes a field may take beyond its name and value.
const literalRoom = 16

// indexing is what the compression tables have to do with a field.
type indexing uint8

const (
	indexYes   indexing = iota
	indexNot            // its value hardly ever comes twice: it would push out others
	indexNever          // it is secret: who shares the connection could probe for it (RFC 7541, section 7.1)
)

func indexingOf(name string) indexing {
	switch name {
	case "authorization", "proxy-authorization", "cookie", "set-cookie", "dapr-api-token":
		return indexNever
	case "content-length", "traceparent", "tracestate", "baggage", "grpc-timeout", "grpc-trace-bin", "x-request-id",
		"x-b3-traceid", "x-b3-spanid", "etag", "if-match", "if-none-match", "last-modified", "if-modified-since",
		"content-range", "range", "location", "age":
		return indexNot
	}
	return indexYes
}

// putLiteral encodes a field without the tables.
func (c *conn) putLiteral(kind byte, name, value string) {
	c.out = append(c.out, kind)
	c.out = appendString(c.out, name)
	c.out = appendString(c.out, value)
}

// putLength encodes content-length: a literal whose name is entry 28 of the
// static table.
func (c *conn) putLength(n int64) {
	var digits [20]byte
	text := strconv.AppendInt(digits[:0], n, 10)
	c.ensure(3 + len(text))
	c.out = append(c.out, 0x0f, 28-0x0f, byte(len(text)))
	c.out = append(c.out, text...)
}

// putFields encodes the fields of h that are not of a single connection or of
// the framing.
func (c *conn) putFields(h proxy.Header) {
	for i := range h {
		name, value := h[i].Name, h[i].Value
		if at := c.enc.find(name, value); at > 0 { // it was encoded before
			c.ensure(literalRoom)
			c.out = appendInt(c.out, 0x80, 7, at)
			continue
		}
		name, _ = lowerName(name)
		if hasOuterSpace(value) {
			value = strings.Trim(value, " \t")
		}
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
	c.makeRoom(st.co, highWater)
	if err := st.sendBlocked(); err != nil {
		return err
	}
	at := c.beginBlock(st, end)
	c.putStatus(status)
	c.putFields(h)
	if (contentLength > 0 || contentLength == 0 && !end) && status >= 200 && status != 204 {
		c.putLength(contentLength)
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

// putStatus encodes :status.
func (c *conn) putStatus(status int) {
	for i, known := range [...]int{200, 204, 206, 304, 400, 404, 500} {
		if status == known {
			c.putIndex(indexStatus + byte(i))
			return
		}
	}
	c.put(":status", strconv.Itoa(status))
}

// putIndex encodes a field of the static table.
func (c *conn) putIndex(i byte) {
	c.ensure(1)
	c.out = append(c.out, i)
}

// putMethod encodes :method.
func (c *conn) putMethod(method string) {
	switch method {
	case "GET":
		c.putIndex(indexGET)
	case "POST":
		c.putIndex(indexPOST)
	default:
		c.put(":method", method)
	}
}

// putScheme encodes :scheme.
func (c *conn) putScheme(scheme string) {
	switch scheme {
	case "http":
		c.putIndex(indexHTTP)
	case "https":
		c.putIndex(indexHTTPS)
	default:
		c.put(":scheme", scheme)
	}
}

// appendTrailers appends trailer fields, which end the stream. c.mu is held.
func (c *conn) appendTrailers(st *stream, h proxy.Header) error {
	if len(h) == 0 {
		c.endLocal(st)
		return nil
	}
	c.makeRoom(st.co, highWater+sendAhead) // they end what is there already
	if err := st.sendBlocked(); err != nil {
		return err
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
		c.putMethod(r.Method)
	}
	if r.Method != "CONNECT" {
		c.putScheme(c.scheme(r))
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
		c.putLength(r.ContentLength)
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
